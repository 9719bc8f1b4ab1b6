//! Who may take which step, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use engagement_bridge::callback::{self, Reply};
use engagement_bridge::graph::{Credential, Proof};
use engagement_bridge::lane::Report;
use engagement_bridge::operation::{Answer, OperationId, State};
use engagement_bridge::store::{
    Amended, Amendment, Change, Claimed, Commit, Committed, Registered, Registration, Step, Work,
};
use secrecy::ExposeSecret;

use super::{Bench, LEASE, attempted, decided, laws, polled};
use crate::support::{NOON, after, caller, connection, registration, seconds, token};

laws![
    nothing_is_claimed_before_it_is_due,
    a_registration_that_is_refused_leaves_nothing_to_claim,
    registrations_that_were_refused_keep_nobody_waiting,
    what_comes_later_and_is_due_earlier_is_not_kept_waiting,
    a_claimed_step_is_nobody_elses_until_the_lease_ends,
    a_commit_without_the_newest_token_changes_nothing,
    a_step_handed_back_is_due_again,
    no_more_is_claimed_than_there_are_hands,
    many_hands_are_filled_though_each_lane_has_a_single_step,
    what_some_lanes_leave_of_their_share_goes_to_the_others,
    a_graph_lane_holds_its_budget_in_any_window,
    a_slot_counts_from_the_answer_not_from_the_claim,
    a_throttled_lane_pauses_and_no_other,
    graph_lanes_rest_when_told_to_and_others_do_not,
    a_callback_lane_widens_with_success_and_narrows_with_failure,
    lanes_take_turns,
    a_lane_that_was_served_by_a_clock_that_went_back_is_ready_all_the_same,
    what_lapses_needs_no_lane,
    a_poll_comes_with_its_credential,
    a_new_credential_leaves_the_holder_its_step,
];

/// For which a poll counts after its answer, by the default policy.
const WINDOW: Duration = Duration::from_secs(31);

/// The finest that a store keeps.
const MOMENT: Duration = Duration::from_millis(1);

const POLL: Answer = Answer::StillRunning { retry_after: None };

fn steps(claimed: &[Claimed]) -> BTreeSet<Step> {
    claimed.iter().map(|it| it.claim.step).collect()
}

/// A registration on a lane of its own.
fn on_lane(n: u32, lane: &str) -> Registration {
    let mut registration = registration(n);
    registration.credential = token(lane, after(100_000));
    registration
}

async fn nothing_is_claimed_before_it_is_due(bench: &Bench) {
    assert_eq!(bench.next_due().await.unwrap(), None);
    bench.keep([registration(1)]).await;
    let due = registration(1).operation.agenda().step_at.unwrap();
    assert_eq!(bench.next_due().await.unwrap(), Some(due));
    let early = due - MOMENT;
    assert!(bench.claim_at(early, 10).await.is_empty());
    assert_eq!(bench.claim_at(due, 10).await.len(), 1);
}

async fn a_registration_that_is_refused_leaves_nothing_to_claim(bench: &Bench) {
    // On a lane that nobody else has: one that was there would not be made for it.
    let refused = Registration { live_limit: 0, ..on_lane(1, "alone") };
    let due = refused.operation.agenda().step_at.unwrap();
    assert!(matches!(bench.register_one(refused).await, Registered::LimitReached));
    assert!(bench.claim_at(due, 10).await.is_empty());
    assert_eq!(bench.next_due().await.unwrap(), None);
    // What then comes to that lane is found.
    bench.keep([on_lane(2, "alone")]).await;
    assert!(bench.claim_at(due - MOMENT, 10).await.is_empty());
    assert_eq!(bench.claim_at(due + Duration::from_secs(1), 10).await.len(), 1);
}

async fn registrations_that_were_refused_keep_nobody_waiting(bench: &Bench) {
    for n in 1..=5 {
        let refused = Registration { live_limit: 0, ..on_lane(n, &format!("nobody's {n}")) };
        assert!(matches!(bench.register_one(refused).await, Registered::LimitReached));
    }
    bench.keep([on_lane(6, "somebody's")]).await;
    assert_eq!(bench.claim_at(after(60), 1).await.len(), 1);
}

async fn what_comes_later_and_is_due_earlier_is_not_kept_waiting(bench: &Bench) {
    let mut late = on_lane(1, "shared");
    if let State::Watching(watch) = &mut late.operation.state {
        watch.next_poll_at = after(600);
    }
    bench.keep([late]).await;
    bench.keep([on_lane(2, "shared")]).await;
    let claimed = bench.claim_at(after(60), 10).await;
    assert_eq!(steps(&claimed), BTreeSet::from([Step::Operation(OperationId(2))]));
}

async fn a_claimed_step_is_nobody_elses_until_the_lease_ends(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let claimed = bench.claim_one(after(60)).await;
    let until = after(60) + LEASE;
    assert_eq!(claimed.claim.until, until);
    assert!(bench.claim_at(until - MOMENT, 10).await.is_empty());
    let next_due = bench.next_due().await.unwrap().unwrap();
    assert!(next_due <= until, "{next_due} would be too late");

    // The slot of a claim that was never heard of again counts for a window longer.
    let again = bench.claim_at(until, 10).await;
    assert_eq!(steps(&again), BTreeSet::from([Step::Operation(OperationId(1))]));
}

async fn a_commit_without_the_newest_token_changes_nothing(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let stalled = bench.claim_one(after(60)).await;
    let successor = bench.claim_one(after(60) + LEASE).await;
    let now = after(130);
    let late = polled(stalled, Answer::Gone, now);
    assert_eq!(bench.commit_one(late).await, Committed::LeaseLost);
    let stands = bench.operation(OperationId(1)).await.unwrap().unwrap();
    assert_eq!((stands.operation.polls, stands.last_body), (0, None));
    assert_eq!(bench.commit_one(polled(successor, POLL, now)).await, Committed::Saved);
    assert_eq!(bench.operation(OperationId(1)).await.unwrap().unwrap().operation.polls, 1);
}

async fn a_step_handed_back_is_due_again(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let now = after(60);
    let Claimed { claim, .. } = bench.claim_one(now).await;
    let commit = Commit { claim, change: Change::HandBack, report: Report::Unused, at: now };
    assert_eq!(bench.commit_one(commit).await, Committed::Saved);
    let again = bench.claim_one(now).await;
    bench.commit_one(polled(again, Answer::Gone, now)).await;
    let Claimed { claim, .. } = bench.claim_one(now).await;
    assert!(matches!(claim.step, Step::Callback(_)));
    let commit = Commit { claim, change: Change::HandBack, report: Report::Unused, at: now };
    assert_eq!(bench.commit_one(commit).await, Committed::Saved);
    bench.claim_one(now).await;
}

async fn no_more_is_claimed_than_there_are_hands(bench: &Bench) {
    bench.keep((1..=9).map(|n| on_lane(n, &format!("lane-{}", n % 3)))).await;
    let now = after(60);
    let mut seen = BTreeSet::new();
    for hands in [0, 1, 3, 4, 9] {
        let claimed = bench.claim_at(now, hands).await;
        assert!(claimed.len() <= hands);
        for step in steps(&claimed) {
            assert!(seen.insert(step), "{step} was claimed twice");
        }
    }
    assert_eq!(seen.len(), 9);
}

async fn many_hands_are_filled_though_each_lane_has_a_single_step(bench: &Bench) {
    bench.keep((1..=300).map(|n| on_lane(n, &format!("lane-{n}")))).await;
    let now = after(60);
    assert_eq!(bench.claim_at(now, 256).await.len(), 256);
    assert_eq!(bench.claim_at(now, 256).await.len(), 300 - 256);
}

async fn what_some_lanes_leave_of_their_share_goes_to_the_others(bench: &Bench) {
    bench.keep((1..=6).map(|n| on_lane(n, &format!("short-{n}")))).await;
    bench.keep((11..=18).map(|n| on_lane(n, "long"))).await;
    assert_eq!(bench.claim_at(after(60), 9).await.len(), 9);
}

async fn a_graph_lane_holds_its_budget_in_any_window(bench: &Bench) {
    bench.keep((1..=20).map(registration)).await;
    let now = after(60);
    let first = bench.claim_at(now, 100).await;
    assert_eq!(first.len(), 8);
    for claimed in first {
        bench.commit_one(polled(claimed, POLL, now)).await;
    }
    let full = bench.next_due().await.unwrap().unwrap();
    assert!(full <= now + WINDOW);
    assert!(bench.claim_at(now + WINDOW - MOMENT, 100).await.is_empty());
    assert_eq!(bench.claim_at(now + WINDOW, 100).await.len(), 8);
}

async fn a_slot_counts_from_the_answer_not_from_the_claim(bench: &Bench) {
    bench.keep((1..=16).map(registration)).await;
    let mut first = bench.claim_at(after(60), 100).await;
    // One answer comes after 20 s; the other seven never come.
    let commit = polled(first.remove(0), POLL, after(80));
    bench.commit_one(commit).await;
    assert!(bench.claim_at(after(80) + WINDOW - MOMENT, 100).await.is_empty());
    assert_eq!(bench.claim_at(after(80) + WINDOW, 100).await.len(), 1);
    // A lost claim counts for its lease and a window, for it may have left in its last moment.
    let lost_until = after(60) + LEASE + WINDOW;
    assert!(bench.claim_at(lost_until - MOMENT, 100).await.is_empty());
    assert_eq!(bench.claim_at(lost_until, 100).await.len(), 7);
}

async fn a_throttled_lane_pauses_and_no_other(bench: &Bench) {
    bench.keep((1..=3).map(|n| on_lane(n, "throttled"))).await;
    bench.keep((4..=5).map(|n| on_lane(n, "calm"))).await;
    let now = after(60);
    let mut claimed = bench.claim_at(now, 2).await;
    assert_eq!(claimed.len(), 2, "each lane gets some");
    let throttled = claimed
        .iter()
        .position(|it| matches!(it.claim.step, Step::Operation(OperationId(1..=3))))
        .unwrap();
    let retry_after = Some(seconds(600));
    let commit = polled(claimed.remove(throttled), Answer::Throttled { retry_after }, now);
    bench.commit_one(commit).await;

    let left: Vec<Step> = steps(&bench.claim_at(now, 100).await).into_iter().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(matches!(left[0], Step::Operation(OperationId(4..=5))));
    let waiting = |claimed: Vec<Claimed>| {
        claimed
            .into_iter()
            .filter(|it| matches!(it.claim.step, Step::Operation(OperationId(1..=3))))
            .count()
    };
    assert_eq!(waiting(bench.claim_at(after(659), 100).await), 0);
    assert!(bench.next_due().await.unwrap().unwrap() <= after(660));
    assert_eq!(waiting(bench.claim_at(after(660), 100).await), 2, "all but the one that polled");
}

async fn graph_lanes_rest_when_told_to_and_others_do_not(bench: &Bench) {
    bench.keep([registration(1), on_lane(2, "alice"), on_lane(3, "bob")]).await;
    let now = after(60);
    let ended = bench.claim_one(now).await;
    bench.commit_one(polled(ended, Answer::Gone, now)).await;
    let until = now + seconds(31);
    bench.rest_graph_lanes(until).await.unwrap();
    bench.rest_graph_lanes(now).await.unwrap();
    let claimed = steps(&bench.claim_at(until - MOMENT, 100).await);
    assert!(matches!(claimed.first(), Some(Step::Callback(_))), "{claimed:?}");
    assert_eq!(claimed.len(), 1);
    assert_eq!(bench.claim_at(until, 100).await.len(), 2);
}

/// When a lane was served says whose turn it is, and not when it may be served again.
async fn a_lane_that_was_served_by_a_clock_that_went_back_is_ready_all_the_same(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let (before, now) = (after(10_000), after(100));
    let id = bench.settle_one(before).await;
    let told = attempted(bench.claim_one(before).await, Reply::Accepted, before);
    assert_eq!(bench.commit_one(told).await, Committed::Saved);

    bench.rest_graph_lanes(now).await.unwrap();
    let callback = bench.callback(id).await.unwrap().unwrap().callback;
    let event = callback::Event::ResendRequested;
    let decision = callback::decide(&callback::Policy::default(), &callback, event, now);
    let callback::Decision::Become(again) = decision else { panic!("{decision:?}") };
    let amendment = Amendment::Callback { before: callback, after: again, destination_back: false };
    assert_eq!(bench.amend(amendment).await.unwrap(), Amended::Saved);
    assert_eq!(steps(&bench.claim_at(now, 1).await), [Step::Callback(id)].into());
}

async fn a_callback_lane_widens_with_success_and_narrows_with_failure(bench: &Bench) {
    // Distinct Graph lanes, so that all can be settled at once; one receiver.
    bench.keep((1..=40).map(|n| on_lane(n, &format!("lane-{n}")))).await;
    let mut now = after(60);
    for claimed in bench.claim_at(now, 100).await {
        bench.commit_one(polled(claimed, Answer::Gone, now)).await;
    }
    let mut widths = Vec::new();
    for _ in 0..4 {
        let claimed = bench.claim_at(now, 100).await;
        widths.push(claimed.len());
        for claimed in claimed {
            bench.commit_one(attempted(claimed, Reply::Accepted, now)).await;
        }
    }
    assert_eq!(widths, [1, 2, 8, 16]);

    let mut claimed = bench.claim_at(now, 100).await;
    let failed = Reply::Unwell { retry_after: None };
    bench.commit_one(attempted(claimed.remove(0), failed, now)).await;
    for claimed in claimed {
        let commit = attempted(claimed, Reply::Refused { retry_after: None }, now);
        bench.commit_one(commit).await;
    }
    assert!(bench.claim_at(now, 100).await.is_empty(), "paused");
    // By then all thirteen are due again.
    now += seconds(30);
    assert_eq!(bench.claim_at(now, 100).await.len(), 1, "one probe");
}

async fn lanes_take_turns(bench: &Bench) {
    // One lane has much waiting since long ago; nine have one step each, due later.
    bench.keep((1..=8).map(|n| on_lane(n, "long"))).await;
    for n in 11..=19 {
        let mut late = on_lane(n, &format!("short-{n}"));
        if let State::Watching(watch) = &mut late.operation.state {
            watch.next_poll_at = after(30 + u64::from(n));
        }
        bench.keep([late]).await;
    }
    let mut served = BTreeSet::new();
    for turn in 0..10 {
        let now = after(100) + Duration::from_millis(turn);
        let claimed = bench.claim_one(now).await;
        served.insert(match claimed.claim.step {
            Step::Operation(OperationId(n)) if n <= 8 => 0,
            Step::Operation(OperationId(n)) => n,
            Step::Callback(_) => unreachable!("nothing is owed"),
        });
        bench.commit_one(polled(claimed, POLL, now)).await;
    }
    assert_eq!(served.len(), 10, "ten lanes, ten turns, each served once: {served:?}");
}

async fn what_lapses_needs_no_lane(bench: &Bench) {
    bench.keep((1..=3).map(registration)).await;
    let now = after(60);
    for claimed in bench.claim_at(now, 3).await {
        let retry_after = Some(seconds(3_600));
        bench.commit_one(polled(claimed, Answer::Throttled { retry_after }, now)).await;
    }
    let deadline = NOON + Duration::from_hours(24);
    let just_before = deadline - Duration::from_millis(1);
    for claimed in bench.claim_at(just_before, 10).await {
        // The lane is free again by then; whoever polls now dies with the claim.
        assert!(matches!(claimed.work, Work::Poll { .. }));
    }
    assert!(bench.claim_at(deadline, 10).await.is_empty(), "the holders may still succeed");
    let lapsed = bench.claim_at(deadline + LEASE, 10).await;
    assert_eq!(lapsed.len(), 3);
    for Claimed { claim, work } in lapsed {
        let Work::LapseOperation(tracked) = work else { panic!("a lapse, not {work:?}") };
        let at = deadline + LEASE;
        let change = decided(&tracked.operation, engagement_bridge::operation::Event::Lapsed, at);
        let commit = Commit { claim, change, report: Report::Unused, at };
        assert_eq!(bench.commit_one(commit).await, Committed::Saved);
    }
}

async fn a_poll_comes_with_its_credential(bench: &Bench) {
    bench.keep([on_lane(1, "handed-in")]).await;
    bench.keep([registration(2)]).await;
    let replaced = Proof::Secret("replaced".into());
    let contoso = caller("contoso");
    assert!(bench.replace_proof(&contoso, "contoso", &replaced).await.unwrap());
    for claimed in bench.claim_at(after(60), 10).await {
        let Work::Poll { tracked, credential } = claimed.work else { panic!("two polls") };
        match credential {
            Credential::Token(token) => {
                assert_eq!(tracked.operation.id, OperationId(1));
                assert_eq!(token.secret.expose_secret(), "handed-in");
                assert_eq!(token.expires_at, after(100_000));
            }
            Credential::Connection(found) => {
                assert_eq!(found.tenant, connection("contoso").tenant);
                assert_eq!(found.proof.secret().unwrap().expose_secret(), "replaced");
            }
        }
    }
}

async fn a_new_credential_leaves_the_holder_its_step(bench: &Bench) {
    bench.keep([on_lane(1, "old")]).await;
    let holder = bench.claim_one(after(60)).await;
    let before = bench.operation(OperationId(1)).await.unwrap().unwrap().operation;
    let renew = Amendment::Operation {
        before: before.clone(),
        after: before,
        owed: None,
        credential: Some(token("new", after(200_000))),
    };
    assert_eq!(bench.amend(renew).await.unwrap(), Amended::Saved);
    // A second poll now would be one too soon.
    assert!(bench.claim_at(after(61), 10).await.is_empty());
    assert_eq!(bench.commit_one(polled(holder, POLL, after(62))).await, Committed::Saved);
    let again = bench.claim_one(after(120)).await;
    let Work::Poll { credential: Credential::Token(token), .. } = again.work else {
        panic!("a poll with a token");
    };
    assert_eq!(token.secret.expose_secret(), "new");
}
