//! Ed25519 beside the signing secrets, what anybody may know of it, and secrets of single operations.

use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::courier::signing::{SignedHeaders, verify_by_key};
use engagement_bridge::courier::{PublicKey, SigningSecret};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    CONFLICT, NOT_FOUND, Refusal, all_refused, assert_refused, delete, fault, get, post,
    quiet_world,
};
use crate::world::{Received, World};

const KEYS: &str = "/v1/signing-keys";
const PUBLIC: &str = "/v1/callers/shop/signing-keys";

fn verify(received: &Received, key: &str) {
    let headers = SignedHeaders {
        id: Some(received.header("webhook-id")),
        timestamp: Some(received.header("webhook-timestamp")),
        signature: Some(received.header("webhook-signature")),
    };
    let key: PublicKey = key.parse().unwrap();
    verify_by_key(&key, headers, &received.body, SystemClock.now()).unwrap();
}

/// What the entries of the signature begin with, in their order.
fn kinds(received: &Received) -> Vec<&str> {
    let entries = received.header("webhook-signature").split(' ');
    entries.map(|it| it.split_once(',').unwrap().0).collect()
}

async fn made(world: &World, body: Value) -> String {
    let made = world.shop.post(KEYS, &body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert!(!made.text.contains("whsk_"), "the private half is nobody's business");
    made.body["publicKey"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_sign_behind_the_secrets_and_their_public_halves_are_there_for_anybody() {
    let world = World::begin().await;
    let script = json!([{ "status": "succeeded" }]);
    assert_eq!(kinds(&world.tell(&script).await), ["v1"], "unless they are asked for");

    let first = made(&world, json!({})).await;
    let told = world.tell(&script).await;
    assert_eq!(kinds(&told), ["v1", "v1a"]);
    verify(&told, &first);

    let second = made(&world, json!({ "overlapSeconds": 3_600 })).await;
    let told = world.tell(&script).await;
    assert_eq!(kinds(&told), ["v1", "v1a", "v1a"]);
    for key in [&first, &second] {
        verify(&told, key);
    }
    let anybody = world.shop.with_key("");
    let published = anybody.get(PUBLIC).await;
    assert_eq!(published.status, StatusCode::OK);
    assert_eq!(published.body, json!({ "publicKeys": [second, first] }), "and nothing else");
    assert_eq!(published.headers["cache-control"], "public, max-age=60");
    let listed = world.shop.get(KEYS).await;
    assert!(!listed.text.contains("whsk_"));
    let listed = &listed.body["signingKeys"];
    assert_eq!((&listed[0]["id"], &listed[0]["expiresAt"]), (&json!(2), &Value::Null));
    assert!(listed[1]["expiresAt"].is_string());
    assert_eq!(listed[1]["publicKey"], first);

    // The newest goes last.
    assert_refused(&world.shop.delete("/v1/signing-keys/2").await, &CONFLICT);
    for id in [1, 2] {
        let revoked = world.shop.delete(&format!("{KEYS}/{id}")).await;
        assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(kinds(&world.tell(&script).await), ["v1"]);
    assert_refused(&anybody.get(PUBLIC).await, &NOT_FOUND);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_by_public_keys_who_is_a_caller() {
    let world = quiet_world().await;
    let anybody = world.shop.with_key("");
    let without_keys = anybody.get(PUBLIC).await;
    assert_refused(&without_keys, &NOT_FOUND);
    for name in ["nobody", "Shop", "%00", "shop%2F..", &"s".repeat(65)] {
        let of_nobody = anybody.get(&format!("/v1/callers/{name}/signing-keys")).await;
        assert_eq!((of_nobody.status, &of_nobody.text), (without_keys.status, &without_keys.text));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_made_or_revoked_is_refused() {
    let world = quiet_world().await;
    for _ in 0..10 {
        made(&world, json!({})).await;
    }
    let rotate = |overlap: Value| post(KEYS, &json!({ "overlapSeconds": overlap }));
    let table = [
        ("an eleventh", post(KEYS, &json!({})), CONFLICT),
        ("a week and a second", rotate(json!(604_801)), fault("overlapSeconds", "outOfRange")),
        ("less than none", rotate(json!(-1)), fault("overlapSeconds", "invalid")),
        ("the newest", delete("/v1/signing-keys/10"), CONFLICT),
        ("one that is not there", delete("/v1/signing-keys/11"), NOT_FOUND),
        ("one that is no number", delete("/v1/signing-keys/+1"), NOT_FOUND),
        ("a private half", get("/v1/signing-keys/1"), super::WRONG_METHOD),
    ];
    all_refused(&world, &world.shop, &table).await;
    // All others have ended at once, so there is room.
    made(&world, json!({ "overlapSeconds": 0 })).await;
    let listed = world.shop.get(KEYS).await.body;
    assert_eq!(listed["signingKeys"].as_array().unwrap().len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_with_a_secret_of_its_own_is_told_by_that_alone() {
    let world = World::begin().await;
    made(&world, json!({})).await;
    let own = SigningSecret::generate().unwrap();
    let mut registration = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
    registration["callbackSecret"] = json!(*own.expose());
    world.receiver.expect_secret(own.clone());
    let request = |body: &Value| post("/v1/operations", body).header("idempotency-key", "k");
    let answer = request(&registration).send(&world.shop).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(answer.body["hasCallbackSecret"], true);
    let id = answer.body["id"].as_str().unwrap();
    let told = world.receiver.next().await;
    assert_eq!(kinds(&told), ["v1"], "neither the caller's secret nor its key signs");
    world.all_is_told().await;

    // Also when it is sent again, long after its end.
    let resent = world.shop.post(&format!("/v1/operations/{id}/resend"), &json!({})).await;
    assert_eq!(resent.status, StatusCode::ACCEPTED);
    assert_eq!(kinds(&world.receiver.next().await), ["v1"]);
    world.all_is_told().await;

    let seen = world.shop.operation(id).await;
    assert_eq!(seen["hasCallbackSecret"], true);
    let shown = [seen.to_string(), answer.text.clone(), world.stored().join("\n")];
    assert!(shown.iter().all(|it| !it.contains(&own.expose()[6..])), "it is shown");

    // Another secret makes another request.
    let again = request(&registration).send(&world.shop).await;
    assert_eq!(again.text, answer.text);
    let reused: Refusal = (422, "idempotency-key-reused", Vec::new());
    registration["callbackSecret"] = json!(*SigningSecret::generate().unwrap().expose());
    assert_refused(&request(&registration).send(&world.shop).await, &reused);
    registration.as_object_mut().unwrap().remove("callbackSecret");
    assert_refused(&request(&registration).send(&world.shop).await, &reused);
    world.end().await;
}
