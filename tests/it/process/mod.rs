//! The real binary as a process of its own: started, asked, stopped, killed.

mod backups;
mod commands;
mod copies;
mod damage;
mod egress;
mod identities;
mod kills;
mod migrations;
mod ordeal;
mod planted;
mod refusals;
mod replicas;
mod restarts;
mod secrets;
mod secure;
mod trouble;
mod vault;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::world::{Client, PATIENCE};

pub(crate) use restarts::until;

const BINARY: &str = env!("CARGO_BIN_EXE_engagement-bridge");

/// A directory for one database, and the flags that every command on it gets.
pub(crate) struct Home {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) flags: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

/// A running `serve`. Killed when it is dropped.
pub(crate) struct Serve {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    _reading: JoinSet<()>,
}

impl Home {
    /// For a bridge that asks the Graph at `root`, a second to the poll.
    pub(crate) fn new(root: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, flags: Self::flags_for(root), environment: Vec::new() }
            .flag("--listen", "127.0.0.1:0")
    }

    /// The flags for that, but for where to listen.
    pub(crate) fn flags_for(root: &str) -> Vec<String> {
        let flags = [
            ("--graph-root", root),
            ("--login-root", root),
            ("--min-poll-interval", "1s"),
            ("--allow-callback-cidr", "127.0.0.0/8"),
            ("--allow-callback-port", "any"),
            ("--callback-schedule", "0s,1s,1s"),
            ("--log-format", "json"),
        ];
        let mut flags: Vec<_> = flags.iter().flat_map(|(flag, value)| [flag, value]).collect();
        flags.push(&"--allow-http-callbacks");
        flags.into_iter().map(|&flag| flag.to_owned()).collect()
    }

    pub(crate) fn flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    pub(crate) fn environment(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.directory.path().join("bridge.db")
    }

    /// A command of the binary, with nothing of the environment that this test runs in.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        self.prepare(&mut command);
        command.args(arguments);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.env_clear();
        command.env("ENGAGEMENT_BRIDGE_DATABASE", self.database());
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.stdin(Stdio::null()).kill_on_drop(true);
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        tokio::time::timeout(PATIENCE, output).await.expect("the command does not end").unwrap()
    }

    /// Runs a command that prints JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Adds the caller `shop` with the connection `contoso` by the command line.
    pub(crate) async fn add_shop(&self) -> Value {
        let secret = self.directory.path().join("client-secret");
        std::fs::write(&secret, crate::world::SECRET_OF_CLIENT).unwrap();
        let added = self.json(&["callers", "add", "shop", "--json"]).await;
        let connection = ["connections", "add", "contoso", "--caller", "shop"];
        let registration = [
            "--tenant",
            "contoso.example",
            "--client-id",
            "11111111-2222-3333-4444-555555555555",
            "--client-secret-file",
            secret.to_str().unwrap(),
            "--no-test",
        ];
        self.json(&[&connection[..], &registration[..]].concat()).await;
        added
    }

    pub(crate) async fn serve(&self) -> Serve {
        Serve::spawn(self.command_to_serve()).await
    }

    /// The same where it may not start; `Err` is what it says then.
    pub(crate) async fn try_serve(&self) -> Result<Serve, String> {
        Serve::try_spawn(self.command_to_serve()).await
    }

    fn command_to_serve(&self) -> Command {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        self.command(&[&["serve"][..], &flags].concat())
    }

    /// Starts `serve` after `setup`, a line of shell, in a mount namespace of its own.
    pub(crate) async fn serve_after(&self, setup: &str) -> Serve {
        Serve::spawn(self.shell(setup)).await
    }

    /// `serve` behind `setup`, a line of shell, in a mount namespace of its own.
    pub(crate) fn shell(&self, setup: &str) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        self.prepare(&mut command);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let script = format!("{setup} && exec \"$@\"");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh", BINARY, "serve"]);
        command.args(&self.flags);
        command
    }
}

impl Serve {
    pub(crate) async fn spawn(command: Command) -> Self {
        match Self::try_spawn(command).await {
            Ok(serve) => serve,
            Err(log) => panic!("serve does not listen: {log}"),
        }
    }

    /// `Err` is what it said instead of listening.
    async fn try_spawn(mut command: Command) -> Result<Self, String> {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let (found, mut address) = watch::channel(None);
        let mut reading = JoinSet::new();
        let written = Arc::clone(&log);
        reading.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let entry: Value = serde_json::from_str(&line).unwrap_or_default();
                let in_text =
                    line.split_once("listening on http").and_then(|it| it.1.split_once("://"));
                let in_text = in_text.map(|(_, rest)| rest);
                let in_text = in_text.and_then(|rest| rest.split_whitespace().next());
                // First, so that whoever hears that it listens can read that it does.
                written.lock().unwrap().extend([line.as_str(), "\n"]);
                let is_known = found.borrow().is_some();
                if let Some(bound) = entry["address"].as_str().or(in_text)
                    && !is_known
                {
                    found.send_replace(bound.parse().ok());
                }
            }
        });
        let listening = tokio::time::timeout(PATIENCE, address.wait_for(Option::is_some)).await;
        let address = match listening {
            Ok(Ok(address)) => address.unwrap(),
            _ => return Err(log.lock().unwrap().clone()),
        };
        Ok(Self { child, address, log, _reading: reading })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// As whoever has this key.
    pub(crate) fn client(&self, key: &str) -> Client {
        Client::new(self.address, SecretString::from(key))
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        self.signal("TERM").await;
        self.ended().await
    }

    pub(crate) async fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        let sent = Command::new("/bin/sh").args(["-c", &command]).status().await.unwrap();
        assert!(sent.success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("serve does not end").unwrap()
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// What went to standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
