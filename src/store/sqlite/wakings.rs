//! Connections that were repaired, and whose operations are being woken.

use rusqlite::Connection;

use super::list;
use super::row::Columns;
use super::steps::execute;
use crate::store::columns::Fields as _;
use crate::store::{StoreError, Waking};

const WRITING: &str = "writing down that a connection was repaired";

pub(super) fn ask(database: &Connection, waking: &Waking) -> Result<(), StoreError> {
    let sql = "INSERT INTO wakings (caller, connection, asked_at) VALUES (?1, ?2, ?3) \
        ON CONFLICT (caller, connection) DO UPDATE SET asked_at = ?3";
    execute(database, sql, row(waking), WRITING).map(drop)
}

pub(super) fn oldest(database: &Connection, limit: u32) -> Result<Vec<Waking>, StoreError> {
    let sql = "SELECT * FROM wakings ORDER BY asked_at, caller, connection LIMIT ?1";
    list(database, sql, [limit], |row| Columns { table: "wakings", row }.waking())
}

pub(super) fn finish(database: &Connection, waking: &Waking) -> Result<(), StoreError> {
    let sql = "DELETE FROM wakings WHERE caller = ?1 AND connection = ?2 AND asked_at = ?3";
    execute(database, sql, row(waking), WRITING).map(drop)
}

fn row(waking: &Waking) -> impl rusqlite::Params {
    let Waking { caller, connection, asked_at } = waking;
    (caller.as_str(), connection.as_str(), asked_at.as_millisecond())
}
