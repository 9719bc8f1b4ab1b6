//! Readers beside the writer: in WAL mode they never wait for it, nor it for them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::error::Context;
use super::lock::Damage;
use crate::store::StoreError;

/// How many reads may run at a time.
const READERS: usize = 8;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    damage: Damage,
    permits: Semaphore,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: &Path, damage: Damage) -> Self {
        let permits = Semaphore::new(READERS);
        Self { path: path.to_owned(), damage, permits, idle: Arc::default() }
    }

    /// Runs `work` on a read-only connection, away from the threads that serve requests.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let _permit = self.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let (idle, path) = (Arc::clone(&self.idle), self.path.clone());
        let damage = self.damage.clone();
        let read = tokio::task::spawn_blocking(move || {
            let lent = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match lent {
                Some(connection) => connection,
                None => open(&path)?,
            };
            let result = work(&connection);
            damage.note(&result);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        });
        read.await.map_err(|died| StoreError::Unavailable(anyhow::Error::new(died)))?
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    // Not `mutable`, yet not OPEN_READONLY either: a reader may have to recover the log's index.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).context("opening a reader")?;
    connection
        .execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 5000;")
        .context("opening a reader")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
