//! The image that `deploy/Dockerfile` builds, as a container that may do nothing but its work: no
//! root, no capability, no file that it can write to but those of its volume.
//!
//! `tests/image` builds it, once for all tests of a run.

mod bounds;
mod calls;
mod composed;
mod health;
mod lives;
mod names;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio::process::Command;

use crate::process::{Home, Serve};
use crate::world::PATIENCE;

/// What a container may not do, in the words of `podman run`; README of `deploy` names the same.
const CONFINED: [&str; 7] = [
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=256m",
    "--pids-limit=64",
    // Sandbox and receiver of a test listen on this machine's loopback.
    "--network=host",
];

/// A volume, and the containers that run on it one after the other. Removed when it is dropped.
pub(crate) struct Volume {
    name: String,
    flags: Vec<String>,
    options: Vec<String>,
    started: AtomicU32,
}

/// A container that runs `serve`.
pub(crate) struct Container {
    pub(crate) serve: Serve,
    name: String,
}

/// An order to podman, on the storage that `tests/image` built into.
fn podman(arguments: &[&str]) -> Command {
    let words = given("TEST_PODMAN");
    let mut words = words.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Gives an order, and waits until it was carried out.
async fn ordered(arguments: &[&str]) -> Output {
    let output = podman(arguments).output();
    tokio::time::timeout(PATIENCE, output).await.expect("podman does not end").unwrap()
}

/// The same, where nothing can be in the way; what it printed.
async fn told(arguments: &[&str]) -> String {
    let output = ordered(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn image() -> String {
    given("TEST_IMAGE")
}

/// What `tests/image` said, whom nextest calls before these tests.
#[expect(clippy::disallowed_methods, reason = "a test is set by whoever runs it")]
fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("run this by nextest: no {name}"))
}

/// A port that is free, below those that the system gives to whoever asks for any. Tests of a run are
/// processes of their own, whose ids lie close together: each begins to look somewhere else.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 37 + TAKEN.fetch_add(1, Ordering::Relaxed);
    let candidates = (first..first + 1_000).map(|it| u16::try_from(20_000 + it % 12_000).unwrap());
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    candidates.into_iter().find(is_free).expect("a port that is free")
}

impl Volume {
    /// For bridges that ask the Graph at `root`, a second to the poll.
    pub(crate) async fn new(root: &str) -> Self {
        let name = format!("bridge-{}-{}", std::process::id(), free_port());
        told(&["volume", "create", &name]).await;
        let flags = Home::flags_for(root);
        Self { name, flags, options: Vec::new(), started: AtomicU32::new(0) }
    }

    pub(crate) fn flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// An option of `podman run`.
    pub(crate) fn option(mut self, option: String) -> Self {
        self.options.push(option);
        self
    }

    pub(crate) async fn serve(&self) -> Container {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.name);
        // The image listens where other containers can reach it, and its health check asks there.
        let listen = format!("--env=ENGAGEMENT_BRIDGE_LISTEN=127.0.0.1:{}", free_port());
        let (named, volume) = (format!("--name={name}"), format!("--volume={}:/data", self.name));
        let mut command = podman(&["run", "--rm", &named, &volume, &listen]);
        command.args(CONFINED).args(&self.options).arg(image()).arg("serve").args(&self.flags);
        Container { serve: Serve::spawn(command).await, name }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Of containers, those are left that a failed test left running.
        for number in 0..*self.started.get_mut() {
            let name = format!("{}-{number}", self.name);
            drop(podman(&["rm", "--force", "--time=0", &name]).as_std_mut().output());
        }
        drop(podman(&["volume", "rm", "--force", &self.name]).as_std_mut().output());
    }
}

impl Container {
    /// Runs a command of the binary inside, which prints JSON.
    pub(crate) async fn json(&self, environment: &[&str], arguments: &[&str]) -> Value {
        let mut all = vec!["exec"];
        all.extend(environment);
        all.extend([self.name.as_str(), "/engagement-bridge"]);
        all.extend(arguments);
        serde_json::from_str(&told(&all).await).unwrap()
    }

    /// Adds the caller `shop` with the connection `contoso`.
    pub(crate) async fn add_shop(&self) -> Value {
        let added = self.json(&[], &["callers", "add", "shop", "--json"]).await;
        let secret =
            format!("--env=ENGAGEMENT_BRIDGE_CLIENT_SECRET={}", crate::world::SECRET_OF_CLIENT);
        let connection = ["connections", "add", "contoso", "--caller", "shop"];
        let registration =
            ["--tenant", "contoso.example", "--client-id", "11111111-2222-3333-4444-555555555555"];
        self.json(&[&secret], &[&connection[..], &registration[..]].concat()).await;
        added
    }

    pub(crate) async fn signal(&self, name: &str) {
        told(&["kill", "--signal", name, &self.name]).await;
    }

    /// The status with which it ends.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        self.serve.ended().await.code()
    }

    /// What podman knows of it, in the form of a Go template.
    pub(crate) async fn inspect(&self, template: &str) -> String {
        told(&["inspect", "--format", template, &self.name]).await.trim().to_owned()
    }
}
