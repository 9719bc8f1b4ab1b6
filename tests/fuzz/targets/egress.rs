//! Whatever a URL says and whatever its name resolves to: nothing leads inside, by any rules that do
//! not open what is inside.
//!
//! An input is a byte that chooses rules, a byte that counts answers, the answers (a byte, odd for
//! IPv6, and the address), and the URL.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use engagement_bridge::clock::SystemClock;
use engagement_bridge::courier::Egress;
use engagement_bridge::courier::egress::{Ports, Rules, Verdict};
use engagement_bridge::names::{LookupError, Names};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());

/// Answers with these, and keeps what it was asked for.
struct Answers {
    addresses: Vec<IpAddr>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Names for Answers {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        self.asked.lock().unwrap().push(host.to_owned());
        if self.addresses.is_empty() {
            Err(LookupError::NotFound)
        } else {
            Ok(self.addresses.clone())
        }
    }
}

fn taken<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(taken)
}

fn address(input: &mut &[u8]) -> Option<IpAddr> {
    if taken(input, 1)?[0] % 2 == 0 {
        let octets: [u8; 4] = taken(input, 4)?.try_into().ok()?;
        return Some(octets.into());
    }
    let octets: [u8; 16] = taken(input, 16)?.try_into().ok()?;
    Some(octets.into())
}

/// By the standard library's lists, which are shorter than the product's and not written by us.
fn is_inside(address: Ipv4Addr) -> bool {
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_documentation()
        || address == Ipv4Addr::new(168, 63, 129, 16)
}

/// With every IPv4 address that some form may hold.
fn is_inside_v6(address: Ipv6Addr) -> bool {
    let octets = address.octets();
    let inner =
        |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    let is_at_the_end = octets[..12] == [0; 12]
        || octets[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
        || octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]
        || octets[9..12] == [0, 0x5e, 0xfe] && octets[8] & !2 == 0;
    octets[0] & 0xe0 != 0x20 && !is_at_the_end
        || is_at_the_end && is_inside(inner(12))
        || octets[..2] == [0x20, 0x02] && is_inside(inner(2))
        || octets[..4] == [0x20, 0x01, 0, 0] && is_inside(inner(4))
}

fn leads_inside(address: &IpAddr) -> bool {
    match *address {
        IpAddr::V4(address) => is_inside(address),
        IpAddr::V6(address) => is_inside_v6(address),
    }
}

/// None of these opens anything that is inside.
fn rules(choice: u8, answers: &[IpAddr]) -> Rules {
    let mut rules = Rules { allow_http: choice & 1 != 0, ..Rules::default() };
    if choice & 2 != 0 {
        rules.ports = Ports::Any;
    }
    if choice & 4 != 0 {
        rules.allowed_hosts = vec!["*.example".parse().unwrap(), "8.8.8.8".parse().unwrap()];
    }
    if choice & 8 != 0 {
        rules.denied_networks = answers.iter().take(1).map(|it| (*it).into()).collect();
    }
    if choice & 16 != 0 {
        rules.allowed_networks =
            vec!["198.18.0.0/15".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    }
    rules
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let Some(&[choice, count]) = taken(&mut input, 2) else { return };
    let mut answers = Vec::new();
    for _ in 0..count % 8 {
        let Some(address) = address(&mut input) else { return };
        answers.push(address);
    }
    let Ok(text) = std::str::from_utf8(input) else { return };

    let rules = rules(choice, &answers);
    let names = Arc::new(Answers { addresses: answers.clone(), asked: Mutex::default() });
    let guard = Egress::new(rules.clone(), Arc::clone(&names) as _, Arc::new(SystemClock));
    let verdict = RUNTIME.block_on(guard.check(text));
    let asked = std::mem::take(&mut *names.asked.lock().unwrap());
    let explained = RUNTIME.block_on(guard.explain(text));

    // An explanation is of the verdict, and of no other.
    match (&verdict, &explained.verdict) {
        (Ok(_), Verdict::Allowed) => {}
        (Err(refusal), Verdict::Refused(explained)) => assert_eq!(refusal, explained, "{text}"),
        other => panic!("{text}: {other:?}"),
    }
    let Ok(url) = verdict else { return };
    assert_eq!(url.uri().host(), Some(url.host()), "{text}");
    assert_eq!(url.uri().to_string(), url.as_str(), "{text}");
    let host = url.host();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => {
            assert!(asked.is_empty() && !leads_inside(&address), "{text}");
            assert!(!rules.denied_networks.iter().any(|it| it.contains(&address)), "{text}");
        }
        // It was asked for once, and all that was answered may be dialled.
        Err(_) => {
            assert_eq!(asked, [format!("{}.", host.trim_end_matches('.'))], "{text}");
            assert!(
                !answers.is_empty() && !answers.iter().any(leads_inside),
                "{text}: {answers:?}"
            );
            assert!(rules.denied_networks.is_empty(), "{text}: {answers:?}");
        }
    }
});
