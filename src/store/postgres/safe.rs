//! What is sealed, and how it is sealed anew.
//!
//! A batch locks what it reads, passing over what others hold: it waits for nobody, and of two replicas
//! that are at it, each has rows of its own.

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connect::{Database, work};
use super::error::Context as _;
use super::resends::params;
use super::row::Columns;
use super::{PostgresStore, rows};
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
impl Safe for PostgresStore {
    fn keys(&self) -> Vec<KeyId> {
        self.vault.keys().iter().collect()
    }

    async fn sealed(&self) -> Result<Vec<SealedUnder>, StoreError> {
        let mut found = Vec::new();
        for column in SEALED_COLUMNS {
            let rows = self.database.query(READING, &column.census(), &[]).await?;
            for row in &rows {
                let columns = Columns { table: column.table, row };
                let (key, values) = (columns.bytes("key")?, columns.number("number")?);
                found.push(SealedUnder { column, key: KeyId::of(&key), values });
            }
        }
        Ok(found)
    }

    async fn ask_rekeying(&self, now: Timestamp) -> Result<Option<Rekeying>, StoreError> {
        let key = self.vault.first_key().to_string();
        let ask = work(move |transaction| {
            let key = key.clone();
            Box::pin(async move {
                let sql = "INSERT INTO rekeyings (key_id, asked_at, rewritten, unreadable) \
                    VALUES ($1, $2, 0, 0) ON CONFLICT (key_id) DO UPDATE SET asked_at = $2, \
                    rewritten = 0, unreadable = 0, done_at = NULL \
                    WHERE rekeyings.done_at IS NOT NULL";
                rows(transaction, WRITING, sql, &[&key, &now.as_millisecond()]).await?;
                let sql = "SELECT * FROM rekeyings WHERE key_id = $1";
                let found = rows(transaction, READING, sql, &[&key]).await?;
                found.first().map(rekeying).transpose()
            })
        });
        self.database.transaction(ask).await
    }

    async fn rekeyings(&self, limit: u32) -> Result<Vec<Rekeying>, StoreError> {
        let sql = "SELECT * FROM rekeyings ORDER BY asked_at DESC, key_id LIMIT $1";
        let found = self.database.query(READING, sql, &[&i64::from(limit)]).await?;
        found.iter().map(rekeying).collect()
    }

    async fn reseal(
        &self,
        column: SealedColumn,
        key: KeyId,
        behind: Option<RowName>,
        limit: u32,
    ) -> Result<Resealed, StoreError> {
        let vault = self.vault.clone();
        let reseal = work(move |transaction| {
            let (vault, behind) = (vault.clone(), behind.clone());
            Box::pin(async move {
                let page = page(transaction, column, key, behind.as_ref(), limit).await?;
                let (replacements, resealed) =
                    replacements(&vault, column, page, limit).context("sealing anew")?;
                let rewritten = replace(transaction, column, &replacements).await?;
                let sql = "UPDATE rekeyings SET rewritten = rewritten + $2 WHERE key_id = $1";
                let (key, added) = (vault.first_key().to_string(), rewritten.cast_signed());
                rows(transaction, WRITING, sql, &[&key, &added]).await?;
                Ok(Resealed { rewritten, ..resealed })
            })
        });
        self.database.transaction(reseal).await
    }

    async fn finish_rekeying(&self, unreadable: u64, now: Timestamp) -> Result<(), StoreError> {
        let key = self.vault.first_key().to_string();
        let sql = "UPDATE rekeyings SET done_at = $2, unreadable = $3 \
            WHERE key_id = $1 AND done_at IS NULL";
        let (now, unreadable) = (now.as_millisecond(), unreadable.cast_signed());
        self.database.query(WRITING, sql, &[&key, &now, &unreadable]).await.map(drop)
    }
}

fn rekeying(row: &Row) -> Result<Rekeying, StoreError> {
    Columns { table: "rekeyings", row }.rekeying()
}

/// Values under one key, by the names of their rows, which are ours until the end of the transaction.
async fn page(
    transaction: &Transaction<'_>,
    column: SealedColumn,
    key: KeyId,
    behind: Option<&RowName>,
    limit: u32,
) -> Result<Vec<Sealed>, StoreError> {
    let sql = format!("{} FOR UPDATE SKIP LOCKED", column.page(behind.is_some(), limit));
    let key = Value::Bytes(key.as_bytes().to_owned());
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&key];
    values.extend(behind.map(|RowName(names)| params(names)).unwrap_or_default());
    let found = rows(transaction, READING, &sql, &values).await?;
    found.iter().map(|row| named(column, row)).collect()
}

fn named(column: SealedColumn, row: &Row) -> Result<Sealed, StoreError> {
    let names = (0..column.names()).map(|it| row.try_get(it)).collect::<Result<_, _>>();
    let sealed = row.try_get(column.names());
    Ok((names.context(READING)?, sealed.context(READING)?))
}

/// Answers how many were still what was read, which all of them are that are locked.
async fn replace(
    transaction: &Transaction<'_>,
    column: SealedColumn,
    replacements: &[Replacement],
) -> Result<u64, StoreError> {
    let statement = transaction.prepare_cached(&column.replace()).await.context(WRITING)?;
    let mut replaced = 0;
    for Replacement { row, before, after } in replacements {
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![after, before];
        values.extend(params(row));
        replaced += transaction.execute(&statement, &values).await.context(WRITING)?;
    }
    Ok(replaced)
}

/// What no key of the vault's can open, by the key that it is sealed under.
pub(super) async fn look_for_other_keys(
    database: &Database,
    vault: &Vault,
) -> Result<Result<(), CannotOpen>, StoreError> {
    let keys = vault.keys();
    let mut unopened = Vec::new();
    for column in SEALED_COLUMNS {
        let mut last: Vec<u8> = Vec::new();
        while let Some(row) = database.query(READING, &column.next_key(), &[&last]).await?.first() {
            last = Columns { table: column.table, row }.bytes("key")?;
            let key = KeyId::of(&last);
            if key.is_some_and(|key| keys.contains(key)) {
                continue;
            }
            let counted = database.query(READING, &column.count(), &[&last]).await?;
            let read = |row| Columns { table: column.table, row }.number("number");
            let values = counted.first().map(read).transpose()?.unwrap_or_default();
            let sql = column.page(false, EXAMPLES);
            let found = match key {
                Some(_) => database.query(READING, &sql, &[&last]).await?,
                None => Vec::new(),
            };
            let place = |row| named(column, row).map(|(row, _)| column.place_of(&row));
            let examples = found.iter().map(place).collect::<Result<_, _>>()?;
            unopened.push(Unopened { sealed: SealedUnder { column, key, values }, examples });
        }
    }
    Ok(CannotOpen::check(unopened))
}
