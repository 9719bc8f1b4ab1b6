//! Every case by its name: `tests/data/egress`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use engagement_bridge::courier::egress::{Block, RefusalCode, Rules, Step};

use super::{guard, rules, table};

const ADDRESSES: &str = include_str!("../../data/egress/addresses.txt");
const URLS: &str = include_str!("../../data/egress/urls.txt");
const RULES: &str = include_str!("../../data/egress/rules.txt");

/// The text as it is meant, with what cannot be seen.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap().to_owned();
    while let Some(part) = parts.next() {
        let (character, rest) = match part.chars().next() {
            None => ('\\', parts.next().unwrap_or_default()),
            Some('t') => ('\t', &part[1..]),
            Some('n') => ('\n', &part[1..]),
            Some('r') => ('\r', &part[1..]),
            Some('0') => ('\0', &part[1..]),
            Some('u') => {
                let (digits, rest) = part[1..].split_once('}').unwrap();
                let digits = digits.strip_prefix('{').unwrap();
                (char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap(), rest)
            }
            Some(other) => panic!("\\{other} in {text}"),
        };
        plain.push(character);
        plain.push_str(rest);
    }
    plain
}

fn verdict(rules: &Rules, url: &str) -> String {
    match rules.check_url(url) {
        Ok(_) => "allowed".to_owned(),
        Err(refusal) => refusal.code().as_str().to_owned(),
    }
}

#[track_caller]
fn assert_none(complaints: &str) {
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn there_are_hundreds_of_cases() {
    let cases = [table::<4>(ADDRESSES).len(), table::<3>(URLS).len(), table::<4>(RULES).len()];
    assert!(300 < cases[0] && 200 < cases[1] && 100 < cases[2], "{cases:?}");
}

#[tokio::test]
async fn every_address_of_the_table_is_judged_as_it_says() {
    let guard = guard(Rules::default());
    let mut complaints = String::new();
    for [name, address, expected, block] in table(ADDRESSES) {
        let address: IpAddr = address.parse().unwrap();
        let url = match address {
            IpAddr::V4(address) => format!("https://{address}/"),
            IpAddr::V6(address) => format!("https://[{address}]/"),
        };
        let explained = guard.explain(&url).await;
        let looked = explained.looked.iter().find(|it| it.at.as_str() == "address").unwrap();
        let code = looked.refusal.as_ref().map_or("allowed", |it| it.code().as_str());
        let blocks = looked.faces.iter().filter_map(|face| face.block);
        let found = blocks.map(|block| block.network.to_string()).next();
        let found = found.as_deref().unwrap_or("-");
        if (code, found) != (expected, block) || verdict(&Rules::default(), &url) != expected {
            writeln!(complaints, "{name}: {address} is {code} in {found}").unwrap();
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_url_of_the_table_is_judged_as_it_says() {
    let rules = Rules::default();
    let mut complaints = String::new();
    for [name, url, expected] in table(URLS) {
        let url = unescaped(url);
        let code = verdict(&rules, &url);
        if code != expected {
            writeln!(complaints, "{name}: {url:?} is {code}").unwrap();
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_rule_of_the_table_does_what_it_says() {
    let mut complaints = String::new();
    for [name, flags, url, expected] in table(RULES) {
        let code = verdict(&rules(&unescaped(flags)), &unescaped(url));
        if code != expected {
            writeln!(complaints, "{name}: {flags} {url} is {code}").unwrap();
        }
    }
    assert_none(&complaints);
}

#[test]
fn no_code_and_no_block_is_without_a_case() {
    let urls = table::<3>(URLS).into_iter().map(|[_, _, code]| code);
    let by_rules = table::<4>(RULES).into_iter().map(|[_, _, _, code]| code);
    let codes: BTreeSet<_> = urls.chain(by_rules).collect();
    let all = RefusalCode::ALL.map(RefusalCode::as_str);
    let missing = all.into_iter().filter(|code| !codes.contains(code));
    // The one takes 2,049 bytes, the other a name server.
    assert_eq!(missing.collect::<Vec<_>>(), ["tooLong", "hostNotFound"]);

    let listed: BTreeSet<_> = table::<4>(ADDRESSES).into_iter().map(|row| row[3]).collect();
    let known: BTreeSet<_> = Block::all().map(|block| block.network.to_string()).collect();
    assert_eq!(listed, known.iter().map(String::as_str).chain(["-"]).collect());
}

#[test]
fn no_block_is_hidden_behind_a_wider_one() {
    let blocks: Vec<_> = Block::all().collect();
    for (place, block) in blocks.iter().enumerate() {
        for before in &blocks[..place] {
            assert!(!before.network.contains(&block.network), "{block:?} is behind {before:?}");
        }
    }
}

#[test]
fn a_url_has_room_for_so_much() {
    let rules = Rules::default();
    let of_length = |length: usize| format!("https://app.example.com/{}", "a".repeat(length - 24));
    assert_eq!(verdict(&rules, &of_length(2_048)), "allowed");
    assert_eq!(verdict(&rules, &of_length(2_049)), "tooLong");
    let encoded = |letters: usize| format!("https://app.example.com/{}", "ü".repeat(letters));
    assert_eq!(verdict(&rules, &encoded(337)), "allowed");
    assert_eq!(verdict(&rules, &encoded(338)), "tooLong");
}

#[test]
fn what_is_kept_of_a_url_is_what_it_became() {
    let rules = Rules::default();
    for (text, kept) in [
        ("HTTPS://0x08080808:443/x", "https://8.8.8.8/x"),
        ("https://\u{ff18}.8.8.8:8443", "https://8.8.8.8:8443/"),
        ("https://APP.example.com/a/../b?c", "https://app.example.com/b?c"),
        ("https://[2606:4700::0:0:1111]/ü", "https://[2606:4700::1111]/%C3%BC"),
    ] {
        assert_eq!(rules.check_url(text).unwrap().as_str(), kept);
    }
}

#[tokio::test]
async fn an_explanation_says_why_step_by_step_and_goes_on_where_the_verdict_stops() {
    let guard = guard(rules("--deny-callback-host 10.0.0.7"));
    let explained = guard.explain("http://me@10.0.0.7:81/#x").await;
    let seen: Vec<_> = explained
        .looked
        .iter()
        .map(|it| {
            let code = it.refusal.as_ref().map_or("ok", |refusal| refusal.code().as_str());
            format!("{}: {} {code}", it.at.as_str(), it.finding)
        })
        .collect();
    assert_eq!(
        seen,
        [
            "url: http://me@10.0.0.7:81/#x ok",
            "scheme: http notHttps",
            "userInfo: present userInfo",
            "fragment: present fragment",
            "port: 81 portNotAllowed",
            "host: 10.0.0.7 hostDenied",
            "address: 10.0.0.7: private (10.0.0.0/8, RFC 1918) addressRefused",
        ]
    );
    let broken = guard.explain("https://[::1").await;
    let [looked] = broken.looked.as_slice() else { panic!("{broken:?}") };
    assert_eq!(looked.at, Step::Url);
    let embedded = guard.explain("https://[2002:a9fe:a9fe::]/").await;
    let last = embedded.looked.last().unwrap();
    assert_eq!(
        last.finding,
        "2002:a9fe:a9fe::: 6to4 (2002::/16, RFC 3056); 169.254.169.254 (by 6to4) is the metadata \
         service of clouds (169.254.169.254/32, AWS, Azure, Google Cloud, Oracle Cloud)"
    );
}
