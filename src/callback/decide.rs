//! What follows from what happened to a callback.

use std::time::Duration;

use jiff::Timestamp;

use super::{Callback, CallbackId, Policy, Reason, State};
use crate::operation::{after, jittered};

/// Something that happened to a callback.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// An attempt was made, and this came of it.
    Attempted(Reply),
    /// The caller wants it sent again.
    ResendRequested,
    /// Its turn came, and its destination is gone: the receiver has said of another callback that it
    /// wants nothing there any more.
    DestinationGone,
    /// The time that the agenda calls `lapse_at` has come.
    Lapsed,
}

/// What is learnt of a destination, which is a caller's callback URL, from what happened to one of its
/// callbacks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Destination {
    /// The receiver wants nothing there any more. Nothing goes there until the caller says otherwise.
    Gone,
    /// The caller wants a callback to go there, and so says otherwise.
    Back,
}

impl Event {
    /// What it says of the callback's destination, if it says anything.
    pub fn destination(self) -> Option<Destination> {
        match self {
            Self::Attempted(Reply::Gone) => Some(Destination::Gone),
            Self::ResendRequested => Some(Destination::Back),
            Self::Attempted(
                Reply::Accepted
                | Reply::Refused { .. }
                | Reply::Unwell { .. }
                | Reply::AddressRefused,
            )
            | Self::DestinationGone
            | Self::Lapsed => None,
        }
    }
}

/// What one attempt came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply {
    /// 2xx.
    Accepted,
    /// A status that blames the message: redirects, and 4xx but 410 and 429.
    Refused { retry_after: Option<Duration> },
    /// A status that blames the receiver (429, 5xx), or no answer at all.
    Unwell { retry_after: Option<Duration> },
    /// 410.
    Gone,
    /// The address is not one that we may connect to, so nothing was sent.
    AddressRefused,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    Become(Callback),
    /// The event came too late, or too early, to matter.
    Ignore(Ignored),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ignored {
    AlreadyAtRest,
    AlreadyPending,
    NotYetDue,
}

/// A message that is owed from `now` on.
pub fn owe(policy: &Policy, id: CallbackId, now: Timestamp) -> Callback {
    Callback { id, owed_at: now, attempts: 0, state: pending(policy, id, 0, now) }
}

/// Decides what becomes of `callback` now that `event` has happened.
pub fn decide(policy: &Policy, callback: &Callback, event: Event, now: Timestamp) -> Decision {
    let become_state = |state| Decision::Become(Callback { state, ..callback.clone() });
    match (&callback.state, event) {
        (&State::Pending { tries, give_up_at, .. }, Event::Attempted(reply)) => {
            let attempts = callback.attempts.saturating_add(1);
            let state =
                attempted(policy, callback, tries.saturating_add(1), give_up_at, reply, now);
            Decision::Become(Callback { attempts, state, ..callback.clone() })
        }
        (State::Pending { give_up_at, .. }, Event::Lapsed) if now < *give_up_at => {
            Decision::Ignore(Ignored::NotYetDue)
        }
        (State::Pending { .. }, Event::Lapsed) => {
            become_state(State::Undeliverable { reason: Reason::TooOld, at: now })
        }
        (State::Pending { .. }, Event::DestinationGone) => {
            become_state(State::Undeliverable { reason: Reason::Gone, at: now })
        }
        (State::Pending { .. }, Event::ResendRequested) => {
            Decision::Ignore(Ignored::AlreadyPending)
        }
        (State::Delivered { .. } | State::Undeliverable { .. }, Event::ResendRequested) => {
            become_state(pending(policy, callback.id, callback.attempts, now))
        }
        (
            State::Delivered { .. } | State::Undeliverable { .. },
            Event::Attempted(_) | Event::DestinationGone | Event::Lapsed,
        ) => Decision::Ignore(Ignored::AlreadyAtRest),
    }
}

/// The start of a round; `attempts` made before it only vary the jitter.
fn pending(policy: &Policy, id: CallbackId, attempts: u32, now: Timestamp) -> State {
    let wait = policy.wait_before(0).unwrap_or_default();
    State::Pending {
        tries: 0,
        next_attempt_at: after(now, jittered(wait, id.operation, attempts)),
        give_up_at: after(now, policy.longest_owed),
    }
}

fn attempted(
    policy: &Policy,
    callback: &Callback,
    tries: u32,
    give_up_at: Timestamp,
    reply: Reply,
    now: Timestamp,
) -> State {
    let undeliverable = |reason| State::Undeliverable { reason, at: now };
    match reply {
        Reply::Accepted => State::Delivered { at: now },
        Reply::Gone => undeliverable(Reason::Gone),
        Reply::AddressRefused => undeliverable(Reason::AddressRefused),
        Reply::Refused { retry_after } | Reply::Unwell { retry_after } => {
            let Some(scheduled) = policy.wait_before(tries) else {
                return undeliverable(Reason::AttemptsSpent);
            };
            let asked = retry_after.unwrap_or_default().min(policy.longest_asked);
            let wait = jittered(scheduled.max(asked), callback.id.operation, callback.attempts);
            let next_attempt_at = after(now, wait);
            if give_up_at <= next_attempt_at {
                return undeliverable(Reason::TooOld);
            }
            State::Pending { tries, next_attempt_at, give_up_at }
        }
    }
}
