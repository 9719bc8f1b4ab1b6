//! Databases that are not what the last start left: what `serve` says to them.

use std::fs;
use std::path::Path;

use axum::http::StatusCode;
use engagement_bridge::sandbox::{Sandbox, Script, Version};
use serde_json::{Value, json};

use super::refusals::refused;
use super::{Home, complaint};
use crate::world::{Client, PATIENCE, sandbox};

const PAGE: usize = 4_096;

/// Operations that nobody polls for an hour, so that nothing but a test writes.
struct Scene {
    sandbox: Sandbox,
    home: Home,
    key: String,
}

impl Scene {
    async fn begin() -> Self {
        let sandbox = sandbox().await;
        let home = Home::new(sandbox.root())
            .flag("--first-poll-after", "1h")
            .flag("--max-poll-interval", "1h");
        let added = home.add_shop().await;
        let key = added["apiKey"].as_str().unwrap().to_owned();
        Self { sandbox, home, key }
    }

    /// After so many registrations and a clean stop.
    async fn with(operations: usize) -> Self {
        let scene = Self::begin().await;
        let serve = scene.home.serve().await;
        for _ in 0..operations {
            scene.register(&serve.client(&scene.key)).await.unwrap();
        }
        assert!(serve.terminate().await.success());
        scene
    }

    /// The id of what was accepted, or what was said instead.
    async fn register(&self, shop: &Client) -> Result<String, (StatusCode, Value)> {
        let script: Script = serde_json::from_value(json!([{ "status": "running" }])).unwrap();
        let operation = self.sandbox.create(Version::V1, script).unwrap().location;
        let registration = json!({
            "operation": operation,
            "callbackUrl": "http://127.0.0.1:9/",
            "clientState": "x".repeat(128),
        });
        let answer = shop.post("/v1/operations", &registration).await;
        match answer.status {
            StatusCode::ACCEPTED => Ok(answer.body["id"].as_str().unwrap().to_owned()),
            status => Err((status, answer.body)),
        }
    }

    fn log(&self) -> std::path::PathBuf {
        self.home.directory.path().join("bridge.db-wal")
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_refused_with_what_to_do_and_a_backup_of_it_starts() {
    let scene = Scene::with(30).await;
    let database = scene.home.database();
    let backup = fs::read(&database).unwrap();
    let pages = backup.len() / PAGE;
    for page in [0, 1, pages / 2, pages - 1] {
        change(&database, |bytes| bytes[page * PAGE..(page + 1) * PAGE].fill(0xff));
        refused(&scene.home, &["the database is damaged", "restore a backup"]).await;
        fs::write(&database, &backup).unwrap();
    }
    for length in [60, PAGE, backup.len() / 2, backup.len() - PAGE] {
        change(&database, |bytes| bytes.truncate(length));
        refused(&scene.home, &["the database is damaged", "restore a backup"]).await;
        fs::write(&database, &backup).unwrap();
    }
    let serve = scene.home.serve().await;
    let list = serve.client(&scene.key).get("/v1/operations?limit=100").await.body;
    assert_eq!(list["operations"].as_array().unwrap().len(), 30);
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_database_is_not_taken_for_a_new_one() {
    let scene = Scene::with(1).await;
    change(&scene.home.database(), Vec::clear);
    refused(&scene.home, &["bridge.db is empty, and was not before", "restore a backup"]).await;
    assert_eq!(fs::metadata(scene.home.database()).unwrap().len(), 0);

    // Where there was none before, an empty file is as good as none.
    let home = Home::new(scene.sandbox.root());
    let key = fs::read_to_string(scene.home.directory.path().join("bridge.db.master-key")).unwrap();
    let home = home.environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &key);
    super::write(&home.database(), "");
    assert!(home.serve().await.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_place_of_the_database_is_named() {
    let scene = Scene::begin().await;
    fs::remove_file(scene.home.database()).unwrap();
    fs::create_dir(scene.home.database()).unwrap();
    refused(&scene.home, &["bridge.db is not a file", "name one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_to_is_refused() {
    let scene = Scene::with(1).await;
    let database = scene.home.database().display().to_string();
    let setup =
        format!("mount --bind '{database}' '{database}' && mount -o remount,bind,ro '{database}'");
    let output = scene.home.shell(&setup).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it runs").unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaint = complaint(&output);
    assert!(complaint.contains("bridge.db cannot be written to"), "{complaint}");
    assert!(complaint.contains("mount options"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_log_whose_end_was_torn_off_by_a_kill_everything_before_is_there() {
    let scene = Scene::begin().await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let (mut accepted, mut lengths) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        accepted.push(scene.register(&shop).await.unwrap());
        lengths.push(fs::metadata(scene.log()).unwrap().len());
    }
    serve.kill().await;
    // In the middle of the eighth: SQLite had not said that it was on disk.
    let torn = usize::try_from(lengths[7]).unwrap() - PAGE / 2;
    change(&scene.log(), |bytes| bytes.truncate(torn));

    let serve = scene.home.serve().await;
    assert!(serve.log().contains("looking for damage"), "{}", serve.log());
    let list = serve.client(&scene.key).get("/v1/operations?limit=100").await.body;
    let there = list["operations"].as_array().unwrap().iter().rev();
    let there: Vec<_> = there.map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(there, accepted[..7]);
    let (log, ended) = (serve.log(), serve.terminate().await);
    assert!(ended.success(), "{ended:?} {log}");
    let serve = scene.home.serve().await;
    assert!(!serve.log().contains("looking for damage"), "{}", serve.log());
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_under_a_running_bridge_is_never_answered_with_202() {
    let scene = Scene::with(30).await;
    let serve = scene.home.serve().await;
    let shop = serve.client(&scene.key);
    let whole = fs::read(scene.home.database()).unwrap();
    let spoil = |bytes: &mut Vec<u8>| bytes[PAGE..].fill(0xa5);
    change(&scene.home.database(), spoil);
    for _ in 0..3 {
        let (status, body) = scene.register(&shop).await.unwrap_err();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert_eq!(body["type"], "urn:engagement-bridge:problem:store-unavailable");
        let list = shop.get("/v1/operations").await;
        assert_eq!(list.status, StatusCode::SERVICE_UNAVAILABLE, "{}", list.text);
    }
    assert!(serve.log().contains("the database is damaged: stop the bridge"), "{}", serve.log());
    assert!(!serve.log().contains("panicked"), "{}", serve.log());
    assert!(serve.client("none").get("/healthz").await.status.is_success());
    assert!(serve.terminate().await.success());
    refused(&scene.home, &["the database is damaged", "restore a backup"]).await;

    fs::write(scene.home.database(), whole).unwrap();
    // A log of the damaged one is none of the backup's.
    drop(fs::remove_file(scene.log()));
    let serve = scene.home.serve().await;
    scene.register(&serve.client(&scene.key)).await.unwrap();
    assert!(serve.terminate().await.success());
}
