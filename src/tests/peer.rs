//! The other end of a connection on a real socket, which answers with any bytes whatever.

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::io::{AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// What each request is answered with.
#[derive(Clone)]
pub(crate) struct Told {
    bytes: Vec<u8>,
    then: Then,
}

/// What comes behind the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// The next request, over the same connection.
    Listen,
    Close,
    /// The end of the connection, as of a process that was killed.
    Reset,
    /// Nothing, and the connection stays open.
    Stall,
    /// These bytes, again and again.
    Flood(&'static str),
    /// These bytes, again and again, with time between.
    Drip(&'static str),
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// Listens until the runtime of the test ends.
pub(crate) struct Peer {
    pub(crate) port: u16,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    connections: AtomicUsize,
    flooded: AtomicUsize,
    arrived: Mutex<Vec<Arrived>>,
}

impl Told {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        Self { bytes: bytes.into(), then }
    }
}

impl Arrived {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap()
    }

    fn find(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(it, _)| *it == name).map(|(_, value)| value)
    }
}

impl Peer {
    pub(crate) async fn start(told: Told) -> Self {
        Self::start_with([told]).await
    }

    /// Answers the first request with the first of these, and so on; the last is for all others.
    pub(crate) async fn start_with(told: impl Into<Vec<Told>>) -> Self {
        let told: Arc<[Told]> = told.into().into();
        Self::serve(move |mut stream, record| {
            let told = Arc::clone(&told);
            async move {
                if let Then::Reset = converse(&mut stream, &told, &record).await? {
                    stream.set_zero_linger()?;
                }
                Ok(())
            }
        })
        .await
    }

    pub(crate) async fn start_tls(acceptor: TlsAcceptor, told: Told) -> Self {
        Self::serve(move |stream, record| {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            async move {
                converse(acceptor.accept(stream).await?, &[told], &record).await.map(drop)
            }
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
                // However it ends: the client hangs up as it likes.
                drop(TaskTracker::new().spawn(talk(stream, Arc::clone(&kept))));
            }
        };
        drop(TaskTracker::new().spawn(accepting));
        Self { port, record }
    }

    pub(crate) fn root(&self) -> String {
        self.url("")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Bytes of a flood that were taken off its hands.
    pub(crate) fn flooded(&self) -> usize {
        self.record.flooded.load(Ordering::SeqCst)
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.record.arrived.lock().unwrap().clone()
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    all_told: &[Told],
    record: &Record,
) -> io::Result<Then> {
    let mut stream = BufStream::new(stream);
    loop {
        let request = request(&mut stream).await?;
        let arrived = {
            let mut arrived = record.arrived.lock().unwrap();
            arrived.push(request);
            arrived.len()
        };
        let told = &all_told[arrived.min(all_told.len()) - 1];
        stream.write_all(&told.bytes).await?;
        stream.flush().await?;
        match told.then {
            Then::Listen => {}
            Then::Close => return stream.shutdown().await.map(|()| told.then),
            Then::Reset => return Ok(told.then),
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

/// Reads one request, with a body where it says so; fails at the end of the connection.
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
    let length = arrived.find("content-length").map_or(0, |length| length.parse().unwrap());
    arrived.body.resize(length, 0);
    stream.read_exact(&mut arrived.body).await?;
    Ok(arrived)
}
