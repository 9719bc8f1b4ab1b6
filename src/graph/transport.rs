//! One HTTP exchange at a time, with a bound on everything.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode};
use reqwest::dns::Resolve;
use reqwest::redirect;
use reqwest::{Client, RequestBuilder, Response};
use rustls::ClientConfig;
use tokio::time::{Instant, sleep_until};

use super::wire::legible;

/// Sends requests over connections that it keeps, and drops when told that they are no good.
pub(super) struct Transport {
    tls: ClientConfig,
    resolver: Option<Arc<dyn Resolve>>,
    connect_within: Duration,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    built_at: Instant,
}

/// What came back.
pub(super) struct Received {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The whole body, or why there is none. The status stands in either case.
    pub(super) body: Result<Bytes, NoAnswer>,
}

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no connection")]
    NotConnected(#[source] reqwest::Error),
    #[error("the connection broke off before the answer was complete")]
    ConnectionLost(#[source] reqwest::Error),
    #[error("the answer was not complete in time")]
    TimedOut,
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

const USER_AGENT: &str = concat!("engagement-bridge/", env!("CARGO_PKG_VERSION"));

/// No more often than this does a 503 cost us our connections.
const RECONNECT_EVERY: Duration = Duration::from_secs(1);

/// How long a connection may be silent, while something is expected of it, before it is probed.
const PROBE_AFTER: Duration = Duration::from_secs(10);

/// Shorter than an exchange may take, so that no second poll is lost on a dead connection.
const PROBE_FOR: Duration = Duration::from_secs(5);

const IDLE_CONNECTIONS: usize = 64;

impl Transport {
    /// Prefers HTTP/2. Without a `resolver`, names are resolved by the operating system.
    pub(super) fn new(
        mut tls: ClientConfig,
        resolver: Option<Arc<dyn Resolve>>,
        connect_within: Duration,
    ) -> Result<Self, reqwest::Error> {
        // reqwest sets these for configurations of its own making, and leaves ours alone.
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = client(&tls, resolver.as_ref(), connect_within)?;
        let current = Mutex::new(Current { client, built_at: Instant::now() });
        Ok(Self { tls, resolver, connect_within, current })
    }

    /// Sends what `request` makes and reads the answer, up to `limit` bytes of body, until `until`.
    pub(super) async fn exchange(
        &self,
        until: Instant,
        limit: usize,
        request: impl FnOnce(&Client) -> RequestBuilder,
    ) -> Result<Received, NoAnswer> {
        let sent = request(&self.client()).send();
        let mut response = in_time(until, sent).await?.map_err(no_answer)?;
        let status = response.status();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            self.reconnect();
        }
        let body = in_time(until, body(&mut response, limit)).await.and_then(|read| read);
        Ok(Received { status, headers: std::mem::take(response.headers_mut()), body })
    }

    fn client(&self) -> Client {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// Lets later requests open connections of their own.
    ///
    /// A 503 speaks for the one server that our connection happens to lead to, and Graph asks for
    /// a new connection then, which may lead to a healthy one. reqwest cannot drop a connection,
    /// so the client goes and takes its pool with it; exchanges under way keep theirs to the end.
    fn reconnect(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.built_at.elapsed() < RECONNECT_EVERY {
            return;
        }
        match client(&self.tls, self.resolver.as_ref(), self.connect_within) {
            Ok(client) => *current = Current { client, built_at: Instant::now() },
            Err(error) => {
                tracing::warn!(error = causes(&error), "keeping the connections of a busy server");
            }
        }
    }
}

impl Received {
    /// The value of a header, where it is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The value of a header, fit for a line of the log.
    pub(super) fn legible(&self, name: &'static str) -> Option<String> {
        self.header(&HeaderName::from_static(name)).map(legible)
    }
}

/// What an error says, with its causes, in one line.
pub(super) fn causes(error: &dyn Error) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<String> = chain.map(ToString::to_string).collect();
    legible(&texts.join(": "))
}

fn client(
    tls: &ClientConfig,
    resolver: Option<&Arc<dyn Resolve>>,
    connect_within: Duration,
) -> Result<Client, reqwest::Error> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .user_agent(USER_AGENT)
        .no_proxy()
        .redirect(redirect::Policy::none())
        // One poll is one request, or the interval between polls would not hold.
        .retry(reqwest::retry::never())
        .connect_timeout(connect_within)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        // All polls share one HTTP/2 connection. Should it die in silence, each of them would wait
        // in vain until the operating system noticed.
        .http2_keep_alive_interval(PROBE_AFTER)
        .http2_keep_alive_timeout(PROBE_FOR);
    if let Some(resolver) = resolver {
        builder = builder.dns_resolver(Arc::clone(resolver));
    }
    builder.build()
}

/// Does `work` until then, and looks at the time first: a process that was stopped for a while, in the
/// middle of connecting, must not send what is too late when it goes on.
async fn in_time<T>(until: Instant, work: impl Future<Output = T>) -> Result<T, NoAnswer> {
    tokio::select! {
        biased;
        () = sleep_until(until) => Err(NoAnswer::TimedOut),
        done = work => Ok(done),
    }
}

async fn body(response: &mut Response, limit: usize) -> Result<Bytes, NoAnswer> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if limit - body.len() < chunk.len() {
            return Err(NoAnswer::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn no_answer(error: reqwest::Error) -> NoAnswer {
    // The URL is known from the line of the log in which this ends up.
    let error = error.without_url();
    if error.is_connect() { NoAnswer::NotConnected(error) } else { NoAnswer::ConnectionLost(error) }
}
