//! What is asked of operations and callbacks without changing them.

use super::connect::Database;
use super::row::Columns;
use crate::callback::CallbackId;
use crate::operation::OperationId;
use crate::store::columns::Fields as _;
use crate::store::{
    Attempt, CallbackFilter, CallerName, OperationFilter, Page, StoreError, StoredCallback, Tracked,
};

pub(super) async fn operation(
    database: &Database,
    id: OperationId,
) -> Result<Option<Tracked>, StoreError> {
    let sql = "SELECT * FROM operations WHERE id = $1";
    let found = database.query("reading an operation", sql, &[&id.to_string()]).await?;
    found.first().map(|row| Columns { table: "operations", row }.tracked()).transpose()
}

pub(super) async fn operations(
    database: &Database,
    caller: &CallerName,
    filter: OperationFilter,
    page: Page<OperationId>,
) -> Result<Vec<Tracked>, StoreError> {
    let after = page.after.map(|id| id.to_string());
    // Separate statements, of which each has its index, rather than one with conditions in it.
    let by_state = if filter.state.is_some() { "AND state = $4" } else { "AND $4::text IS NULL" };
    let behind = if after.is_some() { "AND id < $2" } else { "AND $2::text IS NULL" };
    let sql = format!(
        "SELECT * FROM operations WHERE caller = $1 {behind} {by_state} ORDER BY id DESC LIMIT $3"
    );
    let (caller, limit) = (caller.as_str(), i64::from(page.limit));
    let found = database.query("listing", &sql, &[&caller, &after, &limit, &filter.state]).await?;
    found.iter().map(|row| Columns { table: "operations", row }.tracked()).collect()
}

pub(super) async fn callback(
    database: &Database,
    id: CallbackId,
) -> Result<Option<StoredCallback>, StoreError> {
    let sql = "SELECT * FROM callbacks WHERE operation_id = $1 AND number = $2";
    let key = [&id.operation.to_string() as _, &i64::from(id.number) as _];
    let found = database.query("reading a callback", sql, &key).await?;
    found.first().map(|row| Columns { table: "callbacks", row }.stored_callback()).transpose()
}

pub(super) async fn callbacks(
    database: &Database,
    caller: &CallerName,
    filter: CallbackFilter,
    page: Page<CallbackId>,
) -> Result<Vec<StoredCallback>, StoreError> {
    let after = page.after.map(|id| (id.operation.to_string(), i64::from(id.number)));
    let (after_operation, after_number) = after.unzip();
    let behind = match after_operation {
        Some(_) => "AND (operation_id, number) < ($2, $3)",
        None => "AND $2::text IS NULL AND $3::bigint IS NULL",
    };
    let by_state = if filter.state.is_some() { "AND state = $5" } else { "AND $5::text IS NULL" };
    let by_operation = match filter.operation {
        Some(_) => "AND operation_id = $6",
        None => "AND $6::text IS NULL",
    };
    let sql = format!(
        "SELECT * FROM callbacks WHERE caller = $1 {behind} {by_state} {by_operation} \
         ORDER BY operation_id DESC, number DESC LIMIT $4"
    );
    let operation = filter.operation.map(|id| id.to_string());
    let (caller, limit) = (caller.as_str(), i64::from(page.limit));
    let params = [
        &caller as _,
        &after_operation as _,
        &after_number as _,
        &limit as _,
        &filter.state as _,
        &operation as _,
    ];
    let found = database.query("listing", &sql, &params).await?;
    found.iter().map(|row| Columns { table: "callbacks", row }.stored_callback()).collect()
}

pub(super) async fn attempts(
    database: &Database,
    id: CallbackId,
    limit: u32,
) -> Result<Vec<Attempt>, StoreError> {
    let sql = "SELECT * FROM attempts WHERE operation_id = $1 AND callback_number = $2 \
        ORDER BY number DESC LIMIT $3";
    let key = [&id.operation.to_string() as _, &i64::from(id.number) as _, &i64::from(limit) as _];
    let found = database.query("reading attempts", sql, &key).await?;
    let read = |row| Columns { table: "attempts", row }.attempt();
    found.iter().rev().map(read).collect()
}
