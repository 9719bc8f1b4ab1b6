//! What receivers answer, from the callback to what its caller may see of it.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use engagement_bridge::sandbox::Version;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::process::Home;
use crate::world::{PATIENCE, Receiver, World, sandbox};

/// Three attempts, as fast as can be. Trouble of a receiver still pauses its lane for a second.
const THREE: [&str; 2] = ["--callback-schedule", "0s,10ms,10ms"];
const TWO: [&str; 2] = ["--callback-schedule", "0s,10ms"];
const ONE: [&str; 2] = ["--callback-schedule", "0s"];

fn succeeds() -> Value {
    json!([{ "status": "succeeded" }])
}

/// The only callback of an operation.
async fn callback(world: &World, operation: &str) -> Value {
    let seen = world.shop.operation(operation).await;
    let [callback] = seen["callbacks"].as_array().unwrap().as_slice() else { panic!("{seen}") };
    callback.clone()
}

/// One member of each attempt.
fn of_each(callback: &Value, member: &str) -> Vec<Value> {
    callback["attempts"].as_array().unwrap().iter().map(|it| it[member].clone()).collect()
}

/// Registers an operation that ends well, for the receiver at `url`.
async fn track_for(world: &World, url: &str) -> String {
    let operation = world.start(&succeeds());
    world.shop.register(&json!({ "operation": operation, "callbackUrl": url })).await
}

/// Callbacks in this state, as they are listed.
async fn listed(world: &World, state: &str) -> Vec<Value> {
    let listed = world.shop.get(&format!("/v1/callbacks?state={state}")).await;
    listed.body["callbacks"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_answers_500_twice_is_told_the_same_a_third_time() {
    let world = World::begin_with(&THREE).await;
    world.receiver.answer(vec![
        (StatusCode::INTERNAL_SERVER_ERROR, "é".repeat(3_000)),
        (StatusCode::INTERNAL_SERVER_ERROR, "still not well".to_owned()),
    ]);
    let id = world.track(&succeeds()).await;
    let mut received = Vec::new();
    for _ in 0..3 {
        received.push(world.receiver.next().await);
    }
    let same: BTreeSet<_> = received.iter().map(|it| (it.header("webhook-id"), &it.body)).collect();
    assert_eq!(same.len(), 1, "{same:?}");
    let [first, .., last] =
        [0, 1, 2].map(|n| received[n].header("webhook-timestamp").parse::<i64>().unwrap());
    assert!(first < last, "signed at {first} and {last}, with pauses between");
    world.all_is_told().await;

    let callback = callback(&world, &id).await;
    assert_eq!(callback["id"], received[0].header("webhook-id"));
    assert_eq!((&callback["state"], &callback["attemptsMade"]), (&json!("delivered"), &json!(3)));
    assert_eq!(of_each(&callback, "number"), [1, 2, 3]);
    assert_eq!(of_each(&callback, "status"), [500, 500, 204]);
    assert_eq!(of_each(&callback, "failure"), [Value::Null, Value::Null, Value::Null]);
    let answers = of_each(&callback, "answer");
    assert_eq!(answers, [json!("é".repeat(2_048)), json!("still not well"), json!("")]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_left_alone_until_a_resend_is_asked_for() {
    let world = World::begin_with(&THREE).await;
    world.receiver.answer(vec![(StatusCode::GONE, "unsubscribed")]);
    let id = world.track(&succeeds()).await;
    let first = world.receiver.next().await;
    world.all_is_told().await;

    let undeliverable = listed(&world, "undeliverable").await;
    let [callback_listed] = undeliverable.as_slice() else { panic!("{undeliverable:?}") };
    assert_eq!(callback_listed["id"], first.header("webhook-id"));
    assert_eq!(callback_listed["operation"], id.as_str());
    assert_eq!(callback_listed["reason"], "gone");
    assert_eq!(callback_listed["attemptsMade"], 1);
    world.receiver.has_nothing_more().await;

    let answer = world.shop.post(&format!("/v1/operations/{id}/resend"), &json!({})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let second = world.receiver.next().await;
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    assert_eq!(second.body, first.body);
    world.all_is_told().await;
    assert_eq!(listed(&world, "undeliverable").await, [] as [Value; 0]);
    let callback = callback(&world, &id).await;
    assert_eq!((&callback["state"], &callback["reason"]), (&json!("delivered"), &Value::Null));
    assert_eq!(of_each(&callback, "status"), [410, 204]);
    assert_eq!(of_each(&callback, "number"), [1, 2]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_whose_attempts_are_spent_is_listed_as_undeliverable() {
    let world = World::begin_with(&TWO).await;
    world.receiver.answer(vec![StatusCode::NOT_FOUND; 2]);
    let id = world.track(&succeeds()).await;
    world.receiver.next().await;
    world.receiver.next().await;
    world.all_is_told().await;
    let undeliverable = listed(&world, "undeliverable").await;
    assert_eq!(undeliverable.len(), 1);
    assert_eq!(undeliverable[0]["reason"], "attemptsSpent");
    assert_eq!(of_each(&callback(&world, &id).await, "status"), [404, 404]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let world = World::begin_with(&ONE).await;
    let elsewhere = Receiver::start().await;
    let location = [("location", elsewhere.url())];
    world.receiver.answer(vec![(StatusCode::TEMPORARY_REDIRECT, location, "over there")]);
    let id = world.track(&succeeds()).await;
    world.receiver.next().await;
    world.all_is_told().await;
    elsewhere.has_nothing_more().await;
    let callback = callback(&world, &id).await;
    assert_eq!(
        (&callback["state"], &callback["reason"]),
        (&json!("undeliverable"), &json!("attemptsSpent"))
    );
    assert_eq!(of_each(&callback, "status"), [307]);
    assert_eq!(of_each(&callback, "answer"), ["over there"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_of_the_environment_dials_in_our_place() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());
    let home = Home::new(sandbox.root())
        .environment("http_proxy", &proxy_url)
        .environment("ALL_PROXY", &proxy_url);
    let added = home.add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let serve = home.serve().await;
    let shop = serve.client(added["apiKey"].as_str().unwrap());
    let script = serde_json::from_value(succeeds()).unwrap();
    let operation = sandbox.create(Version::V1, script).unwrap().location;
    shop.register(&json!({ "operation": operation, "callbackUrl": receiver.url() })).await;
    let told = tokio::select! {
        told = receiver.next() => told,
        _ = proxy.accept() => panic!("the proxy was asked"),
    };
    assert_eq!(told.about(), "succeeded");
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kept_an_attempt_from_being_answered_is_recorded() {
    let world = World::begin_with(&ONE).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks?key=s3cret", listener.local_addr().unwrap());
    drop(listener);
    let id = track_for(&world, &url).await;
    until_attempted(&world, &id).await;
    world.all_is_told().await;
    let callback = callback(&world, &id).await;
    assert_eq!(callback["reason"], "attemptsSpent");
    assert_eq!(of_each(&callback, "status"), [Value::Null]);
    assert_eq!(of_each(&callback, "failure"), ["connectRefused"]);
    assert_eq!(of_each(&callback, "answer"), [""]);
    let detail = &of_each(&callback, "detail")[0];
    assert!(detail.as_str().unwrap().contains("refused"), "{detail}");
    assert!(!detail.as_str().unwrap().contains("s3cret"), "{detail}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_says_how_long_it_took() {
    let world = World::begin_with(&ONE).await;
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", slow.local_addr().unwrap());
    let id = track_for(&world, &url).await;
    let (mut stream, _) = tokio::time::timeout(PATIENCE, slow.accept()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
    world.all_is_told().await;
    let took = of_each(&callback(&world, &id).await, "tookMs")[0].as_u64().unwrap();
    assert!((150..30_000).contains(&took), "{took} ms");
    world.end().await;
}

/// Waits until an attempt of the operation's callback is recorded.
async fn until_attempted(world: &World, operation: &str) {
    let mut glance = tokio::time::interval(Duration::from_millis(5));
    let attempted = async {
        loop {
            glance.tick().await;
            let seen = world.shop.operation(operation).await;
            if 0 < seen["callbacks"][0]["attemptsMade"].as_u64().unwrap_or_default() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, attempted).await.expect("no attempt was recorded in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_not_there_or_never_answers_delays_no_other() {
    let world = World::begin_with(&["--callback-schedule", "0s,10s"]).await;
    let absent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let absent_url = format!("http://{}/hooks", absent.local_addr().unwrap());
    drop(absent);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}/hooks", silent.local_addr().unwrap());

    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(track_for(&world, &absent_url).await);
        waiting.push(track_for(&world, &silent_url).await);
    }
    // Both are being dealt with by now.
    let held = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("nobody came").unwrap();
    until_attempted(&world, &waiting[0]).await;

    for _ in 0..3 {
        world.track(&succeeds()).await;
        world.receiver.next().await;
    }
    for id in &waiting {
        assert_eq!(callback(&world, id).await["state"], "pending", "the others waited for {id}");
    }
    drop(held);
    world.witness();
    world.stop().await;
}
