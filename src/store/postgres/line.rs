//! The line of lanes that are ready: which of them a claim may serve.
//!
//! A claim takes those that have been ready for longest, and passes over what somebody holds. Of several
//! replicas each would else wait for the same lane, and take in the end what the others have left of it.
//! It waits where it would come away with nothing. Nor may it pass over the same lane for ever, which
//! commits could hold whenever a claim comes by: so it waits, too, for one that is first in line as it was
//! the last time, when it was passed over.

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

/// For how long a claim waits for whoever holds a lane, in milliseconds: longer than anybody does who is
/// not in trouble. Of one that is, the time ends with the server's patience for transactions that stand
/// still, during which all other lanes go on.
const LANE_PATIENCE_MS: u32 = 200;

const LOOKING: &str = "looking for lanes that are ready";

/// The number of a lane that was first in line at the last claim and was passed over; 0 for none. Claims
/// that are made at the same time may forget each other's, which is passed over once more then.
#[derive(Debug, Default)]
pub(super) struct PassedOver(AtomicI64);

impl PassedOver {
    fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|lane| *lane != 0)
    }

    fn set(&self, lane: Option<i64>) {
        self.0.store(lane.unwrap_or_default(), Ordering::Relaxed);
    }
}

/// A lane that is locked, and its number.
pub(super) type Numbered = (i64, StoredLane);

/// What a claim sees of the line at first.
#[derive(Default)]
pub(super) struct Look {
    first: Option<i64>,
    /// What was passed over the last time.
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
    let waited_before = passed_over.get();
    let at_once = if waited_before.is_none() { limit } else { 0 };
    let looking = both(first(transaction, now), lock(transaction, now, at_once));
    let (first, locked) = looking.await?;
    Ok(Look { first, waited_before, locked })
}

impl Look {
    /// Up to `limit` of the lanes that are ready, longest first. They are locked.
    ///
    /// To be called when all statements of the transaction before it have been sent: those that come
    /// later could belong to what is taken back where a lane was waited for in vain.
    pub(super) async fn lanes(
        self,
        transaction: &Transaction<'_>,
        now: Timestamp,
        limit: usize,
        passed_over: &PassedOver,
    ) -> Result<Vec<Numbered>, StoreError> {
        let Self { first, waited_before, mut locked } = self;
        let Some(first) = first.filter(|_| 0 < limit) else { return Ok(Vec::new()) };
        let mut is_served = false;
        // Whoever waits holds no lane, or two claims could wait for each other. What it may hold are some
        // that were served just when it looked, which the server locks before it sees that they are not
        // ready any more: then it is patience that ends.
        if locked.is_empty() {
            if waited_before.is_none_or(|lane| lane == first) {
                is_served = wait_for(transaction, first).await?;
            }
            locked = lock(transaction, now, limit).await?;
        }
        is_served |= locked.iter().any(|(lane, _)| *lane == first);
        passed_over.set(Some(first).filter(|_| !is_served));
        locked.truncate(limit);
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

/// Locks a lane, for which it waits a little if somebody holds it. Says whether it has come to that.
///
/// It stays locked until the end of the transaction, though it may not be ready any more.
async fn wait_for(transaction: &Transaction<'_>, lane: i64) -> Result<bool, StoreError> {
    let doing = "waiting for a lane";
    let patient = format!("SAVEPOINT waiting; SET LOCAL lock_timeout = {LANE_PATIENCE_MS}");
    transaction.batch_execute(&patient).await.context(doing)?;
    let sql = "SELECT lane FROM lanes WHERE lane = $1 FOR UPDATE";
    let is_locked = match rows(transaction, doing, sql, &[&lane]).await {
        Ok(_) => true,
        Err(StoreError::Locked(_)) => false,
        Err(error) => return Err(error),
    };
    let end = if is_locked {
        // The default is the server's or the role's, which is not what we have set for the session.
        &format!("RELEASE waiting; SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")
    } else {
        "ROLLBACK TO waiting; RELEASE waiting"
    };
    transaction.batch_execute(end).await.context(doing)?;
    Ok(is_locked)
}
