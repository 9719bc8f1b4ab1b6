//! Makes connections: to the first server that can be written to, of those that the address names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio_postgres::config::Host;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{Address, Server};
use crate::names::Names;

/// How long an address has to let us in: connection, TLS, login, and whether it can be written to.
/// So one that is silent keeps nobody for long from the next.
const TO_LET_IN: Duration = Duration::from_secs(3);

/// For how long a statement waits for a lock.
pub(super) const LOCK_PATIENCE: &str = "8s";

/// What the server holds us to, should we be the ones who hang, and what we rely on whatever its own
/// settings are: a commit is on disk, a synchronous standby's included, before anybody learns of it. (New
/// lanes are not, see [`make`](super::lanes::make).)
///
/// Nothing that we do lets a transaction stand still, so one that does is of a process that has
/// stopped; what it has locked is free again before those who wait for it give up.
///
/// The server neither compiles statements nor has several processes run one, which pay for those that
/// read much. Ours read a few rows of many, which it cannot know of a plan that is made once for all
/// parameters: among a million steps it started two processes, in 8 ms, for each look at what lapses.
fn session() -> String {
    format!(
        "SET jit = off;
        SET max_parallel_workers_per_gather = 0;
        SET client_min_messages = warning;
        SET default_transaction_isolation = 'read committed';
        SET synchronous_commit = on;
        SET statement_timeout = '10s';
        SET lock_timeout = '{LOCK_PATIENCE}';
        SET idle_in_transaction_session_timeout = '5s'"
    )
}

/// Knows the servers, and which of them was the right one.
pub(super) struct Dialer {
    servers: Vec<Server>,
    tls: MakeRustlsConnect,
    names: Arc<dyn Names>,
    /// The server that was reached last, or the one after it since that has failed.
    first: AtomicUsize,
}

/// A connection, and what comes by it. Nothing goes on while that is not asked for.
pub(super) struct Dialled {
    pub(super) client: Client,
    pub(super) messages: Messages,
}

pub(super) type Messages = BoxStream<'static, Result<AsyncMessage, Error>>;

/// None of the servers can be written to, each for a reason of its own.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(super) struct Unreachable(Vec<String>);

impl Dialer {
    pub(super) fn new(address: &Address, tls: MakeRustlsConnect, names: Arc<dyn Names>) -> Self {
        Self { servers: address.servers().to_vec(), tls, names, first: AtomicUsize::default() }
    }

    /// Tries one server after the other, the one first that was the right one before.
    pub(super) async fn dial(&self) -> Result<Dialled, Unreachable> {
        let mut reasons = Vec::new();
        let first = self.first.load(Ordering::Relaxed);
        for number in (0..self.servers.len()).map(|turn| (first + turn) % self.servers.len()) {
            let Some(server) = self.servers.get(number) else { continue };
            match self.reach(server).await {
                Ok(dialled) => {
                    self.first.store(number, Ordering::Relaxed);
                    return Ok(dialled);
                }
                Err(reason) => {
                    // Whoever has no time to try them all goes on from here the next time.
                    self.first.store((number + 1) % self.servers.len(), Ordering::Relaxed);
                    reasons.push(format!("{server}: {reason:#}"));
                }
            }
        }
        Err(Unreachable(reasons))
    }

    async fn reach(&self, server: &Server) -> anyhow::Result<Dialled> {
        let late = || format!("no answer within {TO_LET_IN:?}");
        let mut reached = Err(anyhow::anyhow!("it has no address"));
        // Looked up each time, for a name may have moved to another server.
        let places = server.places(self.names.as_ref());
        for config in tokio::time::timeout(TO_LET_IN, places).await.with_context(late)?? {
            let letting_in = async {
                let mut dialled = match server.host {
                    Host::Unix(_) => connect(&config, NoTls).await?,
                    Host::Tcp(_) => connect(&config, self.tls.clone()).await?,
                };
                let session = session();
                let setting_up = dialled.client.batch_execute(&session);
                attended(&mut dialled.messages, setting_up).await?;
                Ok(dialled)
            };
            reached = tokio::time::timeout(TO_LET_IN, letting_in)
                .await
                .with_context(late)
                .and_then(|it: Result<_, Error>| Ok(it?));
            if reached.is_ok() {
                break;
            }
        }
        reached
    }
}

impl Server {
    /// How to connect to each of its addresses.
    async fn places(&self, names: &dyn Names) -> anyhow::Result<Vec<Config>> {
        let known = !self.config.get_hostaddrs().is_empty();
        let addresses = match &self.host {
            Host::Tcp(name) if !known && name.parse::<IpAddr>().is_err() => match name.as_str() {
                // Nobody need be asked about it (RFC 6761 §6.3).
                "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                name => names.addresses(name).await?,
            },
            Host::Tcp(_) | Host::Unix(_) => return Ok(vec![self.config.clone()]),
        };
        let place = |address| self.config.clone().hostaddr(address).clone();
        Ok(addresses.into_iter().map(place).collect())
    }
}

async fn connect<T>(config: &Config, tls: T) -> Result<Dialled, Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, mut connection) = config.connect(tls).await?;
    let messages = stream::poll_fn(move |context| connection.poll_message(context)).boxed();
    Ok(Dialled { client, messages })
}

/// What comes of asking something on a connection whose messages nobody else looks at.
pub(super) async fn attended<T>(
    messages: &mut Messages,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let failed = async {
        loop {
            match messages.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                // The end of it is told to whoever asks.
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        asked = asking => asked,
        error = failed => Err(error),
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers.iter().map(ToString::to_string)).finish()
    }
}
