//! Where a receiver has answered 410, and wants nothing any more.

use std::sync::Arc;

use engagement_bridge::callback::{self, CallbackId, Event, Reply, decide};
use engagement_bridge::operation::OperationId;
use engagement_bridge::store::{
    Advance, Advanced, Amended, Amendment, Asked, GoneDestination, Idempotency, Page, Registered,
    Registration, Resend, ResendChange, ResendId, Rest, Wanted, Work,
};

use super::{Bench, attempted, laws, polled};
use crate::support::{NOON, after, api_key, body, caller, registration, token};

laws![
    a_410_marks_the_destination_with_the_callback,
    nothing_new_is_kept_for_a_destination_that_is_gone,
    a_resend_brings_its_destination_back,
    a_bulk_resend_brings_back_what_was_gone_before_it_was_asked_for,
    gone_destinations_are_listed_by_url_and_brought_back,
];

/// The URL of [`registration`].
const URL: &str = "https://app.example.com/hooks";

fn id(n: u32) -> CallbackId {
    CallbackId { operation: OperationId(n.into()), number: 1 }
}

async fn gone(bench: &Bench) -> Vec<GoneDestination> {
    let page = Page { after: None, limit: 100 };
    bench.gone_destinations(&caller("contoso"), page).await.unwrap()
}

/// Brings the callback of the `n`-th operation to its end by a 410, `at` so many seconds.
async fn refused_for_good(bench: &Bench, n: u32, at: u64) {
    bench.keep([registration(n)]).await;
    bench.settle_one(after(at)).await;
    let commit = attempted(bench.claim_one(after(at)).await, Reply::Gone, after(at));
    bench.commit_one(commit).await;
}

/// Whether the attempt that is due would go where nothing is wanted.
async fn next_is_gone(bench: &Bench, at: u64) -> bool {
    let Work::Attempt(message) = bench.claim_one(after(at)).await.work else {
        panic!("an attempt is due");
    };
    message.is_gone
}

async fn a_410_marks_the_destination_with_the_callback(bench: &Bench) {
    bench.keep([registration(1), registration(2)]).await;
    let elsewhere = Registration {
        callback_url: "https://app.example.com/others".to_owned(),
        ..registration(3)
    };
    bench.keep([elsewhere]).await;
    for claimed in bench.claim_at(after(60), 10).await {
        let answer = engagement_bridge::operation::Answer::Gone;
        bench.commit_one(polled(claimed, answer, after(60))).await;
    }
    assert_eq!(gone(bench).await, []);
    let first = bench.claim_one(after(60)).await;
    let Work::Attempt(message) = &first.work else { panic!("{first:?}") };
    assert!(!message.is_gone);
    bench.commit_one(attempted(first, Reply::Gone, after(61))).await;
    let marked = GoneDestination { url: URL.to_owned(), since: after(61) };
    assert_eq!(gone(bench).await, [marked]);

    // The others have their turns, and are told apart.
    let mut found = Vec::new();
    for at in [62, 63] {
        let claimed = bench.claim_one(after(at)).await;
        let Work::Attempt(message) = &claimed.work else { panic!("{claimed:?}") };
        found.push((message.url.clone(), message.is_gone));
        bench.commit_one(attempted(claimed, Reply::Accepted, after(at))).await;
    }
    found.sort();
    let expected = [(URL.to_owned(), true), ("https://app.example.com/others".to_owned(), false)];
    assert_eq!(found, expected);
}

async fn nothing_new_is_kept_for_a_destination_that_is_gone(bench: &Bench) {
    let keyed = |n: u32| Registration {
        idempotency: Some(Idempotency {
            key: format!("key-{n}"),
            request: [1; 32],
            answer: body("the first answer"),
        }),
        ..registration(n)
    };
    bench.keep([keyed(1), registration(5)]).await;
    let mut claimed = bench.claim_at(after(60), 10).await;
    claimed
        .retain(|it| it.work.step() == engagement_bridge::store::Step::Operation(OperationId(1)));
    let answer = engagement_bridge::operation::Answer::Gone;
    bench.commit_one(polled(claimed.remove(0), answer, after(60))).await;
    let commit = attempted(bench.claim_one(after(60)).await, Reply::Gone, after(61));
    bench.commit_one(commit).await;

    let refused = bench.register_one(keyed(2)).await;
    let Registered::DestinationGone { since } = refused else { panic!("{refused:?}") };
    assert_eq!(since, after(61));
    assert!(bench.operation(OperationId(2)).await.unwrap().is_none());
    // What is there is there, and what was answered is answered so again.
    let repeated = Registration { operation: registration(8).operation, ..keyed(1) };
    assert!(matches!(bench.register_one(repeated).await, Registered::Replayed { .. }));
    let mut again = registration(9);
    again.reference = registration(5).reference;
    assert!(matches!(bench.register_one(again).await, Registered::Existing(_)));
    // Another URL, and another caller's.
    let url = "https://app.example.com/hooks?v=2".to_owned();
    bench.keep([Registration { callback_url: url, ..registration(6) }]).await;
    let secret = crate::support::SECRET.parse().unwrap();
    let fabrikam = caller("fabrikam");
    assert!(bench.add_caller(&fabrikam, api_key("other"), &secret, NOON).await.unwrap());
    let theirs = token("theirs", after(3_600));
    bench.keep([Registration { caller: fabrikam, credential: theirs, ..registration(7) }]).await;

    assert!(bench.bring_back(&caller("contoso"), URL).await.unwrap());
    // A key whose request was refused stands for nothing.
    bench.keep([keyed(2)]).await;
}

async fn a_resend_brings_its_destination_back(bench: &Bench) {
    refused_for_good(bench, 1, 60).await;
    let before = bench.callback(id(1)).await.unwrap().unwrap().callback;
    let policy = callback::Policy::default();
    let decision = decide(&policy, &before, Event::ResendRequested, after(70));
    let callback::Decision::Become(again) = decision else { panic!("it is at rest") };
    let amendment =
        |before| Amendment::Callback { before, after: again.clone(), destination_back: true };
    let mut stale = before.clone();
    stale.attempts += 1;
    assert_eq!(bench.amend(amendment(stale)).await.unwrap(), Amended::Overtaken);
    assert_eq!(gone(bench).await.len(), 1, "both or neither");
    assert_eq!(bench.amend(amendment(before)).await.unwrap(), Amended::Saved);
    assert_eq!(gone(bench).await, []);
    assert!(!next_is_gone(bench, 70).await);
}

async fn a_bulk_resend_brings_back_what_was_gone_before_it_was_asked_for(bench: &Bench) {
    refused_for_good(bench, 1, 60).await;
    for (number, asked_at, comes_back) in [(1, 60, false), (2, 61, true)] {
        let resend = Resend {
            id: ResendId(number),
            asked_by: None,
            asked_at: after(asked_at),
            wanted: Wanted {
                caller: None,
                rest: Rest::Undeliverable,
                reason: None,
                origin: None,
                since: None,
                until: None,
            },
            matched: 0,
            resent: 0,
            reached: None,
            held_back: 0,
            done_at: None,
        };
        let asked = bench.ask_resend(resend, 9).await.unwrap();
        assert!(matches!(asked, Asked::Begun(_)));
        let before = bench.callback(id(1)).await.unwrap().unwrap().callback;
        let policy = callback::Policy::default();
        let decision = decide(&policy, &before, Event::ResendRequested, after(70));
        let callback::Decision::Become(again) = decision else { panic!("it is at rest") };
        let advance = Advance {
            id: ResendId(number),
            from: None,
            to: Some(id(1)),
            held_back: 0,
            changes: vec![ResendChange { before, after: again }],
            done_at: Some(after(70)),
        };
        let advanced = bench.advance_resend(Arc::new(advance)).await.unwrap();
        assert_eq!(advanced, Advanced::Saved { resent: 1 });
        let claimed = bench.claim_one(after(70)).await;
        let Work::Attempt(message) = &claimed.work else { panic!("{claimed:?}") };
        assert_eq!(message.is_gone, !comes_back, "asked for at {asked_at}");
        bench.commit_one(attempted(claimed, Reply::AddressRefused, after(71))).await;
    }
}

async fn gone_destinations_are_listed_by_url_and_brought_back(bench: &Bench) {
    let url = |n: u32| format!("https://app.example.com/{n}");
    for n in [3, 1, 2] {
        bench.keep([Registration { callback_url: url(n), ..registration(n) }]).await;
        let at = after(u64::from(n) * 100);
        let at = at.max(after(300));
        bench.settle_one(at).await;
        bench.commit_one(attempted(bench.claim_one(at).await, Reply::Gone, at)).await;
    }
    let contoso = caller("contoso");
    let urls = async |after: Option<u32>, limit| {
        let page = Page { after: after.map(url), limit };
        let listed = bench.gone_destinations(&contoso, page).await.unwrap();
        listed.into_iter().map(|it| it.url).collect::<Vec<_>>()
    };
    assert_eq!(urls(None, 2).await, [url(1), url(2)]);
    assert_eq!(urls(Some(2), 2).await, [url(3)]);
    assert_eq!(urls(Some(3), 2).await, [""; 0]);
    let page = Page { after: None, limit: 9 };
    assert_eq!(bench.gone_destinations(&caller("fabrikam"), page).await.unwrap(), []);
    assert!(!bench.bring_back(&caller("fabrikam"), &url(1)).await.unwrap());
    assert!(bench.bring_back(&contoso, &url(1)).await.unwrap());
    assert!(!bench.bring_back(&contoso, &url(1)).await.unwrap(), "it is back");
    assert_eq!(urls(None, 9).await, [url(2), url(3)]);
}
