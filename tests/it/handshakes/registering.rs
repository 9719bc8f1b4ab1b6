//! On the wire: whoever registers, the bridge, and the receiver that is asked.

use axum::http::{Method, StatusCode};
use axum::response::IntoResponse as _;
use engagement_bridge::sandbox::{Script, Version};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::process::{Home, until};
use crate::world::{Answer, Client, Received, Receiver, World, agree, sandbox};

const GRAPH: [&str; 2] = ["--callback-handshake", "graph"];
const CLOUD_EVENTS: [&str; 4] =
    ["--callback-handshake", "cloudEvents", "--callback-request-origin", "bridge.example.com"];
const NO_POLLS: [&str; 2] = ["--first-poll-after", "1h"];

/// What is wrong with the callback URL: the code, and the detail.
fn fault(answer: &Answer) -> (String, String) {
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
    assert_eq!(answer.body["type"], "urn:engagement-bridge:problem:invalid-request");
    let [error] = answer.body["errors"].as_array().unwrap().as_slice() else {
        panic!("{answer:?}")
    };
    assert_eq!(error["field"], "callbackUrl");
    let text = |member: &str| error[member].as_str().unwrap().to_owned();
    (text("code"), text("detail"))
}

async fn register(world: &World, operation: &str, url: &str) -> Answer {
    let registration = json!({ "operation": operation, "callbackUrl": url });
    world.shop.post("/v1/operations", &registration).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_agrees_is_asked_once_and_then_told() {
    for flags in [&GRAPH[..], &CLOUD_EVENTS] {
        let world = World::begin_with(flags).await;
        assert_eq!(world.tell(&json!([{ "status": "succeeded" }])).await.about(), "succeeded");
        assert_eq!(world.tell(&json!([{ "status": "failed" }])).await.about(), "failed");
        let asked = world.receiver.asked();
        let [asked] = asked.as_slice() else { panic!("{asked:?}") };
        let is_graph = flags == GRAPH;
        assert_eq!(asked.method, if is_graph { Method::POST } else { Method::OPTIONS });
        assert_eq!(asked.headers.contains_key("webhook-request-origin"), !is_graph);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_unless_the_operator_says_so() {
    let world = World::begin_with(&NO_POLLS).await;
    world.receiver.answer_questions(|_| StatusCode::NOT_FOUND.into_response());
    world.shop.register(&world.registration("eyJf")).await;
    assert!(world.receiver.asked().is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_callback_says_who_sends_it_where_receivers_know_us_by_name() {
    let name = |told: &Received| told.headers.get("webhook-request-origin").cloned();
    let world = World::begin_with(&CLOUD_EVENTS).await;
    let told = world.tell(&json!([{ "status": "succeeded" }])).await;
    assert_eq!(name(&told).unwrap(), "bridge.example.com");
    world.end().await;

    let world = World::begin_with(&CLOUD_EVENTS[2..]).await;
    let told = world.tell(&json!([{ "status": "succeeded" }])).await;
    assert_eq!(name(&told).unwrap(), "bridge.example.com");
    assert!(world.receiver.asked().is_empty());
    world.end().await;

    let world = World::begin_with(&GRAPH).await;
    assert_eq!(name(&world.tell(&json!([{ "status": "succeeded" }])).await), None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_refused_by_what_its_receiver_answers_and_leaves_nothing() {
    let world = World::begin_with(&[&GRAPH[..], &NO_POLLS].concat()).await;
    let stored = world.stored();
    let url = world.receiver.url();
    world.receiver.answer_questions(|_| (StatusCode::FORBIDDEN, "of inside").into_response());
    let (code, detail) = fault(&register(&world, "eyJf", &url).await);
    assert_eq!(code, "handshakeRefused");
    for told in ["a POST with `?validationToken=…`", "it answered 403", "200, as `text/plain`"] {
        assert!(detail.contains(told), "{told} is not in: {detail}");
    }
    assert!(!detail.contains("inside"), "{detail}");
    // There is no such path.
    let (code, detail) = fault(&register(&world, "eyJf", &format!("{url}/elsewhere")).await);
    assert_eq!(code, "handshakeRefused");
    assert!(detail.contains("it answered 404"), "{detail}");

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", nobody.local_addr().unwrap());
    drop(nobody);
    let (code, detail) = fault(&register(&world, "eyJf", &url).await);
    assert_eq!(code, "handshakeFailed");
    assert!(detail.contains("no answer came: connect"), "{detail}");
    assert_eq!(world.stored(), stored);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_else_is_wrong_is_told_before_anybody_is_asked() {
    let world = World::begin_with(&[&GRAPH[..], &NO_POLLS].concat()).await;
    let mut registration = world.registration("eyJf");
    registration["expiresAfter"] = json!("soon");
    let answer = world.shop.post("/v1/operations", &registration).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.body["errors"][0]["field"], "expiresAfter");
    assert!(world.receiver.asked().is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_registrations_that_come_at_once_one_asks() {
    let world = World::begin_with(&[&GRAPH[..], &NO_POLLS].concat()).await;
    let url = world.receiver.url();
    let operations: Vec<_> = (0..10).map(|n| format!("eyJf{n}")).collect();
    let all = join_all(operations.iter().map(|operation| register(&world, operation, &url))).await;
    assert!(all.iter().all(|answer| answer.status == StatusCode::ACCEPTED), "{all:?}");
    assert_eq!(world.receiver.asked().len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_no_more_a_minute_than_it_has_agreed_to() {
    let world = World::begin_with(&CLOUD_EVENTS).await;
    world.receiver.answer_questions(|_| {
        [("webhook-allowed-origin", "bridge.example.com"), ("webhook-allowed-rate", "2")]
            .into_response()
    });
    let free = Receiver::start().await;
    free.expect_secret(world.shop.signing_secret());
    for _ in 0..2 {
        world.tell(&json!([{ "status": "succeeded" }])).await;
    }
    let third = world.track(&json!([{ "status": "succeeded" }])).await;
    until(async || world.shop.operation(&third).await["state"] == "settled").await;

    // What is owed after it to somebody else is told before it.
    let operation = world.start(&json!([{ "status": "succeeded" }]));
    let registration = json!({ "operation": operation, "callbackUrl": free.url() });
    world.shop.register(&registration).await;
    free.next().await;
    world.receiver.has_nothing_more().await;
    let seen = world.shop.operation(&third).await;
    let [callback] = seen["callbacks"].as_array().unwrap().as_slice() else { panic!("{seen}") };
    assert_eq!((&callback["state"], &callback["attempts"]), (&json!("pending"), &json!([])));
    world.stop().await;
}

/// What outlives the bridge.
struct Scene {
    home: Home,
    key: String,
    receiver: Receiver,
    operations: Vec<String>,
    _sandbox: engagement_bridge::sandbox::Sandbox,
}

impl Scene {
    async fn begin() -> Self {
        let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
        let home = Home::new(sandbox.root()).flag("--first-poll-after", "1h");
        let added = home.add_shop().await;
        let key = added["apiKey"].as_str().unwrap().to_owned();
        let script: Script = serde_json::from_value(json!([{ "status": "running" }])).unwrap();
        let create = |_| sandbox.create(Version::V1, script.clone()).unwrap().location;
        let operations = (0..3).map(create).collect();
        Self { home, key, receiver, operations, _sandbox: sandbox }
    }

    async fn register(&self, shop: &Client, operation: usize, key: Option<&str>) -> Answer {
        let operation = &self.operations[operation];
        let registration = json!({ "operation": operation, "callbackUrl": self.receiver.url() });
        let headers: Vec<_> = key.into_iter().map(|key| ("idempotency-key", key)).collect();
        let body = Value::to_string(&registration).into_bytes();
        shop.send_raw(Method::POST, "/v1/operations", Some(body), &headers).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_agreed_to_outlives_the_process() {
    let mut scene = Scene::begin().await;
    scene.home = scene.home.flag("--callback-handshake", "graph");
    let serve = scene.home.serve().await;
    let answer = scene.register(&serve.client(&scene.key), 0, None).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    serve.kill().await;

    scene.receiver.answer_questions(|_| StatusCode::NOT_FOUND.into_response());
    let serve = scene.home.serve().await;
    let answer = scene.register(&serve.client(&scene.key), 1, None).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(scene.receiver.asked().len(), 1);
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_needs_no_consent() {
    let mut scene = Scene::begin().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let first = scene.register(&shop, 0, Some("order-42")).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{first:?}");
    assert!(serve.terminate().await.success());

    scene.home = scene.home.flag("--callback-handshake", "graph");
    scene.receiver.answer_questions(|_| StatusCode::NOT_FOUND.into_response());
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let again = scene.register(&shop, 0, Some("order-42")).await;
    assert_eq!((again.status, &again.text), (StatusCode::ACCEPTED, &first.text));
    assert_eq!(scene.register(&shop, 0, None).await.status, StatusCode::OK);
    let reused = scene.register(&shop, 1, Some("order-42")).await;
    assert_eq!(reused.body["type"], "urn:engagement-bridge:problem:idempotency-key-reused");
    assert!(scene.receiver.asked().is_empty());

    assert_eq!(fault(&scene.register(&shop, 1, Some("order-43")).await).0, "handshakeRefused");
    assert_eq!(scene.receiver.asked().len(), 1);
    // Its key is as good as new, once the receiver has been mended.
    scene.receiver.answer_questions(agree);
    until(async || {
        let answer = scene.register(&shop, 1, Some("order-43")).await;
        answer.status == StatusCode::ACCEPTED
    })
    .await;
    assert_eq!(scene.receiver.asked().len(), 2);
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_name_to_ask_by_the_bridge_does_not_start() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root()).flag("--callback-handshake", "cloudEvents");
    let Err(said) = home.try_serve().await else { panic!("it started") };
    assert!(said.contains("needs --callback-request-origin"), "{said}");
    for (flag, value) in [
        ("--callback-request-origin", "https://bridge.example.com"),
        ("--callback-handshake", "cloudevents"),
    ] {
        let home = Home::new(sandbox.root()).flag(flag, value);
        assert!(home.try_serve().await.is_err(), "{flag} {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_url_asks_only_if_it_is_told_to() {
    let (home, receiver) = (Home::new("http://127.0.0.1:9"), Receiver::start().await);
    let (url, form) = (receiver.url(), CLOUD_EVENTS);
    let flags = [
        "--allow-http-callbacks",
        "--allow-callback-port=any",
        "--allow-callback-cidr=127.0.0.0/8",
    ];
    let check = async |more: &[&str]| {
        let output = home.run(&[&["check-url", &url][..], &flags, more].concat()).await;
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), said["handshake"].clone())
    };
    assert_eq!(check(&form).await, (0, Value::Null));
    assert!(receiver.asked().is_empty());

    let asking = [&form[..], &["--shake-hands"]].concat();
    let agreed = |rate| json!({ "agreed": true, "rate": rate });
    assert_eq!(check(&asking).await, (0, agreed(Value::Null)));
    receiver.answer_questions(|_| {
        [("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "120")].into_response()
    });
    assert_eq!(check(&asking).await, (0, agreed(json!(120))));
    receiver.answer_questions(|_| StatusCode::METHOD_NOT_ALLOWED.into_response());
    let (code, declined) = check(&asking).await;
    assert_eq!((code, &declined["code"]), (1, &json!("handshakeRefused")));
    assert!(declined["detail"].as_str().unwrap().contains("it answered 405"), "{declined}");
    assert_eq!(receiver.asked().len(), 3);

    assert_eq!(check(&["--shake-hands"]).await.0, 1, "nothing to ask");
}
