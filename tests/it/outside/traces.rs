//! Traces of a real bridge, received by a collector that decodes them by OpenTelemetry's own messages.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::task::JoinSet;

use super::{outside, python};
use crate::process::{Home, until};
use crate::world::{PATIENCE, Receiver, World, sandbox};

const KEY: &str = "planted-key-of-the-collector-3Vk9";

/// Killed when it is dropped.
struct Collector {
    _child: Child,
    root: String,
    spans: Arc<Mutex<Vec<Value>>>,
    _reading: JoinSet<()>,
}

impl Collector {
    async fn start() -> Self {
        let mut program = tokio::process::Command::from(python());
        program.arg(outside().join("otlp.py")).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = program.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap();
        let root = format!("http://127.0.0.1:{}", port.unwrap().expect("it does not start"));
        let spans = Arc::<Mutex<Vec<Value>>>::default();
        let (mut reading, received) = (JoinSet::new(), Arc::clone(&spans));
        reading.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                received.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { _child: child, root, spans, _reading: reading }
    }

    /// Answers the next request by this status.
    async fn answer(&self, status: u16) {
        let tls = engagement_bridge::tls::client_config(None).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build();
        let url = format!("{}/answer", self.root);
        http.unwrap().post(url).body(status.to_string()).send().await.unwrap();
    }

    /// What was received of this trace, in order.
    fn of(&self, trace: &str) -> Vec<Value> {
        let spans = self.spans.lock().unwrap();
        let mut of: Vec<_> = spans.iter().filter(|it| it["trace"] == trace).cloned().collect();
        of.sort_by_key(|it| it["began"].as_u64());
        of
    }

    /// Waits until so many spans of a trace are there.
    async fn trace(&self, trace: &str, spans: usize) -> Vec<Value> {
        until(async || spans <= self.of(trace).len()).await;
        let of = self.of(trace);
        assert_eq!(of.len(), spans, "{of:#?}");
        of
    }
}

fn names(spans: &[Value]) -> Vec<&str> {
    spans.iter().map(|it| it["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_holds_the_registration_the_polls_and_the_attempts() {
    let collector = Collector::start().await;
    // It is out of order at first: that is tried again.
    collector.answer(503).await;
    let directory = tempfile::tempdir().unwrap();
    let headers = directory.path().join("headers");
    std::fs::write(&headers, format!("x-collector-key={KEY}\n")).unwrap();
    let flags = ["--otlp-endpoint", &collector.root, "--callback-schedule", "0s,100ms,100ms"];
    let with_key = ["--otlp-headers-file", headers.to_str().unwrap()];
    let world = World::begin_with(&[&flags[..], &with_key[..]].concat()).await;

    world.receiver.answer(vec![reqwest::StatusCode::SERVICE_UNAVAILABLE]);
    let script = json!([{ "status": "running" }, { "http": 503 }, { "status": "succeeded" }]);
    let mut registration = world.registration(&world.start(&script));
    registration["callbackUrl"] = json!(format!("{}?planted-code-Qm7v", world.receiver.url()));
    registration["clientState"] = json!("planted-state-Lw2c");
    let id = world.shop.register(&registration).await;
    for _ in 0..2 {
        world.receiver.next().await;
    }
    // By the operation's own digits, so that whoever has the one finds the other.
    let spans = collector.trace(id.strip_prefix("op_").unwrap(), 6).await;
    assert_eq!(names(&spans), ["register", "poll", "poll", "poll", "attempt", "attempt"]);
    let root = &spans[0];
    assert_eq!((&root["parent"], &root["kind"]), (&json!(""), &json!("SPAN_KIND_SERVER")));
    for span in &spans {
        assert_eq!(span["resource"]["service.name"], "engagement-bridge");
        assert_eq!(span["header"], KEY);
        assert_eq!(span["attributes"]["engagement_bridge.operation.id"], id);
        assert!(span["began"].as_u64() <= span["ended"].as_u64(), "{span}");
        // Neither what a caller sent, nor where it is told, but for the host.
        assert!(!span["attributes"].to_string().contains("planted"), "{span}");
    }
    for span in &spans[1..] {
        assert_eq!((&span["parent"], &span["kind"]), (&root["span"], &json!("SPAN_KIND_CLIENT")));
    }
    let outcome = |span: &Value| span["attributes"]["engagement_bridge.outcome"].clone();
    let outcomes = spans[1..].iter().map(outcome).collect::<Vec<_>>();
    assert_eq!(outcomes, ["running", "trouble", "succeeded", "unwell", "accepted"]);
    let failed = spans.iter().filter(|it| it["status"] == "STATUS_CODE_ERROR");
    let why = failed.map(|it| it["attributes"]["error.type"].as_str().unwrap());
    assert_eq!(why.collect::<Vec<_>>(), ["trouble", "status5xx"]);
    assert_eq!(spans[5]["attributes"]["http.response.status_code"], 204);
    assert_eq!(spans[5]["attributes"]["server.address"], "127.0.0.1");

    // A trace that somebody else began goes on here, if it is to be recorded.
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for flags in ["00", "01"] {
        let registration = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
        let body = Some(registration.to_string().into_bytes());
        let traceparent = format!("00-{trace}-{parent}-{flags}");
        let headers = [("traceparent", traceparent.as_str()), ("tracestate", "congo=t61rcWkgMzE")];
        let path = "/v1/operations";
        let answer = world.shop.send_raw(reqwest::Method::POST, path, body, &headers).await;
        assert_eq!(answer.status, 202);
        assert_eq!(world.receiver.next().await.header("traceparent"), traceparent);
    }
    let spans = collector.trace(trace, 3).await;
    assert_eq!(names(&spans), ["register", "poll", "attempt"]);
    assert_eq!(spans[0]["parent"], parent);
    assert!(spans.iter().all(|it| it["state"] == "congo=t61rcWkgMzE"));
    let metrics = world.operator.get("/metrics").await.text;
    assert!(metrics.contains("engagement_bridge_spans_total{result=\"failed\"} 0"), "{metrics}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_through_a_restart_and_its_last_spans_are_sent_at_the_end() {
    let (collector, sandbox, receiver) =
        (Collector::start().await, sandbox().await, Receiver::start().await);
    let home = Home::new(sandbox.root()).flag("--otlp-endpoint", &collector.root);
    let added = home.add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let serve = home.serve().await;
    let shop = serve.client(added["apiKey"].as_str().unwrap());
    let script =
        json!([{ "status": "running" }, { "status": "running" }, { "status": "succeeded" }]);
    let script = serde_json::from_value(script).unwrap();
    let operation =
        sandbox.create(engagement_bridge::sandbox::Version::V1, script).unwrap().location;
    let registration = json!({ "operation": operation, "callbackUrl": receiver.url() });
    let id = shop.register(&registration).await;
    until(async || shop.operation(&id).await["polls"] == 1).await;
    // What is not sent yet is sent now.
    assert!(serve.terminate().await.success());
    let trace = id.strip_prefix("op_").unwrap();
    collector.trace(trace, 2).await;
    let serve = home.serve().await;
    receiver.next().await;
    let spans = collector.trace(trace, 5).await;
    assert_eq!(names(&spans), ["register", "poll", "poll", "poll", "attempt"]);
    assert!(spans[1..].iter().all(|it| it["parent"] == spans[0]["span"]));
    let instance = |span: &Value| span["resource"]["service.instance.id"].clone();
    assert_ne!(instance(&spans[0]), instance(&spans[4]), "two processes");
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_collector_a_bridge_works_as_ever_and_counts_what_is_lost() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let root = format!("http://{nowhere}");
    let world = World::begin_with(&["--otlp-endpoint", &root]).await;
    world.tell(&json!([{ "status": "succeeded" }])).await;
    let began = tokio::time::Instant::now();
    world.end().await;
    assert!(began.elapsed() < PATIENCE / 2, "a stop waits for no collector");

    // One that refuses is not asked again.
    let collector = Collector::start().await;
    collector.answer(400).await;
    let world = World::begin_with(&["--otlp-endpoint", &collector.root]).await;
    world.tell(&json!([{ "status": "succeeded" }])).await;
    let lost = async || {
        let text = world.operator.get("/metrics").await.text;
        let lines = text.lines();
        let mut lost = lines
            .filter_map(|it| it.strip_prefix("engagement_bridge_spans_total{result=\"failed\"} "));
        lost.next().unwrap().parse::<u64>().unwrap()
    };
    until(async || 0 < lost().await).await;
    world.end().await;
}
