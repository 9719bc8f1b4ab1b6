//! `schemathesis`, in Python, reads `/openapi.json`, and asks the running bridge for whatever the
//! document allows and much that it does not.
//!
//! All of its checks are on: no answer has a 5xx, nor a status, media type, header or body that is
//! not documented; what the document allows is taken, and what it does not is refused; what needs a
//! key is refused without; what was deleted is gone.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{outside, python};
use crate::world::{Client, World};

/// Lets schemathesis ask as `client`, and expects no complaint; its report.
async fn judged(world: &World, client: &Client, which: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::copy(outside().join("schemathesis.toml"), path("schemathesis.toml")).unwrap();
    let ends = ["succeeded", "failed", "skipped", "running"];
    let operations = ends.map(|end| format!("{:?}\n", world.start(&json!([{ "status": end }]))));
    std::fs::write(path("operations.txt"), operations.concat()).unwrap();
    std::fs::write(path("callback-urls.txt"), format!("{:?}\n", world.receiver.url())).unwrap();

    let mut program = python();
    program.args(["-m", "schemathesis.cli", "run", &client.url("/openapi.json")]);
    program.args(["--mode", "all", "--seed", "42", "--max-examples", "40"]);
    program.args(["--generation-database", "none", "--no-color"]);
    program.args(["--report", "json", "--report-json-path", "report.json"]);
    let key = client.key.expose_secret();
    if !key.is_empty() {
        program.args(["--header", &format!("Authorization: Bearer {key}")]);
    }
    program.args(which);
    // No proxy of this machine's stands between.
    program.current_dir(&directory).env("NO_PROXY", "*").env("no_proxy", "*");
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_str(&std::fs::read_to_string(path("report.json")).unwrap()).unwrap()
}

/// The operations of which at least one request was answered with a success.
///
/// Schemathesis is content with refusals alone: a run in which nothing succeeds has seen little.
fn succeeded(report: &Value) -> Vec<&str> {
    let has_succeeded =
        |rates: &Value| rates.as_object().unwrap().values().any(|phase| phase["accepted"] != 0);
    let rates = report["valid_rates"].as_object().unwrap().iter();
    rates.filter(|(_, rates)| has_succeeded(rates)).map(|(name, _)| name.as_str()).collect()
}

fn assert_succeeded(report: &Value, operations: &[&str]) {
    let succeeded = succeeded(report);
    for operation in operations {
        assert!(succeeded.contains(operation), "{operation} is not among {succeeded:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_a_caller_the_api_is_what_its_document_says() {
    let world = World::begin().await;
    let report = judged(&world, &world.shop, &["--exclude-tag", "settings"]).await;
    let operations = [
        "POST /v1/operations",
        "GET /v1/operations",
        "GET /v1/operations/{id}",
        "POST /v1/operations/{id}/resend",
        "GET /v1/callbacks",
    ];
    assert_succeeded(&report, &operations);

    // By itself, for it removes the connection that operations need.
    let settings = ["--include-tag", "settings", "--exclude-operation-id", "revokeKey"];
    let report = judged(&world, &world.shop, &settings).await;
    let settings = [
        "GET /v1/keys",
        "POST /v1/keys",
        "GET /v1/signing-secrets",
        "POST /v1/signing-secrets",
        "DELETE /v1/signing-secrets/{id}",
        "GET /v1/signing-keys",
        "POST /v1/signing-keys",
        "GET /v1/callback-settings",
        "PUT /v1/callback-settings",
        "PUT /v1/callback-headers/{header}",
        "GET /v1/connections",
        "POST /v1/connections",
        "DELETE /v1/connections/{name}",
        "PUT /v1/connections/{name}/credential",
    ];
    assert_succeeded(&report, &settings);

    // As somebody else, for it may revoke the very key that it asks by.
    let other = world.operator.add_caller("other").await;
    let keys = ["--include-operation-id", "createKey", "--include-operation-id", "revokeKey"];
    let report = judged(&world, &other, &keys).await;
    assert_succeeded(&report, &["POST /v1/keys", "DELETE /v1/keys/{id}"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_the_operator_the_api_is_what_its_document_says() {
    let world = World::begin().await;
    let report = judged(&world, &world.operator, &[]).await;
    let callers = [
        "GET /v1/admin/callers",
        "POST /v1/admin/callers",
        "POST /v1/admin/callers/{caller}/keys",
        "POST /v1/admin/callers/{caller}/signing-secrets",
        "GET /v1/admin/callers/{caller}/connections",
        "POST /v1/admin/callers/{caller}/connections",
        "GET /v1/admin/callbacks/resends",
        "POST /v1/admin/callbacks/resend",
    ];
    assert_succeeded(&report, &callers);
    let others = succeeded(&report).into_iter().filter(|it| !it.contains(" /v1/admin/"));
    assert_eq!(others.collect::<Vec<_>>(), ["GET /healthz", "GET /metrics", "GET /readyz"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_a_stranger_the_api_is_what_its_document_says() {
    let world = World::begin().await;
    let report = judged(&world, &world.shop.with_key(""), &[]).await;
    assert_eq!(succeeded(&report), ["GET /healthz", "GET /readyz"]);
    world.stop().await;
}
