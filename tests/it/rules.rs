//! The rules of both lives: the whole tables as snapshots, and what is true of every history.

use std::fmt::Write as _;
use std::time::Duration;

use engagement_bridge::callback::{self, Callback, CallbackId, Reason, Reply};
use engagement_bridge::operation::{
    Agenda, Answer, Decision, Event, Hindrance, Operation, OperationId, Outcome, Owed, Policy,
    Refusal, Renewal, RunningNotice, State, Verdict, Watch, decide, jittered, register,
};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::support::{NOON, after, seconds};

const ID: OperationId = OperationId(7);

fn operation(state: State) -> Operation {
    let deadline = NOON + Duration::from_hours(24);
    let running = RunningNotice::Unwanted;
    Operation { id: ID, registered_at: NOON, deadline, polls: 3, callbacks: 0, running, state }
}

fn watching() -> Watch {
    Watch::from(after(600))
}

fn answers() -> Vec<(&'static str, Answer)> {
    let refused = |refusal, renewal| Answer::CredentialRefused { refusal, renewal };
    vec![
        ("200 running", Answer::StillRunning { retry_after: None }),
        ("200 running, in 1000 s", Answer::StillRunning { retry_after: Some(seconds(1_000)) }),
        ("200 notStarted", Answer::Undecided { retry_after: None }),
        ("200 null, in 1000 s", Answer::Undecided { retry_after: Some(seconds(1_000)) }),
        ("200 succeeded", Answer::Finished(Verdict::Succeeded)),
        ("200 failed", Answer::Finished(Verdict::Failed)),
        ("200 skipped", Answer::Finished(Verdict::Skipped)),
        ("400", Answer::Rejected),
        ("401, renewable", refused(Refusal::Unauthorized, Renewal::Possible)),
        ("401, handed in", refused(Refusal::Unauthorized, Renewal::Impossible)),
        ("403, renewable", refused(Refusal::Forbidden, Renewal::Possible)),
        ("404", Answer::Missing),
        ("410", Answer::Gone),
        ("429", Answer::Throttled { retry_after: None }),
        ("429, in 1000 s", Answer::Throttled { retry_after: Some(seconds(1_000)) }),
        ("503", Answer::Trouble { retry_after: None }),
        ("503, in 1000 s", Answer::Trouble { retry_after: Some(seconds(1_000)) }),
        ("503, in 10^18 s", Answer::Trouble { retry_after: Some(seconds(10_u64.pow(18))) }),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let polled = answers().into_iter().map(|(name, answer)| (name, Event::Polled(answer)));
    let trouble = Hindrance::Trouble { retry_after: None };
    polled
        .chain([
            ("no token: trouble", Event::Unpolled(trouble)),
            ("no token: refused", Event::Unpolled(Hindrance::Refused(Refusal::GrantRefused))),
            ("credential renewed", Event::CredentialRenewed),
            ("cancel requested", Event::CancelRequested),
            ("lapsed", Event::Lapsed),
        ])
        .collect()
}

#[test]
fn every_state_of_an_operation_answers_every_event() {
    let now = after(600);
    let late = NOON + Duration::from_hours(24);
    let last_try = Watch { rejections: 2, refusals: 1, troubles: 4, ..watching() };
    // For 6,600 s: reminders fall due after 3,300 s and 5,940 s.
    let blocked = |reminders| State::Blocked {
        refusal: Refusal::Forbidden,
        since: after(600),
        until: after(7_200),
        earliest_poll_at: after(631),
        reminders,
    };
    let settled = State::Settled { outcome: Outcome::Succeeded, refusal: None, at: after(500) };
    let hearing =
        |running| Operation { running, callbacks: 4, ..operation(State::Watching(watching())) };
    let states = [
        ("Watching, 200 s old", now - seconds(400), operation(State::Watching(watching()))),
        ("Watching, 600 s old", now, operation(State::Watching(watching()))),
        ("Watching, much failed", now, operation(State::Watching(last_try))),
        ("Watching, past deadline", late, operation(State::Watching(watching()))),
        ("Watching, to hear", now, hearing(RunningNotice::Wanted)),
        ("Watching, to hear, late", late, hearing(RunningNotice::Wanted)),
        ("Watching, has heard", now, hearing(RunningNotice::Owed)),
        ("Blocked", now, operation(blocked(0))),
        ("Blocked, not yet half", after(3_899), operation(blocked(0))),
        ("Blocked, half", after(3_900), operation(blocked(0))),
        ("Blocked, half, reminded", after(3_900), operation(blocked(1))),
        ("Blocked, nine tenths", after(6_540), operation(blocked(1))),
        ("Blocked, both missed", after(6_540), operation(blocked(0))),
        ("Blocked, all reminded", after(7_199), operation(blocked(2))),
        ("Blocked, time is up", after(7_200), operation(blocked(2))),
        ("Blocked, all missed", after(7_200), operation(blocked(0))),
        ("Settled", now, operation(settled)),
        ("Cancelled", now, operation(State::Cancelled { at: after(500) })),
    ];
    let mut table = String::new();
    for (state, now, operation) in &states {
        for (name, event) in events() {
            let decision = decide(&Policy::default(), operation, event, *now);
            writeln!(table, "{state:<24} {name:<23} {}", short(&decision, *now)).unwrap();
        }
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}

fn short(decision: &Decision, now: Timestamp) -> String {
    let span = |at: Timestamp| at.duration_since(now).as_secs();
    match decision {
        Decision::Ignore(reason) => format!("· {reason:?}"),
        Decision::Become(next, owed) => {
            let state = match &next.state {
                State::Watching(watch) => format!(
                    "Watching, {} troubles, {} rejections, {} refusals, again in {} s",
                    watch.troubles,
                    watch.rejections,
                    watch.refusals,
                    span(watch.next_poll_at)
                ),
                State::Blocked { refusal, until, earliest_poll_at, reminders, .. } => format!(
                    "Blocked({refusal:?}) for {} s, no poll for {} s, {reminders} reminders",
                    span(*until),
                    span(*earliest_poll_at)
                ),
                State::Settled { outcome, refusal: None, .. } => format!("Settled({outcome:?})"),
                State::Settled { outcome, refusal: Some(refusal), .. } => {
                    format!("Settled({outcome:?}, {refusal:?})")
                }
                State::Cancelled { .. } => "Cancelled".to_owned(),
            };
            let owed = owed.map(|owed| format!(", owes {owed:?}")).unwrap_or_default();
            format!("{state}{owed}")
        }
    }
}

#[test]
fn every_state_of_a_callback_answers_every_event() {
    let policy = callback::Policy::default();
    let id = CallbackId { operation: ID, number: 1 };
    let (now, give_up_at) = (after(1_000), after(1_000) + Duration::from_hours(30));
    let pending = |tries| callback::State::Pending { tries, next_attempt_at: now, give_up_at };
    let states = [
        ("Pending, no try", now, pending(0)),
        ("Pending, 4 tries", now, pending(4)),
        ("Pending, 9 tries", now, pending(9)),
        ("Pending, too old", give_up_at, pending(4)),
        ("Delivered", now, callback::State::Delivered { at: NOON }),
        (
            "Undeliverable",
            now,
            callback::State::Undeliverable { reason: Reason::AttemptsSpent, at: NOON },
        ),
    ];
    let attempted = callback::Event::Attempted;
    let events = [
        ("2xx", attempted(Reply::Accepted)),
        ("404", attempted(Reply::Refused { retry_after: None })),
        ("404, in 10 h", attempted(Reply::Refused { retry_after: Some(seconds(36_000)) })),
        ("503", attempted(Reply::Unwell { retry_after: None })),
        (
            "429, in 10^18 s",
            attempted(Reply::Unwell { retry_after: Some(seconds(10_u64.pow(18))) }),
        ),
        ("410", attempted(Reply::Gone)),
        ("address refused", attempted(Reply::AddressRefused)),
        ("destination gone", callback::Event::DestinationGone),
        ("resend requested", callback::Event::ResendRequested),
        ("lapsed", callback::Event::Lapsed),
    ];
    let mut table = String::new();
    for (name, now, state) in &states {
        for (event_name, event) in &events {
            let callback = Callback { id, owed_at: NOON, attempts: 11, state: state.clone() };
            let decision = match callback::decide(&policy, &callback, *event, *now) {
                callback::Decision::Ignore(reason) => format!("· {reason:?}"),
                callback::Decision::Become(next) => match next.state {
                    callback::State::Pending { tries, next_attempt_at, give_up_at } => format!(
                        "Pending, {tries} tries of {}, again in {} s, given up in {} h",
                        next.attempts,
                        next_attempt_at.duration_since(*now).as_secs(),
                        give_up_at.duration_since(*now).as_hours()
                    ),
                    callback::State::Delivered { .. } => "Delivered".to_owned(),
                    callback::State::Undeliverable { reason, .. } => {
                        format!("Undeliverable({reason:?})")
                    }
                },
            };
            writeln!(table, "{name:<18} {event_name:<17} {decision}").unwrap();
        }
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}

#[test]
fn polls_grow_apart_with_the_logarithm_of_the_wait() {
    let policy = Policy::default();
    let mut it = register(&policy, ID, NOON, NOON + Duration::from_hours(24));
    let mut story = String::new();
    let mut now = NOON;
    while let Some(at) = it.agenda().step_at {
        writeln!(story, "{:>6} s, {:>4} s later", seconds_since(NOON, at), seconds_since(now, at))
            .unwrap();
        now = at;
        let event = Event::Polled(Answer::StillRunning { retry_after: None });
        let Decision::Become(next, None) = decide(&policy, &it, event, now) else {
            panic!("nothing is owed while Graph is not done");
        };
        it = next;
        if it.polls == 24 {
            break;
        }
    }
    insta::assert_snapshot!(story);
}

fn seconds_since(earlier: Timestamp, later: Timestamp) -> i64 {
    later.duration_since(earlier).as_secs()
}

#[test]
fn graph_is_asked_once_more_shortly_before_the_deadline() {
    let policy = Policy::default();
    let deadline = NOON + Duration::from_hours(2);
    let watched = Operation { deadline, ..operation(State::Watching(watching())) };
    let running = Event::Polled(Answer::StillRunning { retry_after: None });
    let now = deadline - seconds(120);
    let Decision::Become(next, None) = decide(&policy, &watched, running, now) else {
        panic!("still watching");
    };
    let last_look = deadline - seconds(30);
    assert_eq!(next.agenda(), Agenda { step_at: Some(last_look), lapse_at: Some(deadline) });

    let Decision::Become(next, None) = decide(&policy, &next, running, last_look) else {
        panic!("still watching");
    };
    assert_eq!(next.agenda(), Agenda { step_at: None, lapse_at: Some(deadline) });
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let asked = || prop::option::of((0_u64..100_000).prop_map(seconds));
    prop_oneof![
        6 => asked().prop_map(|retry_after| Answer::StillRunning { retry_after }),
        2 => asked().prop_map(|retry_after| Answer::Undecided { retry_after }),
        1 => prop::sample::select(answers()).prop_map(|(_, answer)| answer),
        1 => asked().prop_map(|retry_after| Answer::Throttled { retry_after }),
        2 => asked().prop_map(|retry_after| Answer::Trouble { retry_after }),
        1 => Just(Answer::Missing),
        1 => Just(Answer::Rejected),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any_answer().prop_map(Event::Polled),
        3 => prop::sample::select(events()).prop_map(|(_, event)| event),
    ]
}

/// Events in quick succession, and such as come a lot later than what is due; of any operation.
fn any_history() -> impl Strategy<Value = (u128, Vec<(Event, u64)>)> {
    let millis = prop_oneof![2 => 0_u64..2_000, 1 => 0_u64..2_000_000];
    (any::<u128>(), prop::collection::vec((any_event(), millis), 0..60))
}

proptest! {
    #[test]
    fn an_outcome_once_known_never_changes_and_is_owed_once((id, history) in any_history()) {
        let policy = Policy::default();
        let mut it = register(&policy, OperationId(id), NOON, NOON + Duration::from_hours(24));
        let (mut now, mut finals, mut numbers) = (NOON, 0, 0);
        for (event, millis) in history {
            now += Duration::from_millis(millis);
            let Decision::Become(next, owed) = decide(&policy, &it, event, now) else { continue };
            prop_assert!(!it.state.is_at_rest(), "left its rest");
            if let Some(Owed::Final(outcome)) = owed {
                prop_assert_eq!(next.outcome(), Some(outcome));
                finals += 1;
            }
            prop_assert_eq!(next.outcome().is_some(), matches!(owed, Some(Owed::Final(_))));
            numbers += u32::from(owed.is_some());
            prop_assert_eq!(next.callbacks, numbers, "each callback has a number of its own");
            it = next;
        }
        prop_assert!(finals <= 1);
    }

    #[test]
    fn that_it_runs_is_owed_at_graphs_first_word_of_it_once_and_never_behind_the_end(
        (id, history) in any_history(),
        running in prop::sample::select(&RunningNotice::ALL[..]),
    ) {
        let policy = Policy::default();
        let fresh = register(&policy, OperationId(id), NOON, NOON + Duration::from_hours(24));
        let mut it = Operation { running, ..fresh };
        let (mut now, mut is_to_hear) = (NOON, running == RunningNotice::Wanted);
        for (event, millis) in history {
            now += Duration::from_millis(millis);
            let Decision::Become(next, owed) = decide(&policy, &it, event, now) else {
                continue;
            };
            let says_so = matches!(event, Event::Polled(Answer::StillRunning { .. }));
            let is_owed = owed == Some(Owed::Running);
            let is_in_time = !next.state.is_at_rest();
            prop_assert_eq!(is_owed, is_to_hear && says_so && is_in_time, "at {:?}", event);
            is_to_hear &= !is_owed;
            it = next;
        }
    }

    /// Whoever comes late owes less, never more, and never too early.
    #[test]
    fn a_blocked_operation_owes_its_reminders_in_time_and_ends_with_the_reason(
        id in any::<u128>(),
        grace in 1_u64..100_000_000,
        late in prop::collection::vec(0_u64..20_000_000, 4),
        refusal in prop::sample::select(&Refusal::ALL[..]),
    ) {
        let grace = Duration::from_millis(grace);
        let policy = Policy { credential_grace: grace, ..Policy::default() };
        let deadline = NOON + Duration::from_hours(168);
        let fresh = register(&policy, OperationId(id), NOON, deadline);
        let refused = Event::Unpolled(Hindrance::Refused(refusal));
        let Decision::Become(mut it, Some(Owed::CredentialNeeded(_))) =
            decide(&policy, &fresh, refused, NOON)
        else {
            return Err(TestCaseError::fail("a refusal blocks, and owes a notice"));
        };
        let mut notices = Vec::new();
        for millis in late {
            let Some(due) = it.agenda().lapse_at else { break };
            // A moment earlier there is nothing to be done yet.
            let early = due - Duration::from_millis(1);
            prop_assert!(matches!(decide(&policy, &it, Event::Lapsed, early), Decision::Ignore(_)));
            let now = due + Duration::from_millis(millis);
            let Decision::Become(next, Some(owed)) = decide(&policy, &it, Event::Lapsed, now) else {
                return Err(TestCaseError::fail("what the agenda plans is never ignored"));
            };
            match owed {
                Owed::CredentialNeeded(again) => {
                    prop_assert_eq!(again, refusal);
                    notices.push(now.duration_since(NOON));
                }
                Owed::Final(outcome) => {
                    prop_assert_eq!(outcome, Outcome::Unauthorized);
                    prop_assert!(NOON + grace <= now);
                }
                Owed::Running => return Err(TestCaseError::fail("Graph said nothing")),
            }
            prop_assert_eq!(next.state.refusal(), Some(refusal), "the reason is kept");
            it = next;
        }
        prop_assert_eq!(it.outcome(), Some(Outcome::Unauthorized));
        prop_assert!(notices.len() <= 2);
        let grace = grace.as_millis();
        for (at, tenths) in notices.iter().rev().zip([9, 5]).filter(|_| notices.len() == 2) {
            prop_assert!(grace / 10 * tenths <= u128::try_from(at.as_millis()).unwrap());
        }
        if let [only] = notices[..] {
            prop_assert!(grace / 10 * 5 <= u128::try_from(only.as_millis()).unwrap());
        }
    }

    /// Whoever polls, polls when the agenda says so or later, and learns of the answer later yet.
    #[test]
    fn never_two_polls_within_thirty_seconds((id, history) in any_history(), hours in 1_i64..168) {
        let policy = Policy::default();
        let deadline = NOON + jiff::SignedDuration::from_hours(hours);
        let mut it = register(&policy, OperationId(id), NOON, deadline);
        let mut last_poll: Option<Timestamp> = None;
        let mut now = NOON;
        for (event, millis) in history {
            now += Duration::from_millis(millis);
            if matches!(event, Event::Polled(_)) {
                let Some(at) = it.agenda().step_at else { continue };
                let asked_at = at.max(now);
                prop_assert!(asked_at <= at || now >= at);
                prop_assert!(at < it.deadline, "no poll is planned past the deadline");
                if let Some(last) = last_poll {
                    prop_assert!(asked_at > last + seconds(30), "{asked_at} after {last}");
                }
                // The answer takes its time.
                now = asked_at + Duration::from_millis(millis % 25_000);
                last_poll = Some(asked_at);
            }
            if let Decision::Become(next, _) = decide(&policy, &it, event, now) {
                it = next;
            }
        }
    }

    /// Left to itself, with whatever answers, an operation comes to rest by its deadline.
    #[test]
    fn an_operation_always_comes_to_rest(
        id in any::<u128>(),
        replies in prop::collection::vec(any_answer(), 1..40),
        hours in 1_i64..168,
    ) {
        let policy = Policy::default();
        let deadline = NOON + jiff::SignedDuration::from_hours(hours);
        let mut it = register(&policy, OperationId(id), NOON, deadline);
        let mut now = NOON;
        for turn in 0.. {
            let Agenda { step_at, lapse_at } = it.agenda();
            let Some(lapse_at) = lapse_at else { break };
            prop_assert!(turn < 20_000, "never rests");
            let event = match step_at {
                Some(at) if at < lapse_at => {
                    now = at;
                    Event::Polled(replies[turn % replies.len()])
                }
                Some(_) | None => {
                    now = lapse_at;
                    Event::Lapsed
                }
            };
            let Decision::Become(next, _) = decide(&policy, &it, event, now) else {
                return Err(TestCaseError::fail("what the agenda plans is never ignored"));
            };
            it = next;
        }
        prop_assert!(it.state.is_at_rest());
        prop_assert!(now <= deadline, "rested at {now}, due by {deadline}");
    }

    #[test]
    fn a_poll_never_comes_before_graph_asked_for_it(
        id in any::<u128>(),
        age in 0_u64..80_000,
        asked in 0_u64..20_000,
    ) {
        let policy = Policy::default();
        let it = Operation { id: OperationId(id), ..operation(State::Watching(watching())) };
        let (now, retry_after) = (after(age), Some(seconds(asked)));
        for answer in [
            Answer::StillRunning { retry_after },
            Answer::Undecided { retry_after },
            Answer::Throttled { retry_after },
            Answer::Trouble { retry_after },
        ] {
            let Decision::Become(next, None) = decide(&policy, &it, Event::Polled(answer), now)
            else {
                return Err(TestCaseError::fail("still watching"));
            };
            let believed = seconds(asked).min(policy.cadence.longest_asked);
            if let Some(at) = next.agenda().step_at {
                prop_assert!(now + believed <= at);
            }
        }
    }

    #[test]
    fn an_attempt_never_comes_before_its_receiver_asked_for_it(
        id in any::<u128>(),
        asked in 0_u64..100_000,
    ) {
        let policy = callback::Policy::default();
        let it = callback::owe(&policy, CallbackId { operation: OperationId(id), number: 1 }, NOON);
        let retry_after = Some(seconds(asked));
        for reply in [Reply::Refused { retry_after }, Reply::Unwell { retry_after }] {
            let event = callback::Event::Attempted(reply);
            let callback::Decision::Become(next) = callback::decide(&policy, &it, event, NOON)
            else {
                return Err(TestCaseError::fail("an attempt always counts"));
            };
            let believed = seconds(asked).min(policy.longest_asked);
            prop_assert!(NOON + believed <= next.state.agenda().step_at.unwrap());
        }
    }

    #[test]
    fn jitter_is_never_earlier_and_at_most_a_tenth_later(
        id in any::<u128>(),
        attempt in any::<u32>(),
        millis in 0_u64..100_000_000,
    ) {
        let span = Duration::from_millis(millis);
        let with_jitter = jittered(span, OperationId(id), attempt);
        prop_assert!(span <= with_jitter);
        prop_assert!(with_jitter <= span + span / 10);
        prop_assert_eq!(with_jitter, jittered(span, OperationId(id), attempt));
        prop_assert_eq!(with_jitter.subsec_nanos() % 1_000_000, 0, "whole milliseconds");
    }

    /// Whatever receivers answer, a callback ends delivered or undeliverable, and never comes early.
    #[test]
    fn a_callback_always_comes_to_rest(
        id in any::<u128>(),
        asked in prop::collection::vec(prop::option::of(0_u64..200_000), 1..20),
        admitted_late_by in 0_u64..400_000,
    ) {
        let policy = callback::Policy::default();
        let id = CallbackId { operation: OperationId(id), number: 1 };
        let mut it = callback::owe(&policy, id, NOON);
        let (mut now, mut waits) = (NOON, Vec::new());
        for turn in 0.. {
            let Agenda { step_at, lapse_at } = it.state.agenda();
            let Some(lapse_at) = lapse_at else { break };
            prop_assert!(turn < 20);
            // Its lane may let it wait.
            let event = match step_at.map(|at| at + seconds(admitted_late_by)) {
                Some(at) if at < lapse_at => {
                    waits.push(at.duration_since(now));
                    now = at;
                    let retry_after = asked[turn % asked.len()].map(seconds);
                    callback::Event::Attempted(Reply::Unwell { retry_after })
                }
                Some(_) | None => {
                    now = lapse_at;
                    callback::Event::Lapsed
                }
            };
            let callback::Decision::Become(next) = callback::decide(&policy, &it, event, now) else {
                return Err(TestCaseError::fail("what the agenda plans is never ignored"));
            };
            it = next;
        }
        prop_assert!(it.attempts <= 10);
        for (wait, scheduled) in waits.iter().zip(&policy.schedule) {
            prop_assert!(jiff::SignedDuration::try_from(*scheduled).unwrap() <= *wait);
        }
        let rested_at = it.state.rested_at().expect("at rest");
        prop_assert!(rested_at <= NOON + policy.longest_owed);
    }
}
