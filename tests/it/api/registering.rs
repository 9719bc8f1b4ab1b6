//! A registration that is in order: taken once, however often it is sent.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Refusal, assert_refused, post, quiet_world, tracked};
use crate::world::{Answer, World};

fn location(answer: &Answer) -> &str {
    answer.headers["location"].to_str().unwrap()
}

/// `answer` with what differs from run to run made legible.
fn legible(world: &World, answer: &Answer) -> String {
    let mut body = answer.body.clone();
    for (member, stands_for) in
        [("id", "op_…"), ("registeredAt", "when it came"), ("deadline", "a day later")]
    {
        assert!(body[member].is_string(), "{member} of {body}");
        body[member] = json!(stands_for);
    }
    body["nextStep"]["at"] = json!("after --first-poll-after");
    let text = serde_json::to_string_pretty(&body).unwrap();
    text.replace(&world.receiver.url(), "http://receiver/hooks")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_answered_by_the_operation_and_where_to_look_at_it() {
    let world = quiet_world().await;
    let mut registration = world.registration("eyJf");
    registration["clientState"] = json!("order-42");
    let answer = world.shop.post("/v1/operations", &registration).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.headers["content-type"], "application/json");
    let id = answer.body["id"].as_str().unwrap();
    assert_eq!(location(&answer), format!("/v1/operations/{id}"));
    insta::assert_snapshot!(legible(&world, &answer));

    let mut seen = world.shop.get(location(&answer)).await.body;
    assert_eq!(seen["callbacks"], json!([]));
    seen.as_object_mut().unwrap().remove("callbacks");
    assert_eq!(seen, answer.body);

    let registered: jiff::Timestamp =
        answer.body["registeredAt"].as_str().unwrap().parse().unwrap();
    let deadline: jiff::Timestamp = answer.body["deadline"].as_str().unwrap().parse().unwrap();
    assert_eq!(deadline.duration_since(registered), jiff::SignedDuration::from_hours(24));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_while_it_lives_is_the_one_that_is_there() {
    let world = quiet_world().await;
    let registration = world.registration("eyJf");
    let first = world.shop.post("/v1/operations", &registration).await;
    let stored = world.stored();
    let spelt_out =
        world.registration("/v1.0/employeeExperience/engagementAsyncOperations('eyJf')");
    for same in [registration.clone(), spelt_out] {
        let again = world.shop.post("/v1/operations", &same).await;
        assert_eq!(again.status, StatusCode::OK);
        assert_eq!(location(&again), location(&first));
        assert_eq!(again.text, first.text);
    }
    assert_eq!(world.stored(), stored);

    let with = |member: &str, value: &str| {
        let mut other = registration.clone();
        other[member] = json!(value);
        other
    };
    let elsewhere = format!("{}?x", world.receiver.url());
    for other in [
        with("operation", "eyJg"),
        with("callbackUrl", &elsewhere),
        with("clientState", ""),
        with("clientState", "order-42"),
    ] {
        let answer = world.shop.post("/v1/operations", &other).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{other}");
        assert_ne!(location(&answer), location(&first));
    }
    let cancelled = world.shop.delete(location(&first)).await;
    assert_eq!(cancelled.status, StatusCode::OK);
    let anew = world.shop.post("/v1/operations", &registration).await;
    assert_eq!(anew.status, StatusCode::ACCEPTED, "what is at rest is not in the way");
    assert_ne!(location(&anew), location(&first));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_gets_the_first_answer_byte_for_byte_whatever_has_happened_since() {
    let world = World::begin().await;
    let request = |registration: &Value| {
        post("/v1/operations", registration).header("idempotency-key", "order-42")
    };
    let registration = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
    let first = request(&registration).send(&world.shop).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    world.receiver.next().await;
    world.all_is_told().await;
    assert_eq!(world.shop.get(location(&first)).await.body["state"], "settled");

    let stored = world.stored();
    for _ in 0..2 {
        let again = request(&registration).send(&world.shop).await;
        assert_eq!(again.status, StatusCode::ACCEPTED);
        assert_eq!(again.text, first.text);
        assert_eq!(location(&again), location(&first));
        assert_eq!(again.headers["idempotent-replayed"], "true");
    }
    let reused: Refusal = (422, "idempotency-key-reused", Vec::new());
    for member in ["clientState", "expiresAfter", "connection"] {
        let mut other = registration.clone();
        other[member] = json!(if member == "expiresAfter" { "PT2H" } else { "contoso" });
        assert_refused(&request(&other).send(&world.shop).await, &reused);
    }
    assert_eq!(world.stored(), stored);

    let other = world.operator.add_caller("other").await;
    world.operator.add_connection("other", "contoso").await;
    let of_another = request(&registration).send(&other).await;
    assert_eq!(of_another.status, StatusCode::ACCEPTED);
    assert!(!of_another.headers.contains_key("idempotent-replayed"), "a key is its caller's");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_come_at_once_one_is_taken_and_all_get_its_answer() {
    let world = quiet_world().await;
    let keyed = post("/v1/operations", &world.registration("eyJf"));
    let keyed = keyed.header("idempotency-key", "order-42");
    let plain = post("/v1/operations", &world.registration("eyJg"));
    for request in [keyed, plain] {
        let answers = join_all((0..20).map(|_| request.send(&world.shop))).await;
        let replayed = |answer: &&Answer| answer.headers.contains_key("idempotent-replayed");
        let first = |answer: &&Answer| answer.status == StatusCode::ACCEPTED && !replayed(answer);
        assert_eq!(answers.iter().filter(first).count(), 1);
        assert!(answers.iter().all(|answer| answer.text == answers[0].text));
    }
    let listed = world.shop.get("/v1/operations").await.body;
    assert_eq!(listed["operations"].as_array().unwrap().len(), 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_on_what_is_there_already_replays_the_one_that_is_there() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let seen = world.shop.operation(&id).await;
    let mut registration = world.registration(seen["operation"].as_str().unwrap());
    registration["connection"] = json!("contoso");
    for replayed in [false, true] {
        let request = post("/v1/operations", &registration).header("idempotency-key", "k");
        let answer = request.send(&world.shop).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body["id"], id.as_str());
        assert_eq!(answer.headers.contains_key("idempotent-replayed"), replayed);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_watch_so_many_operations_and_no_more() {
    let flags = ["--first-poll-after", "1h", "--live-operations", "2"];
    let world = World::begin_with(&flags).await;
    let registration = |id: &str| world.registration(id);
    let first = world.shop.register(&registration("eyJf")).await;
    world.shop.register(&registration("eyJg")).await;
    let stored = world.stored();
    let third = world.shop.post("/v1/operations", &registration("eyJh")).await;
    assert_refused(&third, &(429, "too-many-operations", Vec::new()));
    assert_eq!(world.stored(), stored);
    let again = world.shop.post("/v1/operations", &registration("eyJg")).await;
    assert_eq!(again.status, StatusCode::OK, "what is there needs no more room");

    let other = world.operator.add_caller("other").await;
    world.operator.add_connection("other", "contoso").await;
    other.register(&registration("eyJh")).await;

    world.shop.delete(&format!("/v1/operations/{first}")).await;
    world.shop.register(&registration("eyJh")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_asks_too_often_is_told_when_to_come_again() {
    let flags = ["--first-poll-after", "1h", "--requests-per-second", "1"];
    let world = World::begin_with(&flags).await;
    let registration = world.registration("eyJf");
    let (mut taken, mut stored) = (0, world.stored());
    let answer = loop {
        let answer = world.shop.post("/v1/operations", &registration).await;
        if !answer.status.is_success() {
            break answer;
        }
        taken += 1;
        assert!(taken < 30, "every request was taken");
        stored = world.stored();
    };
    assert!(2 <= taken, "a burst of two is allowed");
    assert_refused(&answer, &(429, "too-many-requests", Vec::new()));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(world.stored(), stored);

    let other = world.operator.add_caller("other").await;
    assert_eq!(other.get("/v1/operations").await.status, StatusCode::OK, "each has its own pace");
    let answer = world.shop.get("/healthz").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "probes are not counted");
    world.stop().await;
}
