//! A copy goes on where it stopped, whenever that was, and is not believed before it is compared.

use engagement_bridge::lane;
use engagement_bridge::store::sqlite::SqliteStore;
use engagement_bridge::store::{Idempotency, Registration, Store as _};
use engagement_bridge::vault::Vault;
use rusqlite::Connection;

use super::*;
use crate::support::{postgres, registration};
use crate::world::SECRET_OF_CLIENT;

/// More than two batches.
const OPERATIONS: u32 = 5_000;

/// Nothing is asked of this root.
const NOBODY: &str = "http://127.0.0.1:9";

/// An installation with so many operations, keys and callbacks that each of them takes several
/// batches.
async fn large() -> Home {
    let home = Home::new(NOBODY);
    let secret = home.directory.path().join("client-secret");
    std::fs::write(&secret, SECRET_OF_CLIENT).unwrap();
    home.json(&["callers", "add", "contoso"]).await;
    let connection = "connections add contoso --caller contoso --tenant contoso.example \
        --no-test --client-id 11111111-2222-3333-4444-555555555555 --client-secret-file";
    let secret = secret.to_str().unwrap();
    home.json(&connection.split(' ').chain([secret]).collect::<Vec<_>>()).await;

    let key = std::fs::read_to_string(home.directory.path().join("bridge.db.master-key")).unwrap();
    let vault = Vault::new(&key.parse().unwrap());
    let store = SqliteStore::open(&home.database(), vault, lane::Policy::default()).unwrap();
    let registrations = (1..=OPERATIONS).map(|n| {
        let answer = format!("{{\"number\":{n}}}").into();
        let idempotency = Idempotency { key: format!("key-{n:05}"), request: [7; 32], answer };
        Registration { idempotency: Some(idempotency), ..registration(n) }
    });
    store.register(registrations.collect()).await.unwrap();
    drop(store);
    let database = Connection::open(home.database()).unwrap();
    let callbacks = "INSERT INTO callbacks SELECT id, 1, caller, 'final', callback_url, \
        callback_origin, 'content-type: application/json', randomblob(300), registered_at, 1, \
        'delivered', NULL, NULL, NULL, NULL, registered_at \
        FROM operations";
    let attempts = "INSERT INTO attempts SELECT id, 1, 1, registered_at, 12, 200, NULL, NULL, x'' \
        FROM operations";
    database.execute_batch(&format!("{callbacks}; {attempts}")).unwrap();
    home
}

/// The same installation once more, in a directory of its own.
fn twin(home: &Home) -> Home {
    let twin = Home::new(NOBODY);
    for file in std::fs::read_dir(home.directory.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), twin.directory.path().join(file.file_name())).unwrap();
    }
    twin
}

/// Lets a copy come as far as to what `lock` keeps from it, and kills it there.
async fn broken_off(home: &Home, database: &str, lock: &str) {
    let mut session = session(database).await;
    let transaction = session.transaction().await.unwrap();
    transaction.batch_execute(lock).await.unwrap();
    let copy = home.begin_to_copy_to(database);
    blocked(database).await;
    killed(copy).await;
    transaction.rollback().await.unwrap();
    let sql = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'engagement-bridge'";
    until(async || ask(database, sql) == "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_to_postgres_that_is_killed_at_any_moment_goes_on_where_it_stopped() {
    let home = large().await;
    let straight = postgres::database();
    let expected = twin(&home).copied_to(&straight).await;

    let database = postgres::database();
    home.json(&["migrate", "--database", &database]).await;
    let in_the_middle = |table: &str, columns: &str, values: &str| {
        // Whoever adds the same row waits until it is known whether this one stays.
        format!(
            "SET LOCAL session_replication_role = replica; \
             INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})"
        )
    };
    let operation = in_the_middle(
        "operations",
        "number, id, caller, graph_version, graph_id, lane, callback_url, callback_origin, format, \
         likeness, registered_at, deadline, polls, callbacks, running_notice, state",
        "3000, 'op', 'contoso', '', '', 1, '', '', '', '', 0, 0, 0, 0, '', ''",
    );
    let key = in_the_middle(
        "idempotency_keys",
        "caller, key, request_digest, operation_id, first_used_at",
        "'contoso', 'key-04500', '', '', 0",
    );
    let moved = moved(&home, NOBODY, &database);
    let unfinished = ["a copy into this database is unfinished", "run the same", "again"];
    let first_row = "SELECT xmin FROM operations WHERE number = 1";
    let mut written_at = None;
    // What the server has got of a batch, it may write after that: all of it or nothing.
    for (lock, table, counts) in [
        ("LOCK TABLE lanes IN EXCLUSIVE MODE", "lanes", ["0", "1"]),
        (&*operation, "operations", ["2000", "4000"]),
        ("LOCK TABLE callbacks IN EXCLUSIVE MODE", "callbacks", ["0", "2000"]),
        (&*key, "idempotency_keys", ["4000", "5000"]),
        ("LOCK TABLE installation IN EXCLUSIVE MODE", "idempotency_keys", ["5000", "5000"]),
    ] {
        broken_off(&home, &database, lock).await;
        let count = ask(&database, &format!("SELECT count(*) FROM {table}"));
        assert!(counts.contains(&&*count), "{count} rows of {table}");
        moved.is_not_served(&unfinished).await;
        if table != "lanes" {
            let at = ask(&database, first_row);
            assert_eq!(*written_at.get_or_insert(at.clone()), at, "written again");
        }
    }
    // All but the last word was said: from here on, there is no way back to the file.
    home.is_not_served(&["was moved to postgres://127.0.0.1:"]).await;
    home.cannot_copy_to(&postgres::database(), &["was moved to postgres://127.0.0.1:"]).await;

    for (tamper, repair, row) in [
        (
            "UPDATE operations SET polls = polls + 1 WHERE number = 7",
            "UPDATE operations SET polls = polls - 1 WHERE number = 7",
            "row 7 of operations",
        ),
        (
            "CREATE TABLE aside AS SELECT * FROM idempotency_keys WHERE key = 'key-02500'; \
             DELETE FROM idempotency_keys WHERE key = 'key-02500'",
            "INSERT INTO idempotency_keys SELECT * FROM aside; DROP TABLE aside",
            "row contoso key-02500 of idempotency_keys",
        ),
        (
            "INSERT INTO live_operations VALUES ('contoso', 1, 0)",
            "DELETE FROM live_operations WHERE shard = 1",
            "row contoso 1 of live_operations",
        ),
    ] {
        ask(&database, tamper);
        home.cannot_copy_to(&database, &[row, "is not the same in both databases"]).await;
        moved.is_not_served(&unfinished).await;
        ask(&database, repair);
    }

    let finished = home.copied_to(&database).await;
    assert_eq!(finished["tables"], expected["tables"]);
    assert_eq!(content(&database), content(&straight));
    assert_eq!(ask(&database, first_row), written_at.unwrap());
    assert_eq!(moved.json(&["callers", "list"]).await["callers"][0], "contoso");
    // Asked once more, it does nothing.
    assert_eq!(home.copied_to(&database).await["rows"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_to_postgres_begins_anew_where_the_source_was_used_meanwhile() {
    let home = Home::new(NOBODY);
    home.json(&["callers", "add", "shop"]).await;
    let database = postgres::database();
    home.json(&["migrate", "--database", &database]).await;
    broken_off(&home, &database, "LOCK TABLE live_operations IN EXCLUSIVE MODE").await;
    until(async || ask(&database, "SELECT count(*) FROM callers") == "1").await;
    // It was not to be today.
    home.json(&["callers", "add", "desk"]).await;
    let id = home.json(&["callers", "add-key", "shop"]).await["id"].as_str().unwrap().to_owned();

    home.copied_to(&database).await;
    let moved = moved(&home, NOBODY, &database);
    assert_eq!(
        moved.json(&["callers", "list"]).await["callers"],
        serde_json::json!(["desk", "shop"])
    );
    assert_eq!(ask(&database, &format!("SELECT count(*) FROM api_keys WHERE id = '{id}'")), "1");
}
