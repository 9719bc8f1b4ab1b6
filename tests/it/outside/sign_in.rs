//! An authority that somebody else wrote signs tokens for the API, and forges some.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::node;
use crate::world::World;

const API: &str = "99999999-9999-4999-8999-999999999999";
const TENANT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const OTHER_TENANT: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const APP: &str = "22222222-2222-4222-8222-222222222222";
const USER: &str = "33333333-3333-4333-8333-333333333333";

/// The server, which ends when its standard input does, at the latest where this is dropped.
struct Authority {
    child: Child,
    said: Value,
}

impl Authority {
    fn start() -> Self {
        let mut program = node();
        program.arg("judge-sign-in.mjs").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.spawn().unwrap();
        let given = json!({
            "tenant": TENANT, "otherTenant": OTHER_TENANT, "audience": API, "app": APP, "user": USER,
        });
        writeln!(child.stdin.as_mut().unwrap(), "{given}").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = serde_json::from_str(&line).expect("node says why it ended above");
        Self { child, said }
    }

    fn tokens(&self, kind: &str) -> &Map<String, Value> {
        self.said[kind].as_object().unwrap()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_foreign_authority_are_believed_and_forged_ones_are_not() {
    let authority = tokio::task::spawn_blocking(Authority::start).await.unwrap();
    let root = authority.said["root"].as_str().unwrap();
    let flags = ["--login-root", root, "--sign-in-client-id", API, "--sign-in-tenants", TENANT];
    let world = World::begin_with(&flags).await;
    for app in [APP, API] {
        let bound = json!({ "tenant": TENANT, "app": app });
        let added = world.operator.post("/v1/admin/callers/shop/sign-ins", &bound).await;
        assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    }
    let asked = async |token: &Value| {
        world.shop.with_key(token.as_str().unwrap()).get("/v1/operations").await
    };
    let good = authority.tokens("good");
    assert_eq!(good.len(), 3);
    for (name, token) in good {
        let answer = asked(token).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text);
    }
    let forged = authority.tokens("forged");
    let reasons = [
        ("algNone", "it is not signed by RS256"),
        ("hs256WithThePublicKey", "it is not signed by RS256"),
        ("wrongKid", "it is signed by a key that its tenant does not publish"),
        ("kidOfTheTenantByAStranger", "its signature is not that of its key"),
        ("keyOfAnotherIssuer", "the key that it is signed by belongs to another issuer"),
        ("issuer", "its issuer is not its tenant"),
        ("audience", "it is meant for another app"),
        ("tenant", "its tenant may not sign in here"),
        ("expired", "it has expired"),
        ("notYetValid", "it is not valid yet"),
        ("appWithoutRoles", "it grants nothing here"),
    ];
    assert_eq!(forged.len(), reasons.len());
    for (name, reason) in reasons {
        let answer = asked(&forged[name]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{name}: {}", answer.text);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{name}: {detail}");
    }
    // Who forged so much is still no reason to turn away who did not.
    assert_eq!(asked(&good["ofUser"]).await.status, StatusCode::OK);
    world.stop().await;
}
