//! Users sign in by tokens of Entra, and Graph is asked on their behalf.

use std::time::Duration;

use engagement_bridge::sandbox::{Grants, SignInToken};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::world::{Client, World};

const API: &str = "99999999-9999-4999-8999-999999999999";
const TENANT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const APP: &str = "22222222-2222-4222-8222-222222222222";
const USER: &str = "33333333-3333-4333-8333-333333333333";

/// A world where the app signs in as `shop`; and the shop's client with a token of these grants.
async fn world(grants: Grants) -> (World, Client) {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the secret of the api").unwrap();
    let world = World::begin_with(&[
        "--sign-in-client-id",
        API,
        "--sign-in-tenants",
        TENANT,
        "--sign-in-client-secret-file",
        secret.path().to_str().unwrap(),
    ])
    .await;
    let bound = json!({ "tenant": TENANT, "app": APP });
    let added = world.operator.post("/v1/admin/callers/shop/sign-ins", &bound).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    let client = signed_in(&world, grants);
    (world, client)
}

fn signed_in(world: &World, grants: Grants) -> Client {
    let token = SignInToken {
        tenant: TENANT.to_owned(),
        audience: API.to_owned(),
        app: APP.to_owned(),
        object_id: USER.to_owned(),
        grants,
    };
    let token = world.sandbox.hand_out_sign_in(&token, Duration::from_hours(1)).unwrap();
    world.shop.with_key(token.expose_secret())
}

fn scopes() -> Grants {
    Grants::Scopes(vec!["Operations.Register".to_owned(), "Operations.Read".to_owned()])
}

fn on_behalf(world: &World, operation: &str) -> Value {
    let mut registration = world.registration(operation);
    registration.as_object_mut().unwrap().remove("connection");
    registration["onBehalfOf"] = json!(true);
    registration
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_tracked_in_the_name_of_the_user_who_signed_in() {
    let (world, alice) = world(scopes()).await;
    let operation = world.start(&json!([{"status": "running"}, {"status": "succeeded"}]));
    let answer = alice.post("/v1/operations", &on_behalf(&world, &operation)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert_eq!(answer.body["onBehalfOf"], USER);
    assert_eq!(answer.body["connection"], Value::Null);
    assert_eq!(world.receiver.next().await.about(), "succeeded");
    let identities: Vec<_> = world.polls().into_iter().filter_map(|it| it.identity).collect();
    assert!(identities.iter().all(|it| it.ends_with(USER)) && !identities.is_empty());

    // What the bridge acts for her by is no connection that anybody could change.
    let path = format!("/v1/connections/user:{TENANT}:{USER}");
    let proof = json!({ "clientSecret": "of somebody" });
    let credential = format!("{path}/credential");
    assert_eq!(world.shop.put(&credential, &proof).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.shop.delete(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.stored().iter().filter(|row| row.contains("onBehalfOf")).count(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entra_says_what_the_user_must_do_and_the_caller_hears_it() {
    let (world, alice) = world(scopes()).await;
    let operation = world.start(&json!([{"status": "running"}]));
    for (script, status, kind) in [
        (json!([{"http": 400, "error": "interaction_required"}]), 401, "interaction-required"),
        (json!([{"http": 400, "error": "consent_required"}]), 403, "consent-required"),
        (json!([{"http": 400, "error": "invalid_grant"}]), 401, "interaction-required"),
        (json!([{"http": 401, "error": "invalid_client"}]), 500, "operator-must-act"),
        (json!([{"http": 503}]), 503, "authority-unavailable"),
    ] {
        world.sandbox.script_tokens(serde_json::from_value(script.clone()).unwrap());
        let answer = alice.post("/v1/operations", &on_behalf(&world, &operation)).await;
        assert_eq!(answer.status.as_u16(), status, "{script}: {}", answer.text);
        assert!(answer.body["type"].as_str().unwrap().ends_with(kind), "{}", answer.text);
        let challenge = answer.headers.get("www-authenticate").map(|it| it.to_str().unwrap());
        let is_challenged = challenge.is_some_and(|it| it.contains("claims=\"eyJ"));
        assert_eq!(is_challenged, script[0]["error"] == "interaction_required", "{challenge:?}");
    }
    assert_eq!(alice.get("/v1/operations").await.body["operations"], json!([]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_by_less_than_the_operator_allowed() {
    let (world, alice) = world(scopes()).await;
    assert_eq!(alice.get("/v1/operations").await.status, StatusCode::OK);
    assert_eq!(alice.get("/v1/connections").await.status, StatusCode::OK);
    assert_eq!(alice.post("/v1/keys", &json!({})).await.status, StatusCode::FORBIDDEN);
    let app = signed_in(&world, Grants::Roles(vec!["Operations.Register".to_owned()]));
    let operation = world.start(&json!([{"status": "running"}]));
    let refused = app.post("/v1/operations", &on_behalf(&world, &operation)).await;
    assert_eq!(refused.body["errors"][0]["code"], "noUser", "{}", refused.text);
    let roleless = signed_in(&world, Grants::Roles(vec![]));
    assert_eq!(roleless.get("/v1/operations").await.status, StatusCode::UNAUTHORIZED);
    let gone = format!("/v1/admin/callers/shop/sign-ins/{TENANT}/{APP}");
    assert_eq!(world.operator.delete(&gone).await.status, StatusCode::NO_CONTENT);
    assert_eq!(alice.get("/v1/operations").await.status, StatusCode::UNAUTHORIZED);
    world.stop().await;
}
