//! What is true of every address and every URL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engagement_bridge::courier::egress::{Block, Rules};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::rules;

/// An address of `network`, chosen by `bits`.
fn within(network: IpNet, bits: u128) -> IpAddr {
    match network {
        IpNet::V4(network) => {
            let low = u32::try_from(bits & u128::from(u32::MAX)).unwrap();
            let free = low & network.hostmask().to_bits();
            Ipv4Addr::from_bits(network.network().to_bits() | free).into()
        }
        IpNet::V6(network) => {
            let free = bits & network.hostmask().to_bits();
            Ipv6Addr::from_bits(network.network().to_bits() | free).into()
        }
    }
}

/// Every form of IPv6 that leads to an IPv4 address; `around` fills what the form leaves open.
fn forms(inner: Ipv4Addr, around: u128) -> Vec<Ipv6Addr> {
    let (inner, all) = (u128::from(inner.to_bits()), u128::from(u32::MAX));
    let prefix = |text: &str| text.parse::<Ipv6Addr>().unwrap().to_bits();
    let public = 0x2a01_u128 << 112;
    let interface = |id: u128| public | (around & (0xffff_ffff_ffff << 64)) | id << 32 | inner;
    let middle = around & (all << 32);
    [
        prefix("::ffff:0:0") | inner,
        inner,
        prefix("64:ff9b::") | inner,
        prefix("::ffff:0:0:0") | inner,
        prefix("64:ff9b:1::") | (around & (all << 32 | 0xffff << 64)) | inner,
        prefix("2002::") | inner << 80 | (around & ((1 << 80) - 1)),
        prefix("2001::") | inner << 64 | middle | (around & all),
        prefix("2001::") | (around & (all << 64)) | middle | (!inner & all),
        interface(0x5efe),
        interface(0x0200_5efe),
    ]
    .map(Ipv6Addr::from_bits)
    .into()
}

fn block() -> impl Strategy<Value = IpNet> {
    select(Block::all().map(|block| block.network).collect::<Vec<_>>())
}

fn url_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("https://{address}/"),
        IpAddr::V6(address) => format!("https://[{address}]/"),
    }
}

/// Spellings of the same address by numbers of other bases and other counts of parts.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let bits = address.to_bits();
    let [a, b, c, d] = address.octets();
    vec![
        format!("{bits}"),
        format!("0x{bits:x}"),
        format!("0{bits:o}"),
        format!("{a}.{}", bits & 0xff_ffff),
        format!("{a}.{b}.{}", bits & 0xffff),
        format!("0x{a:x}.0{b:o}.{c}.0X{d:X}."),
        format!("[::ffff:{address}]"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_address_of_a_block_is_ever_allowed_in_any_embedding(
        network in block(),
        bits: u128,
        around: u128,
    ) {
        let (rules, address) = (Rules::default(), within(network, bits));
        prop_assert!(rules.check_address(address).is_err(), "{address}");
        prop_assert!(rules.check_url(&url_of(address)).is_err(), "{address}");
        if let IpAddr::V4(inner) = address {
            for outer in forms(inner, around) {
                prop_assert!(rules.check_address(outer.into()).is_err(), "{outer} holds {inner}");
            }
            for spelling in spellings(inner) {
                let url = format!("https://{spelling}/");
                prop_assert!(rules.check_url(&url).is_err(), "{spelling}");
            }
        }
    }

    #[test]
    fn an_address_is_judged_alike_in_every_spelling(bits: u32) {
        let (rules, address) = (Rules::default(), Ipv4Addr::from_bits(bits));
        let is_refused = rules.check_address(address.into()).is_err();
        for spelling in spellings(address) {
            let url = format!("https://{spelling}/");
            prop_assert_eq!(rules.check_url(&url).is_err(), is_refused, "{}", spelling);
        }
    }

    #[test]
    fn a_metadata_service_is_opened_by_no_network_that_holds_anything_else(
        bits: u128,
        prefix_v4 in 0..32_u8,
        prefix_v6 in 0..32_u8,
    ) {
        for block in Block::all().filter(|block| block.is_metadata) {
            let address = within(block.network, bits);
            let prefix = if address.is_ipv4() { prefix_v4 } else { prefix_v6 };
            let wide = IpNet::new(address, prefix).unwrap();
            let open = Rules { allowed_networks: vec![wide], ..Rules::default() };
            prop_assert!(open.check_address(address).is_err(), "{wide} opens {address}");
            let own = Rules { allowed_networks: vec![address.into()], ..Rules::default() };
            prop_assert!(own.check_address(address).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_denied_network_is_closed_whatever_is_allowed(
        bits: u32,
        prefix in 0..=32_u8,
        around: u128,
    ) {
        let inner = Ipv4Addr::from_bits(bits);
        let denied = IpNet::new(inner.into(), prefix).unwrap().trunc();
        let everything = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap(), denied];
        let rules = Rules {
            allowed_networks: everything,
            denied_networks: vec![denied],
            ..Rules::default()
        };
        let outer = forms(inner, around).into_iter().map(IpAddr::V6);
        for address in outer.chain([inner.into()]) {
            // `::` and `::1` are themselves, and neither is an IPv4 address.
            if address == IpAddr::from(Ipv6Addr::from_bits(bits.into())) && bits < 2 {
                continue;
            }
            prop_assert!(rules.check_address(address).is_err(), "{address} is not in {denied}");
        }
    }

    #[test]
    fn what_is_allowed_by_some_rules_is_allowed_by_wider_ones(bits: u128, network in block()) {
        let (usual, address) = (Rules::default(), within(network, bits));
        let open = Rules { allowed_networks: vec![network], ..Rules::default() };
        let both = [IpAddr::from(Ipv6Addr::from_bits(bits)), address];
        for address in both {
            prop_assert!(usual.check_address(address).is_err() || open.check_address(address).is_ok());
        }
    }

    /// Whatever is made of pieces that have fooled parsers: what was judged is what is called.
    #[test]
    fn the_url_that_was_judged_is_the_url_that_is_called(
        pieces in vec(select(PIECES.to_vec()), 1..12),
        scheme in select(vec!["https://", "http://", "HTTPS://", "https:", "//", ""]),
    ) {
        let text = scheme.to_owned() + &pieces.concat();
        let rules = rules("--allow-http-callbacks --allow-callback-port any");
        let Ok(url) = rules.check_url(&text) else { return Ok(()) };
        let uri = url.uri();
        prop_assert_eq!(uri.host(), Some(url.host()));
        prop_assert_eq!(uri.to_string(), url.as_str());
        let implied = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        prop_assert_eq!(uri.port_u16().unwrap_or(implied), url.port());
        // It is read again for each attempt, and must then be what it was.
        let again = rules.check_url(url.as_str());
        prop_assert_eq!(again.as_ref(), Ok(&url));
        // The client dials this host itself where it takes it for an address.
        let host = url.host();
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if let Ok(address) = literal {
            prop_assert!(rules.check_address(address).is_ok(), "{}", text);
        } else {
            let name = rustls::pki_types::ServerName::try_from(host.to_owned());
            prop_assert!(matches!(name, Ok(rustls::pki_types::ServerName::DnsName(_))), "{}", host);
        }
    }
}

const PIECES: &[&str] = &[
    "app",
    "example",
    "com",
    ".",
    "..",
    ":",
    "/",
    "//",
    "@",
    "#",
    "?",
    "\\",
    "%",
    "%2f",
    "%40",
    "%00",
    "%23",
    "%5c",
    "%e3%80%82",
    "[",
    "]",
    "[::1]",
    "[::ffff:7f00:1]",
    "::",
    "127",
    "0",
    "0x7f",
    "0177",
    "1",
    "8.8.8.8",
    "127.0.0.1",
    "2130706433",
    "localhost",
    "443",
    "80",
    "65536",
    "xn--",
    "xn--mnchen-3ya",
    "ü",
    "。",
    "．",
    "１",
    "ⓛ",
    "\u{ad}",
    "\u{200d}",
    "\u{202e}",
    "-",
    "_",
    "~",
    "!",
    "*",
    ",",
    ";",
    "=",
    "&",
    "'",
    "\"",
    "`",
    "{",
    "}",
    "|",
    "^",
    "<",
    ">",
    "+",
    "\t",
    " ",
    "A",
    "metadata.google.internal",
];
