//! Where the API listens, and by what it is known there.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::ConfigError;
use crate::api::ListenerLimits;
use crate::tls::CertificateFiles;

/// Where to listen.
#[derive(Args, Clone, Debug)]
pub struct ListenSettings {
    /// Where to listen for the API; port 0 takes any that is free.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,

    /// A file with the certificate of the API (PEM), then those that vouch for it: the API then speaks
    /// HTTPS only. Files that are replaced are taken up within seconds. Needs `--tls-key-file`.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_TLS_CERTIFICATE_FILE", value_name = "PATH")]
    pub tls_certificate_file: Option<PathBuf>,

    /// A file with the private key of that certificate (PEM, without a password). It may be the same
    /// file.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_TLS_KEY_FILE", value_name = "PATH")]
    pub tls_key_file: Option<PathBuf>,

    /// Open connections to the API at the most.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_CONNECTIONS",
        default_value_t = 4_096,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub connections: u32,
}

impl ListenSettings {
    /// Where the certificate is; `None` where the API speaks plain HTTP.
    pub fn certificate(&self) -> Result<Option<CertificateFiles>, ConfigError> {
        match (self.tls_certificate_file.clone(), self.tls_key_file.clone()) {
            (Some(certificate), Some(key)) => Ok(Some(CertificateFiles { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(ConfigError::Tls),
        }
    }

    pub(super) fn limits(&self) -> ListenerLimits {
        let connections = usize::try_from(self.connections).unwrap_or(usize::MAX);
        ListenerLimits { connections, ..ListenerLimits::default() }
    }
}
