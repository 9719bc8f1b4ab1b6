//! The other end of a connection by TLS, and by HTTP/2.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

pub(crate) type Connected = h2::server::Connection<TlsStream<TcpStream>, Bytes>;

/// A certificate, signed by itself.
pub(crate) struct Identity {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) pem: String,
}

pub(crate) fn identity(name: &str, expires_in: i32, alpn: &str) -> Identity {
    identity_between(2_000, expires_in, name, alpn)
}

/// One that is valid from the beginning of a year to that of another.
pub(crate) fn identity_between(from: i32, to: i32, name: &str, alpn: &str) -> Identity {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let text = STANDARD.encode(certificate.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Identity { acceptor: TlsAcceptor::from(Arc::new(config)), pem }
}

/// One that speaks HTTP/2; its port, and what arrives there.
pub(crate) async fn streams(
    acceptor: TlsAcceptor,
    respond: impl Fn(&mut Connected, SendResponse<Bytes>) + Send + 'static,
) -> (u16, mpsc::Receiver<Request<RecvStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (arrived, arrivals) = mpsc::channel(10);
    let serving = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, response))) = connection.accept().await {
                arrived.send(request).await.unwrap();
                respond(&mut connection, response);
            }
        }
    };
    drop(TaskTracker::new().spawn(serving));
    (port, arrivals)
}
