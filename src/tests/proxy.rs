//! A proxy on a real socket: for whatever address it is told, it connects to one receiver.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// How it is spoken to.
#[derive(Clone)]
pub(crate) enum Spoken {
    Http,
    Https(TlsAcceptor),
    Socks5,
}

/// What it says to those who want to go somewhere, one after the other; the last to all others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Says {
    Yes,
    /// With this status of HTTP, or this code of SOCKS.
    No(u16),
    /// The end of the connection.
    Goodbye,
    Nothing,
}

/// What it was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Asked {
    pub(crate) target: String,
    pub(crate) credentials: Option<String>,
}

/// Listens until the runtime of the test ends.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    /// Connects to the receiver at the port `to`.
    pub(crate) async fn start(spoken: Spoken, to: u16, says: &[Says]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (record, says) = (Arc::clone(&asked), says.to_vec());
        let serving = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let talk = Talk { to, says: says.clone(), asked: Arc::clone(&record) };
                let spoken = spoken.clone();
                // However it ends: the client hangs up as it likes.
                drop(TaskTracker::new().spawn(async move {
                    match spoken {
                        Spoken::Http => talk.by_connect(stream).await,
                        Spoken::Https(acceptor) => {
                            talk.by_connect(acceptor.accept(stream).await?).await
                        }
                        Spoken::Socks5 => talk.by_socks(stream).await,
                    }
                }));
            }
        };
        drop(TaskTracker::new().spawn(serving));
        Self { port, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

struct Talk {
    to: u16,
    says: Vec<Says>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Talk {
    fn record(&self, target: String, credentials: Option<String>) -> Says {
        let mut asked = self.asked.lock().unwrap();
        asked.push(Asked { target, credentials });
        self.says[asked.len().min(self.says.len()) - 1]
    }

    async fn by_connect(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let target = lines.next().unwrap().strip_prefix("CONNECT ").unwrap();
        let target = target.strip_suffix(" HTTP/1.1").unwrap().to_owned();
        assert_eq!(lines.next().unwrap(), format!("Host: {target}"));
        let credentials = lines.find_map(|line| line.strip_prefix("Proxy-Authorization: "));
        match self.record(target, credentials.map(str::to_owned)) {
            Says::Yes => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?,
            Says::No(status) => {
                return stream.write_all(format!("HTTP/1.1 {status} No\r\n\r\n").as_bytes()).await;
            }
            Says::Goodbye => return Ok(()),
            Says::Nothing => std::future::pending().await,
        }
        self.relay(stream).await
    }

    /// RFC 1928, and RFC 1929 for who offers it.
    async fn by_socks(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut methods = vec![
            0;
            {
                stream.read_u8().await?;
                stream.read_u8().await?
            }
            .into()
        ];
        stream.read_exact(&mut methods).await?;
        let mut credentials = None;
        if methods.contains(&2) {
            stream.write_all(&[5, 2]).await?;
            assert_eq!(stream.read_u8().await?, 1);
            let user = text(&mut stream).await?;
            let password = text(&mut stream).await?;
            credentials = Some(format!("{user}:{password}"));
            stream.write_all(&[1, 0]).await?;
        } else {
            stream.write_all(&[5, 0]).await?;
        }
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let host = match head[3] {
            1 => Ipv4Addr::from_bits(stream.read_u32().await?).to_string(),
            3 => text(&mut stream).await?,
            4 => format!("[{}]", Ipv6Addr::from_bits(stream.read_u128().await?)),
            other => panic!("an address of the kind {other}"),
        };
        let target = format!("{host}:{}", stream.read_u16().await?);
        let code = match self.record(target, credentials) {
            Says::Yes => 0,
            Says::No(code) => u8::try_from(code).unwrap(),
            Says::Goodbye => return Ok(()),
            Says::Nothing => std::future::pending().await,
        };
        stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        if code == 0 { self.relay(stream).await } else { Ok(()) }
    }

    async fn relay(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let there = SocketAddr::from((Ipv4Addr::LOCALHOST, self.to));
        let mut there = TcpStream::connect(there).await?;
        copy_bidirectional(&mut stream, &mut there).await.map(drop)
    }
}

async fn text(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut text).await?;
    Ok(String::from_utf8(text).unwrap())
}
