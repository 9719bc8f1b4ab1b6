//! Where no callback may go, none is registered for.

use serde_json::json;

use super::{Row, all_refused, fault, post};
use crate::world::World;

/// A registration that is in order but for its callback URL.
fn towards(name: &'static str, url: &str, code: &'static str) -> Row {
    let registration = json!({ "operation": "eyJf", "callbackUrl": url });
    (name, post("/v1/operations", &registration), fault("callbackUrl", code))
}

#[tokio::test(flavor = "multi_thread")]
async fn unless_the_operator_says_else_callbacks_go_by_https_to_public_addresses() {
    let world = World::begin_strict(&["--first-poll-after", "1h"]).await;
    let too_long = format!("https://8.8.8.8/{}", "a".repeat(2_033));
    let too_long_when_encoded = format!("https://8.8.8.8/{}", "ü".repeat(339));
    let long_label = format!("https://{}.example/", "a".repeat(64));
    let long_name = format!("https://{}example/", "a.".repeat(124));
    let of_form = [
        towards("nothing", "", "notAUrl"),
        towards("a path", "/hooks", "notAUrl"),
        towards("no host", "https://", "notAUrl"),
        towards("a port beyond all", "https://8.8.8.8:65536/", "notAUrl"),
        towards("port 0", "https://8.8.8.8:0/", "portNotAllowed"),
        towards("five numbers", "https://1.2.3.4.5/", "notAUrl"),
        towards("a number too great", "https://4294967296/", "notAUrl"),
        towards("a bracket", "https://[::1/", "notAUrl"),
        towards("a zone", "https://[fe80::1%25eth0]/", "notAUrl"),
        towards("a space", "https://8.8.8.8/a b", "notAUrl"),
        towards("a line break", "https://8.8.8.8/\r\nX: y", "notAUrl"),
        towards("a tab in the host", "https://8.8.\t8.8/", "notAUrl"),
        towards("a zero byte", "https://8.8.8.8/\0", "notAUrl"),
        towards("backslashes", "https:\\\\8.8.8.8\\hooks", "notAUrl"),
        towards("a backslash for an @", "https://8.8.8.8\\@127.0.0.1/", "notAUrl"),
        towards("no slashes", "https:8.8.8.8/hooks", "notAUrl"),
        towards("one slash", "https:/8.8.8.8/?next=https://8.8.8.8/", "notAUrl"),
        towards("three slashes", "https:///8.8.8.8/", "notAUrl"),
        towards("2049 bytes", &too_long, "tooLong"),
        towards("2050 bytes when it is encoded", &too_long_when_encoded, "tooLong"),
        towards("nothing between two dots", "https://app..example.com/", "notAUrl"),
        towards("an address with two dots at the end", "https://127.0.0.1../", "notAUrl"),
        towards("a label of 64 letters", &long_label, "notAUrl"),
        towards("a name of 255 letters", &long_name, "notAUrl"),
        towards("plain http", "http://8.8.8.8/", "notHttps"),
        towards("HTTP in capitals", "HTTP://8.8.8.8/", "notHttps"),
        towards("ftp", "ftp://8.8.8.8/", "schemeNotAllowed"),
        towards("a file", "file:///etc/passwd", "schemeNotAllowed"),
        towards("data", "data:text/plain,x", "schemeNotAllowed"),
        towards("script", "javascript:alert(1)", "schemeNotAllowed"),
        towards("a user", "https://me@8.8.8.8/", "userInfo"),
        towards("a password", "https://:secret@8.8.8.8/", "userInfo"),
        towards("a host before the real one", "https://8.8.8.8@127.0.0.1/", "userInfo"),
        towards("a fragment", "https://8.8.8.8/#x", "fragment"),
    ];
    all_refused(&world, &world.shop, &of_form).await;

    let addresses = [
        ("loopback", "127.0.0.1"),
        ("loopback, further on", "127.255.255.254"),
        ("loopback as one number", "2130706433"),
        ("loopback in hexadecimal", "0x7f000001"),
        ("loopback in octal", "017700000001"),
        ("loopback, each part in octal", "0177.0.0.01"),
        ("loopback in short", "127.1"),
        ("loopback with a dot at the end", "127.0.0.1."),
        ("loopback in full-width digits", "１２７.０.０.１"),
        ("loopback, percent-encoded", "%31%32%37.0.0.1"),
        ("loopback by name", "localhost"),
        ("loopback by name, with a dot", "LOCALHOST."),
        ("below the name of loopback", "anything.localhost"),
        ("nobody", "0.0.0.0"),
        ("nobody, in short", "0"),
        ("private, class A", "10.0.0.1"),
        ("private, class B", "172.31.255.255"),
        ("private, class C", "192.168.0.1"),
        ("behind a carrier", "100.64.0.1"),
        ("the metadata of most clouds", "169.254.169.254"),
        ("the metadata of most clouds, in hexadecimal", "0xa9fea9fe"),
        ("the metadata of Azure", "168.63.129.16"),
        ("multicast", "224.0.0.1"),
        ("broadcast", "255.255.255.255"),
        ("for documentation", "203.0.113.7"),
        ("loopback in IPv6", "[::1]"),
        ("nobody in IPv6", "[::]"),
        ("loopback, mapped", "[::ffff:127.0.0.1]"),
        ("loopback, mapped in hexadecimal", "[::ffff:7f00:1]"),
        ("metadata, mapped", "[::ffff:169.254.169.254]"),
        ("private, translated", "[64:ff9b::10.0.0.1]"),
        ("loopback, compatible", "[::127.0.0.1]"),
        ("link-local", "[fe80::1]"),
        ("unique local", "[fd00:ec2::254]"),
        ("6to4", "[2002:7f00:1::]"),
        ("Teredo", "[2001::1]"),
    ];
    let refused =
        addresses.map(|(name, host)| towards(name, &format!("https://{host}/x"), "addressRefused"));
    all_refused(&world, &world.shop, &refused).await;
    let nowhere = [towards("a name of no one", "https://hooks.invalid./", "hostNotFound")];
    all_refused(&world, &world.shop, &nowhere).await;

    let umlauts = format!("https://8.8.8.8/{}", "ü".repeat(338));
    world.shop.register(&json!({ "operation": "eyJf", "callbackUrl": umlauts })).await;
    for host in ["8.8.8.8", "134744072", "[2606:4700:4700::1111]", "[::ffff:8.8.8.8]"] {
        let url = format!("https://{host}/hooks?as={host}");
        world.shop.register(&json!({ "operation": "eyJf", "callbackUrl": url })).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_allows_is_allowed_and_nothing_beside_it() {
    let flags = ["--first-poll-after", "1h", "--allow-callback-cidr", "10.1.0.0/16"];
    let world = World::begin_strict(&flags).await;
    for url in ["https://10.1.0.9/", "https://[::ffff:10.1.2.3]:8443/"] {
        world.shop.register(&json!({ "operation": "eyJf", "callbackUrl": url })).await;
    }
    let beside = [
        towards("next to it", "https://10.2.0.1/", "addressRefused"),
        towards("loopback", "https://127.0.0.1/", "addressRefused"),
        towards("http within it", "http://10.1.0.9/", "notHttps"),
    ];
    all_refused(&world, &world.shop, &beside).await;
    world.stop().await;
}
