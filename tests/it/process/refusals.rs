//! What `serve` refuses to start on, and what it says then.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::Connection;

use super::{Home, complaint, write};
use crate::world::{PATIENCE, sandbox};

/// Nothing is asked of this root.
const NOBODY: &str = "http://127.0.0.1:9";

/// `serve` ends with 1, and its last words hold all of these.
pub(super) async fn refused(home: &Home, words: &[&str]) {
    let flags: Vec<_> = home.flags.iter().map(String::as_str).collect();
    let output = home.run(&[&["serve"][..], &flags].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaint = complaint(&output);
    for word in words {
        assert!(complaint.contains(word), "{word:?} is not in: {complaint}");
    }
}

/// A database as the last start left it.
async fn a_home_with_a_database() -> Home {
    let home = Home::new(NOBODY);
    home.json(&["callers", "add", "shop"]).await;
    home
}

fn another_key() -> String {
    STANDARD.encode([7; 32])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_file_is_refused_while_the_first_goes_on() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    let serve = home.serve().await;
    refused(&home, &["bridge.db is in use by another process", "stop that one first"]).await;
    assert!(serve.client("none").get("/healthz").await.status.is_success());
    assert!(serve.terminate().await.success());
    assert!(home.serve().await.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_program_is_refused_and_left_as_it_is() {
    let home = a_home_with_a_database().await;
    let database = Connection::open(home.database()).unwrap();
    database.pragma_update(None, "user_version", 9_999).unwrap();
    drop(database);
    let before = std::fs::read(home.database()).unwrap();
    refused(&home, &["schema version 9999", "use the newer program"]).await;
    assert_eq!(std::fs::read(home.database()).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let home = Home::new(NOBODY);
    let database = Connection::open(home.database()).unwrap();
    database.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    drop(database);
    let home = home.environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &another_key());
    refused(&home, &["database of some other program", "another path"]).await;
    let database = Connection::open(home.database()).unwrap();
    let tables: u32 =
        database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_refused_and_left_as_it_is() {
    let home = Home::new(NOBODY).environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &another_key());
    let text = "A letter of somebody's. ".repeat(100);
    write(&home.database(), &text);
    refused(&home, &["not a database"]).await;
    assert_eq!(std::fs::read_to_string(home.database()).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_master_key_is_refused_and_the_right_one_still_opens() {
    let home = a_home_with_a_database().await;
    let wrong = home.directory.path().join("wrong-key");
    write(&wrong, &another_key());
    let home = home.environment("ENGAGEMENT_BRIDGE_MASTER_KEY_FILE", wrong.to_str().unwrap());
    refused(&home, &["the master key does not open this database"]).await;

    let right = home.directory.path().join("bridge.db.master-key");
    std::fs::copy(right, wrong).unwrap();
    assert_eq!(home.json(&["callers", "list"]).await["callers"][0], "shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_master_key_is_never_replaced_by_a_new_one() {
    let home = a_home_with_a_database().await;
    let key = home.directory.path().join("bridge.db.master-key");
    std::fs::remove_file(&key).unwrap();
    refused(&home, &["its master key", "bridge.db.master-key is not", "put it back"]).await;
    assert!(!key.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_made_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;

    let home = a_home_with_a_database().await;
    for name in ["bridge.db.master-key", "bridge.db.admin-key"] {
        let file = std::fs::metadata(home.directory.path().join(name)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_key_is_refused_without_being_repeated() {
    let planted = "not-a-key-Jw3x";
    let home = Home::new(NOBODY).environment("ENGAGEMENT_BRIDGE_MASTER_KEY", planted);
    let output = home.run(&["callers", "list"]).await;
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains("ENGAGEMENT_BRIDGE_MASTER_KEY"), "{complaint}");
    assert!(!complaint.contains(planted), "{complaint}");
    assert!(!home.database().exists(), "refused whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_microsoft_faster_than_it_allows_is_refused() {
    let home = Home::new("https://graph.microsoft.com");
    refused(&home, &["--min-poll-interval must be more than 30 s"]).await;
    assert!(!home.database().exists(), "refused whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_is_read_only_is_refused() {
    let home = a_home_with_a_database().await;
    let directory = home.directory.path().display();
    let setup = format!(
        "mount --bind '{directory}' '{directory}' && mount -o remount,bind,ro '{directory}'"
    );
    let output = home.shell(&setup).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it runs").unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaint = complaint(&output);
    assert!(complaint.contains("must exist and be writable"), "{complaint}");
    assert!(complaint.contains("Read-only file system"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new(NOBODY);
    let mut arguments = vec!["serve".to_owned()];
    arguments.extend(home.flags.iter().cloned());
    let position = arguments.iter().position(|it| it == "127.0.0.1:0").unwrap();
    arguments[position].clone_from(&address);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let output = home.run(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains(&format!("cannot listen on {address}")), "{complaint}");
}
