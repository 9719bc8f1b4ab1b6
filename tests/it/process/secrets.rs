//! No token, key or secret is found where it should not be: logs at their most talkative, answers,
//! callbacks, the database file.

use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engagement_bridge::courier::SigningSecret;
use engagement_bridge::sandbox::{Script, TokenScript, Version};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::Home;
use super::restarts::until;
use crate::world::{Client, Received, Receiver, SECRET_OF_CLIENT, sandbox};

/// A key, a header, and an operation with a secret of its own, which is returned.
async fn more_secrets(shop: &Client, operation: &str) -> String {
    let key = shop.post("/v1/signing-keys", &json!({})).await;
    assert_eq!(key.status, StatusCode::CREATED);
    let header = json!({ "value": "planted-header-Wd9t" });
    let set = shop.put("/v1/callback-headers/x-gateway", &header).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT);
    let secret = SigningSecret::generate().unwrap().expose().to_string();
    // Nobody listens there, for the receiver knows no secret but the caller's.
    let registration = json!({ "operation": operation, "callbackUrl": "http://127.0.0.1:9/hooks",
        "callbackSecret": secret });
    shop.register(&registration).await;
    secret
}

/// What the receiver got, once these operations are settled and all of it is delivered.
async fn all_told(shop: &Client, receiver: &Receiver, ids: &[String]) -> Vec<Received> {
    let mut callbacks = Vec::new();
    for id in ids {
        until(async || {
            let seen = shop.operation(id).await;
            let callbacks = seen["callbacks"].as_array().unwrap().clone();
            seen["state"] == "settled" && callbacks.iter().all(|it| it["state"] == "delivered")
        })
        .await;
        let seen = shop.operation(id).await;
        for callback in seen["callbacks"].as_array().unwrap() {
            for _ in 0..callback["attemptsMade"].as_u64().unwrap() {
                callbacks.push(receiver.next().await);
            }
        }
    }
    callbacks
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_is_found_nowhere() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let (master_key, admin_key) =
        (STANDARD.encode(b"planted master key, 32 bytes lon"), "planted-admin-key-Xk2p");
    let home = Home::new(sandbox.root())
        .flag("--log", "trace")
        .flag("--credential-grace", "500ms")
        .environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &master_key)
        .environment("ENGAGEMENT_BRIDGE_ADMIN_KEY", admin_key);
    let added = home.add_shop().await;
    let signing_secret = added["signingSecret"].as_str().unwrap();
    receiver.expect_secret(signing_secret.parse().unwrap());
    let api_key = added["apiKey"].as_str().unwrap();
    let serve = home.serve().await;
    let shop = serve.client(api_key);

    // Everything that handles a secret, in luck and in trouble.
    let token_trouble: TokenScript =
        serde_json::from_value(json!([{ "http": 503, "retryAfter": "1" }])).unwrap();
    sandbox.script_tokens(token_trouble);
    let token = sandbox.hand_out_token("alice", Duration::from_hours(1)).unwrap();
    let url = format!("{}?code=planted-code-Qm7v", receiver.url());
    receiver.answer(vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST]);
    let scripts = [
        json!([{ "status": "succeeded" }]),
        json!([{ "http": 401 }, { "status": "succeeded" }]),
        json!([{ "http": 403 }]),
        json!([{ "drop": true }, { "http": 410 }]),
        json!([{ "http": 503 }, { "http": 410 }]),
        json!([{ "http": 200, "body": "<html>" }, { "http": 410 }]),
    ];
    let operation = sandbox.create(Version::V1, Script::default()).unwrap().location;
    let own_secret = more_secrets(&shop, &operation).await;
    let mut ids = Vec::new();
    for script in &scripts {
        for with_token in [false, true] {
            let script: Script = serde_json::from_value(script.clone()).unwrap();
            let operation = sandbox.create(Version::V1, script).unwrap().location;
            let mut registration = json!({ "operation": operation, "callbackUrl": url });
            if with_token {
                registration["accessToken"] = json!(token.expose_secret());
                registration["expiresIn"] = json!(3_600);
            }
            ids.push(shop.register(&registration).await);
        }
    }
    let callbacks = all_told(&shop, &receiver, &ids).await;
    receiver.has_nothing_more().await;

    // Everything that can be read.
    let mut read = vec![("the log", serve.log())];
    for path in [
        "/v1/operations",
        "/v1/callbacks",
        "/v1/keys",
        "/v1/signing-secrets",
        "/v1/signing-keys",
        "/v1/callback-settings",
        "/v1/callers/shop/signing-keys",
        "/v1/connections",
        "/readyz",
        "/openapi.json",
    ] {
        let answer = shop.get(path).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        read.push(("an answer", answer.body.to_string()));
    }
    for id in &ids {
        read.push(("an operation", shop.operation(id).await.to_string()));
    }
    for callback in &callbacks {
        let mut headers = callback.headers.clone();
        assert_eq!(headers.remove("x-gateway").unwrap(), "planted-header-Wd9t");
        read.push(("a callback", format!("{headers:?} {:?}", callback.body)));
    }
    for name in ["bridge.db", "bridge.db-wal", "bridge.db.lock"] {
        let bytes = std::fs::read(home.directory.path().join(name)).unwrap();
        read.push(("the database", String::from_utf8_lossy(&bytes).into_owned()));
    }
    assert!(100 < serve.log().lines().count(), "the log is not at its most talkative");

    let base64_of_secret = signing_secret.strip_prefix("whsec_").unwrap();
    let planted = [
        ("master key", master_key.as_str()),
        ("admin key", admin_key),
        ("API key", api_key),
        ("signing secret", base64_of_secret),
        ("signing key", "whsk_"),
        ("header", "planted-header-Wd9t"),
        ("secret of an operation", &own_secret[6..]),
        ("client secret", SECRET_OF_CLIENT),
        ("token", token.expose_secret()),
    ];
    for (place, text) in &read {
        for (name, secret) in planted {
            assert!(!text.contains(secret), "the {name} is in {place}");
        }
    }
    assert!(!serve.log().contains("planted-code-Qm7v"), "a receiver's own secret is in the log");
    // Tokens that the bridge got by itself: none of them has a name here, but all have a shape.
    let record = sandbox.record();
    assert!(record.iter().any(|it| it.path.ends_with("/token")), "no token was fetched");
    assert!(serve.terminate().await.success());
}
