//! What a copy is not made of, or not made to, and what is said then.

use rusqlite::Connection;

use super::*;
use crate::support::postgres;
use crate::world::sandbox;

/// An installation with a caller, on a file.
async fn installation() -> Home {
    let home = Home::new("http://127.0.0.1:9");
    home.json(&["callers", "add", "shop"]).await;
    home
}

/// Refuses to copy to a database, and leaves it as it is.
async fn left_alone(home: &Home, database: &str, words: &[&str]) {
    let before = content(database);
    home.cannot_copy_to(database, words).await;
    assert_eq!(content(database), before);
    assert_eq!(home.json(&["callers", "list"]).await["callers"][0], "shop", "the file is used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_holds_anything_else_is_left_alone() {
    let (home, database) = (installation().await, postgres::database());
    let other = installation().await;
    moved(&other, "http://127.0.0.1:9", &database).json(&["callers", "list"]).await;
    left_alone(&home, &database, &["in use, or has been", "give one that is empty"]).await;
    // Rows of somebody's, whoever that was.
    ask(&database, "DELETE FROM installation; INSERT INTO callers VALUES ('theirs', 0, NULL)");
    left_alone(&home, &database, &["in use, or has been"]).await;
    ask(&database, "DELETE FROM callers; UPDATE schema_version SET version = 99");
    left_alone(&home, &database, &["schema version 99", "use the newer program"]).await;

    let database = postgres::database();
    other.json(&["migrate", "--database", &database]).await;
    let mut session = session(&database).await;
    let transaction = session.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE live_operations IN EXCLUSIVE MODE").await.unwrap();
    let copy = other.begin_to_copy_to(&database);
    blocked(&database).await;
    left_alone(&home, &database, &["somebody else copies to this database right now"]).await;
    killed(copy).await;
    transaction.rollback().await.unwrap();
    left_alone(&home, &database, &["an unfinished copy of another installation"]).await;
    let migrated = home.run(&["migrate", "--database", &database]).await;
    says(&complaint(&migrated), &["a copy into this database is unfinished"]);
    other.copied_to(&database).await;
    left_alone(&home, &database, &["in use, or has been"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_copied_to_postgres_is_left_as_it_is() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    home.json(&["callers", "add", "shop"]).await;
    let database = postgres::database();
    let serve = home.serve().await;
    home.cannot_copy_to(&database, &["bridge.db is in use", "stop that one first"]).await;
    assert!(serve.client("none").get("/healthz").await.status.is_success());
    assert!(serve.terminate().await.success());

    let version = |version: i32| {
        let file = Connection::open(home.database()).unwrap();
        file.pragma_update(None, "user_version", version).unwrap();
    };
    version(9_999);
    let before = std::fs::read(home.database()).unwrap();
    home.cannot_copy_to(&database, &["schema version 9999", "use the newer program"]).await;
    assert_eq!(std::fs::read(home.database()).unwrap(), before);
    version(1);
    assert_eq!(content(&database), [], "something was made there");

    let nowhere = Home::new("http://127.0.0.1:9");
    nowhere.cannot_copy_to(&database, &["there is no database in", "serve` makes one"]).await;
    assert_eq!(std::fs::read_dir(nowhere.directory.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_postgres_is_undone_before_the_file_is_used_again() {
    let (home, database) = (installation().await, postgres::database());
    let file = home.database().display().to_string();
    let undo = async || home.run(&["copy", "--from", &file, "--undo"]).await;
    says(&complaint(&undo().await), &["was not moved elsewhere"]);
    let before = logical(&home);
    home.copied_to(&database).await;
    home.is_not_served(&["was moved to postgres://127.0.0.1:", "--undo"]).await;
    let undone = undo().await;
    assert!(undone.status.success(), "{undone:?}");
    assert_eq!(logical(&home), before, "not as it was");
    left_alone(&home, &database, &["in use, or has been"]).await;
}

/// What is in the file, whatever the pages that it is in.
fn logical(home: &Home) -> Vec<Vec<u8>> {
    let file = Connection::open(home.database()).unwrap();
    let sql = "SELECT sealed_check FROM installation UNION ALL SELECT digest FROM api_keys";
    let mut values = file.prepare(sql).unwrap();
    let values = values.query_map([], |row| row.get(0)).unwrap();
    values.collect::<Result<_, _>>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_for_postgres_is_never_shown_and_may_come_by_the_environment() {
    let (home, database) = (installation().await, postgres::database());
    let url = database.replace("bridge@", "bridge:hunter2@");
    let file = home.database().display().to_string();
    let home = home.environment("ENGAGEMENT_BRIDGE_COPY_TO", &url);
    let copied = home.run(&["copy", "--from", &file, "--log", "debug"]).await;
    assert!(copied.status.success(), "{copied:?}");
    let unreachable = home.copy_to("postgres://bridge:hunter2@127.0.0.1:1/name").await;
    says(&complaint(&unreachable), &["cannot copy to postgres://127.0.0.1:1/name"]);
    let help = home.run(&["copy", "--help"]).await;
    let home = home.environment("ENGAGEMENT_BRIDGE_COPY_TO", "postgres://u:hunter2@h:x/n");
    let malformed = home.run(&["copy", "--from", &file]).await;
    says(&complaint(&malformed), &["the URL of the PostgreSQL cannot be read"]);
    let not_a_server = home.run(&["copy", "--from", &file, "--to", "hunter2.db"]).await;
    says(&complaint(&not_a_server), &["--to must be the URL of a PostgreSQL"]);
    for output in [copied, unreachable, help, malformed, not_a_server] {
        assert!(!format!("{output:?}").contains("hunter2"), "{output:?}");
        let output = String::from_utf8_lossy(&output.stdout).into_owned() + &complaint(&output);
        assert!(!output.contains("hunter2"), "{output}");
    }
}
