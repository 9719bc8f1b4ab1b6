//! Connections: accepting them, and breaking them off where a script wants it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::entra::Machine;
use super::entra::publishing::{self, Document};
use super::record::{RecordedRequest, Surface};
use super::told::is_dropped;
use super::world::Shared;
use super::{bearer, control, entra, graph};

/// As many connections as are open at a time; more wait to be accepted.
const CONNECTIONS: usize = 4_096;

/// How long an idle connection is kept, and how long the head of a request may take.
const IDLE: Duration = Duration::from_mins(2);

/// All that the sandbox answers.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().nest("/sandbox", control::routes()).fallback(witnessed).with_state(shared)
}

/// Accepts connections until `stopped`, and cuts those that are open then.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    connections: TaskTracker,
    stopped: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let accept_all = async {
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone());
                    let stopped = stopped.clone();
                    connections.spawn(async move {
                        let _permit = permit;
                        stopped.run_until_cancelled(connection).await;
                    });
                }
                Err(error) => {
                    // Mostly a lack of file descriptors, which trying at once would not cure.
                    tracing::warn!("the sandbox could not accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    stopped.run_until_cancelled(accept_all).await;
}

async fn connection(stream: TcpStream, router: Router) {
    // Without it, the small segments of an answer would wait for each other's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("the sandbox keeps a connection with Nagle's delay: {error}");
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answer = router.call(request);
        async move {
            let Ok(response) = answer.await;
            // hyper closes the connection of a service that fails, and sends nothing.
            if is_dropped(&response) {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            Ok(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection to the sandbox ended early: {error}");
    }
}

/// Answers a request that is meant for Microsoft, and records it before the answer leaves.
async fn witnessed(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let now = shared.clock.now();
    let (head, body) = request.into_parts();
    let meant = Meant::at(head.uri.path());
    let surface = match meant {
        Meant::Graph => Surface::Graph,
        Meant::Tokens(_) | Meant::Published(_) | Meant::Machine(_) => Surface::Entra,
    };
    let mut entry = RecordedRequest::arrived(&head, bearer(&head), surface, now);
    let told = match meant {
        Meant::Tokens(tenant) => entra::answer(&shared, tenant, &head, body, &mut entry, now).await,
        Meant::Published(document) => publishing::answer(&shared, document, &head).into(),
        Meant::Machine(machine) => machine.answer(&shared, &head, &mut entry, now),
        Meant::Graph => graph::answer(&shared, &head, body, &mut entry, now).await,
    };
    entry.status = told.status().map(|status| status.as_u16());
    shared.record(entry);
    told.deliver().await
}

/// Who of Microsoft's is meant.
#[derive(Clone, Copy)]
enum Meant<'a> {
    /// The token endpoint of a tenant.
    Tokens(&'a str),
    /// What a tenant publishes about itself.
    Published(Document<'a>),
    Machine(Machine),
    /// Graph, and whatever leads nowhere else.
    Graph,
}

impl<'a> Meant<'a> {
    fn at(path: &'a str) -> Self {
        tenant(path)
            .map(Self::Tokens)
            .or_else(|| Document::at(path).map(Self::Published))
            .or_else(|| Machine::at(path).map(Self::Machine))
            .unwrap_or(Self::Graph)
    }
}

/// The tenant whose token endpoint is at `path`, if one is.
fn tenant(path: &str) -> Option<&str> {
    let tenant = path.strip_prefix('/')?.strip_suffix("/oauth2/v2.0/token")?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}
