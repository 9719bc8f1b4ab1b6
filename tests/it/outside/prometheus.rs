//! A real Prometheus reads a real bridge, with the configuration, the alert rules and the dashboard of
//! `deploy/`. Only times are shortened: a minute there is a moment here.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

use crate::process::until;
use crate::world::{PATIENCE, World};

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deployed(name)).unwrap()
}

/// Runs `promtool`, and expects no complaint.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(deployed("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: tests/run installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
}

/// Names of the alerts, as the rules have them.
fn alerts() -> Vec<String> {
    let rules = read("prometheus/engagement-bridge.rules.yml");
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

/// The same rules with a moment for each span of time, in ranges and in `for`.
fn shortened(rules: &str) -> String {
    let lines = rules.lines().map(|line| {
        if line.trim_start().starts_with("for: ") {
            let indent = line.len() - line.trim_start().len();
            return format!("{}for: 400ms", " ".repeat(indent));
        }
        let mut parts = line.split('[');
        let mut short = parts.next().unwrap().to_owned();
        for part in parts {
            let (span, rest) = part.split_once(']').unwrap_or(("", part));
            let is_span = span.ends_with(['m', 'h']) && span.len() <= 3;
            let (before, rest) = if is_span { ("[10s]", rest) } else { ("[", part) };
            short.extend([before, rest]);
        }
        short
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A Prometheus of our own. Killed when it is dropped.
struct Prometheus {
    _child: Child,
    root: String,
    http: reqwest::Client,
    _directory: TempDir,
}

impl Prometheus {
    /// Reads the bridge at `target`, by the example's configuration.
    async fn start(target: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let configuration = read("prometheus/prometheus.yml");
        assert!(configuration.contains("- bridge.example.internal:9464\n"));
        let configuration = configuration
            .replace("bridge.example.internal:9464", &target.to_string())
            .replace("_interval: 30s", "_interval: 200ms");
        std::fs::write(path("prometheus.yml"), configuration).unwrap();
        let rules = shortened(&read("prometheus/engagement-bridge.rules.yml"));
        std::fs::write(path("engagement-bridge.rules.yml"), rules).unwrap();

        let log = std::fs::File::create(path("log")).unwrap();
        let child = tokio::process::Command::new("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"])
            .current_dir(&directory)
            .env_clear()
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus is missing: tests/run installs it");
        let listening = async || {
            let log = std::fs::read_to_string(path("log")).unwrap();
            let entries = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            let mut told = entries.filter(|it: &Value| it["msg"] == "Listening on");
            told.next().map(|it| it["address"].as_str().unwrap().to_owned())
        };
        until(async || listening().await.is_some()).await;
        let root = format!("http://{}", listening().await.unwrap());
        let tls = engagement_bridge::tls::client_config(None).unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let ready = format!("{root}/-/ready");
        until(async || {
            let answer = http.get(&ready).send().await;
            answer.is_ok_and(|it| it.status().is_success())
        })
        .await;
        Self { _child: child, root, http, _directory: directory }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let url = url::Url::parse_with_params(&format!("{}{path}", self.root), query).unwrap();
        let answer: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{path} {query:?}: {answer}");
        answer["data"].clone()
    }

    /// What a query comes to now.
    async fn query(&self, query: &str) -> Vec<Value> {
        let answer = self.get("/api/v1/query", &[("query", query)]).await;
        answer["result"].as_array().unwrap().clone()
    }

    /// Alerts that have gone off so far, whether or not they still do: what they count by is over within
    /// seconds here.
    async fn fired(&self) -> Vec<String> {
        let query = r#"group by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))"#;
        let fired = self.query(query).await;
        fired.iter().map(|it| it["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_fired(&self, alert: &str) {
        let mut glance = tokio::time::interval(Duration::from_millis(100));
        let went_off = async {
            while !self.fired().await.iter().any(|it| it == alert) {
                glance.tick().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, went_off).await;
        assert!(waited.is_ok(), "{alert} does not go off, only {:?} did", self.fired().await);
    }
}

#[test]
fn prometheus_own_tool_finds_no_fault_with_rules_and_configuration() {
    for arguments in [
        ["check", "rules", "engagement-bridge.rules.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "engagement-bridge.tests.yml"],
    ] {
        promtool(&arguments, "");
    }
    let rules = read("prometheus/engagement-bridge.rules.yml");
    let tests = read("prometheus/engagement-bridge.tests.yml");
    let alerts = alerts();
    assert!(15 <= alerts.len());
    for alert in &alerts {
        let rule =
            rules.split("- alert: ").find(|it| it.starts_with(&format!("{alert}\n"))).unwrap();
        for part in ["summary: ", "description: ", "runbook: ", "severity: "] {
            assert!(rule.contains(part), "{alert} has no {part}");
        }
        assert!(tests.contains(&format!("- name: {alert}\n")), "{alert} is not tested");
    }
}

/// Every query of the dashboard: of its panels, with the title of each, and of its variables.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("grafana/engagement-bridge.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array();
        assert_eq!(targets.is_none(), panel["type"] == "row", "{title}");
        for target in targets.into_iter().flatten() {
            queries.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    queries
}

/// As Grafana would fill it in.
fn filled_in(query: &str) -> String {
    let query = query.replace("$__rate_interval", "2m");
    let query = query.replace("$job", "engagement-bridge").replace("$instance", ".+");
    assert!(!query.contains('$'), "{query} has a variable that nobody fills in");
    query
}

async fn troubles(world: &World) {
    // Graph is out of order, and for somebody else it is too much.
    for _ in 0..12 {
        world.track(&json!([{ "http": 503 }])).await;
    }
    for number in 0..3 {
        let token =
            world.sandbox.hand_out_token(&format!("crowd-{number}"), Duration::from_hours(1));
        let token = secrecy::ExposeSecret::expose_secret(&token.unwrap()).to_owned();
        let script = json!([{ "http": 429 }, { "http": 429 }, { "http": 429 }, { "http": 429 }, { "status": "succeeded" }]);
        let operation = world.start(&script);
        world.shop.register(&world.registration_with_token(&operation, &token)).await;
    }
    // Nobody listens where it is to be told.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for _ in 0..3 {
        let mut registration =
            world.registration(&world.start(&json!([{ "status": "succeeded" }])));
        registration["callbackUrl"] = json!(format!("http://{free}/hooks"));
        world.shop.register(&registration).await;
    }
    // Credentials that nobody believes, more than the one that is, and an end that never comes.
    let refused = json!({ "http": 401, "error": "invalid_client" });
    let tokens = serde_json::from_value(json!([refused, refused, refused])).unwrap();
    world.sandbox.script_tokens(tokens);
    for connection in ["fabrikam", "tailspin", "wingtip"] {
        world.operator.add_connection("shop", connection).await;
        let mut registration = world.registration(&world.start(&json!("endless")));
        registration["connection"] = json!(connection);
        world.shop.register(&registration).await;
    }
    let mut registration =
        world.registration_with_token(&world.start(&json!("endless")), &world.token_of_alice());
    registration["expiresAfter"] = json!("PT1S");
    world.shop.register(&registration).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_reads_everything_shows_the_dashboard_and_raises_the_alarm() {
    let flags = ["--metrics-listen", "127.0.0.1:0", "--callback-schedule", "0s,1s,1s"];
    let world = World::begin_with(&flags).await;
    let prometheus = Prometheus::start(world.metrics.unwrap()).await;
    until(async || !prometheus.query("up == 1").await.is_empty()).await;
    for end in ["succeeded", "failed", "skipped"] {
        world.tell(&json!([{ "status": "running" }, { "status": end }])).await;
    }
    assert_eq!(prometheus.fired().await, [""; 0], "all is well");

    // It takes every line that the bridge writes, and knows each metric's type.
    let text = world.scraper().get("/metrics").await.text;
    promtool(&["check", "metrics"], &text);
    let targets = prometheus.get("/api/v1/targets", &[]).await;
    let target = &targets["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")), "{target}");
    let metadata = prometheus.get("/api/v1/metadata", &[("limit", "1000")]).await;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        // In OpenMetrics, which it asks for, a counter's name ends before `_total`.
        let name = if kind == "counter" { name.strip_suffix("_total").unwrap() } else { name };
        let name = name.strip_suffix("_info").unwrap_or(name);
        let known = &metadata[name][0];
        assert!(known["help"].as_str().is_some_and(|it| it.len() > 5), "{name}: {known}");
    }

    troubles(&world).await;
    for alert in [
        "EngagementBridgeGraphInTrouble",
        "EngagementBridgeGraphThrottles",
        "EngagementBridgeTokensFail",
        "EngagementBridgeBlocked",
        "EngagementBridgeOperationsGivenUp",
        "EngagementBridgeReceiversPaused",
    ] {
        prometheus.until_fired(alert).await;
    }
    // A receiver that wants no more.
    world.receiver.answer(vec![reqwest::StatusCode::GONE]);
    let mut registration = world.registration(&world.start(&json!([{ "status": "succeeded" }])));
    registration["callbackUrl"] = json!(format!("{}?another", world.receiver.url()));
    world.shop.register(&registration).await;
    prometheus.until_fired("EngagementBridgeUndeliverable").await;

    let queries = dashboard();
    assert!(40 <= queries.len());
    for (panel, query) in queries {
        let query = filled_in(&query);
        let result = prometheus.query(&query).await;
        assert!(!result.is_empty(), "{panel} shows nothing: {query}");
        let is_number =
            |it: &Value| it["value"][1].as_str().unwrap().parse::<f64>().is_ok_and(f64::is_finite);
        assert!(result.iter().any(is_number), "{panel} shows no number: {query}: {result:?}");
    }

    world.stop().await;
    prometheus.until_fired("EngagementBridgeDown").await;
}
