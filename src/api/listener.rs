//! Accepts connections, within bounds of number and time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
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
}

impl Listener {
    /// Binds `address`; with port 0, to a free port.
    pub async fn bind(address: SocketAddr, limits: ListenerLimits) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, limits })
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
                let headers = self.limits.headers;
                let serving = serve_connection(stream, peer, router.clone(), headers, stop.clone());
                connections.spawn(async move {
                    serving.await;
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

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    headers: Duration,
    stop: CancellationToken,
) {
    // A small answer should not wait for a larger one to share its packet with.
    drop(stream.set_nodelay(true));
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
        if tokio::time::timeout(headers, begun.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
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

/// Answers within `limit`, or says that it took too long.
pub(super) async fn within(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Kind::RequestTimeout).into_response(),
    }
}
