//! What a key is for, for how long it is good, and what it can make.

use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    CONFLICT, FORBIDDEN, Row, all_refused, assert_refused, delete, fault, get, post, quiet_world,
};
use crate::world::{Client, World};

async fn make(client: &Client, request: &Value) -> (Client, Value) {
    let made = client.post("/v1/keys", request).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    (client.with_key(made.body["apiKey"].as_str().unwrap()), made.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_for_what_it_was_made_for_and_says_so() {
    let world = quiet_world().await;
    let wanted = json!({ "label": "«ü» frontend", "scopes": ["read", "register"],
        "expiresAfter": "P90D" });
    let (frontend, made) = make(&world.shop, &wanted).await;
    assert_eq!(made["scopes"], json!(["register", "read"]));
    let listed = frontend.get("/v1/keys").await.body;
    let key = &listed["keys"][1];
    assert_eq!(key["label"], "«ü» frontend");
    for member in ["id", "scopes", "expiresAt"] {
        assert_eq!(key[member], made[member], "{member}");
    }
    let time = |member: &str| key[member].as_str().unwrap().parse::<Timestamp>().unwrap();
    let life = time("expiresAt").duration_since(time("createdAt"));
    assert_eq!(life, jiff::SignedDuration::from_hours(90 * 24));
    let refused = frontend.post("/v1/keys", &json!({})).await;
    assert_refused(&refused, &FORBIDDEN);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("needs the scope `manage`"), "{detail}");
    assert!(detail.contains("has: register read."), "{detail}");
    assert!(detail.contains(made["id"].as_str().unwrap()), "{detail}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_makes_one_that_may_do_more_or_lasts_longer_than_itself() {
    let world = quiet_world().await;
    let wanted = json!({ "scopes": ["manage", "read"], "expiresAfter": "P7D" });
    let (desk, made) = make(&world.shop, &wanted).await;
    let key = |request: Value| post("/v1/keys", &request);
    let table: [Row; 4] = [
        (
            "more than itself",
            key(json!({ "scopes": ["register"], "expiresAfter": "P1D" })),
            fault("scopes", "notYours"),
        ),
        (
            "more beside what it may",
            key(json!({ "scopes": ["register", "read", "manage"], "expiresAfter": "P1D" })),
            fault("scopes", "notYours"),
        ),
        ("for good", key(json!({})), fault("expiresAfter", "tooLong")),
        ("for longer", key(json!({ "expiresAfter": "P8D" })), fault("expiresAfter", "tooLong")),
    ];
    all_refused(&world, &desk, &table).await;
    let (_, second) = make(&desk, &json!({ "expiresAfter": "P1D" })).await;
    assert_eq!(second["scopes"], made["scopes"], "as much as itself, unless less is wanted");

    let odd: [Row; 8] = [
        ("no scope", key(json!({ "scopes": [] })), fault("scopes", "invalid")),
        ("an unknown scope", key(json!({ "scopes": ["admin"] })), fault("scopes", "invalid")),
        ("no label", key(json!({ "label": "" })), fault("label", "invalid")),
        ("a long label", key(json!({ "label": "x".repeat(65) })), fault("label", "invalid")),
        ("a label with NUL", key(json!({ "label": "\0" })), fault("label", "invalid")),
        ("too short", key(json!({ "expiresAfter": "PT59S" })), fault("expiresAfter", "invalid")),
        ("too long", key(json!({ "expiresAfter": "P3651D" })), fault("expiresAfter", "invalid")),
        ("no duration", key(json!({ "expiresAfter": "90d" })), fault("expiresAfter", "invalid")),
    ];
    all_refused(&world, &world.shop, &odd).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_fifty_keys_at_the_most_and_the_operator_can_end_each() {
    let world = quiet_world().await;
    let path = "/v1/admin/callers/shop/keys";
    for _ in 1..50 {
        let made = world.operator.post(path, &json!({})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }
    for (client, path) in [(&world.shop, "/v1/keys"), (&world.operator, path)] {
        assert_refused(&client.post(path, &json!({})).await, &CONFLICT);
    }
    let listed = get(path).send(&world.operator).await.body;
    assert_eq!(listed, world.shop.get("/v1/keys").await.body);
    let last = format!("{path}/{}", listed["keys"][49]["id"].as_str().unwrap());
    assert_eq!(delete(&last).send(&world.operator).await.status, StatusCode::NO_CONTENT);
    make(&world.shop, &json!({})).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_mistyped_is_told_from_one_that_is_not_there() {
    use secrecy::ExposeSecret as _;
    let world: World = quiet_world().await;
    let key = world.shop.key.expose_secret();
    let detail = async |key: &str| {
        let answer = world.shop.with_key(key).get("/v1/keys").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        answer.body["detail"].as_str().unwrap().to_owned()
    };
    let slip = format!("{}{}", &key[..41], if key.ends_with('0') { "1" } else { "0" });
    assert!(detail(&slip).await.contains("mistyped or cut short"));
    assert!(detail(&key[..20]).await.contains("mistyped or cut short"));
    // By the format that the README tells.
    let unknown = format!("ebk_{}3WF97K", "0".repeat(32));
    assert!(detail(&unknown).await.contains("There is no such key"));
    assert!(detail("a.b.c").await.contains("by a token"));
    assert!(detail("hunter2").await.contains("begin with `ebk_`"));
    world.stop().await;
}
