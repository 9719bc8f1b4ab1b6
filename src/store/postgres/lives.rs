//! Operations and callbacks as rows, many at a time.

use std::collections::HashMap;

use bytes::Bytes;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::register::Prepared;
use super::row::Columns;
use super::rows;
use super::schedule::Key;
use crate::callback::{Callback, CallbackId};
use crate::lane::LaneName;
use crate::operation::{Operation, OperationId};
use crate::store::columns::{CallbackStateColumns, Fields as _, StateColumns};
use crate::store::{Attempt, CallerName, Notice, OwedCallback, StoreError, Tracked};

/// What other rows need to know of an operation's.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) number: i64,
    pub(super) lane: i64,
    pub(super) caller: CallerName,
    pub(super) url: String,
    pub(super) origin: String,
}

impl Place {
    fn read(row: &Row) -> Result<(OperationId, Self), StoreError> {
        let columns = Columns { table: "operations", row };
        let place = Self {
            number: columns.get("number")?,
            lane: columns.get("lane")?,
            caller: columns.word("caller", |text| text.parse().ok())?,
            url: columns.text("callback_url")?,
            origin: columns.text("callback_origin")?,
        };
        Ok((columns.word("id", |text| text.parse().ok())?, place))
    }

    /// The lane of its callbacks.
    pub(super) fn callback_lane(&self) -> LaneName {
        LaneName::callback(&self.caller, &self.origin)
    }
}

/// Runs a statement with an array for each of its columns, filled from the same rows.
macro_rules! with_columns {
    ($transaction:expr, $doing:expr, $sql:expr, $rows:expr,
     |$row:pat_param| $($column:ident: $value:expr),+ $(,)?) => {{
        $(let mut $column = Vec::with_capacity($rows.len());)+
        for $row in $rows.iter() {
            $($column.push($value);)+
        }
        rows($transaction, $doing, $sql, &[$(&$column),+]).await
    }};
}
pub(super) use with_columns;

/// Live operations that these registrations repeat, by caller and likeness.
pub(super) async fn alike(
    transaction: &Transaction<'_>,
    registrations: &[&Prepared],
) -> Result<HashMap<(CallerName, Vec<u8>), Tracked>, StoreError> {
    if registrations.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT operations.* FROM unnest($1::text[], $2::bytea[]) AS wanted (caller, likeness) \
        JOIN operations ON operations.caller = wanted.caller \
        AND operations.likeness = wanted.likeness AND operations.rested_at IS NULL";
    let found = with_columns!(transaction, "looking for live operations", sql, registrations, |it|
        callers: it.registration.caller.as_str(),
        likenesses: it.likeness.as_slice(),
    )?;
    let read = |row| {
        let columns = Columns { table: "operations", row };
        let tracked = columns.tracked()?;
        Ok(((tracked.caller.clone(), columns.bytes("likeness")?), tracked))
    };
    found.iter().map(read).collect()
}

/// What became of an operation, and the body that Graph sent, if one came.
pub(super) type Became<'a> = (&'a Operation, Option<&'a Bytes>);

/// Writes what became of operations, and tells where they are.
pub(super) async fn update_operations(
    transaction: &Transaction<'_>,
    became: &[Became<'_>],
) -> Result<HashMap<OperationId, Place>, StoreError> {
    if became.is_empty() {
        return Ok(HashMap::new());
    }
    let became: Vec<_> = became
        .iter()
        .map(|(after, body)| (*after, *body, StateColumns::from(&after.state)))
        .collect();
    let sql = "UPDATE operations SET polls = after.polls, callbacks = after.callbacks, \
        state = after.state, next_poll_at = after.next_poll_at, troubles = after.troubles, \
        rejections = after.rejections, refusals = after.refusals, refusal = after.refusal, \
        blocked_until = after.blocked_until, earliest_poll_at = after.earliest_poll_at, \
        outcome = after.outcome, rested_at = after.rested_at, \
        last_body = coalesce(after.body, operations.last_body), \
        running_notice = after.running_notice, blocked_since = after.blocked_since, \
        reminders = after.reminders, \
        sealed_token = CASE WHEN after.rested_at IS NULL THEN operations.sealed_token END \
        FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], \
        $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], $10::bigint[], $11::bigint[], \
        $12::text[], $13::bigint[], $14::bytea[], $15::text[], $16::bigint[], \
        $17::bigint[]) \
        AS after (id, polls, callbacks, state, next_poll_at, troubles, rejections, refusals, \
        refusal, blocked_until, earliest_poll_at, outcome, rested_at, body, running_notice, \
        blocked_since, reminders) \
        WHERE operations.id = after.id RETURNING operations.id, number, lane, caller, \
        callback_url, callback_origin";
    let updated = with_columns!(transaction, "updating operations", sql, became, |(after, body, state)|
        ids: after.id.to_string(),
        polls: i64::from(after.polls),
        callbacks: i64::from(after.callbacks),
        states: after.state.as_str(),
        next_polls: state.next_poll_at,
        troubles: state.troubles.map(i64::from),
        rejections: state.rejections.map(i64::from),
        refusals: state.refusals.map(i64::from),
        refusal_words: state.refusal,
        blocked_until: state.blocked_until,
        earliest_polls: state.earliest_poll_at,
        outcomes: state.outcome,
        rested: state.rested_at,
        bodies: body.map(Bytes::as_ref),
        running_notices: after.running.as_str(),
        blocked_since: state.blocked_since,
        reminders: state.reminders.map(i64::from),
    )?;
    updated.iter().map(Place::read).collect()
}

/// Where operations are.
pub(super) async fn places(
    transaction: &Transaction<'_>,
    ids: impl Iterator<Item = OperationId>,
) -> Result<HashMap<OperationId, Place>, StoreError> {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT id, number, lane, caller, callback_url, callback_origin FROM operations \
        WHERE id = ANY($1)";
    rows(transaction, "finding operations", sql, &[&ids]).await?.iter().map(Place::read).collect()
}

/// Keeps callbacks that are owed by operations at these places.
pub(super) async fn insert_callbacks(
    transaction: &Transaction<'_>,
    owed: &[(&OwedCallback, &Place)],
) -> Result<(), StoreError> {
    if owed.is_empty() {
        return Ok(());
    }
    let owed: Vec<_> = owed
        .iter()
        .map(|(owed, place)| (*owed, *place, CallbackStateColumns::from(&owed.callback.state)))
        .collect();
    let sql = "INSERT INTO callbacks (operation_id, number, caller, notice, url, origin, body, \
        owed_at, attempts, state, tries, next_attempt_at, give_up_at, reason, rested_at, headers) \
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], \
        $6::text[], $7::bytea[], $8::bigint[], $9::bigint[], $10::text[], $11::bigint[], \
        $12::bigint[], $13::bigint[], $14::text[], $15::bigint[], $16::text[])";
    with_columns!(transaction, "keeping callbacks", sql, owed, |(owed, place, state)|
        ids: owed.callback.id.operation.to_string(),
        numbers: i64::from(owed.callback.id.number),
        callers: place.caller.as_str(),
        notices: Notice::of(owed.owed).0,
        urls: place.url.as_str(),
        origins: place.origin.as_str(),
        bodies: owed.body.as_ref(),
        owed_at: owed.callback.owed_at.as_millisecond(),
        attempts: i64::from(owed.callback.attempts),
        states: owed.callback.state.as_str(),
        tries: state.tries.map(i64::from),
        next_attempts: state.next_attempt_at,
        give_up: state.give_up_at,
        reasons: state.reason,
        rested: state.rested_at,
        headers: owed.headers.as_str(),
    )
    .map(drop)
}

/// Writes what became of callbacks.
pub(super) async fn update_callbacks(
    transaction: &Transaction<'_>,
    became: &[&Callback],
) -> Result<(), StoreError> {
    if became.is_empty() {
        return Ok(());
    }
    let became: Vec<_> =
        became.iter().map(|after| (*after, CallbackStateColumns::from(&after.state))).collect();
    let sql = "UPDATE callbacks SET attempts = after.attempts, state = after.state, \
        tries = after.tries, next_attempt_at = after.next_attempt_at, \
        give_up_at = after.give_up_at, reason = after.reason, rested_at = after.rested_at \
        FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], \
        $6::bigint[], $7::bigint[], $8::text[], $9::bigint[]) \
        AS after (operation_id, number, attempts, state, tries, next_attempt_at, give_up_at, \
        reason, rested_at) \
        WHERE callbacks.operation_id = after.operation_id AND callbacks.number = after.number";
    with_columns!(transaction, "updating callbacks", sql, became, |(after, state)|
        ids: after.id.operation.to_string(),
        numbers: i64::from(after.id.number),
        attempts: i64::from(after.attempts),
        states: after.state.as_str(),
        tries: state.tries.map(i64::from),
        next_attempts: state.next_attempt_at,
        give_up: state.give_up_at,
        reasons: state.reason,
        rested: state.rested_at,
    )
    .map(drop)
}

pub(super) async fn insert_attempts(
    transaction: &Transaction<'_>,
    attempts: &[(CallbackId, &Attempt)],
) -> Result<(), StoreError> {
    if attempts.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO attempts (operation_id, callback_number, number, at, took_ms, status, \
        failure, detail, answer) \
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], \
        $6::bigint[], $7::text[], $8::text[], $9::bytea[]) \
        ON CONFLICT (operation_id, callback_number, number) DO UPDATE SET at = excluded.at, \
        took_ms = excluded.took_ms, status = excluded.status, failure = excluded.failure, \
        detail = excluded.detail, answer = excluded.answer";
    with_columns!(transaction, "keeping attempts", sql, attempts, |(id, attempt)|
        ids: id.operation.to_string(),
        callbacks: i64::from(id.number),
        numbers: i64::from(attempt.number),
        at: attempt.at.as_millisecond(),
        took: i64::try_from(attempt.took_ms).unwrap_or(i64::MAX),
        statuses: attempt.status.map(i64::from),
        failures: attempt.failure.as_deref(),
        details: attempt.detail.as_deref(),
        answers: attempt.answer.as_ref(),
    )
    .map(drop)
}

/// The rows of operations, by their numbers.
pub(super) async fn operation_rows(
    transaction: &Transaction<'_>,
    keys: impl Iterator<Item = Key>,
) -> Result<HashMap<Key, Row>, StoreError> {
    let numbers: Vec<i64> = keys.map(|key| key.operation).collect();
    if numbers.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT * FROM operations WHERE number = ANY($1)";
    let found = rows(transaction, "reading operations", sql, &[&numbers]).await?;
    let read = |row: Row| {
        let operation = Columns { table: "operations", row: &row }.get("number")?;
        Ok((Key { operation, callback: 0 }, row))
    };
    found.into_iter().map(read).collect()
}

/// The rows of callbacks, by the numbers of their operations and their own.
pub(super) async fn callback_rows(
    transaction: &Transaction<'_>,
    keys: impl Iterator<Item = Key>,
) -> Result<HashMap<Key, Row>, StoreError> {
    let (operations, numbers): (Vec<i64>, Vec<i64>) =
        keys.map(|key| (key.operation, key.callback)).unzip();
    if operations.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT callbacks.*, operations.number AS operation, operations.sealed_callback_secret, \
        EXISTS (SELECT 1 FROM gone_destinations WHERE gone_destinations.caller = callbacks.caller \
        AND gone_destinations.url = callbacks.url) AS is_gone \
        FROM unnest($1::bigint[], $2::bigint[]) AS wanted (operation, number) \
        JOIN operations ON operations.number = wanted.operation \
        JOIN callbacks ON callbacks.operation_id = operations.id \
        AND callbacks.number = wanted.number";
    let found = rows(transaction, "reading callbacks", sql, &[&operations, &numbers]).await?;
    let read = |row: Row| {
        let columns = Columns { table: "callbacks", row: &row };
        let key = Key { operation: columns.get("operation")?, callback: columns.get("number")? };
        Ok((key, row))
    };
    found.into_iter().map(read).collect()
}

/// Adds to how many operations of each caller are not at rest.
pub(super) async fn count_live(
    transaction: &Transaction<'_>,
    changes: impl IntoIterator<Item = (CallerName, i64)>,
) -> Result<(), StoreError> {
    let mut changes: Vec<_> = changes.into_iter().filter(|(_, change)| *change != 0).collect();
    if changes.is_empty() {
        return Ok(());
    }
    changes.sort_unstable();
    // A connection has a shard of its own for most of the time, and so need not wait for others.
    let sql = "INSERT INTO live_operations (caller, shard, live) \
        SELECT caller, pg_backend_pid() % 16, change \
        FROM unnest($1::text[], $2::bigint[]) AS changes (caller, change) \
        ON CONFLICT (caller, shard) DO UPDATE SET live = live_operations.live + excluded.live";
    with_columns!(transaction, "counting live operations", sql, changes, |(caller, change)|
        callers: caller.as_str(),
        amounts: *change,
    )
    .map(drop)
}

/// How many operations of each caller that there is are not at rest.
pub(super) async fn live(
    transaction: &Transaction<'_>,
    callers: Vec<&str>,
) -> Result<HashMap<CallerName, u64>, StoreError> {
    let sql = "SELECT name, (SELECT coalesce(sum(live), 0)::bigint FROM live_operations \
        WHERE caller = callers.name) AS live FROM callers WHERE name = ANY($1)";
    let found = rows(transaction, "counting live operations", sql, &[&callers]).await?;
    let read = |row| {
        let columns = Columns { table: "callers", row };
        let live: i64 = columns.get("live")?;
        let name = columns.word("name", |text| text.parse().ok())?;
        Ok((name, u64::try_from(live).unwrap_or_default()))
    };
    found.iter().map(read).collect()
}
