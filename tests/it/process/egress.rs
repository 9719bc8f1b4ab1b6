//! Where callbacks may go, as an operator sets it and asks about it.

use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engagement_bridge::sandbox::{Script, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::refusals::refused;
use super::{Home, complaint, until};
use crate::world::sandbox;

fn explained(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// The step of an explanation by its name.
fn step<'a>(explained: &'a Value, name: &str) -> &'a Value {
    let steps = explained["steps"].as_array().unwrap();
    steps.iter().find(|it| it["step"] == name).unwrap_or_else(|| panic!("{explained}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_url_says_why_and_ends_by_its_verdict() {
    let home = Home::new("http://127.0.0.1:9");
    let allowed = home.run(&["check-url", "https://8.8.8.8/hooks"]).await;
    assert_eq!(allowed.status.code(), Some(0), "{allowed:?}");
    assert_eq!(explained(&allowed)["verdict"], "allowed");

    let refused = home.run(&["check-url", "https://[64:ff9b::a9fe:a9fe]:81/"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = explained(&refused);
    assert_eq!((&said["verdict"], &said["code"]), (&json!("refused"), &json!("portNotAllowed")));
    assert_eq!(step(&said, "port")["code"], "portNotAllowed");
    assert_eq!(step(&said, "scheme")["code"], Value::Null);
    let address = step(&said, "address");
    assert_eq!(address["code"], "addressRefused");
    assert_eq!(
        address["addresses"],
        json!([{
            "address": "169.254.169.254",
            "form": "translated by NAT64",
            "block": {
                "network": "169.254.169.254/32",
                "is": "the metadata service of clouds",
                "source": "AWS, Azure, Google Cloud, Oracle Cloud",
            },
        }])
    );
    // A name of no one (RFC 6761 §6.4), by whatever name server this machine has or has not.
    let absent = home.run(&["check-url", "https://hooks.invalid/"]).await;
    assert_eq!(absent.status.code(), Some(1));
    assert!(["refused", "unknown"].contains(&explained(&absent)["verdict"].as_str().unwrap()));
    let localhost = home.run(&["check-url", "https://localhost/"]).await;
    assert_eq!(explained(&localhost)["code"], "addressRefused");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_url_takes_the_settings_of_serve_by_flag_and_by_environment() {
    let url = "http://10.1.2.3:9000/hooks";
    let flags = [
        "--allow-http-callbacks",
        "--allow-callback-port=any",
        "--allow-callback-cidr=10.1.0.0/16",
        "--allow-callback-host=10.1.2.3",
    ];
    let home = Home::new("http://127.0.0.1:9");
    let by_flag = home.run(&[&["check-url", url][..], &flags].concat()).await;
    assert_eq!(by_flag.status.code(), Some(0), "{by_flag:?}");
    assert!(step(&explained(&by_flag), "address")["finding"].as_str().unwrap().contains("opened"));

    let home = home
        .environment("ENGAGEMENT_BRIDGE_ALLOW_HTTP_CALLBACKS", "true")
        .environment("ENGAGEMENT_BRIDGE_ALLOW_CALLBACK_PORT", "443,9000")
        .environment("ENGAGEMENT_BRIDGE_ALLOW_CALLBACK_CIDR", "10.1.0.0/16")
        .environment("ENGAGEMENT_BRIDGE_DENY_CALLBACK_CIDR", "10.1.9.0/24")
        .environment("ENGAGEMENT_BRIDGE_DENY_CALLBACK_HOST", "*.example.net,10.1.2.4")
        .environment("ENGAGEMENT_BRIDGE_CALLBACK_NAT64_PREFIX", "2a01:db8:64::/96");
    let by_environment = home.run(&["check-url", url]).await;
    assert_eq!(by_environment.status.code(), Some(0), "{by_environment:?}");
    for (url, code) in [
        ("https://10.1.9.7:9000/", "addressDenied"),
        ("https://10.1.2.4:9000/", "hostDenied"),
        ("https://app.example.net/", "hostDenied"),
        ("https://10.1.2.3:8443/", "portNotAllowed"),
        ("https://[2a01:db8:64::7f00:1]/", "addressRefused"),
    ] {
        let refused = home.run(&["check-url", url]).await;
        assert_eq!(explained(&refused)["code"], code, "{url}");
    }

    let slip = home.run(&["check-url", "--allow-callback-host", "https://x", url]).await;
    assert_eq!(slip.status.code(), Some(2));
    assert!(complaint(&slip).contains("expected a host such as hooks.example.com"), "{slip:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_be_one_keeps_serve_from_starting() {
    let home = Home::new("http://127.0.0.1:9").flag("--callback-proxy", "socks5h://10.0.0.1");
    refused(&home, &["--callback-proxy is not one", "give socks5://, and leave names to it"]).await;
}

/// Lets nobody through, whatever they bring.
async fn proxy() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut refusing = JoinSet::new();
    refusing.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 407 Who are you?\r\n\r\n").await.unwrap();
        }
    });
    (port, refusing)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_a_proxy_is_found_nowhere() {
    const PASSWORD: &str = "planted-password-Wz8c";
    let (sandbox, (port, _proxy)) = (sandbox().await, proxy().await);
    let url = format!("http://bridge:{PASSWORD}@127.0.0.1:{port}");
    let home = Home::new(sandbox.root())
        .flag("--log", "trace")
        .environment("ENGAGEMENT_BRIDGE_CALLBACK_PROXY", &url);
    let added = home.add_shop().await;
    let serve = home.serve().await;
    let shop = serve.client(added["apiKey"].as_str().unwrap());
    let script: Script = serde_json::from_value(json!([{ "status": "succeeded" }])).unwrap();
    let operation = sandbox.create(Version::V1, script).unwrap().location;
    let registration = json!({ "operation": operation, "callbackUrl": "http://127.0.0.1:9/" });
    let id = shop.register(&registration).await;
    until(async || shop.operation(&id).await["callbacks"][0]["state"] == "undeliverable").await;

    let seen = shop.operation(&id).await;
    let attempts = seen["callbacks"][0]["attempts"].as_array().unwrap();
    assert!(attempts.iter().all(|it| it["failure"] == "proxyFailed"), "{seen}");
    let basic = STANDARD.encode(format!("bridge:{PASSWORD}"));
    let mut read = vec![seen.to_string(), serve.log()];
    assert!(serve.terminate().await.success());
    for arguments in [
        &["check-url", "https://8.8.8.8/"][..],
        &["serve", "--help"],
        &["check-url", "--help"],
        &["settings"],
        &["check-url", "https://8.8.8.8/", "--callback-proxy", &format!("{url}/path")],
        &["serve", "--callback-proxy", &format!("{url}0")],
        &["serve", "--callback-proxy", &url, "--callback-proxy-resolves", "--callback-proxy", &url],
    ] {
        let output = home.run(arguments).await;
        read.push(format!("{}\n{output:?}", String::from_utf8_lossy(&output.stdout)));
    }
    for text in &read {
        assert!(!text.contains(PASSWORD) && !text.contains(&basic), "{text}");
    }
}
