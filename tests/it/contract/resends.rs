//! Many callbacks sent again by one wish.

use std::sync::Arc;

use engagement_bridge::callback::{self, Callback, CallbackId, Event, Reason, Reply, decide};
use engagement_bridge::operation::OperationId;
use engagement_bridge::store::{
    Advance, Advanced, Asked, Batch, CallbackFilter, Page, Registration, Resend, ResendChange,
    ResendId, Rest, Wanted, Work,
};
use jiff::Timestamp;

use super::{Bench, attempted, laws};
use crate::support::{NOON, after, api_key, caller, registration};

laws![
    a_wish_is_kept_once_while_it_is_under_way,
    each_callback_is_sent_again_once_and_is_due_then,
    what_fails_again_is_not_met_again,
    only_what_is_wanted_is_sent_again,
    of_two_who_go_on_with_it_one_is_overtaken,
    a_callback_that_has_changed_is_left_as_it_is,
    bulk_resends_are_listed_newest_first,
    a_bulk_resend_is_forgotten_in_its_time_and_what_it_has_not_come_to_as_well,
    what_waits_is_told_lane_by_lane,
    the_latest_attempts_are_found_and_lists_are_filtered,
];

fn wanted() -> Wanted {
    Wanted {
        caller: Some(caller("contoso")),
        rest: Rest::Undeliverable,
        reason: None,
        origin: None,
        since: None,
        until: None,
    }
}

fn resend(id: u128, wanted: Wanted, asked_at: Timestamp) -> Resend {
    Resend {
        id: ResendId(id),
        asked_by: Some(caller("contoso")),
        asked_at,
        wanted,
        matched: 0,
        resent: 0,
        reached: None,
        held_back: 0,
        done_at: None,
    }
}

fn id(n: u32) -> CallbackId {
    CallbackId { operation: OperationId(n.into()), number: 1 }
}

/// The operation with this number, whose receiver has an origin of its own for each ten of them.
fn told_to(n: u32) -> Registration {
    let host = format!("r{}.example", n / 10);
    Registration {
        callback_url: format!("https://{host}/hooks/{n}"),
        callback_origin: format!("https://{host}:443"),
        ..registration(n)
    }
}

/// Brings the callbacks of these operations to rest, each `at` its number of seconds.
async fn rest(bench: &Bench, numbers: impl IntoIterator<Item = (u32, Reply)>) {
    for (n, reply) in numbers {
        bench.keep([told_to(n)]).await;
        let at = after(u64::from(n) * 100);
        bench.settle_one(at).await;
        let commit = attempted(bench.claim_one(at).await, reply, at);
        bench.commit_one(commit).await;
    }
}

async fn begun(bench: &Bench, resend: Resend) -> Resend {
    match bench.ask_resend(resend, 9).await.unwrap() {
        Asked::Begun(begun) => begun,
        other @ (Asked::UnderWay(_) | Asked::LimitReached) => panic!("{other:?}"),
    }
}

/// What comes next, whatever waits.
async fn next(bench: &Bench, resend: &Resend, limit: u32) -> Batch {
    bench.resend_batch(resend, limit, NOON, 0).await.unwrap()
}

/// What is to be done about a batch.
fn advance(resend: &Resend, batch: &Batch, now: Timestamp) -> Arc<Advance> {
    let again = |before: &Callback| {
        let policy = callback::Policy::default();
        let decision = decide(&policy, before, Event::ResendRequested, now);
        let callback::Decision::Become(after) = decision else { panic!("it is at rest") };
        ResendChange { before: before.clone(), after }
    };
    Arc::new(Advance {
        id: resend.id,
        from: resend.reached,
        to: batch.reached,
        held_back: 0,
        changes: batch.callbacks.iter().map(|(callback, _)| again(callback)).collect(),
        done_at: batch.is_last.then_some(now),
    })
}

/// Goes on with it by a batch of this size; what was in it.
async fn go_on(bench: &Bench, id: ResendId, limit: u32, now: Timestamp) -> Vec<u128> {
    let resend = bench.resend(id).await.unwrap().unwrap();
    let batch = next(bench, &resend, limit).await;
    let advanced = bench.advance_resend(advance(&resend, &batch, now)).await.unwrap();
    assert_eq!(advanced, Advanced::Saved { resent: batch.callbacks.len() as u64 });
    batch.callbacks.iter().map(|(it, _)| it.id.operation.0).collect()
}

/// Goes on with it to its end; what it sent again.
async fn grant(bench: &Bench, resend: Resend, now: Timestamp) -> Vec<u128> {
    let (mut sent, begun) = (Vec::new(), begun(bench, resend).await);
    loop {
        sent.extend(go_on(bench, begun.id, 2, now).await);
        let stands = bench.resend(begun.id).await.unwrap().unwrap();
        assert_eq!(stands.resent, sent.len() as u64);
        if stands.done_at.is_some() {
            assert_eq!(stands.matched, begun.matched);
            assert_eq!(stands.skipped(), Some(begun.matched - stands.resent));
            return sent;
        }
        assert_eq!(stands.skipped(), None);
    }
}

async fn a_wish_is_kept_once_while_it_is_under_way(bench: &Bench) {
    let ask = async |resend: Resend, limit| bench.ask_resend(resend, limit).await.unwrap();
    let first = resend(1, wanted(), after(1));
    assert_eq!(ask(first.clone(), 2).await, Asked::Begun(first.clone()));
    assert_eq!(ask(resend(2, wanted(), after(2)), 2).await, Asked::UnderWay(first.clone()));
    let of_others = Wanted { reason: Some(Reason::Gone), since: Some(after(1)), ..wanted() };
    let second = resend(3, of_others.clone(), after(3));
    assert_eq!(ask(second.clone(), 2).await, Asked::Begun(second.clone()));
    let third = Wanted { reason: Some(Reason::TooOld), ..wanted() };
    assert_eq!(ask(resend(4, third, after(4)), 2).await, Asked::LimitReached);
    assert_eq!(ask(resend(5, of_others.clone(), after(5)), 2).await, Asked::UnderWay(second));
    let by_operator = Resend { asked_by: None, ..resend(6, wanted(), after(6)) };
    assert_eq!(ask(by_operator.clone(), 2).await, Asked::Begun(by_operator.clone()));
    let again = Resend { id: ResendId(7), ..by_operator.clone() };
    assert_eq!(ask(again, 2).await, Asked::UnderWay(by_operator));

    assert_eq!(go_on(bench, first.id, 10, after(8)).await, [0; 0]);
    let anew = resend(8, wanted(), after(9));
    assert_eq!(ask(anew.clone(), 2).await, Asked::Begun(anew.clone()));
    let under_way = bench.resends_under_way(2).await.unwrap();
    assert_eq!(under_way.iter().map(|it| it.id.0).collect::<Vec<_>>(), [3, 6]);
    assert_eq!(bench.resends_under_way(9).await.unwrap().len(), 3);
    assert_eq!(bench.resend(ResendId(99)).await.unwrap(), None);
}

async fn each_callback_is_sent_again_once_and_is_due_then(bench: &Bench) {
    rest(bench, (1..=5).map(|n| (n, Reply::Gone))).await;
    rest(bench, [(16, Reply::Accepted)]).await;
    let now = after(5_000);
    assert_eq!(bench.next_due().await.unwrap(), None);
    let begun = begun(bench, resend(1, wanted(), now)).await;
    assert_eq!(begun.matched, 5);
    assert_eq!(go_on(bench, begun.id, 3, now).await, [1, 2, 3]);
    // Those are on their way, and others not yet.
    assert!(bench.next_due().await.unwrap().is_some_and(|due| due <= now));
    for n in [1, 2, 3, 4, 5, 16] {
        let state = bench.callback(id(n)).await.unwrap().unwrap().callback.state;
        assert_eq!(state.rested_at().is_none(), n <= 3, "{n}: {state:?}");
    }
    assert_eq!(go_on(bench, begun.id, 3, now).await, [4, 5]);
    let done = bench.resend(begun.id).await.unwrap().unwrap();
    assert_eq!((done.resent, done.done_at, done.skipped()), (5, Some(now), Some(0)));

    // Its lane admits one of them at first, as it would any others.
    let claimed = bench.claim_at(now, 10).await;
    assert_eq!(claimed.len(), 1);
    let Work::Attempt(message) = &claimed[0].work else { panic!("{claimed:?}") };
    assert_eq!(message.callback.attempts, 1);
}

async fn what_fails_again_is_not_met_again(bench: &Bench) {
    rest(bench, (1..=4).map(|n| (n, Reply::Gone))).await;
    let begun = begun(bench, resend(1, wanted(), after(5_000))).await;
    assert_eq!(go_on(bench, begun.id, 2, after(5_001)).await, [1, 2]);
    for now in [5_002, 5_003] {
        let commit = attempted(bench.claim_one(after(now)).await, Reply::Gone, after(now));
        bench.commit_one(commit).await;
    }
    // One that comes to rest in front of it, but after it was asked for.
    rest(bench, [(70, Reply::Gone)]).await;
    assert_eq!(go_on(bench, begun.id, 9, after(8_000)).await, [3, 4]);
    let again = resend(2, wanted(), after(9_000));
    assert_eq!(grant(bench, again, after(9_000)).await, [1, 2, 70]);
}

async fn only_what_is_wanted_is_sent_again(bench: &Bench) {
    let fabrikam = caller("fabrikam");
    let secret = crate::support::SECRET.parse().unwrap();
    assert!(bench.add_caller(&fabrikam, api_key("other"), &secret, NOON).await.unwrap());
    rest(bench, [(1, Reply::Gone), (2, Reply::AddressRefused), (3, Reply::Accepted)]).await;
    rest(bench, [(11, Reply::Gone), (12, Reply::AddressRefused)]).await;
    let theirs = Registration {
        caller: fabrikam.clone(),
        credential: crate::support::token("theirs", after(90_000)),
        ..told_to(13)
    };
    bench.keep([theirs]).await;
    let at = after(1_300);
    bench.settle_one(at).await;
    bench.commit_one(attempted(bench.claim_one(at).await, Reply::Gone, at)).await;

    let matched = async |number: u128, wanted| {
        let asked = Resend { asked_by: None, ..resend(number, wanted, after(5_000)) };
        let begun = begun(bench, asked).await;
        let batch = next(bench, &begun, 100).await;
        let found: Vec<u128> = batch.callbacks.iter().map(|(it, _)| it.id.operation.0).collect();
        assert_eq!(begun.matched, found.len() as u64);
        assert!(batch.is_last);
        found
    };
    let all = Wanted { caller: None, ..wanted() };
    assert_eq!(matched(1, all.clone()).await, [1, 2, 11, 12, 13]);
    assert_eq!(matched(2, wanted()).await, [1, 2, 11, 12]);
    assert_eq!(matched(3, Wanted { caller: Some(fabrikam), ..all.clone() }).await, [13]);
    assert_eq!(matched(4, Wanted { rest: Rest::Delivered, ..all.clone() }).await, [3]);
    let refused = Wanted { reason: Some(Reason::AddressRefused), ..all.clone() };
    assert_eq!(matched(5, refused).await, [2, 12]);
    let there = Wanted { origin: Some("https://r1.example:443".to_owned()), ..all.clone() };
    assert_eq!(matched(6, there).await, [11, 12, 13]);
    assert_eq!(
        matched(7, Wanted { since: Some(after(200)), ..all.clone() }).await,
        [2, 11, 12, 13]
    );
    assert_eq!(matched(8, Wanted { until: Some(after(1_100)), ..all.clone() }).await, [1, 2]);
    let early =
        Resend { asked_by: None, ..resend(9, Wanted { since: Some(NOON), ..all }, after(200)) };
    assert_eq!(grant(bench, early, after(5_000)).await, [1], "what rests by the time of asking");
}

async fn of_two_who_go_on_with_it_one_is_overtaken(bench: &Bench) {
    rest(bench, (1..=3).map(|n| (n, Reply::Gone))).await;
    let begun = begun(bench, resend(1, wanted(), after(5_000))).await;
    let batch = next(bench, &begun, 2).await;
    let same = advance(&begun, &batch, after(5_001));
    let one = bench.advance_resend(Arc::clone(&same)).await.unwrap();
    assert_eq!(one, Advanced::Saved { resent: 2 });
    let claimed = bench.claim_one(after(5_001)).await;
    assert_eq!(bench.advance_resend(same).await.unwrap(), Advanced::Overtaken);
    let stands = bench.resend(begun.id).await.unwrap().unwrap();
    assert_eq!((stands.resent, stands.reached), (2, Some(id(2))));
    // Nor has it taken a step from whoever holds it.
    let commit = attempted(claimed, Reply::Accepted, after(5_002));
    assert_eq!(bench.commit_one(commit).await, engagement_bridge::store::Committed::Saved);

    assert_eq!(go_on(bench, begun.id, 2, after(5_003)).await, [3]);
    let late = advance(&stands, &next(bench, &stands, 2).await, after(5_004));
    assert_eq!(bench.advance_resend(late).await.unwrap(), Advanced::Overtaken, "it is done");
    let unknown = Resend { id: ResendId(9), ..stands };
    let strange = advance(&unknown, &Batch { callbacks: vec![], ..batch }, after(5_005));
    assert_eq!(bench.advance_resend(strange).await.unwrap(), Advanced::Overtaken);
}

async fn a_callback_that_has_changed_is_left_as_it_is(bench: &Bench) {
    rest(bench, (1..=3).map(|n| (n, Reply::Gone))).await;
    let first = begun(bench, resend(1, wanted(), after(5_000))).await;
    let batch = next(bench, &first, 9).await;
    let of_two = Wanted { until: Some(after(250)), ..wanted() };
    let other = Resend { asked_by: None, ..resend(2, of_two, after(5_000)) };
    assert_eq!(grant(bench, other, after(5_001)).await, [1, 2]);
    let claimed = bench.claim_one(after(5_001)).await;

    let advanced = bench.advance_resend(advance(&first, &batch, after(5_002))).await.unwrap();
    assert_eq!(advanced, Advanced::Saved { resent: 1 });
    let done = bench.resend(first.id).await.unwrap().unwrap();
    assert_eq!((done.matched, done.resent, done.skipped()), (3, 1, Some(2)));
    let commit = attempted(claimed, Reply::Accepted, after(5_003));
    assert_eq!(bench.commit_one(commit).await, engagement_bridge::store::Committed::Saved);
}

async fn bulk_resends_are_listed_newest_first(bench: &Bench) {
    for number in 1..=5 {
        let wanted = Wanted { since: Some(after(number)), ..wanted() };
        begun(bench, resend(number.into(), wanted, after(10))).await;
    }
    let whole = Resend {
        asked_by: None,
        wanted: Wanted {
            caller: None,
            rest: Rest::Delivered,
            reason: Some(Reason::AttemptsSpent),
            origin: Some("https://r0.example:443".to_owned()),
            since: Some(after(3)),
            until: Some(after(4)),
        },
        ..resend(6, wanted(), after(10))
    };
    begun(bench, whole.clone()).await;
    assert_eq!(bench.resend(whole.id).await.unwrap(), Some(whole));
    let contoso = caller("contoso");
    let ids = async |asked_by, after: Option<u128>, limit| {
        let page = Page { after: after.map(ResendId), limit };
        let listed = bench.resends(asked_by, page).await.unwrap();
        listed.iter().map(|it| it.id.0).collect::<Vec<_>>()
    };
    assert_eq!(ids(Some(&contoso), None, 2).await, [5, 4]);
    assert_eq!(ids(Some(&contoso), Some(4), 2).await, [3, 2]);
    assert_eq!(ids(Some(&contoso), Some(2), 2).await, [1]);
    assert_eq!(ids(None, None, 2).await, [6, 5]);
    assert_eq!(ids(None, Some(5), 9).await, [4, 3, 2, 1]);
    assert_eq!(ids(Some(&caller("fabrikam")), None, 9).await, [0; 0]);
}

async fn a_bulk_resend_is_forgotten_in_its_time_and_what_it_has_not_come_to_as_well(bench: &Bench) {
    rest(bench, (1..=3).map(|n| (n, Reply::Gone))).await;
    let begun = begun(bench, resend(1, wanted(), after(5_000))).await;
    assert_eq!(go_on(bench, begun.id, 1, after(5_001)).await, [1]);
    let forget = async |before| bench.forget(before, NOON, after(5_002), 10).await.unwrap();
    assert_eq!(forget(after(5_000)).await.operations, 2, "those that rest, and are wanted");
    assert!(bench.resend(begun.id).await.unwrap().is_some());
    assert_eq!(go_on(bench, begun.id, 5, after(5_003)).await, [0; 0]);
    let done = bench.resend(begun.id).await.unwrap().unwrap();
    assert_eq!((done.matched, done.resent, done.skipped()), (3, 1, Some(2)));
    forget(after(5_003)).await;
    assert!(bench.resend(begun.id).await.unwrap().is_some(), "it is done since now only");
    forget(after(5_004)).await;
    assert_eq!(bench.resend(begun.id).await.unwrap(), None);
}

async fn what_waits_is_told_lane_by_lane(bench: &Bench) {
    rest(bench, [1, 2, 3, 4, 11, 21].map(|n| (n, Reply::Gone))).await;
    let first = begun(bench, resend(1, wanted(), after(5_000))).await;
    assert_eq!(go_on(bench, first.id, 3, after(5_001)).await, [1, 2, 3]);
    // Of these, one is in somebody's hands.
    assert_eq!(bench.claim_at(after(5_001), 9).await.len(), 1);
    let waiting = async |now, crowd| {
        let stands = bench.resend(first.id).await.unwrap().unwrap();
        let batch = bench.resend_batch(&stands, 9, now, crowd).await.unwrap();
        let lanes = batch.callbacks.iter().map(|(it, lane)| {
            let waiting = batch.waiting.get(lane).copied().unwrap_or_default();
            (it.id.operation.0, lane.to_string(), waiting)
        });
        lanes.collect::<Vec<_>>()
    };
    let lane = |n: u32| format!("callback:contoso:https://r{n}.example:443");
    let expected = |waiting| [(4, lane(0), waiting), (11, lane(1), 0), (21, lane(2), 0)];
    assert_eq!(waiting(after(5_001), 9).await, expected(2));
    assert_eq!(waiting(after(5_001), 1).await, expected(1), "counted no further");
    assert_eq!(waiting(after(4_000), 9).await, expected(0), "not due by then");
    // When its lease is over, it waits again.
    assert_eq!(waiting(after(5_100), 9).await, expected(3));
    let stands = bench.resend(first.id).await.unwrap().unwrap();
    let walk = Advance {
        id: first.id,
        from: stands.reached,
        to: None,
        held_back: 7,
        changes: vec![],
        done_at: None,
    };
    let saved = bench.advance_resend(Arc::new(walk)).await.unwrap();
    assert_eq!(saved, Advanced::Saved { resent: 0 });
    let stands = bench.resend(first.id).await.unwrap().unwrap();
    assert_eq!((stands.reached, stands.held_back), (None, 7));
    assert_eq!(
        go_on(bench, first.id, 9, after(5_002)).await,
        [4, 11, 21],
        "those on their way rest"
    );
}

async fn the_latest_attempts_are_found_and_lists_are_filtered(bench: &Bench) {
    rest(bench, [(1, Reply::Gone), (2, Reply::Accepted), (11, Reply::AddressRefused)]).await;
    grant(bench, resend(1, wanted(), after(5_000)), after(5_000)).await;
    let mut claimed = bench.claim_at(after(5_000), 9).await;
    claimed.retain(|it| matches!(&it.work, Work::Attempt(it) if it.callback.id == id(1)));
    bench.commit_one(attempted(claimed.remove(0), Reply::Gone, after(5_001))).await;
    let latest = bench.latest_attempts(vec![id(1), id(2), id(9)]).await.unwrap();
    let mut numbers: Vec<_> = latest.iter().map(|(id, it)| (id.operation.0, it.number)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [(1, 2), (2, 1)]);
    assert_eq!(latest[&id(1)].at, after(5_001));
    assert!(bench.latest_attempts(vec![]).await.unwrap().is_empty());

    let contoso = caller("contoso");
    let listed = async |filter| {
        let page = Page { after: None, limit: 9 };
        let listed = bench.callbacks(&contoso, filter, page).await.unwrap();
        listed.iter().map(|it| it.callback.id.operation.0).collect::<Vec<_>>()
    };
    let all = CallbackFilter::default;
    assert_eq!(listed(CallbackFilter { reason: Some(Reason::Gone), ..all() }).await, [1]);
    let origin = Some("https://r0.example:443".to_owned());
    assert_eq!(listed(CallbackFilter { origin: origin.clone(), ..all() }).await, [2, 1]);
    assert_eq!(listed(CallbackFilter { since: Some(after(200)), ..all() }).await, [2, 1]);
    assert_eq!(listed(CallbackFilter { until: Some(after(201)), ..all() }).await, [2]);
    let narrow = CallbackFilter { state: Some("undeliverable"), origin, ..all() };
    assert_eq!(listed(narrow).await, [1]);
    assert_eq!(listed(CallbackFilter { state: Some("pending"), ..all() }).await, [11]);
}
