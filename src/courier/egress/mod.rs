//! The guard at the exit: which URLs and addresses callbacks may go to.
//!
//! A callback URL comes from a caller, so it may point at anything that this machine can reach. It
//! is judged twice. At registration, so that a caller learns at once. And at each attempt, on the
//! very addresses that are dialled, because what a name resolves to may change in between: all
//! answers of the resolver must pass, or nothing is sent at all.

mod addresses;
mod url;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::url::Url;
use ipnet::IpNet;
use jiff::Timestamp;
use reqwest::dns::{Name, Resolve, Resolving};

use crate::clock::Clock;
use crate::names::{LookupError, Names, dialled};
use crate::operation::after;

pub use url::{CallbackUrl, UrlRefusal};

const LONGEST_URL: usize = 2_048;

/// How long looking up a name may take. Less than connecting, of which it is a part, or a name
/// server that is silent would pass for a receiver that is.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a verdict on a host is good for another registration. Registrations come in bursts, and
/// each attempt looks again anyway.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// Hosts whose verdict is remembered at the most.
const MOST_REMEMBERED: usize = 10_000;

/// An address that callbacks may not go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{address} is {what}, and the operator does not allow it")]
pub struct AddressRefusal {
    pub address: IpAddr,
    pub what: &'static str,
}

/// Why callbacks are not sent to a host.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostRefusal {
    #[error(transparent)]
    Address(#[from] AddressRefusal),
    #[error("the host does not exist, or has no address")]
    NotFound,
}

impl HostRefusal {
    /// The code in problems; it stays the same.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Address(_) => "addressRefused",
            Self::NotFound => "hostNotFound",
        }
    }
}

/// Why a name is not dialled.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NotDialled {
    #[error(transparent)]
    Refused(#[from] AddressRefusal),
    #[error(transparent)]
    NotResolved(#[from] LookupError),
}

/// The operator's rules, and what is needed to apply them.
pub struct Egress {
    allow_http: bool,
    allowed: Vec<IpNet>,
    names: Arc<dyn Names>,
    clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<String, Verdict>>,
}

#[derive(Clone)]
struct Verdict {
    good_until: Timestamp,
    refusal: Option<HostRefusal>,
}

impl Egress {
    /// `allowed` networks are open to callbacks whatever else they are.
    pub fn new(
        allow_http: bool,
        allowed: Vec<IpNet>,
        names: Arc<dyn Names>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { allow_http, allowed, names, clock, remembered: Mutex::default() }
    }

    /// Reads a callback URL, and refuses what the URL alone tells against. A literal address in
    /// any spelling that a URL may have (decimal, octal, hexadecimal, short) is judged by what it
    /// becomes.
    pub fn check_url(&self, text: &str) -> Result<CallbackUrl, UrlRefusal> {
        if text.len() > LONGEST_URL {
            return Err(UrlRefusal::TooLong);
        }
        // The parser repairs these silently, and what is called should be what was written.
        if text.bytes().any(|byte| byte.is_ascii_control() || matches!(byte, b' ' | b'\\')) {
            return Err(UrlRefusal::NotAUrl);
        }
        let url = Url::parse(text).map_err(|_| UrlRefusal::NotAUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return Err(UrlRefusal::NotHttps),
            _ => return Err(UrlRefusal::SchemeNotAllowed),
        }
        // Likewise with fewer or more slashes than two.
        let (scheme, rest) = text.split_once("://").ok_or(UrlRefusal::NotAUrl)?;
        if scheme.len() != url.scheme().len() || rest.starts_with('/') {
            return Err(UrlRefusal::NotAUrl);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlRefusal::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(UrlRefusal::Fragment);
        }
        if url.port() == Some(0) {
            return Err(UrlRefusal::PortNotAllowed);
        }
        // What is kept has all that is not ASCII encoded, is longer for it, and is read again.
        if url.as_str().len() > LONGEST_URL {
            return Err(UrlRefusal::TooLong);
        }
        let url = CallbackUrl(url);
        let address = url.literal().or_else(|| url.name().and_then(loopback_by_name));
        if let Some(Err(refusal)) = address.map(|address| self.check_address(address)) {
            let address = url.host().to_owned();
            return Err(UrlRefusal::AddressRefused { address, what: refusal.what });
        }
        // To a resolver this is trouble, which refuses nobody: the first to tell would be the last
        // attempt.
        if url.name().is_some_and(|name| !can_be_resolved(name)) {
            return Err(UrlRefusal::NotAUrl);
        }
        Ok(url)
    }

    /// Whether callbacks may go to `address`.
    pub fn check_address(&self, address: IpAddr) -> Result<(), AddressRefusal> {
        let Some(what) = addresses::special(address) else { return Ok(()) };
        let inner = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(outer) => addresses::embedded(outer).map(IpAddr::V4),
        };
        let is_allowed = |address: IpAddr| self.allowed.iter().any(|net| net.contains(&address));
        if is_allowed(address) || inner.is_some_and(is_allowed) {
            return Ok(());
        }
        Err(AddressRefusal { address, what })
    }

    /// Whether callbacks may go to the host of `url`, for all that its name resolves to now.
    ///
    /// A resolver in trouble refuses nobody: the attempt will tell.
    pub async fn check_host(&self, url: &CallbackUrl) -> Result<(), HostRefusal> {
        let Some(name) = url.name() else { return Ok(()) };
        let now = self.clock.now();
        if let Some(verdict) = self.recall(name, now) {
            return verdict.refusal.map_or(Ok(()), Err);
        }
        let refusal = match self.resolve(name).await {
            Ok(_) => None,
            Err(NotDialled::Refused(refused)) => Some(HostRefusal::Address(refused)),
            Err(NotDialled::NotResolved(LookupError::NotFound)) => Some(HostRefusal::NotFound),
            Err(NotDialled::NotResolved(LookupError::TimedOut | LookupError::Unavailable(_))) => {
                return Ok(());
            }
        };
        self.remember(name, refusal.clone(), now);
        refusal.map_or(Ok(()), Err)
    }

    /// The addresses of `name`, all of them checked.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NotDialled> {
        let lookup = tokio::time::timeout(PATIENCE, self.names.addresses(name));
        let addresses = lookup.await.unwrap_or(Err(LookupError::TimedOut))?;
        for address in &addresses {
            self.check_address(*address)?;
        }
        Ok(addresses)
    }

    fn recall(&self, name: &str, now: Timestamp) -> Option<Verdict> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(name).filter(|verdict| now < verdict.good_until).cloned()
    }

    fn remember(&self, name: &str, refusal: Option<HostRefusal>, now: Timestamp) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, verdict| now < verdict.good_until);
        }
        if remembered.len() < MOST_REMEMBERED {
            let good_until = after(now, REMEMBERED_FOR);
            remembered.insert(name.to_owned(), Verdict { good_until, refusal });
        }
    }
}

/// Whether a name is within the bounds of RFC 1035 §2.3.4, which the URL standard knows nothing of.
fn can_be_resolved(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

/// What these names stand for everywhere (RFC 6761), whatever a resolver says.
fn loopback_by_name(name: &str) -> Option<IpAddr> {
    let name = name.trim_end_matches('.');
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    is_localhost.then_some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
}

/// Resolves for the client that sends callbacks: it dials what passed, and nothing else.
pub(super) struct Guarded(pub(super) Arc<Egress>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = Arc::clone(&self.0);
        Box::pin(async move { Ok(dialled(egress.resolve(name.as_str()).await?)) })
    }
}

#[cfg(test)]
mod tests;
