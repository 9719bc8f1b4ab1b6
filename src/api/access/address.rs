//! Where a request comes from.
//!
//! Behind a proxy, every connection comes from the proxy, and whom it stands for is in a header. That is
//! believed only of proxies that the operator names, and read from the right: what is furthest to the
//! right was added by the proxy nearest to us, and what a client has written itself is left of it.
//! Of the two headers that there are, only the one that the proxy is known to set is read, for a proxy
//! passes the other one on as it came.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use ipnet::IpNet;

/// Proxies whose word is taken on where a request comes from.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Their addresses; none where there is no proxy.
    pub trusted: Vec<IpNet>,
    pub header: ForwardedBy,
}

/// The header in which they say it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ForwardedBy {
    /// `X-Forwarded-For`, which is what most of them set.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Proxies, one behind the other, that are followed at the most.
const MOST_HOPS: usize = 16;

impl Proxies {
    /// Where a request comes from; `None` where it came by no network.
    pub(in crate::api) fn address(&self, parts: &Parts) -> Option<IpAddr> {
        let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(self.behind(peer.ip().to_canonical(), &parts.headers))
    }

    /// For whom `peer` asks: the first from the right that is none of the proxies. Where one of them
    /// does not say, or says something that is no address, it is that proxy.
    fn behind(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let is_trusted = |it: IpAddr| self.trusted.iter().any(|network| network.contains(&it));
        if !is_trusted(peer) {
            return peer;
        }
        let mut nearest = peer;
        for said in self.said(headers).into_iter().rev().take(MOST_HOPS) {
            let Some(address) = said else { break };
            nearest = address;
            if !is_trusted(address) {
                break;
            }
        }
        nearest
    }

    /// What the header says, from left to right, over all lines of it.
    fn said(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let name = match self.header {
            ForwardedBy::XForwardedFor => header::HeaderName::from_static("x-forwarded-for"),
            ForwardedBy::Forwarded => header::FORWARDED,
        };
        let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or_default());
        let said = |entry: &str| match self.header {
            ForwardedBy::XForwardedFor => node(entry),
            ForwardedBy::Forwarded => of_element(entry),
        };
        lines.flat_map(|line| split(line, ',')).map(said).collect()
    }
}

/// The `for` of an element of `Forwarded`.
fn of_element(element: &str) -> Option<IpAddr> {
    let pairs = split(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
    let mut of = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let (_, value) = of.next()?;
    let value = value.trim();
    let quoted = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    node(quoted.unwrap_or(value))
}

/// An address, with or without a port. What is hidden (`unknown`, `_name`) is none.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text);
    let with_port = || SocketAddr::from_str(text).ok().map(|it| it.ip());
    IpAddr::from_str(bare).ok().or_else(with_port).map(|it| it.to_canonical())
}

/// The parts of a text between separators that are not within quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut is_quoted = false;
    text.split(|character| {
        is_quoted ^= character == '"';
        character == separator && !is_quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(trusted: &str, header: ForwardedBy, lines: &[&str]) -> String {
        let trusted = trusted.split(' ').filter(|it| !it.is_empty());
        let proxies = Proxies { trusted: trusted.map(|it| it.parse().unwrap()).collect(), header };
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            let name: header::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        proxies.behind("10.0.0.1".parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn nobody_is_believed_but_the_proxies_that_are_named() {
        let forged = &["x-forwarded-for: 192.0.2.1"];
        assert_eq!(behind("", ForwardedBy::XForwardedFor, forged), "10.0.0.1");
        assert_eq!(behind("10.0.0.2/32", ForwardedBy::XForwardedFor, forged), "10.0.0.1");
        assert_eq!(behind("10.0.0.0/30", ForwardedBy::XForwardedFor, forged), "192.0.2.1");
        assert_eq!(behind("10.0.0.0/30", ForwardedBy::Forwarded, forged), "10.0.0.1");
        let other = &["forwarded: for=192.0.2.1"];
        assert_eq!(behind("10.0.0.0/30", ForwardedBy::XForwardedFor, other), "10.0.0.1");
    }

    #[test]
    fn the_header_is_read_from_the_right_up_to_whoever_is_no_proxy() {
        for (lines, expected) in [
            (&["x-forwarded-for: 203.0.113.9, 192.0.2.1"][..], "192.0.2.1"),
            (&["x-forwarded-for: 203.0.113.9, 192.0.2.1, 10.0.0.3"], "192.0.2.1"),
            (&["x-forwarded-for: 203.0.113.9", "x-forwarded-for: 192.0.2.1"], "192.0.2.1"),
            (&["x-forwarded-for: 203.0.113.9:99,192.0.2.1:4711"], "192.0.2.1"),
            (&["x-forwarded-for: [2001:db8::1]:4711"], "2001:db8::1"),
            (&["x-forwarded-for: 2001:db8::1"], "2001:db8::1"),
            (&["x-forwarded-for: ::ffff:192.0.2.1"], "192.0.2.1"),
            (&["x-forwarded-for: 192.0.2.1, unknown"], "10.0.0.1"),
            (&["x-forwarded-for: 192.0.2.1, unknown, 10.0.0.3"], "10.0.0.3"),
            (&["x-forwarded-for: 192.0.2.1,"], "10.0.0.1"),
            (&["x-forwarded-for: 10.0.0.2, 10.0.0.3"], "10.0.0.2"),
            (&[], "10.0.0.1"),
        ] {
            let found = behind("10.0.0.0/24", ForwardedBy::XForwardedFor, lines);
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn elements_of_forwarded_are_read_as_the_standard_has_them() {
        for (line, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:4711\";proto=https;by=203.0.113.43", "192.0.2.1"),
            ("for=192.0.2.43, for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=203.0.113.9, proto=http; for=192.0.2.1, for=10.0.0.4", "192.0.2.1"),
            ("for=203.0.113.9;host=\"a,for=198.51.100.1;\"", "203.0.113.9"),
            ("for=unknown", "10.0.0.1"),
            ("for=\"_gazonk\"", "10.0.0.1"),
            ("by=192.0.2.1", "10.0.0.1"),
        ] {
            let line = format!("forwarded: {line}");
            let found = behind("10.0.0.0/24", ForwardedBy::Forwarded, &[&line]);
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn a_header_without_end_is_not_followed_without_end() {
        let line = format!("x-forwarded-for: {}", ["10.0.0.7"; 1_000].join(","));
        let found = behind("10.0.0.0/24", ForwardedBy::XForwardedFor, &[&line]);
        assert_eq!(found, "10.0.0.7");
    }
}
