//! Where callers come in: a bound socket, and the certificate that they are shown.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Opened, Whereabouts};
use crate::api::{Listener, ListenerLimits};
use crate::metrics::Metrics;
use crate::tls::{CertificateFiles, OwnCertificate};

pub(super) struct Entrance {
    pub(super) listener: Listener,
    pub(super) at: Whereabouts,
    /// Where it speaks HTTPS.
    pub(super) certificate: Option<Arc<OwnCertificate>>,
}

impl Entrance {
    /// Binds `address`, by this certificate if there is one.
    pub(super) async fn open(
        address: SocketAddr,
        limits: ListenerLimits,
        certificate: Option<Arc<OwnCertificate>>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let listener = Listener::bind(address, limits).await;
        let mut listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let fingerprint = certificate.as_ref().map(|it| it.fingerprint());
        let at = Whereabouts { address: listener.address()?, certificate: fingerprint };
        if let Some(certificate) = &certificate {
            let acceptor = TlsAcceptor::from(Arc::new(certificate.server_config()?));
            listener = listener.secured_by(acceptor);
            metrics.api.certificate_expires(certificate.expires_at().as_second());
        }
        Ok(Self { listener, at, certificate })
    }
}

/// The certificate that these files hold.
pub(super) fn certificate(files: CertificateFiles) -> anyhow::Result<Arc<OwnCertificate>> {
    Ok(Arc::new(OwnCertificate::read(files).context("the API has no certificate to be served by")?))
}

/// Takes up what replaces the certificate, and leaves word of it, until `stop`.
pub(super) async fn keep(
    certificate: Arc<OwnCertificate>,
    at: Whereabouts,
    opened: Arc<Opened>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let clock = opened.clock();
    let leave_word = |it: &OwnCertificate| {
        metrics.api.certificate_expires(it.expires_at().as_second());
        let at = Whereabouts { certificate: Some(it.fingerprint()), ..at };
        if let Err(error) = opened.announce(at) {
            tracing::warn!(error = ?error, "commands on this machine do not find the bridge");
        }
    };
    certificate.keep(clock, leave_word, stop).await;
}
