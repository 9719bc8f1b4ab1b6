//! What is to happen next, and to which lane that is told.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::copy::CopyIn;
use super::error::Overtaken;
use super::fresh::FOR_A_COPY;
use super::lanes::{self, Locked};
use super::rows;
use crate::lane::{self, Report};
use crate::operation::Agenda;
use crate::store::StoreError;
use crate::store::columns::millis;

/// The key of a row of `steps`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Key {
    /// `operations.number`
    pub(super) operation: i64,
    /// Which callback of the operation's; 0 for the operation itself.
    pub(super) callback: i64,
}

/// What is to happen next to a step, for anyone to take.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    pub(super) key: Key,
    pub(super) lane: i64,
    pub(super) agenda: Agenda,
}

/// How a step of a lane went.
#[derive(Clone, Copy)]
pub(super) struct Settled {
    pub(super) token: u64,
    pub(super) report: Report,
    pub(super) at: Timestamp,
}

/// Writes what is to happen first to operations that are new. Who calls this calls [`announce`] as
/// well, before the end of the transaction.
pub(super) async fn begin(
    transaction: &Transaction<'_>,
    planned: &[Planned],
) -> Result<(), StoreError> {
    if FOR_A_COPY <= planned.len() {
        return copy(transaction, planned).await;
    }
    let sql = "INSERT INTO steps (operation, callback, lane, due_at, lapse_at) \
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])";
    insert(transaction, sql, planned.iter().collect()).await
}

async fn copy(transaction: &Transaction<'_>, planned: &[Planned]) -> Result<(), StoreError> {
    let columns = "operation, callback, lane, due_at, lapse_at";
    let mut copy = CopyIn::begin(transaction, PLANNING, "steps", columns).await?;
    for Planned { key, lane, agenda } in planned {
        let (due, lapse) = (millis(agenda.step_at), millis(agenda.lapse_at));
        copy.write(&[&key.operation, &key.callback, lane, &due, &lapse]).await?;
    }
    copy.finish().await
}

/// Writes what is to happen next, or that nothing is. Who calls this calls [`announce`] as well,
/// before the end of the transaction.
pub(super) async fn plan(
    transaction: &Transaction<'_>,
    planned: &[Planned],
) -> Result<(), StoreError> {
    let (kept, mut ended): (Vec<_>, Vec<_>) =
        planned.iter().partition(|it| it.agenda.lapse_at.is_some());
    let sql = "INSERT INTO steps (operation, callback, lane, due_at, lapse_at) \
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) \
        ON CONFLICT (operation, callback) DO UPDATE SET lane = excluded.lane, \
        due_at = excluded.due_at, lapse_at = excluded.lapse_at, token = NULL, \
        claimed_until = NULL";
    insert(transaction, sql, kept).await?;
    if !ended.is_empty() {
        ended.sort_unstable_by_key(|it| it.key);
        let (operations, callbacks) = keys(ended.iter().map(|it| it.key));
        let sql = "DELETE FROM steps USING unnest($1::bigint[], $2::bigint[]) \
            AS ended (operation, callback) \
            WHERE steps.operation = ended.operation AND steps.callback = ended.callback";
        rows(transaction, PLANNING, sql, &[&operations, &callbacks]).await?;
    }
    Ok(())
}

const PLANNING: &str = "planning steps";

/// Runs a statement that takes rows of `steps`, in the order of their keys.
async fn insert(
    transaction: &Transaction<'_>,
    sql: &str,
    mut planned: Vec<&Planned>,
) -> Result<(), StoreError> {
    if planned.is_empty() {
        return Ok(());
    }
    planned.sort_unstable_by_key(|it| it.key);
    let (operations, callbacks) = keys(planned.iter().map(|it| it.key));
    let lanes: Vec<i64> = planned.iter().map(|it| it.lane).collect();
    let due: Vec<Option<i64>> = planned.iter().map(|it| millis(it.agenda.step_at)).collect();
    let lapse: Vec<Option<i64>> = planned.iter().map(|it| millis(it.agenda.lapse_at)).collect();
    rows(transaction, PLANNING, sql, &[&operations, &callbacks, &lanes, &due, &lapse])
        .await
        .map(drop)
}

/// Tells lanes how some of their steps went, and when they are ready again for what was planned.
///
/// Locks them, so it comes as near to the end of a transaction as can be.
pub(super) async fn announce(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    settled: &BTreeMap<i64, Vec<Settled>>,
    planned: &[Planned],
) -> Result<(), StoreError> {
    let mut first_due: BTreeMap<i64, Timestamp> = BTreeMap::new();
    let mut waited_on = BTreeSet::new();
    for Planned { lane, agenda: Agenda { step_at, lapse_at }, .. } in planned {
        if let Some(at) = step_at {
            first_due.entry(*lane).and_modify(|due| *due = *at.min(due)).or_insert(*at);
        }
        if step_at.is_some() || lapse_at.is_some() {
            waited_on.insert(*lane);
        }
    }
    let touched: BTreeSet<i64> = settled.keys().chain(&waited_on).copied().collect();
    if touched.is_empty() {
        return Ok(());
    }
    let mut locked = lanes::lock(transaction, touched.into_iter().collect()).await?;
    if waited_on.iter().any(|lane| !locked.contains_key(lane)) {
        // It was forgotten since we looked for it, and a step on it would be so, too.
        return Err(StoreError::Unavailable(Overtaken.into()));
    }
    for (number, steps) in settled {
        // A lane that is gone has nothing that counts.
        let Some(Locked { stored, .. }) = locked.get_mut(number) else { continue };
        for Settled { token, report, at } in steps {
            stored.lane.settle(policy, *token, *report, *at);
        }
    }
    let told = |number: &i64| settled.contains_key(number);
    let changed = locked.iter().filter(|(number, _)| told(number));
    lanes::save(transaction, changed.map(|(number, it)| (number, &it.stored))).await?;

    // Too early does no harm, as a claim that finds nothing sets it right; too late would starve.
    let is_late = |lane: &i64, due: Timestamp| {
        let ready_at = locked.get(lane).and_then(|it| it.ready_at);
        ready_at.is_none_or(|ready_at| due < ready_at)
    };
    first_due.retain(|lane, due| !told(lane) && is_late(lane, *due));
    if !first_due.is_empty() {
        let lanes: Vec<i64> = first_due.keys().copied().collect();
        let due: Vec<i64> = first_due.values().map(|at| at.as_millisecond()).collect();
        let sql = "UPDATE lanes SET ready_at = planned.due_at \
            FROM unnest($1::bigint[], $2::bigint[]) AS planned (lane, due_at) \
            WHERE lanes.lane = planned.lane";
        rows(transaction, "announcing steps", sql, &[&lanes, &due]).await?;
    }
    Ok(())
}

/// The columns of keys.
pub(super) fn keys(keys: impl Iterator<Item = Key>) -> (Vec<i64>, Vec<i64>) {
    keys.map(|key| (key.operation, key.callback)).unzip()
}
