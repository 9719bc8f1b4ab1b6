//! The line of lanes that are ready: which of them a claim may serve.
//!
//! A claim takes those that have been ready for longest, and passes over what somebody holds. Of several
//! replicas each would else wait for the same lane, and take in the end what the others have left of it.
//! Nor may it pass over the same one for ever, which commits could hold whenever a claim comes by: so
//! whoever finds the first in line where it was passed over the last time waits for it.

use std::sync::atomic::{AtomicI64, Ordering};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::dial::LOCK_PATIENCE;
use super::error::{Context as _, both};
use super::lanes::LANE;
use super::row::{Columns, count};
use super::rows;
use crate::store::StoreError;
use crate::store::columns::{Fields as _, StoredLane};

/// For how long a claim waits for a lane, in milliseconds: longer than anybody holds one who is not in
/// trouble. Of one that is, the time ends with the server's patience for transactions that stand still,
/// during which all other lanes go on.
const LANE_PATIENCE_MS: u32 = 200;

const LOOKING: &str = "looking for lanes that are ready";

/// The number of a lane that was first in line at the last claim, when somebody held it; 0 for none.
#[derive(Debug, Default)]
pub(super) struct PassedOver(AtomicI64);

impl PassedOver {
    fn take(&self) -> Option<i64> {
        Some(self.0.swap(0, Ordering::Relaxed)).filter(|lane| *lane != 0)
    }

    fn remember(&self, lane: i64) {
        self.0.store(lane, Ordering::Relaxed);
    }
}

/// A lane that is locked, and its number.
pub(super) type Numbered = (i64, StoredLane);

/// What a claim sees of the line at first.
#[derive(Default)]
pub(super) struct Look {
    first: Option<i64>,
    /// What was first at the last claim and had to wait.
    waited_before: Option<i64>,
    locked: Vec<Numbered>,
}

/// Looks who is first, and locks up to `limit` lanes unless there may be one to wait for before.
pub(super) async fn look(
    transaction: &Transaction<'_>,
    now: Timestamp,
    limit: usize,
    passed_over: &PassedOver,
) -> Result<Look, StoreError> {
    if limit == 0 {
        return Ok(Look::default());
    }
    let waited_before = passed_over.take();
    let at_once = if waited_before.is_none() { limit } else { 0 };
    let looking = both(first(transaction, now), lock(transaction, now, at_once));
    let (first, locked) = looking.await?;
    Ok(Look { first, waited_before, locked })
}

impl Look {
    /// Up to `limit` lanes that are ready, longest first. They are locked.
    ///
    /// Not to be called while other statements of the transaction are under way, which could come to
    /// belong to what is taken back where a lane was waited for in vain.
    pub(super) async fn lanes(
        self,
        transaction: &Transaction<'_>,
        now: Timestamp,
        limit: usize,
        passed_over: &PassedOver,
    ) -> Result<Vec<Numbered>, StoreError> {
        let Self { first, waited_before, mut locked } = self;
        let Some(first) = first else { return Ok(locked) };
        // Whoever waits holds no lane yet, or two claims could wait for each other.
        if locked.is_empty() {
            if waited_before.is_none_or(|lane| lane == first) {
                wait_for(transaction, first).await?;
            }
            locked = lock(transaction, now, limit).await?;
        }
        // Somebody else may have served it in between, and then it is not the first the next time.
        if !locked.iter().any(|(lane, _)| *lane == first) {
            passed_over.remember(first);
        }
        Ok(locked)
    }
}

/// The lane that has been ready for longest, held or not.
async fn first(transaction: &Transaction<'_>, now: Timestamp) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT lane FROM lanes WHERE ready_at <= $1 ORDER BY ready_at LIMIT 1";
    let found = rows(transaction, LOOKING, sql, &[&now.as_millisecond()]).await?;
    found.first().map(|row| Columns { table: "lanes", row }.get("lane")).transpose()
}

/// Locks up to `limit` lanes that are ready and that nobody holds, longest first.
pub(super) async fn lock(
    transaction: &Transaction<'_>,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Numbered>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let sql =
        format!("{LANE} WHERE ready_at <= $1 ORDER BY ready_at LIMIT $2 FOR UPDATE SKIP LOCKED");
    let params: [&(dyn ToSql + Sync); 2] = [&now.as_millisecond(), &count(limit)];
    let read = |row| {
        let columns = Columns { table: "lanes", row };
        Ok((columns.get("lane")?, columns.lane()?))
    };
    rows(transaction, LOOKING, &sql, &params).await?.iter().map(read).collect()
}

/// Locks a lane, for which it waits a little if somebody holds it.
///
/// It stays locked though it may not be ready any more, until the end of the transaction.
async fn wait_for(transaction: &Transaction<'_>, lane: i64) -> Result<(), StoreError> {
    let doing = "waiting for a lane";
    let patient = format!("SAVEPOINT waiting; SET LOCAL lock_timeout = {LANE_PATIENCE_MS}");
    transaction.batch_execute(&patient).await.context(doing)?;
    let sql = "SELECT lane FROM lanes WHERE lane = $1 FOR UPDATE";
    let end = match rows(transaction, doing, sql, &[&lane]).await {
        // The default is the server's or the role's, which is not what we have set for the session.
        Ok(_) => &format!("RELEASE waiting; SET LOCAL lock_timeout = '{LOCK_PATIENCE}'"),
        Err(StoreError::Locked(_)) => "ROLLBACK TO waiting; RELEASE waiting",
        Err(error) => return Err(error),
    };
    transaction.batch_execute(end).await.context(doing)
}
