//! `migrate`, for those who let one role make tables and bridges be served by another.

use rusqlite::Connection;
use serde_json::json;
use tokio::task::block_in_place;

use super::Home;
use super::refusals::refused;
use crate::support::postgres::{self, Server};
use crate::world::{Receiver, sandbox};

const FIRST: &str = include_str!("../../../src/store/postgres/0001_first.sql");

fn ask(database: &str, sql: &str) -> String {
    block_in_place(|| Server::shared().ask(database, sql))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_is_migrated_once_and_says_from_where_to_where() {
    let (home, database) = (Home::new("http://127.0.0.1:9"), postgres::database());
    let name = database.replace("bridge@", "");
    ask(&database, FIRST);
    ask(&database, "CREATE TABLE schema_version AS SELECT 1::bigint AS version");
    let migrate = async || home.json(&["migrate", "--database", &database]).await;
    assert_eq!(migrate().await, json!({ "database": name, "had": 1, "has": 2 }));
    assert_eq!(migrate().await, json!({ "database": name, "had": 2, "has": 2 }));

    let empty = postgres::database();
    let migrated = home.json(&["migrate", "--database", &empty]).await;
    assert_eq!((&migrated["had"], &migrated["has"]), (&json!(0), &json!(2)));
    assert_eq!(ask(&empty, "SELECT count(*) FROM installation"), "0", "it is nobody's yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_up_to_date_stays_as_it_is_and_none_is_made() {
    let home = Home::new("http://127.0.0.1:9");
    let nothing = home.run(&["migrate"]).await;
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert_eq!(std::fs::read_dir(home.directory.path()).unwrap().count(), 0);
    home.json(&["callers", "add", "shop"]).await;
    let tables = || -> String {
        let sql = "SELECT group_concat(sql) FROM sqlite_schema";
        let file = Connection::open(home.database()).unwrap();
        file.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let before = tables();
    let migrated = home.json(&["migrate"]).await;
    assert_eq!((&migrated["had"], &migrated["has"]), (&json!(1), &json!(1)));
    assert_eq!(tables(), before);
    assert_eq!(home.json(&["callers", "list"]).await["callers"], json!(["shop"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_may_be_served_by_a_role_that_makes_no_tables_on_postgres() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let database = postgres::database();
    let role = database.rsplit_once('/').unwrap().1.replace("test", "user");
    let usage = "REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO";
    ask(&database, &format!("CREATE ROLE {role} LOGIN; {usage} {role}"));
    let home = Home::new(sandbox.root())
        .environment("ENGAGEMENT_BRIDGE_MASTER_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")
        .environment("ENGAGEMENT_BRIDGE_ADMIN_KEY", "an-admin-key-of-all-replicas")
        .environment(
            "ENGAGEMENT_BRIDGE_DATABASE",
            &database.replace("bridge@", &format!("{role}@")),
        );
    let may_not = ["schema version 0, this program needs 2", "engagement-bridge migrate"];
    refused(&home, &may_not).await;
    assert_eq!(ask(&database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
    home.json(&["migrate", "--database", &database]).await;
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO";
    ask(&database, &format!("{grant} {role}"));

    let added = home.add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let serve = home.serve().await;
    let shop = serve.client(added["apiKey"].as_str().unwrap());
    let script = serde_json::from_value(json!([{ "status": "succeeded" }])).unwrap();
    let version = engagement_bridge::sandbox::Version::V1;
    let operation = sandbox.create(version, script).unwrap().location;
    shop.register(&json!({ "operation": operation, "callbackUrl": receiver.url() })).await;
    assert_eq!(receiver.next().await.about(), "succeeded");
    assert!(serve.terminate().await.success());
}
