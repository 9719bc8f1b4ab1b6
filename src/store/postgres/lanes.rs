//! Lanes as rows: made, locked, written and forgotten.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::connect::{Database, work};
use super::error::{Context as _, both};
use super::row::{Columns, count};
use super::{plan_by_keys, rows};
use crate::lane::{self, Lane, LaneName};
use crate::store::StoreError;
use crate::store::columns::{Fields as _, StoredLane, millis, write_slots};

/// How many lanes one transaction lets rest, so that it is over long before its time is.
const RESTED_AT_ONCE: usize = 2_000;

/// A lane with the rate that its receiver has agreed to: all that [`StoredLane`] is read from.
pub(super) const LANE: &str = "SELECT lane, name, allowance, failures, paused_until, slots, served_at, \
    ready_at, (SELECT rate FROM handshakes WHERE handshakes.lane = lanes.name) AS rate FROM lanes";

/// The numbers of the lanes of these names, made where they are not there yet.
pub(super) async fn find_or_make<N: Borrow<LaneName> + Ord>(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    names: BTreeSet<N>,
) -> Result<HashMap<LaneName, i64>, StoreError> {
    let names = names.iter().map(Borrow::borrow);
    let mut found = numbers(transaction, names.clone()).await?;
    let missing: Vec<&LaneName> = names.filter(|name| !found.contains_key(*name)).collect();
    if missing.is_empty() {
        return Ok(found);
    }
    // Whoever plans on them tells them when they are ready.
    NewLanes::of(policy, missing.iter().map(|name| (*name, None))).make(transaction).await?;
    found.extend(numbers(transaction, missing.into_iter()).await?);
    Ok(found)
}

/// Makes those lanes that are not there yet, for everybody to see at once, each ready for the first
/// step that is to be planned on it. What is planned in the end may be nothing, or later: a claim that
/// finds nothing sets it right. But for most of them it need not be written again by
/// [`announce`](super::schedule::announce).
pub(super) async fn make(
    database: &Database,
    policy: &lane::Policy,
    first_due: &BTreeMap<&LaneName, Option<Timestamp>>,
) -> Result<(), StoreError> {
    let new = Arc::new(NewLanes::of(policy, first_due.iter().map(|(name, at)| (*name, *at))));
    let make = work(move |transaction| {
        let new = Arc::clone(&new);
        Box::pin(async move {
            let make = both(plan_by_keys(transaction), new.make(transaction));
            both(wait_for_no_disk(transaction), make).await.map(drop)
        })
    });
    database.transaction(make).await
}

/// Lets a transaction end before it is on disk, or on a standby's. A crash may take it back, but together
/// with all that others have since built upon it, which is behind it in the server's one log.
async fn wait_for_no_disk(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let sql = "SET LOCAL synchronous_commit = off";
    transaction.batch_execute(sql).await.context(MAKING)
}

const MAKING: &str = "making lanes";

/// The columns of lanes to be made.
#[derive(Default)]
struct NewLanes {
    names: Vec<String>,
    allowances: Vec<i64>,
    failures: Vec<i64>,
    ready: Vec<Option<i64>>,
}

impl NewLanes {
    fn of<'a>(
        policy: &lane::Policy,
        lanes: impl Iterator<Item = (&'a LaneName, Option<Timestamp>)>,
    ) -> Self {
        let mut new = Self::default();
        for (name, ready_at) in lanes {
            let lane = Lane::new(name.kind, policy);
            new.names.push(name.to_string());
            new.allowances.push(i64::from(lane.allowance));
            new.failures.push(i64::from(lane.failures));
            new.ready.push(millis(ready_at));
        }
        new
    }

    /// In the order of their names, as everybody makes them. Leaves alone what is there, for an attempt
    /// to insert it costs a number.
    async fn make(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let sql = "INSERT INTO lanes (name, allowance, failures, slots, served_at, ready_at) \
            SELECT name, allowance, failures, '', 0, ready_at \
            FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) \
            AS fresh (name, allowance, failures, ready_at) \
            WHERE NOT EXISTS (SELECT 1 FROM lanes WHERE lanes.name = fresh.name) \
            ORDER BY fresh.name COLLATE \"C\" ON CONFLICT (name) DO NOTHING";
        let params: [&(dyn ToSql + Sync); 4] =
            [&self.names, &self.allowances, &self.failures, &self.ready];
        rows(transaction, MAKING, sql, &params).await.map(drop)
    }
}

async fn numbers<'a>(
    transaction: &Transaction<'_>,
    names: impl Iterator<Item = &'a LaneName>,
) -> Result<HashMap<LaneName, i64>, StoreError> {
    let texts: Vec<String> = names.map(ToString::to_string).collect();
    // As a join it is an index that is asked for each, whatever the server takes the table for; as a
    // condition, a plan made while there were few lanes reads all of them.
    let sql = "SELECT lane, name FROM unnest($1::text[]) AS wanted (name) JOIN lanes USING (name)";
    let found = rows(transaction, "finding lanes", sql, &[&texts]).await?;
    let read = |row| {
        let columns = Columns { table: "lanes", row };
        Ok((columns.word("name", LaneName::parse)?, columns.get("lane")?))
    };
    found.iter().map(read).collect()
}

/// A lane that nobody else changes before the end of the transaction.
pub(super) struct Locked {
    pub(super) stored: StoredLane,
    pub(super) ready_at: Option<Timestamp>,
}

/// Locks lanes in the order of their numbers. What is gone is left out.
pub(super) async fn lock(
    transaction: &Transaction<'_>,
    numbers: Vec<i64>,
) -> Result<BTreeMap<i64, Locked>, StoreError> {
    let sql = format!("{LANE} WHERE lane = ANY($1) ORDER BY lane FOR UPDATE");
    let read = |row| {
        let columns = Columns { table: "lanes", row };
        let ready_at = columns.time_or_null("ready_at")?;
        Ok((columns.get("lane")?, Locked { stored: columns.lane()?, ready_at }))
    };
    rows(transaction, "locking lanes", &sql, &[&numbers]).await?.iter().map(read).collect()
}

/// Writes lanes that are locked, and when a claim need next look at them.
pub(super) async fn save(
    transaction: &Transaction<'_>,
    lanes: impl Iterator<Item = (&i64, &StoredLane)>,
) -> Result<(), StoreError> {
    let (mut numbers, mut allowances, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    let (mut paused, mut slots, mut served) = (Vec::new(), Vec::new(), Vec::new());
    let mut free = Vec::new();
    for (number, stored) in lanes {
        numbers.push(*number);
        allowances.push(i64::from(stored.lane.allowance));
        failures.push(i64::from(stored.lane.failures));
        paused.push(millis(stored.lane.paused_until));
        slots.push(write_slots(&stored.lane.slots));
        served.push(stored.served_at.as_millisecond());
        // In the past where it has been free for long: readiness is an age, by which lanes take turns.
        let free_at = stored.lane.free_at(Timestamp::MIN).max(stored.served_at);
        free.push(free_at.as_millisecond());
    }
    if numbers.is_empty() {
        return Ok(());
    }
    // The first step that is not claimed, or one of those before it once its lease is over.
    let sql = "UPDATE lanes SET allowance = told.allowance, failures = told.failures, \
        paused_until = told.paused_until, slots = told.slots, served_at = told.served_at, \
        ready_at = least(first.ready_at, \
            (SELECT min(greatest(due_at, claimed_until, told.free_at)) FROM steps \
            WHERE steps.lane = told.lane AND claimed_until IS NOT NULL \
            AND due_at <= coalesce(first.due_at, 9223372036854775807))) \
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], \
            $6::bigint[], $7::bigint[]) \
        AS told (lane, allowance, failures, paused_until, slots, served_at, free_at) \
        LEFT JOIN LATERAL (SELECT due_at, greatest(due_at, told.free_at) AS ready_at FROM steps \
            WHERE steps.lane = told.lane AND due_at IS NOT NULL AND claimed_until IS NULL \
            ORDER BY due_at LIMIT 1) AS first ON true \
        WHERE lanes.lane = told.lane";
    let params: [&(dyn ToSql + Sync); 7] =
        [&numbers, &allowances, &failures, &paused, &slots, &served, &free];
    rows(transaction, "updating lanes", sql, &params).await.map(drop)
}

/// Lets some Graph lanes admit nothing before `until`: the first after `lane`, in the order of their
/// numbers. Says which one was the last, if there may be more.
pub(super) async fn rest_graph(
    transaction: &Transaction<'_>,
    until: Timestamp,
    lane: i64,
) -> Result<Option<i64>, StoreError> {
    let doing = "letting lanes rest";
    let sql = "SELECT lane FROM lanes WHERE lane > $1 AND name LIKE 'graph:%' \
        ORDER BY lane LIMIT $2 FOR UPDATE";
    let found = rows(transaction, doing, sql, &[&lane, &count(RESTED_AT_ONCE)]).await?;
    let number = |row| Columns { table: "lanes", row }.get("lane");
    let lanes: Vec<i64> = found.iter().map(number).collect::<Result<_, _>>()?;
    let sql = "UPDATE lanes SET paused_until = greatest(paused_until, $2), \
        ready_at = CASE WHEN ready_at IS NOT NULL THEN greatest(ready_at, $2) END \
        WHERE lane = ANY($1)";
    rows(transaction, doing, sql, &[&lanes, &until.as_millisecond()]).await?;
    Ok(lanes.last().copied().filter(|_| lanes.len() == RESTED_AT_ONCE))
}

/// Looks at lanes on which nothing waits, and forgets those on which nothing counts any more: up to
/// `limit`, the first after `lane`, in the order of their numbers. Says which one was the last, if
/// there may be more.
pub(super) async fn forget(
    transaction: &Transaction<'_>,
    now: Timestamp,
    lane: i64,
    limit: u32,
) -> Result<Option<i64>, StoreError> {
    let doing = "forgetting lanes";
    let sql = format!(
        "{LANE} WHERE lane > $1 AND ready_at IS NULL \
        AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.lane = lanes.lane) \
        ORDER BY lane LIMIT $2 FOR UPDATE SKIP LOCKED"
    );
    let unused = rows(transaction, doing, &sql, &[&lane, &i64::from(limit)]).await?;
    let (mut last, mut forgettable) = (None, Vec::new());
    for row in &unused {
        let columns = Columns { table: "lanes", row };
        let number: i64 = columns.get("lane")?;
        last = Some(number);
        if columns.lane()?.lane.is_forgettable(now) {
            forgettable.push(number);
        }
    }
    // A statement of its own, which sees what was planned before the lock was ours.
    let sql = "DELETE FROM lanes WHERE lane = ANY($1) \
        AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.lane = lanes.lane)";
    rows(transaction, doing, sql, &[&forgettable]).await?;
    Ok(last.filter(|_| unused.len() == limit as usize))
}
