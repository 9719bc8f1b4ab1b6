//! Which apps sign in as which caller.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::connect::work;
use super::directory::{READING, WRITING, lock_caller};
use super::row::Columns;
use super::{PostgresStore, rows};
use crate::store::columns::Fields as _;
use crate::store::{Bound, CallerName, SignInApp, SignInSummary, SignIns, StoreError};

#[async_trait]
impl SignIns for PostgresStore {
    async fn add_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
        most: u32,
        now: Timestamp,
    ) -> Result<Bound, StoreError> {
        let given = Arc::new((caller.clone(), app.clone()));
        let add = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, SignInApp { tenant, app }) = &*given;
                // Two that are added at once would take the same room.
                if !lock_caller(transaction, caller).await? {
                    return Ok(Bound::NoSuchCaller);
                }
                let caller = caller.as_str();
                let sql = "SELECT count(*) FILTER (WHERE caller = $1) AS others, \
                    count(*) FILTER (WHERE tenant = $2 AND app = $3) AS same FROM sign_ins \
                    WHERE caller = $1 OR (tenant = $2 AND app = $3)";
                let found = rows(transaction, READING, sql, &[&caller, tenant, app]).await?;
                let numbers = |row| {
                    let columns = Columns { table: "sign_ins", row };
                    Ok((columns.number::<u32>("others")?, columns.number::<u32>("same")?))
                };
                let (others, same) = found.first().map(numbers).transpose()?.unwrap_or_default();
                if same > 0 {
                    return Ok(Bound::Taken);
                }
                if others >= most {
                    return Ok(Bound::TooMany);
                }
                // Somebody may be giving it to another caller at this moment.
                let sql = "INSERT INTO sign_ins (tenant, app, caller, created_at) \
                    VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, app) DO NOTHING RETURNING app";
                let row = [tenant as _, app as _, &caller as _, &now.as_millisecond() as _];
                let made = rows(transaction, WRITING, sql, &row).await?;
                Ok(if made.is_empty() { Bound::Taken } else { Bound::Made })
            })
        });
        self.change(add).await
    }

    async fn sign_ins(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<SignInSummary>>, StoreError> {
        if !self.has_caller(caller).await? {
            return Ok(None);
        }
        let sql = "SELECT tenant, app, created_at FROM sign_ins WHERE caller = $1 \
            ORDER BY tenant, app";
        let found = self.database.query(READING, sql, &[&caller.as_str()]).await?;
        let read = |row| Columns { table: "sign_ins", row }.sign_in();
        found.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    async fn remove_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
    ) -> Result<bool, StoreError> {
        let given = Arc::new((caller.clone(), app.clone()));
        let remove = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, SignInApp { tenant, app }) = &*given;
                let sql = "DELETE FROM sign_ins WHERE tenant = $1 AND app = $2 AND caller = $3 \
                    RETURNING app";
                let row = [tenant as _, app as _, &caller.as_str() as _];
                Ok(!rows(transaction, WRITING, sql, &row).await?.is_empty())
            })
        });
        self.change(remove).await
    }

    async fn caller_by_sign_in(&self, app: &SignInApp) -> Result<Option<CallerName>, StoreError> {
        let find = async {
            let sql = "SELECT caller FROM sign_ins WHERE tenant = $1 AND app = $2";
            let found = self.first(sql, &[&app.tenant, &app.app]).await?;
            let read =
                |row| Columns { table: "sign_ins", row: &row }.word("caller", |it| it.parse().ok());
            found.map(read).transpose()
        };
        self.known.sign_ins.get(app, find).await
    }
}
