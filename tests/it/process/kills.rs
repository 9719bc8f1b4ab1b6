//! The real process is killed, or told to stop, at random moments while operations are registered,
//! polled and told: nothing that was accepted is lost, and Graph sees its rules kept.
//!
//! `KILLS=300 cargo nextest run kills` does it as often as you like; `KILLS_SEED` draws other
//! moments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::post;
use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::sandbox::{
    Sandbox, Script, Version, largest_window, shortest_gap_between_polls,
};
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Home;
use crate::world::{Client, sandbox};

/// The lease of a step that was in the hands of a process that was killed, and some more.
const AFTER_KILLS: Duration = Duration::from_secs(150);

/// A process that stops leaves no step to its lease.
const AFTER_STOPS: Duration = Duration::from_mins(1);

/// How long after a callback was taken a kill may still have come before that was written down.
const TO_COMMIT: i64 = 1_000;

/// A callback that the receiver took, and when, in milliseconds since 1970.
#[derive(Clone, Debug)]
struct Taken {
    id: String,
    body: Vec<u8>,
    at_ms: i64,
}

#[derive(Clone, Default)]
struct Receiver {
    taken: Arc<Mutex<Vec<Taken>>>,
    requests: Arc<Mutex<u64>>,
}

impl Receiver {
    /// Takes callbacks, but for one in twenty.
    async fn start(&self) -> (String, JoinSet<std::io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let router = Router::new().route("/hooks", post(take)).with_state(self.clone());
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(listener, router).into_future());
        (url, serving)
    }

    fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

async fn take(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> StatusCode {
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
    receiver.taken.lock().unwrap().push(Taken { id, body: body.to_vec(), at_ms });
    StatusCode::NO_CONTENT
}

fn now_ms() -> i64 {
    SystemClock.now().as_millisecond()
}

#[expect(clippy::disallowed_methods, reason = "a test is set by whoever runs it")]
fn setting(name: &str, usually: u64) -> u64 {
    std::env::var(name).map_or(usually, |text| text.parse().unwrap())
}

/// How a life of the process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Kill,
    Terminate,
}

/// What an app does all the while: registers, each with a key, until it is told that it has.
struct App {
    sandbox: Arc<Sandbox>,
    /// Where the bridge is now.
    bridge: Arc<Mutex<Client>>,
    callback_url: String,
    stop: Arc<AtomicBool>,
}

impl App {
    /// The ids that were accepted.
    async fn run(self) -> Vec<String> {
        let mut accepted = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_millis(40));
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
            let script: Script = serde_json::from_value(script).unwrap();
            let operation = self.sandbox.create(Version::V1, script).unwrap().location;
            // Many identities, so that budgets leave room.
            let identity = format!("user-{}", number / 4);
            let token = self.sandbox.hand_out_token(&identity, Duration::from_hours(1)).unwrap();
            let registration = json!({
                "operation": operation,
                "callbackUrl": self.callback_url,
                "clientState": number.to_string(),
                "accessToken": token.expose_secret(),
                "expiresIn": 3_600,
            });
            accepted.push(self.register(&registration, &number.to_string()).await);
        }
        accepted
    }

    async fn register(&self, registration: &Value, key: &str) -> String {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            let bridge = self.bridge.lock().unwrap().clone();
            let body = Some(registration.to_string().into_bytes());
            let headers = [("idempotency-key", key)];
            let sent = bridge.try_send(Method::POST, "/v1/operations", body, &headers).await;
            let Ok(answer) = sent else { continue };
            if answer.status == StatusCode::ACCEPTED {
                return answer.body["id"].as_str().unwrap().to_owned();
            }
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        }
    }
}

/// Ends the process so many times at random moments; then all that was promised must come true.
async fn endure(how: End, times: u64) {
    let seed = setting("KILLS_SEED", 1).to_be_bytes().repeat(4);
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let (sandbox, receiver) = (Arc::new(sandbox().await), Receiver::default());
    let (callback_url, _serving) = receiver.start().await;
    let home = Home::new(sandbox.root())
        .flag("--callback-schedule", "0s,1s,1s,1s,2s,2s,5s,5s,10s,10s,20s,20s,60s,60s");
    let added = home.add_shop().await;
    let key = added["apiKey"].as_str().unwrap().to_owned();
    let mut serve = home.serve().await;
    let bridge = Arc::new(Mutex::new(serve.client(&key)));
    let stop = Arc::<AtomicBool>::default();
    let mut app = JoinSet::new();
    app.spawn(
        App {
            sandbox: Arc::clone(&sandbox),
            bridge: Arc::clone(&bridge),
            callback_url,
            stop: Arc::clone(&stop),
        }
        .run(),
    );

    let mut ended_at = Vec::new();
    for _ in 0..times {
        let life = Duration::from_millis(random.random_range(20..1_200));
        tokio::time::sleep(life).await;
        ended_at.push(now_ms());
        match how {
            End::Kill => serve.kill().await,
            End::Terminate => assert!(serve.terminate().await.success()),
        }
        serve = home.serve().await;
        *bridge.lock().unwrap() = serve.client(&key);
    }
    stop.store(true, Ordering::SeqCst);
    let accepted = app.join_next().await.unwrap().unwrap();
    assert!(times < accepted.len() as u64, "only {} were registered", accepted.len());

    let client = serve.client(&key);
    let mut glance = tokio::time::interval(Duration::from_millis(200));
    let all_told = async {
        for id in &accepted {
            while client.operation(id).await["callbacks"][0]["state"] != "delivered" {
                glance.tick().await;
            }
        }
    };
    let patience = if how == End::Kill { AFTER_KILLS } else { AFTER_STOPS };
    if tokio::time::timeout(patience, all_told).await.is_err() {
        let waiting = client.get("/v1/callbacks?state=pending&limit=5").await;
        let watching = client.get("/v1/operations?state=watching&limit=5").await;
        panic!("not all was told in time: {} {}", waiting.text, watching.text);
    }
    assert!(serve.terminate().await.success());
    told_once(&receiver.taken(), &accepted, how, &ended_at);
    rules_kept(&sandbox);
}

/// Each was told, and told again only where the process ended before it could know.
fn told_once(taken: &[Taken], accepted: &[String], how: End, ended_at: &[i64]) {
    let mut by_id: BTreeMap<&str, Vec<&Taken>> = BTreeMap::new();
    for one in taken {
        by_id.entry(&one.id).or_default().push(one);
    }
    assert_eq!(by_id.len(), accepted.len(), "one callback for each operation");
    for (id, times) in by_id {
        assert!(times.iter().all(|it| it.body == times[0].body), "the body of {id} changed");
        let repeated = &times[..times.len() - 1];
        assert!(how == End::Kill || repeated.is_empty(), "{id} came again, for no reason");
        for Taken { at_ms, .. } in repeated {
            let cut_off = ended_at.iter().any(|end| (0..TO_COMMIT).contains(&(end - at_ms)));
            assert!(cut_off, "{id} came again, and no kill explains it");
        }
    }
}

/// The sandbox's record without an early poll or an overrun. 31 s of Graph's time take one here.
fn rules_kept(sandbox: &Sandbox) {
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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_thirty_kills() {
    endure(End::Kill, setting("KILLS", 30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_told_twice_by_ten_stops() {
    endure(End::Terminate, setting("KILLS", 10)).await;
}
