//! Lists are walked page by page, and show each of the caller's things once.

use serde_json::Value;

use super::quiet_world;
use crate::world::{Client, World};

/// All entries of a list, read by `limit` at a time, and how many pages that took.
async fn walk(client: &Client, path: &str, member: &str, limit: usize) -> (Vec<Value>, usize) {
    let (mut walked, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let joint = if path.contains('?') { '&' } else { '?' };
        let answer = client.get(&format!("{path}{joint}limit={limit}{after}")).await;
        assert!(answer.status.is_success(), "{answer:?}");
        let page = answer.body[member].as_array().unwrap();
        assert!(page.len() <= limit);
        walked.extend(page.iter().cloned());
        pages += 1;
        assert!(pages < 1_000, "the list never ends");
        let Some(next) = answer.body["next"].as_str() else { return (walked, pages) };
        assert_eq!(page.len(), limit, "more is to come behind a page that is not full");
        after = format!("&after={next}");
    }
}

fn ids(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_walked_newest_first_with_none_twice_and_none_left_out() {
    let world = quiet_world().await;
    let other = world.operator.add_caller("other").await;
    world.operator.add_connection("other", "contoso").await;
    let mut registered = Vec::new();
    for number in 0..7 {
        let registration = world.registration(&format!("eyJf{number}"));
        registered.push(world.shop.register(&registration).await);
        other.register(&registration).await;
    }
    registered.reverse();
    for (limit, pages) in [(1, 8), (2, 4), (3, 3), (6, 2), (7, 2), (8, 1), (200, 1)] {
        let (walked, taken) = walk(&world.shop, "/v1/operations", "operations", limit).await;
        let by_time = |ids: Vec<&str>| ids.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut sorted = by_time(ids(&walked));
        assert!(sorted.is_sorted_by(|a, b| a > b), "newest first: {sorted:?}");
        sorted.sort();
        let mut expected = registered.clone();
        expected.sort();
        assert_eq!(sorted, expected);
        assert_eq!(taken, pages, "with {limit} on a page");
    }

    for id in registered.iter().step_by(2) {
        world.shop.delete(&format!("/v1/operations/{id}")).await;
    }
    for (state, count) in [("watching", 3), ("cancelled", 4), ("blocked", 0), ("settled", 0)] {
        let path = format!("/v1/operations?state={state}");
        let (walked, _) = walk(&world.shop, &path, "operations", 2).await;
        assert_eq!(walked.len(), count, "{state}");
        assert!(walked.iter().all(|operation| operation["state"] == state));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_meanwhile_does_not_disturb_a_walk() {
    let world = quiet_world().await;
    let mut there = Vec::new();
    for number in 0..4 {
        there.push(world.shop.register(&world.registration(&format!("eyJf{number}"))).await);
    }
    there.sort();
    let first = world.shop.get("/v1/operations?limit=2").await.body;
    world.shop.register(&world.registration("eyJg")).await;
    let next = first["next"].as_str().unwrap();
    let second = world.shop.get(&format!("/v1/operations?limit=2&after={next}")).await.body;
    let mut seen = ids(first["operations"].as_array().unwrap());
    seen.extend(ids(second["operations"].as_array().unwrap()));
    seen.sort_unstable();
    assert_eq!(seen, there);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_are_walked_by_state() {
    let world = World::begin().await;
    for _ in 0..5 {
        world.track(&serde_json::json!([{ "status": "succeeded" }])).await;
    }
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(world.receiver.next().await.header("webhook-id").to_owned());
    }
    world.all_is_told().await;
    told.sort();
    for path in ["/v1/callbacks", "/v1/callbacks?state=delivered"] {
        for limit in [1, 2, 5, 50] {
            let (walked, _) = walk(&world.shop, path, "callbacks", limit).await;
            let mut walked = ids(&walked);
            walked.sort_unstable();
            assert_eq!(walked, told, "{path} by {limit}");
        }
    }
    let (pending, _) = walk(&world.shop, "/v1/callbacks?state=pending", "callbacks", 2).await;
    assert_eq!(pending, [] as [Value; 0]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_walked_by_name() {
    let world = quiet_world().await;
    for name in ["b", "a.b", "0", "z-_"] {
        world.operator.add_caller(name).await;
    }
    for limit in [1, 2, 5, 6] {
        let (walked, _) = walk(&world.operator, "/v1/admin/callers", "callers", limit).await;
        assert_eq!(walked, ["0", "a.b", "b", "shop", "z-_"]);
    }
    world.stop().await;
}
