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

/// A root, and one it vouches for, who issues certificates for `127.0.0.1`.
pub(crate) struct Authority {
    directory: TempDir,
    /// What clients are given to believe.
    pub(crate) root: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = |name: &str, by: &[&str]| {
            let (subject, key) = (format!("/CN={name}"), format!("{name}.key"));
            let out = format!("{name}.pem");
            let own = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "365", "-subj"];
            let made = [&subject, "-keyout", &key, "-out", &out];
            // What a configuration of the machine's adds to a certificate of an authority will do.
            openssl(directory.path(), &[&own[..], &made, by].concat());
        };
        authority("root", &[]);
        authority("issuer", &["-CA", "root.pem", "-CAkey", "root.key"]);
        let root = std::fs::read_to_string(directory.path().join("root.pem")).unwrap();
        Self { directory, root }
    }

    /// A chain of certificates without the root, and the key (PKCS#8) of the first, as `-newkey` and
    /// `-pkeyopt` name it.
    pub(crate) fn issue(&self, key: &[&str]) -> (String, String) {
        let own = ["req", "-x509", "-nodes", "-subj", "/CN=bridge", "-days", "90", "-newkey"];
        let by =
            ["-CA", "issuer.pem", "-CAkey", "issuer.key", "-keyout", "own.key", "-out", "own.pem"];
        let names = ["-addext", "subjectAltName=IP:127.0.0.1"];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
        openssl(self.directory.path(), &[&own[..], key, &by, &names, &leaf].concat());
        let read = |name| std::fs::read_to_string(self.directory.path().join(name)).unwrap();
        (format!("{}{}", read("own.pem"), read("issuer.pem")), read("own.key"))
    }

    /// The key that was issued last, in another form.
    pub(crate) fn last_key_by(&self, arguments: &[&str]) -> String {
        let more = ["-in", "own.key", "-out", "other.key"];
        openssl(self.directory.path(), &[arguments, &more].concat());
        std::fs::read_to_string(self.directory.path().join("other.key")).unwrap()
    }

    /// Where the root is, for programs that read it.
    pub(crate) fn root_path(&self) -> std::path::PathBuf {
        self.directory.path().join("root.pem")
    }
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(directory).args(arguments).output();
    let output = output.expect("openssl is missing: install it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}
