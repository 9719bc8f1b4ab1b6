//! A bridge, a sandbox and a receiver, as they run in production but for the pace: real sockets, a
//! real database file, real time, and Graph's clock 310 times faster than usual.

mod app;
mod receiver;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::{Args as _, Command, FromArgMatches as _};
use engagement_bridge::clock::SystemClock;
use engagement_bridge::config::Settings;
use engagement_bridge::names::{LookupError, Names};
use engagement_bridge::sandbox::{
    Options, RecordedRequest, Sandbox, Script, Surface, Version, largest_window,
    shortest_gap_between_polls,
};
use engagement_bridge::serve::Bridge;
use engagement_bridge::shutdown::Shutdown;
use rusqlite::{OpenFlags, Row, types};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

pub(crate) use app::{Answer, CLIENT_ID, Client, SECRET_OF_CLIENT};
pub(crate) use receiver::{Received, Receiver, agree};

/// How many times faster than real time Graph's clock runs here.
pub(crate) const SPEED: f64 = 310.0;

/// Between two polls: 31 s of Graph's clock.
pub(crate) const INTERVAL: &str = "100ms";

/// Longer than anything should take here; what takes longer is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Has no name server, so that no test asks anybody outside of this machine.
pub(crate) struct NoNames;

#[async_trait]
impl Names for NoNames {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        // Nobody need be asked about these (RFC 6761 §6.4).
        if host.trim_end_matches('.').ends_with(".invalid") {
            return Err(LookupError::NotFound);
        }
        Err(LookupError::Unavailable("a test has none".to_owned()))
    }
}

/// 30 s of Graph's clock.
pub(crate) fn window() -> Duration {
    Duration::from_secs(30).div_f64(SPEED)
}

/// Everything that one story needs.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) receiver: Receiver,
    /// As the caller `shop`, which has the connection `contoso`.
    pub(crate) shop: Client,
    pub(crate) operator: Client,
    /// Where metrics alone are read, if anywhere.
    pub(crate) metrics: Option<SocketAddr>,
    shutdown: Shutdown,
    parts: JoinSet<anyhow::Result<()>>,
    pub(crate) directory: TempDir,
}

impl World {
    pub(crate) async fn begin() -> Self {
        Self::begin_with(&[]).await
    }

    /// With more flags of `serve`.
    pub(crate) async fn begin_with(flags: &[&str]) -> Self {
        let mut all = vec!["--allow-http-callbacks", "--allow-callback-port", "any"];
        all.extend(["--allow-callback-cidr", "127.0.0.0/8"]);
        all.extend(flags);
        Self::begin_strict(&all).await
    }

    /// Where callbacks go by https and to public addresses only, unless `flags` say else.
    pub(crate) async fn begin_strict(flags: &[&str]) -> Self {
        Self::begin_asking(Arc::new(NoNames), flags).await
    }

    /// The same, with names that are known to others.
    pub(crate) async fn begin_asking(names: Arc<dyn Names>, flags: &[&str]) -> Self {
        Self::begin_at(sandbox().await, names, flags).await
    }

    /// The same with a sandbox of another kind than the usual one.
    pub(crate) async fn begin_at(sandbox: Sandbox, names: Arc<dyn Names>, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let receiver = Receiver::start().await;
        let mut all = vec!["--graph-root", sandbox.root(), "--login-root", sandbox.root()];
        all.extend(["--min-poll-interval", INTERVAL]);
        all.extend(flags);
        let settings = settings(&directory.path().join("bridge.db"), &all);
        let bridge = Bridge::prepare_with(&settings, names).await.unwrap();
        let admin_key = settings.database.admin_key().unwrap();
        let operator = Client::new(bridge.address(), admin_key);
        let metrics = bridge.metrics_address();
        let shutdown = Shutdown::default();
        let mut parts = JoinSet::new();
        parts.spawn(bridge.run(shutdown.clone()));
        let shop = operator.add_caller("shop").await;
        operator.add_connection("shop", "contoso").await;
        receiver.expect_secret(shop.signing_secret());
        Self { sandbox, receiver, shop, operator, metrics, shutdown, parts, directory }
    }

    /// Whoever reads metrics where they need no key.
    pub(crate) fn scraper(&self) -> Client {
        Client::new(self.metrics.unwrap(), SecretString::default())
    }

    /// Everything that is in the database, row by row.
    pub(crate) fn stored(&self) -> Vec<String> {
        let path = self.directory.path().join("bridge.db");
        let database =
            rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let read = |sql: &str| -> Vec<String> {
            let mut query = database.prepare(sql).unwrap();
            let columns = query.column_count();
            let row = |row: &Row<'_>| {
                let values = (0..columns).map(|column| row.get::<_, types::Value>(column));
                values.collect::<Result<Vec<_>, _>>()
            };
            let text = |values: Result<Vec<types::Value>, _>| match values.unwrap().as_slice() {
                [types::Value::Text(name)] => name.clone(),
                values => format!("{values:?}"),
            };
            query.query_map([], row).unwrap().map(text).collect()
        };
        let tables = read("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
        let rows = |table: &String| {
            // When a key was last used is written now and then, whatever is asked for.
            let columns = match table.as_str() {
                "api_keys" => "digest, id, caller, label, scopes, created_at, expires_at",
                _ => "*",
            };
            let rows = read(&format!("SELECT {columns} FROM {table}"));
            rows.into_iter().map(|row| format!("{table}: {row}")).collect::<Vec<_>>()
        };
        tables.iter().flat_map(rows).collect()
    }

    /// Starts an operation in the sandbox; its address, as Graph gives it.
    pub(crate) fn start(&self, script: &Value) -> String {
        let script: Script = serde_json::from_value(script.clone()).unwrap();
        self.sandbox.create(Version::V1, script).unwrap().location
    }

    /// A registration of `operation` by the connection.
    pub(crate) fn registration(&self, operation: &str) -> Value {
        json!({ "operation": operation, "callbackUrl": self.receiver.url() })
    }

    /// The same with a token that is handed in, of the identity `alice` at Graph.
    pub(crate) fn registration_with_token(&self, operation: &str, token: &str) -> Value {
        let mut registration = self.registration(operation);
        registration["accessToken"] = json!(token);
        registration["expiresIn"] = json!(3_600);
        registration
    }

    pub(crate) fn token_of_alice(&self) -> String {
        use secrecy::ExposeSecret as _;
        let token = self.sandbox.hand_out_token("alice", Duration::from_hours(1)).unwrap();
        token.expose_secret().to_owned()
    }

    /// Starts an operation by `script`, registers it, and waits for its first callback.
    pub(crate) async fn tell(&self, script: &Value) -> Received {
        self.track(script).await;
        self.receiver.next().await
    }

    /// Starts an operation by `script` and registers it; the bridge's id of it.
    pub(crate) async fn track(&self, script: &Value) -> String {
        self.shop.register(&self.registration(&self.start(script))).await
    }

    /// Gives the connection another client secret, which lifts blocks.
    pub(crate) async fn shop_repairs_its_connection(&self) {
        let secret = json!({ "clientSecret": "another-secret-5Tq1" });
        let answer = self.shop.put("/v1/connections/contoso/credential", &secret).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    /// Waits for the first poll of all; when it was, in milliseconds since 1970.
    pub(crate) async fn first_poll(&self) -> i64 {
        let mut glance = tokio::time::interval(Duration::from_millis(5));
        let seen = async {
            loop {
                glance.tick().await;
                if let Some(poll) = self.polls().first() {
                    return poll.at_ms;
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("no poll came in time")
    }

    /// Polls in the record, of all operations, in their order.
    pub(crate) fn polls(&self) -> Vec<RecordedRequest> {
        let mut record = self.sandbox.record();
        record.retain(|it| it.surface == Surface::Graph && it.operation.is_some());
        record
    }

    /// What the sandbox has seen is within Graph's rules, and nothing is owed any more; then stops.
    pub(crate) async fn end(self) {
        self.all_is_told().await;
        self.receiver.has_nothing_more().await;
        self.witness();
        self.stop().await;
    }

    /// Waits until no callback is owed any more: what was received is on disk as delivered.
    pub(crate) async fn all_is_told(&self) {
        let mut glance = tokio::time::interval(Duration::from_millis(5));
        let told = async {
            loop {
                glance.tick().await;
                let open = self.shop.get("/v1/callbacks?state=pending").await;
                if open.body["callbacks"] == json!([]) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("callbacks are still owed");
    }

    /// What the sandbox has seen is within Graph's rules.
    pub(crate) fn witness(&self) {
        let record = self.sandbox.record();
        for (operation, gap) in shortest_gap_between_polls(&record) {
            assert!(window() < gap, "{operation} was polled twice within {gap:?}");
        }
        for (identity, requests) in largest_window(&record, window()) {
            assert!(requests <= 8, "{identity} made {requests} requests in 30 s of Graph's time");
        }
        assert!(record.iter().all(|it| !it.throttled), "a budget was overrun");
        // What the sandbox refused it would have recorded without an identity.
        assert_eq!(self.sandbox.forgotten(), 0);
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.stop.cancel();
        while let Some(ended) = self.parts.join_next().await {
            ended.unwrap().unwrap();
        }
        self.sandbox.stop().await;
    }
}

pub(crate) async fn sandbox() -> Sandbox {
    let options = Options { speed: SPEED, ..Options::default() };
    Sandbox::start(options, Arc::new(SystemClock)).await.unwrap()
}

/// What `serve` would take from `flags`, whatever the environment says.
pub(crate) fn settings(database: &Path, flags: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("serve").args_override_self(true))
        .mut_args(|argument| argument.env(clap::builder::Resettable::Reset));
    let mut arguments = vec!["serve", "--database", database.to_str().unwrap()];
    // Everybody comes from the same address here, and many tests are about wrong keys.
    arguments.extend(["--failed-attempts", "1000000"]);
    arguments.extend(["--listen", "127.0.0.1:0", "--shutdown-grace", "2s"]);
    arguments.extend(flags);
    let matches = command.try_get_matches_from(arguments).unwrap();
    Settings::from_arg_matches(&matches).unwrap()
}
