//! What goes on while processes are ended, and what must have come of it: apps register, a receiver
//! is told, and no promise is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::post;
use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::sandbox::{
    Sandbox, Script, Version, largest_window, shortest_gap_between_polls,
};
use proptest::test_runner::{RngAlgorithm, TestRng};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::world::Client;

/// A schedule of callbacks that does not give up during an ordeal.
pub(super) const PATIENT_SCHEDULE: &str = "0s,1s,1s,1s,2s,2s,5s,5s,10s,10s,20s,20s,60s,60s";

/// How long an app waits for an answer before it asks again.
const TO_ANSWER: Duration = Duration::from_secs(2);

/// A callback that the receiver took, and when, in milliseconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) body: Bytes,
    pub(super) at_ms: i64,
}

#[derive(Clone, Default)]
pub(super) struct Receiver {
    taken: Arc<Mutex<Vec<Taken>>>,
    requests: Arc<Mutex<u64>>,
}

impl Receiver {
    /// Takes callbacks, but for one in twenty.
    pub(super) async fn start(&self) -> (String, JoinSet<std::io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let router = Router::new().route("/hooks", post(take)).with_state(self.clone());
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(listener, router).into_future());
        (url, serving)
    }

    pub(super) fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let turn = {
        let mut requests = receiver.requests.lock().unwrap();
        *requests += 1;
        *requests
    };
    if turn.is_multiple_of(20) {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let at_ms = now_ms();
    receiver.taken.lock().unwrap().push(Taken { id, body, at_ms });
    StatusCode::NO_CONTENT
}

pub(super) fn now_ms() -> i64 {
    SystemClock.now().as_millisecond()
}

#[expect(clippy::disallowed_methods, reason = "a test is set by whoever runs it")]
pub(super) fn setting(name: &str, usually: u64) -> u64 {
    std::env::var(name).map_or(usually, |text| text.parse().unwrap())
}

/// Draws the same moments again for the same seed, which the variable of this name may set.
pub(super) fn draws(seed: &str) -> TestRng {
    let seed = setting(seed, 1).to_be_bytes().repeat(4);
    TestRng::from_seed(RngAlgorithm::ChaCha, &seed)
}

/// Where the bridge is now; several, where there are replicas.
pub(super) type Bridges = Arc<Mutex<Vec<Client>>>;

/// Apps that register all the while, each at a bridge of its own until that fails it.
pub(super) struct Apps {
    running: JoinSet<Vec<String>>,
    stop: Arc<AtomicBool>,
}

impl Apps {
    pub(super) fn start<const N: usize>(
        names: [&'static str; N],
        pace: Duration,
        sandbox: &Arc<Sandbox>,
        bridges: &Bridges,
        callback_url: &str,
    ) -> Self {
        let (mut running, stop) = (JoinSet::new(), Arc::<AtomicBool>::default());
        for (asks, name) in names.into_iter().enumerate() {
            let (sandbox, bridges) = (Arc::clone(sandbox), Arc::clone(bridges));
            let (callback_url, stop) = (callback_url.to_owned(), Arc::clone(&stop));
            running.spawn(App { name, sandbox, bridges, asks, callback_url, pace, stop }.run());
        }
        Self { running, stop }
    }

    /// The ids that were accepted.
    pub(super) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.running.join_all().await.concat()
    }
}

/// Registers, each time with a key, until it is told that it has.
struct App {
    name: &'static str,
    sandbox: Arc<Sandbox>,
    bridges: Bridges,
    /// The one that it asks, until that fails it.
    asks: usize,
    callback_url: String,
    pace: Duration,
    stop: Arc<AtomicBool>,
}

impl App {
    async fn run(mut self) -> Vec<String> {
        let mut accepted = Vec::new();
        let mut pace = tokio::time::interval(self.pace);
        for number in 0.. {
            pace.tick().await;
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let script = match number % 4 {
                0 => json!([{ "status": "running" }, { "status": "succeeded" }]),
                1 => json!([{ "status": "succeeded" }]),
                2 => json!([{ "http": 503 }, { "status": "running" }, { "status": "failed" }]),
                _ => json!([{ "status": "running", "delayMs": 300 }, { "status": "succeeded" }]),
            };
            let outcome = if number % 4 == 2 { "failed" } else { "succeeded" };
            let script: Script = serde_json::from_value(script).unwrap();
            let operation = self.sandbox.create(Version::V1, script).unwrap().location;
            // Many identities, so that budgets leave room.
            let identity = format!("user-of-{}-{}", self.name, number / 4);
            let token = self.sandbox.hand_out_token(&identity, Duration::from_hours(1)).unwrap();
            let registration = json!({
                "operation": operation,
                "callbackUrl": self.callback_url,
                "clientState": outcome,
                "accessToken": token.expose_secret(),
                "expiresIn": 3_600,
            });
            let key = format!("{}-{number}", self.name);
            accepted.push(self.register(&registration, &key).await);
        }
        accepted
    }

    async fn register(&mut self, registration: &Value, key: &str) -> String {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            let (bridge, others) = {
                let bridges = self.bridges.lock().unwrap();
                (bridges[self.asks].clone(), bridges.len())
            };
            let body = Some(registration.to_string().into_bytes());
            let headers = [("idempotency-key", key)];
            let sent = bridge.try_send(Method::POST, "/v1/operations", body, &headers);
            if let Ok(Ok(answer)) = tokio::time::timeout(TO_ANSWER, sent).await {
                if answer.status == StatusCode::ACCEPTED {
                    return answer.body["id"].as_str().unwrap().to_owned();
                }
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
                assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            }
            self.asks = (self.asks + 1) % others;
        }
    }
}

/// Waits until the callbacks of all these operations are delivered.
pub(super) async fn all_delivered(client: &Client, accepted: &[String], patience: Duration) {
    let mut glance = tokio::time::interval(Duration::from_millis(200));
    let all = async {
        for id in accepted {
            while client.operation(id).await["callbacks"][0]["state"] != "delivered" {
                glance.tick().await;
            }
        }
    };
    if tokio::time::timeout(patience, all).await.is_err() {
        let waiting = client.get("/v1/callbacks?state=pending&limit=5").await;
        let watching = client.get("/v1/operations?state=watching&limit=5").await;
        panic!("not all was told in time: {} {}", waiting.text, watching.text);
    }
}

/// Each operation's outcome was told, by one callback that never changed; those that were taken
/// though they came again later.
pub(super) fn told_again<'a>(taken: &'a [Taken], accepted: &[String]) -> Vec<&'a Taken> {
    let mut by_id: BTreeMap<&str, Vec<&Taken>> = BTreeMap::new();
    for one in taken {
        by_id.entry(&one.id).or_default().push(one);
    }
    let (mut told, mut again) = (BTreeSet::new(), Vec::new());
    for (id, times) in by_id {
        assert!(times.iter().all(|it| it.body == times[0].body), "the body of {id} changed");
        let body: Value = serde_json::from_slice(&times[0].body).unwrap();
        let (tracking, kind) = (&body["tracking"], body["type"].as_str().unwrap());
        let outcome = tracking["clientState"].as_str().unwrap();
        assert_eq!(kind, format!("engagementAsyncOperation.{outcome}"), "{body}");
        let operation = tracking["id"].as_str().unwrap().to_owned();
        assert!(told.insert(operation), "two callbacks for one operation: {body}");
        again.extend(&times[..times.len() - 1]);
    }
    let accepted: BTreeSet<String> = accepted.iter().cloned().collect();
    assert_eq!(told, accepted, "what was accepted was told, and nothing else");
    again
}

/// The sandbox's record without an early poll or an overrun. 31 s of Graph's time take one here.
pub(super) fn rules_kept(sandbox: &Sandbox) {
    let record = sandbox.record();
    let window = Duration::from_secs(30).div_f64(31.0);
    for (operation, gap) in shortest_gap_between_polls(&record) {
        assert!(window < gap, "{operation} was polled again after {gap:?}");
    }
    for (identity, requests) in largest_window(&record, window) {
        assert!(requests <= 8, "{identity} was asked for {requests} times in 30 s");
    }
    assert_eq!(sandbox.forgotten(), 0);
}
