//! The certificate that the API is served by, looked at again and again, since those who renew
//! certificates put new files in the place of the old ones and tell nobody.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::certificate::{Served, Unusable};
use super::{Fingerprint, TlsError};
use crate::clock::Clock;

/// Between two looks at the files. Looked at, rather than watched: links that are switched, as Kubernetes
/// does it, and shares of files escape the kernel's notices.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Of each file; a chain of certificates is a few kilobytes.
const LARGEST_FILE: u64 = 1 << 20;

const BETWEEN_WARNINGS: SignedDuration = SignedDuration::from_hours(24);

/// Before its end, a certificate is warned of for a fifth of its life, and for 30 days at the most. Whoever
/// renews them by itself does so when a third is left.
const WARNED_OF: i32 = 5;
const WARNED_OF_AT_MOST: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Where the certificate and its key are. Both may be one file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// PEM, the bridge's own certificate first, then those that vouch for it.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1, without a password.
    pub key: PathBuf,
}

/// What the API is served by.
pub struct OwnCertificate {
    files: CertificateFiles,
    provider: Arc<CryptoProvider>,
    current: RwLock<Current>,
}

struct Current {
    served: Served,
    /// SHA-256 over the files that it was read from.
    content: [u8; 32],
}

/// What came of a look at the files.
#[derive(Debug)]
pub(super) enum Seen {
    AsBefore,
    Replaced,
    Unusable(Unusable),
}

/// What was wrong at the last look, and whether it has been said.
#[derive(Default)]
struct Complaint {
    error: String,
    is_said: bool,
}

impl Complaint {
    /// Whether this is to be said now: when it is met for the second time in a row.
    fn is_due(&mut self, error: &str) -> bool {
        let is_same = self.error == error;
        let is_due = is_same && !self.is_said;
        *self = Self { error: error.to_owned(), is_said: is_same };
        is_due
    }
}

/// What the files hold.
struct Content {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    digest: [u8; 32],
}

impl OwnCertificate {
    /// Reads the files, which have to be usable. A certificate whose time is over, or still to come, is
    /// taken: callers refuse it, but operations are polled and callbacks are sent. Blocks.
    pub fn read(files: CertificateFiles) -> Result<Self, Unusable> {
        let provider = super::provider();
        let Content { chain, key, digest: content } = Content::read(&files)?;
        let served = Served::from_pem(&chain, &key, &provider)?;
        Ok(Self { files, provider, current: RwLock::new(Current { served, content }) })
    }

    /// What a server needs that presents it: TLS 1.2 and 1.3, and both versions of HTTP to choose from.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::NoVersion)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.with(|current| current.served.fingerprint)
    }

    /// Until when clients believe it.
    pub fn expires_at(&self) -> Timestamp {
        self.with(|current| current.served.not_after)
    }

    /// Looks at the files every ten seconds, until `stop`, and from then on serves by what is new in
    /// them; `replaced` is told. Open connections keep what they were opened by. What cannot be used is
    /// left where it is, and said once it has been so for two looks in a row: between the writing of one
    /// file and of the other, nothing is wrong.
    pub async fn keep(
        self: Arc<Self>,
        clock: Arc<dyn Clock>,
        replaced: impl Fn(&Self) + Send + Sync,
        stop: CancellationToken,
    ) {
        let mut complaint = Complaint::default();
        let mut warned_at: Option<Timestamp> = None;
        let looking = async {
            loop {
                let now = clock.wall();
                if warned_at.is_none_or(|at| BETWEEN_WARNINGS <= now.duration_since(at)) {
                    self.warn_of_its_end(now);
                    warned_at = Some(now);
                }
                tokio::time::sleep(LOOK_EVERY).await;
                let (own, now) = (Arc::clone(&self), clock.wall());
                match tokio::task::spawn_blocking(move || own.look(now)).await {
                    Ok(Seen::Unusable(error)) => self.complain(&mut complaint, &error),
                    Ok(Seen::Replaced) => {
                        let (fingerprint, expires_at) = (self.fingerprint(), self.expires_at());
                        tracing::info!(%fingerprint, %expires_at, "the API has a new certificate");
                        replaced(&self);
                        (complaint, warned_at) = (Complaint::default(), None);
                    }
                    // Not joined while the whole process is ending, or after a panic, which has been said.
                    Ok(Seen::AsBefore) | Err(_) => complaint = Complaint::default(),
                }
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    fn complain(&self, complaint: &mut Complaint, error: &Unusable) {
        let (error, expires_at) = (error.in_full(), self.expires_at());
        if complaint.is_due(&error) {
            tracing::warn!(
                error, %expires_at,
                "the new certificate for the API cannot be used: the old one stays"
            );
        }
    }

    /// Takes what is new in the files, if it can be used. Blocks.
    pub(super) fn look(&self, now: Timestamp) -> Seen {
        let read = || {
            let content = Content::read(&self.files)?;
            if self.with(|current| current.content == content.digest) {
                return Ok(None);
            }
            let served = Served::from_pem(&content.chain, &content.key, &self.provider)?;
            served.check_time(now)?;
            Ok(Some(Current { served, content: content.digest }))
        };
        match read() {
            Ok(None) => Seen::AsBefore,
            Ok(Some(new)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
                Seen::Replaced
            }
            Err(unusable) => Seen::Unusable(unusable),
        }
    }

    fn warn_of_its_end(&self, now: Timestamp) {
        let check = self.with(|current| current.served.check_time(now));
        if let Err(error) = check {
            tracing::error!(%error, "the API's certificate is refused by callers: put another there");
            return;
        }
        let (from, to) = self.with(|it| (it.served.not_before, it.served.not_after));
        let left = to.duration_since(now);
        if left <= (to.duration_since(from) / WARNED_OF).min(WARNED_OF_AT_MOST) {
            let hours = left.as_hours();
            tracing::warn!(
                expires_at = %to, hours,
                "the API's certificate expires in {hours} hours: put another in its place"
            );
        }
    }

    fn with<T>(&self, read: impl FnOnce(&Current) -> T) -> T {
        // It is replaced whole, so a panic elsewhere cannot leave half of it.
        read(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.with(|current| Arc::clone(&current.served.key)))
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnCertificate").field(&self.files).finish()
    }
}

impl Content {
    fn read(files: &CertificateFiles) -> Result<Self, Unusable> {
        let chain = read(&files.certificate)?;
        let key = Zeroizing::new(read(&files.key)?);
        // Each by itself, so that no byte can move from one to the other unseen.
        let each = [Sha256::digest(&chain), Sha256::digest(&*key)].concat();
        Ok(Self { digest: Sha256::digest(each).into(), chain, key })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    let name = || path.display().to_string();
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut content))
        .map_err(|source| Unusable::Unreadable { path: name(), source })?;
    if LARGEST_FILE < content.len() as u64 {
        return Err(Unusable::TooLarge { path: name(), most: LARGEST_FILE });
    }
    Ok(content)
}
