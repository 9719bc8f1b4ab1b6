//! Microsoft's own library takes the sandbox for Entra: whatever convinces it must be true to form.

use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::clock::SystemClock;
use engagement_bridge::sandbox::{Client, Options, Sandbox};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{outside, python, run};
use crate::support::certificates::Made;
use crate::world::{CLIENT_ID, SECRET_OF_CLIENT};

const TENANT: &str = "contoso.example";

/// Speaks TLS to who comes, for a server that does not. Lasts until it is dropped.
fn behind_tls(listener: TcpListener, made: &Made, sandbox: &Sandbox) -> JoinSet<()> {
    let certificate = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (acceptor, server) = (TlsAcceptor::from(Arc::new(config)), sandbox.address());
    let mut carrying = JoinSet::new();
    carrying.spawn(async move {
        // Ends with this task.
        let mut connections = JoinSet::new();
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                // Who does not believe the certificate goes away.
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = TcpStream::connect(server).await.unwrap();
                copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    });
    carrying
}

#[tokio::test(flavor = "multi_thread")]
async fn msal_gets_tokens_from_the_sandbox_by_every_grant_it_knows() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let client = Client {
        tenant: TENANT.to_owned(),
        client_id: CLIENT_ID.to_owned(),
        secret: SECRET_OF_CLIENT.into(),
    };
    let options =
        Options { clients: vec![client], known_as: Some(root.clone()), ..Options::default() };
    let sandbox = Sandbox::start(options, Arc::new(SystemClock)).await.unwrap();
    let names = ["-addext", "subjectAltName=DNS:localhost", "-days", "2"];
    let of_server = Made::by("rsa:2048", &names);
    let _carrying = behind_tls(listener, &of_server, &sandbox);

    let of_client = Made::rsa();
    sandbox.upload_certificate(TENANT, CLIENT_ID, &of_client.der()).unwrap();
    let life = Duration::from_hours(1);
    let assertion = sandbox.hand_out_assertion("alice", CLIENT_ID, life).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, &of_server.certificate).unwrap();
    let given = json!({
        "authority": format!("{root}/{TENANT}"),
        "roots": roots,
        "clientId": CLIENT_ID,
        "secret": SECRET_OF_CLIENT,
        "certificate": of_client.certificate,
        "key": of_client.key,
        "assertion": assertion.expose_secret(),
    });
    let mut judge = python();
    judge.arg(outside().join("judge-msal.py"));
    judge.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
    let said = tokio::task::spawn_blocking(move || run(judge, &given.to_string())).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    let (for_app, for_user) = (
        json!({ "type": "Bearer", "refreshes": false }),
        json!({ "type": "Bearer", "refreshes": true }),
    );
    let expected = json!({
        "secret": for_app,
        "certificate": for_app,
        "on behalf of": for_user,
        "on behalf of, by certificate": for_user,
        "refresh": for_user,
        "wrong secret": { "error": "invalid_client", "numbers": [7_000_215] },
    });
    assert_eq!(said, expected);
    sandbox.stop().await;
}
