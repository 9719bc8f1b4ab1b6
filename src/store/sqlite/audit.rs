//! The audit log as rows.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::error::Context;
use super::row::Columns;
use super::{SqliteStore, list};
use crate::store::columns::{AUDIT, Fields as _, audit_values};
use crate::store::{AuditFilter, AuditLog, Ending, Entry, EntryId, Page, StoreError};

const WRITING: &str = "writing to the audit log";

#[async_trait]
impl AuditLog for SqliteStore {
    async fn begin_change(&self, entry: Entry) -> Result<(), StoreError> {
        let values = audit_values(&entry);
        let begin = move |database: &Connection| {
            let places = vec!["?"; values.len()].join(", ");
            let sql = format!("INSERT INTO audit ({AUDIT}) VALUES ({places})");
            write(database, &sql, params_from_iter(&values)).map(drop)
        };
        self.writer.run(begin).await
    }

    async fn end_change(&self, id: EntryId, ending: Ending) -> Result<(), StoreError> {
        let id = id.to_string();
        let end = move |database: &Connection| match &ending {
            Ending::Refused => write(database, "DELETE FROM audit WHERE id = ?1", [&id]).map(drop),
            Ending::Answered { status, made } => {
                let sql = "UPDATE audit SET result = ?2, \
                    names = trim(names || ' ' || coalesce(?3, '')) WHERE id = ?1";
                write(database, sql, params![id, status, made]).map(drop)
            }
        };
        self.writer.run(end).await
    }

    async fn changes(
        &self,
        filter: &AuditFilter,
        page: Page<EntryId>,
    ) -> Result<Vec<Entry>, StoreError> {
        let conditions = filter.conditions(&page);
        let read = move |database: &Connection| {
            let sql = format!(
                "SELECT {AUDIT} FROM audit WHERE {} ORDER BY id DESC LIMIT {}",
                conditions.sql(),
                page.limit
            );
            let params = params_from_iter(conditions.values());
            let read = |row: &Row<'_>| Columns { table: "audit", row }.audit_entry();
            list(database, &sql, params, read)
        };
        self.readers.run(read).await
    }

    async fn forget_changes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let before = EntryId::first_of(before).to_string();
        let forget = move |database: &Connection| {
            let sql = "DELETE FROM audit WHERE id IN \
                (SELECT id FROM audit WHERE id < ?1 ORDER BY id LIMIT ?2)";
            let forgotten = write(database, sql, params![before, limit])?;
            Ok(u32::try_from(forgotten).unwrap_or(u32::MAX))
        };
        self.writer.run(forget).await
    }
}

fn write(
    database: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<usize, StoreError> {
    database.prepare_cached(sql).and_then(|mut it| it.execute(params)).context(WRITING)
}
