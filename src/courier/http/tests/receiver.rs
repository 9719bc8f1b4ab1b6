//! A receiver on a real socket, which answers with any bytes whatever.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::io::{AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{Duration, pending};

/// What each request is answered with.
#[derive(Clone)]
pub(super) struct Told {
    bytes: Vec<u8>,
    then: Then,
}

/// What comes behind the answer.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// The next request, over the same connection.
    Listen,
    Close,
    /// Nothing, and the connection stays open.
    Stall,
    /// These bytes, again and again.
    Flood(&'static str),
    /// These bytes, again and again, with time between.
    Drip(&'static str),
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// Listens until the runtime of the test ends.
pub(super) struct Receiver {
    pub(super) port: u16,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    connections: AtomicUsize,
    flooded: AtomicUsize,
    arrived: Mutex<Vec<Arrived>>,
}

impl Told {
    pub(super) fn new(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        Self { bytes: bytes.into(), then }
    }
}

impl Arrived {
    pub(super) fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(it, _)| *it == name).unwrap().1
    }
}

impl Receiver {
    pub(super) async fn start(told: Told) -> Self {
        Self::serve(move |stream, record| {
            let told = told.clone();
            async move { converse(stream, &told, &record).await }
        })
        .await
    }

    pub(super) async fn start_tls(acceptor: TlsAcceptor, told: Told) -> Self {
        Self::serve(move |stream, record| {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            async move { converse(acceptor.accept(stream).await?, &told, &record).await }
        })
        .await
    }

    async fn serve<F>(talk: impl Fn(TcpStream, Arc<Record>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let record = Arc::new(Record::default());
        let kept = Arc::clone(&record);
        let accepting = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                kept.connections.fetch_add(1, Ordering::SeqCst);
                // However it ends: the courier hangs up as it likes.
                drop(TaskTracker::new().spawn(talk(stream, Arc::clone(&kept))));
            }
        };
        drop(TaskTracker::new().spawn(accepting));
        Self { port, record }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Bytes of a flood that were taken off its hands.
    pub(super) fn flooded(&self) -> usize {
        self.record.flooded.load(Ordering::SeqCst)
    }

    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.record.arrived.lock().unwrap().clone()
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    told: &Told,
    record: &Record,
) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    loop {
        let request = request(&mut stream).await?;
        record.arrived.lock().unwrap().push(request);
        stream.write_all(&told.bytes).await?;
        stream.flush().await?;
        match told.then {
            Then::Listen => {}
            Then::Close => return stream.shutdown().await,
            Then::Stall => pending().await,
            Then::Flood(bytes) => loop {
                stream.write_all(bytes.as_bytes()).await?;
                stream.flush().await?;
                record.flooded.fetch_add(bytes.len(), Ordering::SeqCst);
            },
            Then::Drip(bytes) => loop {
                stream.write_all(bytes.as_bytes()).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            },
        }
    }
}

/// Reads one request with a `content-length`; fails at the end of the connection.
async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
) -> io::Result<Arrived> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut arrived = Arrived { head, body: Vec::new() };
    arrived.body.resize(arrived.header("content-length").parse().unwrap(), 0);
    stream.read_exact(&mut arrived.body).await?;
    Ok(arrived)
}
