//! Bulk resends: one wish for many callbacks, which is granted little by little.
//!
//! A bulk resend walks over callbacks in the order of their ids, and writes down how far it has come in
//! the same transaction as what it has changed. So whoever goes on with it, after a crash or in another
//! replica, begins where it was, and two who are at it at once take turns: the one who comes second has
//! changed nothing. Where some had to be held back, it walks once more. It meets none a second time that
//! it has sent again, for that one has come to rest since it was asked for, if it has at all.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::CallerName;
use super::filters::Conditions;
use crate::callback::{Callback, CallbackId, Reason, State};
use crate::lane::LaneName;
use crate::operation::InvalidId;

/// Names a bulk resend for as long as anyone may ask about it: `rs_` and 32 hex digits, later ones
/// behind earlier ones.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ResendId(pub u128);

/// How a callback can be at rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rest {
    Delivered,
    Undeliverable,
}

/// Which callbacks to send again: those of which all that is said here is true.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Whose; everybody's unless given.
    pub caller: Option<CallerName>,
    pub rest: Rest,
    /// Why they are undeliverable.
    pub reason: Option<Reason>,
    /// Where they go to: scheme, host and port.
    pub origin: Option<String>,
    /// They came to rest then or later.
    pub since: Option<Timestamp>,
    /// They came to rest before.
    pub until: Option<Timestamp>,
}

/// A bulk resend, and how far it has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resend {
    pub id: ResendId,
    /// Who asked for it; the operator, where there is none.
    pub asked_by: Option<CallerName>,
    /// Of callbacks that come to rest from then on, none is sent again: not those that fail once
    /// more, either.
    pub asked_at: Timestamp,
    pub wanted: Wanted,
    /// How many callbacks there were to be sent again when it was asked for.
    pub matched: u64,
    /// How many of them have been set on their way.
    pub resent: u64,
    /// The last callback that was looked at in this walk.
    pub reached: Option<CallbackId>,
    /// How many were held back in this walk, for another one.
    pub held_back: u64,
    /// Since when there is nothing more to be done.
    pub done_at: Option<Timestamp>,
}

/// What became of a wish for a bulk resend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asked {
    Begun(Resend),
    /// The same is wanted by the same one already.
    UnderWay(Resend),
    /// Too many are under way for the one who asked.
    LimitReached,
}

/// The next callbacks of a bulk resend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Those that are wanted, each with the lane that it goes by.
    pub callbacks: Vec<(Callback, LaneName)>,
    /// How many callbacks wait for their turn on these lanes already.
    pub waiting: HashMap<LaneName, u32>,
    /// The last that was looked at, wanted or not; the same as before, if there was none.
    pub reached: Option<CallbackId>,
    /// Whether there is none behind them.
    pub is_last: bool,
}

/// A step of a bulk resend, decided upon what stood in the store a moment ago.
#[derive(Clone, Debug)]
pub struct Advance {
    pub id: ResendId,
    /// How far it had come. Somebody else has gone on with it, if that is not so any more.
    pub from: Option<CallbackId>,
    /// How far it has come now: nowhere yet, if it begins another walk.
    pub to: Option<CallbackId>,
    /// How many were held back so far in the walk that it is in now.
    pub held_back: u64,
    pub changes: Vec<ResendChange>,
    /// If this is the end of it.
    pub done_at: Option<Timestamp>,
}

/// What is to become of a callback, provided that it is still what it was taken for.
#[derive(Clone, Debug)]
pub struct ResendChange {
    pub before: Callback,
    pub after: Callback,
}

/// Whether an advance took effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Advanced {
    /// So many callbacks have changed.
    Saved { resent: u64 },
    /// Somebody else has gone on with it, or it is gone, and their work stands.
    Overtaken,
}

impl Rest {
    pub const ALL: [Self; 2] = [Self::Delivered, Self::Undeliverable];

    /// The word of [`State::as_str`] for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Undeliverable => "undeliverable",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rest| rest.as_str() == word)
    }
}

impl Wanted {
    /// Whether a callback is among those that were wanted at `asked_at`.
    pub(super) fn includes(
        &self,
        callback: &Callback,
        caller: &CallerName,
        origin: &str,
        asked_at: Timestamp,
    ) -> bool {
        let (rest, reason, at) = match callback.state {
            State::Pending { .. } => return false,
            State::Delivered { at } => (Rest::Delivered, None, at),
            State::Undeliverable { reason, at } => (Rest::Undeliverable, Some(reason), at),
        };
        rest == self.rest
            && at < asked_at
            && self.caller.as_ref().is_none_or(|wanted| wanted == caller)
            && self.reason.is_none_or(|wanted| reason == Some(wanted))
            && self.origin.as_ref().is_none_or(|wanted| wanted == origin)
            && self.since.is_none_or(|since| since <= at)
            && self.until.is_none_or(|until| at < until)
    }

    /// What rows of `callbacks` have in common that may be wanted; an index finds them.
    pub(super) fn place(&self) -> Conditions {
        let mut place = Conditions::default();
        if let Some(caller) = &self.caller {
            place.and("caller =", caller.as_str());
        }
        place.and_state(self.rest.as_str());
        place.and_body();
        place
    }

    /// What is true of the rows of `callbacks` that were wanted at `asked_at`, and of no others.
    pub(super) fn conditions(&self, asked_at: Timestamp) -> Conditions {
        let mut conditions = self.place();
        conditions.and("rested_at <", asked_at);
        if let Some(reason) = self.reason {
            conditions.and("reason =", reason.as_str());
        }
        if let Some(origin) = &self.origin {
            conditions.and("origin =", origin.as_str());
        }
        if let Some(since) = self.since {
            conditions.and("rested_at >=", since);
        }
        if let Some(until) = self.until {
            conditions.and("rested_at <", until);
        }
        conditions
    }
}

impl Resend {
    /// How many callbacks it did not come to send again: they had gone out by another wish meanwhile,
    /// or were forgotten, or cannot be sent any more. Known once it is done.
    pub fn skipped(&self) -> Option<u64> {
        self.done_at.map(|_| self.matched.saturating_sub(self.resent))
    }

    /// Whether the same is wanted by the same one.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.asked_by == other.asked_by && self.wanted == other.wanted
    }
}

impl fmt::Display for ResendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rs_{:032x}", self.0)
    }
}

impl FromStr for ResendId {
    type Err = InvalidId;

    /// Accepts exactly what [`fmt::Display`] prints.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { expected: "`rs_` and 32 lower-case hex digits" };
        let digits = text.strip_prefix("rs_").ok_or(invalid)?;
        let id = Self(u128::from_str_radix(digits, 16).map_err(|_| invalid)?);
        if id.to_string() != text {
            return Err(invalid);
        }
        Ok(id)
    }
}
