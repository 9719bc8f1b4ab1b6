//! Bridges on one PostgreSQL, beside what that PostgreSQL itself does at the most.
//!
//! The server is a throw-away of `tests/postgres`, with its own settings as they come but for those
//! in [`start`], and waits for the disk at every commit.

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

/// With a quarter of the machine's memory for pages, as the manual has it
/// (<https://www.postgresql.org/docs/15/runtime-config-resource.html>), and no checkpoint while it is
/// measured, but where that asks for one.
fn start() -> Cluster {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let kib: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let buffers = format!("shared_buffers={}MB", kib / 1_024 / 4);
    Cluster::start_with(&["fsync=on", &buffers, "max_wal_size=16GB", "checkpoint_timeout=1h"])
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
