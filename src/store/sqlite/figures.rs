//! Counts what is kept.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;

use super::error::Context as _;
use super::row::Columns;
use super::{SqliteStore, list};
use crate::store::figures::states_sql;
use crate::store::{Census, Figures, StoreError};

/// Of lanes on which something waits.
const LANES: &str = "SELECT substr(name, 1, instr(name, ':') - 1) AS kind, \
    coalesce(sum(paused_until > ?1), 0) AS paused, \
    sum((SELECT count(*) FROM steps WHERE steps.lane = lanes.lane AND due_at <= ?1)) AS waiting \
    FROM lanes WHERE ready_at IS NOT NULL GROUP BY kind";

#[async_trait]
impl Census for SqliteStore {
    async fn figures(&self, now: Timestamp) -> Result<Figures, StoreError> {
        let count = move |database: &Connection| {
            let doing = "counting what is kept";
            let sql = states_sql("(SELECT coalesce(sum(live_operations), 0) FROM callers)");
            let mut statement = database.prepare_cached(&sql).context(doing)?;
            let read = |row: &rusqlite::Row<'_>| {
                Ok(Figures::of_states(&Columns { table: "operations", row }))
            };
            let mut figures = statement.query_row([], read).context(doing)??;
            list(database, LANES, [now.as_millisecond()], |row| {
                figures.add_lanes(&Columns { table: "lanes", row })
            })?;
            Ok(figures)
        };
        self.readers.run(count).await
    }
}
