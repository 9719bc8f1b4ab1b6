//! Names and certificates, from an image that has no libc to ask and no file of roots.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engagement_bridge::sandbox::{Script, Version};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Volume;
use crate::egress::name_server::{NameServer, Said};
use crate::world::{Receiver, sandbox};

const HOST: &str = "hooks.example";

/// Where a name server has to be, for the file that names it has no room for a port.
const NAME_SERVER: &str = "127.0.77.53:53";

/// Stands before a receiver with a certificate for [`HOST`].
struct Porch {
    port: u16,
    /// What its certificate is to be believed by (PEM).
    root: String,
    _serving: JoinSet<()>,
}

impl Porch {
    async fn before(receiver: SocketAddr) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = pem(authority.self_signed(&authority_key).unwrap().der());
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let chain = CertificateParams::new([HOST.to_owned()]).unwrap().signed_by(&key, &issuer);
        let chain = vec![chain.unwrap().der().clone()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut guests = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                guests.spawn(async move {
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let mut inside = TcpStream::connect(receiver).await.unwrap();
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.ok();
                });
            }
        });
        Self { port, root, _serving: serving }
    }
}

fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_resolved_and_a_certificate_is_judged() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let server = NameServer::start_at(NAME_SERVER).await;
    server.tell(HOST, [Said::Records(&["127.0.0.1"])]);
    let porch = Porch::before(receiver.address()).await;
    let files = tempfile::tempdir().unwrap();
    let mount = |name: &str, text: &str, place: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("--volume={}:{place}:ro", path.display())
    };
    let (address, _) = NAME_SERVER.split_once(':').unwrap();
    let volume = Volume::new(sandbox.root())
        .await
        .option(mount("resolv.conf", &format!("nameserver {address}\n"), "/etc/resolv.conf"))
        .option(mount("root.pem", &porch.root, "/root.pem"))
        .flag("--ca-file", "/root.pem");
    let container = volume.serve().await;
    let added = container.add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let shop = container.serve.client(added["apiKey"].as_str().unwrap());

    let script: Script = serde_json::from_value(json!([{ "status": "succeeded" }])).unwrap();
    let operation = sandbox.create(Version::V1, script).unwrap().location;
    let callback_url = format!("https://{HOST}:{}/hooks", porch.port);
    shop.register(&json!({ "operation": operation, "callbackUrl": callback_url })).await;
    assert_eq!(receiver.next().await.about(), "succeeded");
    assert!(0 < server.asked_for(HOST));
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
}
