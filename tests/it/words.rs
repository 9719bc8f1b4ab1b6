//! What the pure values say of themselves: their words, their names, and what follows from a state.

use std::fmt::Write as _;

use engagement_bridge::callback::{self, Callback, CallbackId, Reason};
use engagement_bridge::courier::Format;
use engagement_bridge::operation::{
    Agenda, InvalidId, Operation, OperationId, Outcome, Owed, Refusal, RunningNotice, State, Watch,
};

use crate::support::{NOON, after};

/// Callers, stored rows and dashboards hold these words: one that changes breaks all three.
#[test]
fn words_are_what_callers_and_stored_rows_know() {
    let outcomes: Vec<_> = Outcome::ALL.map(Outcome::as_str).into();
    let expected =
        "succeeded failed skipped expired notFound gone unauthorized rejected".split(' ');
    assert_eq!(outcomes, expected.collect::<Vec<_>>());
    let refusals: Vec<_> = Refusal::ALL.map(Refusal::as_str).into();
    let expected = "unauthorized forbidden tokenExpired grantRefused clientRefused".split(' ');
    assert_eq!(refusals, expected.collect::<Vec<_>>());
    let reasons: Vec<_> = Reason::ALL.map(Reason::as_str).into();
    let expected = "gone addressRefused attemptsSpent tooOld".split(' ');
    assert_eq!(reasons, expected.collect::<Vec<_>>());
    assert_eq!(Format::ALL.map(Format::as_str), ["envelope", "operation", "cloudEvents"]);
    assert_eq!(RunningNotice::ALL.map(RunningNotice::as_str), ["unwanted", "wanted", "owed"]);
    let owed =
        [Owed::Final(Outcome::Gone), Owed::CredentialNeeded(Refusal::Forbidden), Owed::Running];
    assert_eq!(owed.map(Owed::as_str), ["gone", "credentialNeeded", "running"]);
}

#[test]
fn a_word_reads_back_as_what_it_was_written_for() {
    for outcome in Outcome::ALL {
        assert_eq!(Outcome::from_word(outcome.as_str()), Some(outcome));
    }
    for refusal in Refusal::ALL {
        assert_eq!(Refusal::from_word(refusal.as_str()), Some(refusal));
    }
    for reason in Reason::ALL {
        assert_eq!(Reason::from_word(reason.as_str()), Some(reason));
    }
    for format in Format::ALL {
        assert_eq!(Format::from_word(format.as_str()), Some(format));
    }
    for notice in RunningNotice::ALL {
        assert_eq!(RunningNotice::from_word(notice.as_str()), Some(notice));
    }
    assert_eq!(Format::from_word("cloudevents"), None);
    assert_eq!(RunningNotice::from_word(""), None);
    assert_eq!(Outcome::from_word("Succeeded"), None);
    assert_eq!(Refusal::from_word(""), None);
    assert_eq!(Reason::from_word("gone "), None);
}

/// No other answer of a receiver is about more than the one callback.
#[test]
fn only_a_410_and_a_wish_say_something_of_a_destination() {
    use callback::{Destination, Event, Reply};
    assert_eq!(Event::Attempted(Reply::Gone).destination(), Some(Destination::Gone));
    assert_eq!(Event::ResendRequested.destination(), Some(Destination::Back));
    for event in [
        Event::Attempted(Reply::Accepted),
        Event::Attempted(Reply::Refused { retry_after: None }),
        Event::Attempted(Reply::Unwell { retry_after: None }),
        Event::Attempted(Reply::AddressRefused),
        Event::DestinationGone,
        Event::Lapsed,
    ] {
        assert_eq!(event.destination(), None, "{event:?}");
    }
}

#[test]
fn one_operation_and_one_callback_have_one_spelling() {
    let operation = OperationId(0x0192_ab00_0000_7000_8000_0000_0000_00ff);
    assert_eq!(operation.to_string(), "op_0192ab000000700080000000000000ff");
    assert_eq!(format!("{operation:?}"), operation.to_string());
    assert_eq!(operation.to_string().parse(), Ok(operation));
    let callback = CallbackId { operation, number: 12 };
    assert_eq!(callback.to_string(), "msg_0192ab000000700080000000000000ff_12");
    assert_eq!(callback.to_string().parse(), Ok(callback));

    for other in [
        "0192ab000000700080000000000000ff",
        "op_0192AB000000700080000000000000FF",
        "op_192ab000000700080000000000000ff",
        "op_00192ab000000700080000000000000ff",
        "op_+192ab000000700080000000000000ff",
        "op_",
        "",
    ] {
        let refused = other.parse::<OperationId>().unwrap_err();
        assert_eq!(refused.expected, "`op_` and 32 lower-case hex digits", "{other}");
    }
    for other in [
        "msg_0192ab000000700080000000000000ff_0",
        "msg_0192ab000000700080000000000000ff_01",
        "msg_0192ab000000700080000000000000ff_+1",
        "msg_0192ab000000700080000000000000ff_4294967296",
        "msg_0192ab000000700080000000000000ff_",
        "msg_0192ab000000700080000000000000ff",
        "msg_0192AB000000700080000000000000ff_1",
        "op_0192ab000000700080000000000000ff",
    ] {
        let InvalidId { expected } = other.parse::<CallbackId>().unwrap_err();
        assert!(expected.starts_with("`msg_`"), "{other}: {expected}");
    }
}

/// What follows from each state of an operation whose deadline is at 100 s.
#[test]
fn an_agenda_follows_from_the_state_of_an_operation() {
    let blocked = |reminders| State::Blocked {
        refusal: Refusal::Forbidden,
        since: NOON,
        until: after(60),
        earliest_poll_at: after(30),
        reminders,
    };
    let states = [
        State::Watching(Watch::from(after(99))),
        State::Watching(Watch::from(after(100))),
        State::Watching(Watch::from(after(101))),
        blocked(0),
        blocked(1),
        blocked(2),
        State::Settled { outcome: Outcome::Gone, refusal: None, at: after(40) },
        State::Cancelled { at: after(50) },
    ];
    let mut table = String::new();
    for state in states {
        let operation = Operation {
            id: OperationId(1),
            registered_at: NOON,
            deadline: after(100),
            polls: 0,
            callbacks: 0,
            running: RunningNotice::Unwanted,
            state,
        };
        let state = &operation.state;
        let rested = state.rested_at().map(|at| at.duration_since(NOON).as_secs());
        let (at_40, at_41) =
            (operation.rested_before(after(40)), operation.rested_before(after(41)));
        writeln!(
            table,
            "{:<9} {:<24} rested at {:?}, before 40: {at_40}, before 41: {at_41}; \
             at rest: {}, outcome: {}",
            state.as_str(),
            seconds(operation.agenda()),
            rested,
            state.is_at_rest(),
            operation.outcome().map_or("none", Outcome::as_str),
        )
        .unwrap();
    }
    insta::assert_snapshot!(table);
}

#[test]
fn an_agenda_follows_from_the_state_of_a_callback() {
    let pending = |next_attempt_at, give_up_at| callback::State::Pending {
        tries: 1,
        next_attempt_at: after(next_attempt_at),
        give_up_at: after(give_up_at),
    };
    let states = [
        pending(99, 100),
        pending(100, 100),
        pending(101, 100),
        callback::State::Delivered { at: after(40) },
        callback::State::Undeliverable { reason: Reason::Gone, at: after(50) },
    ];
    let mut table = String::new();
    for state in states {
        let id = CallbackId { operation: OperationId(1), number: 1 };
        let callback = Callback { id, owed_at: NOON, attempts: 1, state };
        let rested = callback.state.rested_at().map(|at| at.duration_since(NOON).as_secs());
        writeln!(
            table,
            "{:<13} {:<24} rested at {rested:?}",
            callback.state.as_str(),
            seconds(callback.state.agenda()),
        )
        .unwrap();
    }
    insta::assert_snapshot!(table);
}

fn seconds(agenda: Agenda) -> String {
    let since = |at: Option<jiff::Timestamp>| {
        at.map_or_else(|| "never".to_owned(), |at| at.duration_since(NOON).as_secs().to_string())
    };
    format!("step {}, lapse {}", since(agenda.step_at), since(agenda.lapse_at))
}
