//! Callback URLs at which a receiver wants nothing any more.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{
    NOT_FOUND, Row, all_refused, ask, assert_refused, delete, fault, get, post, quiet_world,
};
use crate::world::World;

fn segment(url: &str) -> String {
    url::form_urlencoded::byte_serialize(url.as_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_410_nothing_goes_there_until_the_caller_says_otherwise() {
    let world = World::begin().await;
    world.receiver.answer(vec![StatusCode::GONE]);
    let second = world.start(&json!([{ "status": "running" }]));
    let second = world.shop.register(&world.registration(&second)).await;
    let told = world.tell(&json!([{ "status": "succeeded" }])).await;
    world.all_is_told().await;
    let url = world.receiver.url();
    let listed = world.shop.get("/v1/destinations").await.body;
    assert_eq!(listed["destinations"][0]["url"], url);
    assert!(listed["destinations"][0]["goneSince"].is_string());
    assert_eq!(listed["next"], json!(null));

    // What is registered already ends without an attempt; what is new is refused.
    let stored = world.stored();
    let another = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
    let refused = post("/v1/operations", &another).send(&world.shop).await;
    assert_refused(&refused, &fault("callbackUrl", "gone"));
    assert!(refused.text.contains("DELETE /v1/destinations"), "{refused:?}");
    assert_eq!(world.stored().len(), stored.len());
    assert_eq!(world.shop.operation(&second).await["state"], "watching");
    let other = world.operator.add_caller("other").await;
    world.operator.add_connection("other", "contoso").await;
    assert_eq!(other.get("/v1/destinations").await.body["destinations"], json!([]));

    let back = world.shop.delete(&format!("/v1/destinations?url={}", segment(&url))).await;
    assert_eq!(back.status, StatusCode::NO_CONTENT);
    assert_eq!(world.shop.get("/v1/destinations").await.body["destinations"], json!([]));
    world.shop.register(&another).await;
    let next = world.receiver.next().await;
    assert_ne!(next.header("webhook-id"), told.header("webhook-id"));
    world.all_is_told().await;
    world.shop.delete(&format!("/v1/operations/{second}")).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_again_is_saying_otherwise() {
    let world = World::begin().await;
    for bulk in [false, true] {
        world.receiver.answer(vec![StatusCode::GONE]);
        let told = world.tell(&json!([{ "status": "succeeded" }])).await;
        world.all_is_told().await;
        let gone = world.shop.get("/v1/destinations").await.body;
        assert_eq!(gone["destinations"].as_array().unwrap().len(), 1);
        let wish = if bulk {
            post("/v1/callbacks/resend", &json!({ "reason": "gone" }))
        } else {
            let body = told.json();
            let id = body["tracking"]["id"].as_str().unwrap();
            ask(Method::POST, &format!("/v1/operations/{id}/resend"))
        };
        assert_eq!(wish.send(&world.shop).await.status, StatusCode::ACCEPTED);
        let again = world.receiver.next().await;
        assert_eq!(again.header("webhook-id"), told.header("webhook-id"));
        world.all_is_told().await;
        assert_eq!(world.shop.get("/v1/destinations").await.body["destinations"], json!([]));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_destination_is_not_brought_back() {
    let world = quiet_world().await;
    let table: [Row; 6] = [
        ("none is named", delete("/v1/destinations"), fault("url", "missing")),
        ("it is not gone", delete("/v1/destinations?url=https://a.example/"), NOT_FOUND),
        ("it is no URL", delete("/v1/destinations?url=%00"), NOT_FOUND),
        ("behind what is none", get("/v1/destinations?after=%00"), fault("after", "invalid")),
        ("more than a page", get("/v1/destinations?limit=201"), fault("limit", "outOfRange")),
        ("a state", get("/v1/destinations?state=gone"), fault("state", "unknown")),
    ];
    all_refused(&world, &world.shop, &table).await;
    world.stop().await;
}
