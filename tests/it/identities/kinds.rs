//! Each kind of proof: the connection is tried out and made, an operation is polled by it past the end
//! of its token, and the callback comes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::sandbox::{Options, Sandbox, Surface};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{TENANT, connection, sandbox};
use crate::support::certificates::Made;
use crate::world::{CLIENT_ID, NoNames, World};

/// How long a token lives here: several times less than the operation runs.
const TOKEN_LIFE: Duration = Duration::from_secs(1);

const IDENTITY_HEADER: &str = "identity-header-2Wq7";

async fn begin() -> World {
    let options = Options {
        token_life: TOKEN_LIFE,
        identity_header: Some(IDENTITY_HEADER.into()),
        ..Options::default()
    };
    begin_at(sandbox(options).await, &[]).await
}

async fn begin_at(sandbox: Sandbox, more: &[&str]) -> World {
    let metadata = sandbox.root().to_owned();
    let mut flags = vec!["--allow-http-callbacks", "--allow-callback-port", "any"];
    flags.extend(["--allow-callback-cidr", "127.0.0.0/8", "--instance-metadata", &metadata]);
    flags.extend(more);
    World::begin_at(sandbox, Arc::new(NoNames), &flags).await
}

/// Three seconds of an operation that succeeds.
fn long() -> Value {
    json!({ "stages": [
        { "fromMs": 0, "answer": { "status": "running" } },
        { "fromMs": 900_000, "answer": { "status": "succeeded" } },
    ] })
}

/// The operator makes the connection, which is tried out, and the caller uses it. `meanwhile` happens
/// while the operation runs.
async fn is_told(world: World, proof: &Value, identity: &str, meanwhile: impl FnOnce(&World)) {
    let path = "/v1/admin/callers/shop/connections";
    let made = world.operator.post(path, &connection(proof)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let tried = world.sandbox.record().into_iter().find(|it| it.surface == Surface::Graph);
    assert_eq!(tried.unwrap().status, Some(404), "the test asks for what cannot exist");

    let mut registration = world.registration(&world.start(&long()));
    registration["connection"] = json!("other");
    let id = world.shop.register(&registration).await;
    meanwhile(&world);
    let callback = world.receiver.next().await;
    assert_eq!(callback.json()["type"], "engagementAsyncOperation.succeeded");
    assert_eq!(callback.json()["tracking"]["id"], json!(id));

    // A slow machine may have a token expire on its way, and such a poll is nobody's.
    let mut polls = world.polls();
    polls.retain(|poll| poll.status == Some(200));
    assert!(polls.iter().all(|poll| poll.identity.as_deref() == Some(identity)), "{polls:?}");
    let tokens: BTreeSet<_> = polls.iter().map(|poll| poll.token_digest.clone()).collect();
    assert!(2 < tokens.len(), "the token expired and was replaced: {}", tokens.len());
    world.end().await;
}

fn app() -> String {
    format!("{TENANT}/{CLIENT_ID}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_told_of_by_a_client_secret() {
    let proof = json!({ "clientSecret": "another-secret-9Lm2" });
    is_told(begin().await, &proof, &app(), |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_told_of_by_a_certificate() {
    let world = begin().await;
    let made = Made::rsa();
    world.sandbox.upload_certificate(TENANT, CLIENT_ID, &made.der()).unwrap();
    is_told(world, &json!({ "certificate": made.pem() }), &app(), |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_told_of_by_a_federated_token_that_rotates() {
    let world = begin().await;
    let file = world.directory.path().join("federated-token");
    let rotate = |world: &World, file: &Path, token: &str| {
        std::fs::write(file, format!("{token}\n")).unwrap();
        world.sandbox.federate(TENANT, CLIENT_ID, token).unwrap();
    };
    rotate(&world, &file, "eyJ.first.token");
    let proof = json!({ "federatedTokenFile": file });
    is_told(world, &proof, &app(), |world| rotate(world, &file, "eyJ.second.token")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_told_of_by_the_identity_of_a_virtual_machine() {
    let proof = json!({ "managedIdentity": "systemAssigned" });
    is_told(begin().await, &proof, "machine/system", |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_told_of_by_an_identity_that_was_assigned_to_a_virtual_machine() {
    let proof = json!({ "managedIdentity": "userAssigned" });
    is_told(begin().await, &proof, &format!("machine/{CLIENT_ID}"), |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_told_of_by_the_identity_of_an_app_service() {
    let options = Options {
        token_life: TOKEN_LIFE,
        identity_header: Some(IDENTITY_HEADER.into()),
        ..Options::default()
    };
    let sandbox = sandbox(options).await;
    let endpoint = format!("{}/msi/token", sandbox.root());
    let flags = ["--identity-endpoint", &endpoint, "--identity-header", IDENTITY_HEADER];
    let world = begin_at(sandbox, &flags).await;
    let proof = json!({ "managedIdentity": "userAssigned" });
    is_told(world, &proof, &format!("machine/{CLIENT_ID}"), |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_replaced_by_one_of_another_kind_without_losing_an_operation() {
    let world = begin().await;
    let made = Made::rsa();
    world.sandbox.upload_certificate(TENANT, CLIENT_ID, &made.der()).unwrap();
    let proof = json!({ "clientSecret": "another-secret-9Lm2" });
    let made_one = world.shop.post("/v1/connections", &connection(&proof)).await;
    assert_eq!(made_one.status, StatusCode::CREATED, "{made_one:?}");
    assert_eq!(made_one.body["kind"], "clientSecret");

    let mut registration = world.registration(&world.start(&long()));
    registration["connection"] = json!("other");
    world.shop.register(&registration).await;
    world.first_poll().await;
    let certificate = json!({ "certificate": made.pem() });
    let replaced = world.shop.put("/v1/connections/other/credential", &certificate).await;
    assert_eq!(replaced.status, StatusCode::NO_CONTENT, "{replaced:?}");
    let listed = world.shop.get("/v1/connections").await;
    let other = &listed.body["connections"][1];
    assert_eq!(other["kind"], "certificate");
    assert_eq!(other["thumbprint"].as_str().unwrap().len(), 64);
    assert!(other["expiresAt"].is_string(), "{other}");
    assert!(!listed.text.contains("PRIVATE KEY"));

    let callback = world.receiver.next().await;
    assert_eq!(callback.json()["type"], "engagementAsyncOperation.succeeded");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_use_what_the_bridge_itself_is() {
    let world = begin().await;
    for (field, proof) in [
        ("federatedTokenFile", json!({ "federatedTokenFile": "/etc/hostname" })),
        ("managedIdentity", json!({ "managedIdentity": "systemAssigned" })),
        ("managedIdentity", json!({ "managedIdentity": "userAssigned" })),
    ] {
        let stored = world.stored();
        let made = world.shop.post("/v1/connections", &connection(&proof)).await;
        let replaced = world.shop.put("/v1/connections/contoso/credential", &proof).await;
        for answer in [made, replaced] {
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
            let error = &answer.body["errors"][0];
            assert_eq!((&error["field"], &error["code"]), (&json!(field), &json!("operatorOnly")));
        }
        assert_eq!(world.stored(), stored);
    }
    assert!(world.sandbox.record().is_empty(), "nobody was asked");
    world.stop().await;
}
