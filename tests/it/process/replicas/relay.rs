use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

/// A way to a server that can be cut. Lasts until it is dropped.
pub(super) struct Relay {
    address: SocketAddr,
    way: watch::Sender<Way>,
    _carrying: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Open,
    /// Every connection is closed, and so is every new one.
    Closed,
    /// Connections stay, and nothing comes through any of them.
    Silent,
}

impl Relay {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, seen) = watch::channel(Way::Open);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            // Ends with this task.
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                connections.spawn(carry(near, server, seen.clone()));
            }
        });
        Self { address, way, _carrying: carrying }
    }

    /// The database at `url`, by this way.
    pub(super) fn url(&self, url: &str) -> String {
        let mut url: Url = url.parse().unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// Severs all connections, whatever the way is from now on.
    pub(super) fn make(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn carry(mut near: TcpStream, server: SocketAddr, mut way: watch::Receiver<Way>) {
    if *way.borrow_and_update() == Way::Open {
        let copying = async {
            if let Ok(mut far) = TcpStream::connect(server).await {
                drop(copy_bidirectional(&mut near, &mut far).await);
            }
        };
        tokio::select! {
            () = copying => return,
            _ = way.changed() => {}
        }
    }
    while *way.borrow_and_update() == Way::Silent && way.changed().await.is_ok() {}
}
