//! What is kept, found again, and forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::callback::{self, CallbackId, Reply};
use engagement_bridge::clock::Clock;
use engagement_bridge::courier::{ExtraHeader, Format, SigningKey, SigningSecret, Trace};
use engagement_bridge::graph::Credential;
use engagement_bridge::operation::{
    self, Answer, Decision, Event, OperationId, Outcome, Refusal, Renewal, RunningNotice, State,
    decide,
};
use engagement_bridge::store::{
    Amended, Amendment, AuditFilter, CallbackFilter, Committed, Idempotency, Identity,
    OperationFilter, Page, Purged, Registered, Registration, Rotation, Work,
};
use engagement_bridge::worker::{Retention, forget_what_rests};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::{Bench, attempted, laws, polled};
use crate::support::{NOON, SECRET, after, body, caller, connection, registration, seconds, token};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

laws![
    a_registered_operation_is_read_back_whole,
    the_same_operation_is_not_kept_twice_while_it_lives,
    many_at_once_are_kept_whether_or_not_some_of_them_are_there_already,
    an_idempotency_key_stands_for_its_first_request,
    a_caller_cannot_have_more_live_operations_than_allowed,
    a_registration_needs_its_caller_and_connection,
    a_settled_operation_and_its_callback_appear_together,
    that_it_runs_is_owed_once_and_the_operation_goes_on,
    what_a_caller_adds_to_its_callbacks_goes_with_those_that_are_owed_already,
    a_callback_is_signed_by_all_that_is_live_or_by_a_secret_of_its_own_alone,
    an_amendment_needs_the_operation_to_be_what_it_was_taken_for,
    a_cancelled_operation_is_at_rest,
    attempts_are_kept_in_order,
    lists_are_paged_newest_first_and_filtered,
    what_rests_is_forgotten_in_time_and_nothing_else,
    what_was_delivered_is_purged_in_time_and_nothing_else,
    what_was_purged_is_not_sent_again,
    whoever_repeats_forgetting_comes_by_everything,
];

/// The `n`-th operation, with the key of this number.
fn with_key(n: u32, key: u32) -> Registration {
    let (key, answer) = (format!("key-{key}"), body(&format!("answer {n}")));
    let idempotency = Some(Idempotency { key, request: [1; 32], answer });
    Registration { idempotency, ..registration(n) }
}

/// As its caller asks for.
pub(crate) async fn cancel(bench: &Bench, id: OperationId, at: Timestamp) {
    let before = bench.operation(id).await.unwrap().unwrap().operation;
    let policy = operation::Policy::default();
    let Decision::Become(after, owed) = decide(&policy, &before, Event::CancelRequested, at) else {
        panic!("a watched operation can be cancelled");
    };
    assert_eq!(owed, None);
    let cancel = Amendment::Operation { before, after, owed: None, credential: None };
    assert_eq!(bench.amend(cancel).await.unwrap(), Amended::Saved);
}

async fn a_registered_operation_is_read_back_whole(bench: &Bench) {
    let mut by_token = registration(1);
    by_token.credential = token("secret-token", after(3_600));
    by_token.client_state = Some("order-42".to_owned());
    by_token.operation.running = RunningNotice::Wanted;
    by_token.format = Format::CloudEvents;
    by_token.trace = Trace::read(TRACEPARENT, Some("a=b"));
    bench.keep([by_token.clone(), registration(2)]).await;

    let kept = bench.operation(OperationId(1)).await.unwrap().unwrap();
    assert_eq!(kept.operation, by_token.operation);
    assert_eq!(kept.caller, caller("contoso"));
    assert_eq!(kept.reference, by_token.reference);
    assert_eq!(kept.identity, Identity::HandedIn { expires_at: after(3_600) });
    assert_eq!(kept.callback_url, by_token.callback_url);
    assert_eq!(kept.client_state.as_deref(), Some("order-42"));
    assert_eq!(kept.last_body, None);
    assert_eq!((kept.format, kept.trace), (Format::CloudEvents, by_token.trace));

    let other = bench.operation(OperationId(2)).await.unwrap().unwrap();
    assert_eq!(other.identity, Identity::Connection("contoso".to_owned()));
    assert_eq!((other.format, other.trace), (Format::Envelope, None));
    assert!(bench.operation(OperationId(3)).await.unwrap().is_none());
}

async fn the_same_operation_is_not_kept_twice_while_it_lives(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let mut again = registration(2);
    again.reference = registration(1).reference;
    let Registered::Existing(found) = bench.register_one(again.clone()).await else {
        panic!("the operation is there already");
    };
    assert_eq!(found.operation.id, OperationId(1));

    let mut for_another_purpose = again.clone();
    for_another_purpose.client_state = Some(String::new());
    for_another_purpose.operation.id = OperationId(3);
    bench.keep([for_another_purpose]).await;

    let now = after(60);
    for claimed in bench.claim_at(now, 10).await {
        let answer = Answer::Gone;
        assert_eq!(bench.commit_one(polled(claimed, answer, now)).await, Committed::Saved);
    }
    again.operation.id = OperationId(4);
    bench.keep([again]).await;
}

async fn many_at_once_are_kept_whether_or_not_some_of_them_are_there_already(bench: &Bench) {
    const MANY: u32 = 100;
    // Long, so that they are copied to a server in several pieces.
    let credential = token(&"t".repeat(8_000), after(100_000));
    let register = async |numbers: std::ops::Range<u32>| {
        let registrations = numbers.map(|number| Registration {
            // Of the two calls below, each knows half of these by numbers of its own.
            reference: registration(number % 1_000).reference,
            credential: credential.clone(),
            ..registration(number)
        });
        bench.register(registrations.collect()).await.unwrap()
    };
    let fresh = register(1..1 + MANY).await;
    assert!(fresh.iter().all(|it| matches!(it, Registered::New)), "{fresh:?}");
    let half_known = register(1_001 + MANY / 2..1_001 + MANY / 2 + MANY).await;
    for (registered, number) in half_known.iter().zip(1 + MANY / 2..) {
        if number <= MANY {
            let Registered::Existing(found) = registered else { panic!("{registered:?}") };
            assert_eq!(found.operation.id, OperationId(number.into()));
        } else {
            assert!(matches!(registered, Registered::New), "{number}: {registered:?}");
        }
    }
    // All are there as they were registered, and each waits for its own poll.
    for number in [1, MANY, 1_001 + MANY, 1_000 + MANY / 2 + MANY] {
        let tracked = bench.operation(OperationId(number.into())).await.unwrap().unwrap();
        let wanted = registration(number);
        assert_eq!(tracked.operation, wanted.operation);
        assert_eq!(tracked.client_state, wanted.client_state);
    }
    let (mut taken, mut now) = (BTreeSet::new(), after(60));
    while taken.len() < usize::try_from(MANY + MANY / 2).unwrap() {
        for claimed in bench.claim_at(now, 200).await {
            taken.insert(claimed.work.step());
            let polled = polled(claimed, Answer::StillRunning { retry_after: None }, now);
            assert_eq!(bench.commit_one(polled).await, Committed::Saved);
        }
        assert!(now < after(3_600), "only {} are polled", taken.len());
        now += Duration::from_secs(31);
    }
}

async fn an_idempotency_key_stands_for_its_first_request(bench: &Bench) {
    let with_key = |n, request: u8| {
        let mut registration = with_key(n, 1);
        registration.idempotency.as_mut().unwrap().request = [request; 32];
        registration
    };
    bench.keep([with_key(1, 1)]).await;

    let Registered::Replayed { operation, answer } = bench.register_one(with_key(2, 1)).await
    else {
        panic!("the key was used before");
    };
    assert_eq!((operation, answer), (OperationId(1), Some(body("answer 1"))));
    let reused = bench.register_one(with_key(3, 2)).await;
    assert!(matches!(reused, Registered::KeyReused), "{reused:?}");
    assert!(bench.operation(OperationId(2)).await.unwrap().is_none());
    assert!(bench.operation(OperationId(3)).await.unwrap().is_none());

    // A key whose first request found an operation stands for that one.
    let mut found = with_key(4, 4);
    found.reference = registration(1).reference;
    if let Some(idempotency) = &mut found.idempotency {
        "another".clone_into(&mut idempotency.key);
    }
    assert!(matches!(bench.register_one(found.clone()).await, Registered::Existing(_)));
    let Registered::Replayed { operation, answer: None } = bench.register_one(found).await else {
        panic!("the key was used before");
    };
    assert_eq!(operation, OperationId(1));
}

async fn a_caller_cannot_have_more_live_operations_than_allowed(bench: &Bench) {
    let limited = |n| {
        let mut registration = registration(n);
        registration.live_limit = 2;
        registration
    };
    bench.keep([limited(1), limited(2)]).await;
    assert!(matches!(bench.register_one(limited(3)).await, Registered::LimitReached));
    let mut known = limited(4);
    known.reference = registration(1).reference;
    assert!(matches!(bench.register_one(known).await, Registered::Existing(_)));

    let now = after(60);
    let claimed = bench.claim_one(now).await;
    bench.commit_one(polled(claimed, Answer::Gone, now)).await;
    bench.keep([limited(5)]).await;
    assert!(matches!(bench.register_one(limited(6)).await, Registered::LimitReached));
}

async fn a_registration_needs_its_caller_and_connection(bench: &Bench) {
    let mut strange = registration(1);
    strange.credential = Credential::Connection(connection("fabrikam").into());
    assert!(matches!(bench.register_one(strange).await, Registered::CredentialGone));
    let mut strange = registration(2);
    strange.caller = caller("fabrikam");
    assert!(matches!(bench.register_one(strange).await, Registered::CredentialGone));
    assert!(bench.operation(OperationId(1)).await.unwrap().is_none());
    assert!(bench.claim_at(after(60), 10).await.is_empty());
}

async fn a_settled_operation_and_its_callback_appear_together(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let now = after(60);
    let id = bench.settle_one(now).await;

    let tracked = bench.operation(OperationId(1)).await.unwrap().unwrap();
    assert_eq!(tracked.operation.outcome(), Some(Outcome::Succeeded));
    assert_eq!(tracked.operation.polls, 1);
    assert_eq!(tracked.last_body, Some(body("{\"id\":\"x\"}")));
    let stored = bench.callback(id).await.unwrap().unwrap();
    assert_eq!(stored.callback.owed_at, now);
    assert_eq!(stored.notice.0, "succeeded");
    assert_eq!(stored.url, tracked.callback_url);
    assert_eq!(stored.body, Some(body("{\"it\":\"is told\"}")));
    let headers = [("content-type", "application/json"), ("x", "a: b")];
    assert_eq!(stored.headers.iter().collect::<Vec<_>>(), headers);

    let Work::Attempt(message) = bench.claim_one(now).await.work else {
        panic!("the callback is due at once");
    };
    assert_eq!((message.callback.id, message.body), (id, body("{\"it\":\"is told\"}")));
    assert_eq!(message.headers, stored.headers);
    assert_eq!((message.signers.secrets.len(), message.signers.keys.len()), (1, 0));
}

async fn that_it_runs_is_owed_once_and_the_operation_goes_on(bench: &Bench) {
    let mut hearing = registration(1);
    hearing.operation.running = RunningNotice::Wanted;
    bench.keep([hearing]).await;
    let running = Answer::StillRunning { retry_after: None };
    for (at, attempts) in [(60, 1), (1_000, 0)] {
        let claimed = bench.claim_one(after(at)).await;
        assert_eq!(bench.commit_one(polled(claimed, running, after(at))).await, Committed::Saved);
        let due = bench.claim_at(after(at), 9).await;
        assert_eq!(due.len(), attempts);
        for claimed in due {
            let id = claimed.claim.step;
            bench.commit_one(attempted(claimed, Reply::Accepted, after(at))).await;
            assert_eq!(id.to_string(), "msg_00000000000000000000000000000001_1");
        }
    }
    let tracked = bench.operation(OperationId(1)).await.unwrap().unwrap();
    assert_eq!(tracked.operation.running, RunningNotice::Owed);
    assert_eq!((tracked.operation.polls, tracked.operation.callbacks), (2, 1));
    let end = bench.settle_one(after(10_000)).await;
    assert_eq!(end.number, 2);
    let page = Page { after: None, limit: 9 };
    let listed = bench.callbacks(&caller("contoso"), CallbackFilter::default(), page).await;
    let notices: Vec<_> = listed.unwrap().into_iter().map(|it| it.notice.0).collect();
    assert_eq!(notices, ["succeeded", "running"]);
}

async fn what_a_caller_adds_to_its_callbacks_goes_with_those_that_are_owed_already(bench: &Bench) {
    let contoso = caller("contoso");
    let header = |name, value: &str| ExtraHeader::new(name, value.into()).unwrap();
    bench.keep([registration(1)]).await;
    let mut now = after(60);
    bench.settle_one(now).await;
    let mut carried = async || {
        let claimed = bench.claim_one(now).await;
        let Work::Attempt(message) = &claimed.work else { panic!("the callback is due") };
        let headers = message.extra_headers.iter();
        let headers = headers.map(|it| format!("{}: {}", it.name(), it.value().expose_secret()));
        let headers: Vec<_> = headers.collect();
        bench.commit_one(attempted(claimed, Reply::Refused { retry_after: None }, now)).await;
        now += seconds(100_000);
        headers
    };
    assert_eq!(carried().await, [] as [&str; 0]);
    for (name, value) in [("x-b", "1"), ("x-a", "2"), ("x-b", "3")] {
        let set = bench.set_extra_header(&contoso, &header(name, value), 16).await.unwrap();
        assert_eq!(set, Some(true));
    }
    assert_eq!(carried().await, ["x-a: 2", "x-b: 3"]);
    assert!(bench.remove_extra_header(&contoso, "x-a").await.unwrap());
    assert_eq!(carried().await, ["x-b: 3"]);
}

async fn a_callback_is_signed_by_all_that_is_live_or_by_a_secret_of_its_own_alone(bench: &Bench) {
    let contoso = caller("contoso");
    let (newer, own) = (SigningSecret::generate().unwrap(), SigningSecret::generate().unwrap());
    let key = SigningKey::generate().unwrap();
    let rotation = Rotation { now: NOON, older_until: after(61), most_live: 10 };
    bench.rotate_secret(&contoso, &newer, rotation).await.unwrap();
    bench.rotate_signing_key(&contoso, &key, rotation).await.unwrap();
    let with_own = Registration { callback_secret: Some(own.clone()), ..registration(1) };
    bench.keep([with_own, registration(2)]).await;
    for (number, has_own) in [(1, true), (2, false)] {
        let tracked = bench.operation(OperationId(number)).await.unwrap().unwrap();
        assert_eq!(tracked.has_callback_secret, has_own);
    }
    let signers = async |now| {
        let mut found = Vec::new();
        while let Some(claimed) = bench.claim_at(now, 1).await.pop() {
            let Work::Attempt(message) = &claimed.work else { panic!("only callbacks are due") };
            let signers = &message.signers;
            let secrets: Vec<_> =
                signers.secrets.iter().map(|it| it.expose().to_string()).collect();
            let keys: Vec<_> = signers.keys.iter().map(SigningKey::public).collect();
            found.push((message.callback.id.operation.0, secrets, keys));
            let refused = Reply::Refused { retry_after: None };
            bench.commit_one(attempted(claimed, refused, now)).await;
        }
        found.sort_unstable_by_key(|(operation, _, _)| *operation);
        found
    };
    let now = after(60);
    for claimed in bench.claim_at(now, 2).await {
        bench.commit_one(polled(claimed, Answer::Gone, now)).await;
    }
    let [newer, own] = [newer, own].map(|it| it.expose().to_string());
    let alone = (1, vec![own], vec![]);
    let all = (2, vec![newer.clone(), SECRET.to_owned()], vec![key.public()]);
    assert_eq!(signers(now).await, [alone.clone(), all]);
    // The operation has long been at rest, and the older secret is not live any more.
    let left = (2, vec![newer], vec![key.public()]);
    assert_eq!(signers(after(100_000)).await, [alone, left]);
}

async fn an_amendment_needs_the_operation_to_be_what_it_was_taken_for(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let taken_for = bench.operation(OperationId(1)).await.unwrap().unwrap().operation;
    bench.settle_one(after(60)).await;

    let mut after_it = taken_for.clone();
    after_it.state = State::Cancelled { at: after(61) };
    let cancel =
        Amendment::Operation { before: taken_for, after: after_it, owed: None, credential: None };
    assert_eq!(bench.amend(cancel).await.unwrap(), Amended::Overtaken);
    let stands = bench.operation(OperationId(1)).await.unwrap().unwrap().operation;
    assert_eq!(stands.outcome(), Some(Outcome::Succeeded));

    let strange = Amendment::Operation {
        before: stands.clone(),
        after: stands,
        owed: None,
        credential: Some(Credential::Connection(connection("fabrikam").into())),
    };
    assert_eq!(bench.amend(strange).await.unwrap(), Amended::CredentialGone);
}

async fn a_cancelled_operation_is_at_rest(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let in_flight = bench.claim_one(after(60)).await;
    cancel(bench, OperationId(1), after(61)).await;

    // Whoever was about to say how it ended comes too late.
    let late = polled(in_flight, Answer::Gone, after(62));
    assert_eq!(bench.commit_one(late).await, Committed::LeaseLost);
    let stands = bench.operation(OperationId(1)).await.unwrap().unwrap().operation;
    assert_eq!(stands.state, State::Cancelled { at: after(61) });
    assert!(bench.claim_at(after(1_000_000), 10).await.is_empty());
    assert_eq!(bench.next_due().await.unwrap(), None);
}

async fn attempts_are_kept_in_order(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let mut now = after(60);
    let id = bench.settle_one(now).await;
    for _ in 0..3 {
        let refused = Reply::Refused { retry_after: None };
        let commit = attempted(bench.claim_one(now).await, refused, now);
        assert_eq!(bench.commit_one(commit).await, Committed::Saved);
        now += seconds(100_000);
    }
    let numbers = |limit| async move {
        let attempts = bench.attempts(id, limit).await.unwrap();
        attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(10).await, [1, 2, 3]);
    assert_eq!(numbers(2).await, [2, 3]);
    let attempt = bench.attempts(id, 1).await.unwrap().remove(0);
    assert_eq!((attempt.took_ms, attempt.status, attempt.answer), (12, Some(200), body("fine")));
    assert_eq!(bench.callback(id).await.unwrap().unwrap().callback.attempts, 3);
}

async fn lists_are_paged_newest_first_and_filtered(bench: &Bench) {
    bench.keep((1..=5).map(registration)).await;
    let contoso = caller("contoso");
    let ids = |filter: OperationFilter, after: Option<u128>, limit| {
        let (contoso, page) = (contoso.clone(), Page { after: after.map(OperationId), limit });
        async move {
            let listed = bench.operations(&contoso, filter, page).await.unwrap();
            listed.iter().map(|it| it.operation.id.0).collect::<Vec<_>>()
        }
    };
    let all = OperationFilter::default;
    assert_eq!(ids(all(), None, 2).await, [5, 4]);
    assert_eq!(ids(all(), Some(4), 2).await, [3, 2]);
    assert_eq!(ids(all(), Some(2), 2).await, [1]);
    assert_eq!(
        ids(OperationFilter { state: Some("settled"), ..OperationFilter::default() }, None, 9)
            .await,
        [0; 0]
    );

    let now = after(60);
    for claimed in bench.claim_at(now, 2).await {
        bench.commit_one(polled(claimed, Answer::Gone, now)).await;
    }
    let settled =
        ids(OperationFilter { state: Some("settled"), ..OperationFilter::default() }, None, 9)
            .await;
    assert_eq!(settled.len(), 2);
    assert_eq!(
        ids(OperationFilter { state: Some("watching"), ..OperationFilter::default() }, None, 9)
            .await
            .len(),
        3
    );

    let listed = |filter: CallbackFilter, after, limit| {
        let (contoso, page) = (contoso.clone(), Page { after, limit });
        async move {
            let listed = bench.callbacks(&contoso, filter, page).await.unwrap();
            listed.into_iter().map(|it| it.callback.id).collect::<Vec<_>>()
        }
    };
    let owed = listed(CallbackFilter::default(), None, 9).await;
    assert_eq!(owed.iter().map(|id| id.operation.0).collect::<Vec<_>>(), settled);
    assert_eq!(listed(CallbackFilter::default(), None, 1).await, owed[..1]);
    assert_eq!(listed(CallbackFilter::default(), Some(owed[0]), 9).await, owed[1..]);
    let of_one = CallbackFilter { operation: Some(owed[1].operation), ..CallbackFilter::default() };
    assert_eq!(listed(of_one, None, 9).await, owed[1..]);
    let delivered = CallbackFilter { state: Some("delivered"), ..CallbackFilter::default() };
    assert_eq!(listed(delivered, None, 9).await, []);
    let (fabrikam, page) = (caller("fabrikam"), Page { after: None, limit: 9 });
    assert!(bench.operations(&fabrikam, all(), page).await.unwrap().is_empty());
}

async fn what_rests_is_forgotten_in_time_and_nothing_else(bench: &Bench) {
    let mut keyed = with_key(1, 1);
    bench.keep([keyed.clone()]).await;
    // The first is told of and done with; the second's callback is still owed.
    bench.settle_one(after(60)).await;
    let now = after(61);
    let told = bench.claim_one(now).await;
    bench.commit_one(attempted(told, Reply::Accepted, now)).await;
    bench.keep([registration(2)]).await;
    bench.settle_one(now).await;

    let forgotten = async |before| bench.forget(before, NOON, now, 10).await.unwrap().operations;
    assert_eq!(forgotten(now).await, 0, "it rests since now only");
    assert_eq!(forgotten(after(62)).await, 1);
    assert!(bench.operation(OperationId(1)).await.unwrap().is_none());
    assert!(bench.operation(OperationId(2)).await.unwrap().is_some());

    // What deduplicates outlives what it deduplicates, and goes in its own time.
    keyed.operation.id = OperationId(9);
    assert!(matches!(bench.register_one(keyed.clone()).await, Registered::Replayed { .. }));
    bench.forget(NOON, after(1), now, 10).await.unwrap();
    bench.keep([keyed]).await;
    let due = bench.claim_at(after(120), 10).await;
    assert!(due.iter().any(|it| matches!(it.work, Work::Attempt(_))), "still owed");
}

/// Registers these operations and brings their callbacks to rest, at so many seconds each.
async fn told(bench: &Bench, numbers: impl IntoIterator<Item = (u32, Reply)>) {
    for (n, reply) in numbers {
        let url = format!("https://app.example.com/{n}");
        bench.keep([Registration { callback_url: url, ..registration(n) }]).await;
        let at = after(u64::from(n) * 100);
        bench.settle_one(at).await;
        bench.commit_one(attempted(bench.claim_one(at).await, reply, at)).await;
    }
}

async fn what_was_delivered_is_purged_in_time_and_nothing_else(bench: &Bench) {
    let replies = [Reply::Accepted, Reply::Gone, Reply::Accepted, Reply::Accepted];
    told(bench, (1..).zip(replies)).await;
    let contents = async |n: u128| {
        let id = CallbackId { operation: OperationId(n), number: 1 };
        let stored = bench.callback(id).await.unwrap().unwrap();
        let attempts = bench.attempts(id, 9).await.unwrap();
        let last_body = bench.operation(OperationId(n)).await.unwrap().unwrap().last_body;
        (stored.body.is_some(), attempts.len(), last_body.is_some())
    };
    let purge = async |before, limit| bench.purge(before, limit).await.unwrap();
    assert_eq!(purge(after(100), 9).await, Purged { callbacks: 0, more: false });
    assert_eq!(purge(after(400), 1).await, Purged { callbacks: 1, more: true });
    assert_eq!(purge(after(400), 1).await, Purged { callbacks: 1, more: true });
    assert_eq!(purge(after(400), 1).await, Purged { callbacks: 0, more: false });
    let (kept, purged) = ((true, 1, true), (false, 0, false));
    for (n, expected) in [(1, purged), (2, kept), (3, purged), (4, kept)] {
        assert_eq!(contents(n).await, expected, "{n}");
    }
    // They are known all the same.
    let page = Page { after: None, limit: 9 };
    let delivered = CallbackFilter { state: Some("delivered"), ..CallbackFilter::default() };
    assert_eq!(bench.callbacks(&caller("contoso"), delivered, page).await.unwrap().len(), 3);
    assert_eq!(bench.forget(after(101), NOON, after(400), 9).await.unwrap().operations, 1);
}

async fn what_was_purged_is_not_sent_again(bench: &Bench) {
    told(bench, [(1, Reply::Accepted)]).await;
    let id = CallbackId { operation: OperationId(1), number: 1 };
    let before = bench.callback(id).await.unwrap().unwrap().callback;
    let policy = callback::Policy::default();
    let event = callback::Event::ResendRequested;
    let decision = callback::decide(&policy, &before, event, after(200));
    let callback::Decision::Become(again) = decision else { panic!("it is at rest") };
    assert_eq!(bench.purge(after(150), 9).await.unwrap().callbacks, 1);
    let amendment = Amendment::Callback { before, after: again, destination_back: false };
    assert_eq!(bench.amend(amendment).await.unwrap(), Amended::Overtaken);
    assert_eq!(bench.next_due().await.unwrap(), None);
}

/// A few at a time; and behind what is kept, too: lanes on which a blocked operation waits, and such
/// as are paused.
async fn whoever_repeats_forgetting_comes_by_everything(bench: &Bench) {
    let on_its_own_lane = |n| Registration {
        credential: token(&format!("token-{n}"), after(100_000)),
        ..with_key(n, n)
    };
    let hour = Some(seconds(3_600));
    let phases = [
        (
            1..=4,
            60,
            Answer::CredentialRefused { refusal: Refusal::Forbidden, renewal: Renewal::Impossible },
        ),
        (5..=8, 120, Answer::Throttled { retry_after: hour }),
        (9..=16, 180, Answer::StillRunning { retry_after: None }),
    ];
    for (numbers, at, answer) in phases {
        bench.keep(numbers.clone().map(on_its_own_lane)).await;
        for claimed in bench.claim_at(after(at), 8).await {
            if let Work::Poll { .. } = claimed.work {
                bench.commit_one(polled(claimed, answer, after(at))).await;
            }
        }
        for n in numbers.filter(|n| *n > 4) {
            cancel(bench, OperationId(n.into()), after(at)).await;
        }
    }

    let now = after(1_000);
    bench.claim_at(now, 20).await;
    let forget = async |before, keys_before| {
        let mut operations = 0;
        for _ in 0..20 {
            let forgotten = bench.forget(before, keys_before, now, 3).await.unwrap();
            assert!(forgotten.operations <= 3, "{forgotten:?}");
            operations += forgotten.operations;
            if !forgotten.more {
                return operations;
            }
        }
        panic!("there is always more");
    };
    assert_eq!(forget(NOON, NOON).await, 0);
    // What is still there rests; a lane that is made anew does not.
    bench.rest_graph_lanes(after(9_000)).await.unwrap();
    let again =
        |n| Registration { credential: on_its_own_lane(n).credential, ..registration(n + 100) };
    bench.keep((9..=16).map(again)).await;
    let claimed = bench.claim_at(now, 20).await;
    let polls = claimed.iter().filter(|it| matches!(it.work, Work::Poll { .. }));
    assert_eq!(polls.count(), 8, "these lanes were unused");

    assert_eq!(forget(NOON, after(1)).await, 0);
    bench.keep((1..=16).map(|n| with_key(n + 200, n))).await;

    assert_eq!(forget(after(500), NOON).await, 12);
    for n in 1..=16 {
        let kept = bench.operation(OperationId(n)).await.unwrap();
        assert_eq!(kept.is_some(), n <= 4, "{n}");
    }
}

/// A day after the story begins.
struct NextDay;

impl Clock for NextDay {
    fn now(&self) -> Timestamp {
        after(86_400)
    }
}

#[tokio::test(start_paused = true)]
async fn a_round_of_retention_goes_on_while_there_is_anything_to_forget() {
    let bench = Bench::memory().await;
    bench.keep((0..1_200).map(|n| with_key(n, n))).await;
    let day = Duration::from_hours(24);
    for n in 0..1_200_u32 {
        bench.begin_change(super::audit::entry(after(n.into()), 0)).await.unwrap();
    }
    let retention = Retention { idempotency_keys: day / 2, audit: day / 2, ..Retention::default() };
    let (store, clock, stop) = (bench.store.clone(), Arc::new(NextDay), CancellationToken::new());
    let audit = bench.store.clone();
    let forgetting = forget_what_rests(store, audit, clock, retention, stop);
    // Less than there is between two rounds.
    drop(tokio::time::timeout(seconds(60), forgetting).await);
    bench.keep((0..1_200).map(|n| with_key(n + 1_200, n))).await;
    let page = Page { after: None, limit: 9 };
    assert_eq!(bench.changes(&AuditFilter::default(), page).await.unwrap(), []);
}
