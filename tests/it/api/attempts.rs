//! How many wrong keys may come from one address.

use reqwest::StatusCode;
use secrecy::ExposeSecret as _;

use super::{NO_KEY, Refusal, assert_refused, get};
use crate::world::{Answer, Client, World};

const TOO_MANY: Refusal = (429, "too-many-attempts", Vec::new());

/// Asks by way of a proxy that is trusted, for somebody at `address`.
async fn ask(client: &Client, path: &str, address: &str) -> Answer {
    get(path).header("x-forwarded-for", address).send(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_is_slowed_down_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("admin-key");
    std::fs::write(&key, "correct-horse-battery").unwrap();
    let flags = ["--failed-attempts", "5", "--trusted-proxy", "127.0.0.1"];
    let with_key = ["--admin-key-file", key.to_str().unwrap()];
    let world = World::begin_with(&[&flags[..], &with_key].concat()).await;
    let (guesser, path) = (world.operator.with_key("correct-horse-batterx"), "/v1/admin/callers");
    for _ in 0..5 {
        assert_refused(&ask(&guesser, path, "192.0.2.1").await, &NO_KEY);
    }
    let refused = ask(&guesser, path, "192.0.2.1").await;
    assert_refused(&refused, &TOO_MANY);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=12).contains(&wait), "{wait} s");
    // Whatever is left of it was written by the client.
    assert_refused(&ask(&guesser, path, "198.51.100.7, 192.0.2.1").await, &TOO_MANY);

    let right = ask(&world.operator, path, "192.0.2.1").await;
    assert_refused(&right, &TOO_MANY);
    assert_eq!(ask(&world.operator, path, "192.0.2.2").await.status, StatusCode::OK);
    assert_eq!(ask(&world.shop, "/v1/keys", "192.0.2.1").await.status, StatusCode::OK, "no guess");
    let unknown = world.shop.with_key(&format!("ebk_{}3WF97K", "0".repeat(32)));
    assert_refused(&ask(&unknown, "/v1/keys", "192.0.2.1").await, &TOO_MANY);
    assert_refused(&ask(&unknown, "/v1/keys", "192.0.2.2").await, &NO_KEY);
    // Without a key, nothing is guessed.
    let nobody = world.shop.with_key("");
    assert_refused(&ask(&nobody, "/v1/keys", "192.0.2.1").await, &NO_KEY);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_no_proxy_believes_none_and_a_key_of_ours_opens_all_the_same() {
    let world = World::begin_with(&["--failed-attempts", "2"]).await;
    let key = world.operator.key.expose_secret();
    assert!(key.starts_with("eba_"), "made by the bridge");
    let guesser = world.operator.with_key("correct-horse-batterx");
    for (number, refusal) in [(1, NO_KEY), (2, NO_KEY), (3, TOO_MANY), (4, TOO_MANY)] {
        let address = format!("192.0.2.{number}");
        assert_refused(&ask(&guesser, "/v1/admin/callers", &address).await, &refusal);
    }
    let answer = ask(&world.operator, "/v1/admin/callers", "192.0.2.9").await;
    assert_eq!(answer.status, StatusCode::OK);
    world.stop().await;
}
