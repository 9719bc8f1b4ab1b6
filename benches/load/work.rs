//! Registering, whole lives, draining what is owed, and how long news take.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engagement_bridge::clock::SystemClock;
use engagement_bridge::sandbox::{Options, Sandbox, Script, Version};
use engagement_bridge::vault::MasterKey;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::bridge::Bridge;
use crate::caller::Connection;
use crate::sink::Sink;
use crate::{Table, grouped, percentile};

/// Operations whose whole lives are measured, and callbacks that are drained.
pub(crate) const MANY: usize = 20_000;

/// Operations of one identity; its budget is eight polls in 30 s of Graph's time.
const PER_IDENTITY: usize = 8;

const RECEIVERS: usize = 64;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(3);

/// Everything that is needed to measure.
pub(crate) struct Bench {
    pub(crate) sandbox: Sandbox,
    pub(crate) sink: Sink,
    /// One, or replicas on one database.
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) key: SecretString,
    pub(crate) directory: TempDir,
}

impl Bench {
    /// With one bridge on a database file.
    pub(crate) async fn set_up(flags: &[&str]) -> Self {
        Self::set_up_on(None, flags).await
    }

    /// With replicas on the PostgreSQL at a URL, or without one.
    pub(crate) async fn set_up_on(postgres: Option<(&str, usize)>, flags: &[&str]) -> Self {
        // As much faster as the bridge is told to poll below.
        let options = Options { speed: 310.0, ..Options::default() };
        let sandbox = Sandbox::start(options, Arc::new(SystemClock)).await.unwrap();
        let (sink, directory) = (Sink::start().await, tempfile::tempdir().unwrap());
        let flags = [&["--min-poll-interval", "100ms"][..], flags].concat();
        let mut bridges = Vec::new();
        match postgres {
            None => {
                bridges.push(Bridge::start(directory.path(), sandbox.root(), &flags).await);
            }
            Some((url, replicas)) => {
                let key = MasterKey::generate().unwrap();
                for _ in 0..replicas {
                    bridges.push(Bridge::start_on(url, &key, sandbox.root(), &flags).await);
                }
            }
        }
        let key = bridges[0].add_caller("bench").await;
        Self { sandbox, sink, bridges, key, directory }
    }

    /// The processor time of all bridges together.
    fn processor_time(&self) -> Duration {
        self.bridges.iter().map(Bridge::processor_time).sum()
    }

    pub(crate) async fn stop(self) {
        for bridge in self.bridges {
            bridge.stop().await;
        }
    }

    /// Kills all bridges, whatever they are at.
    pub(crate) fn abandon(self) {
        drop(self.bridges);
    }

    /// Bodies of registrations, of operations that follow `script` at Graph.
    pub(crate) fn registrations(&self, count: usize, script: &serde_json::Value) -> Vec<String> {
        self.registrations_of(PER_IDENTITY, &self.receivers(), count, script)
    }

    /// The same, for one of these callback URLs after the other.
    pub(crate) fn registrations_to(
        &self,
        urls: &[String],
        count: usize,
        script: &serde_json::Value,
    ) -> Vec<String> {
        self.registrations_of(PER_IDENTITY, urls, count, script)
    }

    fn receivers(&self) -> Vec<String> {
        (0..RECEIVERS).map(|receiver| self.sink.url(receiver)).collect()
    }

    /// The same, with so many operations of one identity.
    fn registrations_of(
        &self,
        per_identity: usize,
        urls: &[String],
        count: usize,
        script: &serde_json::Value,
    ) -> Vec<String> {
        let script: Script = serde_json::from_value(script.clone()).unwrap();
        let mut token = String::new();
        let mut bodies = Vec::with_capacity(count);
        for number in 0..count {
            if number % per_identity == 0 {
                let identity = format!("user-{}", number / per_identity);
                let life = Duration::from_hours(2);
                let handed_out = self.sandbox.hand_out_token(&identity, life).unwrap();
                handed_out.expose_secret().clone_into(&mut token);
            }
            let created = self.sandbox.create(Version::V1, script.clone()).unwrap();
            let body = json!({
                "operation": created.location,
                "callbackUrl": urls[number % urls.len()],
                "clientState": number.to_string(),
                "accessToken": token,
                "expiresIn": 7_000,
            });
            bodies.push(body.to_string());
        }
        bodies
    }

    /// Registers them all over so many connections; how long each took, sorted, and all together.
    async fn register(&self, bodies: Vec<String>, connections: usize) -> (Vec<Duration>, Duration) {
        let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        let began = Instant::now();
        for bridge in self.bridges.iter().cycle().take(connections) {
            let (bodies, next) = (Arc::clone(&bodies), Arc::clone(&next));
            let (key, address) = (self.key.clone(), bridge.address);
            callers.spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut took = Vec::new();
                while let Some(body) = bodies.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let asked = Instant::now();
                    let answer = connection.ask("POST", "/v1/operations", &key, body).await;
                    took.push(asked.elapsed());
                    assert_eq!(answer.0, 202, "{}", answer.1);
                }
                took
            });
        }
        let mut took: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
        let in_all = began.elapsed();
        took.sort_unstable();
        (took, in_all)
    }

    /// Waits until the sink has taken so many.
    pub(crate) async fn taken(&self, count: usize) {
        let began = Instant::now();
        let mut glance = tokio::time::interval(Duration::from_millis(1));
        while self.sink.taken() < count {
            assert!(began.elapsed() < PATIENCE, "only {} came", self.sink.taken());
            glance.tick().await;
        }
    }
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1_000.0)
}

/// No poll falls due meanwhile.
pub(crate) const NO_POLLS: &[&str] = &["--first-poll-after", "1h", "--max-poll-interval", "1h"];

pub(crate) async fn registrations(table: &mut Table) {
    let bench = Bench::set_up(NO_POLLS).await;
    for (connections, count) in [(1, 4_000), (32, 40_000), (128, 60_000)] {
        let what = format!("registrations at {connections} connections");
        table.add(what, registering(&bench, connections, count).await);
    }
    bench.stop().await;
}

/// How fast so many registrations are taken that come over so many connections.
pub(crate) async fn registering(bench: &Bench, connections: usize, count: usize) -> String {
    let bodies = bench.registrations(count, &json!([{ "status": "running" }]));
    let before = bench.processor_time();
    let (took, in_all) = bench.register(bodies, connections).await;
    let used = bench.processor_time().saturating_sub(before);
    format!(
        "{}/s, p50 {}, p99 {}, {:.3} CPU-s per 1,000",
        grouped(count as f64 / in_all.as_secs_f64()),
        millis(percentile(&took, 50)),
        millis(percentile(&took, 99)),
        used.as_secs_f64() * 1_000.0 / count as f64
    )
}

pub(crate) async fn lives(table: &mut Table) {
    let bench = Bench::set_up(&[]).await;
    let what = format!("whole lives of {} operations", grouped(MANY as f64));
    table.add(what, living(&bench, MANY).await);
    bench.stop().await;
}

/// How fast so many operations are registered, polled and called back.
pub(crate) async fn living(bench: &Bench, count: usize) -> String {
    let bodies = bench.registrations(count, &json!([{ "status": "succeeded" }]));
    let (before, first, began) = (bench.processor_time(), bench.sink.taken(), Instant::now());
    bench.register(bodies, 32).await;
    bench.taken(first + count).await;
    let in_all = began.elapsed();
    let used = bench.processor_time().saturating_sub(before);
    format!(
        "{}/s, {:.3} CPU-s per 1,000",
        grouped(count as f64 / in_all.as_secs_f64()),
        used.as_secs_f64() * 1_000.0 / count as f64
    )
}

pub(crate) async fn draining(table: &mut Table) {
    let bench = Bench::set_up(&[]).await;
    table.add(
        format!("callbacks while draining {} owed to {RECEIVERS} receivers", grouped(MANY as f64)),
        draining_of(&bench, MANY).await,
    );
    bench.stop().await;
}

/// How fast so many callbacks leave that are all owed when their receivers come back. Once in the
/// life of a bench.
pub(crate) async fn draining_of(bench: &Bench, count: usize) -> String {
    bench.sink.ask_for_patience(true);
    let bodies = bench.registrations(count, &json!([{ "status": "succeeded" }]));
    bench.register(bodies, 32).await;
    // All are owed once each has been polled, and their lanes rest for as long as the sink asked.
    let began = Instant::now();
    let mut glance = tokio::time::interval(Duration::from_millis(50));
    while bench.sandbox.record().len() < count {
        assert!(began.elapsed() < PATIENCE, "only {} were polled", bench.sandbox.record().len());
        glance.tick().await;
    }
    bench.sink.ask_for_patience(false);
    bench.taken(1).await;
    let (before, first, began) = (bench.processor_time(), bench.sink.taken(), Instant::now());
    bench.taken(count).await;
    let in_all = began.elapsed();
    let used = bench.processor_time().saturating_sub(before);
    let count = (count - first) as f64;
    format!(
        "{}/s, {:.3} CPU-s per 1,000",
        grouped(count / in_all.as_secs_f64()),
        used.as_secs_f64() * 1_000.0 / count
    )
}

/// From when the final answer left Graph to when the callback arrived.
pub(crate) async fn latency(table: &mut Table) {
    let calm = news(None).await;
    table.add(
        "final answer of Graph to callback, at 10 per second",
        format!("p50 {}, p99 {}", millis(percentile(&calm, 50)), millis(percentile(&calm, 99))),
    );
    let busy = news(Some(32)).await;
    table.add(
        "the same while registrations come over 32 connections",
        format!("p50 {}, p99 {}", millis(percentile(&busy, 50)), millis(percentile(&busy, 99))),
    );
}

/// How long the news of 200 operations took, sorted, with or without load.
async fn news(load: Option<usize>) -> Vec<Duration> {
    const NEWS: usize = 200;
    let bench = Bench::set_up(&[]).await;
    bench.sink.note_arrivals();
    let bodies = bench.registrations(NEWS, &json!([{ "status": "succeeded" }]));
    let (start, started_ms) = (Instant::now(), now_ms());
    let registering = async {
        let mut connection = Connection::open(bench.bridges[0].address).await;
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        for body in &bodies {
            pace.tick().await;
            let answer = connection.ask("POST", "/v1/operations", &bench.key, body).await;
            assert_eq!(answer.0, 202, "{}", answer.1);
        }
        bench.taken(NEWS).await;
    };
    match load {
        None => registering.await,
        Some(connections) => {
            // More than can be registered meanwhile. They are one identity's, whose budget lets few
            // of them be polled, so that it is registrations that make the load.
            let running = json!([{ "status": "running" }]);
            let endless = bench.registrations_of(usize::MAX, &bench.receivers(), 400_000, &running);
            tokio::select! {
                () = registering => {}
                _ = bench.register(endless, connections) => panic!("the load ended early"),
            }
        }
    }
    let ids: HashMap<String, usize> = bodies
        .iter()
        .enumerate()
        .map(|(number, body)| {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let location = body["operation"].as_str().unwrap();
            (location.split('\'').nth(1).unwrap().to_owned(), number)
        })
        .collect();
    let arrivals = bench.sink.arrivals();
    let mut took = Vec::new();
    for request in bench.sandbox.record() {
        let Some(number) = request.operation.as_ref().and_then(|it| ids.get(it)) else { continue };
        let answered =
            start + Duration::from_millis(u64::try_from(request.at_ms - started_ms).unwrap());
        let Some(arrived) = arrivals.get(&number.to_string()) else { continue };
        took.push(arrived.saturating_duration_since(answered));
    }
    assert!(NEWS <= took.len(), "only {} were told", took.len());
    took.sort_unstable();
    took
}

fn now_ms() -> i64 {
    use engagement_bridge::clock::Clock as _;
    SystemClock.now().as_millisecond()
}
