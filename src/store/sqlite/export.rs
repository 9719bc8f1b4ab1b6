//! Reads a whole installation out of its database, for another one that takes its place.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, params_from_iter};
use sha2::{Digest as _, Sha256};

use super::error::Context;
use super::lock::{Damage, Lock};
use super::{OpenError, check, inaccessible, lock_existing, look_for_damage, schema, sound};
use crate::store::StoreError;
use crate::store::handover::{Check, CopyId, Origin, Table, Value};

/// How many rows are read at a time, and at about how many bytes it is enough.
const ROWS: usize = 2_000;
const BYTES: usize = 4 << 20;

/// PostgreSQL counts what is live of a caller in a table of its own; to it, this is the first shard.
const LIVE_OPERATIONS: &str = "CREATE TEMP VIEW live_operations AS \
    SELECT name AS caller, 0 AS shard, live_operations AS live FROM callers";

/// A database that nobody uses meanwhile, seen as it was when this was opened.
#[derive(Debug)]
pub struct Source {
    // Declared, and so closed, before the lock.
    connection: Arc<Mutex<Connection>>,
    path: PathBuf,
    tables: Vec<Table>,
    origin: Origin,
    damage: Damage,
    _lock: Lock,
}

impl Source {
    /// Opens the database at `path`, which is only read until it is marked, its write-ahead log
    /// included. Blocks while it works.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let mut lock = lock_existing(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        let not_there = || OpenError::NotThere { path: path.to_owned() };
        match schema::check_version(&connection)? {
            0 => return Err(not_there()),
            found if found < schema::VERSION => {
                return Err(OpenError::OlderVersion { found, ours: schema::VERSION });
            }
            _ => {}
        }
        look_for_damage(path, &connection, &lock)?;
        sound::check_schema(&connection)?;
        let state = lock.state().map_err(inaccessible(path))?;
        let damage = lock.opened().map_err(inaccessible(path))?;
        // From its first statement on, a transaction sees nothing of what others write.
        let begin = format!("PRAGMA temp_store = MEMORY; {LIVE_OPERATIONS}; BEGIN");
        connection.execute_batch(&begin)?;
        let (sealed_check, moved) = match check(&connection)?.ok_or_else(not_there)? {
            Check::Moved { copy, to, sealed_check } => (sealed_check, Some((copy, to))),
            other @ (Check::Sealed(_) | Check::Unfinished(_)) => (other.write(), None),
        };
        let origin = Origin { sealed_check, state: Sha256::digest(state).into(), moved };
        let tables = tables()?;
        let connection = Arc::new(Mutex::new(connection));
        Ok(Self { connection, path: path.to_owned(), tables, origin, damage, _lock: lock })
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// All that there is to copy, each behind those that it refers to.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// How many rows a table has.
    pub async fn count(&self, table: &Table) -> Result<u64, StoreError> {
        let sql = format!("SELECT count(*) FROM {}", table.name);
        let count = move |connection: &mut Connection| {
            connection.query_row(&sql, [], |row| row.get(0)).context("counting rows")
        };
        self.run(count).await
    }

    /// The next rows in the order of their keys, the first ones or those behind a key; none at the
    /// end. So many that they fit into memory, whatever they are.
    pub async fn page(
        &self,
        table: &Table,
        behind: Option<&[Value]>,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let (sql, columns) = (table.page(behind.is_some(), ROWS), table.columns.len());
        let behind = behind.unwrap_or_default().to_owned();
        let page = move |connection: &mut Connection| {
            page(connection, &sql, &behind, columns).context("reading rows to copy")
        };
        self.run(page).await
    }

    /// Says, for good, that another database has taken the place of this one.
    pub async fn mark(&self, copy: CopyId, to: String) -> Result<(), StoreError> {
        let sealed_check = self.origin.sealed_check.clone();
        let (path, check) = (self.path.clone(), Check::Moved { copy, to, sealed_check });
        let mark = move |connection: &mut Connection| {
            connection.execute_batch("ROLLBACK").context("closing the database")?;
            *connection = replace_check(&path, &check).context("marking the database as moved")?;
            Ok(())
        };
        self.run(mark).await
    }

    /// Away from the threads that speak to the other database.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (connection, damage) = (Arc::clone(&self.connection), self.damage.clone());
        let run = tokio::task::spawn_blocking(move || {
            let result = work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
            damage.note(&result);
            result
        });
        run.await.map_err(|died| StoreError::Unavailable(anyhow::Error::new(died)))?
    }
}

/// Lets a database that was marked as moved be served again. Answers where it was moved to. Blocks
/// while it works.
pub fn unmark(path: &Path) -> Result<String, OpenError> {
    let source = Source::open(path)?;
    let Origin { sealed_check, moved, .. } = source.origin.clone();
    let (_, to) = moved.ok_or_else(|| OpenError::NotMoved { path: path.to_owned() })?;
    let mut connection = source.connection.lock().unwrap_or_else(PoisonError::into_inner);
    connection.execute_batch("ROLLBACK")?;
    *connection = replace_check(path, &Check::Sealed(sealed_check))?;
    Ok(to)
}

/// Closing what it returns folds the write-ahead log into the database.
fn replace_check(path: &Path, check: &Check) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    connection.execute("UPDATE installation SET sealed_check = ?1", [check.write()])?;
    Ok(connection)
}

/// In the order in which they were made, and so behind those that they refer to.
fn tables() -> Result<Vec<Table>, OpenError> {
    // Not those of the database itself, in which others may have made some of their own.
    let mut fresh = Connection::open_in_memory()?;
    schema::migrate(&mut fresh, 0)?;
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' \
        AND name NOT LIKE 'sqlite~_%' ESCAPE '~' AND name <> 'installation' ORDER BY rowid";
    let mut names = fresh.prepare(sql)?;
    let names = names.query_map([], |row| row.get(0))?;
    let mut tables: Vec<Table> =
        names.map(|name| table(&fresh, name?)).collect::<Result<_, _>>()?;
    let columns = ["caller", "shard", "live"].map(str::to_owned).to_vec();
    tables.push(Table { name: "live_operations".to_owned(), columns, key: vec![0, 1] });
    Ok(tables)
}

fn table(connection: &Connection, name: String) -> rusqlite::Result<Table> {
    // What is in a table of its own in PostgreSQL is left out here.
    let sql = "SELECT name, pk FROM pragma_table_info(?1) \
        WHERE (?1, name) <> ('callers', 'live_operations') ORDER BY cid";
    let mut found = connection.prepare(sql)?;
    let found = found.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: Vec<(String, u32)> = found.collect::<Result<_, _>>()?;
    let mut key: Vec<usize> = (0..found.len()).filter(|&column| found[column].1 != 0).collect();
    key.sort_by_key(|&column| found[column].1);
    let columns = found.into_iter().map(|(name, _)| name).collect();
    Ok(Table { name, columns, key })
}

fn page(
    connection: &Connection,
    sql: &str,
    behind: &[Value],
    columns: usize,
) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(behind))?;
    let (mut page, mut size) = (Vec::new(), 0);
    while size < BYTES
        && let Some(row) = rows.next()?
    {
        let row = (0..columns).map(|column| row.get(column)).collect::<Result<Vec<Value>, _>>()?;
        size += row.iter().map(Value::size).sum::<usize>();
        page.push(row);
    }
    Ok(page)
}

impl FromSql for Value {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Number(number),
            ValueRef::Text(_) => Self::Text(value.as_str()?.to_owned()),
            ValueRef::Blob(bytes) => Self::Bytes(bytes.to_owned()),
            ValueRef::Real(_) => return Err(FromSqlError::InvalidType),
        })
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
