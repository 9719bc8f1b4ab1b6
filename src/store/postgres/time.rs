//! The time by which replicas plan: the course of it is kept in the database, beside whose clock it
//! runs.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};

use super::PostgresStore;
use super::row::Columns;
use super::rows;
use crate::clock::{Course, Keeper, Reading, SharedClock};
use crate::store::StoreError;
use crate::store::columns::Fields as _;

const READING: &str = "reading the clock of the database";

const READ: &str = "SELECT since, ahead, confirmed_at, \
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS wall FROM planning_clock";

/// Between two confirmations, in milliseconds, however many replicas there are.
const CONFIRMED_FOR: i64 = 1_000;

/// The clock that claims are held to, once there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedTime {
    clock: Arc<OnceLock<Arc<SharedClock>>>,
}

impl SharedTime {
    pub(super) fn begin(&self, clock: &Arc<SharedClock>) {
        // The first one stays.
        drop(self.clock.set(Arc::clone(clock)));
    }

    /// Fails where our time is not the one that replicas share: a step that is claimed by it could
    /// be taken early, or be taken from us too soon.
    pub(super) async fn check(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let Some(clock) = self.clock.get() else { return Ok(()) };
        let read = async {
            let found = rows(transaction, READING, READ, &[]).await?;
            let reading = found.first().map(reading).transpose()?.ok_or(StoreError::Closed)?;
            Ok((reading.wall, reading.course))
        };
        let agrees = clock.agrees(read).await?;
        agrees.map_err(|astray| StoreError::Unavailable(astray.into()))
    }
}

fn reading(row: &tokio_postgres::Row) -> Result<Reading, StoreError> {
    let columns = Columns { table: "planning_clock", row };
    let ahead = SignedDuration::from_millis(columns.get("ahead")?);
    let course = Course::new(columns.time("since")?, ahead);
    let confirmed_at = columns.time_or_null("confirmed_at")?;
    Ok(Reading { wall: columns.time("wall")?, course, confirmed_at })
}

#[async_trait]
impl Keeper for PostgresStore {
    type Error = StoreError;

    async fn read(&self) -> Result<Reading, StoreError> {
        let mut found = self.database.query(READING, READ, &[]).await?;
        if found.is_empty() {
            let sql = "INSERT INTO planning_clock (only_one, since, ahead) SELECT true, \
                floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint, 0 \
                ON CONFLICT (only_one) DO NOTHING";
            self.database.query("beginning to share a clock", sql, &[]).await?;
            found = self.database.query(READING, READ, &[]).await?;
        }
        found.first().map(reading).transpose()?.ok_or(StoreError::Closed)
    }

    async fn confirm(&self, course: Course, wall: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE planning_clock SET confirmed_at = $3 WHERE since = $1 AND ahead = $2 \
            AND (confirmed_at IS NULL OR confirmed_at NOT BETWEEN $3::bigint - $4::bigint AND $3)";
        let (since, ahead) = numbers(course);
        let wall = wall.as_millisecond();
        let params = [&since, &ahead, &wall, &CONFIRMED_FOR];
        let params = params.map(|it| it as &(dyn tokio_postgres::types::ToSql + Sync));
        self.database.query("confirming the shared time", sql, &params).await.map(drop)
    }

    async fn is_kept_by_others(&self) -> Result<bool, StoreError> {
        self.replicas.any_other(&self.database).await
    }

    async fn amend(&self, from: Course, to: Course) -> Result<(), StoreError> {
        let sql = "UPDATE planning_clock SET since = $3, ahead = $4, confirmed_at = $3 \
            WHERE since = $1 AND ahead = $2";
        let ((since, ahead), (new_since, new_ahead)) = (numbers(from), numbers(to));
        let params = [&since, &ahead, &new_since, &new_ahead];
        let params = params.map(|it| it as &(dyn tokio_postgres::types::ToSql + Sync));
        self.database.query("amending the shared time", sql, &params).await.map(drop)
    }
}

fn numbers(course: Course) -> (i64, i64) {
    let ahead = i64::try_from(course.ahead().as_millis()).unwrap_or(i64::MAX);
    (course.since().as_millisecond(), ahead)
}
