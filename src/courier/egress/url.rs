use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

/// A URL that callbacks may be sent to, as far as the URL itself tells.
#[derive(Clone, Eq, PartialEq)]
pub struct CallbackUrl(pub(super) Url);

/// Why callbacks are not sent to a URL.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UrlRefusal {
    #[error("a callback URL has at most 2048 bytes, with all that is not ASCII percent-encoded")]
    TooLong,
    #[error("not an absolute URL with a host, such as https://app.example.com/hooks")]
    NotAUrl,
    #[error("callbacks are sent by https only")]
    NotHttps,
    #[error("a callback URL is http or https")]
    SchemeNotAllowed,
    #[error("a callback URL has no user name or password: the signature proves who sends it")]
    UserInfo,
    #[error("a callback URL has no fragment (#…)")]
    Fragment,
    #[error("port 0 cannot be called")]
    PortNotAllowed,
    #[error("{address} is {what}, and the operator does not allow it")]
    AddressRefused { address: String, what: &'static str },
}

impl UrlRefusal {
    /// The code in problems; it stays the same.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TooLong => "tooLong",
            Self::NotAUrl => "notAUrl",
            Self::NotHttps => "notHttps",
            Self::SchemeNotAllowed => "schemeNotAllowed",
            Self::UserInfo => "userInfo",
            Self::Fragment => "fragment",
            Self::PortNotAllowed => "portNotAllowed",
            Self::AddressRefused { .. } => "addressRefused",
        }
    }
}

impl CallbackUrl {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Scheme, host and port, each spelt out: what callbacks share a lane by.
    pub fn origin(&self) -> String {
        let port = self.0.port_or_known_default().unwrap_or_default();
        format!("{}://{}:{port}", self.0.scheme(), self.host())
    }

    /// The host, as it is logged: it tells less than the path may.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The address, where the host is one and not a name.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The name, where the host is not an address.
    pub(super) fn name(&self) -> Option<&str> {
        match self.0.host()? {
            Host::Domain(name) => Some(name),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }
}

impl fmt::Debug for CallbackUrl {
    /// Path and query may hold secrets of the receiver's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackUrl({}/..)", self.origin())
    }
}
