//! One database for several replicas of the bridge: PostgreSQL, or an engine with its protocol.
//!
//! What the one writer is for SQLite, row locks are here. Every transaction takes them in the same
//! order: keys, operations and steps, then lanes by number, and so hardly ever meets another in a
//! circle; where two do, one of them is tried again. Three rules keep a step from being forgotten:
//!
//! * Whoever plans a step locks its lane before it says when the lane is ready, and until its end; and
//!   so does whoever works out when a lane is ready again. Otherwise each could miss what the other
//!   has not committed yet.
//! * A claim waits for the lane that has been ready for longest, and passes over those that others
//!   hold. So it never waits while it holds one, and no busy lane is passed over for ever.
//! * A claim locks due steps after their lanes, against that order, and so waits for no step.
//!
//! No transaction is held while anything outside is asked.

mod address;
mod audit;
mod batch;
mod callback_options;
mod claim;
mod connect;
mod connections;
mod copy;
mod destinations;
mod dial;
mod directory;
mod error;
mod figures;
mod fresh;
mod hand_out;
mod handshakes;
mod import;
mod lanes;
mod line;
mod lives;
mod reads;
mod register;
mod replicas;
mod resends;
mod retention;
mod row;
mod safe;
mod schedule;
mod schema;
mod sign_ins;
mod steps;
mod time;
mod user_grants;
mod wakings;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use rustls::ClientConfig;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use self::batch::Batches;
use self::connect::{Database, work};
use self::directory::KnownDirectory;
use self::error::{Context as _, both};
use self::line::PassedOver;
use self::replicas::Replicas;
use self::row::Columns;
use self::time::SharedTime;
use super::columns::Fields as _;
use super::handover::Check;
use super::sealed::{CHECK, CHECK_PLACE};
use super::{
    Advance, Advanced, Amended, Amendment, Asked, Attempt, Batch, CallbackFilter, CallerName,
    CannotOpen, Claimed, Commit, Committed, Forgotten, GoneDestination, Handshake, Migrated,
    OperationFilter, Page, Purged, Registered, Registration, Resend, ResendId, Store, StoreError,
    StoredCallback, Tracked, Waking,
};
use crate::callback::CallbackId;
use crate::clock::SharedClock;
use crate::lane::{self, LaneName};
use crate::names::Names;
use crate::operation::OperationId;
use crate::vault::{Vault, VaultError};

pub use address::{Address, InvalidAddress};
pub use import::{CannotCopy, Target};

/// Where replicas tell each other that there is something to look at.
const CHANNEL: &str = "engagement_bridge";

/// A database that is up to date and opened by the master key that we were given.
#[derive(Debug)]
pub struct PostgresStore {
    database: Database,
    registrations: Batches,
    known: Arc<KnownDirectory>,
    vault: Arc<Vault>,
    policy: Arc<lane::Policy>,
    /// The lane after which the next batch of forgetting goes on, so that a round of them comes by
    /// each.
    lanes_forgotten_to: AtomicI64,
    passed_over: Arc<PassedOver>,
    replicas: Replicas,
    time: SharedTime,
}

/// Why a database could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database has schema version {found}, this program knows {ours}: \
         use the newer program that wrote it"
    )]
    NewerVersion { found: usize, ours: usize },
    #[error(
        "the database has schema version {found}, this program needs {ours}, and this role may not \
         bring it up to date: run `engagement-bridge migrate` by one that may"
    )]
    MayNotMigrate {
        found: usize,
        ours: usize,
        #[source]
        source: anyhow::Error,
    },
    #[error(
        "a copy into this database is unfinished: run the same `engagement-bridge copy` again, which \
         goes on where it stopped. Or drop the database, if it is not wanted any more"
    )]
    Unfinished,
    #[error(
        "the master key does not open this database: give the one it was made with, or add that behind \
         the first. Nothing was changed"
    )]
    OtherKeys(#[source] CannotOpen),
    #[error("the master key does not open this database: give the one it was made with")]
    WrongKey(#[source] VaultError),
    #[error("the vault cannot seal")]
    Vault(#[source] VaultError),
    #[error("cannot keep connections")]
    Pool(#[source] anyhow::Error),
    #[error("the database cannot be reached or used")]
    Database(#[from] StoreError),
}

impl PostgresStore {
    /// Connects to the database at `address`, by `tls` where that asks for it, and brings it up to
    /// date. Who its hosts are is told by `names`, for each connection anew.
    pub async fn open(
        address: &Address,
        tls: ClientConfig,
        names: Arc<dyn Names>,
        vault: Vault,
        policy: lane::Policy,
    ) -> Result<Self, OpenError> {
        let database = Database::new(address, tls, names)?;
        bring_up_to_date(&database).await?;
        let (vault, policy) = (Arc::new(vault), Arc::new(policy));
        check_key(&database, &vault).await?;
        let registrations = Batches::start(&database, &vault, &policy);
        Ok(Self {
            replicas: Replicas::default(),
            database,
            registrations,
            known: Arc::default(),
            vault,
            policy,
            lanes_forgotten_to: AtomicI64::default(),
            passed_over: Arc::default(),
            time: SharedTime::default(),
        })
    }
}

impl PostgresStore {
    /// Works until `stop`: hears what other replicas have to say, and tells them of ours. `news` is
    /// called when there may be steps that can be taken.
    pub async fn attend(self: Arc<Self>, news: impl Fn() + Send + Sync, stop: CancellationToken) {
        let attending = self.replicas.attend(&self.database, &self.known, &news);
        stop.run_until_cancelled(Box::pin(attending)).await;
    }

    /// Holds claims to this clock from now on, which is the one that replicas share: none is made
    /// while our time is not theirs.
    pub fn plan_by(&self, clock: &Arc<SharedClock>) {
        self.time.begin(clock);
    }
}

/// Brings the database at `address` up to date, and does nothing else with it.
pub async fn migrate(
    address: &Address,
    tls: ClientConfig,
    names: Arc<dyn Names>,
) -> Result<Migrated, OpenError> {
    bring_up_to_date(&Database::new(address, tls, names)?).await
}

async fn bring_up_to_date(database: &Database) -> Result<Migrated, OpenError> {
    let mut lent = database.lend().await?;
    let client = lent.client()?;
    match check(client).await? {
        Some(Check::Unfinished(_)) => Err(OpenError::Unfinished),
        Some(Check::Sealed(_) | Check::Moved { .. }) | None => schema::migrate(client).await,
    }
}

/// What `installation` holds, if a bridge or a copy has been here.
async fn check(client: &Client) -> Result<Option<Check>, StoreError> {
    if !schema::is_there(client, "installation").await? {
        return Ok(None);
    }
    let doing = "looking for what the database is";
    let sql = "SELECT sealed_check FROM installation";
    let found = client.query_opt(sql, &[]).await.context(doing)?;
    Ok(found.map(|row| Check::read(row.get(0))))
}

async fn check_key(database: &Database, vault: &Arc<Vault>) -> Result<(), OpenError> {
    let doing = "checking the master key";
    let sealed = vault.seal(CHECK_PLACE, CHECK).map_err(OpenError::Vault)?;
    let check = work(move |transaction| {
        let sealed = sealed.clone();
        Box::pin(async move {
            // Of several replicas that start at once with different keys, one is the first.
            let sql = "INSERT INTO installation (only_one, sealed_check) VALUES (true, $1) \
                ON CONFLICT (only_one) DO NOTHING";
            rows(transaction, doing, sql, &[&sealed]).await?;
            let sql = "SELECT sealed_check FROM installation";
            let found = rows(transaction, doing, sql, &[]).await?;
            let read = |row: &Row| row.try_get::<_, Vec<u8>>(0).context(doing);
            found.first().map(read).transpose()
        })
    });
    let sealed = database.transaction(check).await?.unwrap_or_default();
    safe::look_for_other_keys(database, vault).await?.map_err(OpenError::OtherKeys)?;
    vault.open(CHECK_PLACE, &sealed).map(drop).map_err(OpenError::WrongKey)
}

#[async_trait]
impl Store for PostgresStore {
    async fn register(
        &self,
        registrations: Vec<Registration>,
    ) -> Result<Vec<Registered>, StoreError> {
        let registered = self.registrations.register(registrations).await;
        self.replicas.tell();
        registered
    }

    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        hands: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        let (vault, policy) = (Arc::clone(&self.vault), Arc::clone(&self.policy));
        let (time, passed_over) = (self.time.clone(), Arc::clone(&self.passed_over));
        let claim = work(move |transaction| {
            let (vault, policy, time) = (Arc::clone(&vault), Arc::clone(&policy), time.clone());
            let passed_over = Arc::clone(&passed_over);
            Box::pin(async move {
                // By itself, for what it asks is to be answered at once.
                time.check(transaction).await?;
                let when = (now, lease);
                let claiming =
                    claim::claim(transaction, &vault, &policy, when, hands, &passed_over);
                Ok(both(plan_by_keys(transaction), claiming).await?.1)
            })
        });
        self.database.transaction(claim).await
    }

    async fn commit(&self, commits: Arc<Vec<Commit>>) -> Result<Vec<Committed>, StoreError> {
        let policy = Arc::clone(&self.policy);
        let commit = work(move |transaction| {
            let (policy, commits) = (Arc::clone(&policy), Arc::clone(&commits));
            Box::pin(async move {
                let committing = steps::commit(transaction, &policy, &commits);
                Ok(both(plan_by_keys(transaction), committing).await?.1)
            })
        });
        let committed = self.database.transaction(commit).await;
        self.replicas.tell();
        committed
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT least((SELECT min(ready_at) FROM lanes WHERE ready_at IS NOT NULL), \
            (SELECT min(lapse_at) FROM steps)) AS at";
        let found = self.database.query("looking for the next due step", sql, &[]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        Columns { table: "steps", row }.time_or_null("at")
    }

    async fn rest_graph_lanes(&self, until: Timestamp) -> Result<(), StoreError> {
        let mut last = Some(0);
        while let Some(lane) = last {
            let rest = work(move |transaction| {
                Box::pin(async move { lanes::rest_graph(transaction, until, lane).await })
            });
            last = self.database.transaction(rest).await?;
        }
        Ok(())
    }

    async fn amend(&self, amendment: Amendment) -> Result<Amended, StoreError> {
        let (vault, policy) = (Arc::clone(&self.vault), Arc::clone(&self.policy));
        let amendment = Arc::new(amendment);
        let amend = work(move |transaction| {
            let (vault, policy) = (Arc::clone(&vault), Arc::clone(&policy));
            let amendment = Arc::clone(&amendment);
            Box::pin(async move {
                let amending = steps::amend(transaction, &vault, &policy, &amendment);
                Ok(both(plan_by_keys(transaction), amending).await?.1)
            })
        });
        self.database.transaction(amend).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Tracked>, StoreError> {
        reads::operation(&self.database, id).await
    }

    async fn operations(
        &self,
        caller: &CallerName,
        filter: OperationFilter,
        page: Page<OperationId>,
    ) -> Result<Vec<Tracked>, StoreError> {
        reads::operations(&self.database, caller, filter, page).await
    }

    async fn callback(&self, id: CallbackId) -> Result<Option<StoredCallback>, StoreError> {
        reads::callback(&self.database, id).await
    }

    async fn callbacks(
        &self,
        caller: &CallerName,
        filter: CallbackFilter,
        page: Page<CallbackId>,
    ) -> Result<Vec<StoredCallback>, StoreError> {
        reads::callbacks(&self.database, caller, filter, page).await
    }

    async fn attempts(&self, id: CallbackId, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        reads::attempts(&self.database, id, limit).await
    }

    async fn latest_attempts(
        &self,
        ids: Vec<CallbackId>,
    ) -> Result<HashMap<CallbackId, Attempt>, StoreError> {
        reads::latest_attempts(&self.database, &ids).await
    }

    async fn ask_resend(&self, resend: Resend, live_limit: u32) -> Result<Asked, StoreError> {
        let resend = Arc::new(resend);
        let ask = work(move |transaction| {
            let resend = Arc::clone(&resend);
            Box::pin(async move { resends::ask(transaction, &resend, live_limit).await })
        });
        self.database.transaction(ask).await
    }

    async fn resend(&self, id: ResendId) -> Result<Option<Resend>, StoreError> {
        resends::one(&self.database, id).await
    }

    async fn resends(
        &self,
        asked_by: Option<&CallerName>,
        page: Page<ResendId>,
    ) -> Result<Vec<Resend>, StoreError> {
        resends::page(&self.database, asked_by, &page).await
    }

    async fn resends_under_way(&self, limit: u32) -> Result<Vec<Resend>, StoreError> {
        resends::under_way(&self.database, limit).await
    }

    async fn resend_batch(
        &self,
        resend: &Resend,
        limit: u32,
        now: Timestamp,
        crowd: u32,
    ) -> Result<Batch, StoreError> {
        resends::batch(&self.database, resend, limit, now, crowd).await
    }

    async fn advance_resend(&self, advance: Arc<Advance>) -> Result<Advanced, StoreError> {
        let policy = Arc::clone(&self.policy);
        let advance = work(move |transaction| {
            let (policy, advance) = (Arc::clone(&policy), Arc::clone(&advance));
            Box::pin(async move {
                let advancing = resends::advance(transaction, &policy, &advance);
                Ok(both(plan_by_keys(transaction), advancing).await?.1)
            })
        });
        let advanced = self.database.transaction(advance).await;
        self.replicas.tell();
        advanced
    }

    async fn ask_waking(&self, waking: Waking) -> Result<(), StoreError> {
        wakings::ask(&self.database, &waking).await
    }

    async fn wakings(&self, limit: u32) -> Result<Vec<Waking>, StoreError> {
        wakings::oldest(&self.database, limit).await
    }

    async fn finish_waking(&self, waking: &Waking) -> Result<(), StoreError> {
        wakings::finish(&self.database, waking).await
    }

    async fn gone_destinations(
        &self,
        caller: &CallerName,
        page: Page<String>,
    ) -> Result<Vec<GoneDestination>, StoreError> {
        destinations::page(&self.database, caller, &page).await
    }

    async fn bring_back(&self, caller: &CallerName, url: &str) -> Result<bool, StoreError> {
        destinations::bring_back(&self.database, caller, url).await
    }

    async fn purge(&self, before: Timestamp, limit: u32) -> Result<Purged, StoreError> {
        let purge = work(move |transaction| {
            Box::pin(async move { retention::purge(transaction, before, limit).await })
        });
        self.database.transaction(purge).await
    }

    async fn handshake(&self, lane: &LaneName) -> Result<Option<Handshake>, StoreError> {
        handshakes::find(&self.database, lane).await
    }

    async fn keep_handshake(
        &self,
        lane: &LaneName,
        handshake: Handshake,
    ) -> Result<(), StoreError> {
        let kept = Arc::new((lane.clone(), handshake));
        let keep = work(move |transaction| {
            let kept = Arc::clone(&kept);
            Box::pin(async move { handshakes::keep(transaction, &kept.0, &kept.1).await })
        });
        self.database.transaction(keep).await
    }

    async fn forget_handshakes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        handshakes::forget(&self.database, before, limit).await
    }

    async fn forget(
        &self,
        before: Timestamp,
        keys_before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<Forgotten, StoreError> {
        let last = self.lanes_forgotten_to.load(Ordering::Relaxed);
        let forget = work(move |transaction| {
            Box::pin(async move {
                let forgotten = retention::forget(transaction, before, keys_before, limit).await?;
                let go_on_after = lanes::forget(transaction, now, last, limit).await?;
                Ok((forgotten, go_on_after))
            })
        });
        let (forgotten, go_on_after) = self.database.transaction(forget).await?;
        self.lanes_forgotten_to.store(go_on_after.unwrap_or_default(), Ordering::Relaxed);
        Ok(Forgotten { more: forgotten.more || go_on_after.is_some(), ..forgotten })
    }
}

/// Lets the statements of this transaction find rows by their keys alone, and plans each of them once
/// for each connection.
///
/// It is what they are written for. Left to itself, the server plans some of them each time, which
/// takes as long as they do, and others for tables that were empty when the connection was new: until
/// it next looks at those, minutes later, it reads all of their rows.
///
/// Beside other statements in [`both`] it comes first: what is polled first is sent first, and the
/// server takes it in turn.
async fn plan_by_keys(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let sql = "SET LOCAL plan_cache_mode = force_generic_plan; \
        SET LOCAL enable_seqscan = off";
    transaction.batch_execute(sql).await.context("saying how to plan")
}

/// Runs a statement, prepared once for each connection.
async fn rows(
    transaction: &Transaction<'_>,
    doing: &'static str,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, StoreError> {
    let statement = transaction.prepare_cached(sql).await.context(doing)?;
    transaction.query(&statement, params).await.context(doing)
}
