//! `/metrics` of a running bridge: who may read it, and that it tells what has happened and nothing
//! that is a caller's.

use engagement_bridge::metrics::Exposition;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::process::until;
use crate::world::World;

/// The value of the sample that is written like this, if there is one.
fn sample(text: &str, written: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(written)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_the_operator_or_for_an_address_of_their_own() {
    let world = World::begin_with(&["--metrics-listen", "127.0.0.1:0"]).await;
    let by = async |client: &crate::world::Client| client.get("/metrics").await.status;
    assert_eq!(by(&world.shop.with_key("")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(by(&world.shop).await, StatusCode::FORBIDDEN);
    let answer = world.operator.get("/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[CONTENT_TYPE], Exposition::Prometheus.content_type());
    assert!(
        answer.text.contains("# TYPE engagement_bridge_outcomes_total counter"),
        "{}",
        answer.text
    );

    let scraper = world.scraper();
    let answer = scraper.get("/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(sample(&answer.text, "engagement_bridge_database_up"), Some(1.0));
    // Nothing else is there without a key, nor with one.
    for path in ["/", "/v1/operations", "/v1/admin/callers", "/healthz", "/openapi.json"] {
        assert_eq!(scraper.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
        let operator = scraper.with_key(world.operator.key.expose_secret());
        assert_eq!(operator.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let posted = scraper.post("/metrics", &json!({})).await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);

    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let open = scraper.send_raw(reqwest::Method::GET, "/metrics", None, &accept).await;
    assert_eq!(open.headers[CONTENT_TYPE], Exposition::OpenMetrics.content_type());
    assert!(open.text.ends_with("# EOF\n"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_has_happened_and_nothing_that_is_a_callers() {
    let world = World::begin_with(&["--metrics-listen", "127.0.0.1:0"]).await;
    let scraper = world.scraper();
    for end in ["succeeded", "failed", "skipped"] {
        world.tell(&json!([{ "status": "running" }, { "status": end }])).await;
    }
    world.receiver.answer(vec![StatusCode::SERVICE_UNAVAILABLE]);
    let planted = "planted-Zx81";
    let mut registration = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
    registration["clientState"] = json!(planted);
    registration["callbackUrl"] = json!(format!("{}?{planted}", world.receiver.url()));
    let id = world.shop.register(&registration).await;
    for _ in 0..2 {
        world.receiver.next().await;
    }
    world.shop.register(&world.registration(&world.start(&json!("endless")))).await;
    let nowhere = json!({ "operation": planted, "callbackUrl": planted });
    let refused = world.shop.post("/v1/operations", &nowhere).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    world.shop.get(&format!("/v1/{planted}/{planted}")).await;
    let method = reqwest::Method::from_bytes(b"PLANTED").unwrap();
    world.shop.send(method, &format!("/v1/operations/{id}?{planted}"), None).await;
    world.all_is_told().await;

    let read = async || scraper.get("/metrics").await.text;
    // What stands in the database is read again some moments later.
    until(async || {
        sample(&read().await, "engagement_bridge_operations{state=\"settled\"}") == Some(4.0)
    })
    .await;
    let text = read().await;
    for (written, expected) in [
        ("operations{state=\"watching\"}", 1.0),
        ("operations{state=\"blocked\"}", 0.0),
        ("callbacks{state=\"pending\"}", 0.0),
        ("callbacks{state=\"undeliverable\"}", 0.0),
        ("outcomes_total{outcome=\"succeeded\"}", 2.0),
        ("outcomes_total{outcome=\"failed\"}", 1.0),
        ("outcomes_total{outcome=\"expired\"}", 0.0),
        ("callback_ends_total{end=\"delivered\"}", 4.0),
        ("attempt_duration_seconds_count{outcome=\"accepted\"}", 4.0),
        ("attempt_duration_seconds_count{outcome=\"unwell\"}", 1.0),
        ("failed_attempts_total{failure=\"status5xx\"}", 1.0),
        ("final_to_accepted_seconds_count", 4.0),
        ("poll_duration_seconds_count{outcome=\"succeeded\"}", 2.0),
        ("poll_duration_seconds_count{outcome=\"skipped\"}", 1.0),
        ("registrations_total{result=\"new\"}", 5.0),
        ("registrations_total{result=\"refused\"}", 1.0),
        ("token_requests_total{result=\"granted\"}", 1.0),
        ("step_wait_seconds_count{step=\"attempt\"}", 5.0),
        ("hands{kind=\"quick\"}", 512.0),
        ("hands{kind=\"slow\"}", 2_048.0),
        ("hands_in_use{kind=\"quick\"}", 0.0),
        ("store_errors_total{call=\"commit\"}", 0.0),
        ("leases_lost_total", 0.0),
        ("http_requests_total{method=\"GET\",route=\"none\",status=\"404\"}", 1.0),
        ("http_requests_total{method=\"other\",route=\"/v1/operations/{id}\",status=\"405\"}", 1.0),
    ] {
        let written = format!("engagement_bridge_{written}");
        assert_eq!(sample(&text, &written), Some(expected), "{written} in\n{text}");
    }
    for at_least_one in [
        "poll_duration_seconds_count{outcome=\"running\"}",
        "store_call_seconds_count{call=\"claim\"}",
        "store_call_size_sum{call=\"commit\"}",
        "store_call_size_sum{call=\"register\"}",
        "store_file_transaction_jobs_sum",
        "token_request_duration_seconds_count{result=\"granted\"}",
    ] {
        let written = format!("engagement_bridge_{at_least_one}");
        assert!(1.0 <= sample(&text, &written).unwrap_or_default(), "{written} in\n{text}");
    }
    // Neither whose something is, nor what it is called, nor where it goes.
    let origin = world.receiver.url();
    let origin = origin.split('/').nth(2).unwrap();
    for callers_own in [planted, &planted.to_uppercase(), "PLANTED", "shop", "contoso", &id, origin]
    {
        assert!(!text.contains(callers_own), "{callers_own} is in\n{text}");
    }
    world.stop().await;
}
