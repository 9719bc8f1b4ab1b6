//! Bulk resends as rows.
//!
//! Whoever advances one locks its row first, so that of two replicas that are at it the second waits
//! for what the first has done, and finds itself overtaken.

use std::collections::{BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connect::Database;
use super::row::Columns;
use super::{destinations, rows, steps};
use crate::callback::CallbackId;
use crate::lane::{self, LaneName};
use crate::store::columns::{Fields as _, RESEND, resend_values};
use crate::store::handover::Value;
use crate::store::{
    Advance, Advanced, Asked, Batch, CallerName, Page, Resend, ResendChange, ResendId, StoreError,
};

const READING: &str = "reading bulk resends";
const WRITING: &str = "writing a bulk resend";

/// Keeps a bulk resend, and counts what it is to send again.
pub(super) async fn ask(
    transaction: &Transaction<'_>,
    resend: &Resend,
    live_limit: u32,
) -> Result<Asked, StoreError> {
    // Whoever asks waits for others who do, so that the same is not begun twice.
    rows(transaction, WRITING, "SELECT 1 FROM installation FOR NO KEY UPDATE", &[]).await?;
    let sql = format!(
        "SELECT {RESEND} FROM resends WHERE done_at IS NULL AND asked_by IS NOT DISTINCT FROM $1"
    );
    let asked_by = resend.asked_by.as_ref().map(CallerName::as_str);
    let live = rows(transaction, READING, &sql, &[&asked_by]).await?;
    let live: Vec<Resend> = live.iter().map(read).collect::<Result<_, _>>()?;
    if let Some(same) = live.iter().find(|it| it.is_same_as(resend)) {
        return Ok(Asked::UnderWay(same.clone()));
    }
    if live_limit as usize <= live.len() {
        return Ok(Asked::LimitReached);
    }
    let conditions = resend.wanted.conditions(resend.asked_at);
    let sql = format!("SELECT count(*) AS matched FROM callbacks WHERE {}", conditions.sql());
    let doing = "counting what is to be sent again";
    let counted = rows(transaction, doing, &sql, &params(conditions.values())).await?;
    let matched = match counted.first() {
        Some(row) => Columns { table: "callbacks", row }.number("matched")?,
        None => 0,
    };
    let resend = Resend { matched, ..resend.clone() };
    let values = resend_values(&resend);
    let places: Vec<String> = (1..=values.len()).map(|number| format!("${number}")).collect();
    let sql = format!("INSERT INTO resends ({RESEND}) VALUES ({})", places.join(", "));
    rows(transaction, WRITING, &sql, &params(&values)).await?;
    Ok(Asked::Begun(resend))
}

pub(super) async fn one(database: &Database, id: ResendId) -> Result<Option<Resend>, StoreError> {
    let sql = format!("SELECT {RESEND} FROM resends WHERE id = $1");
    let found = database.query(READING, &sql, &[&id.to_string()]).await?;
    found.first().map(read).transpose()
}

/// Newest first.
pub(super) async fn page(
    database: &Database,
    asked_by: Option<&CallerName>,
    page: &Page<ResendId>,
) -> Result<Vec<Resend>, StoreError> {
    let behind = if page.after.is_some() { "id < $1" } else { "$1::text IS NULL" };
    let by_asker = if asked_by.is_some() { "asked_by = $2" } else { "$2::text IS NULL" };
    let sql = format!(
        "SELECT {RESEND} FROM resends WHERE {behind} AND {by_asker} ORDER BY id DESC LIMIT $3"
    );
    let (after, asker) = (page.after.map(|id| id.to_string()), asked_by.map(CallerName::as_str));
    let found = database.query(READING, &sql, &[&after, &asker, &i64::from(page.limit)]).await?;
    found.iter().map(read).collect()
}

pub(super) async fn under_way(database: &Database, limit: u32) -> Result<Vec<Resend>, StoreError> {
    let sql = format!("SELECT {RESEND} FROM resends WHERE done_at IS NULL ORDER BY id LIMIT $1");
    let found = database.query(READING, &sql, &[&i64::from(limit)]).await?;
    found.iter().map(read).collect()
}

pub(super) async fn batch(
    database: &Database,
    resend: &Resend,
    limit: u32,
    now: Timestamp,
    crowd: u32,
) -> Result<Batch, StoreError> {
    let mut place = resend.wanted.place();
    if let Some(reached) = resend.reached {
        place.and_key(">", reached);
    }
    let most = place.parameter(i64::from(limit));
    let sql = format!(
        "SELECT operation_id, number, caller, origin, owed_at, attempts, state, tries, \
         next_attempt_at, give_up_at, reason, rested_at FROM callbacks WHERE {} \
         ORDER BY operation_id, number LIMIT {most}",
        place.sql()
    );
    let doing = "looking for callbacks to send again";
    let found = database.query(doing, &sql, &params(place.values())).await?;
    let (mut callbacks, mut reached) = (Vec::new(), resend.reached);
    for row in &found {
        let columns = Columns { table: "callbacks", row };
        let callback = columns.callback()?;
        let caller = columns.word("caller", |text| text.parse().ok())?;
        let origin = columns.text("origin")?;
        reached = Some(callback.id);
        if resend.wanted.includes(&callback, &caller, &origin, resend.asked_at) {
            callbacks.push((callback, LaneName::callback(caller, origin)));
        }
    }
    let lanes: BTreeSet<&LaneName> = callbacks.iter().map(|(_, lane)| lane).collect();
    let waiting = waiting(database, &lanes, now, crowd).await?;
    Ok(Batch { callbacks, waiting, reached, is_last: found.len() < limit as usize })
}

/// How many steps are due on lanes and wait for their turn, counted no further than to `most` on each.
async fn waiting(
    database: &Database,
    lanes: &BTreeSet<&LaneName>,
    now: Timestamp,
    most: u32,
) -> Result<HashMap<LaneName, u32>, StoreError> {
    let names: Vec<String> = lanes.iter().map(ToString::to_string).collect();
    let sql = "SELECT lanes.name, (SELECT count(*) FROM (SELECT 1 FROM steps \
        WHERE steps.lane = lanes.lane AND due_at <= $2 \
        AND (claimed_until IS NULL OR claimed_until <= $2) LIMIT $3) AS due) AS waiting \
        FROM lanes WHERE name = ANY($1)";
    let (now, most) = (now.as_millisecond(), i64::from(most));
    let found = database.query("counting what waits", sql, &[&names, &now, &most]).await?;
    let read = |row| {
        let columns = Columns { table: "lanes", row };
        Ok((columns.word("name", LaneName::parse)?, columns.number("waiting")?))
    };
    found.iter().map(read).collect()
}

pub(super) async fn advance(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    advance: &Advance,
) -> Result<Advanced, StoreError> {
    let id = advance.id.to_string();
    let sql = format!("SELECT {RESEND} FROM resends WHERE id = $1 FOR UPDATE");
    let found = rows(transaction, READING, &sql, &[&id]).await?;
    let is_there = |it: &Resend| it.done_at.is_none() && it.reached == advance.from;
    let found = found.first().map(read).transpose()?;
    let Some(asked_at) = found.filter(is_there).map(|it| it.asked_at) else {
        return Ok(Advanced::Overtaken);
    };
    let stands = unchanged(transaction, &advance.changes).await?;
    let resent = stands.len() as u64;
    let ids = stands.iter().map(|it| it.after.id);
    destinations::bring_back_since(transaction, ids, asked_at).await?;
    steps::resend(transaction, policy, &stands).await?;
    let sql = "UPDATE resends SET resent = resent + $2, reached_operation_id = $3, \
        reached_number = $4, held_back = $5, done_at = $6 WHERE id = $1";
    let (operation, number) = split(advance.to);
    let (added, done_at) =
        (i64::try_from(resent).unwrap_or(i64::MAX), advance.done_at.map(Timestamp::as_millisecond));
    let held_back = i64::try_from(advance.held_back).unwrap_or(i64::MAX);
    rows(transaction, WRITING, sql, &[&id, &added, &operation, &number, &held_back, &done_at])
        .await?;
    Ok(Advanced::Saved { resent })
}

/// Those changes whose callbacks are still what they were taken for, locked in the order of their keys
/// with their operations, which nobody forgets meanwhile.
async fn unchanged<'a>(
    transaction: &Transaction<'_>,
    changes: &'a [ResendChange],
) -> Result<Vec<&'a ResendChange>, StoreError> {
    let doing = "looking for callbacks to send again";
    let (ids, numbers): (Vec<String>, Vec<i64>) = changes
        .iter()
        .map(|it| (it.before.id.operation.to_string(), i64::from(it.before.id.number)))
        .unzip();
    let sql = "SELECT id FROM operations WHERE id = ANY($1) ORDER BY number FOR KEY SHARE";
    rows(transaction, doing, sql, &[&ids]).await?;
    let sql = "SELECT callbacks.operation_id, callbacks.number, owed_at, attempts, state, tries, \
        next_attempt_at, give_up_at, reason, rested_at \
        FROM unnest($1::text[], $2::bigint[]) AS wanted (operation_id, number) \
        JOIN callbacks USING (operation_id, number) WHERE body IS NOT NULL \
        ORDER BY operation_id, number FOR UPDATE OF callbacks";
    let mut stands = Vec::with_capacity(changes.len());
    for row in rows(transaction, doing, sql, &[&ids, &numbers]).await? {
        let callback = Columns { table: "callbacks", row: &row }.callback()?;
        stands.extend(changes.iter().find(|it| it.before == callback));
    }
    Ok(stands)
}

/// Forgets those that were done before then.
pub(super) async fn forget(
    transaction: &Transaction<'_>,
    before: Timestamp,
    limit: u32,
) -> Result<usize, StoreError> {
    let sql = "DELETE FROM resends WHERE id IN (SELECT id FROM resends WHERE done_at < $1 \
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";
    let (before, limit) = (before.as_millisecond(), i64::from(limit));
    let forgotten = rows(transaction, "forgetting bulk resends", sql, &[&before, &limit]).await?;
    Ok(forgotten.len())
}

fn split(id: Option<CallbackId>) -> (Option<String>, Option<i64>) {
    id.map(|id| (id.operation.to_string(), i64::from(id.number))).unzip()
}

/// Values as the parameters of a statement.
pub(super) fn params(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|it| it as &(dyn ToSql + Sync)).collect()
}

fn read(row: &Row) -> Result<Resend, StoreError> {
    Columns { table: "resends", row }.resend()
}
