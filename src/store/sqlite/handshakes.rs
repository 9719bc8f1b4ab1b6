//! What receivers have agreed to.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::Context;
use super::row::Columns;
use crate::lane::{LaneName, Rate};
use crate::store::columns::Fields as _;
use crate::store::{Handshake, StoreError};

pub(super) fn find(
    connection: &Connection,
    lane: &LaneName,
) -> Result<Option<Handshake>, StoreError> {
    let doing = "looking for a handshake";
    let mut statement =
        connection.prepare_cached("SELECT * FROM handshakes WHERE lane = ?1").context(doing)?;
    let read = |row: &rusqlite::Row<'_>| Ok(Columns { table: "handshakes", row }.handshake());
    statement.query_row([lane.to_string()], read).optional().context(doing)?.transpose()
}

pub(super) fn keep(
    connection: &Connection,
    lane: &LaneName,
    handshake: &Handshake,
) -> Result<(), StoreError> {
    let (doing, lane) = ("keeping a handshake", lane.to_string());
    let (agreed_at, rate) = (handshake.agreed_at.as_millisecond(), handshake.rate);
    let sql = "INSERT INTO handshakes (lane, form, agreed_at, rate) VALUES (?1, ?2, ?3, ?4) \
        ON CONFLICT (lane) DO UPDATE SET form = ?2, agreed_at = ?3, rate = ?4";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![lane, handshake.form, agreed_at, rate.map(Rate::attempts)])
        })
        .context(doing)?;
    // With another rate there may be room at once. Too early does no harm, as ever.
    let sql = "UPDATE lanes SET ready_at = min(ready_at, ?2) WHERE name = ?1";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params![lane, agreed_at]))
        .map(drop)
        .context(doing)
}

/// Forgets those that were agreed to before `before`; how many these were.
pub(super) fn forget(
    connection: &Connection,
    before: Timestamp,
    limit: u32,
) -> Result<u32, StoreError> {
    let sql = "DELETE FROM handshakes WHERE lane IN \
        (SELECT lane FROM handshakes WHERE agreed_at < ?1 LIMIT ?2)";
    let forgotten = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params![before.as_millisecond(), limit]));
    let forgotten = forgotten.context("forgetting handshakes")?;
    Ok(u32::try_from(forgotten).unwrap_or(u32::MAX))
}
