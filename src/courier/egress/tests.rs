use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::stand_in::{SetClock, SilentNames, ToldNames};
use super::*;

/// The IANA Special-Purpose Address Registries, multicast, site-local addresses, whatever of IPv6
/// is not `2000::/3`, and Azure's metadata service. Forms that hold an IPv4 address are missing:
/// they are judged by that.
const REFUSED: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::/3",
    "4000::/2",
    "8000::/1",
];

/// Spellings of 127.0.0.1 that a URL parser takes, and names that mean it.
const LOOPBACK: &[&str] = &[
    "127.0.0.1",
    "127.0.0.1.",
    "2130706433",
    "0177.0.0.1",
    "017700000001",
    "0x7f000001",
    "0X7F.0x0.0.0x1",
    "127.1",
    "127.0.1",
    "\u{ff11}\u{ff12}\u{ff17}.0.0.\u{ff11}",
    "127\u{3002}0\u{ff0e}0\u{ff61}1",
    "%31%32%37.0.0.1",
    "127%2e0%2E0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7F00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:FF9B::7F00:0001]",
    "localhost",
    "LocalHost",
    "localhost.",
    "localhost..",
    "%6Cocalhost",
    "\u{ff4c}ocalhost",
    "app.localhost",
    "a.b.LOCALHOST.",
];

/// Spellings of 8.8.8.8, and forms of IPv6 that hold it.
const PUBLIC: &[&str] = &[
    "8.8.8.8",
    "8.8.8.8.",
    "134744072",
    "0x08080808",
    "010.010.010.010",
    "8.8.2056",
    "[::ffff:8.8.8.8]",
    "[::8.8.8.8]",
    "[64:ff9b::808:808]",
];

struct Guard {
    egress: Egress,
    names: Arc<ToldNames>,
    clock: Arc<SetClock>,
}

fn egress(allow_http: bool, allowed: &[&str]) -> Egress {
    let allowed = allowed.iter().map(|network| network.parse().unwrap()).collect();
    let clock = SetClock::at(Timestamp::UNIX_EPOCH);
    Egress::new(allow_http, allowed, Arc::new(ToldNames::default()), Arc::new(clock))
}

fn guard() -> Guard {
    let names = Arc::new(ToldNames::default());
    let clock = Arc::new(SetClock::at(Timestamp::UNIX_EPOCH));
    let (resolver, time) = (Arc::clone(&names), Arc::clone(&clock));
    Guard { egress: Egress::new(false, Vec::new(), resolver, time), names, clock }
}

impl Guard {
    /// The code of the refusal of a host, if it is refused.
    async fn verdict(&self, host: &str) -> Option<&'static str> {
        let url = self.egress.check_url(&format!("https://{host}/")).unwrap();
        self.egress.check_host(&url).await.err().map(|refusal| refusal.as_str())
    }
}

fn code(egress: &Egress, url: &str) -> Option<&'static str> {
    egress.check_url(url).err().map(|refusal| refusal.as_str())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn first_and_last(network: &IpNet) -> [IpAddr; 2] {
    [network.network(), network.broadcast()]
}

/// The addresses before and behind a network, where there are some.
fn neighbours(network: &IpNet) -> Vec<IpAddr> {
    match first_and_last(network) {
        [IpAddr::V4(first), IpAddr::V4(last)] => {
            let (before, behind) = (first.to_bits().checked_sub(1), last.to_bits().checked_add(1));
            before.into_iter().chain(behind).map(|it| Ipv4Addr::from_bits(it).into()).collect()
        }
        [IpAddr::V6(first), IpAddr::V6(last)] => {
            let (before, behind) = (first.to_bits().checked_sub(1), last.to_bits().checked_add(1));
            before.into_iter().chain(behind).map(|it| Ipv6Addr::from_bits(it).into()).collect()
        }
        mixed => panic!("{mixed:?}"),
    }
}

/// The forms of IPv6 that a packet to `inner` may be sent by.
fn holding(inner: Ipv4Addr) -> Vec<IpAddr> {
    let [high, low] = [inner.to_bits() >> 16, inner.to_bits() & 0xffff];
    ["::ffff:", "::", "64:ff9b::"].map(|form| ip(&format!("{form}{high:x}:{low:x}"))).into()
}

#[test]
fn what_the_registries_set_apart_is_refused_from_its_first_address_to_its_last() {
    let egress = egress(false, &[]);
    let refused: Vec<IpNet> = REFUSED.iter().map(|network| network.parse().unwrap()).collect();
    let mut listed: Vec<IpNet> = addresses::SPECIAL.iter().map(|(network, _)| *network).collect();
    listed.sort_unstable();
    let mut expected = refused.clone();
    expected.sort_unstable();
    assert_eq!(listed, expected);

    let is_refused = |address| egress.check_address(address).is_err();
    let (mut inside, mut outside) = (0, 0);
    for network in &refused {
        for address in first_and_last(network) {
            assert!(is_refused(address), "{address} of {network}");
            inside += 1;
        }
        for address in neighbours(network) {
            if !refused.iter().any(|network| network.contains(&address)) {
                assert!(!is_refused(address), "{address} beside {network}");
                outside += 1;
            }
        }
    }
    assert_eq!((inside, outside), (2 * REFUSED.len(), 46));
}

#[test]
fn an_address_within_an_address_is_judged_by_the_inner_one() {
    let egress = egress(false, &[]);
    for network in REFUSED.iter().map(|network| network.parse::<IpNet>().unwrap()) {
        let within = first_and_last(&network).into_iter().chain(neighbours(&network));
        for address in within {
            let IpAddr::V4(inner) = address else { continue };
            for outer in holding(inner) {
                assert_eq!(
                    egress.check_address(outer).is_err(),
                    egress.check_address(address).is_err(),
                    "{outer} holds {inner}"
                );
            }
        }
    }
    for unspecified in ["::", "::1", "::ffff:0:0", "64:ff9b::", "::ffff:0:808:808"] {
        assert!(egress.check_address(ip(unspecified)).is_err(), "{unspecified}");
    }
}

#[test]
fn where_clouds_keep_their_metadata_is_refused() {
    let egress = egress(false, &[]);
    let services = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"];
    for service in services.into_iter().chain(["fd00:ec2::254", "fd20:ce::254"]) {
        assert!(egress.check_address(ip(service)).is_err(), "{service}");
    }
}

#[test]
fn a_literal_is_judged_by_what_its_spelling_becomes() {
    let egress = egress(false, &[]);
    for host in LOOPBACK {
        let url = format!("https://{host}/hooks");
        assert_eq!(code(&egress, &url), Some("addressRefused"), "{url}");
    }
    for host in PUBLIC {
        let url = format!("https://{host}/hooks");
        assert_eq!(code(&egress, &url), None, "{url}");
    }
    for unspecified in ["0", "0x0", "0.0.0.0", "[::]"] {
        let url = format!("https://{unspecified}/hooks");
        assert_eq!(code(&egress, &url), Some("addressRefused"), "{url}");
    }
    assert_eq!(egress.check_url("HTTPS://0x08080808:443/x").unwrap().as_str(), "https://8.8.8.8/x");
}

#[test]
fn what_only_resembles_an_address_or_localhost_is_a_name_or_no_url() {
    let egress = egress(false, &[]);
    for name in ["notlocalhost", "localhost.example.com", "127.0.0.1.example.com", "0x7f.example"] {
        assert_eq!(code(&egress, &format!("https://{name}/")), None, "{name}");
    }
    let broken =
        ["256.0.0.1", "1.2.3.4.5", "0x100000000", "08.8.8.8", "127.0.0.1%00", "[fe80::1%25eth0]"];
    for host in broken.into_iter().chain(["[fe80::1%eth0]", "[127.0.0.1]", "[::1", "::1", ""]) {
        assert_eq!(code(&egress, &format!("https://{host}/")), Some("notAUrl"), "{host}");
    }
}

#[test]
fn each_fault_of_a_url_has_a_code_of_its_own() {
    let egress = egress(false, &[]);
    let of_length = |length: usize| format!("https://app.example.com/{}", "a".repeat(length - 24));
    assert_eq!(code(&egress, &of_length(2_048)), None);
    assert_eq!(code(&egress, &of_length(2_049)), Some("tooLong"));
    for (url, expected) in [
        ("https://app.example.com/hooks?key=1", None),
        ("https://app.example.com:8443/", None),
        ("https://app.example.com/a%20b", None),
        ("/hooks", Some("notAUrl")),
        ("app.example.com/hooks", Some("notAUrl")),
        ("https://app.example.com:65536/", Some("notAUrl")),
        ("http://app.example.com/", Some("notHttps")),
        ("ftp://app.example.com/", Some("schemeNotAllowed")),
        ("file:///etc/passwd", Some("schemeNotAllowed")),
        ("gopher://127.0.0.1/", Some("schemeNotAllowed")),
        ("data:text/plain,hello", Some("schemeNotAllowed")),
        ("javascript:alert(1)", Some("schemeNotAllowed")),
        ("https://user@app.example.com/", Some("userInfo")),
        ("https://:secret@app.example.com/", Some("userInfo")),
        ("https://app.example.com@8.8.8.8/", Some("userInfo")),
        ("https://app.example.com/#top", Some("fragment")),
        ("https://app.example.com/#", Some("fragment")),
        ("https://app.example.com:0/", Some("portNotAllowed")),
    ] {
        assert_eq!(code(&egress, url), expected, "{url}");
    }
}

#[test]
fn what_the_parser_would_take_out_in_silence_is_refused() {
    let egress = egress(false, &[]);
    for odd in ["\t", "\n", "\r", "\0", "\x1f", "\x7f", " "] {
        for url in [
            format!("{odd}https://app.example.com/"),
            format!("https://app.exa{odd}mple.com/"),
            format!("https://app.example.com/hooks{odd}"),
        ] {
            assert_eq!(code(&egress, &url), Some("notAUrl"), "{url:?}");
        }
    }
}

#[test]
fn http_goes_only_where_the_operator_allows_it() {
    let open = egress(true, &[]);
    assert_eq!(code(&open, "http://app.example.com/"), None);
    assert_eq!(code(&open, "https://app.example.com/"), None);
    assert_eq!(code(&open, "ws://app.example.com/"), Some("schemeNotAllowed"));
    assert_eq!(code(&open, "http://localhost/"), Some("addressRefused"));
}

#[test]
fn an_allowed_network_opens_what_it_says_and_no_more() {
    let egress = egress(false, &["10.1.0.0/16", "fd00:7::/64", "127.0.0.1/32"]);
    let open = ["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00:7::9"];
    for address in open.into_iter().chain(["127.0.0.1", "8.8.8.8"]) {
        assert_eq!(egress.check_address(ip(address)), Ok(()), "{address}");
    }
    let closed = ["10.0.255.255", "10.2.0.0", "::ffff:10.2.0.0", "fd00:7:0:1::9", "127.0.0.2"];
    for address in closed.into_iter().chain(["::1", "fc00::1"]) {
        assert!(egress.check_address(ip(address)).is_err(), "{address}");
    }
    assert_eq!(code(&egress, "https://0x0a010203/"), None);
    assert_eq!(code(&egress, "https://[::ffff:10.1.2.3]/"), None);
    assert_eq!(code(&egress, "https://localhost/"), None);
}

#[test]
fn neither_code_nor_debug_tells_a_path() {
    let egress = egress(false, &[]);
    let url = egress.check_url("https://app.example.com/hooks/s3cret?key=s3cret").unwrap();
    assert_eq!(format!("{url:?}"), "CallbackUrl(https://app.example.com:443/..)");
    let refusal = egress.check_url("https://127.1/hooks/s3cret?key=s3cret").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "127.0.0.1 is loopback, and the operator does not allow it",
        "{refusal:?}"
    );
}

#[tokio::test]
async fn one_bad_address_among_good_ones_refuses_the_name() {
    let guard = guard();
    guard.names.tell("good.example", &["8.8.8.8", "2606:4700::1111"]);
    guard.names.tell("mixed.example", &["8.8.8.8", "2606:4700::1111", "10.0.0.7"]);
    guard.names.tell("mapped.example", &["8.8.8.8", "::ffff:169.254.169.254"]);
    assert_eq!(guard.verdict("good.example").await, None);
    assert_eq!(guard.verdict("mixed.example").await, Some("addressRefused"));
    assert_eq!(guard.verdict("mapped.example").await, Some("addressRefused"));
    assert_eq!(guard.verdict("absent.example").await, Some("hostNotFound"));

    let dialled = guard.egress.resolve("good.example").await.unwrap();
    assert_eq!(dialled, [ip("8.8.8.8"), ip("2606:4700::1111")]);
    let refused = guard.egress.resolve("mixed.example").await.unwrap_err();
    let address = ip("10.0.0.7");
    assert!(
        matches!(refused, NotDialled::Refused(refused) if refused.address == address),
        "{refused:?}"
    );
}

#[tokio::test]
async fn literals_are_not_looked_up() {
    let guard = guard();
    assert_eq!(guard.verdict("8.8.8.8").await, None);
    assert_eq!(guard.verdict("[2606:4700::1111]").await, None);
    assert_eq!(guard.names.asked(), 0);
}

#[tokio::test]
async fn a_resolver_in_trouble_refuses_nobody_and_is_asked_again() {
    let guard = guard();
    for trouble in [LookupError::TimedOut, LookupError::Unavailable("refused".to_owned())] {
        guard.names.fail("app.example", trouble);
        assert_eq!(guard.verdict("app.example").await, None);
    }
    guard.names.tell("app.example", &["10.0.0.7"]);
    assert_eq!(guard.verdict("app.example").await, Some("addressRefused"));
    assert_eq!(guard.names.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_silent_resolver_is_waited_for_so_long_and_no_longer() {
    let clock = Arc::new(SetClock::at(Timestamp::UNIX_EPOCH));
    let egress = Egress::new(false, Vec::new(), Arc::new(SilentNames), clock);
    let url = egress.check_url("https://app.example/").unwrap();
    let began_at = tokio::time::Instant::now();
    assert!(egress.check_host(&url).await.is_ok());
    let waited = began_at.elapsed();
    assert!((PATIENCE..PATIENCE * 2).contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn a_verdict_is_remembered_for_thirty_seconds() {
    let guard = guard();
    guard.names.tell("good.example", &["8.8.8.8"]);
    guard.names.tell("bad.example", &["127.0.0.1"]);
    let hosts = ["good.example", "bad.example", "absent.example"];
    let before = [None, Some("addressRefused"), Some("hostNotFound")];
    for (host, expected) in hosts.into_iter().zip(before) {
        assert_eq!(guard.verdict(host).await, expected, "{host}");
    }
    guard.names.tell("good.example", &["127.0.0.1"]);
    guard.names.tell("bad.example", &["8.8.8.8"]);
    guard.names.tell("absent.example", &["8.8.8.8"]);

    guard.clock.advance(Duration::from_millis(29_999));
    for (host, expected) in hosts.into_iter().zip(before) {
        assert_eq!(guard.verdict(host).await, expected, "{host}");
    }
    assert_eq!(guard.names.asked(), 3);
    guard.clock.advance(Duration::from_millis(1));
    for (host, expected) in hosts.into_iter().zip([Some("addressRefused"), None, None]) {
        assert_eq!(guard.verdict(host).await, expected, "{host}");
    }
    assert_eq!(guard.names.asked(), 6);
}

#[tokio::test]
async fn an_attempt_looks_again_whatever_is_remembered() {
    let guard = guard();
    guard.names.tell("app.example", &["8.8.8.8"]);
    assert_eq!(guard.verdict("app.example").await, None);
    guard.names.tell("app.example", &["127.0.0.1"]);
    let refused = guard.egress.resolve("app.example").await.unwrap_err();
    assert!(matches!(refused, NotDialled::Refused(_)), "{refused:?}");
}

#[tokio::test]
async fn no_more_than_so_many_verdicts_are_remembered() {
    let guard = guard();
    let remembered = || guard.egress.remembered.lock().unwrap().len();
    for n in 0..MOST_REMEMBERED + 5 {
        guard.verdict(&format!("n{n}.example")).await;
    }
    assert_eq!(remembered(), MOST_REMEMBERED);
    // Those that found no room are right all the same.
    guard.names.tell("late.example", &["127.0.0.1"]);
    assert_eq!(guard.verdict("late.example").await, Some("addressRefused"));

    guard.clock.advance(REMEMBERED_FOR);
    guard.verdict("next.example").await;
    assert_eq!(remembered(), 1);
}
