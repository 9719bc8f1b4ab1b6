//! What a certificate and its key have to be like to be served by, whoever brings them.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::Error;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::Fingerprint;

/// Why a certificate or its key cannot be used.
///
/// Says nothing of what the files hold, for the key is a secret, and the files may have been mixed up.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{path} cannot be read")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path} is larger than {most} bytes")]
    TooLarge { path: String, most: u64 },
    #[error("the file of --tls-certificate-file holds no certificate in PEM form")]
    NoCertificate,
    #[error("certificate {number} in the file of --tls-certificate-file is not one in PEM form")]
    NotACertificate { number: usize },
    #[error(
        "the file of --tls-key-file holds no private key in PEM form that can be read; one under a \
         password cannot"
    )]
    NoKey,
    #[error("the private key in the file of --tls-key-file is of a kind that TLS cannot use here")]
    UnknownKey,
    #[error(
        "the private key does not belong to the first certificate in the file of \
         --tls-certificate-file, which has to be the bridge's own, before those that vouch for it"
    )]
    Mismatch,
    #[error("the certificate is good from {from} to {to} only")]
    OutOfTime { from: Timestamp, to: Timestamp },
}

impl Unusable {
    /// With what the system says of it.
    pub(super) fn in_full(&self) -> String {
        let source = std::error::Error::source(self);
        source.map_or_else(|| self.to_string(), |source| format!("{self}: {source}"))
    }
}

/// A certificate with its key, fit to be served by.
pub(super) struct Served {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) fingerprint: Fingerprint,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Served {
    /// Reads a chain of certificates, the server's own first, and its key (PKCS#8, PKCS#1 or SEC1).
    /// Whether they are good at this time is another question: [`Self::check_time`].
    pub(super) fn from_pem(
        chain: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Self, Unusable> {
        let chain = chain_of(chain)?;
        let own = chain.first().ok_or(Unusable::NoCertificate)?;
        let (not_before, not_after) = Certificate::from_der(own)
            .ok()
            .and_then(|certificate| validity(&certificate))
            .ok_or(Unusable::NotACertificate { number: 1 })?;
        let fingerprint = Fingerprint::of(own);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_: pem::Error| Unusable::NoKey)?;
        // Not told apart any further: the library's words may say what is in the files.
        provider
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|_| Unusable::UnknownKey)?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let is_mismatch = matches!(error, Error::InconsistentKeys(_));
            if is_mismatch { Unusable::Mismatch } else { Unusable::NotACertificate { number: 1 } }
        })?;
        Ok(Self { key: Arc::new(key), fingerprint, not_before, not_after })
    }

    /// Whether clients whose clock is right would believe it at this time.
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), Unusable> {
        let (from, to) = (self.not_before, self.not_after);
        if (from..=to).contains(&now) { Ok(()) } else { Err(Unusable::OutOfTime { from, to }) }
    }
}

fn chain_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let numbered = CertificateDer::pem_slice_iter(pem).zip(1..);
    numbered
        .map(|(certificate, number)| {
            certificate.map_err(|_: pem::Error| Unusable::NotACertificate { number })
        })
        .collect()
}

/// From when to when a certificate is good; `None` where that is beyond what can be told.
pub fn validity(certificate: &Certificate) -> Option<(Timestamp, Timestamp)> {
    let validity = certificate.tbs_certificate.validity;
    let time = |time: x509_cert::time::Time| {
        Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs()).ok()?).ok()
    };
    time(validity.not_before).zip(time(validity.not_after))
}
