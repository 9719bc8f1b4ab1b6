//! Connections to the database, and for how long we wait.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult, Timeouts};
use deadpool_postgres::{ClientWrapper, Transaction};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryStreamExt as _};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;

use super::OpenError;
use super::address::Address;
use super::dial::{Dialer, Dialled, Unreachable};
use super::error::{Context as _, Silence, is_of_all_connections, retried};
use crate::names::Names;
use crate::store::StoreError;

/// Connections of one replica. More of them do not make a database faster that has as many cores.
const CONNECTIONS: usize = 16;

/// How long a connection may take to become free.
const TO_BE_FREE: Duration = Duration::from_secs(5);

/// How long a transaction may take, as seen from here and however often it is tried: longer than the
/// server's own limits, and much shorter than a lease.
const PATIENCE: Duration = Duration::from_secs(15);

/// Connections to the database, made as they are needed.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pool: managed::Pool<Maker>,
}

/// Makes connections, and sees to what comes by them.
#[derive(Debug)]
struct Maker {
    dialer: Dialer,
    connections: TaskTracker,
    /// How often all connections were given up on.
    generation: watch::Sender<u64>,
}

impl Maker {
    fn generation(&self) -> u64 {
        *self.generation.borrow()
    }
}

/// A connection that is made for the pool.
#[derive(Debug)]
pub(super) struct Kept {
    client: ClientWrapper,
    generation: u64,
}

impl managed::Manager for Maker {
    type Type = Kept;
    type Error = Unreachable;

    async fn create(&self) -> Result<Kept, Unreachable> {
        let generation = self.generation();
        // Apart, for it is large, and everybody who asks the database would carry it.
        let Dialled { client, messages } = Box::pin(self.dialer.dial()).await?;
        // Ends with the connection, or when the client is let go of.
        let seeing_to_it = messages.try_for_each(|_| std::future::ready(Ok(()))).map(drop);
        let task = self.connections.spawn(seeing_to_it);
        Ok(Kept { client: ClientWrapper::new(client, task), generation })
    }

    async fn recycle(&self, kept: &mut Kept, _: &Metrics) -> RecycleResult<Unreachable> {
        if kept.client.is_closed() || kept.generation != self.generation() {
            return Err(RecycleError::message("it is of no use any more"));
        }
        Ok(())
    }
}

impl Deref for Kept {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

/// What a transaction consists of. It may be run several times, of which only the last one counts;
/// so it owns what it works on, and lends it to each run.
pub(super) trait Work<T>:
    for<'a, 'b> Fn(&'a Transaction<'b>) -> BoxFuture<'a, Result<T, StoreError>> + Send + Sync
{
}

impl<T, W> Work<T> for W where
    W: for<'a, 'b> Fn(&'a Transaction<'b>) -> BoxFuture<'a, Result<T, StoreError>> + Send + Sync
{
}

/// Lets the compiler see for how long a closure borrows the transaction, which it else would not.
pub(super) fn work<T, W>(work: W) -> W
where
    W: for<'a, 'b> Fn(&'a Transaction<'b>) -> BoxFuture<'a, Result<T, StoreError>> + Send + Sync,
{
    work
}

impl Database {
    /// Makes no connection yet.
    pub(super) fn new(
        address: &Address,
        tls: ClientConfig,
        names: Arc<dyn Names>,
    ) -> Result<Self, OpenError> {
        let dialer = Dialer::new(address, MakeRustlsConnect::new(tls), names);
        let (connections, generation) = (TaskTracker::new(), watch::Sender::default());
        let pool = managed::Pool::builder(Maker { dialer, connections, generation })
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            // To make one takes no longer than the dialer allows for.
            .timeouts(Timeouts { wait: Some(TO_BE_FREE), ..Timeouts::default() })
            .build()
            .map_err(|error| OpenError::Pool(error.into()))?;
        Ok(Self { pool })
    }

    /// A connection apart from all others.
    pub(super) async fn dial(&self) -> Result<Dialled, Unreachable> {
        self.pool.manager().dialer.dial().await
    }

    /// Tells when all connections that were made before are given up on.
    pub(super) fn generation(&self) -> watch::Receiver<u64> {
        self.pool.manager().generation.subscribe()
    }

    /// Runs `work` as one transaction, again where others got into its way.
    pub(super) async fn transaction<T: Send>(&self, work: impl Work<T>) -> Result<T, StoreError> {
        let result = patiently(|| async {
            let mut lent = self.lend().await?;
            let transaction =
                lent.client()?.transaction().await.context("beginning a transaction")?;
            let result = match work(&transaction).await {
                Ok(value) => transaction.commit().await.context("committing").map(|()| value),
                // Dropping it takes back what it did.
                Err(error) => {
                    drop(transaction);
                    Err(error)
                }
            };
            lent.give_back();
            self.look_after(&result);
            result
        });
        self.or_give_up(result).await
    }

    /// Runs one statement that stands for itself, prepared once for each connection.
    pub(super) async fn query(
        &self,
        doing: &'static str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let result = patiently(|| async {
            let mut lent = self.lend().await?;
            let client = lent.client()?;
            let result = async {
                let statement = client.prepare_cached(sql).await.context(doing)?;
                client.query(&statement, params).await.context(doing)
            };
            let result = result.await;
            lent.give_back();
            self.look_after(&result);
            result
        });
        self.or_give_up(result).await
    }

    /// The server that leaves one question without an answer would leave all others so, each for as
    /// long: a failover may be over by then.
    async fn or_give_up<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = asked.await;
        if let Err(StoreError::Unavailable(error)) = &result
            && error.is::<Silence>()
        {
            self.give_up();
        }
        result
    }

    /// Gives up on all connections where one has met what all of them will meet.
    fn look_after<T>(&self, result: &Result<T, StoreError>) {
        if result.as_ref().is_err_and(is_of_all_connections) {
            self.give_up();
        }
    }

    /// Lets no connection be used again that was made before.
    fn give_up(&self) {
        self.pool.manager().generation.send_modify(|generation| *generation += 1);
    }

    /// A connection for as long as it is held.
    pub(super) async fn lend(&self) -> Result<Lent, StoreError> {
        let client = self.pool.get().await.context("connecting to the database")?;
        Ok(Lent(Some(client)))
    }
}

/// Tries again what others got into the way of; and gives up on what takes too long over all: a
/// server that hangs, or a network that has lost us.
async fn patiently<T, F>(work: impl FnMut() -> F + Send) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>> + Send,
{
    tokio::time::timeout(PATIENCE, retried(work))
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(Silence(PATIENCE).into())))
}

/// A connection that is closed, not used again, unless it is given back: whoever gave up on an
/// answer does not know in what state it is.
pub(super) struct Lent(Option<managed::Object<Maker>>);

impl Lent {
    pub(super) fn client(&mut self) -> Result<&mut ClientWrapper, StoreError> {
        Ok(self.0.as_mut().ok_or(StoreError::Closed)?)
    }

    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(managed::Object::take(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::store::postgres::error::Overtaken;

    #[tokio::test(start_paused = true)]
    async fn what_others_get_into_the_way_of_again_and_again_is_given_up_in_time() {
        let (began, mut tries) = (Instant::now(), 0);
        let overtaken = patiently(|| {
            tries += 1;
            async {
                tokio::time::sleep(PATIENCE * 2 / 7).await;
                Err::<(), _>(StoreError::Unavailable(Overtaken.into()))
            }
        });
        assert!(overtaken.await.is_err());
        assert_eq!((began.elapsed().as_secs(), tries), (PATIENCE.as_secs(), 4));
    }
}
