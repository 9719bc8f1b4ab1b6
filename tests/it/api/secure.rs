//! HTTPS, where the API has a certificate: by which keys and versions, within which bounds.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, Version};
use axum::routing::get;
use engagement_bridge::api::{Listener, ListenerLimits};
use engagement_bridge::tls::{self, CertificateFiles, Fingerprint, OwnCertificate};
use futures_util::future::join_all;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::support::certificates::Authority;
use crate::world::PATIENCE;

const RSA: [&str; 1] = ["rsa:2048"];
const CURVE: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// What comes before the rest of a `ClientHello` of 512 bytes.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bridge\r\n\r\n";

/// A listener with a certificate, which serves until it is dropped or told to stop.
struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinSet<()>,
    root: String,
    fingerprint: Fingerprint,
}

impl Serving {
    async fn start(authority: &Authority, chain: &str, key: &str, limits: ListenerLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = CertificateFiles {
            certificate: directory.path().join("certificate.pem"),
            key: directory.path().join("key.pem"),
        };
        std::fs::write(&files.certificate, chain).unwrap();
        std::fs::write(&files.key, key).unwrap();
        let own = Arc::new(OwnCertificate::read(files).unwrap());
        let acceptor = TlsAcceptor::from(Arc::new(own.server_config().unwrap()));
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), limits).await.unwrap();
        let address = listener.address().unwrap();
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        let router = Router::new().route("/", get(async || StatusCode::NO_CONTENT));
        let listener = listener.secured_by(acceptor);
        // Longer than any test, so that one that has to be waited for shows.
        running.spawn(listener.serve(router, stop.clone(), 100 * PATIENCE));
        let (root, fingerprint) = (authority.root.clone(), own.fingerprint());
        Self { address, stop, running, root, fingerprint }
    }

    /// With limits that a test may set.
    async fn with(limits: ListenerLimits) -> Self {
        let authority = Authority::new();
        let (chain, key) = authority.issue(&CURVE);
        Self::start(&authority, &chain, &key, limits).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Connected, with the handshake done, for HTTP/1.1.
    async fn shake_hands(&self) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(Arc::new(self.believing()));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        connector.connect(name, self.connect().await).await.unwrap()
    }

    /// Whether it is served with a 204, and by which version of HTTP where these are offered.
    async fn version(&self, mut config: ClientConfig, offered: &[&str]) -> Option<Version> {
        config.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
        let client = reqwest::Client::builder().tls_backend_preconfigured(config);
        let client = client.timeout(PATIENCE).build().unwrap();
        let answer = client.get(format!("https://{}/", self.address)).send().await.ok()?;
        (answer.status() == StatusCode::NO_CONTENT).then(|| answer.version())
    }

    /// Of whoever believes the root.
    fn believing(&self) -> ClientConfig {
        tls::client_config(Some(self.root.as_bytes())).unwrap()
    }
}

/// Whatever comes until the other side closes, which it must.
async fn until_closed(mut stream: impl AsyncRead + Unpin) -> String {
    let mut read = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
    // Closing with unread bytes in the queue shows as a reset.
    drop(closed.expect("the connection was kept open"));
    String::from_utf8_lossy(&read).into_owned()
}

/// OpenSSL's own client.
async fn openssl(authority: &Authority, serving: &Serving, flags: &[&str]) -> (Output, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &serving.address.to_string()]);
    command.arg("-CAfile").arg(authority.root_path());
    command.args(["-verify_return_error", "-verify_ip", "127.0.0.1"]).args(flags);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("openssl does not end");
    let output = output.expect("openssl is missing: install it");
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    (output, String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_believes_a_chain_with_a_key_of_any_form_that_there_is() {
    let authority = Authority::new();
    let (rsa, rsa_key) = authority.issue(&RSA);
    let rsa_of_old = authority.last_key_by(&["rsa", "-traditional"]);
    let (curve, curve_key) = authority.issue(&CURVE);
    let curve_of_old = authority.last_key_by(&["ec"]);
    let (edwards, edwards_key) = authority.issue(&["ed25519"]);
    for (name, chain, key, begins) in [
        ("RSA, PKCS#8", &rsa, &rsa_key, "-----BEGIN PRIVATE KEY"),
        ("RSA, PKCS#1", &rsa, &rsa_of_old, "-----BEGIN RSA PRIVATE KEY"),
        ("P-256, PKCS#8", &curve, &curve_key, "-----BEGIN PRIVATE KEY"),
        ("P-256, SEC1", &curve, &curve_of_old, "-----BEGIN EC PRIVATE KEY"),
        ("Ed25519, PKCS#8", &edwards, &edwards_key, "-----BEGIN PRIVATE KEY"),
    ] {
        assert!(key.starts_with(begins), "{name}: {}", key.lines().next().unwrap_or_default());
        let serving = Serving::start(&authority, chain, key, ListenerLimits::default()).await;
        let (output, said) = openssl(&authority, &serving, &[]).await;
        assert!(output.status.success(), "{name}: {said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_newer_is_spoken_and_http_2_offered_before_http_1_1() {
    let authority = Authority::new();
    let (chain, key) = authority.issue(&RSA);
    let serving = Serving::start(&authority, &chain, &key, ListenerLimits::default()).await;
    for (flags, expected) in [
        (&["-tls1_3", "-alpn", "http/1.1,h2"][..], &["TLSv1.3", "ALPN protocol: h2"][..]),
        (&["-tls1_2", "-alpn", "http/1.1"], &["TLSv1.2", "ALPN protocol: http/1.1"]),
        (&["-tls1_2"], &["TLSv1.2", "No ALPN negotiated"]),
    ] {
        let (output, said) = openssl(&authority, &serving, flags).await;
        assert!(output.status.success(), "{flags:?}: {said}");
        for word in expected {
            assert!(said.contains(word), "{flags:?}: {said}");
        }
    }
    // With all that OpenSSL leaves to those who insist.
    let old = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let (output, said) = openssl(&authority, &serving, &old).await;
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("SSL alert number"), "it is not the bridge who refuses: {said}");

    for (offered, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let answered = serving.version(serving.believing(), offered).await;
        assert_eq!(answered, Some(version), "{offered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_believe_the_one_certificate_that_they_were_told_of() {
    let (serving, other) = (
        Serving::with(ListenerLimits::default()).await,
        Serving::with(ListenerLimits::default()).await,
    );
    for (told_of, is_believed) in
        [(Some(serving.fingerprint), true), (Some(other.fingerprint), false), (None, true)]
    {
        let config = tls::pinned_client_config(told_of).unwrap();
        assert_eq!(serving.version(config, &["h2"]).await.is_some(), is_believed, "{told_of:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_come_to_the_point_is_cut_off_handshake_or_not() {
    let limits = ListenerLimits { connections: 64, headers: Duration::from_secs(1) };
    let serving = Serving::with(limits).await;
    let in_the_clear = [
        ("nothing at all", &b""[..]),
        ("the first byte of a handshake", &HALF_A_HELLO[..1]),
        ("half a hello", HALF_A_HELLO),
        ("half a request without TLS", &REQUEST[..8]),
    ];
    let shaken = [("nothing after a handshake", &b""[..]), ("half a request", &REQUEST[..8])];
    let clear = join_all(in_the_clear.map(async |(name, said)| {
        let mut stream = serving.connect().await;
        stream.write_all(said).await.unwrap();
        let read = until_closed(stream).await;
        assert!(!read.contains("204"), "{name}: {read:?}");
    }));
    let secure = join_all(shaken.map(async |(name, said)| {
        let mut stream = serving.shake_hands().await;
        stream.write_all(said).await.unwrap();
        let read = until_closed(stream).await;
        assert!(!read.contains("204"), "{name}: {read:?}");
    }));
    let dribbled = async {
        let (read, mut write) = serving.connect().await.into_split();
        let mut hello = HALF_A_HELLO.to_vec();
        hello.resize(512, 0);
        let dribbling = async {
            for byte in hello {
                // Long before its end, the other side has closed.
                if write.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = dribbling => {}
            _ = until_closed(read) => {}
        }
    };
    tokio::join!(clear, secure, dribbled);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_told_to_come_by_https_and_is_not_served() {
    let serving = Serving::with(ListenerLimits::default()).await;
    let mut stream = serving.connect().await;
    stream.write_all(REQUEST).await.unwrap();
    let answer = until_closed(stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(head.contains("connection: close"), "{answer}");
    assert!(head.contains("content-type: application/problem+json"), "{answer}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["type"], "urn:engagement-bridge:problem:https-required");
    assert!(problem["detail"].as_str().unwrap().contains("in the clear"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_takes_its_place_among_the_connections() {
    let serving = Serving::with(ListenerLimits { connections: 1, headers: PATIENCE }).await;
    let mut first = serving.connect().await;
    first.write_all(HALF_A_HELLO).await.unwrap();
    let second = async {
        let mut stream = serving.shake_hands().await;
        stream.write_all(REQUEST).await.unwrap();
        stream.read_u8().await.unwrap()
    };
    let mut second = std::pin::pin!(second);
    // What is let in while it should wait is answered within milliseconds.
    let early = tokio::time::timeout(Duration::from_millis(500), second.as_mut()).await;
    assert!(early.is_err(), "a second one is let in");
    drop(first);
    let answered = tokio::time::timeout(PATIENCE, second).await.expect("it waits for good");
    assert_eq!(answered, b'H');
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_handshake() {
    let limits = ListenerLimits { connections: 64, headers: 100 * PATIENCE };
    let mut serving = Serving::with(limits).await;
    let (silent, mut begun) = (serving.connect().await, serving.connect().await);
    begun.write_all(HALF_A_HELLO).await.unwrap();
    // Those two are being served by the time that a later one is.
    assert!(serving.version(serving.believing(), &["h2"]).await.is_some());
    serving.stop.cancel();
    let stopped = tokio::time::timeout(PATIENCE, serving.running.join_next()).await;
    assert!(stopped.is_ok(), "it waits for a handshake");
    drop((silent, begun));
}
