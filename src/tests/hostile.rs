//! Receivers that do what ought to harm nobody but themselves, on real sockets, in the clear and by
//! TLS, over HTTP/1.1 and over HTTP/2. The tests of the courier take them one by one; the tests of the
//! whole bridge, which include this file, have all of them beside a good one.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::secure::{Identity, identity};

/// The name in the certificates of those who are secure, which is where they are.
pub(crate) const HOST: &str = "127.0.0.1";

/// How it is connected to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    Plain,
    /// The URL says `https`, and nobody speaks TLS.
    PlainForHttps,
    Http1,
    Http2,
    /// With a certificate that nobody believes, or not any more, or not for this.
    SelfSigned,
    Expired,
    OfAnother,
}

/// What it does on a connection, one after the other. Behind the last it stalls.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Reads one byte.
    Begin,
    /// Reads the headers of a request, and its body as far as `content-length` says; of HTTP/2 the
    /// first headers.
    Read,
    Say(Vec<u8>),
    /// Again and again, as fast as it is taken.
    Flood(Vec<u8>),
    /// One byte after the other, from the beginning again and again, slowly.
    Drip(Vec<u8>),
    Close,
    Reset,
}

pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    pub(crate) acts: Vec<Act>,
}

/// One that listens until the runtime of the test ends.
pub(crate) struct Listening {
    pub(crate) url: String,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    connections: AtomicUsize,
    flooded: AtomicUsize,
}

/// Certificates, each signed by itself.
pub(crate) struct Identities {
    http1: Identity,
    http2: Identity,
    expired: Identity,
    of_another: Identity,
    self_signed: Identity,
}

impl Identities {
    pub(crate) fn new() -> Self {
        Self {
            http1: identity(HOST, 4_000, "http/1.1"),
            http2: identity(HOST, 4_000, "h2"),
            expired: identity(HOST, 2_001, "http/1.1"),
            of_another: identity("other.example", 4_000, "http/1.1"),
            self_signed: identity(HOST, 4_000, "http/1.1"),
        }
    }

    /// What is to be believed.
    pub(crate) fn roots(&self) -> String {
        let believed = [&self.http1, &self.http2, &self.expired, &self.of_another];
        believed.map(|it| it.pem.as_str()).concat()
    }

    fn of(&self, way: Way) -> Option<&Identity> {
        match way {
            Way::Plain | Way::PlainForHttps => None,
            Way::Http1 => Some(&self.http1),
            Way::Http2 => Some(&self.http2),
            Way::SelfSigned => Some(&self.self_signed),
            Way::Expired => Some(&self.expired),
            Way::OfAnother => Some(&self.of_another),
        }
    }
}

impl Hostile {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for way in [Way::Plain, Way::Http1] {
            all.extend(over_http_1().into_iter().map(|(name, acts)| Self { name, way, acts }));
        }
        all.extend(over_http_2().into_iter().map(|(name, acts)| Self {
            name,
            way: Way::Http2,
            acts,
        }));
        let said = || vec![Act::Read, say("HTTP/1.1 204 X\r\n\r\n")];
        all.extend([
            Self { name: "a certificate signed by itself", way: Way::SelfSigned, acts: said() },
            Self { name: "a certificate that has expired", way: Way::Expired, acts: said() },
            Self { name: "a certificate of another", way: Way::OfAnother, acts: said() },
            Self { name: "a handshake that stalls", way: Way::PlainForHttps, acts: vec![] },
            Self {
                name: "a handshake that trickles",
                way: Way::PlainForHttps,
                // A record of 16 KiB that is never complete.
                acts: vec![Act::Begin, Act::Say(vec![22, 3, 3, 64, 0]), Act::Drip(vec![0])],
            },
            Self {
                name: "a handshake that is broken off",
                way: Way::PlainForHttps,
                acts: vec![Act::Begin, Act::Close],
            },
            Self {
                name: "a version of TLS that nobody speaks any more",
                way: Way::PlainForHttps,
                // The alert `protocol_version`.
                acts: vec![Act::Begin, Act::Say(vec![21, 3, 1, 0, 2, 2, 70])],
            },
            Self {
                name: "no TLS where there ought to be",
                way: Way::PlainForHttps,
                acts: vec![Act::Begin, say("HTTP/1.1 400 Bad Request\r\n\r\n")],
            },
        ]);
        all
    }

    pub(crate) async fn start(&self, identities: &Identities) -> Listening {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if self.way == Way::Plain { "http" } else { "https" };
        let record = Arc::new(Record::default());
        let acceptor = identities.of(self.way).map(|it| it.acceptor.clone());
        let (acts, kept) = (Arc::new(self.acts.clone()), Arc::clone(&record));
        let frames = self.way == Way::Http2;
        let serving = async move {
            let talks = TaskTracker::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                kept.connections.fetch_add(1, Ordering::SeqCst);
                let (acts, record) = (Arc::clone(&acts), Arc::clone(&kept));
                let acceptor = acceptor.clone();
                // However it ends: the client hangs up as it likes.
                drop(talks.spawn(async move {
                    let reset = |stream: &TcpStream| stream.set_zero_linger();
                    let Some(acceptor) = acceptor else {
                        let mut stream = stream;
                        let then = play(&acts, &mut stream, frames, &record).await?;
                        return if then { reset(&stream) } else { Ok(()) };
                    };
                    let mut stream = acceptor.accept(stream).await?;
                    let then = play(&acts, &mut stream, frames, &record).await?;
                    if then { reset(stream.get_ref().0) } else { Ok(()) }
                }));
            }
        };
        drop(TaskTracker::new().spawn(serving));
        Listening { url: format!("{scheme}://{HOST}:{port}/hooks"), record }
    }
}

impl Listening {
    pub(crate) fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Bytes of a flood that were taken off its hands, by the kernel or by us.
    pub(crate) fn flooded(&self) -> usize {
        self.record.flooded.load(Ordering::SeqCst)
    }
}

/// Plays all acts; whether the connection is to be reset.
async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    acts: &[Act],
    stream: &mut S,
    frames: bool,
    record: &Record,
) -> io::Result<bool> {
    for act in acts {
        match act {
            Act::Begin => drop(stream.read_u8().await?),
            Act::Read if frames => first_headers(stream).await?,
            Act::Read => request(stream).await?,
            Act::Say(bytes) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
            }
            Act::Flood(bytes) => {
                let many = bytes.repeat(16 * 1_024 / bytes.len() + 1);
                loop {
                    stream.write_all(&many).await?;
                    stream.flush().await?;
                    record.flooded.fetch_add(many.len(), Ordering::SeqCst);
                }
            }
            Act::Drip(bytes) => {
                for byte in bytes.iter().cycle() {
                    stream.write_u8(*byte).await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Act::Close => return stream.shutdown().await.map(|()| false),
            Act::Reset => return Ok(true),
        }
    }
    std::future::pending().await
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.map(drop)
}

/// Reads the preface of HTTP/2, and frames up to the first headers (RFC 9113 §3.4, §4.1).
async fn first_headers(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length.try_into().unwrap()]).await?;
        if head[3] == HEADERS {
            return Ok(());
        }
    }
}

fn say(text: &str) -> Act {
    Act::Say(text.as_bytes().to_vec())
}

fn flood(text: &str) -> Act {
    Act::Flood(text.as_bytes().to_vec())
}

fn drip(text: &str) -> Act {
    Act::Drip(text.as_bytes().to_vec())
}

fn over_http_1() -> Vec<(&'static str, Vec<Act>)> {
    use Act::{Begin, Close, Read, Reset};
    let chunked = "HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n";
    let chunk = format!("4000\r\n{:x<1$}\r\n", "", 0x4000);
    let asks_for = |text: &str| {
        let answer = format!("HTTP/1.1 503 X\r\n{text}content-length: 0\r\n\r\n");
        vec![Read, say(&answer)]
    };
    vec![
        ("silence", vec![Read]),
        ("a status line that trickles", vec![Read, drip("HTTP/1.1 200 OK")]),
        ("headers that trickle", vec![Read, say("HTTP/1.1 200 OK\r\n"), drip("x: y\r\n")]),
        (
            "a body that trickles",
            vec![Read, say("HTTP/1.1 500 X\r\ncontent-length: 9999\r\n\r\n"), drip("x")],
        ),
        ("a body without end", vec![Read, say("HTTP/1.1 500 X\r\n\r\n"), flood("x")]),
        ("a body of chunks without end", vec![Read, say(&format!("{chunked}\r\n")), flood(&chunk)]),
        (
            "a body that would be large if it were unpacked",
            vec![
                Read,
                say("HTTP/1.1 500 X\r\ncontent-encoding: gzip\r\ncontent-length: 99999\r\n\r\n"),
                Act::Flood(ZEROS_PACKED.to_vec()),
            ],
        ),
        (
            "interim answers without end",
            vec![Read, flood(&format!("HTTP/1.1 100 Continue\r\nx: {:y<1$}\r\n\r\n", "", 900))],
        ),
        (
            "hints without end",
            vec![
                Read,
                flood(&format!("HTTP/1.1 103 Early Hints\r\nlink: </{:x<1$}>\r\n\r\n", "", 900)),
            ],
        ),
        ("a header without end", vec![Read, say("HTTP/1.1 200 OK\r\nx: "), flood("y")]),
        ("headers without end", vec![Read, say("HTTP/1.1 200 OK\r\n"), flood("x: y\r\n")]),
        (
            "very many headers",
            vec![Read, say(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101)))],
        ),
        ("the end before the request is read", vec![Begin, Close]),
        ("the end after the request is read", vec![Read, Close]),
        ("the end in the middle of the headers", vec![Read, say("HTTP/1.1 200 OK\r\n"), Close]),
        ("a reset after the request is read", vec![Read, Reset]),
        (
            "a reset in the middle of the body",
            vec![Read, say("HTTP/1.1 500 X\r\ncontent-length: 9\r\n\r\nx"), Reset],
        ),
        (
            "an answer before the request is read",
            vec![Begin, say("HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n")],
        ),
        (
            "a redirect to where secrets are",
            vec![
                Read,
                say("HTTP/1.1 307 X\r\nlocation: http://169.254.169.254/latest/meta-data\r\n\
                     content-length: 0\r\n\r\n"),
            ],
        ),
        (
            "another protocol",
            vec![
                Read,
                say("HTTP/1.1 101 X\r\nupgrade: shell\r\nconnection: upgrade\r\n\r\n"),
                flood("$ "),
            ],
        ),
        ("what is not HTTP", vec![Read, say("220 mail.example ESMTP\r\n")]),
        ("a wish for eternity", asks_for("retry-after: 1000000000000000000\r\n")),
        ("a wish for more than a number holds", asks_for("retry-after: 99999999999999999999\r\n")),
        ("a wish for less than nothing", asks_for("retry-after: -1000000000000000000\r\n")),
        ("a wish for the past", asks_for("retry-after: Thu, 01 Jan 1970 00:00:00 GMT\r\n")),
        ("a wish that nobody understands", asks_for("retry-after: when it suits you\r\n")),
        (
            "several wishes",
            asks_for(
                "retry-after: 1\r\nretry-after: later\r\nretry-after: 7\r\nretry-after: 2\r\n",
            ),
        ),
    ]
}

/// A megabyte of zeros by gzip is little more than this, again and again.
const ZEROS_PACKED: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xec, 0xc1, 1, 1, 0, 0, 0, 0x80];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// One setting (RFC 9113 §6.5.2).
fn setting(id: u8, value: u32) -> Vec<u8> {
    let mut payload = vec![0, id];
    payload.extend(value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

fn go_away(last: u32, code: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend(code.to_be_bytes());
    frame(GOAWAY, 0, 0, &payload)
}

fn over_http_2() -> Vec<(&'static str, Vec<Act>)> {
    use Act::{Close, Drip, Flood, Read, Reset, Say};
    let hello = || Say(frame(SETTINGS, 0, 0, &[]));
    // `:status: 500` and `:status: 103` of the static table of HPACK, the latter spelled out.
    let failed = frame(HEADERS, END_HEADERS, 1, &[0x8e]);
    let mut hint = vec![0x08, 3, b'1', b'0', b'3', 0x10, 1, b'x', 0x7f, 0x81, 0x06];
    hint.extend([b'y'; 896]);
    let hinted = frame(HEADERS, END_HEADERS, 1, &hint);
    // `x: yyyy…`, never indexed.
    let mut long = vec![0x88, 0x10, 1, b'x', 0x7f, 0x81, 0x7f];
    long.extend([b'y'; 16_000]);
    let mut opened = frame(HEADERS, 0, 1, &[0x88]);
    opened.truncate(9 + 1);
    vec![
        ("silence of HTTP/2", vec![hello(), Read]),
        ("not even a greeting", vec![Read]),
        ("an answer by HTTP/1.1", vec![Read, say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]),
        ("a farewell at once", vec![hello(), Say(go_away(0, 0)), Close]),
        ("a farewell to a stream", vec![hello(), Read, Say(go_away(0, 0)), Close]),
        ("a farewell in anger", vec![hello(), Read, Say(go_away(1, 11)), Close]),
        ("the end of HTTP/2 without a farewell", vec![hello(), Read, Close]),
        ("a reset under HTTP/2", vec![hello(), Read, Reset]),
        (
            "a stream that is refused",
            vec![hello(), Read, Say(frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]))],
        ),
        (
            "a stream that is reset in the middle of its answer",
            vec![hello(), Read, Say(failed.clone()), Say(frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]))],
        ),
        ("no streams", vec![Say(setting(3, 0)), Read]),
        ("a window of nothing", vec![Say(setting(4, 0)), Read]),
        ("pings without end", vec![hello(), Read, Flood(frame(PING, 0, 0, &[7; 8]))]),
        ("settings without end", vec![Read, Flood(setting(4, 65_535))]),
        ("hints of HTTP/2 without end", vec![hello(), Read, Flood(hinted)]),
        (
            "headers of HTTP/2 without end",
            vec![
                hello(),
                Read,
                Say(opened),
                Flood(frame(CONTINUATION, 0, 1, &[0x10, 1, b'x', 1, b'y'])),
            ],
        ),
        (
            "a very large header of HTTP/2",
            vec![
                hello(),
                Read,
                Say(frame(HEADERS, 0, 1, &long)),
                Say(frame(CONTINUATION, END_HEADERS, 1, &[b'y'; 384])),
            ],
        ),
        ("a frame that trickles", vec![hello(), Read, Drip(frame(PING, 0, 0, &[7; 8]))]),
        (
            "a body of HTTP/2 without end",
            vec![hello(), Read, Say(failed), Flood(frame(DATA, 0, 1, &[b'x'; 1_024]))],
        ),
        ("a body without headers", vec![hello(), Read, Flood(frame(DATA, 0, 1, &[b'x'; 1_024]))]),
    ]
}
