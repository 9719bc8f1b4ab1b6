//! The way out: connects to what the guard admits, and to nothing else.
//!
//! This is the one place where a callback's connection is made, so here is where its host is judged
//! for the last time: a name is resolved by the guard, an address in the URL is shown to it, and what
//! is dialled are the addresses that it hands back. TLS is spoken with the host of the URL, whatever
//! address it was found at.
//!
//! Through a proxy it is the same (see [`Proxy`]): the proxy is told the address that was admitted,
//! not the name. Only where the operator leaves names to the proxy is it told those.

mod line;
mod proxy;

use std::error::Error;
use std::fmt;
use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::egress::{Admitted, Egress};
use super::failure::Phase;
use line::Watched;
use proxy::Through;

pub(super) use line::Line;
pub(super) use proxy::ProxyFailed;
pub use proxy::{InvalidProxy, Proxy, ProxyWay};

/// Addresses of one name that are tried at the most. More of them are no use to anybody honest.
const MOST_DIALLED: usize = 8;

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A connection out, secure as far as the proxy where that is spoken to by https.
type Outbound = MaybeHttpsStream<TokioIo<TcpStream>>;

/// No connection came about.
#[derive(Debug)]
pub(super) struct NotConnected {
    /// How far it had come.
    pub(super) phase: Phase,
    why: WhyNot,
}

#[derive(Debug)]
enum WhyNot {
    Failed(BoxError),
    TimedOut(Duration),
}

impl NotConnected {
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self.why, WhyNot::TimedOut(_))
    }
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.phase.in_words();
        match &self.why {
            WhyNot::Failed(_) => write!(f, "no connection: {phase}"),
            WhyNot::TimedOut(within) => {
                write!(f, "no connection within {} s: {phase}", within.as_secs_f32())
            }
        }
    }
}

impl Error for NotConnected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.why {
            WhyNot::Failed(cause) => Some(cause.as_ref()),
            WhyNot::TimedOut(_) => None,
        }
    }
}

/// How long things may take on the way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Looking up the name, connecting, and the handshakes together.
    pub(super) connect: Duration,
    /// How long a receiver may take nothing of what is sent, before the connection is given up.
    pub(super) blocked: Duration,
}

/// Connects to receivers, by TLS where their URL says so.
#[derive(Clone)]
pub(super) struct Connector {
    egress: Arc<Egress>,
    tls: Arc<ClientConfig>,
    through: Option<Arc<Through>>,
    patience: Patience,
}

impl Connector {
    pub(super) fn new(
        egress: Arc<Egress>,
        tls: &ClientConfig,
        proxy: Option<ProxyWay>,
        patience: Patience,
    ) -> Self {
        let through = proxy.map(|way| Arc::new(Through::new(way, tls.clone(), patience.connect)));
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { egress, tls: Arc::new(tls), through, patience }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Watched<TokioIo<MaybeHttpsStream<Outbound>>>>;
    type Error = NotConnected;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NotConnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let stream = connector.connect(to).await?;
            let watched = Watched::new(TokioIo::new(stream), connector.patience.blocked);
            Ok(TokioIo::new(watched))
        })
    }
}

impl Connector {
    async fn connect(&self, to: Uri) -> Result<MaybeHttpsStream<Outbound>, NotConnected> {
        let until = Instant::now() + self.patience.connect;
        let looked_up = async {
            let host = to.host().ok_or("a URL without a host")?;
            Ok::<_, BoxError>((host, self.egress.admit(host).await?))
        };
        let (host, admitted) = self.in_time(until, Phase::Resolving, looked_up).await?;
        let dialled = self.dial(host, &to, admitted);
        let outbound = self.in_time(until, Phase::Connecting, dialled).await?;
        let mut secure = HttpsConnector::from((Dialled(Some(outbound)), Arc::clone(&self.tls)));
        self.in_time(until, Phase::Securing, secure.call(to.clone())).await
    }

    async fn in_time<T>(
        &self,
        until: Instant,
        phase: Phase,
        doing: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, NotConnected> {
        let why = match timeout_at(until, doing).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => WhyNot::Failed(error),
            Err(_) => WhyNot::TimedOut(self.patience.connect),
        };
        Err(NotConnected { phase, why })
    }

    /// A connection in the clear to what is admitted.
    async fn dial(&self, host: &str, to: &Uri, admitted: Admitted) -> Result<Outbound, BoxError> {
        let implied = if to.scheme_str() == Some("https") { 443 } else { 80 };
        let port = to.port_u16().unwrap_or(implied);
        match (admitted, &self.through) {
            (Admitted::Addresses(addresses), None) => {
                let stream = dial(addresses, port, self.patience.connect).await?;
                Ok(MaybeHttpsStream::Http(stream))
            }
            (Admitted::Addresses(addresses), Some(proxy)) => {
                let mut last = BoxError::from("a name without an address");
                for address in addresses.into_iter().take(MOST_DIALLED) {
                    match proxy.connect(&SocketAddr::new(address, port).to_string()).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => last = error.into(),
                    }
                }
                Err(last)
            }
            (Admitted::Name, Some(proxy)) => Ok(proxy.connect(&format!("{host}:{port}")).await?),
            (Admitted::Name, None) => Err("a name that nobody looks up".into()),
        }
    }
}

/// Hands out one connection that is there already.
struct Dialled(Option<Outbound>);

impl Service<Uri> for Dialled {
    type Response = Outbound;
    type Error = BoxError;
    type Future = Ready<Result<Outbound, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or_else(|| "a connection is handed out once".into()))
    }
}

/// Connects to one of `addresses`, to the next beside the first where that is slow (RFC 8305).
async fn dial(
    addresses: Vec<IpAddr>,
    port: u16,
    within: Duration,
) -> Result<TokioIo<TcpStream>, BoxError> {
    let addresses = addresses.into_iter().take(MOST_DIALLED);
    let known = addresses.map(|address| SocketAddr::new(address, port)).collect();
    let mut http = HttpConnector::new_with_resolver(Known(known));
    http.set_nodelay(true);
    // Shared among the addresses, so that one of them which is silent leaves time for the next.
    http.set_connect_timeout(Some(within));
    // It takes a URL, and has none to take an address or a port from but those above.
    Ok(http.call(Uri::from_static("http://admitted")).await?)
}

/// Resolves any name to the addresses that are known for it already.
#[derive(Clone)]
struct Known(Vec<SocketAddr>);

impl Service<Name> for Known {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}
