//! IPv4 addresses within IPv6 addresses: what is delivered to the one ends up at the other.
//!
//! Some forms are nothing but another spelling of the IPv4 address, and are judged by it alone.
//! Others are addresses of their own kind that reach an IPv4 address as well, through a tunnel or a
//! translator, and are judged by both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::Ipv6Net;

/// An address that a packet may end up at, and by which form of the address it was sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Face {
    pub address: IpAddr,
    /// The form that holds it; `None` for the address itself.
    pub form: Option<&'static str>,
}

/// A prefix by which a network translates IPv6 to IPv4 (RFC 6052 §2.2): 32, 40, 48, 56, 64 or 96 bits
/// of IPv6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Nat64Prefix(Ipv6Net);

/// The text is no prefix of a NAT64.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, such as 2001:db8:64::/96")]
pub struct InvalidNat64Prefix;

impl Nat64Prefix {
    /// `64:ff9b::/96`, which means the same everywhere (RFC 6052 §2.1).
    const WELL_KNOWN: Self =
        Self(Ipv6Net::new_assert(Ipv6Addr::new(0x0064, 0xff9b, 0, 0, 0, 0, 0, 0), 96));

    /// The IPv4 address in an address of this prefix: its four octets follow the prefix, and leave
    /// out the ninth octet of the address.
    fn inner(self, outer: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.0.contains(&outer) {
            return None;
        }
        let first = usize::from(self.0.prefix_len() / 8);
        let octets = outer.octets();
        let rest = octets.iter().enumerate().skip(first).filter(|(at, _)| first == 12 || *at != 8);
        let mut inner = [0; 4];
        for (to, (_, from)) in inner.iter_mut().zip(rest) {
            *to = *from;
        }
        Some(inner.into())
    }
}

impl FromStr for Nat64Prefix {
    type Err = InvalidNat64Prefix;

    fn from_str(text: &str) -> Result<Self, InvalidNat64Prefix> {
        let prefix: Ipv6Net = text.trim().parse().map_err(|_| InvalidNat64Prefix)?;
        let is_translated = matches!(prefix.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96);
        if is_translated { Ok(Self(prefix.trunc())) } else { Err(InvalidNat64Prefix) }
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All addresses that a packet to `address` may end up at; each of them has to pass. `nat64` are the
/// prefixes of this network's own, besides the one that is the same everywhere.
pub(super) fn faces(address: IpAddr, nat64: &[Nat64Prefix]) -> impl Iterator<Item = Face> {
    let (spelled, besides) = match address {
        IpAddr::V4(_) => (None, [None; 2]),
        IpAddr::V6(outer) => match spelled(outer, nat64) {
            Some(spelled) => (Some(spelled), [None; 2]),
            None => (None, besides(outer)),
        },
    };
    let face = |(form, inner): (_, Ipv4Addr)| Face { address: inner.into(), form: Some(form) };
    let first = spelled.map_or(Face { address, form: None }, face);
    std::iter::once(first).chain(besides.into_iter().flatten().map(face))
}

/// The IPv4 address that `address` is another spelling of.
fn spelled(address: Ipv6Addr, nat64: &[Nat64Prefix]) -> Option<(&'static str, Ipv4Addr)> {
    let [first @ .., high, low] = address.segments();
    let inner = v4(high, low);
    match first {
        // RFC 4291 §2.5.5.2
        [0, 0, 0, 0, 0, 0xffff] => return Some(("IPv4-mapped", inner)),
        // RFC 4291 §2.5.5.1; `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0] if inner.to_bits() > 1 => return Some(("IPv4-compatible", inner)),
        _ => {}
    }
    let mut prefixes = std::iter::once(&Nat64Prefix::WELL_KNOWN).chain(nat64);
    prefixes.find_map(|prefix| prefix.inner(address)).map(|inner| ("translated by NAT64", inner))
}

/// The IPv4 addresses that `address` leads to besides being an address itself.
fn besides(address: Ipv6Addr) -> [Option<(&'static str, Ipv4Addr)>; 2] {
    let segments = address.segments();
    let [.., high, low] = segments;
    match segments {
        // RFC 2765 §2.1: SIIT, before it was given prefixes.
        [0, 0, 0, 0, 0xffff, 0, ..] => [Some(("IPv4-translated", v4(high, low))), None],
        // RFC 8215: almost always with 96 bits of prefix.
        [0x0064, 0xff9b, 1, ..] => [Some(("translated by a local NAT64", v4(high, low))), None],
        // RFC 3056 §2
        [0x2002, high, low, ..] => [Some(("by 6to4", v4(high, low))), None],
        // RFC 4380 §4: the server, and the client with all bits turned over.
        [0x2001, 0, server_high, server_low, ..] => [
            Some(("the Teredo server", v4(server_high, server_low))),
            Some(("the Teredo client", v4(!high, !low))),
        ],
        // RFC 5214 §6.1: an interface in any network. The bit that says whether the IPv4 address is
        // unique in the world is 1 or 0.
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => [Some(("by ISATAP", v4(high, low))), None],
        _ => [None; 2],
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}
