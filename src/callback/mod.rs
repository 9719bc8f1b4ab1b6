//! The life of a callback: one message owed to a receiver, until it is delivered or given up.
//!
//! ```text
//!                 not 2xx, no answer: later
//!                  ┌─────┐
//!                  ▼     │
//!   owed ────▶  Pending ─┘ ── 2xx ─────────────────────────────────▶ Delivered
//!                 ▲   └── 410, address refused, attempts or age spent ─▶ Undeliverable(reason)
//!                 └────────────── resend asked ──────── Delivered | Undeliverable
//! ```
//!
//! A 410 is about the destination, which is the caller's callback URL, and so about every other callback
//! to it: their turn ends them, without an attempt, until the caller says otherwise (see
//! [`Destination`]).
//!
//! Pure, like [`crate::operation`]: time comes in as an argument and nothing can fail or wait.

mod decide;
mod schedule;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::operation::{Agenda, InvalidId, OperationId};

pub use decide::{Decision, Destination, Event, Ignored, Reply, decide, owe};
pub use schedule::Policy;

/// Names one callback, and is its `webhook-id` in every attempt: `msg_`, the operation's 32 hex
/// digits, `_`, and which of the operation's callbacks it is, counted from 1.
///
/// Derived rather than drawn, so that an operation settled twice by a fault could still not owe
/// two messages that a receiver would take for different ones.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CallbackId {
    pub operation: OperationId,
    pub number: u32,
}

/// One message owed to a receiver. Its content lives beside it, and never changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Callback {
    pub id: CallbackId,
    pub owed_at: Timestamp,
    /// Attempts made in the whole life, over all rounds.
    pub attempts: u32,
    pub state: State,
}

/// Where a callback stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    Pending {
        /// Attempts made since it was owed, or since a resend was asked for.
        tries: u32,
        next_attempt_at: Timestamp,
        /// When we give up, however few attempts its lane admitted.
        give_up_at: Timestamp,
    },
    /// The receiver answered 2xx.
    Delivered {
        at: Timestamp,
    },
    Undeliverable {
        reason: Reason,
        at: Timestamp,
    },
}

/// Why a callback was given up.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// The receiver answered 410, to this one or to another one at the same URL: it does not want it
    /// any more.
    Gone,
    /// The callback URL leads to an address that the operator does not allow.
    AddressRefused,
    /// Every attempt of the schedule was made.
    AttemptsSpent,
    /// It was owed for too long.
    TooOld,
}

impl Reason {
    pub const ALL: [Self; 4] =
        [Self::Gone, Self::AddressRefused, Self::AttemptsSpent, Self::TooOld];

    /// The word for it in the API, in the store and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::AddressRefused => "addressRefused",
            Self::AttemptsSpent => "attemptsSpent",
            Self::TooOld => "tooOld",
        }
    }

    /// The reason that [`Reason::as_str`] spells as `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl State {
    /// What is to happen next by itself. Derived, never decided beside the state.
    pub fn agenda(&self) -> Agenda {
        match *self {
            Self::Pending { next_attempt_at, give_up_at, .. } => Agenda {
                step_at: (next_attempt_at < give_up_at).then_some(next_attempt_at),
                lapse_at: Some(give_up_at),
            },
            Self::Delivered { .. } | Self::Undeliverable { .. } => Agenda::default(),
        }
    }

    /// Since when nothing happens any more, unless a resend is asked for.
    pub fn rested_at(&self) -> Option<Timestamp> {
        match *self {
            Self::Pending { .. } => None,
            Self::Delivered { at } | Self::Undeliverable { at, .. } => Some(at),
        }
    }

    /// The word for it in the API, in the store and in logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Delivered { .. } => "delivered",
            Self::Undeliverable { .. } => "undeliverable",
        }
    }
}

impl fmt::Display for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "msg_{:032x}_{}", self.operation.0, self.number)
    }
}

impl FromStr for CallbackId {
    type Err = InvalidId;

    /// Accepts exactly what [`fmt::Display`] prints.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId {
            expected: "`msg_`, 32 lower-case hex digits, `_` and a number from 1 upwards",
        };
        let (operation, number) =
            text.strip_prefix("msg_").and_then(|rest| rest.split_once('_')).ok_or(invalid)?;
        let id = Self {
            operation: format!("op_{operation}").parse().map_err(|_| invalid)?,
            number: number.parse().map_err(|_| invalid)?,
        };
        if id.number == 0 || id.to_string() != text {
            return Err(invalid);
        }
        Ok(id)
    }
}
