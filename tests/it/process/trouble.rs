//! Trouble while it runs: no 202 was a lie, and what was said comes true once the trouble is over.

use std::time::Duration;

use axum::http::StatusCode;
use engagement_bridge::sandbox::{Sandbox, Script, Version};
use rusqlite::Connection;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::process::Command;

use super::Home;
use super::restarts::until;
use crate::support::relay::Relay;
use crate::world::{Client, Receiver, sandbox};

fn endless(sandbox: &Sandbox) -> String {
    let script: Script = serde_json::from_value(json!([{ "status": "running" }])).unwrap();
    sandbox.create(Version::V1, script).unwrap().location
}

async fn register(shop: &Client, sandbox: &Sandbox, receiver: &Receiver) -> (StatusCode, Value) {
    let registration = json!({
        "operation": endless(sandbox),
        "callbackUrl": receiver.url(),
        "clientState": "x".repeat(128),
    });
    let answer = shop.post("/v1/operations", &registration).await;
    let is_problem = answer.headers["content-type"] == "application/problem+json";
    assert_eq!(is_problem, answer.status != StatusCode::ACCEPTED);
    (answer.status, answer.body)
}

/// All operations of the caller, by their ids, sorted.
async fn tracked(shop: &Client) -> Vec<String> {
    let mut ids = Vec::new();
    let mut path = "/v1/operations?limit=200".to_owned();
    loop {
        let page = shop.get(&path).await.body;
        let operations = page["operations"].as_array().unwrap();
        ids.extend(operations.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/operations?limit=200&after={next}");
    }
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_every_202_is_kept_and_everything_else_is_refused() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    // Polls would write too, and are not what this is about.
    let home = Home::new(sandbox.root())
        .flag("--first-poll-after", "1h")
        .flag("--max-poll-interval", "1h");
    let disk = home.directory.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let database = disk.join("bridge.db").display().to_string();
    let home = home.environment("ENGAGEMENT_BRIDGE_DATABASE", &database);
    // Keys are kept outside, where the commands find them too.
    let key = home.directory.path().join("admin-key");
    super::write(&key, "admin-key-for-a-small-disk");
    let home = home.environment("ENGAGEMENT_BRIDGE_ADMIN_KEY_FILE", key.to_str().unwrap());
    let setup = format!("mount -t tmpfs -o size=8m tmpfs '{}'", disk.display());
    let serve = home.serve_after(&setup).await;
    let operator = serve.client("admin-key-for-a-small-disk");
    let shop = operator.add_caller("shop").await;
    operator.add_connection("shop", "contoso").await;

    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..20_000 {
        let (status, body) = register(&shop, &sandbox, &receiver).await;
        if status == StatusCode::ACCEPTED {
            kept.push(body["id"].as_str().unwrap().to_owned());
            continue;
        }
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert_eq!(body["type"], "urn:engagement-bridge:problem:store-unavailable");
        refused += 1;
        if 20 <= refused {
            break;
        }
    }
    assert_eq!(refused, 20, "the disk was never full");
    assert!(100 < kept.len(), "the disk was full from the beginning");
    kept.sort();
    assert_eq!(tracked(&shop).await, kept, "what was answered is not what was kept");
    assert!(serve.log().contains("the disk is full"), "the operator was not told why");
    assert!(sandbox.record().is_empty());

    // Room again, without a restart.
    let enlarge = Command::new("nsenter")
        .args(["--target", &serve.pid().to_string(), "--user", "--mount", "--preserve-credentials"])
        .args(["mount", "-o", "remount,size=64m"])
        .arg(&disk)
        .status();
    assert!(enlarge.await.unwrap().success());
    let (status, body) = register(&shop, &sandbox, &receiver).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    assert_eq!(tracked(&shop).await.len(), kept.len() + 1);
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_program_locks_the_database_registrations_are_refused() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let home = Home::new(sandbox.root())
        .flag("--first-poll-after", "1h")
        .flag("--max-poll-interval", "1h");
    let serve = home.serve().await;
    let added = home.add_shop().await;
    let shop = serve.client(added["apiKey"].as_str().unwrap());
    let other = Connection::open(home.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (status, body) = register(&shop, &sandbox, &receiver).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(serve.log().contains("locked by another program"), "the operator was not told why");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(tracked(&shop).await, Vec::<String>::new());
    let (status, _) = register(&shop, &sandbox, &receiver).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(tracked(&shop).await.len(), 1);
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_cannot_be_reached_is_waited_for() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    // An address where nobody listens yet.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let graph = reserved.local_addr().unwrap();
    drop(reserved);
    let home = Home::new(&format!("http://{graph}"));
    let added = home.json(&["callers", "add", "shop"]).await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let serve = home.serve().await;
    let shop = serve.client(added["apiKey"].as_str().unwrap());
    let script: Script = serde_json::from_value(json!([{ "status": "succeeded" }])).unwrap();
    let created = sandbox.create(Version::V1, script).unwrap();
    let token = sandbox.hand_out_token("alice", Duration::from_hours(1)).unwrap();
    let registration = json!({
        "operation": created.id,
        "callbackUrl": receiver.url(),
        "accessToken": token.expose_secret(),
        "expiresIn": 3_600,
    });
    let id = shop.register(&registration).await;
    until(async || shop.operation(&id).await["polls"] == 1).await;
    let seen = shop.operation(&id).await;
    assert_eq!(seen["state"], "watching");
    assert_eq!(seen["nextStep"]["action"], "poll");
    assert!(shop.get("/readyz").await.status.is_success(), "the fault is not the bridge's");

    let _relay = Relay::from(graph, sandbox.address()).await;
    let told = receiver.next().await;
    assert_eq!(told.about(), "succeeded");
    assert_eq!(told.json()["tracking"]["id"], id.as_str());
    assert!(serve.terminate().await.success());
}
