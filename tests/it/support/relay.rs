//! Ways through which connections pass, and which may be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

/// A way to a server that can be cut. Lasts until it is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    way: watch::Sender<Way>,
    came: Arc<AtomicUsize>,
    _carrying: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    Open,
    /// Every connection is closed, and so is every new one.
    Closed,
    /// Connections stay, and nothing comes through any of them.
    Silent,
}

impl Relay {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        Self::from("127.0.0.1:0".parse().unwrap(), server).await
    }

    /// The way that begins at this address; with port 0, at a free port.
    pub(crate) async fn from(address: SocketAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, seen) = watch::channel(Way::Open);
        let came = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&came);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            // Ends with this task.
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                connections.spawn(carry(near, server, seen.clone()));
            }
        });
        Self { address, way, came, _carrying: carrying }
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made.
    pub(crate) fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    /// The database at `url`, by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        let mut url: Url = url.parse().unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// Severs all connections, whatever the way is from now on.
    pub(crate) fn make(&self, way: Way) {
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
    loop {
        let now = *way.borrow_and_update();
        match now {
            Way::Open | Way::Closed => return,
            Way::Silent => drop(way.changed().await),
        }
    }
}
