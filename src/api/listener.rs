//! Accepts connections, within bounds of number and time, secure ones where there is a certificate.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{AppendHeaders, IntoResponse, Response};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::problem::{Kind, Problem};

/// After `accept` failed, most likely for want of file descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What connections may take.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    pub connections: usize,
    /// From opening a connection, or from the end of a request, to the end of the next headers.
    pub headers: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self { connections: 4_096, headers: Duration::from_secs(30) }
    }
}

/// A bound socket, ready to serve.
pub struct Listener {
    socket: TcpListener,
    limits: ListenerLimits,
    secured: Option<TlsAcceptor>,
}

impl Listener {
    /// Binds `address`; with port 0, to a free port.
    pub async fn bind(address: SocketAddr, limits: ListenerLimits) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, limits, secured: None })
    }

    /// Speaks HTTPS, and plain HTTP to say so to whoever begins with it.
    #[must_use]
    pub fn secured_by(self, acceptor: TlsAcceptor) -> Self {
        Self { secured: Some(acceptor), ..self }
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`, then lets requests in progress finish for up to `grace`.
    pub async fn serve(self, router: Router, stop: CancellationToken, grace: Duration) {
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        let accept = async {
            loop {
                // Taken first, so that what is beyond the bound waits in the kernel's queue.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                let (stream, peer) = match self.socket.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(error = %error, "could not accept a connection");
                        tokio::time::sleep(AFTER_FAILURE).await;
                        continue;
                    }
                };
                let serving = Serving {
                    peer,
                    router: router.clone(),
                    headers: self.limits.headers,
                    stop: stop.clone(),
                };
                let secured = self.secured.clone();
                connections.spawn(async move {
                    match secured {
                        None => serving.begin(stream).await,
                        Some(acceptor) => serving.secure(stream, acceptor).await,
                    }
                    drop(permit);
                });
            }
        };
        stop.run_until_cancelled(accept).await;
        drop(self.socket);
        connections.close();
        if tokio::time::timeout(grace, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "closed connections that did not end in time");
        }
    }
}

/// One connection, and what it needs.
struct Serving {
    peer: SocketAddr,
    router: Router,
    headers: Duration,
    stop: CancellationToken,
}

/// What the record of a TLS handshake begins with, and HTTP does not (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

impl Serving {
    async fn begin(self, stream: TcpStream) {
        let patience = Box::pin(tokio::time::sleep(self.headers));
        self.serve(prompt(stream), patience).await;
    }

    /// Takes the handshake first, in the same time.
    async fn secure(mut self, stream: TcpStream, acceptor: TlsAcceptor) {
        let mut patience = Box::pin(tokio::time::sleep(self.headers));
        let stream = prompt(stream);
        let shaking = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
                return Ok(Err(stream));
            }
            acceptor.accept(stream).await.map(Ok)
        };
        let shaken = tokio::select! {
            shaken = shaking => shaken,
            // Nothing was asked yet that would have to be answered.
            () = self.stop.cancelled() => return,
            () = patience.as_mut() => {
                tracing::debug!("closed a connection whose handshake was not done in time");
                return;
            }
        };
        match shaken {
            Ok(Ok(stream)) => self.serve(stream, patience).await,
            Ok(Err(stream)) => {
                self.router = Router::new().fallback(https_only);
                self.serve(stream, patience).await;
            }
            Err(error) => tracing::debug!(%error, "a handshake failed"),
        }
    }

    /// Serves what is asked; the first request has to begin within `patience`.
    async fn serve<S>(self, stream: S, mut patience: Pin<Box<Sleep>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { peer, router, headers, stop } = self;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(headers);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .keep_alive_interval(Some(headers))
            .keep_alive_timeout(headers);
        let begun = CancellationToken::new();
        let service = TowerToHyperService::new(router);
        let service = service_fn(|mut request: hyper::Request<_>| {
            begun.cancel();
            request.extensions_mut().insert(ConnectInfo(peer));
            service.call(request)
        });
        // hyper counts no time until it knows by which version of HTTP it is spoken to.
        let silence = async {
            tokio::select! {
                () = begun.cancelled() => std::future::pending().await,
                () = patience.as_mut() => {}
            }
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = silence => {
                tracing::debug!("closed a connection that asked for nothing in time");
                return;
            }
        };
        if let Err(error) = served {
            tracing::debug!(error, "a connection ended early");
        }
    }
}

/// A small answer should not wait for a larger one to share its packet with.
fn prompt(stream: TcpStream) -> TcpStream {
    drop(stream.set_nodelay(true));
    stream
}

/// What is answered to plain HTTP where HTTPS is spoken.
async fn https_only() -> Response {
    let problem = Problem::with_detail(
        Kind::HttpsRequired,
        "Ask again by https. What you sent has crossed the network in the clear: if a key was in it, \
         have that key replaced.",
    );
    (AppendHeaders([(header::CONNECTION, "close")]), problem).into_response()
}

/// Answers within `limit`, or says that it took too long.
pub(super) async fn within(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Kind::RequestTimeout).into_response(),
    }
}
