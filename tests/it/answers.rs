//! Each row of the table of Graph's answers, from registration to callback, with the sandbox's
//! record as the witness.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::world::{World, window};

/// `asked` and then success, end to end: what was told, and how often Graph was asked.
async fn and_then_succeeds(asked: &[Value]) -> usize {
    let world = World::begin().await;
    let mut script = asked.to_vec();
    script.push(json!({ "status": "succeeded" }));
    let told = world.tell(&json!(script)).await;
    assert_eq!(told.about(), "succeeded", "after {asked:?}");
    let polls = world.polls().len();
    world.end().await;
    polls
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_that_graph_knows_is_told_in_graphs_words() {
    let world = World::begin().await;
    for status in ["succeeded", "failed", "skipped"] {
        let script = json!([{ "status": "notStarted" }, { "status": "running" }, {
            "status": status, "statusDetail": "as it went" }]);
        let told = world.tell(&script).await;
        assert_eq!(told.about(), status);
        let body = told.json();
        assert_eq!(body["tracking"]["outcome"], status);
        assert_eq!(body["tracking"]["polls"], 3);
        assert_eq!(body["data"]["status"], status);
        assert_eq!(body["data"]["statusDetail"], "as it went");
        let id = body["tracking"]["id"].as_str().unwrap();
        let seen = world.shop.operation(id).await;
        assert_eq!(seen["state"], "settled");
        assert_eq!(seen["outcome"], status);
        assert_eq!(seen["callbacks"][0]["id"], told.header("webhook-id"));
    }
    world.receiver.has_nothing_more().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_of_the_future_or_none_is_no_end() {
    let unknown = [json!({ "status": "paused" }), json!({ "status": null })];
    assert_eq!(and_then_succeeds(&unknown).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_400s_are_borne_and_the_third_ends_as_rejected() {
    let bad = json!({ "http": 400 });
    assert_eq!(and_then_succeeds(&[bad.clone(), bad.clone()]).await, 3);

    let world = World::begin().await;
    let told = world.tell(&json!([bad])).await;
    assert_eq!(told.about(), "rejected");
    assert_eq!(told.json()["data"], Value::Null);
    assert_eq!(world.polls().len(), 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_costs_one_token_and_no_operation() {
    let world = World::begin().await;
    let told = world.tell(&json!([{ "http": 401 }, { "status": "succeeded" }])).await;
    assert_eq!(told.about(), "succeeded");
    let digests: Vec<_> = world.polls().into_iter().map(|it| it.token_digest.unwrap()).collect();
    assert_eq!(digests.len(), 2);
    assert_ne!(digests[0], digests[1], "the token that was refused was used again");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_graph_refuses_blocks_until_the_connection_is_repaired() {
    for (status, reason) in [(401, "unauthorized"), (403, "forbidden")] {
        let world = World::begin().await;
        let refused = json!({ "http": status });
        let script = json!([refused, refused, { "status": "succeeded" }]);
        let id = world.track(&script).await;
        let notice = world.receiver.next().await;
        assert_eq!(notice.about(), "credentialNeeded");
        assert_eq!(notice.json()["tracking"]["reason"], reason);
        let seen = world.shop.operation(&id).await;
        assert_eq!(seen["state"], "blocked");
        assert_eq!(seen["blocked"]["reason"], reason);
        assert!(seen["blocked"]["detail"].as_str().unwrap().contains(&status.to_string()));
        assert_eq!(seen["blocked"]["until"], notice.json()["tracking"]["until"]);
        assert_eq!(seen["nextStep"]["action"], "remind");
        assert_eq!(world.polls().len(), 2, "once with each of two tokens");
        world.shop_repairs_its_connection().await;
        let told = world.receiver.next().await;
        assert_eq!(told.about(), "succeeded");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_handed_in_is_replaced_by_its_caller() {
    let world = World::begin().await;
    let operation = world.start(&json!([{ "http": 401 }, { "status": "succeeded" }]));
    let (first, second) = (world.token_of_alice(), world.token_of_alice());
    let id = world.shop.register(&world.registration_with_token(&operation, &first)).await;
    let notice = world.receiver.next().await;
    assert_eq!(notice.about(), "credentialNeeded");
    let credential = json!({ "accessToken": second, "expiresIn": 3_600 });
    let answer = world.shop.put(&format!("/v1/operations/{id}/credential"), &credential).await;
    assert!(answer.status.is_success(), "{answer:?}");
    assert_eq!(world.receiver.next().await.about(), "succeeded");
    let polls = world.polls();
    assert!(polls.iter().all(|poll| poll.identity.as_deref() == Some("alice")));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_nobody_lifts_ends_as_unauthorized() {
    let world = World::begin_with(&["--credential-grace", "300ms"]).await;
    let id = world.track(&json!([{ "http": 403 }])).await;
    let mut notices = Vec::new();
    let end = loop {
        let told = world.receiver.next().await;
        if told.about() != "credentialNeeded" {
            break told;
        }
        notices.push(told.json()["tracking"]["until"].clone());
    };
    // At once, at half of the time, and at nine tenths of it; fewer where this machine is slow.
    assert!((1..=3).contains(&notices.len()), "{notices:?}");
    assert!(notices.iter().all(|it| it.is_string() && *it == notices[0]), "{notices:?}");
    assert_eq!(end.about(), "unauthorized");
    assert_eq!(end.json()["tracking"]["reason"], "forbidden");
    let seen = world.shop.operation(&id).await;
    assert_eq!((&seen["outcome"], &seen["reason"]), (&"unauthorized".into(), &"forbidden".into()));
    assert_eq!(world.polls().len(), 2, "asked in vain while blocked");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_is_borne_within_the_grace_and_ends_behind_it() {
    let missing = json!({ "http": 404 });
    assert_eq!(and_then_succeeds(&[missing.clone(), missing.clone()]).await, 3);

    let world = World::begin().await;
    let told = world.tell(&json!([missing])).await;
    assert_eq!(told.about(), "notFound");
    // The grace is 5 min of Graph's clock, and what Graph answers is judged a moment after it was asked.
    let registered_at = told.json()["tracking"]["registeredAt"].as_str().unwrap().to_owned();
    let registered_at: Timestamp = registered_at.parse().unwrap();
    let last = world.polls().last().unwrap().at_ms;
    let borne_for = last.abs_diff(registered_at.as_millisecond());
    let grace = window() * 10;
    assert!(
        grace.checked_sub(window()).unwrap() < Duration::from_millis(borne_for),
        "gave up after {borne_for} ms"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_410_ends_as_gone_at_once() {
    let world = World::begin().await;
    let told = world.tell(&json!([{ "status": "running" }, { "http": 410 }])).await;
    assert_eq!(told.about(), "gone");
    assert_eq!(told.json()["data"]["status"], "running", "the last that Graph had said");
    assert_eq!(world.polls().len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_trouble_graph_is_in_the_registration_outlives_it() {
    let world = World::begin().await;
    let html = "<html><body>502 Bad Gateway</body></html>";
    let troubles = [
        json!({ "http": 423 }),
        json!({ "http": 500 }),
        json!({ "http": 502 }),
        json!({ "http": 503 }),
        json!({ "http": 504 }),
        json!({ "http": 509 }),
        json!({ "drop": true }),
        json!({ "http": 200, "body": "{\"id\":\"ey", "missingBytes": 40 }),
        json!({ "http": 200, "body": html, "contentType": "text/html" }),
        json!({ "http": 200, "body": "{\"id\":\"eyJf\",\"status\":" }),
        json!({ "http": 200, "body": "{\"error\":{\"code\":\"InternalServerError\"}}" }),
    ];
    let mut expected = Vec::new();
    for trouble in &troubles {
        expected.push(world.track(&json!([trouble, { "status": "succeeded" }])).await);
    }
    let mut told = Vec::new();
    for _ in &troubles {
        let callback = world.receiver.next().await;
        assert_eq!(callback.about(), "succeeded");
        told.push(callback.json()["tracking"]["id"].as_str().unwrap().to_owned());
    }
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(world.polls().len(), 2 * troubles.len());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_though_it_is_longer_than_our_own_interval() {
    let world = World::begin().await;
    let script = json!([{ "http": 503, "retryAfter": "1" }, { "status": "succeeded" }]);
    assert_eq!(world.tell(&script).await.about(), "succeeded");
    let polls = world.polls();
    let waited = polls[1].at_ms - polls[0].at_ms;
    assert!((1_000..3_000).contains(&waited), "waited {waited} ms");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_pauses_its_identity_and_no_other() {
    let world = World::begin().await;
    world.track(&json!([{ "http": 429, "retryAfter": "2" }, { "status": "succeeded" }])).await;
    // Waits for the throttled answer, so that what comes now comes into the pause.
    let throttled_at = world.first_poll().await;
    world.track(&json!([{ "status": "succeeded" }])).await;
    let operation = world.start(&json!([{ "status": "succeeded" }]));
    let token = world.token_of_alice();
    let of_alice = world.shop.register(&world.registration_with_token(&operation, &token)).await;

    let told = world.receiver.next().await;
    assert_eq!(told.json()["tracking"]["id"], of_alice.as_str(), "another identity goes on");
    world.receiver.next().await;
    world.receiver.next().await;
    let paused: Vec<_> = world
        .polls()
        .into_iter()
        .filter(|poll| poll.identity.as_deref() != Some("alice"))
        .map(|poll| poll.at_ms - throttled_at)
        .collect();
    assert_eq!(paused.len(), 3);
    assert!(paused[1..].iter().all(|after| 2_000 <= *after), "asked after {paused:?} ms");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_operations_of_one_identity_share_its_budget() {
    let world = World::begin().await;
    for _ in 0..40 {
        world.track(&json!([{ "status": "running" }, { "status": "succeeded" }])).await;
    }
    for _ in 0..40 {
        assert_eq!(world.receiver.next().await.about(), "succeeded");
    }
    assert_eq!(world.polls().len(), 80);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_never_ends_expires_at_its_deadline() {
    let world = World::begin().await;
    let mut registration = world.registration(&world.start(&json!([{ "status": "running" }])));
    registration["expiresAfter"] = json!("PT1S");
    let id = world.shop.register(&registration).await;
    let told = world.receiver.next().await;
    assert_eq!(told.about(), "expired");
    assert_eq!(told.json()["data"]["status"], "running");
    let seen = world.shop.operation(&id).await;
    assert_eq!(seen["outcome"], "expired");
    world.end().await;
}
