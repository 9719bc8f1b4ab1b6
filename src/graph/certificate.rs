//! Client certificates: read once, kept as PEM, and used to sign assertions (RFC 7523 §2.2).
//!
//! Only the certificate that bears the key is kept of a chain: Entra knows it by its thumbprint, and
//! never looks at who issued it.

use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use zeroize::Zeroizing;

use crate::tls::validity;

/// A certificate with its private RSA key.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// One certificate and one key.
    pem: SecretString,
    thumbprint: Thumbprint,
    expires_at: Timestamp,
}

/// The SHA-256 of a certificate in its DER form, by which Entra knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thumbprint(pub [u8; 32]);

/// Why a text is no certificate that can prove anything. The messages are for who gave it, and
/// repeat nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCertificate {
    #[error("it is {bytes} bytes long, and at most {LONGEST} are read")]
    TooLong { bytes: usize },
    #[error("it is not in PEM form: sections between `-----BEGIN …-----` and `-----END …-----`")]
    NotPem,
    #[error("it holds no certificate; add its `-----BEGIN CERTIFICATE-----` section")]
    NoCertificate,
    #[error("it holds no private key; add its `-----BEGIN PRIVATE KEY-----` section")]
    NoKey,
    #[error("its private key is encrypted; decrypt it first, or give a PKCS#12 file")]
    EncryptedKey,
    #[error("it holds more than one private key; leave the one that belongs to the certificate")]
    ManyKeys,
    #[error("a certificate in it cannot be read; it must be X.509")]
    NotACertificate,
    #[error("its private key is not RSA, which is what Microsoft Entra takes")]
    NotRsa,
    #[error("its private key cannot be used ({0}); RSA keys of 2,048 to 4,096 bits can")]
    KeyRejected(ring::error::KeyRejected),
    #[error("its private key belongs to none of its certificates")]
    Unrelated,
    #[error("it has expired; make a new one")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it is no PKCS#12 file, or the password is not its own")]
    NotPkcs12,
}

/// Bytes of PEM at the most: room for a long chain.
const LONGEST: usize = 48 * 1_024;

/// The key could not sign, which it could when it was given.
#[derive(Debug, thiserror::Error)]
#[error("the private key of the certificate cannot sign")]
pub(super) struct CannotSign;

impl ClientCertificate {
    /// Reads a certificate with its key, and tries the key.
    ///
    /// `pem` holds one private key, PKCS#8 or PKCS#1, and certificates in any order, one of which is
    /// the key's and valid at `now`. The key is RSA of 2,048 bits or more.
    pub fn from_pem(pem: &SecretString, now: Timestamp) -> Result<Self, InvalidCertificate> {
        Paired::from_pem(pem)?.valid_at(now)
    }

    /// The same, whether or not it is valid by now: it is Entra that says so, in its time, to who
    /// restarts with what worked before.
    pub fn from_pem_of_any_time(pem: &SecretString) -> Result<Self, InvalidCertificate> {
        Ok(Paired::from_pem(pem)?.certificate)
    }

    /// The same, from a PKCS#12 file (RFC 7292) as it is exported with its `password`, which may be
    /// empty.
    ///
    /// How long it takes, and how much memory, is up to the file: seconds and a gigabyte at the most.
    /// So this is for the command line alone, where who waits is who brought it.
    pub fn from_pkcs12(
        file: &[u8],
        password: &SecretString,
        now: Timestamp,
    ) -> Result<Self, InvalidCertificate> {
        use p12_keystore::Pkcs12Archive;
        if LONGEST < file.len() {
            return Err(InvalidCertificate::TooLong { bytes: file.len() });
        }
        let archive = Pkcs12Archive::from_pkcs12(file, password.expose_secret())
            .map_err(|_| InvalidCertificate::NotPkcs12)?;
        let key = match archive.keys.as_slice() {
            [] => return Err(InvalidCertificate::NoKey),
            [key] => Zeroizing::new(key.key.as_der().to_vec()),
            [_, _, ..] => return Err(InvalidCertificate::ManyKeys),
        };
        let certificates: Vec<_> = archive
            .certs
            .iter()
            .map(|it| CertificateDer::from(it.cert.as_der().to_vec()))
            .collect();
        let key = PrivateKeyDer::Pkcs8(key.as_slice().into()).clone_key();
        Paired::of(&key, &certificates)?.valid_at(now)
    }

    /// What [`Self::pem`] was kept of, which was tried when it was given.
    pub(super) fn kept(pem: SecretString) -> Result<Self, InvalidCertificate> {
        let certificates = certificates(pem.expose_secret().as_bytes())?;
        let certificate = certificates.first().ok_or(InvalidCertificate::NoCertificate)?;
        let facts = Facts::of(certificate)?;
        Ok(Self { pem, thumbprint: Thumbprint::of(certificate), expires_at: facts.not_after })
    }

    /// One certificate and its private key.
    pub fn pem(&self) -> &SecretString {
        &self.pem
    }

    pub fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Signs by RSASSA-PSS with SHA-256 (`PS256`, RFC 7518 §3.5).
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CannotSign> {
        let key = private_key(self.pem.expose_secret().as_bytes()).map_err(|_| CannotSign)?;
        let key = rsa(&key).map_err(|_| CannotSign)?;
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| CannotSign)?;
        Ok(signature)
    }
}

/// A certificate and the key that is its own, and from when on they are valid.
struct Paired {
    certificate: ClientCertificate,
    not_before: Timestamp,
}

impl Paired {
    fn from_pem(pem: &SecretString) -> Result<Self, InvalidCertificate> {
        let text = pem.expose_secret().as_bytes();
        if LONGEST < text.len() {
            return Err(InvalidCertificate::TooLong { bytes: text.len() });
        }
        let key = private_key(text)?;
        Self::of(&key, &certificates(text)?)
    }

    fn of(
        key: &PrivateKeyDer<'_>,
        certificates: &[CertificateDer<'_>],
    ) -> Result<Self, InvalidCertificate> {
        let pair = rsa(key)?;
        if certificates.is_empty() {
            return Err(InvalidCertificate::NoCertificate);
        }
        for certificate in certificates {
            let facts = Facts::of(certificate)?;
            if facts.public_key != pair.public().as_ref() {
                continue;
            }
            let label = match key {
                PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
                PrivateKeyDer::Pkcs8(_) | PrivateKeyDer::Sec1(_) | _ => "PRIVATE KEY",
            };
            let key = Zeroizing::new(section(label, key.secret_der()));
            let certificate_text = section("CERTIFICATE", certificate);
            let pem = SecretString::from(certificate_text + &key);
            let thumbprint = Thumbprint::of(certificate);
            let expires_at = facts.not_after;
            let certificate = ClientCertificate { pem, thumbprint, expires_at };
            return Ok(Self { certificate, not_before: facts.not_before });
        }
        Err(InvalidCertificate::Unrelated)
    }

    fn valid_at(self, now: Timestamp) -> Result<ClientCertificate, InvalidCertificate> {
        if self.certificate.expires_at <= now {
            return Err(InvalidCertificate::Expired);
        }
        if now < self.not_before {
            return Err(InvalidCertificate::NotYetValid);
        }
        Ok(self.certificate)
    }
}

impl Thumbprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl std::fmt::Display for Thumbprint {
    /// In upper-case hex, as Microsoft's portal and certificate tools show it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// What a certificate says of itself.
struct Facts {
    /// As `RSAPublicKey` of RFC 8017, where it is one.
    public_key: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Facts {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, InvalidCertificate> {
        let unreadable = InvalidCertificate::NotACertificate;
        let Ok(certificate) = Certificate::from_der(certificate) else { return Err(unreadable) };
        let Some((not_before, not_after)) = validity(&certificate) else { return Err(unreadable) };
        let key = certificate.tbs_certificate.subject_public_key_info.subject_public_key;
        Ok(Self { public_key: key.raw_bytes().to_vec(), not_before, not_after })
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, InvalidCertificate> {
    if pem.windows(ENCRYPTED.len()).any(|it| it == ENCRYPTED)
        || pem.windows(ENCRYPTED_OF_OLD.len()).any(|it| it == ENCRYPTED_OF_OLD)
    {
        return Err(InvalidCertificate::EncryptedKey);
    }
    let mut keys = PrivateKeyDer::pem_slice_iter(pem);
    let key = keys.next().ok_or(InvalidCertificate::NoKey)?.map_err(|error| not_pem(&error))?;
    match keys.next() {
        Some(_) => Err(InvalidCertificate::ManyKeys),
        None => Ok(key),
    }
}

const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
/// In a section of the form that OpenSSL wrote before PKCS#8.
const ENCRYPTED_OF_OLD: &[u8] = b"Proc-Type: 4,ENCRYPTED";

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidCertificate> {
    let certificates = CertificateDer::pem_slice_iter(pem);
    certificates.collect::<Result<_, _>>().map_err(|error| not_pem(&error))
}

fn not_pem(_: &PemError) -> InvalidCertificate {
    InvalidCertificate::NotPem
}

fn rsa(key: &PrivateKeyDer<'_>) -> Result<RsaKeyPair, InvalidCertificate> {
    let pair = match key {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(_) | _ => return Err(InvalidCertificate::NotRsa),
    };
    pair.map_err(|rejected| {
        // ring has no type for it, but these words.
        match rejected.to_string().as_str() {
            "WrongAlgorithm" => InvalidCertificate::NotRsa,
            _ => InvalidCertificate::KeyRejected(rejected),
        }
    })
}

/// A section of PEM (RFC 7468 §3).
fn section(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::fmt::Write as _;
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut section = String::with_capacity(text.len() + text.len() / 64 + 128);
    let _ = writeln!(section, "-----BEGIN {label}-----");
    for start in (0..text.len()).step_by(64) {
        section.push_str(&text[start..text.len().min(start + 64)]);
        section.push('\n');
    }
    let _ = writeln!(section, "-----END {label}-----");
    section
}
