//! A restart between registration and outcome changes nothing but the clock.

use std::time::Duration;

use axum::http::StatusCode;
use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::sandbox::{Sandbox, Script, Version, shortest_gap_between_polls};
use serde_json::{Value, json};

use super::{Home, Serve};
use crate::world::{Client, PATIENCE, Received, Receiver, sandbox};

/// What outlives the bridge.
struct Scene {
    sandbox: Sandbox,
    receiver: Receiver,
    home: Home,
    key: String,
}

impl Scene {
    async fn begin() -> Self {
        let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
        let home = Home::new(sandbox.root());
        let added = home.add_shop().await;
        receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
        let key = added["apiKey"].as_str().unwrap().to_owned();
        Self { sandbox, receiver, home, key }
    }

    async fn register(&self, shop: &Client, script: &Value) -> String {
        let script: Script = serde_json::from_value(script.clone()).unwrap();
        let operation = self.sandbox.create(Version::V1, script).unwrap().location;
        let registration = json!({
            "operation": operation,
            "callbackUrl": self.receiver.url(),
            "clientState": "kept through it all",
        });
        shop.register(&registration).await
    }

    fn polls(&self) -> usize {
        self.sandbox.record().iter().filter(|request| request.operation.is_some()).count()
    }

    /// What was told is right, told once, and no poll came early, restart or not.
    fn check(&self, told: &Received, id: &str, polls: usize) {
        assert_eq!(told.about(), "succeeded");
        let body = told.json();
        assert_eq!(body["tracking"]["id"], id);
        assert_eq!(body["tracking"]["clientState"], "kept through it all");
        assert_eq!(body["tracking"]["polls"], polls);
        assert_eq!(self.polls(), polls);
        for (_, gap) in shortest_gap_between_polls(&self.sandbox.record()) {
            assert!(Duration::from_secs(30).div_f64(31.0) < gap, "polled again after {gap:?}");
        }
    }
}

/// Waits until the bridge has recorded so many polls of an operation.
async fn polled(shop: &Client, id: &str, polls: u64) {
    until(async || shop.operation(id).await["polls"].as_u64().unwrap() == polls).await;
}

/// Looks every few milliseconds, for as long as patience lasts.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    let mut glance = tokio::time::interval(Duration::from_millis(5));
    let met = async {
        loop {
            glance.tick().await;
            if condition().await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, met).await.expect("it did not come to pass in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_was_asked_to_stop_goes_on_where_it_stopped() {
    let scene = Scene::begin().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let script =
        json!([{ "status": "running" }, { "status": "running" }, { "status": "succeeded" }]);
    let id = scene.register(&shop, &script).await;
    polled(&shop, &id, 1).await;
    assert!(serve.terminate().await.success());

    let serve = scene.home.serve().await;
    let told = scene.receiver.next().await;
    scene.check(&told, &id, 3);
    assert!(serve.terminate().await.success());
    scene.receiver.has_nothing_more().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_polled_for_an_interval_after_a_start() {
    let scene = Scene::begin().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let id = scene.register(&shop, &json!([{ "status": "running" }])).await;
    polled(&shop, &id, 1).await;
    assert!(serve.terminate().await.success());
    let polls = scene.polls();

    // Down for longer than the interval, so that the next poll is due at once.
    until(async || scene.sandbox.record().last().unwrap().at_ms + 1_500 < now_ms()).await;
    let started_at = now_ms();
    let serve = scene.home.serve().await;
    until(async || scene.polls() > polls).await;
    let first = scene.sandbox.record().iter().map(|it| it.at_ms).find(|at| started_at <= *at);
    let rested = Duration::from_millis((first.unwrap() - started_at).try_into().unwrap());
    assert!(Duration::from_secs(1) <= rested, "polled {rested:?} after a start");
    assert!(serve.terminate().await.success());
}

fn now_ms() -> i64 {
    SystemClock.now().as_millisecond()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_was_killed_goes_on_where_it_died() {
    let scene = Scene::begin().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let script =
        json!([{ "status": "running" }, { "status": "running" }, { "status": "succeeded" }]);
    // Killed right after the answer: a 202 is a promise from its first byte on.
    let id = scene.register(&shop, &script).await;
    serve.kill().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    polled(&shop, &id, 1).await;
    serve.kill().await;

    let serve = scene.home.serve().await;
    let told = scene.receiver.next().await;
    scene.check(&told, &id, 3);
    assert!(serve.terminate().await.success());
    scene.receiver.has_nothing_more().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_owed_is_still_owed_after_a_kill() {
    let scene = Scene::begin().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    scene.receiver.answer(vec![StatusCode::SERVICE_UNAVAILABLE]);
    let id = scene.register(&shop, &json!([{ "status": "succeeded" }])).await;
    let first = scene.receiver.next().await;
    let attempts = async || {
        let attempts = shop.operation(&id).await["callbacks"][0]["attemptsMade"].as_u64();
        attempts == Some(1)
    };
    until(attempts).await;
    serve.kill().await;

    let serve = scene.home.serve().await;
    let second = scene.receiver.next().await;
    assert_eq!(second.body, first.body, "the body changed between two attempts");
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    assert_ne!(second.header("webhook-timestamp"), first.header("webhook-timestamp"));
    scene.check(&second, &id, 1);
    delivered(&serve.client(&scene.key), &id, 2).await;
    assert!(serve.terminate().await.success());
    scene.receiver.has_nothing_more().await;
}

async fn delivered(shop: &Client, id: &str, attempts: u64) {
    until(async || shop.operation(id).await["callbacks"][0]["state"] == "delivered").await;
    let callback = shop.operation(id).await["callbacks"][0].clone();
    assert_eq!(callback["attemptsMade"], attempts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_is_on_its_way_is_finished_before_the_bridge_stops() {
    let scene = Scene::begin().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let script = json!([{ "status": "running", "delayMs": 1_500 }, { "status": "succeeded" }]);
    let id = scene.register(&shop, &script).await;
    // The sandbox records a request when it answers, so the way to see it leave is its token.
    until(async || !scene.sandbox.record().is_empty()).await;
    assert!(serve.terminate().await.success());
    assert_eq!(scene.polls(), 1, "the poll was cut off");

    let serve = scene.home.serve().await;
    let told = scene.receiver.next().await;
    scene.check(&told, &id, 2);
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_abandons_what_is_on_its_way() {
    let scene = Scene::begin().await;
    let mut serve: Serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let script = json!([{ "status": "running", "delayMs": 20_000 }]);
    scene.register(&shop, &script).await;
    until(async || !scene.sandbox.record().is_empty()).await;
    serve.signal("TERM").await;
    until(async || serve.log().contains("once more to abandon")).await;
    serve.signal("TERM").await;
    let ended = tokio::time::timeout(Duration::from_secs(10), serve.ended()).await;
    assert!(ended.expect("it waits for the poll").success());
}
