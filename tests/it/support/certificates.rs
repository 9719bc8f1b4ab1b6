//! Certificates and keys as OpenSSL makes them, which is not ours: new for each test, so that no key is
//! kept anywhere.

use std::path::Path;
use std::process::Command;

use engagement_bridge::clock::{Clock as _, SystemClock};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;

/// By the calendar, since a certificate is good for certain days.
pub(crate) fn today() -> Timestamp {
    SystemClock.wall()
}

/// A self-signed certificate with its key.
pub(crate) struct Made {
    directory: TempDir,
    pub(crate) certificate: String,
    /// PKCS#8.
    pub(crate) key: String,
}

impl Made {
    /// RSA of 2,048 bits, good for a year.
    pub(crate) fn rsa() -> Self {
        Self::by("rsa:2048", &["-days", "365"])
    }

    /// With a key as `-newkey` names it, and more flags of `openssl req`.
    pub(crate) fn by(key: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut arguments = vec!["req", "-x509", "-nodes", "-subj", "/CN=bridge"];
        arguments.extend(["-newkey", key, "-keyout", "key.pem", "-out", "certificate.pem"]);
        arguments.extend(flags);
        openssl(directory.path(), &arguments);
        let read = |name| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let (certificate, key) = (read("certificate.pem"), read("key.pem"));
        Self { directory, certificate, key }
    }

    /// What is given to a connection.
    pub(crate) fn pem(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap().to_vec()
    }

    /// As a PKCS#12 file under this password.
    pub(crate) fn pkcs12(&self, password: &str, flags: &[&str]) -> Vec<u8> {
        let word = format!("pass:{password}");
        let mut arguments =
            vec!["pkcs12", "-export", "-in", "certificate.pem", "-inkey", "key.pem"];
        arguments.extend(["-passout", &word, "-out", "bundle.p12"]);
        arguments.extend(flags);
        openssl(self.directory.path(), &arguments);
        std::fs::read(self.directory.path().join("bundle.p12")).unwrap()
    }

    /// The key in another form, as `openssl` writes it with these arguments.
    pub(crate) fn key_by(&self, arguments: &[&str]) -> String {
        let more = ["-in", "key.pem", "-out", "other.pem"];
        openssl(self.directory.path(), &[arguments, &more].concat());
        std::fs::read_to_string(self.directory.path().join("other.pem")).unwrap()
    }
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(directory).args(arguments).output();
    let output = output.expect("openssl is missing: install it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}
