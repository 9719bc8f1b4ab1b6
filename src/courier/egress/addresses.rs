//! Which addresses are nobody's on the open internet.
//!
//! From the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates) as of
//! 2025-10, the multicast registries, and what clouds keep their metadata on. An address that is
//! globally reachable by those registries' own word may still be refused here, where what answers
//! there is never a receiver (anycast relays, AS112, 6to4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Networks that no callback goes to, and what they are: the first that fits.
#[rustfmt::skip]
pub(super) const SPECIAL: &[(IpNet, &str)] = &[
    (v4([0, 0, 0, 0], 8), "this network"),
    (v4([10, 0, 0, 0], 8), "private"),
    (v4([100, 64, 0, 0], 10), "shared by carriers (CGNAT)"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([168, 63, 129, 16], 32), "the metadata service of Azure"),
    (v4([169, 254, 0, 0], 16), "link-local, with the metadata services of clouds"),
    (v4([172, 16, 0, 0], 12), "private"),
    (v4([192, 0, 0, 0], 24), "for protocol assignments"),
    (v4([192, 0, 2, 0], 24), "for documentation"),
    (v4([192, 31, 196, 0], 24), "AS112"),
    (v4([192, 52, 193, 0], 24), "AMT"),
    (v4([192, 88, 99, 0], 24), "a 6to4 relay"),
    (v4([192, 168, 0, 0], 16), "private"),
    (v4([192, 175, 48, 0], 24), "AS112"),
    (v4([198, 18, 0, 0], 15), "for benchmarks"),
    (v4([198, 51, 100, 0], 24), "for documentation"),
    (v4([203, 0, 113, 0], 24), "for documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved"),

    (v6([0x0064, 0xff9b, 1, 0], 48), "a local translation to IPv4"),
    (v6([0x0100, 0, 0, 0], 64), "for discarding"),
    (v6([0x0100, 0, 0, 1], 64), "a dummy prefix"),
    (v6([0x2001, 0, 0, 0], 23), "for protocol assignments (Teredo, ORCHID)"),
    (v6([0x2001, 0xdb8, 0, 0], 32), "for documentation"),
    (v6([0x2002, 0, 0, 0], 16), "6to4"),
    (v6([0x2620, 0x4f, 0x8000, 0], 48), "AS112"),
    (v6([0x3fff, 0, 0, 0], 20), "for documentation"),
    (v6([0x5f00, 0, 0, 0], 16), "for segment routing"),
    (v6([0xfc00, 0, 0, 0], 7), "unique local, with metadata services of clouds"),
    (v6([0xfe80, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0, 0], 8), "multicast"),
    // Whatever else is outside 2000::/3, the only block of the open internet. What holds an IPv4
    // address in one of the forms below is never looked up here.
    (v6([0, 0, 0, 0], 3), "reserved"),
    (v6([0x4000, 0, 0, 0], 2), "reserved"),
    (v6([0x8000, 0, 0, 0], 1), "reserved"),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6([a, b, c, d]: [u16; 4], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), prefix)
}

/// What `address` is, where no callback may go to it.
pub(super) fn special(address: IpAddr) -> Option<&'static str> {
    let address = match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(outer) => embedded(outer).map_or(address, IpAddr::V4),
    };
    SPECIAL.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what)
}

/// The IPv4 address that a packet to `address` ends up at: mapped (`::ffff:0:0/96`), compatible
/// (`::/96`, but for `::` and `::1`) and translated (`64:ff9b::/96`).
pub(super) fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [first @ .., high, low] = address.segments();
    let inner = Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match first {
        [0, 0, 0, 0, 0, 0xffff] | [0x0064, 0xff9b, 0, 0, 0, 0] => Some(inner),
        [0, 0, 0, 0, 0, 0] if inner.to_bits() > 1 => Some(inner),
        _ => None,
    }
}
