//! A URL as it is read: what it becomes is what is judged, and what is judged is what is dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::DnsName;
use url::{Host, Position, Url};

use super::Refusal;

/// Bytes of a URL at the most.
const LONGEST: usize = 2_048;

/// A URL that callbacks may be sent to, as far as the URL itself tells.
#[derive(Clone, Eq, PartialEq)]
pub struct CallbackUrl {
    url: Url,
    uri: Uri,
}

impl CallbackUrl {
    /// Refuses what is no callback URL whatever the operator's rules are.
    pub(super) fn read(text: &str) -> Result<Self, Refusal> {
        if text.len() > LONGEST {
            return Err(Refusal::TooLong);
        }
        // The parser repairs these silently, and what is called should be what was written.
        if text.bytes().any(|byte| byte.is_ascii_control() || matches!(byte, b' ' | b'\\')) {
            return Err(Refusal::NotAUrl);
        }
        let url = Url::parse(text).map_err(|_| Refusal::NotAUrl)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(Refusal::SchemeNotAllowed);
        }
        // Likewise with fewer or more slashes than two.
        let (scheme, rest) = text.split_once("://").ok_or(Refusal::NotAUrl)?;
        if scheme.len() != url.scheme().len() || rest.starts_with('/') {
            return Err(Refusal::NotAUrl);
        }
        // What is kept has all that is not ASCII encoded, is longer for it, and is read again.
        if url.as_str().len() > LONGEST {
            return Err(Refusal::TooLong);
        }
        // A name that no resolver or certificate can hold (RFC 1035 §2.3.4) is trouble to both, which
        // refuses nobody: the first to tell would be the last attempt.
        if let Some(Host::Domain(name)) = url.host()
            && DnsName::try_from(name).is_err()
        {
            return Err(Refusal::NotAUrl);
        }
        let uri = dialled(&url).ok_or(Refusal::NotAUrl)?;
        Ok(Self { url, uri })
    }

    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Scheme, host and port, each spelt out: what callbacks share a lane by.
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", self.url.scheme(), self.host(), self.port())
    }

    /// A URL as it is kept where it is registered, if it can be one of those.
    pub fn spelling_of(text: &str) -> Option<String> {
        Self::read(text).ok().map(|it| it.as_str().to_owned())
    }

    /// The origin that a text names, spelt out as [`CallbackUrl::origin`] does, if it names one and
    /// nothing more.
    pub fn origin_of(text: &str) -> Option<String> {
        let it = Self::read(text).ok().filter(|it| !it.has_user_info() && !it.has_fragment())?;
        (&it.url[Position::BeforePath..] == "/").then(|| it.origin())
    }

    /// The host, as it is logged: it tells less than the path may.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port, whether the URL names it or its scheme implies it.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The same as the client takes it: host, port, path and query are those of the URL.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The same, with one more parameter at the end of its query, of which `value` is any text. It is
    /// encoded so that a space is no `+`, which some take for one and some do not.
    pub fn uri_with(&self, name: &str, value: &str) -> Option<Uri> {
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
        let query = match self.url.query().unwrap_or_default() {
            "" => format!("{name}={value}"),
            query => format!("{query}&{name}={value}"),
        };
        let mut url = self.url.clone();
        url.set_query(Some(&query));
        dialled(&url)
    }

    pub(super) fn scheme(&self) -> &str {
        self.url.scheme()
    }

    pub(super) fn has_user_info(&self) -> bool {
        !self.url.username().is_empty() || self.url.password().is_some()
    }

    pub(super) fn has_fragment(&self) -> bool {
        self.url.fragment().is_some()
    }

    /// The address, where the URL says one: as a literal, or as a name that stands for loopback
    /// everywhere (RFC 6761 §6.3), whatever a resolver says.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(name) => {
                let name = name.trim_end_matches('.');
                let is_localhost = name == "localhost" || name.ends_with(".localhost");
                is_localhost.then_some(Ipv4Addr::LOCALHOST.into())
            }
        }
    }

    /// The name, where the host is not an address.
    pub(super) fn name(&self) -> Option<&str> {
        match self.url.host()? {
            Host::Domain(name) => Some(name),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }
}

/// What the client makes of `url`, if that is the same thing.
fn dialled(url: &Url) -> Option<Uri> {
    let uri = Uri::try_from(&url[..Position::AfterQuery]).ok()?;
    let is_same = uri.scheme_str() == Some(url.scheme())
        && uri.host() == url.host_str()
        && uri.port_u16() == url.port()
        && uri.path_and_query()?.as_str() == &url[Position::BeforePath..Position::AfterQuery];
    is_same.then_some(uri)
}

impl fmt::Debug for CallbackUrl {
    /// Path and query may hold secrets of the receiver's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackUrl({}/..)", self.origin())
    }
}
