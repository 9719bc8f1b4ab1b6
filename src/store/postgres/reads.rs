//! Operations and callbacks as they stand, for whoever asks.
//!
//! Columns are named one by one. PostgreSQL refuses a prepared `SELECT *` from the moment on that a
//! newer replica has added a column, for as long as the connection lasts.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use super::connect::Database;
use super::resends::params;
use super::row::Columns;
use crate::callback::CallbackId;
use crate::operation::OperationId;
use crate::store::columns::Fields as _;
use crate::store::{
    Attempt, CallbackFilter, CallerName, OperationFilter, Page, StoreError, StoredCallback, Tracked,
};

/// What [`Tracked`] is read from.
const OPERATION: &str = "id, caller, graph_version, graph_id, connection, token_expires_at, \
    callback_url, client_state, sealed_callback_secret, format, traceparent, tracestate, \
    registered_at, deadline, polls, callbacks, running_notice, state, next_poll_at, \
    troubles, rejections, refusals, refusal, blocked_since, blocked_until, earliest_poll_at, \
    reminders, outcome, rested_at, last_body";

/// What [`StoredCallback`] is read from.
const CALLBACK: &str = "operation_id, number, caller, notice, url, origin, headers, body, owed_at, \
    attempts, state, tries, next_attempt_at, give_up_at, reason, rested_at";

/// The operation, whosever it is.
pub(super) async fn operation(
    database: &Database,
    id: OperationId,
) -> Result<Option<Tracked>, StoreError> {
    let sql = format!("SELECT {OPERATION} FROM operations WHERE id = $1");
    let found = database.query("reading an operation", &sql, &[&id.to_string()]).await?;
    found.first().map(|row| Columns { table: "operations", row }.tracked()).transpose()
}

/// A caller's operations, newest first.
pub(super) async fn operations(
    database: &Database,
    caller: &CallerName,
    filter: OperationFilter,
    page: Page<OperationId>,
) -> Result<Vec<Tracked>, StoreError> {
    let after = page.after.map(|id| id.to_string());
    // Several statements, each with an index of its own, rather than one for all filters.
    let behind = if after.is_some() { "AND id < $2" } else { "AND $2::text IS NULL" };
    let by_state = if filter.state.is_some() { "AND state = $4" } else { "AND $4::text IS NULL" };
    let by_connection =
        if filter.connection.is_some() { "AND connection = $5" } else { "AND $5::text IS NULL" };
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE caller = $1 {behind} {by_state} {by_connection} \
         ORDER BY id DESC LIMIT $3"
    );
    let (caller, limit) = (caller.as_str(), i64::from(page.limit));
    let params: [&(dyn ToSql + Sync); _] =
        [&caller, &after, &limit, &filter.state, &filter.connection];
    let found = database.query("listing operations", &sql, &params).await?;
    found.iter().map(|row| Columns { table: "operations", row }.tracked()).collect()
}

/// The callback, whosever it is.
pub(super) async fn callback(
    database: &Database,
    id: CallbackId,
) -> Result<Option<StoredCallback>, StoreError> {
    let sql = format!("SELECT {CALLBACK} FROM callbacks WHERE operation_id = $1 AND number = $2");
    let (operation, number) = (id.operation.to_string(), i64::from(id.number));
    let found = database.query("reading a callback", &sql, &[&operation, &number]).await?;
    found.first().map(|row| Columns { table: "callbacks", row }.stored_callback()).transpose()
}

/// A caller's callbacks, newest operation first.
pub(super) async fn callbacks(
    database: &Database,
    caller: &CallerName,
    filter: CallbackFilter,
    page: Page<CallbackId>,
) -> Result<Vec<StoredCallback>, StoreError> {
    let mut conditions = filter.conditions(caller, &page);
    let most = conditions.parameter(i64::from(page.limit));
    let sql = format!(
        "SELECT {CALLBACK} FROM callbacks WHERE {} \
         ORDER BY operation_id DESC, number DESC LIMIT {most}",
        conditions.sql()
    );
    let params = params(conditions.values());
    let found = database.query("listing callbacks", &sql, &params).await?;
    found.iter().map(|row| Columns { table: "callbacks", row }.stored_callback()).collect()
}

/// The latest `limit` attempts of a callback, oldest first.
pub(super) async fn attempts(
    database: &Database,
    id: CallbackId,
    limit: u32,
) -> Result<Vec<Attempt>, StoreError> {
    let sql = "SELECT operation_id, number, at, took_ms, status, failure, detail, answer \
        FROM attempts WHERE operation_id = $1 AND callback_number = $2 \
        ORDER BY number DESC LIMIT $3";
    let (operation, number) = (id.operation.to_string(), i64::from(id.number));
    let params: [&(dyn ToSql + Sync); _] = [&operation, &number, &i64::from(limit)];
    let found = database.query("reading attempts", sql, &params).await?;
    found.iter().rev().map(|row| Columns { table: "attempts", row }.attempt()).collect()
}

/// The latest attempt of each of these callbacks.
pub(super) async fn latest_attempts(
    database: &Database,
    ids: &[CallbackId],
) -> Result<HashMap<CallbackId, Attempt>, StoreError> {
    let (operations, callbacks): (Vec<String>, Vec<i64>) =
        ids.iter().map(|id| (id.operation.to_string(), i64::from(id.number))).unzip();
    let sql = "SELECT latest.operation_id, latest.callback_number, latest.number, at, took_ms, \
        status, failure, detail, answer \
        FROM unnest($1::text[], $2::bigint[]) AS wanted (operation_id, callback) \
        CROSS JOIN LATERAL (SELECT * FROM attempts \
        WHERE attempts.operation_id = wanted.operation_id \
        AND attempts.callback_number = wanted.callback \
        ORDER BY attempts.number DESC LIMIT 1) AS latest";
    let found = database.query("reading attempts", sql, &[&operations, &callbacks]).await?;
    let read = |row| {
        let columns = Columns { table: "attempts", row };
        let operation = columns.word("operation_id", |text| text.parse().ok())?;
        let id = CallbackId { operation, number: columns.number("callback_number")? };
        Ok((id, columns.attempt()?))
    };
    found.iter().map(read).collect()
}
