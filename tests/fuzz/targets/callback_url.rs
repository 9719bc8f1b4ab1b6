//! A callback URL that is taken leads to a public address or a name, by a scheme that is allowed.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use engagement_bridge::clock::SystemClock;
use engagement_bridge::courier::Egress;
use engagement_bridge::courier::egress::{Ports, Rules};
use engagement_bridge::names::{LookupError, Names};
use libfuzzer_sys::fuzz_target;

struct NoNames;

#[async_trait]
impl Names for NoNames {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, LookupError> {
        Err(LookupError::NotFound)
    }
}

static STRICT: LazyLock<Egress> = LazyLock::new(|| egress(false));
static LENIENT: LazyLock<Egress> = LazyLock::new(|| egress(true));

fn egress(allow_http: bool) -> Egress {
    let rules = Rules { allow_http, ports: Ports::Any, ..Rules::default() };
    Egress::new(rules, Arc::new(NoNames), Arc::new(SystemClock))
}

/// By the standard library's lists, which are shorter than the product's and not written by us.
fn is_internal(address: Ipv4Addr) -> bool {
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_documentation()
}

fn is_internal_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.to_ipv4().is_some_and(is_internal)
}

fuzz_target!(|text: &str| {
    let strict = STRICT.check_url(text);
    let lenient = LENIENT.check_url(text);
    if let Ok(url) = &strict {
        assert!(url.as_str().starts_with("https://"), "{text}");
        assert_eq!(strict, lenient, "what http is allowed for is another matter");
    }
    let Ok(url) = lenient else { return };
    // It is looked at again before each attempt, and must then be what it was.
    assert_eq!(LENIENT.check_url(url.as_str()).as_ref(), Ok(&url), "{}", url.as_str());

    let (scheme, rest) = url.as_str().split_once("://").unwrap();
    assert!(matches!(scheme, "https" | "http"), "{text}");
    assert!(text[..scheme.len()].eq_ignore_ascii_case(scheme), "{text}");
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    assert!(!authority.contains('@') && !rest.contains('#'), "{text}");
    let host = url.host();
    let port = authority.strip_prefix(host).unwrap_or_else(|| panic!("{authority}: {host}"));
    assert!(port.is_empty() || port.starts_with(':') && port != ":0", "{text}");
    assert!(url.origin().starts_with(&format!("{scheme}://{host}:")), "{text}");

    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match literal.parse() {
        Ok(IpAddr::V4(address)) => assert!(!is_internal(address), "{text}"),
        Ok(IpAddr::V6(address)) => assert!(!is_internal_v6(address), "{text}"),
        // No resolver takes it for an address all the same, and none for no name at all.
        Err(_) => {
            let name = host.strip_suffix('.').unwrap_or(host);
            let labels: Vec<_> = name.split('.').collect();
            assert!(labels.iter().all(|label| (1..=63).contains(&label.len())), "{text}");
            let last = labels.last().unwrap();
            assert!(!last.bytes().all(|b| b.is_ascii_digit()), "{text}");
            assert!(!last.eq_ignore_ascii_case("localhost"), "{text}");
        }
    }
});
