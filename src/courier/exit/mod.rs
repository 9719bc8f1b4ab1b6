//! The way out: connects to what the guard admits, and to nothing else.
//!
//! This is the one place where a callback's connection is made, so here is where its host is judged
//! for the last time: a name is resolved by the guard, an address in the URL is shown to it, and what
//! is dialled are the addresses that it hands back. TLS is spoken with the host of the URL, whatever
//! address it was found at.
//!
//! Through a proxy it is the same (see [`Proxy`]): the proxy is told the address that was admitted,
//! not the name. Only where the operator leaves names to the proxy is it told those.

mod proxy;

use std::error::Error;
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
use tower_service::Service;

use super::egress::{Admitted, Egress};
use proxy::Through;

pub(super) use proxy::ProxyFailed;
pub use proxy::{InvalidProxy, Proxy, ProxyWay};

/// Addresses of one name that are tried at the most. More of them are no use to anybody honest.
const MOST_DIALLED: usize = 8;

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A connection out, secure as far as the proxy where that is spoken to by https.
type Outbound = MaybeHttpsStream<TokioIo<TcpStream>>;

/// No connection came about in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} s", .0.as_secs_f32())]
pub(super) struct ConnectTimedOut(Duration);

/// Connects to receivers, by TLS where their URL says so.
#[derive(Clone)]
pub(super) struct Connector {
    secure: HttpsConnector<Exit>,
    within: Duration,
}

/// Connects to what is admitted, in the clear.
#[derive(Clone)]
struct Exit {
    egress: Arc<Egress>,
    through: Option<Arc<Through>>,
    within: Duration,
}

impl Connector {
    /// `within` holds for all of it: looking up the name, connecting, and the handshakes.
    pub(super) fn new(
        egress: Arc<Egress>,
        tls: &ClientConfig,
        proxy: Option<ProxyWay>,
        within: Duration,
    ) -> Self {
        let through = proxy.map(|way| Arc::new(Through::new(way, tls.clone(), within)));
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let exit = Exit { egress, through, within };
        Self { secure: HttpsConnector::from((exit, tls)), within }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Outbound>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.secure.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, within) = (self.secure.call(to), self.within);
        Box::pin(async move {
            let connected = tokio::time::timeout(within, connecting).await;
            connected.unwrap_or_else(|_| Err(ConnectTimedOut(within).into()))
        })
    }
}

impl Service<Uri> for Exit {
    type Response = Outbound;
    type Error = BoxError;
    type Future = Connecting<Outbound>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let exit = self.clone();
        Box::pin(async move { exit.connect(&to).await })
    }
}

impl Exit {
    async fn connect(&self, to: &Uri) -> Result<Outbound, BoxError> {
        let host = to.host().ok_or("a URL without a host")?;
        let implied = if to.scheme_str() == Some("https") { 443 } else { 80 };
        let port = to.port_u16().unwrap_or(implied);
        match (self.egress.admit(host).await?, &self.through) {
            (Admitted::Addresses(addresses), None) => {
                let stream = dial(addresses, port, self.within).await?;
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
