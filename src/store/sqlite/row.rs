//! Rows to values and back, by hand, with errors that name table, column and row.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::FromSql;

use crate::callback::{self, Callback, CallbackId, Reason};
use crate::lane::{Lane, LaneName, Slot};
use crate::operation::{Operation, Outcome, Refusal, State, Watch};
use crate::store::StoreError;

/// A row of a table, read by the names of its columns.
pub(super) struct Columns<'row> {
    pub(super) table: &'static str,
    pub(super) row: &'row Row<'row>,
}

/// The value of a column is not one that we write.
#[derive(Debug, thiserror::Error)]
#[error("unexpected value {0:?}")]
struct Unexpected(String);

impl Columns<'_> {
    pub(super) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, StoreError> {
        self.row.get(column).map_err(|error| self.inconsistent(column, error))
    }

    /// Reads a column of text as what its words stand for.
    pub(super) fn word<T>(
        &self,
        column: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        let word: String = self.get(column)?;
        read(&word).ok_or_else(|| self.inconsistent(column, Unexpected(word)))
    }

    pub(super) fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        let millis = self.get(column)?;
        Timestamp::from_millisecond(millis).map_err(|error| self.inconsistent(column, error))
    }

    pub(super) fn time_or_null(
        &self,
        column: &'static str,
    ) -> Result<Option<Timestamp>, StoreError> {
        let millis: Option<i64> = self.get(column)?;
        let time = millis.map(Timestamp::from_millisecond).transpose();
        time.map_err(|error| self.inconsistent(column, error))
    }

    pub(super) fn inconsistent(
        &self,
        column: &'static str,
        source: impl Into<anyhow::Error>,
    ) -> StoreError {
        // Where it is a number that a row begins with, its name comes next.
        let name = |index| Some(self.row.get_ref(index).ok()?.as_str().ok()?.to_owned());
        let row = (0..2).find_map(name);
        StoreError::inconsistent(self.table, column, row.unwrap_or_default(), source)
    }

    pub(super) fn operation(&self) -> Result<Operation, StoreError> {
        let state = match self.get::<String>("state")?.as_str() {
            "watching" => State::Watching(Watch {
                next_poll_at: self.time("next_poll_at")?,
                troubles: self.get("troubles")?,
                rejections: self.get("rejections")?,
                refusals: self.get("refusals")?,
            }),
            "blocked" => State::Blocked {
                refusal: self.word("refusal", Refusal::from_word)?,
                until: self.time("blocked_until")?,
                earliest_poll_at: self.time("earliest_poll_at")?,
            },
            "settled" => State::Settled {
                outcome: self.word("outcome", Outcome::from_word)?,
                at: self.time("rested_at")?,
            },
            "cancelled" => State::Cancelled { at: self.time("rested_at")? },
            other => return Err(self.inconsistent("state", Unexpected(other.to_owned()))),
        };
        Ok(Operation {
            id: self.word("id", |text| text.parse().ok())?,
            registered_at: self.time("registered_at")?,
            deadline: self.time("deadline")?,
            polls: self.get("polls")?,
            callbacks: self.get("callbacks")?,
            state,
        })
    }

    pub(super) fn callback(&self) -> Result<Callback, StoreError> {
        let state = match self.get::<String>("state")?.as_str() {
            "pending" => callback::State::Pending {
                tries: self.get("tries")?,
                next_attempt_at: self.time("next_attempt_at")?,
                give_up_at: self.time("give_up_at")?,
            },
            "delivered" => callback::State::Delivered { at: self.time("rested_at")? },
            "undeliverable" => callback::State::Undeliverable {
                reason: self.word("reason", Reason::from_word)?,
                at: self.time("rested_at")?,
            },
            other => return Err(self.inconsistent("state", Unexpected(other.to_owned()))),
        };
        let id = CallbackId {
            operation: self.word("operation_id", |text| text.parse().ok())?,
            number: self.get("number")?,
        };
        let (owed_at, attempts) = (self.time("owed_at")?, self.get("attempts")?);
        Ok(Callback { id, owed_at, attempts, state })
    }

    pub(super) fn lane(&self) -> Result<StoredLane, StoreError> {
        let name = self.word("name", LaneName::parse)?;
        let lane = Lane {
            kind: name.kind,
            allowance: self.get("allowance")?,
            failures: self.get("failures")?,
            paused_until: self.time_or_null("paused_until")?,
            slots: self.word("slots", read_slots)?,
        };
        Ok(StoredLane { name, lane, served_at: self.time("served_at")? })
    }
}

/// A row of `lanes`.
pub(super) struct StoredLane {
    pub(super) name: LaneName,
    pub(super) lane: Lane,
    pub(super) served_at: Timestamp,
}

/// The columns of `operations` that follow from the state; null where they say nothing.
#[derive(Default)]
pub(super) struct StateColumns {
    pub(super) next_poll_at: Option<i64>,
    pub(super) troubles: Option<u32>,
    pub(super) rejections: Option<u32>,
    pub(super) refusals: Option<u32>,
    pub(super) refusal: Option<&'static str>,
    pub(super) blocked_until: Option<i64>,
    pub(super) earliest_poll_at: Option<i64>,
    pub(super) outcome: Option<&'static str>,
    pub(super) rested_at: Option<i64>,
}

impl From<&State> for StateColumns {
    fn from(state: &State) -> Self {
        let nothing = Self::default();
        match state {
            State::Watching(watch) => Self {
                next_poll_at: Some(watch.next_poll_at.as_millisecond()),
                troubles: Some(watch.troubles),
                rejections: Some(watch.rejections),
                refusals: Some(watch.refusals),
                ..nothing
            },
            State::Blocked { refusal, until, earliest_poll_at } => Self {
                refusal: Some(refusal.as_str()),
                blocked_until: Some(until.as_millisecond()),
                earliest_poll_at: Some(earliest_poll_at.as_millisecond()),
                ..nothing
            },
            State::Settled { outcome, at } => Self {
                outcome: Some(outcome.as_str()),
                rested_at: Some(at.as_millisecond()),
                ..nothing
            },
            State::Cancelled { at } => Self { rested_at: Some(at.as_millisecond()), ..nothing },
        }
    }
}

/// The columns of `callbacks` that follow from the state; null where they say nothing.
#[derive(Default)]
pub(super) struct CallbackStateColumns {
    pub(super) tries: Option<u32>,
    pub(super) next_attempt_at: Option<i64>,
    pub(super) give_up_at: Option<i64>,
    pub(super) reason: Option<&'static str>,
    pub(super) rested_at: Option<i64>,
}

impl From<&callback::State> for CallbackStateColumns {
    fn from(state: &callback::State) -> Self {
        let nothing = Self::default();
        match state {
            callback::State::Pending { tries, next_attempt_at, give_up_at } => Self {
                tries: Some(*tries),
                next_attempt_at: Some(next_attempt_at.as_millisecond()),
                give_up_at: Some(give_up_at.as_millisecond()),
                ..nothing
            },
            callback::State::Delivered { at } => {
                Self { rested_at: Some(at.as_millisecond()), ..nothing }
            }
            callback::State::Undeliverable { reason, at } => Self {
                reason: Some(reason.as_str()),
                rested_at: Some(at.as_millisecond()),
                ..nothing
            },
        }
    }
}

fn read_slots(text: &str) -> Option<Vec<Slot>> {
    let slot = |text: &str| {
        let (token, until) = text.split_once('@')?;
        let busy_until = Timestamp::from_millisecond(until.parse().ok()?).ok()?;
        Some(Slot { token: token.parse().ok()?, busy_until })
    };
    text.split_ascii_whitespace().map(slot).collect()
}

pub(super) fn write_slots(slots: &[Slot]) -> String {
    let slot = |slot: &Slot| format!("{}@{}", slot.token, slot.busy_until.as_millisecond());
    slots.iter().map(slot).collect::<Vec<_>>().join(" ")
}
