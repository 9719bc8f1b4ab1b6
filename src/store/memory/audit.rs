use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::store::{AuditFilter, AuditLog, Ending, Entry, EntryId, Page, StoreError};

#[async_trait]
impl AuditLog for MemoryStore {
    async fn begin_change(&self, entry: Entry) -> Result<(), StoreError> {
        self.rows().audit.insert(entry.id, entry);
        Ok(())
    }

    async fn end_change(&self, id: EntryId, ending: Ending) -> Result<(), StoreError> {
        let mut rows = self.rows();
        match ending {
            Ending::Refused => {
                rows.audit.remove(&id);
            }
            Ending::Answered { status, made } => {
                if let Some(entry) = rows.audit.get_mut(&id) {
                    entry.result = Some(status);
                    entry.names.extend(made);
                }
            }
        }
        Ok(())
    }

    async fn changes(
        &self,
        filter: &AuditFilter,
        page: Page<EntryId>,
    ) -> Result<Vec<Entry>, StoreError> {
        let rows = self.rows();
        let behind = |entry: &&Entry| page.after.is_none_or(|after| entry.id < after);
        let wanted = rows.audit.values().rev().filter(behind).filter(|it| filter.includes(it));
        Ok(wanted.take(page.limit as usize).cloned().collect())
    }

    async fn forget_changes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let mut rows = self.rows();
        let old = rows.audit.range(..EntryId::first_of(before)).map(|(id, _)| *id);
        let old: Vec<EntryId> = old.take(limit as usize).collect();
        for id in &old {
            rows.audit.remove(id);
        }
        Ok(u32::try_from(old.len()).unwrap_or(u32::MAX))
    }
}
