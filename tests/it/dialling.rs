//! How a bridge finds its PostgreSQL, by whatever name and among several hosts.

use std::collections::BTreeMap;
use std::fs::{Permissions, set_permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engagement_bridge::names::{LookupError, Names};
use engagement_bridge::store::Store as _;
use engagement_bridge::store::postgres::{OpenError, PostgresStore};
use engagement_bridge::vault::{MasterKey, Vault};
use engagement_bridge::{lane, tls};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::block_in_place;
use tokio::time::Instant;
use url::Url;

use crate::contract::LEASE;
use crate::support::postgres::{Cluster, Fsync, Server};
use crate::support::relay::{Relay, Way};
use crate::support::seconds;
use crate::world::PATIENCE;

/// How long a server that is silent may keep anybody from the next.
const TO_PASS_OVER: Duration = seconds(5);

/// Names and what they stand for, until somebody moves them.
#[derive(Clone, Default)]
struct Known(Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>);

impl Known {
    fn moved(&self, name: &str, addresses: &[Ipv4Addr]) {
        let addresses = addresses.iter().copied().map(IpAddr::from).collect();
        self.0.lock().unwrap().insert(name.to_owned(), addresses);
    }
}

#[async_trait]
impl Names for Known {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        self.0.lock().unwrap().get(host).cloned().ok_or(LookupError::NotFound)
    }
}

async fn open(url: &str, names: &Known, roots: Option<&str>) -> Result<PostgresStore, OpenError> {
    static KEY: LazyLock<MasterKey> = LazyLock::new(|| MasterKey::generate().unwrap());
    let vault = Vault::new(&KEY);
    let tls = tls::client_config(roots.map(str::as_bytes)).unwrap();
    let (names, lanes) = (Arc::new(names.clone()), lane::Policy::default());
    PostgresStore::open(&url.parse().unwrap(), tls, names, vault, lanes).await
}

/// Why it cannot be opened.
async fn refusal(url: &str, names: &Known, roots: Option<&str>) -> String {
    format!("{:#}", anyhow::Error::new(open(url, names, roots).await.unwrap_err()))
}

/// The same database by another name.
fn at(url: &str, host: &str) -> String {
    let mut url: Url = url.parse().unwrap();
    url.set_host(Some(host)).unwrap();
    url.into()
}

/// The same database, after another host has been tried.
fn behind(first: SocketAddr, url: &str) -> String {
    url.replace('@', &format!("@{first},"))
}

fn end_all_sessions(url: &str) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    block_in_place(|| Server::shared().ask(url, sql));
}

/// How long it takes.
async fn answers_again(store: &PostgresStore) -> Duration {
    let began_at = Instant::now();
    let mut glance = tokio::time::interval(Duration::from_millis(10));
    let answers = async {
        while store.next_due().await.is_err() {
            glance.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, answers).await.expect("it answers");
    began_at.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_silent_or_gone_keeps_nobody_from_the_next_on_postgres() {
    let url = Server::shared().create_database();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = behind(silent.local_addr().unwrap(), &url);
    let began_at = Instant::now();
    let store = open(&silent, &Known::default(), None).await.unwrap();
    assert!(began_at.elapsed() < TO_PASS_OVER, "after {:?}", began_at.elapsed());
    // From here on it is known which one it is.
    end_all_sessions(&url);
    let took = answers_again(&store).await;
    assert!(took < seconds(1), "after {took:?}");

    let gone = Relay::to(Server::shared().address()).await;
    gone.make(Way::Closed);
    open(&behind(gone.address(), &silent), &Known::default(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_to_another_server_is_followed_on_postgres() {
    let (here, there) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let (names, server) = (Known::default(), Server::shared());
    let url = server.create_database();
    let by_name = at(&url, "db.example.com") + "?sslmode=disable";
    let unknown = refusal(&by_name, &names, None).await;
    assert!(unknown.contains("db.example.com:"), "{unknown}");
    assert!(unknown.contains("the name does not exist"), "{unknown}");

    // Nobody is there at the first of its addresses.
    names.moved("db.example.com", &[Ipv4Addr::new(127, 0, 0, 3), here]);
    let store = open(&by_name, &names, None).await.unwrap();
    let elsewhere = SocketAddr::from((there, server.address().port()));
    let elsewhere = Relay::from(elsewhere, server.address()).await;
    names.moved("db.example.com", &[there]);
    end_all_sessions(&url);
    answers_again(&store).await;
    assert_ne!(elsewhere.came(), 0, "it was not looked up again");
    open(&at(&url, "localhost"), &names, None).await.unwrap();
}

/// So many connections are in the pool after it.
async fn connect_often(store: &PostgresStore) {
    let asked = futures_util::future::join_all((0..8).map(|_| store.next_due())).await;
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_only_read_from_now_on_is_left_for_the_next_on_postgres() {
    let first = block_in_place(|| Cluster::start(Fsync::Off));
    let second = block_in_place(|| Cluster::start_standby_of(first.address().port()));
    block_in_place(|| first.wait_for_standbys());
    let url = block_in_place(|| first.create_database());
    let known = Known::default();
    let store = open(&behind(second.address(), &url), &known, None).await.unwrap();
    connect_often(&store).await;

    block_in_place(|| first.set("default_transaction_read_only", "on"));
    block_in_place(|| second.promote());
    // Of its first statements, which do not wait for each other, one locks what it finds.
    let claim = async || store.claim(Timestamp::UNIX_EPOCH, LEASE, 1).await;
    claim().await.expect_err("the first connection finds out");
    claim().await.expect("all others are not used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_silent_server_are_given_up_all_at_once_on_postgres() {
    let (url, known) = (Server::shared().create_database(), Known::default());
    let relay = Relay::to(Server::shared().address()).await;
    let store = open(&behind(relay.address(), &url), &known, None).await.unwrap();
    connect_often(&store).await;
    assert!(8 <= relay.came());

    relay.make(Way::Silent);
    store.next_due().await.expect_err("nothing comes by the relay");
    let began_at = Instant::now();
    store.next_due().await.expect("the same server is reached by another way");
    assert!(began_at.elapsed() < TO_PASS_OVER, "after {:?}", began_at.elapsed());
}

/// A certificate for the name, and the server's setting for it.
fn secured(directory: &Path, name: &str) -> (String, Vec<String>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let files = [
        ("cert", pem("CERTIFICATE", certificate.der())),
        ("key", pem("PRIVATE KEY", &key.serialize_der())),
    ];
    let mut settings = vec!["fsync=off".to_owned(), "ssl=on".to_owned()];
    set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    for (kind, text) in &files {
        let path = directory.join(kind);
        std::fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        // It does not run as root, should we do so.
        drop(chown(&path, Some(65_534), Some(65_534)));
        settings.push(format!("ssl_{kind}_file={}", path.display()));
    }
    let [(_, roots), _] = files;
    (roots, settings)
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_held_to_the_name_and_a_socket_needs_none_on_postgres() {
    let directory = tempfile::tempdir().unwrap();
    let (roots, mut settings) = secured(directory.path(), "db.example.com");
    let sockets = tempfile::tempdir().unwrap();
    set_permissions(sockets.path(), Permissions::from_mode(0o777)).unwrap();
    settings.push(format!("unix_socket_directories={}", sockets.path().display()));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let cluster = block_in_place(|| Cluster::start_with(&settings));
    let url = cluster.create_database();

    let names = Known::default();
    names.moved("db.example.com", &[Ipv4Addr::LOCALHOST]);
    names.moved("other.example.com", &[Ipv4Addr::LOCALHOST]);
    let roots = Some(roots.as_str());
    let store = open(&at(&url, "db.example.com"), &names, roots).await.unwrap();
    let used = block_in_place(|| {
        cluster.ask(
            &url,
            "SELECT bool_and(ssl) FROM pg_stat_ssl \
        JOIN pg_stat_activity USING (pid) WHERE application_name = 'engagement-bridge'",
        )
    });
    assert_eq!(used, "t");
    drop(store);
    let not_valid = refusal(&at(&url, "other.example.com"), &names, roots).await;
    assert!(not_valid.contains("not valid for name"), "{not_valid}");
    let not_believed = refusal(&at(&url, "db.example.com"), &names, None).await;
    assert!(not_believed.contains("UnknownIssuer"), "{not_believed}");

    let fresh: Url = cluster.create_database().parse().unwrap();
    let (port, socket) = (fresh.port().unwrap(), sockets.path().display());
    let by_socket = format!("postgres://bridge@{}?host={socket}&port={port}", fresh.path());
    open(&by_socket, &names, None).await.unwrap();
}
