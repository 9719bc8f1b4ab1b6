//! What callbacks look like, what goes with them, and what is told besides the end.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    CONFLICT, NOT_FOUND, Refusal, all_refused, assert_refused, delete, fault, post, put,
    quiet_world,
};
use crate::world::{Client, Received, World};

const SETTINGS: &str = "/v1/callback-settings";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn set_format(client: &Client, format: &str) {
    let answer = client.put(SETTINGS, &json!({ "format": format })).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""));
}

async fn set_header(client: &Client, name: &str, value: &str) -> StatusCode {
    let path = format!("/v1/callback-headers/{name}");
    client.put(&path, &json!({ "value": value })).await.status
}

/// Registers an operation that succeeds, with more members, and waits for its first callback.
async fn told(world: &World, members: Value) -> Received {
    let mut registration = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
    for (name, value) in members.as_object().unwrap() {
        registration[name] = value.clone();
    }
    world.shop.register(&registration).await;
    world.receiver.next().await
}

/// What Graph last sent of an operation, byte for byte.
async fn seen_data(world: &World, id: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        data: &'a serde_json::value::RawValue,
    }
    let seen = world.shop.get(&format!("/v1/operations/{id}")).await.text;
    serde_json::from_str::<Body<'_>>(&seen).unwrap().data.get().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_names_its_format_or_takes_the_callers() {
    let world = World::begin().await;
    let state = "Größe, 100% \"7\"";
    let envelope = told(&world, json!({ "clientState": state })).await;
    assert_eq!(envelope.header("content-type"), "application/json");
    assert_eq!(envelope.json()["tracking"]["clientState"], state);
    let named = |headers: &Received| {
        headers.headers.keys().filter(|it| it.as_str().starts_with("bridge-")).count()
    };
    assert_eq!(named(&envelope), 0);

    set_format(&world.shop, "cloudEvents").await;
    let event = told(&world, json!({ "clientState": state })).await;
    assert_eq!(event.header("content-type"), "application/cloudevents+json");
    let body = event.json();
    assert_eq!(
        (&body["specversion"], &body["type"]),
        (&json!("1.0"), &json!("engagementAsyncOperation.succeeded"))
    );
    assert_eq!(body["id"], event.header("webhook-id"));
    assert_eq!(body["source"], "urn:engagement-bridge:caller:shop");
    assert_eq!((&body["clientstate"], &body["outcome"]), (&json!(state), &json!("succeeded")));
    assert_eq!(named(&event), 0);
    let id = body["subject"].as_str().unwrap();
    let seen = world.shop.operation(id).await;
    assert_eq!(seen["format"], "cloudEvents");
    assert_eq!(event.data(), seen_data(&world, id).await, "as Graph sent it");

    let bare = told(&world, json!({ "format": "operation", "clientState": state })).await;
    assert_eq!(bare.header("content-type"), "application/json");
    assert_eq!(bare.header("bridge-type"), "engagementAsyncOperation.succeeded");
    assert_eq!(bare.header("bridge-client-state"), "Gr%C3%B6%C3%9Fe,%20100%25%20%227%22");
    assert_eq!(bare.header("bridge-outcome"), "succeeded");
    assert_eq!(bare.header("bridge-connection"), "contoso");
    let id = bare.header("bridge-operation");
    let seen = world.shop.operation(id).await;
    assert_eq!((&seen["format"], &seen["clientState"]), (&json!("operation"), &json!(state)));
    assert_eq!(bare.body, seen_data(&world, id).await, "the body is Graph's");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_carries_the_same_whatever_was_changed_in_between() {
    let world = World::begin_with(&["--callback-schedule", "0s,100ms"]).await;
    world.receiver.answer(vec![StatusCode::SERVICE_UNAVAILABLE]);
    let mut registration = world.registration(&world.start(&json!([{ "http": 410 }])));
    registration["format"] = json!("operation");
    let body = registration.to_string().into_bytes();
    let headers = [("traceparent", PARENT), ("tracestate", "a=b"), ("tracestate", "c=d")];
    let path = "/v1/operations";
    let answer = world.shop.send_raw(reqwest::Method::POST, path, Some(body), &headers).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let first = world.receiver.next().await;
    set_format(&world.shop, "cloudEvents").await;
    let second = world.receiver.next().await;
    assert_eq!(first.body, "null", "Graph never told");
    assert_eq!(second.body, first.body);
    assert_eq!(first.header("traceparent"), PARENT);
    assert_eq!(first.header("tracestate"), "a=b,c=d");
    let fixed = |received: &Received| {
        let mut headers = received.headers.clone();
        for changing in ["webhook-timestamp", "webhook-signature"] {
            headers.remove(changing);
        }
        headers
    };
    assert_eq!(fixed(&first), fixed(&second));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_is_not_in_order_is_left_out_and_harms_nothing() {
    let world = World::begin().await;
    let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
    let odd = [("traceparent", "00-0-0-0"), ("tracestate", "a=b")];
    for headers in [twice, odd] {
        let registration = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
        let body = Some(registration.to_string().into_bytes());
        let path = "/v1/operations";
        let answer = world.shop.send_raw(reqwest::Method::POST, path, body, &headers).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        let told = world.receiver.next().await;
        assert!(!told.headers.contains_key("traceparent"));
        assert!(!told.headers.contains_key("tracestate"));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_callers_go_with_every_callback_and_are_shown_to_nobody() {
    let world = World::begin().await;
    assert_eq!(set_header(&world.shop, "X-Api-Key", "planted-Zq81").await, 204);
    assert_eq!(set_header(&world.shop, "authorization", "Basic cGxhbnRlZA==").await, 204);
    let told_of = told(&world, json!({})).await;
    assert_eq!(told_of.header("x-api-key"), "planted-Zq81");
    assert_eq!(told_of.header("authorization"), "Basic cGxhbnRlZA==");
    let settings = world.shop.get(SETTINGS).await;
    let expected = json!({ "format": "envelope", "headers": ["authorization", "x-api-key"] });
    assert_eq!(settings.body, expected);
    let stored = world.stored().join("\n");
    for secret in ["planted-Zq81", "cGxhbnRlZA"] {
        assert!(!stored.contains(secret), "it lies open in the database");
    }

    // In the place of the one that there was, whatever its case.
    assert_eq!(set_header(&world.shop, "x-API-key", "another").await, 204);
    let removed = world.shop.delete("/v1/callback-headers/Authorization").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let told_of = told(&world, json!({})).await;
    assert_eq!(told_of.header("x-api-key"), "another");
    assert!(!told_of.headers.contains_key("authorization"));

    let other = world.operator.add_caller("other").await;
    let theirs = other.get(SETTINGS).await.body;
    assert_eq!(theirs, json!({ "format": "envelope", "headers": [] }));
    assert_refused(&other.delete("/v1/callback-headers/x-api-key").await, &NOT_FOUND);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_with_a_callback_is_refused() {
    let world = quiet_world().await;
    for number in 1..=16 {
        assert_eq!(set_header(&world.shop, &format!("x-{number}"), "v").await, 204);
    }
    assert_eq!(set_header(&world.shop, "x-1", "w").await, 204, "there is room for that one");
    let set = |name: &str, value: Value| {
        put(&format!("/v1/callback-headers/{name}"), &json!({ "value": value }))
    };
    let settings = |body: Value| put(SETTINGS, &body);
    let longest = "n".repeat(65);
    let table = [
        ("a seventeenth", set("x-17", json!("v")), CONFLICT),
        ("no token", set("a%20b", json!("v")), fault("header", "invalid")),
        ("a line break", set("a%0D%0Ab", json!("v")), fault("header", "invalid")),
        ("no ASCII", set("%C3%A4", json!("v")), fault("header", "invalid")),
        ("65 letters", set(&longest, json!("v")), fault("header", "invalid")),
        ("one of ours", set("Webhook-Id", json!("v")), fault("header", "reserved")),
        ("another of ours", set("bridge-type", json!("v")), fault("header", "reserved")),
        ("the trace", set("traceparent", json!("v")), fault("header", "reserved")),
        ("of the body", set("content-type", json!("v")), fault("header", "reserved")),
        ("of the event", set("ce-id", json!("v")), fault("header", "reserved")),
        ("of the connection", set("transfer-encoding", json!("v")), fault("header", "reserved")),
        ("the host", set("HOST", json!("v")), fault("header", "reserved")),
        ("us", set("user-agent", json!("v")), fault("header", "reserved")),
        ("no value", set("x-1", json!("")), fault("value", "invalid")),
        ("two lines", set("x-1", json!("a\r\nb: c")), fault("value", "invalid")),
        ("an umlaut", set("x-1", json!("ü")), fault("value", "invalid")),
        ("2049 bytes", set("x-1", json!("v".repeat(2_049))), fault("value", "invalid")),
        ("a number", set("x-1", json!(7)), fault("value", "invalid")),
        ("nothing", put("/v1/callback-headers/x-1", &json!({})), fault("value", "missing")),
        ("one that is not there", delete("/v1/callback-headers/x-17"), NOT_FOUND),
        ("one that is none", delete("/v1/callback-headers/%00"), NOT_FOUND),
        ("no format", settings(json!({})), fault("format", "missing")),
        ("null for a format", settings(json!({ "format": null })), fault("format", "invalid")),
        ("another format", settings(json!({ "format": "xml" })), fault("format", "invalid")),
        ("more", settings(json!({ "format": "envelope", "x": 1 })), fault("x", "unknown")),
    ];
    all_refused(&world, &world.shop, &table).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cloud_events_cannot_hold_is_refused_in_that_format_alone() {
    let world = quiet_world().await;
    let registration = |format: Option<&str>| {
        let mut registration = world.registration("eyJf");
        registration["clientState"] = json!("bell \u{7}");
        if let Some(format) = format {
            registration["format"] = json!(format);
        }
        registration
    };
    let refusal = fault("clientState", "invalid");
    let named = post("/v1/operations", &registration(Some("cloudEvents")));
    all_refused(&world, &world.shop, &[("named", named, refusal.clone())]).await;
    set_format(&world.shop, "cloudEvents").await;
    let by_default = post("/v1/operations", &registration(None));
    all_refused(&world, &world.shop, &[("by default", by_default, refusal)]).await;
    let id = world.shop.register(&registration(Some("operation"))).await;
    assert_eq!(world.shop.operation(&id).await["format"], "operation");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_graph_has_begun_is_told_once_to_those_who_asked() {
    let world = World::begin().await;
    let script = json!([
        { "status": "notStarted" }, { "status": "running" }, { "status": "running" },
        { "status": "succeeded" },
    ]);
    let mut registration = world.registration(&world.start(&script));
    registration["notify"] = json!(["running"]);
    let request = |body: &Value| post("/v1/operations", body).header("idempotency-key", "k");
    let answer = request(&registration).send(&world.shop).await;
    assert_eq!(answer.body["notify"], json!(["running"]));
    let began = world.receiver.next().await;
    assert_eq!(began.about(), "running");
    assert_eq!(began.json()["data"]["status"], "running");
    assert!(began.json()["tracking"].get("outcome").is_none());
    let ended = world.receiver.next().await;
    assert_eq!(ended.about(), "succeeded");
    let id = answer.body["id"].as_str().unwrap();
    let number = |received: &Received| {
        received.header("webhook-id").strip_prefix(&id.replace("op_", "msg_")).unwrap().to_owned()
    };
    assert_eq!((number(&began), number(&ended)), ("_1".to_owned(), "_2".to_owned()));

    // Who has not asked hears of the end alone.
    let told = world.tell(&script).await;
    assert_eq!(told.about(), "succeeded");
    let reused: Refusal = (422, "idempotency-key-reused", Vec::new());
    for (member, value) in [("notify", json!([])), ("format", json!("operation"))] {
        let mut other = registration.clone();
        other[member] = value;
        assert_refused(&request(&other).send(&world.shop).await, &reused);
    }
    world.end().await;
}
