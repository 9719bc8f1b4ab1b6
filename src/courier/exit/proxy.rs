//! A proxy of the operator's that callbacks go through.
//!
//! By `CONNECT` over http or https (RFC 9110 §9.3.6), or by SOCKS 5 (RFC 1928), for https and for
//! plain http alike. What the proxy is told decides who guards the exit:
//!
//! * **An address**, unless the operator says else. The guard has resolved the name and judged every
//!   answer, and the proxy dials what was judged: no callback goes where it could not go directly.
//!   Rules of the proxy that go by names do not apply, and its log tells addresses.
//! * **A name**, where the operator leaves names to the proxy: the bridge may have no name server, or
//!   the proxy rules by names. Then nobody here sees which address is dialled. The guard still judges
//!   scheme, port, host and literal addresses. Whether a name may lead inside is for the proxy to say.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tower_service::Service;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{BoxError, Connecting, Outbound, dial};
use crate::names::Names;

/// Where the proxy is, and what opens it.
#[derive(Clone)]
pub struct Proxy {
    manner: Manner,
    /// `http` or `https`, host and port: how the proxy itself is connected to.
    at: Uri,
    credentials: Option<Credentials>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manner {
    Connect,
    Socks5,
}

#[derive(Clone)]
struct Credentials {
    user: SecretString,
    password: SecretString,
}

/// The text is no proxy that callbacks can go through. It is not repeated, for there may be a
/// password in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidProxy {
    #[error("expected http://, https:// or socks5://, then a host, and perhaps a port")]
    NotAProxy,
    #[error("no path, query or fragment belongs behind the proxy's port")]
    TooMuch,
    #[error("give socks5://, and leave names to it by --callback-proxy-resolves")]
    RemoteNames,
    #[error(
        "user name and password must be percent-encoded UTF-8 of up to 255 bytes, without a colon in \
         the name"
    )]
    Credentials,
}

impl Proxy {
    /// Reads `scheme://[user[:password]@]host[:port]`.
    pub fn parse(text: &str) -> Result<Self, InvalidProxy> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidProxy::NotAProxy)?;
        let (manner, scheme, usual_port) = match url.scheme() {
            "http" => (Manner::Connect, "http", 80),
            "https" => (Manner::Connect, "https", 443),
            "socks5" => (Manner::Socks5, "http", 1080),
            "socks5h" => return Err(InvalidProxy::RemoteNames),
            _ => return Err(InvalidProxy::NotAProxy),
        };
        // Hosts of schemes that the URL standard does not know are taken as they stand.
        let host = url.host_str().and_then(|host| Host::parse(host).ok());
        let host = host.ok_or(InvalidProxy::NotAProxy)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidProxy::TooMuch);
        }
        let port = url.port().unwrap_or(usual_port);
        let at = format!("{scheme}://{host}:{port}");
        Ok(Self {
            manner,
            at: at.parse().map_err(|_| InvalidProxy::NotAProxy)?,
            credentials: Credentials::of(&url)?,
        })
    }
}

impl fmt::Display for Proxy {
    /// Without its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.manner {
            Manner::Connect => self.at.scheme_str().unwrap_or_default(),
            Manner::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.at.authority().map_or("", |it| it.as_str()))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl Credentials {
    fn of(url: &Url) -> Result<Option<Self>, InvalidProxy> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let user = decoded(url.username())?;
        // Basic credentials end the name at the first colon (RFC 7617 §2).
        if user.contains(':') {
            return Err(InvalidProxy::Credentials);
        }
        let password = decoded(url.password().unwrap_or_default())?;
        Ok(Some(Self { user: user.into(), password: password.into() }))
    }

    /// As `Proxy-Authorization` has them (RFC 7617).
    fn header(&self) -> Result<HeaderValue, BoxError> {
        let (user, password) = (self.user.expose_secret(), self.password.expose_secret());
        let plain = Zeroizing::new(format!("{user}:{password}"));
        let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(plain.as_bytes())));
        let mut header = HeaderValue::try_from(encoded.as_str())?;
        header.set_sensitive(true);
        Ok(header)
    }
}

fn decoded(text: &str) -> Result<String, InvalidProxy> {
    let plain = percent_decode_str(text).decode_utf8().map_err(|_| InvalidProxy::Credentials)?;
    // As many as SOCKS has room for (RFC 1929 §2).
    if plain.len() <= 255 { Ok(plain.into_owned()) } else { Err(InvalidProxy::Credentials) }
}

/// A proxy, and who knows the address of its own name, which the operator chose.
#[derive(Clone)]
pub struct ProxyWay {
    pub proxy: Proxy,
    pub names: Arc<dyn Names>,
}

/// Speaks to the proxy.
pub(super) struct Through {
    way: ProxyWay,
    tls: Arc<ClientConfig>,
    within: Duration,
}

/// The proxy was not reached, or did not connect us. Says why, and neither where it is nor what
/// opens it.
#[derive(Debug, thiserror::Error)]
#[error("the callback proxy made no connection: {0}")]
pub(in crate::courier) struct ProxyFailed(String);

impl Through {
    pub(super) fn new(way: ProxyWay, mut tls: ClientConfig, within: Duration) -> Self {
        // A tunnel is asked for by HTTP/1.1.
        tls.alpn_protocols = Vec::new();
        Self { way, tls: Arc::new(tls), within }
    }

    /// A connection to `authority`, an address or a name with a port.
    pub(super) async fn connect(
        self: &Arc<Self>,
        authority: &str,
    ) -> Result<Outbound, ProxyFailed> {
        self.connected(authority).await.map_err(|error| {
            let causes =
                std::iter::successors(Some(&*error as &dyn std::error::Error), |it| it.source());
            let texts: Vec<String> = causes.map(ToString::to_string).collect();
            ProxyFailed(texts.join(": "))
        })
    }

    async fn connected(self: &Arc<Self>, authority: &str) -> Result<Outbound, BoxError> {
        let target: Uri = format!("https://{authority}").parse()?;
        let near = HttpsConnector::from((Near(Arc::clone(self)), Arc::clone(&self.tls)));
        let at = self.way.proxy.at.clone();
        let credentials = self.way.proxy.credentials.as_ref();
        match self.way.proxy.manner {
            Manner::Connect => {
                let mut tunnel = Tunnel::new(at, near);
                if let Some(credentials) = credentials {
                    tunnel = tunnel.with_auth(credentials.header()?);
                }
                Ok(tunnel.call(target).await?)
            }
            Manner::Socks5 => {
                let mut socks = SocksV5::new(at, near);
                if let Some(Credentials { user, password }) = credentials {
                    let (user, password) = (user.expose_secret(), password.expose_secret());
                    socks = socks.with_auth(user.to_owned(), password.to_owned());
                }
                Ok(socks.call(target).await?)
            }
        }
    }
}

/// Connects to the proxy itself. Where that is was the operator's choice, so nothing is judged.
#[derive(Clone)]
struct Near(Arc<Through>);

impl Service<Uri> for Near {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, at: Uri) -> Self::Future {
        let through = Arc::clone(&self.0);
        Box::pin(async move {
            let host = at.host().unwrap_or_default().trim_matches(['[', ']']);
            let addresses = match host.parse::<IpAddr>() {
                Ok(address) => vec![address],
                Err(_) => through.way.names.addresses(host).await?,
            };
            let port = at.port_u16().unwrap_or_default();
            dial(addresses, port, through.within).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_as_they_are_usually_written() {
        for (text, read) in [
            ("http://proxy.example", "http://proxy.example:80"),
            ("http://proxy.example:3128/", "http://proxy.example:3128"),
            ("HTTPS://Proxy.Example", "https://proxy.example:443"),
            (" http://10.0.0.1:8080 ", "http://10.0.0.1:8080"),
            ("https://[fd00::1]:8443", "https://[fd00::1]:8443"),
            ("socks5://PROXY.example", "socks5://proxy.example:1080"),
            ("socks5://[::1]:9050", "socks5://[::1]:9050"),
            ("http://bridge:s3cret@proxy.example", "http://proxy.example:80"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(proxy.to_string(), read);
            assert_eq!(format!("{proxy:?}"), format!("Proxy({read})"));
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_being_repeated() {
        use InvalidProxy::{Credentials, NotAProxy, RemoteNames, TooMuch};
        let long = format!("http://bridge:{}@proxy.example", "s3cret".repeat(43));
        for (text, refusal) in [
            ("", NotAProxy),
            ("proxy.example:3128", NotAProxy),
            ("ftp://proxy.example", NotAProxy),
            ("socks4://proxy.example", NotAProxy),
            ("http://", NotAProxy),
            ("http://s3cret@", NotAProxy),
            ("socks5:proxy.example", NotAProxy),
            ("http://proxy.example:65536", NotAProxy),
            ("socks5h://proxy.example", RemoteNames),
            ("http://proxy.example/s3cret", TooMuch),
            ("http://proxy.example?s3cret", TooMuch),
            ("http://proxy.example#s3cret", TooMuch),
            ("http://bridge:%ff@proxy.example", Credentials),
            ("http://bri%3Adge:s3cret@proxy.example", Credentials),
            (&long, Credentials),
        ] {
            let refused = Proxy::parse(text).unwrap_err();
            assert_eq!(refused, refusal, "{text}");
            assert!(!format!("{refused} {refused:?}").contains("s3cret"), "{refused}");
        }
    }
}
