//! Both kinds of database have the same tables, or a copy from one to the other would leave
//! something out.

use std::collections::BTreeSet;
use std::sync::Arc;

use engagement_bridge::lane;
use engagement_bridge::names::SystemNames;
use engagement_bridge::store::SEALED_COLUMNS;
use engagement_bridge::store::sqlite::SqliteStore;
use engagement_bridge::vault::{MasterKey, Vault};
use rusqlite::Connection;
use tokio::task;

use crate::support::postgres::{self, Server};

/// What only one of them has: the numbers of live operations, which PostgreSQL keeps in shards; the
/// end of a lease, until which a claimed step of SQLite's is not due; and what replicas have in
/// common.
const ONLY_HERE_OR_THERE: [&str; 5] = [
    "callers live_operations",
    "live_operations ",
    "steps claimed_until",
    "planning_clock ",
    "schema_version ",
];

/// What is a number in one and a truth value in the other, and the same in all installations.
const DIFFERENT: &str = "installation only_one";

fn alike(columns: impl Iterator<Item = String>) -> BTreeSet<String> {
    let is_alike = |column: &String| {
        !ONLY_HERE_OR_THERE.iter().chain([&DIFFERENT]).any(|it| column.starts_with(it))
    };
    columns.filter(is_alike).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_sqlite_and_of_postgres_are_alike() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.db");
    let vault = Vault::new(&MasterKey::generate().unwrap());
    drop(SqliteStore::open(&path, vault, lane::Policy::default()).unwrap());
    let file = Connection::open(&path).unwrap();
    // The place in the primary key, where it is a part of that. What is compared there has the same
    // order in both.
    let sql = "SELECT t.name || ' ' || c.name || ' ' || CASE c.type WHEN 'INTEGER' THEN 'bigint' \
            WHEN 'TEXT' THEN 'text' WHEN 'BLOB' THEN 'bytea' END \
            || iif(c.\"notnull\" OR c.pk, '', ' or null') || iif(c.pk, ' key ' || c.pk, '') \
            || iif(c.pk AND c.type = 'TEXT', ' in order of bytes', '') \
        FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table'";
    let mut here = file.prepare(sql).unwrap();
    let here = alike(here.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap));

    // Or a change of master keys would not come by what is sealed there.
    let is_sealed = |it: &&String| it.split(' ').nth(1).is_some_and(|it| it.starts_with("sealed_"));
    let listed = |it: &&String| {
        SEALED_COLUMNS
            .iter()
            .any(|sealed| it.starts_with(&format!("{} {} ", sealed.table, sealed.column)))
    };
    let sealed: Vec<_> = here.iter().filter(is_sealed).collect();
    let forgotten: Vec<_> = sealed.iter().filter(|it| !listed(it)).collect();
    assert_eq!(forgotten, [] as [&&String; 0], "not in the list of sealed columns");
    assert_eq!(sealed.len(), SEALED_COLUMNS.len());

    let database = postgres::database();
    let address = database.parse().unwrap();
    let tls = engagement_bridge::tls::client_config(None).unwrap();
    let names = Arc::new(SystemNames::default());
    engagement_bridge::store::postgres::migrate(&address, tls, names).await.unwrap();
    let sql = "SELECT c.table_name || ' ' || c.column_name || ' ' || c.data_type \
            || CASE c.is_nullable WHEN 'YES' THEN ' or null' ELSE '' END \
            || coalesce(' key ' || k.ordinal_position, '') \
            || CASE WHEN k.ordinal_position > 0 AND c.collation_name = 'C' \
                THEN ' in order of bytes' ELSE '' END \
        FROM information_schema.columns c LEFT JOIN (information_schema.key_column_usage k \
            JOIN information_schema.table_constraints t ON t.constraint_name = k.constraint_name \
                AND t.constraint_type = 'PRIMARY KEY') \
            ON k.table_name = c.table_name AND k.column_name = c.column_name \
        WHERE c.table_schema = 'public'";
    let there = task::block_in_place(|| Server::shared().ask(&database, sql));
    let there = alike(there.lines().map(str::to_owned));
    assert!(80 < here.len());
    assert_eq!(here.difference(&there).collect::<Vec<_>>(), [] as [&String; 0], "in SQLite only");
    assert_eq!(
        there.difference(&here).collect::<Vec<_>>(),
        [] as [&String; 0],
        "in PostgreSQL only"
    );
}
