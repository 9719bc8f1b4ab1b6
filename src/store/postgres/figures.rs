//! Counts what is kept.

use async_trait::async_trait;
use jiff::Timestamp;

use super::connect::work;
use super::row::Columns;
use super::{PostgresStore, plan_by_keys, rows};
use crate::store::figures::states_sql;
use crate::store::{Census, Figures, StoreError};

/// Of lanes on which something waits.
const LANES: &str = "SELECT split_part(name, ':', 1) AS kind, \
    count(*) FILTER (WHERE paused_until > $1) AS paused, \
    sum((SELECT count(*) FROM steps WHERE steps.lane = lanes.lane AND due_at <= $1 \
    AND (claimed_until IS NULL OR claimed_until <= $1)))::bigint AS waiting \
    FROM lanes WHERE ready_at IS NOT NULL GROUP BY 1";

#[async_trait]
impl Census for PostgresStore {
    async fn figures(&self, now: Timestamp) -> Result<Figures, StoreError> {
        let count = work(move |transaction| {
            Box::pin(async move {
                let doing = "counting what is kept";
                plan_by_keys(transaction).await?;
                let live = "(SELECT coalesce(sum(live), 0)::bigint FROM live_operations)";
                let found = rows(transaction, doing, &states_sql(live), &[]).await?;
                let mut figures = Figures::default();
                for row in &found {
                    figures = Figures::of_states(&Columns { table: "operations", row })?;
                }
                let lanes = rows(transaction, doing, LANES, &[&now.as_millisecond()]).await?;
                for row in &lanes {
                    figures.add_lanes(&Columns { table: "lanes", row })?;
                }
                Ok(figures)
            })
        });
        self.database.transaction(count).await
    }
}
