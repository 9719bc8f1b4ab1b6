//! Where a running bridge can be asked, by commands on the same machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::tls::Fingerprint;

/// Where a bridge listens, and what it shows there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Whereabouts {
    pub(crate) address: SocketAddr,
    /// Of the certificate, where it speaks HTTPS.
    pub(crate) certificate: Option<Fingerprint>,
}

impl Whereabouts {
    /// A URL without a path that leads there from this machine, even where the bridge is bound to all
    /// addresses.
    pub(crate) fn url(&self) -> String {
        Self { address: reachable(self.address), ..*self }.own_url()
    }

    /// The same in the words of whoever set it up.
    pub(crate) fn own_url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// An address that leads to what listens on `bound`, where that is all addresses of the machine.
pub(crate) fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, bound.port())
}

impl fmt::Display for Whereabouts {
    /// As it is left in a file: the address, and the fingerprint after a blank.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.certificate.iter().try_for_each(|it| write!(f, " {it}"))
    }
}

/// The text does not say where a bridge is.
#[derive(Debug, thiserror::Error)]
#[error("no address, or something other than the fingerprint of a certificate after it")]
pub(crate) struct NotThere;

impl FromStr for Whereabouts {
    type Err = NotThere;

    fn from_str(text: &str) -> Result<Self, NotThere> {
        let (address, certificate) = match text.split_once(' ') {
            Some((address, certificate)) => (address, Some(certificate)),
            None => (text, None),
        };
        let certificate = certificate.map(str::parse).transpose().map_err(|_| NotThere)?;
        let address = address.parse().map_err(|_| NotThere)?;
        Ok(Self { address, certificate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_word_of_is_read_back_and_nothing_else_is() {
        let print = "0f".repeat(32);
        for text in ["127.0.0.1:8080", &format!("[::]:443 {print}")] {
            let at: Whereabouts = text.parse().unwrap();
            assert_eq!(at.to_string(), text);
        }
        let (short, signed) = (&print[2..], format!("+f{}", &print[2..]));
        for text in ["", "open", "127.0.0.1", "127.0.0.1:8080 "] {
            assert!(text.parse::<Whereabouts>().is_err(), "{text}");
        }
        for print in [short, &signed, "é".repeat(32).as_str()] {
            let text = format!("127.0.0.1:8080 {print}");
            assert!(text.parse::<Whereabouts>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bridge_on_all_addresses_is_reached_on_the_machines_own() {
        for (text, url) in [
            ("127.0.0.1:8080".to_owned(), "http://127.0.0.1:8080"),
            ("0.0.0.0:8080".to_owned(), "http://127.0.0.1:8080"),
            (format!("[::]:443 {}", "0f".repeat(32)), "https://[::1]:443"),
            (format!("192.0.2.1:443 {}", "0f".repeat(32)), "https://192.0.2.1:443"),
        ] {
            assert_eq!(text.parse::<Whereabouts>().unwrap().url(), url);
        }
    }
}
