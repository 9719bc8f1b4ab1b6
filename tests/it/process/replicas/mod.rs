//! Several bridges on one PostgreSQL: they share its work, and what befalls one of them, or the
//! database itself, breaks no promise.
//!
//! `FAULTS=300 cargo nextest run chaos` does it as often as you like; `FAULTS_SEED` draws others.

mod calm;
mod chaos;
mod failover;
mod pause;
mod set_clock;

use std::path::PathBuf;
use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use engagement_bridge::sandbox::{Sandbox, Script, Version};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ordeal::{self, now_ms};
use super::restarts::until;
use super::{Home, Serve};
use crate::world::Client;

const ADMIN_KEY: &str = "an-admin-key-of-all-replicas";

/// How long a step is in the hands of one replica, whatever becomes of that.
const LEASE: Duration = Duration::from_secs(90);

/// Between two registrations of an app.
const PACE: Duration = Duration::from_millis(150);

/// How long replicas may take to go on when the trouble is over.
const TO_GO_ON: Duration = Duration::from_secs(30);

/// How long a replica may take until it runs, while others have trouble.
const TO_START: Duration = Duration::from_mins(1);

/// A replica of a bridge on `database`.
fn replica(sandbox: &Sandbox, database: &str) -> Home {
    let master_key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    Home::new(sandbox.root())
        .environment("ENGAGEMENT_BRIDGE_DATABASE", database)
        .environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &master_key)
        .environment("ENGAGEMENT_BRIDGE_ADMIN_KEY", ADMIN_KEY)
}

/// The same on a machine whose clock is 90 s fast.
fn on_a_fast_machine(home: Home) -> Home {
    let library = libfaketime().display().to_string();
    home.environment("LD_PRELOAD", &library)
        .environment("FAKETIME", "+90s")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

fn libfaketime() -> PathBuf {
    let directories = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut libraries = directories.map(|it| it.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|it| it.exists()).expect("libfaketime is installed, as by tests/run")
}

/// Starts a replica until it runs, as whatever watches over processes does: it ends at once where it
/// cannot use its database yet.
async fn started(home: &Home) -> Serve {
    let give_up_at = Instant::now() + TO_START;
    loop {
        match home.try_serve().await {
            Ok(serve) => return serve,
            Err(log) => assert!(Instant::now() < give_up_at, "serve does not start: {log}"),
        }
    }
}

/// Waits until more is told than was under way.
async fn goes_on(receiver: &ordeal::Receiver) {
    let told = receiver.taken().len();
    let goes_on = until(async || told + 10 < receiver.taken().len());
    tokio::time::timeout(TO_GO_ON, goes_on).await.expect("all has come to a halt");
}

fn operation(sandbox: &Sandbox, script: &Value) -> String {
    let script: Script = serde_json::from_value(script.clone()).unwrap();
    sandbox.create(Version::V1, script).unwrap().location
}

async fn is_ready(client: &Client) -> bool {
    client.get("/readyz").await.status == StatusCode::OK
}
