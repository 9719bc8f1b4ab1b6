//! Which apps sign in as which caller.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::SqliteStore;
use super::directory::{live, rows, write};
use super::row::Columns;
use crate::store::columns::Fields as _;
use crate::store::{Bound, CallerName, SignInApp, SignInSummary, SignIns, StoreError};

#[async_trait]
impl SignIns for SqliteStore {
    async fn add_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
        most: u32,
        now: Timestamp,
    ) -> Result<Bound, StoreError> {
        let (caller, app) = (caller.clone(), app.clone());
        let add = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(Bound::NoSuchCaller);
            }
            let SignInApp { tenant, app } = &app;
            let sql = "SELECT 1 FROM sign_ins WHERE tenant = ?1 AND app = ?2";
            if !rows(database, sql, [tenant, app], |_| Ok(()))?.is_empty() {
                return Ok(Bound::Taken);
            }
            let sql = "SELECT count(*) FROM sign_ins WHERE caller = ?1";
            let others = rows(database, sql, [caller.as_str()], |row| row.get::<_, u32>(0))?;
            if others.into_iter().any(|others| others >= most) {
                return Ok(Bound::TooMany);
            }
            let sql = "INSERT INTO sign_ins (tenant, app, caller, created_at) \
                VALUES (?1, ?2, ?3, ?4)";
            write(database, sql, params![tenant, app, caller.as_str(), now.as_millisecond()])?;
            Ok(Bound::Made)
        };
        self.change(add).await
    }

    async fn sign_ins(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<SignInSummary>>, StoreError> {
        let caller = caller.clone();
        let list = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(None);
            }
            let sql = "SELECT tenant, app, created_at FROM sign_ins WHERE caller = ?1 \
                ORDER BY tenant, app";
            let found = rows(database, sql, [caller.as_str()], |row| {
                Ok(Columns { table: "sign_ins", row }.sign_in())
            })?;
            found.into_iter().collect::<Result<_, _>>().map(Some)
        };
        self.readers.run(list).await
    }

    async fn remove_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
    ) -> Result<bool, StoreError> {
        let (caller, app) = (caller.clone(), app.clone());
        let remove = move |database: &Connection| {
            let sql = "DELETE FROM sign_ins WHERE tenant = ?1 AND app = ?2 AND caller = ?3";
            Ok(write(database, sql, [app.tenant.as_str(), &app.app, caller.as_str()])? > 0)
        };
        self.change(remove).await
    }

    async fn caller_by_sign_in(&self, app: &SignInApp) -> Result<Option<CallerName>, StoreError> {
        let wanted = app.clone();
        let find = move |database: &Connection| {
            let sql = "SELECT caller FROM sign_ins WHERE tenant = ?1 AND app = ?2";
            let found = rows(database, sql, [&wanted.tenant, &wanted.app], |row| {
                Ok(Columns { table: "sign_ins", row }.word("caller", |text| text.parse().ok()))
            })?;
            found.into_iter().next().transpose()
        };
        self.known.sign_ins.get(app, self.readers.run(find)).await
    }
}
