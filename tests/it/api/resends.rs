//! Many callbacks sent again by one request.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{NOT_FOUND, Row, all_refused, fault, faults, get, post, quiet_world};
use crate::world::{Client, PATIENCE, World};

const RESEND: &str = "/v1/callbacks/resend";

/// Asks until it is done; how it ended.
async fn done(client: &Client, location: &str) -> Value {
    let mut glance = tokio::time::interval(std::time::Duration::from_millis(20));
    let done = async {
        loop {
            glance.tick().await;
            let seen = client.get(location).await;
            assert_eq!(seen.status, StatusCode::OK, "{seen:?}");
            if seen.body["state"] == "done" {
                return seen.body;
            }
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("it is still under way")
}

/// Callbacks that were given up, with what the receiver said; their ids.
async fn given_up(world: &World, status: StatusCode, count: usize) -> Vec<String> {
    world.receiver.answer(vec![(status, "not in this life"); count]);
    let mut ids = Vec::new();
    for _ in 0..count {
        world.track(&json!([{ "status": "succeeded" }])).await;
    }
    for _ in 0..count {
        ids.push(world.receiver.next().await.header("webhook-id").to_owned());
    }
    world.all_is_told().await;
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_sent_again_by_one_wish_with_progress_to_look_at() {
    let world = World::begin_with(&["--callback-schedule", "0s"]).await;
    let ids = given_up(&world, StatusCode::NOT_FOUND, 5).await;
    let asked = world.shop.post(RESEND, &json!({ "reason": "attemptsSpent" })).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{asked:?}");
    assert_eq!((&asked.body["matched"], &asked.body["askedBy"]), (&json!(5), &json!("shop")));
    let location = asked.headers["location"].to_str().unwrap();
    assert_eq!(location, format!("/v1/callbacks/resends/{}", asked.body["id"].as_str().unwrap()));
    let mut again = Vec::new();
    for _ in 0..5 {
        again.push(world.receiver.next().await.header("webhook-id").to_owned());
    }
    again.sort();
    assert_eq!(again, ids);
    let done = done(&world.shop, location).await;
    assert_eq!((&done["resent"], &done["skipped"]), (&json!(5), &json!(0)));
    assert!(done["doneAt"].is_string());
    world.all_is_told().await;

    // There is nothing left of the kind, and nobody is told twice.
    let empty = world.shop.post(RESEND, &json!({})).await;
    assert_eq!((empty.status, &empty.body["matched"]), (StatusCode::ACCEPTED, &json!(0)));
    let listed = world.shop.get("/v1/callbacks/resends?limit=1").await.body;
    assert_eq!(listed["resends"][0]["id"], empty.body["id"]);
    assert_eq!(listed["next"], empty.body["id"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undeliverable_are_listed_with_the_last_answer_and_by_what_they_have_in_common() {
    let world = World::begin_with(&["--callback-schedule", "0s"]).await;
    let spent = given_up(&world, StatusCode::NOT_FOUND, 2).await;
    world.tell(&json!([{ "status": "succeeded" }])).await;
    world.all_is_told().await;
    let origin = world.receiver.url().strip_suffix("/hooks").unwrap().to_owned();
    let listed = async |query: &str| {
        let listed = world.shop.get(&format!("/v1/callbacks?{query}")).await;
        assert_eq!(listed.status, StatusCode::OK, "{listed:?}");
        listed.body["callbacks"].as_array().unwrap().clone()
    };
    let undeliverable = listed("state=undeliverable").await;
    assert_eq!(undeliverable.len(), 2);
    for callback in &undeliverable {
        assert!(spent.iter().any(|id| callback["id"] == *id));
        assert_eq!(
            (&callback["reason"], &callback["attemptsMade"]),
            (&json!("attemptsSpent"), &json!(1))
        );
        let last = &callback["lastAttempt"];
        assert_eq!((&last["status"], &last["number"]), (&json!(404), &json!(1)));
        assert_eq!(last["answer"], "not in this life");
    }
    assert_eq!(listed("reason=attemptsSpent").await.len(), 2);
    assert_eq!(listed("reason=gone").await.len(), 0);
    assert_eq!(listed(&format!("origin={origin}")).await.len(), 3);
    assert_eq!(listed("origin=https://elsewhere.example").await.len(), 0);
    assert_eq!(listed("since=2020-01-01T00:00:00Z").await.len(), 3);
    assert_eq!(listed("until=2020-01-01T00:00:00Z").await.len(), 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sends_again_for_one_caller_or_for_all() {
    let world = World::begin_with(&["--callback-schedule", "0s"]).await;
    given_up(&world, StatusCode::NOT_FOUND, 2).await;
    world.operator.add_caller("other").await;
    let path = "/v1/admin/callbacks/resend";
    let of_other = world.operator.post(path, &json!({ "caller": "other" })).await;
    assert_eq!((of_other.status, &of_other.body["matched"]), (StatusCode::ACCEPTED, &json!(0)));
    let of_all = world.operator.post(path, &json!({})).await;
    assert_eq!((of_all.status, &of_all.body["matched"]), (StatusCode::ACCEPTED, &json!(2)));
    assert_eq!(of_all.body["askedBy"], json!(null));
    world.receiver.next().await;
    world.receiver.next().await;
    let location = of_all.headers["location"].to_str().unwrap();
    let done = done(&world.operator, location).await;
    assert_eq!(done["resent"], 2);
    let listed = world.operator.get("/v1/admin/callbacks/resends").await.body;
    assert_eq!(listed["resends"].as_array().unwrap().len(), 2);

    // Callers see their own only.
    let id = of_all.body["id"].as_str().unwrap();
    let hidden = world.shop.get(&format!("/v1/callbacks/resends/{id}")).await;
    assert_eq!(hidden.status, StatusCode::NOT_FOUND);
    let listed = world.shop.get("/v1/callbacks/resends").await.body;
    assert_eq!(listed["resends"], json!([]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_read_is_refused_field_by_field() {
    let world = quiet_world().await;
    let wish = |name, body: Value, refusal| -> Row { (name, post(RESEND, &body), refusal) };
    let table = [
        wish("no such state", json!({ "state": "pending" }), fault("state", "invalid")),
        wish("no such reason", json!({ "reason": "bored" }), fault("reason", "invalid")),
        wish(
            "a reason for what went well",
            json!({ "state": "delivered", "reason": "gone" }),
            fault("reason", "unexpected"),
        ),
        wish("no origin", json!({ "origin": "app.example.com" }), fault("origin", "invalid")),
        wish("a path", json!({ "origin": "https://a.example/hooks" }), fault("origin", "invalid")),
        wish("a user", json!({ "origin": "https://u@a.example" }), fault("origin", "invalid")),
        wish("no time", json!({ "since": "yesterday" }), fault("since", "invalid")),
        wish(
            "two at once",
            json!({ "since": "", "until": "2027-01-15" }),
            faults([("since", "invalid"), ("until", "invalid")]),
        ),
        wish("another's", json!({ "caller": "other" }), fault("caller", "unknown")),
        ("an id", get("/v1/callbacks/resends/rs_0"), NOT_FOUND),
        ("of nobody", get("/v1/callbacks/resends/rs_00000000000000000000000000000000"), NOT_FOUND),
        (
            "a list",
            get("/v1/callbacks?origin=x&since=y"),
            faults([("origin", "invalid"), ("since", "invalid")]),
        ),
        ("a page", get("/v1/callbacks?reason=bored"), fault("reason", "invalid")),
    ];
    all_refused(&world, &world.shop, &table).await;
    let wish = |name, body: Value, refusal| -> Row {
        (name, post("/v1/admin/callbacks/resend", &body), refusal)
    };
    let table = [
        wish("nobody's", json!({ "caller": "nobody" }), fault("caller", "unknown")),
        wish("no name", json!({ "caller": "No Name" }), fault("caller", "invalid")),
    ];
    all_refused(&world, &world.operator, &table).await;
    world.stop().await;
}
