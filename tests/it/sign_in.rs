//! Users sign in by tokens of Entra, and Graph is asked on their behalf.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::clock::SystemClock;
use engagement_bridge::sandbox::{Grants, Options, Sandbox, SignInToken};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::certificates::Made;
use crate::world::{Client, NoNames, PATIENCE, SPEED, World};

const API: &str = "99999999-9999-4999-8999-999999999999";
const TENANT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const APP: &str = "22222222-2222-4222-8222-222222222222";
const USER: &str = "33333333-3333-4333-8333-333333333333";

/// A world where the app signs in as `shop`; and the shop's client with a token of these grants.
async fn world(grants: Grants) -> (World, Client) {
    let options = Options { speed: SPEED, ..Options::default() };
    let sandbox = Sandbox::start(options, Arc::new(SystemClock)).await.unwrap();
    world_at(sandbox, "--sign-in-client-secret-file", "the secret of the api", grants).await
}

/// The same at that sandbox, where the API proves itself by what is in the file of `flag`.
async fn world_at(sandbox: Sandbox, flag: &str, proof: &str, grants: Grants) -> (World, Client) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), proof).unwrap();
    let flags = [
        "--sign-in-client-id",
        API,
        "--sign-in-tenants",
        TENANT,
        flag,
        file.path().to_str().unwrap(),
        "--allow-http-callbacks",
        "--allow-callback-port",
        "any",
        "--allow-callback-cidr",
        "127.0.0.0/8",
    ];
    let world = World::begin_at(sandbox, Arc::new(NoNames), &flags).await;
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
    let tried_out = world.shop.send(Method::POST, &format!("{path}/test"), None).await;
    assert_eq!(tried_out.status, StatusCode::NOT_FOUND);
    assert_eq!(world.stored().iter().filter(|row| row.contains("onBehalfOf")).count(), 1);
    world.end().await;
}

/// What a user's next token is asked for with, as it is kept: sealed.
fn kept_sign_in(world: &World) -> String {
    let mut rows = world.stored();
    rows.retain(|row| row.contains("onBehalfOf"));
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_operation_outlives_its_tokens_and_the_keys_that_signed_the_user_in() {
    let options =
        Options { speed: SPEED, token_life: Duration::from_secs(1), ..Options::default() };
    let sandbox = Sandbox::start(options, Arc::new(SystemClock)).await.unwrap();
    let made = Made::rsa();
    sandbox.upload_certificate(TENANT, API, &made.der()).unwrap();
    let (world, alice) =
        world_at(sandbox, "--sign-in-certificate-file", &made.pem(), scopes()).await;
    let long = json!({ "stages": [
        { "fromMs": 0, "answer": { "status": "running" } },
        { "fromMs": 1_200_000, "answer": { "status": "succeeded" } },
    ] });
    let first = alice.post("/v1/operations", &on_behalf(&world, &world.start(&long))).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    let at_first = kept_sign_in(&world);

    world.sandbox.roll_keys_over(true);
    let alice = signed_in(&world, scopes());
    let believed = async {
        // Keys are fetched anew no sooner than it may be, whoever asks.
        while alice.get("/v1/operations").await.status != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, believed).await.expect("the new key is believed in time");
    let second = alice.post("/v1/operations", &on_behalf(&world, &world.start(&long))).await;
    assert_eq!(second.status, StatusCode::ACCEPTED, "{}", second.text);

    let told: BTreeSet<_> = [world.receiver.next().await, world.receiver.next().await]
        .map(|callback| {
            assert_eq!(callback.about(), "succeeded");
            callback.json()["tracking"]["id"].as_str().unwrap().to_owned()
        })
        .into();
    let registered = [&first, &second].map(|it| it.body["id"].as_str().unwrap().to_owned());
    assert_eq!(told, registered.into());
    let mut polls = world.polls();
    polls.retain(|poll| poll.status == Some(200));
    assert!(polls.iter().all(|poll| poll.identity.as_ref().unwrap().ends_with(USER)), "{polls:?}");
    let tokens: BTreeSet<_> = polls.iter().map(|poll| poll.token_digest.clone()).collect();
    assert!(3 < tokens.len(), "each token expired and was renewed: {}", tokens.len());
    assert_ne!(kept_sign_in(&world), at_first);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_in_anew_repairs_all_that_a_policy_has_blocked() {
    let options =
        Options { speed: SPEED, token_life: Duration::from_secs(1), ..Options::default() };
    let sandbox = Sandbox::start(options, Arc::new(SystemClock)).await.unwrap();
    let secret = "the secret of the api";
    let (world, alice) = world_at(sandbox, "--sign-in-client-secret-file", secret, scopes()).await;
    let long = json!({ "stages": [
        { "fromMs": 0, "answer": { "status": "running" } },
        { "fromMs": 1_200_000, "answer": { "status": "succeeded" } },
    ] });
    for _ in 0..3 {
        let answer = alice.post("/v1/operations", &on_behalf(&world, &world.start(&long))).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    }
    // Her tokens are not renewed from now on, until she has signed in again.
    let refusals = vec![json!({"http": 400, "error": "interaction_required"}); 3];
    world.sandbox.script_tokens(serde_json::from_value(json!(refusals)).unwrap());
    for _ in 0..3 {
        let told = world.receiver.next().await;
        assert_eq!(told.about(), "credentialNeeded");
        assert_eq!(told.json()["tracking"]["reason"], "grantRefused");
    }
    let anew = signed_in(&world, scopes());
    let registration = on_behalf(&world, &world.start(&long));
    let registering = async {
        // As often as Entra still refuses her, which is not known: some refusals went to renewals.
        while anew.post("/v1/operations", &registration).await.status != StatusCode::ACCEPTED {}
    };
    tokio::time::timeout(PATIENCE, registering).await.expect("she may come in again");
    for _ in 0..4 {
        assert_eq!(world.receiver.next().await.about(), "succeeded");
    }
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
