//! `deploy/compose.yaml` without a profile, for real: docker-compose gives its orders to podman.

use std::path::Path;
use std::process::{Output, Stdio};

use axum::http::StatusCode;
use secrecy::SecretString;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{free_port, given, image, podman, told};
use crate::process::until;
use crate::world::{Client, PATIENCE};

/// What this machine may not raise, and a real one may.
const LIMITS: &str = "services:\n  bridge:\n    ulimits: {nofile: 1024, nproc: 1024}\n";

/// One project of docker-compose, with podman in the place of Docker. Taken down when it is dropped.
struct Project {
    directory: TempDir,
    name: String,
    port: u16,
    _service: Child,
}

impl Project {
    async fn begin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("limits.yaml"), LIMITS).unwrap();
        let socket = directory.path().join("socket");
        let address = format!("unix://{}", socket.display());
        let mut service = podman(&["system", "service", "--time=0", &address]);
        let service = service.stderr(Stdio::null()).spawn().unwrap();
        until(async || socket.exists()).await;
        let port = free_port();
        Self { directory, name: format!("bridge-{port}"), port, _service: service }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut compose = Command::new("docker-compose");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose.yaml");
        compose.args(["--project-name", &self.name, "--file"]).arg(file);
        compose.arg("--file").arg(self.directory.path().join("limits.yaml")).args(arguments);
        let socket = self.directory.path().join("socket");
        compose.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        compose.env("BRIDGE_IMAGE", image()).env("PORT", self.port.to_string());
        compose.stdin(Stdio::null());
        compose
    }

    async fn ordered(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        let output = tokio::time::timeout(PATIENCE, output).await;
        let output = output.expect("docker-compose does not end").unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    async fn bridge(&self, arguments: &[&str]) -> Vec<u8> {
        let order = [&["exec", "-T", "bridge", "/engagement-bridge"], arguments].concat();
        self.ordered(&order).await.stdout
    }

    /// Begins or goes on, and waits until the bridge is ready.
    async fn ready_after(&self, order: &[&str]) -> Client {
        self.ordered(order).await;
        let address = format!("127.0.0.1:{}", self.port).parse().unwrap();
        let anybody = Client::new(address, SecretString::from(""));
        until(async || {
            let answer = anybody.try_send(axum::http::Method::GET, "/readyz", None, &[]).await;
            answer.is_ok_and(|answer| answer.status == StatusCode::OK)
        })
        .await;
        anybody
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        drop(self.command(&["down", "--volumes"]).as_std_mut().output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_composed_serves_and_stops_and_goes_on() {
    assert!(!given("CONTAINERS_CONF").is_empty());
    let project = Project::begin().await;
    let anybody = project.ready_after(&["up", "--detach", "--no-build"]).await;
    let added: Value =
        serde_json::from_slice(&project.bridge(&["callers", "add", "shop", "--json"]).await)
            .unwrap();
    let shop = anybody.with_key(added["apiKey"].as_str().unwrap());
    assert_eq!(shop.get("/v1/operations").await.status, StatusCode::OK);
    // The way out of a container that has no shell.
    let backup = project.bridge(&["backup", "--to", "-"]).await;
    assert!(backup.starts_with(b"SQLite format 3\0"));

    let id = String::from_utf8(project.ordered(&["ps", "-q", "bridge"]).await.stdout).unwrap();
    project.ordered(&["stop"]).await;
    let ended = told(&["inspect", "--format", "{{ .State.ExitCode }}", id.trim()]).await;
    assert_eq!(ended.trim(), "0");
    project.ready_after(&["start"]).await;
    assert_eq!(shop.get("/v1/operations").await.status, StatusCode::OK);
}
