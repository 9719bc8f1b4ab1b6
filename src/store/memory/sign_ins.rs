use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::store::{Bound, CallerName, SignInApp, SignInSummary, SignIns, StoreError};

#[async_trait]
impl SignIns for MemoryStore {
    async fn add_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
        most: u32,
        now: Timestamp,
    ) -> Result<Bound, StoreError> {
        let mut rows = self.rows();
        if !rows.callers.contains_key(caller) {
            return Ok(Bound::NoSuchCaller);
        }
        if rows.sign_ins.contains_key(app) {
            return Ok(Bound::Taken);
        }
        if rows.sign_ins.values().filter(|(its, _)| its == caller).count() >= most as usize {
            return Ok(Bound::TooMany);
        }
        rows.sign_ins.insert(app.clone(), (caller.clone(), now));
        Ok(Bound::Made)
    }

    async fn sign_ins(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<SignInSummary>>, StoreError> {
        let rows = self.rows();
        if !rows.callers.contains_key(caller) {
            return Ok(None);
        }
        let its = rows.sign_ins.iter().filter(|(_, (its, _))| its == caller);
        let summary = |(app, (_, created_at)): (&SignInApp, &(CallerName, Timestamp))| {
            SignInSummary { app: app.clone(), created_at: *created_at }
        };
        Ok(Some(its.map(summary).collect()))
    }

    async fn remove_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        if rows.sign_ins.get(app).is_none_or(|(its, _)| its != caller) {
            return Ok(false);
        }
        Ok(rows.sign_ins.remove(app).is_some())
    }

    async fn caller_by_sign_in(&self, app: &SignInApp) -> Result<Option<CallerName>, StoreError> {
        Ok(self.rows().sign_ins.get(app).map(|(caller, _)| caller.clone()))
    }
}
