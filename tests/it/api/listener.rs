//! No connection is held for nothing, and none takes more than its share.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use engagement_bridge::api::{Api, Limits, Listener, ListenerLimits, Parts, Proxies, router};
use engagement_bridge::clock::SystemClock;
use engagement_bridge::courier::Egress;
use engagement_bridge::courier::egress::Rules;
use engagement_bridge::graph::{
    Complaint, Connection, Examination, Examiner, Finding, GraphRoot, TooSoon,
};
use engagement_bridge::names::SystemNames;
use engagement_bridge::nudge::Nudge;
use engagement_bridge::store::KeyDigest;
use engagement_bridge::store::memory::MemoryStore;
use engagement_bridge::{callback, lane, operation, tls};
use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::PATIENCE;

/// A listener that serves until it is dropped.
struct Serving {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Serving {
    async fn start(router: Router, connections: usize, headers: Duration) -> Self {
        let limits = ListenerLimits { connections, headers };
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), limits).await.unwrap();
        let address = listener.address().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(listener.serve(router, CancellationToken::new(), Duration::ZERO));
        Self { address, _serving: serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Whatever comes until the other side closes, which it must.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
    // Closing with unread bytes in the queue shows as a reset.
    drop(closed.expect("the connection was kept open"));
    String::from_utf8_lossy(&read).into_owned()
}

/// One answer without a body.
async fn answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let whole = async {
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.expect("no answer came in time");
    String::from_utf8(read).unwrap()
}

fn empty() -> Router {
    Router::new().route("/", get(async || axum::http::StatusCode::NO_CONTENT))
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: bridge\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_come_to_the_point_is_cut_off() {
    let serving = Serving::start(empty(), 64, Duration::from_secs(1)).await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let no_settings = "\0\0\0\x04\0\0\0\0\0";
    let told = [
        ("nothing at all", String::new(), 0),
        ("a first letter", "P".to_owned(), 0),
        ("most of a preface", preface[..23].to_owned(), 0),
        ("HTTP/2 without a request", format!("{preface}{no_settings}"), 0),
        ("a request line", "GET / HTTP/1.1\r\n".to_owned(), 0),
        ("half a header", "GET / HTTP/1.1\r\nHost: bri".to_owned(), 0),
        ("a request and then nothing", REQUEST.to_owned(), 1),
        ("a request and then half a one", format!("{REQUEST}GET / HT"), 1),
    ];
    join_all(told.map(async |(name, said, answers)| {
        let mut stream = serving.connect().await;
        stream.write_all(said.as_bytes()).await.unwrap();
        let read = until_closed(&mut stream).await;
        assert_eq!(read.matches("HTTP/1.1 204").count(), answers, "{name}: {read:?}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_measure_are_refused() {
    let serving = Serving::start(empty(), 64, PATIENCE).await;
    let many = "x: y\r\n".repeat(200);
    for (name, request, expected) in [
        ("many headers", format!("GET / HTTP/1.1\r\n{many}\r\n"), "HTTP/1.1 431"),
        ("a long address", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)), "HTTP/1.1 414"),
        ("no HTTP", "\x16\x03\x01\x02\0\x01\0\x01\u{1}\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let mut stream = serving.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let read = until_closed(&mut stream).await;
        assert!(read.starts_with(expected), "{name}: {read:?}");
    }
    let mut stream = serving.connect().await;
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(4 << 20));
    // The other side may close long before it has all.
    drop(stream.write_all(endless.as_bytes()).await);
    let read = until_closed(&mut stream).await;
    assert!(read.is_empty() || read.starts_with("HTTP/1.1 431"), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_too_many_waits_until_another_one_is_closed() {
    let (sender, mut order) = mpsc::channel(100);
    let note = |name: &'static str| {
        let sender = sender.clone();
        get(async move || sender.send(name).await.unwrap())
    };
    let router = Router::new().route("/first", note("first")).route("/second", note("second"));
    let serving = Serving::start(router, 1, PATIENCE).await;
    let request = |path: &str| format!("GET /{path} HTTP/1.1\r\nHost: bridge\r\n\r\n");

    let mut first = serving.connect().await;
    first.write_all(request("first").as_bytes()).await.unwrap();
    answer(&mut first).await;
    let mut second = serving.connect().await;
    second.write_all(request("second").as_bytes()).await.unwrap();
    // Time enough for the second to be served, were it let in.
    for _ in 0..50 {
        first.write_all(request("first").as_bytes()).await.unwrap();
        answer(&mut first).await;
    }
    for _ in 0..51 {
        assert_eq!(order.recv().await, Some("first"));
    }
    drop(first);
    answer(&mut second).await;
    assert_eq!(order.recv().await, Some("second"));
}

/// Has no Graph to try connections out at.
pub(super) struct NoGraph;

#[async_trait]
impl Examiner for NoGraph {
    async fn examine(&self, _: &Connection, _: &str) -> Result<Examination, TooSoon> {
        Ok(Examination { finding: Finding::Trouble, complaint: Complaint::default(), graph: None })
    }
}

/// The bridge's own router, on a store in memory.
fn bridge(limits: Limits) -> Router {
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(lane::Policy::default()));
    let egress = Egress::new(Rules::default(), Arc::new(SystemNames::default()), clock.clone());
    let (router, _) = router(Api::new(Parts {
        store: store.clone(),
        directory: store.clone(),
        audit: store.clone(),
        safe: store,
        egress: Arc::new(egress),
        examiner: Arc::new(NoGraph),
        handshakes: None,
        clock,
        nudge: Arc::new(Nudge::default()),
        graph_root: GraphRoot::parse("https://graph.microsoft.com").unwrap(),
        operations: operation::Policy::default(),
        callbacks: callback::Policy::default(),
        admin_key: KeyDigest(Sha256::digest("admin-key").into()),
        proxies: Proxies::default(),
        limits,
    }));
    router
}

const HEADERS: &str = "Host: bridge\r\nAuthorization: Bearer admin-key\r\n\
    Content-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_waited_for_no_longer_than_a_request_may_take() {
    let limits = Limits { request: Duration::from_millis(200), ..Limits::default() };
    let serving = Serving::start(bridge(limits), 64, PATIENCE).await;
    let mut stream = serving.connect().await;
    let half = format!(
        "POST /v1/admin/callers HTTP/1.1\r\n{HEADERS}Content-Length: 100\r\n\r\n{{\"name\":"
    );
    stream.write_all(half.as_bytes()).await.unwrap();
    let head = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_is_measured_as_it_comes() {
    let serving = Serving::start(bridge(Limits::default()), 64, PATIENCE).await;
    let mut stream = serving.connect().await;
    let head =
        format!("POST /v1/admin/callers HTTP/1.1\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    stream.write_all(chunk.repeat(4).as_bytes()).await.unwrap();
    stream.write_all(b"1\r\n \r\n").await.unwrap();
    let head = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_request_lines_are_answered_by_problems() {
    let serving = Serving::start(bridge(Limits::default()), 64, PATIENCE).await;
    for (line, status) in [
        ("OPTIONS * HTTP/1.1", "404"),
        ("CONNECT graph.microsoft.com:443 HTTP/1.1", "404"),
        ("GET http://graph.microsoft.com/v1/admin/callers HTTP/1.1", "200"),
        ("GET http://graph.microsoft.com HTTP/1.1", "404"),
        ("GET /v1/../v1/admin/callers HTTP/1.1", "404"),
        ("GET ?limit=1 HTTP/1.1", "400"),
        ("get /v1/admin/callers HTTP/1.1", "405"),
        ("GET /v1/admin/callers HTTP/1.0", "200"),
    ] {
        let mut stream = serving.connect().await;
        stream.write_all(format!("{line}\r\n{HEADERS}\r\n").as_bytes()).await.unwrap();
        let head = answer(&mut stream).await;
        assert_eq!(head.split(' ').nth(1), Some(status), "{line}: {head}");
        let is_problem = head.contains("content-type: application/problem+json");
        assert_eq!(is_problem, matches!(status, "404" | "405"), "{line}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_to_whoever_begins_with_it() {
    let serving = Serving::start(bridge(Limits::default()), 64, PATIENCE).await;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config(None).unwrap())
        .http2_prior_knowledge()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let answer = client.get(format!("http://{}/healthz", serving.address)).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 204));
}
