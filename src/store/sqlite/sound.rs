//! Whether a database that is about to be used is whole.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::{OpenError, schema};

/// Looks for damage in all pages of the database, tables and indexes alike, at the cost of reading
/// them: for a million operations (2.3 GB), 2 s where the machine still has them in memory, as
/// after a kill, and 40 s from a slow disk that it has to read first.
///
/// That is too long for every start and every command, so [`Lock`](super::lock::Lock) says when
/// there is reason to: after a process that was killed, and where somebody else has changed or
/// replaced the file. What a failing disk does to a file that lies still is found when SQLite
/// reads the page at fault. `integrity_check`, which also compares indexes with their tables,
/// takes 20 s even in memory.
pub(super) fn check_pages(connection: &Connection) -> Result<(), OpenError> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(OpenError::Damaged { found }) }
}

/// Checks that the last page is all there: SQLite reads what is missing of it as zeros.
///
/// Only where there is no log, which may hold what is not in the file yet.
pub(super) fn check_length(connection: &Connection, length: u64) -> Result<(), OpenError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    if length < pragma("page_count")?.saturating_mul(pragma("page_size")?) {
        return Err(OpenError::Damaged { found: "the file is too short".to_owned() });
    }
    Ok(())
}

/// Checks that every table and index of ours is there, as we make it.
///
/// A letter that has changed in a table's definition leaves a schema that SQLite finds sound, and
/// statements that do not run.
pub(super) fn check_schema(connection: &Connection) -> Result<(), OpenError> {
    let mut fresh = Connection::open_in_memory()?;
    schema::migrate(&mut fresh, 0)?;
    let there = definitions(connection)?;
    match definitions(&fresh)?.difference(&there).next() {
        None => Ok(()),
        Some((name, _)) => {
            Err(OpenError::Damaged { found: format!("{name} is not as it was made") })
        }
    }
}

fn definitions(connection: &Connection) -> rusqlite::Result<BTreeSet<(String, Option<String>)>> {
    connection
        .prepare("SELECT type || ' ' || name || ' of ' || tbl_name, sql FROM sqlite_schema")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
