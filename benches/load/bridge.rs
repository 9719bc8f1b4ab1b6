//! The real binary as a process, and what it costs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use engagement_bridge::vault::MasterKey;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::caller::Connection;

/// A running bridge. Killed when it is dropped.
pub(crate) struct Bridge {
    child: Child,
    pub(crate) address: SocketAddr,
    admin_key: SecretString,
}

const ADMIN_KEY: &str = "admin-key-of-the-benchmark";

impl Bridge {
    /// Starts it on the database file in `directory`, asking the Graph at `graph`, with more flags.
    pub(crate) async fn start(directory: &Path, graph: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_engagement-bridge"));
        command.env_clear().env("ENGAGEMENT_BRIDGE_DATABASE", directory.join("bridge.db"));
        Self::spawn(command, graph, flags).await
    }

    /// Starts it on the PostgreSQL at `url`, as one of the replicas that have this master key.
    pub(crate) async fn start_on(url: &str, key: &MasterKey, graph: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_engagement-bridge"));
        command.env_clear().env("ENGAGEMENT_BRIDGE_DATABASE", url);
        command.env("ENGAGEMENT_BRIDGE_MASTER_KEY", key.expose().as_str());
        Self::spawn(command, graph, flags).await
    }

    async fn spawn(mut command: Command, graph: &str, flags: &[&str]) -> Self {
        command.arg("serve").env("ENGAGEMENT_BRIDGE_ADMIN_KEY", ADMIN_KEY);
        command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.args(["--graph-root", graph, "--login-root", graph]);
        command.args(["--allow-http-callbacks", "--allow-callback-cidr", "127.0.0.0/8"]);
        command.args(["--allow-callback-port", "any"]);
        command.args(["--requests-per-second", "1000000", "--live-operations", "10000000"]);
        command.args(flags);
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("the bridge ended at its start");
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            match entry["address"].as_str() {
                Some(address) => break address.parse().unwrap(),
                None => eprintln!("  {line}"),
            }
        };
        // Somebody has to read on, or the bridge would wait for it.
        drop(tokio_util::task::TaskTracker::new().spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("\"ERROR\"") {
                    eprintln!("  {line}");
                }
            }
        }));
        Self { child, address, admin_key: SecretString::from(ADMIN_KEY) }
    }

    /// Adds a caller; its API key.
    pub(crate) async fn add_caller(&self, name: &str) -> SecretString {
        let mut connection = Connection::open(self.address).await;
        let body = json!({ "name": name }).to_string();
        let (status, body) =
            connection.ask("POST", "/v1/admin/callers", &self.admin_key, &body).await;
        assert_eq!(status, 201, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        SecretString::from(body["apiKey"].as_str().unwrap())
    }

    /// The processor time that it has used so far, all threads together.
    pub(crate) fn processor_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, behind_name) = text.rsplit_once(") ").unwrap();
        let field = |index: usize| behind_name.split(' ').nth(index).unwrap().parse::<u64>();
        // Fields 14 and 15 of proc(5), counted behind the name, which is the second.
        let ticks = field(11).unwrap() + field(12).unwrap();
        // The kernel counts in hundredths, whatever its own clock (proc(5), `sysconf`).
        Duration::from_millis(ticks * 10)
    }

    /// Bytes that are resident now.
    pub(crate) fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1024
    }

    /// Descriptors that are open now.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub(crate) async fn stop(mut self) {
        let kill = format!("kill -TERM {}", self.pid());
        Command::new("/bin/sh").args(["-c", &kill]).status().await.unwrap();
        assert!(self.child.wait().await.unwrap().success());
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }
}
