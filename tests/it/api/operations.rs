//! What can be done with an operation once it is tracked.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{CONFLICT, ask, assert_refused, put, quiet_world, settled, tracked};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_is_never_told_and_may_be_cancelled_twice() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let path = format!("/v1/operations/{id}");
    let cancelled = world.shop.delete(&path).await;
    assert_eq!(cancelled.status, StatusCode::OK);
    assert_eq!(cancelled.body["state"], "cancelled");
    assert_eq!(cancelled.body["nextStep"], json!(null));
    // That it was asked for again is all that has changed.
    let lives = || world.stored().into_iter().filter(|row| !row.starts_with("audit: "));
    let before: Vec<_> = lives().collect();
    let again = world.shop.delete(&path).await;
    assert_eq!((again.status, &again.text), (StatusCode::OK, &cancelled.text));
    assert_eq!(lives().collect::<Vec<_>>(), before);
    let stored = world.stored();

    let credential = put(&format!("{path}/credential"), &json!({ "connection": "contoso" }));
    assert_refused(&credential.send(&world.shop).await, &CONFLICT);
    let resend = ask(Method::POST, &format!("{path}/resend"));
    assert_refused(&resend.send(&world.shop).await, &CONFLICT);
    assert_eq!(world.stored(), stored);
    let seen = world.shop.operation(&id).await;
    assert_eq!((&seen["state"], &seen["callbacks"]), (&json!("cancelled"), &json!([])));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_cannot_be_changed_any_more() {
    let world = World::begin().await;
    let id = settled(&world).await;
    let path = format!("/v1/operations/{id}");
    let stored = world.stored();
    assert_refused(&world.shop.delete(&path).await, &CONFLICT);
    let credential = put(&format!("{path}/credential"), &json!({ "connection": "contoso" }));
    assert_refused(&credential.send(&world.shop).await, &CONFLICT);
    assert_eq!(world.stored(), stored);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_sent_again_under_its_old_id_as_often_as_asked() {
    let world = World::begin().await;
    let told = world.tell(&json!([{ "status": "failed" }])).await;
    world.all_is_told().await;
    let id = told.json()["tracking"]["id"].as_str().unwrap().to_owned();
    for attempts in [2, 3] {
        let resend = ask(Method::POST, &format!("/v1/operations/{id}/resend"));
        let answer = resend.send(&world.shop).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert_eq!(answer.body["id"], told.header("webhook-id"));
        assert_eq!(answer.body["state"], "pending");
        let again = world.receiver.next().await;
        assert_eq!(again.header("webhook-id"), told.header("webhook-id"));
        assert_eq!(again.body, told.body);
        world.all_is_told().await;
        let seen = world.shop.operation(&id).await;
        assert_eq!(seen["callbacks"][0]["attemptsMade"], attempts);
        assert_eq!(seen["callbacks"][0]["state"], "delivered");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_delivered_is_listed_and_can_be_sent_again() {
    let world = World::begin().await;
    world.receiver.answer(vec![StatusCode::GONE]);
    let told = world.tell(&json!([{ "status": "succeeded" }])).await;
    world.all_is_told().await;
    let listed = world.shop.get("/v1/callbacks?state=undeliverable").await.body;
    let callback = &listed["callbacks"][0];
    assert_eq!(callback["id"], told.header("webhook-id"));
    assert_eq!((&callback["reason"], &callback["about"]), (&json!("gone"), &json!("succeeded")));
    let id = callback["operation"].as_str().unwrap();
    let seen = world.shop.operation(id).await;
    assert_eq!(seen["callbacks"][0]["attempts"][0]["status"], 410);

    let resend = ask(Method::POST, &format!("/v1/operations/{id}/resend"));
    assert_eq!(resend.send(&world.shop).await.status, StatusCode::ACCEPTED);
    world.receiver.next().await;
    world.all_is_told().await;
    for (state, callbacks) in [("undeliverable", 0), ("pending", 0), ("delivered", 1)] {
        let listed = world.shop.get(&format!("/v1/callbacks?state={state}")).await.body;
        assert_eq!(listed["callbacks"].as_array().unwrap().len(), callbacks, "{state}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_owes_nothing_has_nothing_to_resend() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let stored = world.stored();
    let resend = ask(Method::POST, &format!("/v1/operations/{id}/resend"));
    assert_refused(&resend.send(&world.shop).await, &CONFLICT);
    assert_eq!(world.stored(), stored);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_exchanged_while_the_operation_is_watched() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let path = format!("/v1/operations/{id}/credential");
    assert_eq!(world.shop.operation(&id).await["connection"], "contoso");
    let token = json!({ "accessToken": world.token_of_alice(), "expiresIn": 3_600 });
    let answer = world.shop.put(&path, &token).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body["connection"], json!(null));
    assert!(answer.body["tokenExpiresAt"].is_string(), "{answer:?}");
    let answer = world.shop.put(&path, &json!({ "connection": "contoso" })).await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = world.shop.operation(&id).await;
    assert_eq!((&seen["connection"], &seen["tokenExpiresAt"]), (&json!("contoso"), &json!(null)));
    assert_eq!(seen["state"], "watching");
    world.stop().await;
}
