//! The life of an operation: what a caller asked us to track, until we know how it ended.
//!
//! ```text
//!                      still running, trouble, throttled: later
//!                        ┌──────┐
//!                        ▼      │
//!   registered ────▶  Watching ─┘ ── final / refused for good / deadline ──▶ Settled(outcome)
//!                     │  ▲    │                                                  ▲
//!                     │  │    └── credential refused ──▶ Blocked ── time is up ──┘
//!                     │  └────────────── renewed ──────────┘
//!                     └── cancelled (also when Blocked) ──▶ Cancelled
//! ```
//!
//! Entering `Settled` owes the caller its one final callback. Entering `Blocked` owes a notice, which is
//! owed again when half of the time is over and when nine tenths are. So does Graph's first `running`,
//! where the caller wants to hear of it.
//! Everything here is pure: time comes in as an argument and nothing can fail or wait.

mod decide;
mod identity;
mod schedule;

use jiff::Timestamp;

pub use decide::{
    Answer, Decision, Event, Hindrance, Ignored, Owed, Renewal, Verdict, decide, register,
};
pub use identity::{InvalidId, OperationId};
use schedule::reminder;
pub use schedule::{Cadence, Policy, jittered};
pub(crate) use schedule::{after, before, elapsed};

/// One operation of Graph on its way to an outcome.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Operation {
    pub id: OperationId,
    pub registered_at: Timestamp,
    /// When we stop waiting for Graph and settle with [`Outcome::Expired`].
    pub deadline: Timestamp,
    /// How many times Graph has been asked and the result was recorded.
    pub polls: u32,
    /// How many callbacks this operation has owed so far; the newest bears this number.
    pub callbacks: u32,
    /// Whether its caller is to hear when Graph first calls it running.
    pub running: RunningNotice,
    pub state: State,
}

/// Whether the caller is to be told that Graph has begun, which it is once at the most.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum RunningNotice {
    #[default]
    Unwanted,
    /// Graph has not said `running` yet.
    Wanted,
    Owed,
}

impl RunningNotice {
    pub const ALL: [Self; 3] = [Self::Unwanted, Self::Wanted, Self::Owed];

    /// The word for it in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unwanted => "unwanted",
            Self::Wanted => "wanted",
            Self::Owed => "owed",
        }
    }

    /// What [`RunningNotice::as_str`] spells as `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|notice| notice.as_str() == word)
    }
}

/// Where an operation stands; each variant holds what is true in that state alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// Graph has not told the end yet.
    Watching(Watch),
    /// Graph refuses the credential, so polling is pointless until the caller brings another.
    Blocked {
        refusal: Refusal,
        since: Timestamp,
        /// When waiting for a credential ends, with [`Outcome::Unauthorized`].
        until: Timestamp,
        /// A renewal never makes us poll before this, however quick it is.
        earliest_poll_at: Timestamp,
        /// How many reminders have been owed since the first notice (see [`State::next_reminder`]).
        reminders: u8,
    },
    /// The outcome is known, for good.
    Settled {
        outcome: Outcome,
        /// Why no credential was to be had, where the outcome is [`Outcome::Unauthorized`].
        refusal: Option<Refusal>,
        at: Timestamp,
    },
    /// The caller no longer wants to know.
    Cancelled { at: Timestamp },
}

/// What is known while watching: when to ask next, and what went wrong in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watch {
    pub next_poll_at: Timestamp,
    /// Polls in a row that met trouble at Graph or on the way to it.
    pub troubles: u32,
    /// Polls in a row that Graph called malformed (400 and its like).
    pub rejections: u32,
    /// Polls in a row for which Graph did not accept a credential that we could renew.
    pub refusals: u32,
}

impl Watch {
    /// Watching with a clean slate.
    pub fn from(next_poll_at: Timestamp) -> Self {
        Self { next_poll_at, troubles: 0, rejections: 0, refusals: 0 }
    }
}

/// How an operation ended. The first three are Graph's words; the rest are ours, for when Graph
/// never told.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    Succeeded,
    Failed,
    Skipped,
    /// The deadline passed first.
    Expired,
    /// Graph does not know the operation (404), and not for lack of replication.
    NotFound,
    /// Graph knew the operation and has forgotten it (410).
    Gone,
    /// No credential was to be had that may read the operation.
    Unauthorized,
    /// Graph calls our request malformed, again and again (400).
    Rejected,
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Expired,
        Self::NotFound,
        Self::Gone,
        Self::Unauthorized,
        Self::Rejected,
    ];

    /// The word for it in the API, in callbacks, in the store and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Expired => "expired",
            Self::NotFound => "notFound",
            Self::Gone => "gone",
            Self::Unauthorized => "unauthorized",
            Self::Rejected => "rejected",
        }
    }

    /// The outcome that [`Outcome::as_str`] spells as `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// Why a credential does not work.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    /// Graph answers 401.
    Unauthorized,
    /// Graph answers 403: permission, licence or conditional access is missing.
    Forbidden,
    /// The access token that was handed in has reached the end of its life.
    TokenExpired,
    /// The token endpoint refuses the grant; the caller must act (`invalid_grant` and its like).
    GrantRefused,
    /// The token endpoint refuses the client; whoever set up the connection must act.
    ClientRefused,
}

impl Refusal {
    pub const ALL: [Self; 5] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::TokenExpired,
        Self::GrantRefused,
        Self::ClientRefused,
    ];

    /// The word for it in the API, in callbacks, in the store and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::TokenExpired => "tokenExpired",
            Self::GrantRefused => "grantRefused",
            Self::ClientRefused => "clientRefused",
        }
    }

    /// The refusal that [`Refusal::as_str`] spells as `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.as_str() == word)
    }
}

/// When something is next to happen by itself. Both are `None` at rest.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Agenda {
    /// When the next step falls due, to be taken as soon as its lane admits it.
    pub step_at: Option<Timestamp>,
    /// When waiting ends whether or not the lane ever admitted the step.
    pub lapse_at: Option<Timestamp>,
}

impl State {
    /// What is to happen next by itself.
    ///
    /// Derived, never decided beside the state, so that a crash cannot separate the two.
    pub fn agenda(&self, deadline: Timestamp) -> Agenda {
        match *self {
            Self::Watching(Watch { next_poll_at, .. }) => Agenda {
                step_at: (next_poll_at < deadline).then_some(next_poll_at),
                lapse_at: Some(deadline),
            },
            Self::Blocked { until, .. } => {
                Agenda { step_at: None, lapse_at: Some(self.next_reminder().unwrap_or(until)) }
            }
            Self::Settled { .. } | Self::Cancelled { .. } => Agenda::default(),
        }
    }

    /// When the caller is next reminded that a credential is needed.
    pub fn next_reminder(&self) -> Option<Timestamp> {
        match *self {
            Self::Blocked { since, until, reminders, .. } => reminder(since, until, reminders),
            Self::Watching(_) | Self::Settled { .. } | Self::Cancelled { .. } => None,
        }
    }

    /// Why there is no credential, while that is so or where it ended so.
    pub fn refusal(&self) -> Option<Refusal> {
        match *self {
            Self::Blocked { refusal, .. } => Some(refusal),
            Self::Settled { refusal, .. } => refusal,
            Self::Watching(_) | Self::Cancelled { .. } => None,
        }
    }

    /// When waiting for a credential ends, while it is waited for.
    pub fn blocked_until(&self) -> Option<Timestamp> {
        match *self {
            Self::Blocked { until, .. } => Some(until),
            Self::Watching(_) | Self::Settled { .. } | Self::Cancelled { .. } => None,
        }
    }

    /// The word for it in the API, in the store and in logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Watching(_) => "watching",
            Self::Blocked { .. } => "blocked",
            Self::Settled { .. } => "settled",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Since when nothing happens any more.
    pub fn rested_at(&self) -> Option<Timestamp> {
        match *self {
            Self::Watching(_) | Self::Blocked { .. } => None,
            Self::Settled { at, .. } | Self::Cancelled { at } => Some(at),
        }
    }

    /// Whether nothing will ever happen again.
    pub fn is_at_rest(&self) -> bool {
        self.rested_at().is_some()
    }
}

impl Operation {
    /// See [`State::agenda`].
    pub fn agenda(&self) -> Agenda {
        self.state.agenda(self.deadline)
    }

    /// Whether nothing has happened to it since before `at`, nor ever will.
    pub fn rested_before(&self, at: Timestamp) -> bool {
        self.state.rested_at().is_some_and(|rested_at| rested_at < at)
    }

    /// How it ended, once that is known.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Settled { outcome, .. } => Some(outcome),
            State::Watching(_) | State::Blocked { .. } | State::Cancelled { .. } => None,
        }
    }
}
