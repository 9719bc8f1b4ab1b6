//! Secure connections: whom we believe as a client, and who we say we are as a server.

mod certificate;
mod client;
mod pinned;
mod server;
#[cfg(test)]
mod tests;

pub use self::certificate::{Unusable, validity};
pub use self::client::{TlsError, client_config};
pub use self::pinned::{Fingerprint, pinned_client_config};
pub use self::server::{CertificateFiles, LOOK_EVERY, OwnCertificate};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Named rather than taken from the process, where the first library to install one would win.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
