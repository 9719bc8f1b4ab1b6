//! Where receivers want nothing any more.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Context;
use super::row::Columns;
use crate::callback::CallbackId;
use crate::store::columns::Fields as _;
use crate::store::{CallerName, GoneDestination, Page, StoreError, StoredCallback};

const READING: &str = "reading what destinations are gone";
const WRITING: &str = "writing what destinations are gone";

/// Since when the receiver wants nothing there any more.
pub(super) fn gone_since(
    database: &Connection,
    caller: &str,
    url: &str,
) -> Result<Option<Timestamp>, StoreError> {
    let sql = "SELECT * FROM gone_destinations WHERE caller = ?1 AND url = ?2";
    let mut statement = database.prepare_cached(sql).context(READING)?;
    let found = statement.query_row([caller, url], |row| Ok(read(row))).optional();
    Ok(found.context(READING)?.transpose()?.map(|it| it.since))
}

/// Marks the destination of a callback.
pub(super) fn mark(
    database: &Connection,
    id: CallbackId,
    since: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO gone_destinations (caller, url, since) \
        SELECT caller, url, ?3 FROM callbacks WHERE operation_id = ?1 AND number = ?2 \
        ON CONFLICT (caller, url) DO NOTHING";
    let row = params![id.operation.to_string(), id.number, since.as_millisecond()];
    database.prepare_cached(sql).and_then(|mut it| it.execute(row)).map(drop).context(WRITING)
}

pub(super) fn bring_back(
    database: &Connection,
    caller: &str,
    url: &str,
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM gone_destinations WHERE caller = ?1 AND url = ?2";
    let deleted = database.prepare_cached(sql).and_then(|mut it| it.execute([caller, url]));
    Ok(deleted.context(WRITING)? > 0)
}

/// Brings the destination of a callback back, if it was gone before then.
pub(super) fn bring_back_since(
    database: &Connection,
    stored: &StoredCallback,
    then: Timestamp,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM gone_destinations WHERE caller = ?1 AND url = ?2 AND since < ?3";
    let row = params![stored.caller.as_str(), stored.url, then.as_millisecond()];
    database.prepare_cached(sql).and_then(|mut it| it.execute(row)).map(drop).context(WRITING)
}

/// By URL.
pub(super) fn page(
    database: &Connection,
    caller: &CallerName,
    page: &Page<String>,
) -> Result<Vec<GoneDestination>, StoreError> {
    let behind = if page.after.is_some() { "url > ?2" } else { "?2 IS NULL" };
    let sql = format!(
        "SELECT * FROM gone_destinations WHERE caller = ?1 AND {behind} ORDER BY url LIMIT ?3"
    );
    let mut statement = database.prepare_cached(&sql).context(READING)?;
    let row = params![caller.as_str(), page.after, page.limit];
    let found = statement.query_map(row, |row| Ok(read(row))).context(READING)?;
    found.map(|row| row.context(READING)?).collect()
}

fn read(row: &rusqlite::Row<'_>) -> Result<GoneDestination, StoreError> {
    Columns { table: "gone_destinations", row }.gone_destination()
}
