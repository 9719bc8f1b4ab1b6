//! Ways to the database: where it is, how we speak to it, and for how long we wait.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
    Transaction,
};
use futures_util::future::BoxFuture;
use rustls::ClientConfig;
use tokio_postgres::Row;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::types::ToSql;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::OpenError;
use super::error::{Context as _, is_stale_plan, retried};
use crate::store::StoreError;

/// Connections of one replica. More of them do not make a database faster that has as many cores.
const CONNECTIONS: usize = 16;

/// How long a connection may take to be made, or to become free.
const TO_CONNECT: Duration = Duration::from_secs(5);

/// How long a transaction may take, as seen from here and however often it is tried: longer than the
/// server's own limits below, and much shorter than a lease.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the server holds us to, should we be the ones who hang, and what we rely on whatever its own
/// settings are: a commit is on disk, a synchronous standby's included, before anybody learns of it.
///
/// Nothing that we do lets a transaction stand still, so one that does is of a process that has
/// stopped; what it has locked is free again before those who wait for it give up.
const SESSION: &str = "\
    SET client_min_messages = warning;
    SET default_transaction_isolation = 'read committed';
    SET synchronous_commit = on;
    SET statement_timeout = '10s';
    SET lock_timeout = '8s';
    SET idle_in_transaction_session_timeout = '5s'";

/// Where a PostgreSQL is: `postgres://user:password@host:port/name`, with the parameters of libpq,
/// several hosts among them.
///
/// Where TLS is used, the server's certificate is always verified, whatever the `sslmode`. Without
/// one, it is used unless all hosts are on this machine.
#[derive(Clone)]
pub struct Address {
    config: tokio_postgres::Config,
    roots: Option<PathBuf>,
}

/// Why a text is not the address of a PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAddress {
    #[error("expected postgres://user:password@host:port/database, with parameters of libpq")]
    Malformed(#[source] tokio_postgres::Error),
    #[error("sslmode must be disable, require or verify-full; with TLS we always verify")]
    SslMode,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        // What the library does not know is taken out before it reads the rest.
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut roots, mut others) = (None, None, Vec::new());
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = Some(PathBuf::from(value.into_owned())),
                _ => others.push((name, value)),
            }
        }
        let query =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(others).finish();
        // The library reads a plus sign as itself.
        let text = format!("{base}?{}", query.replace('+', "%20"));
        let mut config: tokio_postgres::Config = text.parse().map_err(InvalidAddress::Malformed)?;
        let is_here = config.get_hosts().iter().all(is_on_this_machine);
        config.ssl_mode(match mode.as_deref() {
            Some("disable") => SslMode::Disable,
            Some("require" | "verify-full") => SslMode::Require,
            Some(_) => return Err(InvalidAddress::SslMode),
            None if is_here => SslMode::Disable,
            None => SslMode::Require,
        });
        config
            .application_name("engagement-bridge")
            .connect_timeout(TO_CONNECT)
            .tcp_user_timeout(PATIENCE)
            .keepalives_idle(PATIENCE)
            .keepalives_interval(TO_CONNECT)
            .keepalives_retries(3)
            // Of several hosts, the one that can be written to: the others are its standbys.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self { config, roots })
    }
}

impl Address {
    /// A file of root certificates to be believed besides the usual ones: `sslrootcert`.
    pub fn roots(&self) -> Option<&Path> {
        self.roots.as_deref()
    }

    pub(super) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }
}

/// Without the password.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        write!(f, "postgres://{hosts}/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn is_on_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|it: std::net::IpAddr| it.is_loopback())
        }
    }
}

/// Connections to the database, made as they are needed.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pool: Pool,
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
    pub(super) fn new(address: &Address, tls: ClientConfig) -> Result<Self, OpenError> {
        let connect = MakeRustlsConnect::new(tls);
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(address.config.clone(), connect, recycling);
        let set_up = Hook::async_fn(|client, _| {
            Box::pin(async move { client.batch_execute(SESSION).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(TO_CONNECT),
                create: Some(TO_CONNECT),
                recycle: Some(TO_CONNECT),
            })
            .post_create(set_up)
            .build()
            .map_err(|error| OpenError::Pool(error.into()))?;
        Ok(Self { pool })
    }

    /// Runs `work` as one transaction, again where others got into its way.
    pub(super) async fn transaction<T: Send>(&self, work: impl Work<T>) -> Result<T, StoreError> {
        patiently(|| async {
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
            self.forget_stale_plans(&result);
            result
        })
        .await
    }

    /// Runs one statement that stands for itself, prepared once for each connection.
    pub(super) async fn query(
        &self,
        doing: &'static str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        patiently(|| async {
            let mut lent = self.lend().await?;
            let client = lent.client()?;
            let result = async {
                let statement = client.prepare_cached(sql).await.context(doing)?;
                client.query(&statement, params).await.context(doing)
            };
            let result = result.await;
            lent.give_back();
            self.forget_stale_plans(&result);
            result
        })
        .await
    }

    /// Lets all connections prepare their statements anew, where one has met a stale one.
    fn forget_stale_plans<T>(&self, result: &Result<T, StoreError>) {
        if result.as_ref().is_err_and(is_stale_plan) {
            self.pool.manager().statement_caches.clear();
        }
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
    tokio::time::timeout(PATIENCE, retried(work)).await.unwrap_or_else(|_| {
        let silence = anyhow::anyhow!("no answer of the database within {PATIENCE:?}");
        Err(StoreError::Unavailable(silence))
    })
}

/// A connection that is closed, not used again, unless it is given back: whoever gave up on an
/// answer does not know in what state it is.
pub(super) struct Lent(Option<Object>);

impl Lent {
    pub(super) fn client(&mut self) -> Result<&mut Object, StoreError> {
        self.0.as_mut().ok_or(StoreError::Closed)
    }

    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::store::postgres::error::Overtaken;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn tls_is_used_unless_it_is_refused_or_the_server_is_here() {
        let mode = |text: &str| address(text).config.get_ssl_mode();
        assert_eq!(mode("postgres://db.example.com/bridge"), SslMode::Require);
        assert_eq!(mode("postgres://127.0.0.1,db.example.com/bridge"), SslMode::Require);
        assert_eq!(mode("postgres://db.example.com/bridge?sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgres://db.example.com/bridge?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://127.0.0.1,[::1],localhost/bridge"), SslMode::Disable);
        assert_eq!(mode("postgres://127.0.0.1/bridge?sslmode=verify-full"), SslMode::Require);
        for half_hearted in ["prefer", "allow", "verify-ca", ""] {
            let text = format!("postgres://db.example.com/bridge?sslmode={half_hearted}");
            let refused = text.parse::<Address>().unwrap_err();
            assert!(matches!(refused, InvalidAddress::SslMode), "{half_hearted}: {refused}");
        }
    }

    #[test]
    fn what_the_library_does_not_know_is_taken_out_and_the_rest_is_left() {
        let address = address(
            "postgresql://bridge@one.example.com:5433,two.example.com/bridge\
            ?sslrootcert=/etc/roots+ours.pem&options=-c%20geqo%3Doff&sslmode=require",
        );
        assert_eq!(address.roots(), Some(Path::new("/etc/roots ours.pem")));
        assert_eq!(address.config.get_options(), Some("-c geqo=off"));
        assert_eq!(address.config.get_ports(), [5433, 5432]);
        assert_eq!(address.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn a_password_is_never_shown() {
        let address = address("postgres://bridge:hunter2@db.example.com/bridge");
        assert_eq!(address.to_string(), "postgres://db.example.com/bridge");
        assert_eq!(format!("{address:?}"), address.to_string());
        for wrong in ["postgres://u:hunter2@db:x/n", "postgres://u:hunter2@db/n?sslmode=hunter2"] {
            let refused = anyhow::Error::new(wrong.parse::<Address>().unwrap_err());
            assert!(!format!("{refused:#} {refused:?}").contains("hunter2"), "{refused:?}");
        }
    }

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
