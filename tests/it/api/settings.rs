//! Keys, signing secrets and connections of a caller, and the operator's callers.

use engagement_bridge::clock::{Clock as _, SystemClock};
use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{CONFLICT, NO_KEY, NOT_FOUND, assert_refused, quiet_world, tracked};
use crate::world::{Client, World};

async fn listed(client: &Client, path: &str, member: &str) -> Vec<Value> {
    let answer = client.get(path).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.body[member].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_works_at_once_and_is_refused_as_soon_as_it_is_revoked() {
    let world = quiet_world().await;
    let made = world.shop.post("/v1/keys", &json!({})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let key = made.body["apiKey"].as_str().unwrap();
    assert!(key.starts_with("ebk_"), "recognised where it leaks");
    let second = world.shop.with_key(key);
    let keys = listed(&second, "/v1/keys", "keys").await;
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[1]["id"], made.body["id"], "oldest first");
    let as_listed = serde_json::to_string(&keys).unwrap();
    assert!(!as_listed.contains(key), "shown a second time");

    let path = |key: &Value| format!("/v1/keys/{}", key["id"].as_str().unwrap());
    let revoked = second.delete(&path(&keys[0])).await;
    assert_eq!((revoked.status, revoked.text.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_refused(&world.shop.get("/v1/keys").await, &NO_KEY);
    assert_refused(&second.delete(&path(&keys[0])).await, &NOT_FOUND);
    assert_eq!(listed(&second, "/v1/keys", "keys").await, keys[1..]);

    let revoked = second.delete(&path(&keys[1])).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT, "even the last, if it has leaked");
    assert_refused(&second.get("/v1/keys").await, &NO_KEY);
    let made = world.operator.post("/v1/admin/callers/shop/keys", &json!({})).await;
    assert_eq!(made.status, StatusCode::CREATED, "the operator helps");
    let third = world.shop.with_key(made.body["apiKey"].as_str().unwrap());
    assert_eq!(listed(&third, "/v1/keys", "keys").await.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_overlap_while_they_are_rotated_and_the_newest_stays() {
    let world = World::begin().await;
    let (path, member) = ("/v1/signing-secrets", "signingSecrets");
    // The bridge's own clock may be a moment behind this one.
    let before = SystemClock.now() - std::time::Duration::from_millis(1);
    let made = world.shop.post(path, &json!({ "overlapSeconds": 3_600 })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.body["id"], 2);
    let secret = made.body["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let older_until: Timestamp = made.body["olderUntil"].as_str().unwrap().parse().unwrap();
    let overlap = older_until.duration_since(before);
    let an_hour = jiff::SignedDuration::from_hours(1);
    // The bridge plans by a clock of its own, which may be a moment behind the machine's.
    let moment = jiff::SignedDuration::from_secs(1);
    assert!((an_hour - moment..an_hour * 2).contains(&overlap), "{overlap}");
    let live = listed(&world.shop, path, member).await;
    assert_eq!((&live[0]["id"], &live[0]["expiresAt"]), (&json!(2), &json!(null)));
    assert_eq!((&live[1]["id"], &live[1]["expiresAt"]), (&json!(1), &made.body["olderUntil"]));
    assert!(!serde_json::to_string(&live).unwrap().contains(secret), "shown a second time");

    // The receiver still verifies by the old one.
    let told = world.tell(&json!([{ "status": "succeeded" }])).await;
    told.verify(&secret.parse().unwrap());
    assert_eq!(told.header("webhook-signature").split(' ').count(), 2);

    // Else nothing would sign once the first has expired.
    assert_refused(&world.shop.delete("/v1/signing-secrets/2").await, &CONFLICT);
    let revoked = world.shop.delete("/v1/signing-secrets/1").await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert_refused(&world.shop.delete("/v1/signing-secrets/1").await, &NOT_FOUND);
    assert_refused(&world.shop.delete("/v1/signing-secrets/2").await, &CONFLICT);
    assert_eq!(listed(&world.shop, path, member).await.len(), 1);
    world.receiver.expect_secret(secret.parse().unwrap());
    let told = world.tell(&json!([{ "status": "succeeded" }])).await;
    assert_eq!(told.header("webhook-signature").split(' ').count(), 1);

    let made = world.shop.post(path, &json!({ "overlapSeconds": 0 })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let live = listed(&world.shop, path, member).await;
    assert_eq!(live.len(), 1, "without an overlap the older ones are gone at once");
    assert_eq!(live[0]["id"], 3, "an id is never used again");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_secrets_are_live_at_the_most() {
    let world = quiet_world().await;
    for _ in 0..9 {
        let made = world.shop.post("/v1/signing-secrets", &json!({})).await;
        assert_eq!(made.status, StatusCode::CREATED);
    }
    let stored = world.stored();
    let eleventh = world.shop.post("/v1/signing-secrets", &json!({})).await;
    assert_refused(&eleventh, &CONFLICT);
    assert_eq!(world.stored(), stored);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_made_used_by_default_repaired_and_removed_when_nothing_needs_it() {
    let world = quiet_world().await;
    let connection = json!({ "name": "fabrikam", "tenant": "Fabrikam.Example",
        "clientId": "AAAAAAAA-2222-3333-4444-555555555555", "clientSecret": "planted-7Qw" });
    let made = world.shop.post("/v1/connections", &connection).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.body["isDefault"], false, "the first one is");
    assert_eq!(made.body["tenant"], "fabrikam.example");
    assert_eq!(made.body["clientId"], "aaaaaaaa-2222-3333-4444-555555555555");
    assert!(!made.text.contains("planted-7Qw"));
    let seen = listed(&world.shop, "/v1/connections", "connections").await;
    assert_eq!(seen.len(), 2);
    assert_eq!((&seen[0]["name"], &seen[0]["isDefault"]), (&json!("contoso"), &json!(true)));
    assert_eq!(seen[1], made.body);
    let by_operator = world.operator.get("/v1/admin/callers/shop/connections").await;
    assert_eq!(by_operator.body["connections"], json!(seen));

    let id = tracked(&world).await;
    assert_eq!(world.shop.operation(&id).await["connection"], "contoso");
    let stored = world.stored();
    assert_refused(&world.shop.delete("/v1/connections/contoso").await, &CONFLICT);
    assert_eq!(world.stored(), stored);

    world.shop_repairs_its_connection().await;
    assert_ne!(world.stored(), stored, "the new secret is kept");
    world.shop.delete(&format!("/v1/operations/{id}")).await;
    let removed = world.shop.delete("/v1/connections/contoso").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_refused(&world.shop.delete("/v1/connections/contoso").await, &NOT_FOUND);
    assert_eq!(world.shop.operation(&id).await["connection"], "contoso", "as it was");
    let left = listed(&world.shop, "/v1/connections", "connections").await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["isDefault"], true, "another one takes its place");
    let id = world.shop.register(&world.registration("eyJf")).await;
    assert_eq!(world.shop.operation(&id).await["connection"], "fabrikam");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_was_added_can_do_all_that_its_key_is_for() {
    let world = quiet_world().await;
    let name = json!({ "name": "newcomer" });
    let added = world.operator.post("/v1/admin/callers", &name).await;
    assert_eq!(added.status, StatusCode::CREATED);
    assert_eq!(added.body["caller"], "newcomer");
    assert!(added.body["signingSecret"].as_str().unwrap().starts_with("whsec_"));
    let newcomer = world.operator.with_key(added.body["apiKey"].as_str().unwrap());
    assert_eq!(listed(&newcomer, "/v1/keys", "keys").await.len(), 1);
    assert_eq!(listed(&newcomer, "/v1/signing-secrets", "signingSecrets").await.len(), 1);
    assert_eq!(listed(&newcomer, "/v1/connections", "connections").await.len(), 0);
    world.operator.add_connection("newcomer", "contoso").await;
    let connections = listed(&newcomer, "/v1/connections", "connections").await;
    assert_eq!(connections[0]["isDefault"], true);
    newcomer.register(&world.registration("eyJf")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_need_no_key() {
    let world = quiet_world().await;
    let nobody = world.shop.with_key("");
    let alive = nobody.get("/healthz").await;
    assert_eq!((alive.status, alive.text.as_str()), (StatusCode::NO_CONTENT, ""));
    let ready = nobody.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    assert_eq!(ready.body, json!({ "status": "ready", "oldestDueSeconds": 0 }));
    assert_eq!(nobody.get("/openapi.json").await.headers["content-type"], "application/json");
    world.stop().await;
}
