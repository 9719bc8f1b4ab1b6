//! The proxy of `deploy/compose`, as it is, before two bridges that run.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use axum::http::{Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engagement_bridge::sandbox::{Sandbox, Script, Version};
use rcgen::{CertificateParams, KeyPair};
use secrecy::SecretString;
use serde_json::json;
use tempfile::TempDir;

use super::root;
use crate::process::{Home, until};
use crate::support::postgres;
use crate::world::{Client, Receiver, sandbox};

const ADMIN_KEY: &str = "an-admin-key-of-both-bridges";

/// The proxy, with a certificate for `localhost`.
struct Proxy {
    child: Child,
    http: SocketAddr,
    https: SocketAddr,
    certificate: String,
    _directory: TempDir,
}

/// Free just now; nothing else of this machine asks for one by its number.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn pem(of: &str, bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    // No line is longer than OpenSSL reads (RFC 7468).
    let lines = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap());
    let lines: Vec<_> = lines.collect();
    format!("-----BEGIN {of}-----\n{}\n-----END {of}-----\n", lines.join("\n"))
}

impl Proxy {
    async fn before(bridges: [SocketAddr; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let certificate = pem("CERTIFICATE", certificate.der());
        let path = directory.path().join("certificate.pem");
        let key = pem("PRIVATE KEY", &key.serialize_der());
        std::fs::write(&path, format!("{certificate}{key}")).unwrap();
        let (http, https) = (free_address(), free_address());
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-f").arg(root().join("deploy/compose/haproxy.cfg"));
        haproxy.env("HTTP", http.to_string()).env("HTTPS", https.to_string());
        haproxy.env("CERTIFICATE", path);
        haproxy.env("BRIDGE_1", bridges[0].to_string()).env("BRIDGE_2", bridges[1].to_string());
        let haproxy = haproxy.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = haproxy.spawn();
        let child = child.unwrap_or_else(|error| panic!("{error}; tests/run installs haproxy"));
        let proxy = Self { child, http, https, certificate, _directory: directory };
        let anybody = proxy.client(SecretString::from(""));
        until(async || anybody.try_send(Method::GET, "/readyz", None, &[]).await.is_ok()).await;
        proxy
    }

    fn client(&self, key: SecretString) -> Client {
        Client::by_tls(self.https.port(), &self.certificate, key)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A bridge on `database`.
fn bridge(sandbox: &Sandbox, database: &str) -> Home {
    Home::new(sandbox.root())
        .environment("ENGAGEMENT_BRIDGE_DATABASE", database)
        .environment("ENGAGEMENT_BRIDGE_MASTER_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")
        .environment("ENGAGEMENT_BRIDGE_ADMIN_KEY", ADMIN_KEY)
}

async fn register(shop: &Client, sandbox: &Sandbox, receiver: &Receiver) -> String {
    let script: Script = serde_json::from_value(json!([{ "status": "succeeded" }])).unwrap();
    let operation = sandbox.create(Version::V1, script).unwrap().location;
    shop.register(&json!({ "operation": operation, "callbackUrl": receiver.url() })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_proxy_either_bridge_on_postgres_may_go() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let database = postgres::database();
    let homes = [bridge(&sandbox, &database), bridge(&sandbox, &database)];
    let added = homes[0].add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let (one, other) = tokio::join!(homes[0].serve(), homes[1].serve());
    let proxy = Proxy::before([one.address, other.address]).await;
    let shop = proxy.client(SecretString::from(added["apiKey"].as_str().unwrap()));

    let mut owed = std::collections::BTreeSet::new();
    for _ in 0..6 {
        owed.insert(register(&shop, &sandbox, &receiver).await);
    }
    // One at a time is away, as in an upgrade; then it is another process at another address.
    assert!(one.terminate().await.success());
    for _ in 0..6 {
        owed.insert(register(&shop, &sandbox, &receiver).await);
    }
    let one = homes[0].serve().await;
    drop(proxy);
    let proxy = Proxy::before([one.address, other.address]).await;
    assert!(other.terminate().await.success());
    let shop = proxy.client(shop.key.clone());
    for _ in 0..6 {
        owed.insert(register(&shop, &sandbox, &receiver).await);
    }
    while !owed.is_empty() {
        let told = receiver.next().await.json();
        owed.remove(told["tracking"]["id"].as_str().unwrap());
    }
    assert!(one.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_leads_nobody_to_what_is_the_operators() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root()).environment("ENGAGEMENT_BRIDGE_ADMIN_KEY", ADMIN_KEY);
    let serve = home.serve().await;
    let operator = serve.client(ADMIN_KEY);
    assert_eq!(operator.get("/v1/admin/callers").await.status, StatusCode::OK);
    let proxy = Proxy::before([serve.address; 2]).await;
    let outside = proxy.client(SecretString::from(ADMIN_KEY));
    for path in [
        "/v1/admin/callers",
        "/v1/admin",
        "/v1/ADMIN/callers",
        "/%76%31/%61dmin/callers",
        "/v1/x/../admin/callers",
        "/v1//admin/callers",
        "/metrics",
    ] {
        let answer = outside.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {answer:?}");
        assert!(answer.body.is_null(), "{path}: the bridge was asked: {answer:?}");
    }
    assert_eq!(outside.get("/openapi.json").await.status, StatusCode::OK);
    // Who talks in the clear is sent elsewhere, to where nobody is here.
    let in_the_clear = Client::new(proxy.http, SecretString::from(""));
    assert!(in_the_clear.try_send(Method::GET, "/openapi.json", None, &[]).await.is_err());
    assert!(serve.terminate().await.success());
}
