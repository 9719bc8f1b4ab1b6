//! The guard's word on addresses against that of Python's `ipaddress`, which reads the same registries
//! and was written by others.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use engagement_bridge::courier::egress::{Block, Rules};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::{outside, run};

/// Who is stricter: we or Python, in any version of it or in some.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stricter {
    We,
    WeThanSome,
    Python,
    SomePython,
}

use Stricter::{Python, SomePython, We, WeThanSome};

/// Where the two differ, and why.
const DIFFERENCES: &[(&str, Stricter, &str)] = &[
    ("168.63.129.16/32", We, "a public address, by which machines at Azure reach its platform"),
    (
        "192.0.0.0/24",
        We,
        "older Pythons know parts of it, newer ones take two anycast addresses out",
    ),
    ("192.31.196.0/24", We, "globally reachable, but AS112 answers for reverse zones only"),
    ("192.52.193.0/24", We, "globally reachable, but a relay of multicast"),
    ("192.88.99.0/24", We, "deprecated, and since without a word on whether it is reachable"),
    ("192.175.48.0/24", We, "globally reachable, but AS112 again"),
    ("2001::/23", WeThanSome, "newer Pythons take out what is reachable: anycast and identifiers"),
    ("2002::/16", WeThanSome, "neither reachable nor not; private to newer Pythons"),
    ("2620:4f:8000::/48", We, "globally reachable, but AS112 again"),
    ("3fff::/20", WeThanSome, "set apart in 2024, which older Pythons have not heard of"),
    ("::ffff:0:0/96", SomePython, "private to older Pythons; we judge the IPv4 address"),
    ("::/96", Python, "reserved; we judge the IPv4 address"),
    ("64:ff9b::/96", Python, "reserved; we judge the IPv4 address"),
];

/// Addresses drawn without chance, the same in every run.
struct Drawn(u64);

impl Drawn {
    fn bits(&mut self) -> u128 {
        self.0 += 1;
        let digest = Sha256::digest(self.0.to_be_bytes());
        u128::from_be_bytes(digest[..16].try_into().unwrap())
    }
}

/// The first and the last of a network, their neighbours, and some within.
fn around(network: IpNet, drawn: &mut Drawn) -> Vec<IpAddr> {
    let (first, last, is_v4) = match network {
        IpNet::V4(it) => (it.network().to_bits().into(), it.broadcast().to_bits().into(), true),
        IpNet::V6(it) => (it.network().to_bits(), it.broadcast().to_bits(), false),
    };
    let address = |bits: u128| match u32::try_from(bits) {
        Ok(bits) if is_v4 => Some(IpAddr::from(Ipv4Addr::from_bits(bits))),
        Err(_) if is_v4 => None,
        Ok(_) | Err(_) => Some(Ipv6Addr::from_bits(bits).into()),
    };
    let mut all = vec![first.checked_sub(1), Some(first), Some(last), last.checked_add(1)];
    all.extend((0..20).map(|_| Some(first | (drawn.bits() & (last ^ first)))));
    all.into_iter().flatten().filter_map(address).collect()
}

fn sample() -> BTreeSet<IpAddr> {
    let mut drawn = Drawn(0);
    let mut all = BTreeSet::new();
    let differing = DIFFERENCES.iter().map(|(network, ..)| network.parse().unwrap());
    for network in Block::all().map(|block| block.network).chain(differing) {
        all.extend(around(network, &mut drawn));
    }
    for _ in 0..10_000 {
        let bits = drawn.bits();
        let v4 = u32::try_from(bits >> 96).unwrap();
        all.insert(Ipv4Addr::from_bits(v4).into());
        all.insert(Ipv6Addr::from_bits(bits).into());
        all.insert(Ipv6Addr::from_bits(bits >> 3 | 1 << 125).into());
        for form in [0, 0xffff << 32, 0x0064_ff9b << 96] {
            all.insert(Ipv6Addr::from_bits(form | u128::from(v4)).into());
        }
    }
    all
}

#[test]
fn python_and_the_guard_agree_on_addresses_but_for_what_is_explained() {
    let all = sample();
    assert!(50_000 < all.len());
    let input: String = all.iter().fold(String::new(), |mut text, address| {
        writeln!(text, "{address}").unwrap();
        text
    });
    let mut python = Command::new("python3");
    python.arg(outside().join("addresses.py"));
    let verdicts = run(python, &input);
    assert_eq!(verdicts.lines().count(), all.len());

    let (rules, mut met, mut complaints) = (Rules::default(), BTreeSet::new(), String::new());
    for (address, verdict) in all.iter().zip(verdicts.lines()) {
        let (ours, theirs) = (rules.check_address(*address).is_ok(), verdict == "1");
        if ours == theirs {
            continue;
        }
        let explained = DIFFERENCES.iter().find(|(network, stricter, _)| {
            let network: IpNet = network.parse().unwrap();
            let is_within = network.contains(address) || network.contains(&address.to_canonical());
            is_within && matches!(stricter, Python | SomePython) == ours
        });
        match explained {
            Some((network, ..)) => drop(met.insert(*network)),
            None => writeln!(complaints, "{address}: {ours} to us, {theirs} to Python").unwrap(),
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
    for (network, stricter, why) in DIFFERENCES {
        let may_be_missing = matches!(stricter, WeThanSome | SomePython);
        let is_met = may_be_missing || met.contains(network);
        assert!(is_met, "{network} is no difference any more: {why}");
    }
}
