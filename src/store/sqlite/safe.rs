//! What is sealed, and how it is sealed anew.
//!
//! Read and sealed beside the writer, which only puts each value into its place if that is still what was
//! read.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};

use super::error::Context;
use super::row::Columns;
use super::steps::execute;
use super::{SqliteStore, list};
use crate::store::columns::Fields as _;
use crate::store::handover::Value;
use crate::store::safe::{EXAMPLES, Replacement, Sealed, Unopened, replacements};
use crate::store::{
    CannotOpen, Rekeying, Resealed, RowName, SEALED_COLUMNS, Safe, SealedColumn, SealedUnder,
    StoreError,
};
use crate::vault::{KeyId, Vault};

const READING: &str = "reading what is sealed";
const WRITING: &str = "writing down a change of master keys";

#[async_trait]
impl Safe for SqliteStore {
    fn keys(&self) -> Vec<KeyId> {
        self.vault.keys().iter().collect()
    }

    async fn sealed(&self) -> Result<Vec<SealedUnder>, StoreError> {
        self.readers.run(census).await
    }

    async fn ask_rekeying(&self, now: Timestamp) -> Result<Option<Rekeying>, StoreError> {
        let key = self.vault.first_key();
        self.writer.run(move |database| ask(database, key, now)).await.map(Some)
    }

    async fn rekeyings(&self, limit: u32) -> Result<Vec<Rekeying>, StoreError> {
        let latest = move |database: &Connection| {
            let sql = "SELECT * FROM rekeyings ORDER BY asked_at DESC, key_id LIMIT ?1";
            list(database, sql, [limit], rekeying)
        };
        self.readers.run(latest).await
    }

    async fn reseal(
        &self,
        column: SealedColumn,
        key: KeyId,
        behind: Option<RowName>,
        limit: u32,
    ) -> Result<Resealed, StoreError> {
        let vault = self.vault.clone();
        let seal = move |database: &Connection| {
            let page = page(database, column, key, behind.as_ref(), limit)?;
            replacements(&vault, column, page, limit).context("sealing anew")
        };
        let (replacements, resealed) = self.readers.run(seal).await?;
        let first_key = self.vault.first_key();
        let replace = move |database: &Connection| {
            let rewritten = replace(database, column, &replacements)?;
            let sql = "UPDATE rekeyings SET rewritten = rewritten + ?2 WHERE key_id = ?1";
            execute(database, sql, params![first_key.to_string(), rewritten], WRITING)?;
            Ok(rewritten)
        };
        let rewritten = self.writer.run(replace).await?;
        Ok(Resealed { rewritten, ..resealed })
    }

    async fn finish_rekeying(&self, unreadable: u64, now: Timestamp) -> Result<(), StoreError> {
        let key = self.vault.first_key().to_string();
        let finish = move |database: &Connection| {
            let sql = "UPDATE rekeyings SET done_at = ?2, unreadable = ?3 \
                WHERE key_id = ?1 AND done_at IS NULL";
            let row = params![key, now.as_millisecond(), unreadable];
            execute(database, sql, row, WRITING).map(drop)
        };
        self.writer.run(finish).await
    }
}

fn rekeying(row: &rusqlite::Row<'_>) -> Result<Rekeying, StoreError> {
    Columns { table: "rekeyings", row }.rekeying()
}

fn ask(database: &Connection, key: KeyId, now: Timestamp) -> Result<Rekeying, StoreError> {
    let sql = "INSERT INTO rekeyings (key_id, asked_at, rewritten, unreadable) \
        VALUES (?1, ?2, 0, 0) ON CONFLICT (key_id) DO UPDATE SET asked_at = ?2, rewritten = 0, \
        unreadable = 0, done_at = NULL WHERE done_at IS NOT NULL";
    execute(database, sql, params![key.to_string(), now.as_millisecond()], WRITING)?;
    let mut statement =
        database.prepare_cached("SELECT * FROM rekeyings WHERE key_id = ?1").context(READING)?;
    statement.query_row([key.to_string()], |row| Ok(rekeying(row))).context(READING)?
}

fn census(database: &Connection) -> Result<Vec<SealedUnder>, StoreError> {
    let mut found = Vec::new();
    for column in SEALED_COLUMNS {
        let read = |row: &rusqlite::Row<'_>| {
            let columns = Columns { table: column.table, row };
            let (key, values) = (columns.bytes("key")?, columns.number("number")?);
            Ok(SealedUnder { column, key: KeyId::of(&key), values })
        };
        found.extend(list(database, &column.census(), [], read)?);
    }
    Ok(found)
}

/// Values under one key, by the names of their rows.
fn page(
    database: &Connection,
    column: SealedColumn,
    key: KeyId,
    behind: Option<&RowName>,
    limit: u32,
) -> Result<Vec<Sealed>, StoreError> {
    let sql = column.page(behind.is_some(), limit);
    let key = Value::Bytes(key.as_bytes().to_owned());
    let behind = behind.iter().flat_map(|RowName(names)| names.iter());
    let params = params_from_iter(std::iter::once(&key).chain(behind));
    let read = |row: &rusqlite::Row<'_>| {
        let names = (0..column.names()).map(|it| row.get(it)).collect::<Result<_, _>>();
        let sealed = row.get(column.names());
        Ok((names.context(READING)?, sealed.context(READING)?))
    };
    list(database, &sql, params, read)
}

/// Answers how many were still what was read.
fn replace(
    database: &Connection,
    column: SealedColumn,
    replacements: &[Replacement],
) -> Result<u64, StoreError> {
    let mut statement = database.prepare_cached(&column.replace()).context(WRITING)?;
    let mut replaced = 0;
    for Replacement { row, before, after } in replacements {
        let sealed = [after, before].map(|it| Value::Bytes(it.clone()));
        let params = params_from_iter(sealed.iter().chain(row));
        replaced += statement.execute(params).context(WRITING)? as u64;
    }
    Ok(replaced)
}

/// What no key of the vault's can open, by the key that it is sealed under.
pub(super) fn look_for_other_keys(
    database: &Connection,
    vault: &Vault,
) -> Result<Result<(), CannotOpen>, StoreError> {
    let keys = vault.keys();
    let mut unopened = Vec::new();
    for column in SEALED_COLUMNS {
        let mut last = Vec::new();
        while let Some(next) = next_key(database, column, &last)? {
            let key = KeyId::of(&next);
            if !key.is_some_and(|key| keys.contains(key)) {
                let mut statement = database.prepare(&column.count()).context(READING)?;
                let values = statement.query_row([&next], |row| row.get(0)).context(READING)?;
                let examples = match key {
                    Some(key) => page(database, column, key, None, EXAMPLES)?,
                    None => Vec::new(),
                };
                let examples = examples.iter().map(|(row, _)| column.place_of(row)).collect();
                unopened.push(Unopened { sealed: SealedUnder { column, key, values }, examples });
            }
            last = next;
        }
    }
    Ok(CannotOpen::check(unopened))
}

fn next_key(
    database: &Connection,
    column: SealedColumn,
    last: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut statement = database.prepare_cached(&column.next_key()).context(READING)?;
    statement.query_row([last], |row| row.get(0)).optional().context(READING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema;
    use crate::vault::MasterKey;

    fn fresh() -> Connection {
        let mut database = Connection::open_in_memory().unwrap();
        schema::migrate(&mut database, 0).unwrap();
        database
    }

    #[test]
    fn no_more_of_a_large_table_is_read_than_what_is_looked_for() {
        let database = fresh();
        let plan = |sql: &str| -> String {
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            let mut statement = database.prepare(&sql).unwrap();
            let steps = statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>();
            let steps: Vec<String> = steps.unwrap();
            steps.join("; ")
        };
        for column in SEALED_COLUMNS.iter().filter(|it| it.table == "operations") {
            let searches =
                [column.next_key(), column.count(), column.page(false, 9), column.page(true, 9)];
            for sql in searches {
                let plan = plan(&sql);
                let is_narrow =
                    plan.starts_with("SEARCH operations USING") && plan.contains("_key");
                assert!(is_narrow && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
            }
            let plan = plan(&column.census());
            assert!(plan.contains("_key") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[test]
    fn what_was_changed_since_it_was_read_is_not_overwritten() {
        let database = fresh();
        let set_up = "INSERT INTO callers (name, created_at) VALUES ('shop', 0); \
            INSERT INTO extra_headers VALUES ('shop', 'x-one', ''), ('shop', 'x-two', '')";
        database.execute_batch(set_up).unwrap();
        let keys = [(); 2].map(|()| MasterKey::generate().unwrap());
        let old = Vault::new(&keys[0]);
        let both = format!("{},{}", *keys[1].expose(), *keys[0].expose());
        let vault = Vault::with(&both.parse().unwrap());
        let column = *SEALED_COLUMNS.iter().find(|it| it.table == "extra_headers").unwrap();
        let put = |name: &str, sealed: &[u8]| {
            let sql = "UPDATE extra_headers SET sealed_value = ?2 WHERE name = ?1";
            assert_eq!(database.execute(sql, params![name, sealed]).unwrap(), 1);
        };
        for name in ["x-one", "x-two"] {
            put(name, &old.seal(&format!("extra_headers/shop/{name}"), b"before").unwrap());
        }
        let read = page(&database, column, keys[0].id(), None, 10).unwrap();
        assert_eq!(read.len(), 2);
        let (replacements, _) = replacements(&vault, column, read, 10).unwrap();
        let newer = old.seal("extra_headers/shop/x-two", b"meanwhile").unwrap();
        put("x-two", &newer);
        assert_eq!(replace(&database, column, &replacements).unwrap(), 1);
        let sql = "SELECT sealed_value FROM extra_headers WHERE name = 'x-two'";
        let there: Vec<u8> = database.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(there, newer);
    }
}
