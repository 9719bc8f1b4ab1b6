//! Which addresses are nobody's on the open internet.
//!
//! From these registries of IANA, by their dates of last update:
//!
//! * IPv4 Special-Purpose Address Registry, 2025-10-09 (RFC 6890, RFC 8190);
//! * IPv6 Special-Purpose Address Registry, 2025-10-09 (RFC 6890, RFC 8190);
//! * IPv6 Address Space, 2025-10-23, by which nothing but `2000::/3` is global unicast;
//! * the multicast spaces of RFC 5771 and RFC 4291;
//!
//! and from what clouds document of where they keep the secrets of a machine. Some of the blocks are
//! globally reachable by the registries' own word. They are refused all the same: what answers there
//! is a relay, an anycast service of some protocol or nothing at all, and never a receiver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A block of addresses that no callback goes to, unless the operator opens it.
#[derive(Debug, Eq, PartialEq)]
pub struct Block {
    pub network: IpNet,
    /// What it is, as the end of "this address is …".
    pub what: &'static str,
    /// The document that sets it apart.
    pub source: &'static str,
    /// Hands out credentials of the machine to whoever asks from it, so that it is opened by nothing
    /// that was meant for its neighbours (see [`super::Rules`]).
    pub is_metadata: bool,
}

impl Block {
    /// Every block, those first that count first.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        BLOCKS.iter()
    }
}

/// The first block that holds an address is what the address is: services before their networks,
/// narrower blocks before wider ones.
#[rustfmt::skip]
const BLOCKS: &[Block] = &[
    metadata(host4([168, 63, 129, 16]), "the platform service of Azure", "Azure, What is IP address 168.63.129.16"),
    metadata(host4([169, 254, 169, 254]), "the metadata service of clouds", "AWS, Azure, Google Cloud, Oracle Cloud"),
    metadata(host4([169, 254, 170, 2]), "the credentials service of Amazon ECS", "Amazon ECS, Task IAM role"),
    metadata(host4([169, 254, 170, 23]), "the credentials service of Amazon EKS", "Amazon EKS, Pod Identity"),
    metadata(host4([169, 254, 42, 42]), "the metadata service of Scaleway", "Scaleway, Instance metadata"),
    metadata(host4([169, 254, 0, 23]), "the metadata service of Tencent Cloud", "Tencent Cloud, CVM metadata"),
    metadata(host4([100, 100, 100, 200]), "the metadata service of Alibaba Cloud", "Alibaba Cloud, ECS metadata"),
    metadata(host4([192, 0, 0, 192]), "the metadata service of Oracle Cloud", "Oracle Cloud Classic"),
    special(host4([0, 0, 0, 0]), "this host on this network", "RFC 1122"),
    special(v4([0, 0, 0, 0], 8), "this network", "RFC 791"),
    special(v4([10, 0, 0, 0], 8), "private", "RFC 1918"),
    special(v4([100, 64, 0, 0], 10), "shared by carriers (CGNAT)", "RFC 6598"),
    special(v4([127, 0, 0, 0], 8), "loopback", "RFC 1122"),
    special(v4([169, 254, 0, 0], 16), "link-local", "RFC 3927"),
    special(v4([172, 16, 0, 0], 12), "private", "RFC 1918"),
    special(v4([192, 0, 0, 0], 29), "for IPv4 service continuity", "RFC 7335"),
    special(host4([192, 0, 0, 8]), "the IPv4 dummy address", "RFC 7600"),
    special(host4([192, 0, 0, 9]), "anycast of the Port Control Protocol", "RFC 7723"),
    special(host4([192, 0, 0, 10]), "anycast of TURN", "RFC 8155"),
    special(host4([192, 0, 0, 170]), "for the discovery of NAT64", "RFC 8880"),
    special(host4([192, 0, 0, 171]), "for the discovery of NAT64", "RFC 8880"),
    special(v4([192, 0, 0, 0], 24), "for protocol assignments", "RFC 6890"),
    special(v4([192, 0, 2, 0], 24), "for documentation", "RFC 5737"),
    special(v4([192, 31, 196, 0], 24), "AS112", "RFC 7535"),
    special(v4([192, 52, 193, 0], 24), "for automatic multicast tunnels", "RFC 7450"),
    special(host4([192, 88, 99, 2]), "anycast of 6a44 relays", "RFC 6751"),
    special(v4([192, 88, 99, 0], 24), "anycast of 6to4 relays, deprecated", "RFC 7526"),
    special(v4([192, 168, 0, 0], 16), "private", "RFC 1918"),
    special(v4([192, 175, 48, 0], 24), "AS112", "RFC 7534"),
    special(v4([198, 18, 0, 0], 15), "for benchmarks", "RFC 2544"),
    special(v4([198, 51, 100, 0], 24), "for documentation", "RFC 5737"),
    special(v4([203, 0, 113, 0], 24), "for documentation", "RFC 5737"),
    special(v4([224, 0, 0, 0], 4), "multicast", "RFC 5771"),
    special(host4([255, 255, 255, 255]), "limited broadcast", "RFC 919"),
    special(v4([240, 0, 0, 0], 4), "reserved (class E)", "RFC 1112"),

    metadata(v6([0xfd00, 0x0ec2, 0, 0], 32), "services of AWS to the instance", "AWS, Instance metadata over IPv6"),
    metadata(host6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254]), "the metadata service of Google Cloud", "Google Cloud, Metadata over IPv6"),
    metadata(host6([0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), "the metadata service of Oracle Cloud", "Oracle Cloud, Metadata over IPv6"),
    metadata(host6([0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042]), "the metadata service of Scaleway", "Scaleway, Instance metadata"),
    metadata(host6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]), "the metadata service of Akamai", "Akamai, Metadata service"),
    metadata(host6([0xfd00, 0x0100, 0, 0, 0, 0, 0x0100, 0x0200]), "the metadata service of Alibaba Cloud", "Alibaba Cloud, ECS metadata"),
    metadata(host6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), "the metadata service of OpenStack", "OpenStack Neutron, Metadata over IPv6"),
    special(host6([0; 8]), "the unspecified address", "RFC 4291"),
    special(host6([0, 0, 0, 0, 0, 0, 0, 1]), "loopback", "RFC 4291"),
    special(whole6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), "an IPv4-translated address", "RFC 2765"),
    special(v6([0x0064, 0xff9b, 1, 0], 48), "for local translation to IPv4 (NAT64)", "RFC 8215"),
    special(v6([0x0100, 0, 0, 0], 64), "for discarding", "RFC 6666"),
    special(v6([0x0100, 0, 0, 1], 64), "the dummy prefix", "RFC 9780"),
    special(v6([0x2001, 0, 0, 0], 32), "Teredo", "RFC 4380"),
    special(host6([0x2001, 1, 0, 0, 0, 0, 0, 1]), "anycast of the Port Control Protocol", "RFC 7723"),
    special(host6([0x2001, 1, 0, 0, 0, 0, 0, 2]), "anycast of TURN", "RFC 8155"),
    special(host6([0x2001, 1, 0, 0, 0, 0, 0, 3]), "anycast of DNS-SD registration", "RFC 9665"),
    special(v6([0x2001, 2, 0, 0], 48), "for benchmarks", "RFC 5180"),
    special(v6([0x2001, 3, 0, 0], 32), "for automatic multicast tunnels", "RFC 7450"),
    special(v6([0x2001, 4, 0x0112, 0], 48), "AS112", "RFC 7535"),
    special(v6([0x2001, 0x0010, 0, 0], 28), "ORCHID, deprecated", "RFC 4843"),
    special(v6([0x2001, 0x0020, 0, 0], 28), "ORCHID version 2", "RFC 7343"),
    special(v6([0x2001, 0x0030, 0, 0], 28), "identities of drones", "RFC 9374"),
    special(v6([0x2001, 0, 0, 0], 23), "for protocol assignments", "RFC 2928"),
    special(v6([0x2001, 0x0db8, 0, 0], 32), "for documentation", "RFC 3849"),
    special(v6([0x2002, 0, 0, 0], 16), "6to4", "RFC 3056"),
    special(v6([0x2620, 0x004f, 0x8000, 0], 48), "AS112", "RFC 7534"),
    special(v6([0x3fff, 0, 0, 0], 20), "for documentation", "RFC 9637"),
    special(v6([0x5f00, 0, 0, 0], 16), "for segment routing (SRv6)", "RFC 9602"),
    special(v6([0xfc00, 0, 0, 0], 7), "unique local", "RFC 4193"),
    special(v6([0xfe80, 0, 0, 0], 10), "link-local", "RFC 4291"),
    special(v6([0xfec0, 0, 0, 0], 10), "site-local, deprecated", "RFC 3879"),
    special(v6([0xff00, 0, 0, 0], 8), "multicast", "RFC 4291"),
    // Whatever else is outside of 2000::/3. What holds an IPv4 address and nothing else is never
    // looked up here (see the module on embedded addresses).
    special(v6([0, 0, 0, 0], 3), "reserved", "IPv6 Address Space"),
    special(v6([0x4000, 0, 0, 0], 2), "reserved", "IPv6 Address Space"),
    special(v6([0x8000, 0, 0, 0], 1), "reserved", "IPv6 Address Space"),
];

/// Names that clouds give to their metadata services, in lower case. Some resolve in their cloud
/// only, some everywhere; nobody receives callbacks there.
pub(super) const METADATA_NAMES: &[&str] = &[
    "api.metadata.cloud.ibm.com",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.azure.internal",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.packet.net",
    "metadata.platformequinix.com",
    "metadata.tencentyun.com",
];

/// What `address` is, where callbacks do not go to it by themselves. Looks at the address as it
/// stands: what may be embedded in it is another question.
pub(super) fn block(address: IpAddr) -> Option<&'static Block> {
    BLOCKS.iter().find(|block| block.network.contains(&address))
}

const fn special(network: IpNet, what: &'static str, source: &'static str) -> Block {
    Block { network, what, source, is_metadata: false }
}

const fn metadata(network: IpNet, what: &'static str, source: &'static str) -> Block {
    Block { network, what, source, is_metadata: true }
}

const fn v4(octets: [u8; 4], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::from_octets(octets)), prefix)
}

const fn host4(octets: [u8; 4]) -> IpNet {
    v4(octets, 32)
}

/// A network by the first half of its addresses.
const fn v6([a, b, c, d]: [u16; 4], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), prefix)
}

const fn whole6(segments: [u16; 8], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::from_segments(segments)), prefix)
}

const fn host6(segments: [u16; 8]) -> IpNet {
    whole6(segments, 128)
}
