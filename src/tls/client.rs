//! Whom we believe on a secure connection, the same for Graph and for receivers.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

/// Why the operator's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the file of root certificates holds no certificate; it must be in PEM form")]
    NoCertificate,
    #[error("certificate {number} in the file of root certificates is not in PEM form")]
    NotPem {
        number: usize,
        #[source]
        source: pem::Error,
    },
    #[error("certificate {number} in the file of root certificates cannot be a root")]
    NotARoot {
        number: usize,
        #[source]
        source: rustls::Error,
    },
    #[error("no version of TLS is usable with the built-in cryptography")]
    NoVersion(#[source] rustls::Error),
}

/// What a client needs for TLS 1.2 and 1.3, without a certificate of its own.
///
/// Believes the roots that Mozilla believes, which are built in, and those in `extra_roots_pem`:
/// the content of a file with one certificate or more, for networks whose proxy or servers bear
/// certificates of the operator's own. No ALPN is set, which means HTTP/1.1.
pub fn client_config(extra_roots_pem: Option<&[u8]>) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::NoVersion)?
        .with_root_certificates(roots(extra_roots_pem)?)
        .with_no_client_auth();
    Ok(config)
}

fn roots(extra_pem: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(pem) = extra_pem else { return Ok(roots) };
    let built_in = roots.len();
    for (certificate, number) in CertificateDer::pem_slice_iter(pem).zip(1..) {
        let certificate = certificate.map_err(|source| TlsError::NotPem { number, source })?;
        roots.add(certificate).map_err(|source| TlsError::NotARoot { number, source })?;
    }
    if roots.len() == built_in {
        return Err(TlsError::NoCertificate);
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Self-signed for `CN=Example Root`, P-256; its key was never kept.
    const ROOT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBhjCCASugAwIBAgIUeD5rDp0fWsc+0Ft0ikKf6m4cYRYwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMRXhhbXBsZSBSb290MCAXDTI2MTEyNDAyNTQzNVoYDzIxMjYx
MDMxMDI1NDM1WjAXMRUwEwYDVQQDDAxFeGFtcGxlIFJvb3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAQkLZoundLTJS1HQCzsLXuU6ApD1kieB5PQmyJWGtghoMA7
+NWFEENa3xT/2Ff7blQkuq6fAMhyjha2uKkZGbdpo1MwUTAdBgNVHQ4EFgQUjr0d
CRJjOZibx4o/aV4Ve+GWqPswHwYDVR0jBBgwFoAUjr0dCRJjOZibx4o/aV4Ve+GW
qPswDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAj1/J4M3zTxA1
4pvyVoqTY71VkVSVu7vjH5HD8d4rYxcCIQChHy/t0+Skt0onI9T+L6re7FpqCIB7
OnGQupupmlrEvA==
-----END CERTIFICATE-----";

    #[test]
    fn the_operators_roots_are_believed_beside_the_built_in_ones() {
        let built_in = roots(None).unwrap().len();
        assert!(100 < built_in);
        assert_eq!(roots(Some(ROOT.as_bytes())).unwrap().len(), built_in + 1);
        let twice = format!("a comment\n{ROOT}\nanother\n{ROOT}");
        assert_eq!(roots(Some(twice.as_bytes())).unwrap().len(), built_in + 2);
        assert!(client_config(Some(ROOT.as_bytes())).is_ok());
    }

    #[test]
    fn a_file_that_holds_no_roots_is_refused_with_the_reason() {
        assert!(matches!(roots(Some(b"")), Err(TlsError::NoCertificate)));
        assert!(matches!(roots(Some(b"not PEM at all")), Err(TlsError::NoCertificate)));
        let cut = &ROOT[..ROOT.len() / 2];
        let error = roots(Some(format!("{ROOT}\n{cut}").as_bytes())).unwrap_err();
        assert!(matches!(error, TlsError::NotPem { number: 2, .. }), "{error}");
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = roots(Some(hollow.as_bytes())).unwrap_err();
        assert!(matches!(error, TlsError::NotARoot { number: 1, .. }), "{error}");
    }
}
