//! The tables, and how they came to be.

use rusqlite::Connection;

use super::OpenError;

/// Marks a file as ours: "eBrg".
const APPLICATION_ID: i32 = 0x6542_7267;

/// Each entry takes the schema one version further; entries are only ever added.
const MIGRATIONS: &[&str] = &[include_str!("0001_first.sql")];

/// The version that we bring a database up to.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// The version of the database, or why it is refused. Changes nothing: what is not ours, or not
/// ours any more, must stay as it is.
pub(super) fn check_version(connection: &Connection) -> Result<usize, OpenError> {
    let pragma = |name: &str| -> rusqlite::Result<i32> {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    let (application_id, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = application_id == 0 && version == 0 && tables == 0;
    if application_id != APPLICATION_ID && !is_new {
        return Err(OpenError::NotOurs);
    }
    let ours = VERSION;
    let no_such_version =
        |_| OpenError::Damaged { found: format!("its schema version is {version}") };
    let found = usize::try_from(version).map_err(no_such_version)?;
    if found > ours {
        return Err(OpenError::NewerVersion { found, ours });
    }
    // Version and tables were written together.
    if found == 0 && !is_new {
        return Err(OpenError::Damaged { found: "it has lost its schema version".to_owned() });
    }
    Ok(found)
}

/// Brings a database of version `found` up to ours.
///
/// Each migration commits together with its version number, so an interrupted start goes on where
/// it stopped.
pub(super) fn migrate(connection: &mut Connection, found: usize) -> Result<(), OpenError> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i32::try_from(index + 1).unwrap_or(0))?;
        transaction.commit()?;
    }
    Ok(())
}
