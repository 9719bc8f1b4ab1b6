//! How much there is of what, for whoever watches over it.

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;
use super::columns::Fields;

/// Counts what is kept.
#[async_trait]
pub trait Census: Send + Sync {
    /// How much there is of what at `now`, all of it seen at one moment, or nearly so.
    ///
    /// It counts in indexes, and what is watched or was delivered not even there. It takes as long as
    /// there are operations at rest and steps that are due, so it is not for each request.
    async fn figures(&self, now: Timestamp) -> Result<Figures, StoreError>;
}

/// How much there is of what, in the whole database.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Figures {
    /// Operations, by state.
    pub watching: u64,
    pub blocked: u64,
    pub settled: u64,
    pub cancelled: u64,
    /// Callbacks that are owed.
    pub pending: u64,
    /// Callbacks that were given up, and are kept.
    pub undeliverable: u64,
    pub graph_lanes: LaneFigures,
    pub callback_lanes: LaneFigures,
}

/// What waits on the lanes of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LaneFigures {
    /// Lanes on which something waits, now or later, and that are paused.
    pub paused: u64,
    /// Steps that are due, and that nobody has claimed.
    pub waiting: u64,
}

/// Counts what has a state, with `live` operations, by callers: of each there is an index.
pub(super) fn states_sql(live: &str) -> String {
    let of = |table: &str, state: &str| {
        format!(
            "(SELECT count(*) FROM callers CROSS JOIN {table} \
            WHERE {table}.caller = callers.name AND {table}.state = '{state}') AS {state}"
        )
    };
    format!(
        "SELECT {live} AS live, {}, {}, {}, {}, \
        (SELECT count(*) FROM callbacks WHERE state = 'undeliverable') AS undeliverable",
        of("operations", "blocked"),
        of("operations", "settled"),
        of("operations", "cancelled"),
        of("callbacks", "pending"),
    )
}

impl Figures {
    /// Reads a row of [`states_sql`].
    pub(super) fn of_states(row: &impl Fields) -> Result<Self, StoreError> {
        let blocked = row.number("blocked")?;
        Ok(Self {
            watching: row.number::<u64>("live")?.saturating_sub(blocked),
            blocked,
            settled: row.number("settled")?,
            cancelled: row.number("cancelled")?,
            pending: row.number("pending")?,
            undeliverable: row.number("undeliverable")?,
            ..Self::default()
        })
    }

    /// Adds a row with `kind`, `paused` and `waiting`.
    pub(super) fn add_lanes(&mut self, row: &impl Fields) -> Result<(), StoreError> {
        let found = LaneFigures { paused: row.number("paused")?, waiting: row.number("waiting")? };
        match row.text("kind")?.as_str() {
            "graph" => self.graph_lanes = found,
            _ => self.callback_lanes = found,
        }
        Ok(())
    }
}
