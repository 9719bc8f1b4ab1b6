//! The operator's words on hosts.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::DnsName;
use url::Host;

use super::CallbackUrl;

/// Hosts that a rule is about: one by its name or address, or all names below one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostPattern {
    /// This host, as URLs spell it in the end.
    Exactly(String),
    /// `*.example.com` or `.example.com`: every name that ends so, and not `example.com` itself.
    Below(String),
    Address(IpAddr),
}

/// The text names no host.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected a host such as hooks.example.com or 203.0.113.7, or *.example.com for all names below \
     example.com"
)]
pub struct InvalidHostPattern;

impl HostPattern {
    /// Whether it names this address.
    pub(super) fn is(&self, address: IpAddr) -> bool {
        *self == Self::Address(address)
    }

    pub(super) fn matches(&self, url: &CallbackUrl) -> bool {
        match (self, url.name().map(|name| name.trim_end_matches('.'))) {
            (Self::Exactly(host), Some(name)) => host == name,
            (Self::Below(domain), Some(name)) => {
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Self::Address(address), None) => {
                url.address().is_some_and(|it| it.to_canonical() == *address)
            }
            (Self::Address(_), Some(_)) | (Self::Exactly(_) | Self::Below(_), None) => false,
        }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    /// Names are taken in any spelling that a URL may have, and addresses with or without brackets.
    fn from_str(text: &str) -> Result<Self, InvalidHostPattern> {
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let below = text.strip_prefix("*.").or_else(|| text.strip_prefix('.'));
        match (Host::parse(below.unwrap_or(text)).map_err(|_| InvalidHostPattern)?, below) {
            (Host::Domain(name), _) if DnsName::try_from(name.as_str()).is_err() => {
                Err(InvalidHostPattern)
            }
            (Host::Domain(name), None) => Ok(Self::Exactly(undotted(name))),
            (Host::Domain(name), Some(_)) => Ok(Self::Below(undotted(name))),
            (Host::Ipv4(address), None) => Ok(Self::Address(address.into())),
            (Host::Ipv6(address), None) => Ok(Self::Address(address.to_canonical())),
            (Host::Ipv4(_) | Host::Ipv6(_), Some(_)) => Err(InvalidHostPattern),
        }
    }
}

/// Without the dot that says that a name is complete.
fn undotted(mut name: String) -> String {
    name.truncate(name.trim_end_matches('.').len());
    name
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(host) => f.write_str(host),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}
