//! Bridges on one PostgreSQL, beside what that PostgreSQL itself does at the most.
//!
//! The server is a throw-away of `tests/postgres`, with its own settings as they come but for those
//! in [`SETTINGS`], and waits for the disk at every commit.

mod floor;
mod growth;
mod replicas;

use std::sync::Arc;

use engagement_bridge::lane;
use engagement_bridge::names::SystemNames;
use engagement_bridge::store::postgres::PostgresStore;
use engagement_bridge::tls;
use engagement_bridge::vault::{MasterKey, Vault};
use tokio_postgres::{Client, NoTls};
use tokio_util::task::TaskTracker;

pub(crate) use self::floor::measure as floor;
pub(crate) use self::growth::measure as growth;
pub(crate) use self::replicas::measure as replicas;
use crate::cluster::Cluster;

/// What anybody sets who gives PostgreSQL a machine of a few GiB.
const SETTINGS: &[&str] = &["fsync=on", "shared_buffers=1GB", "max_wal_size=4GB"];

fn start() -> Cluster {
    Cluster::start_with(SETTINGS)
}

async fn open(url: &str) -> Arc<PostgresStore> {
    open_with(url, &MasterKey::generate().unwrap()).await
}

async fn open_with(url: &str, key: &MasterKey) -> Arc<PostgresStore> {
    let (address, tls) = (url.parse().unwrap(), tls::client_config(None).unwrap());
    let (names, vault) = (Arc::new(SystemNames::default()), Vault::new(key));
    let opened = PostgresStore::open(&address, tls, names, vault, lane::Policy::default());
    Arc::new(opened.await.unwrap())
}

/// A connection like those of the bridge, for statements of our own.
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    drop(TaskTracker::new().spawn(connection));
    client
}
