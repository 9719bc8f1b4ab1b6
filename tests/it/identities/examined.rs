//! What a test of a connection says, and that none is made that cannot work.

use std::sync::Arc;

use engagement_bridge::sandbox::{Options, TokenScript};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{TENANT, connection, registered, sandbox};
use crate::world::{CLIENT_ID, NoNames, SECRET_OF_CLIENT, World};

async fn begin() -> World {
    let clients = vec![registered(SECRET_OF_CLIENT)];
    let sandbox = sandbox(Options { clients, ..Options::default() }).await;
    let flags = ["--allow-http-callbacks", "--allow-callback-port", "any"];
    let flags = [&flags[..], &["--allow-callback-cidr", "127.0.0.0/8"]].concat();
    World::begin_at(sandbox, Arc::new(NoNames), &flags).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_works_is_said_to_and_too_many_questions_are_not_asked() {
    let world = begin().await;
    let path = "/v1/connections/contoso/test";
    let as_operator = "/v1/admin/callers/shop/connections/contoso/test";
    for (client, path) in [(&world.shop, path), (&world.operator, as_operator)] {
        let found = client.send(reqwest::Method::POST, path, None).await;
        assert_eq!(found.status, StatusCode::OK, "{found:?}");
        assert_eq!(found.body["works"], true, "{found:?}");
        assert_eq!(found.body["graphStatus"], 404);
        assert!(found.body["requestId"].is_string());
    }
    let third = world.shop.send(reqwest::Method::POST, path, None).await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(third.headers.contains_key("retry-after"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_repair_goes_on_once_a_test_finds_that_the_connection_works() {
    let world = begin().await;
    let refused: TokenScript =
        serde_json::from_value(json!([{ "http": 400, "error": "unauthorized_client" }])).unwrap();
    world.sandbox.script_tokens(refused);
    let id = world.track(&json!([{ "status": "succeeded" }])).await;
    assert_eq!(world.receiver.next().await.about(), "credentialNeeded");
    assert_eq!(world.shop.operation(&id).await["state"], "blocked");
    // Somebody has consented meanwhile, at Entra.
    let path = "/v1/connections/contoso/test";
    let found = world.shop.send(reqwest::Method::POST, path, None).await;
    assert_eq!(found.body["works"], true, "{found:?}");
    assert_eq!(world.receiver.next().await.about(), "succeeded");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_work_is_not_made_unless_it_shall_not_be_tested() {
    let world = begin().await;
    let with = |member: &str, value: &str| {
        let mut connection = connection(&json!({ "clientSecret": SECRET_OF_CLIENT }));
        connection[member] = json!(value);
        connection
    };
    let unknown = "99999999-2222-3333-4444-555555555555";
    for (connection, field, code, number) in [
        (with("tenant", "fabrikam.example"), "tenant", "unknownTenant", "AADSTS90002"),
        (with("clientId", unknown), "clientId", "unknownApp", "AADSTS700016"),
        (with("clientSecret", "wrong"), "clientSecret", "proofRefused", "AADSTS7000215"),
    ] {
        let stored = world.stored();
        let made = world.shop.post("/v1/connections", &connection).await;
        assert_eq!(made.status, StatusCode::UNPROCESSABLE_ENTITY, "{made:?}");
        let error = &made.body["errors"][0];
        assert_eq!((&error["field"], &error["code"]), (&json!(field), &json!(code)));
        assert!(error["detail"].as_str().unwrap().contains(number), "{error}");
        assert!(!made.text.contains(SECRET_OF_CLIENT));
        assert_eq!(world.stored(), stored, "nothing is made");
    }
    let mut untested = with("clientSecret", "wrong");
    untested["test"] = json!(false);
    let made = world.shop.post("/v1/connections", &untested).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_entra_says_is_told_with_what_to_do() {
    for (script, finding) in [
        (json!({ "http": 400, "error": "consent_required" }), "consentMissing"),
        (json!({ "http": 400, "error": "invalid_resource" }), "wrongCloud"),
        (json!({ "http": 401 }), "proofRefused"),
        (json!({ "http": 503 }), "trouble"),
        (json!({ "http": 200, "body": "<html>" }), "trouble"),
    ] {
        let world = begin().await;
        let script: TokenScript = serde_json::from_value(json!([script])).unwrap();
        world.sandbox.script_tokens(script);
        let path = "/v1/connections/contoso/test";
        let found = world.shop.send(reqwest::Method::POST, path, None).await;
        assert_eq!(found.status, StatusCode::OK, "{found:?}");
        assert_eq!(
            (&found.body["works"], &found.body["finding"]),
            (&json!(false), &json!(finding))
        );
        assert!(found.body["advice"].is_string() && found.body["graphStatus"].is_null());
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_made_though_entra_is_in_trouble() {
    let world = begin().await;
    let script: TokenScript = serde_json::from_value(json!([{ "http": 503 }])).unwrap();
    world.sandbox.script_tokens(script);
    let proof: Value = json!({ "clientSecret": SECRET_OF_CLIENT });
    let made = world.shop.post("/v1/connections", &connection(&proof)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!((&made.body["tenant"], &made.body["clientId"]), (&json!(TENANT), &json!(CLIENT_ID)));
    world.stop().await;
}
