//! The audit log as rows.

use async_trait::async_trait;
use jiff::Timestamp;

use super::PostgresStore;
use super::resends::params;
use super::row::Columns;
use crate::store::columns::{AUDIT, Fields as _, audit_values};
use crate::store::{AuditFilter, AuditLog, Ending, Entry, EntryId, Page, StoreError};

const READING: &str = "reading the audit log";
const WRITING: &str = "writing to the audit log";

#[async_trait]
impl AuditLog for PostgresStore {
    async fn begin_change(&self, entry: Entry) -> Result<(), StoreError> {
        let values = audit_values(&entry);
        let places: Vec<_> = (1..=values.len()).map(|number| format!("${number}")).collect();
        // Where the answer to it was lost, it is sent again.
        let sql = format!(
            "INSERT INTO audit ({AUDIT}) VALUES ({}) ON CONFLICT (id) DO NOTHING",
            places.join(", ")
        );
        self.database.query(WRITING, &sql, &params(&values)).await.map(drop)
    }

    async fn end_change(&self, id: EntryId, ending: Ending) -> Result<(), StoreError> {
        let id = id.to_string();
        match ending {
            Ending::Refused => {
                let sql = "DELETE FROM audit WHERE id = $1";
                self.database.query(WRITING, sql, &[&id]).await.map(drop)
            }
            Ending::Answered { status, made } => {
                // Once only, for it may be sent again.
                let sql = "UPDATE audit SET result = $2, \
                    names = trim(names || ' ' || coalesce($3, '')) WHERE id = $1 AND result IS NULL";
                self.database.query(WRITING, sql, &[&id, &i64::from(status), &made]).await.map(drop)
            }
        }
    }

    async fn changes(
        &self,
        filter: &AuditFilter,
        page: Page<EntryId>,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut conditions = filter.conditions(&page);
        let most = conditions.parameter(i64::from(page.limit));
        let sql = format!(
            "SELECT {AUDIT} FROM audit WHERE {} ORDER BY id DESC LIMIT {most}",
            conditions.sql()
        );
        let found = self.database.query(READING, &sql, &params(conditions.values())).await?;
        found.iter().map(|row| Columns { table: "audit", row }.audit_entry()).collect()
    }

    async fn forget_changes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        // What another replica is forgetting is left to it.
        let sql = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id < $1 \
            ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";
        let before = EntryId::first_of(before).to_string();
        let forgotten = self.database.query(WRITING, sql, &[&before, &i64::from(limit)]).await?;
        Ok(u32::try_from(forgotten.len()).unwrap_or(u32::MAX))
    }
}
