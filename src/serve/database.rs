//! The database that the settings name, whichever kind it is.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::Whereabouts;
use crate::clock::{Clock, LOOK_EVERY, SharedClock, SteadyClock};
use crate::config::{ConfigError, Database, DatabaseSettings};
use crate::lane;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::nudge::Nudge;
use crate::store::postgres::{Address, PostgresStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{AuditLog, Directory, Safe, Store};
use crate::tls;
use crate::vault::Vault;

/// An open database, and the clock that goes with it.
pub(crate) enum Opened {
    File { store: Arc<SqliteStore>, clock: Arc<SteadyClock> },
    Server { store: Arc<PostgresStore>, clock: Arc<SharedClock> },
}

impl Opened {
    /// Opens the database, made new or brought up to date where that is needed.
    pub(crate) async fn open(
        settings: &DatabaseSettings,
        lanes: lane::Policy,
        names: Arc<dyn Names>,
    ) -> anyhow::Result<Self> {
        let vault = Vault::with(&settings.master_keys()?);
        match settings.database()? {
            Database::File(path) => {
                let open = move || SqliteStore::open(&path, vault, lanes);
                let store = Arc::new(tokio::task::spawn_blocking(open).await??);
                Ok(Self::File { store, clock: Arc::new(SteadyClock::start()) })
            }
            Database::Server(url) => {
                let (address, tls) = server(&url)?;
                // Apart, for it is large, and everybody who starts a bridge would carry it.
                let opened =
                    Box::pin(PostgresStore::open(&address, tls, names, vault, lanes)).await;
                let store = Arc::new(opened.with_context(|| format!("cannot use {address}"))?);
                let clock = Arc::new(Box::pin(SharedClock::start(&*store)).await??);
                store.plan_by(&clock);
                Ok(Self::Server { store, clock })
            }
        }
    }

    /// Has counted what only the database itself knows.
    pub(super) fn count_by(&self, metrics: &Arc<Metrics>) {
        match self {
            Self::File { store, .. } => store.count_by(metrics),
            Self::Server { .. } => {}
        }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::File { store, .. } => Arc::clone(store) as Arc<dyn Store>,
            Self::Server { store, .. } => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    pub(crate) fn directory(&self) -> Arc<dyn Directory> {
        match self {
            Self::File { store, .. } => Arc::clone(store) as Arc<dyn Directory>,
            Self::Server { store, .. } => Arc::clone(store) as Arc<dyn Directory>,
        }
    }

    pub(crate) fn audit(&self) -> Arc<dyn AuditLog> {
        match self {
            Self::File { store, .. } => Arc::clone(store) as Arc<dyn AuditLog>,
            Self::Server { store, .. } => Arc::clone(store) as Arc<dyn AuditLog>,
        }
    }

    pub(crate) fn safe(&self) -> Arc<dyn Safe> {
        match self {
            Self::File { store, .. } => Arc::clone(store) as Arc<dyn Safe>,
            Self::Server { store, .. } => Arc::clone(store) as Arc<dyn Safe>,
        }
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        match self {
            Self::File { clock, .. } => Arc::clone(clock) as Arc<dyn Clock>,
            Self::Server { clock, .. } => Arc::clone(clock) as Arc<dyn Clock>,
        }
    }

    /// Whether other replicas are at work, who know whether the clock we plan by was set before we
    /// began.
    pub(super) async fn is_kept_by_others(&self) -> anyhow::Result<bool> {
        match self {
            // One process at a time has it.
            Self::File { .. } => Ok(false),
            Self::Server { store, clock } => Ok(clock.is_kept_by_others(&**store).await?),
        }
    }

    /// Leaves word, for other commands on the same machine, of where this process can be asked.
    pub(super) fn announce(&self, at: Whereabouts) -> anyhow::Result<()> {
        match self {
            Self::File { store, .. } => store
                .announce(&at.to_string())
                .context("cannot write to the lock file of the database"),
            // Others may open it beside us.
            Self::Server { .. } => Ok(()),
        }
    }

    /// Keeps what this replica has in common with others in step with them, until `stop`.
    pub(super) async fn attend(self: Arc<Self>, nudge: Arc<Nudge>, stop: CancellationToken) {
        match &*self {
            Self::File { .. } => stop.cancelled().await,
            Self::Server { store, clock } => {
                let hearing = Arc::clone(store).attend(move || nudge.now(), stop.clone());
                let watching = stop.run_until_cancelled(watch(store, clock));
                tokio::join!(hearing, watching);
            }
        }
    }
}

async fn watch(store: &PostgresStore, clock: &SharedClock) {
    let mut is_out_of_sight = false;
    loop {
        let looked = clock.look(store).await;
        // Without an answer, time goes on as it did. Said once, for whoever claims says so anyway.
        if let (Err(error), false) = (&looked, is_out_of_sight) {
            tracing::warn!(error = %error.in_full(), "cannot look at the clock of the database");
        }
        is_out_of_sight = looked.is_err();
        tokio::time::sleep(looked.unwrap_or(LOOK_EVERY)).await;
    }
}

/// What the URL of a PostgreSQL says, and how to make sure that it is that one which answers.
pub(crate) fn server(url: &SecretString) -> anyhow::Result<(Address, ClientConfig)> {
    let address: Address =
        url.expose_secret().parse().context("the URL of the PostgreSQL cannot be read")?;
    let tls = tls::client_config(address.roots().map(read).transpose()?.as_deref())?;
    Ok((address, tls))
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    std::fs::read(path).map_err(unreadable)
}
