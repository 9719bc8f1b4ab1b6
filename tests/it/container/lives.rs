//! A container does what the process does: it tells, it stops, and it goes on where it was killed.

use axum::body::{Body, Bytes};
use axum::response::Response;
use engagement_bridge::sandbox::{Sandbox, Script, Version};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Container, Volume};
use crate::process::until;
use crate::world::{Client, Receiver, sandbox};

const RUNS_ONCE: &str = r#"[{ "status": "running" }, { "status": "succeeded" }]"#;

/// What outlives the container.
struct Scene {
    sandbox: Sandbox,
    receiver: Receiver,
    volume: Volume,
}

impl Scene {
    async fn begin() -> Self {
        let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
        let volume = Volume::new(sandbox.root()).await;
        Self { sandbox, receiver, volume }
    }

    /// The first container, and the API key of its caller.
    async fn settle_in(&self) -> (Container, String) {
        let container = self.volume.serve().await;
        let added = container.add_shop().await;
        let secret = added["signingSecret"].as_str().unwrap();
        self.receiver.expect_secret(secret.parse().unwrap());
        (container, added["apiKey"].as_str().unwrap().to_owned())
    }

    async fn register(&self, shop: &Client) -> String {
        let script: Script = serde_json::from_str(RUNS_ONCE).unwrap();
        let operation = self.sandbox.create(Version::V1, script).unwrap().location;
        let registration = json!({ "operation": operation, "callbackUrl": self.receiver.url() });
        shop.register(&registration).await
    }
}

/// The id of the operation that a callback is about.
fn id(told: &Value) -> String {
    told["tracking"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_called_back_from_a_container() {
    let scene = Scene::begin().await;
    let (container, key) = scene.settle_in().await;
    let registered = scene.register(&container.serve.client(&key)).await;
    let told = scene.receiver.next().await;
    assert_eq!(told.about(), "succeeded");
    assert_eq!(id(&told.json()), registered);
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_delivery_waits_for_its_end() {
    let scene = Scene::begin().await;
    let (container, key) = scene.settle_in().await;
    // An answer that has begun and does not end before it is let go.
    let (go, gone) = oneshot::channel::<()>();
    let rest = stream::once(async move {
        gone.await.ok();
        Ok::<_, std::convert::Infallible>(Bytes::new())
    });
    scene.receiver.answer(vec![Response::new(Body::from_stream(rest))]);
    let registered = scene.register(&container.serve.client(&key)).await;
    assert_eq!(id(&scene.receiver.next().await.json()), registered);

    let address = container.serve.address;
    container.signal("TERM").await;
    // It has heard: nobody is let in any more.
    until(async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    go.send(()).unwrap();
    assert_eq!(container.ended().await, Some(0));

    let container = scene.volume.serve().await;
    let callback =
        container.serve.client(&key).operation(&registered).await["callbacks"][0].clone();
    assert_eq!(callback["state"], "delivered", "{callback}");
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
    scene.receiver.has_nothing_more().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_killed_loses_nothing_on_its_volume() {
    let scene = Scene::begin().await;
    let (container, key) = scene.settle_in().await;
    let shop = container.serve.client(&key);
    let mut owed = std::collections::BTreeSet::new();
    for _ in 0..40 {
        owed.insert(scene.register(&shop).await);
    }
    // In the middle of them.
    owed.remove(&id(&scene.receiver.next().await.json()));
    container.signal("KILL").await;
    assert_eq!(container.ended().await, Some(137));

    let container = scene.volume.serve().await;
    while !owed.is_empty() {
        owed.remove(&id(&scene.receiver.next().await.json()));
    }
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
}
