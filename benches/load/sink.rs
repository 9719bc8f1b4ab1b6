//! A sink for callbacks: takes what comes, notes when, and may be told to ask for patience first.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engagement_bridge::clock::{Clock as _, SystemClock};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// Listens on all of 127.0.0.0/8, so that it can be as many receivers as are wanted.
#[derive(Clone)]
pub(crate) struct Sink {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    taken: AtomicUsize,
    /// Answers 503 with this `Retry-After` in place of taking anything.
    asks_for_patience: AtomicBool,
    /// When the first callback for each client state came.
    arrived: Mutex<HashMap<String, Instant>>,
    notes_arrivals: AtomicBool,
    /// How long it thinks before each answer, in milliseconds.
    thinks_for: AtomicU64,
    /// How long each callback had been owed when it came, since somebody last asked.
    lags: Mutex<Vec<Duration>>,
}

const PATIENCE: &str = "20";

impl Sink {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let sink = Self { port, shared: Arc::clone(&shared) };
        let tasks = TaskTracker::new();
        drop(tasks.clone().spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| take(Arc::clone(&shared), request));
                drop(
                    tasks.spawn(
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                    ),
                );
            }
        }));
        sink
    }

    /// The URL of one of the receivers that it is.
    pub(crate) fn url(&self, receiver: usize) -> String {
        let last = u8::try_from(receiver % 200 + 1).unwrap();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)), self.port);
        format!("http://{address}/hooks")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port)
    }

    pub(crate) fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::SeqCst)
    }

    pub(crate) fn ask_for_patience(&self, asks: bool) {
        self.shared.asks_for_patience.store(asks, Ordering::SeqCst);
    }

    pub(crate) fn think_for(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap();
        self.shared.thinks_for.store(millis, Ordering::SeqCst);
    }

    pub(crate) fn note_arrivals(&self) {
        self.shared.notes_arrivals.store(true, Ordering::SeqCst);
    }

    pub(crate) fn take_lags(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.shared.lags.lock().unwrap())
    }

    pub(crate) fn arrivals(&self) -> HashMap<String, Instant> {
        self.shared.arrived.lock().unwrap().clone()
    }
}

async fn take(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let now = Instant::now();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    match shared.thinks_for.load(Ordering::SeqCst) {
        0 => {}
        millis => tokio::time::sleep(Duration::from_millis(millis)).await,
    }
    if shared.asks_for_patience.load(Ordering::SeqCst) {
        let answer = Response::builder().status(503).header("retry-after", PATIENCE);
        return Ok(answer.body(Empty::new()).unwrap());
    }
    if shared.notes_arrivals.load(Ordering::SeqCst) {
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let state = body["tracking"]["clientState"].as_str().unwrap_or_default().to_owned();
        shared.arrived.lock().unwrap().entry(state).or_insert(now);
        let owed_at: Timestamp = body["timestamp"].as_str().unwrap().parse().unwrap();
        let lag = SystemClock.now().duration_since(owed_at);
        shared.lags.lock().unwrap().push(Duration::try_from(lag).unwrap_or_default());
    }
    shared.taken.fetch_add(1, Ordering::SeqCst);
    Ok(Response::builder().status(204).body(Empty::new()).unwrap())
}
