//! The guard at the exit: which URLs and addresses callbacks may go to.
//!
//! A callback URL comes from a caller, so it may point at anything that this machine can reach. It
//! is judged twice. At registration, so that a caller learns at once. And at each attempt, on the
//! very addresses that are dialled, because what a name resolves to may change in between: all
//! answers of the resolver must pass, or nothing is sent at all.
//!
//! [`Rules`] decide, and with all that they are made of know no I/O. [`Egress`] looks names up and
//! asks them. What connects is `exit`: it gets addresses from here, and dials no others.
//!
//! A connection that is kept open and used again leads to the address that was checked when it was
//! made. The rules are those that the process was started with.

mod addresses;
mod embedded;
mod explain;
mod hosts;
mod refusal;
mod rules;
mod url;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::names::{LookupError, Names};
use crate::operation::after;

pub use addresses::Block;
pub use embedded::{Face, InvalidNat64Prefix, Nat64Prefix};
pub use explain::{Explanation, Faced, Looked, Step, Verdict};
pub use hosts::{HostPattern, InvalidHostPattern};
pub use refusal::{AddressRefusal, Because, Refusal, RefusalCode};
pub use rules::{Part, Ports, Rules};
pub use url::CallbackUrl;

/// How long looking up a name may take. Less than connecting, of which it is a part, or a name
/// server that is silent would pass for a receiver that is.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a verdict on a host is good for another registration. Registrations come in bursts, and
/// each attempt looks again anyway.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// Hosts whose verdict is remembered at the most.
const MOST_REMEMBERED: usize = 10_000;

/// Why nothing is dialled.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NotDialled {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    NotResolved(#[from] LookupError),
}

/// What may be dialled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Admitted {
    /// Any of these, and nothing else.
    Addresses(Vec<IpAddr>),
    /// A name that a proxy is trusted to look up and to judge.
    Name,
}

/// The operator's rules, and what is needed to apply them.
pub struct Egress {
    rules: Rules,
    /// `None` where a proxy looks names up.
    names: Option<Arc<dyn Names>>,
    clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<String, Remembered>>,
}

#[derive(Clone)]
struct Remembered {
    good_until: Timestamp,
    refusal: Option<Refusal>,
}

impl Egress {
    pub fn new(rules: Rules, names: Arc<dyn Names>, clock: Arc<dyn Clock>) -> Self {
        Self { rules, names: Some(names), clock, remembered: Mutex::default() }
    }

    /// Judges URLs and the addresses in them, and leaves names to a proxy.
    pub fn without_names(rules: Rules, clock: Arc<dyn Clock>) -> Self {
        Self { rules, names: None, clock, remembered: Mutex::default() }
    }

    /// Whether callbacks may go to a URL, for all that it says and that its name resolves to now.
    pub async fn check(&self, text: &str) -> Result<CallbackUrl, Refusal> {
        let url = self.check_url(text)?;
        self.check_host(&url).await?;
        Ok(url)
    }

    /// Reads a callback URL, and refuses what the URL alone tells against. A literal address in
    /// any spelling that a URL may have (decimal, octal, hexadecimal, short) is judged by what it
    /// becomes.
    pub fn check_url(&self, text: &str) -> Result<CallbackUrl, Refusal> {
        self.rules.check_url(text)
    }

    /// Whether callbacks may go to the host of `url`, for all that its name resolves to now.
    ///
    /// A resolver in trouble refuses nobody: the attempt will tell.
    pub async fn check_host(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        let Some(name) = url.name() else { return Ok(()) };
        let now = self.clock.now();
        if let Some(verdict) = self.recall(name, now) {
            return verdict.refusal.map_or(Ok(()), Err);
        }
        let refusal = match self.admit(name).await {
            Ok(_) => None,
            Err(NotDialled::Refused(refusal)) => Some(refusal),
            Err(NotDialled::NotResolved(LookupError::NotFound)) => Some(Refusal::HostNotFound),
            Err(NotDialled::NotResolved(LookupError::TimedOut | LookupError::Unavailable(_))) => {
                return Ok(());
            }
        };
        self.remember(name, refusal.clone(), now);
        refusal.map_or(Ok(()), Err)
    }

    /// What may be dialled for `host`, which is a name, or an address with or without brackets.
    pub(super) async fn admit(&self, host: &str) -> Result<Admitted, NotDialled> {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(host).parse() {
            self.rules.check_address(address).map_err(Refusal::Address)?;
            return Ok(Admitted::Addresses(vec![address]));
        }
        let Some(names) = &self.names else { return Ok(Admitted::Name) };
        let addresses = look_up(names.as_ref(), host).await?;
        for address in &addresses {
            self.rules.check_address(*address).map_err(|refusal| {
                // The operator's to know, and not the caller's.
                tracing::info!(host, %address, "refused {host}, which leads to {address}");
                Refusal::LeadsTo(refusal)
            })?;
        }
        Ok(Admitted::Addresses(addresses))
    }

    fn recall(&self, name: &str, now: Timestamp) -> Option<Remembered> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(name).filter(|verdict| now < verdict.good_until).cloned()
    }

    fn remember(&self, name: &str, refusal: Option<Refusal>, now: Timestamp) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, verdict| now < verdict.good_until);
        }
        if remembered.len() < MOST_REMEMBERED {
            let good_until = after(now, REMEMBERED_FOR);
            remembered.insert(name.to_owned(), Remembered { good_until, refusal });
        }
    }
}

/// The addresses of a name from a URL. Such a name is complete: were it looked up in this network's
/// search domains as well, a stranger's `db` would be ours.
async fn look_up(names: &dyn Names, name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let complete = format!("{}.", name.trim_end_matches('.'));
    let lookup = tokio::time::timeout(PATIENCE, names.addresses(&complete));
    lookup.await.unwrap_or(Err(LookupError::TimedOut))
}

#[cfg(test)]
mod tests;
