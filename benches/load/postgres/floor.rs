//! What this PostgreSQL itself does at the most, and how near to it the store comes.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::{connect, open, start};
use crate::storage::fill;
use crate::{Table, grouped};

const FOR: Duration = Duration::from_secs(5);

/// Rows of one statement, as many as the store writes at a time.
const BATCH: usize = 256;

/// Connections that write at the same time, as many as the store has for registrations.
const WRITERS: usize = 3;

/// How often each is measured, in turns.
const ROUNDS: usize = 5;

/// Registrations that the store keeps.
const REGISTRATIONS: usize = 100_000;

pub(crate) async fn measure(table: &mut Table) {
    let cluster = start();
    let url = cluster.create_database();
    let client = connect(&url).await;
    client
        .batch_execute("CREATE TABLE rows (id BIGINT GENERATED ALWAYS AS IDENTITY, text TEXT)")
        .await
        .unwrap();
    let alone = rate(&url, 1, "INSERT INTO rows (text) SELECT repeat('x', 200)", 1).await;
    table.add("floor: PostgreSQL commits of one row", format!("{}/s", grouped(alone)));
    let sql =
        format!("INSERT INTO rows (text) SELECT repeat('x', 200) FROM generate_series(1, {BATCH})");
    let bare = rate(&url, WRITERS, &sql, BATCH).await;
    table.add(
        format!("floor: rows in PostgreSQL commits of {BATCH} over {WRITERS} connections"),
        format!("{}/s", grouped(bare)),
    );
    // Who comes first has the server make the files that all others write their log into.
    registrations(&cluster.create_database()).await;
    let (mut copied, mut sent, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let url = cluster.create_database();
        connect(&url).await.batch_execute("CHECKPOINT").await.unwrap();
        kept.push(registrations(&url).await);
        copied.push(again(&url, copy_within).await);
        sent.push(again(&url, copy_in).await);
    }
    table.add(
        format!("floor: rows of registrations copied within PostgreSQL, in commits of {BATCH}"),
        of_rounds(&mut copied),
    );
    table.add(
        format!("floor: the same rows sent to it by COPY, in commits of {BATCH}"),
        of_rounds(&mut sent),
    );
    let kept_of_rounds = of_rounds(&mut kept);
    let share = 100.0 * kept[ROUNDS / 2] / sent[ROUNDS / 2];
    table.add(
        "registrations that the store keeps on PostgreSQL, in calls of 500",
        format!("{kept_of_rounds}; {share:.0} % of what is sent"),
    );
}

/// The middle one of the rounds, between the slowest and the quickest.
fn of_rounds(rates: &mut [f64]) -> String {
    rates.sort_unstable_by(f64::total_cmp);
    let [slowest, middle, quickest] = [0, ROUNDS / 2, ROUNDS - 1].map(|it| grouped(rates[it]));
    format!("{middle}/s ({slowest} to {quickest} in {ROUNDS} rounds)")
}

/// How many rows a second get in by `sql`, which takes so many with each commit.
async fn rate(url: &str, writers: usize, sql: &str, rows: usize) -> f64 {
    let (began, commits) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut writing = JoinSet::new();
    for _ in 0..writers {
        let (client, commits) = (connect(url).await, Arc::clone(&commits));
        let statement = client.prepare(sql).await.unwrap();
        writing.spawn(async move {
            while began.elapsed() < FOR {
                client.execute(&statement, &[]).await.unwrap();
                commits.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    writing.join_all().await;
    (commits.load(Ordering::Relaxed) * rows) as f64 / began.elapsed().as_secs_f64()
}

/// How many registrations a second the store keeps.
async fn registrations(url: &str) -> f64 {
    let store = open(url).await;
    let began = Instant::now();
    fill(&*store, REGISTRATIONS).await;
    REGISTRATIONS as f64 / began.elapsed().as_secs_f64()
}

/// Tables that a registration is a row of, and by which column it is found.
const TABLES: [(&str, &str); 2] = [("operations", "number"), ("steps", "operation")];

/// Registrations that are written with one commit.
struct Batch {
    above: i64,
    up_to: i64,
    /// Their rows in each of the tables, as COPY has them.
    rows: [Bytes; 2],
}

type Batches = Arc<Mutex<Vec<Batch>>>;
type Writing = BoxFuture<'static, ()>;

/// How many registrations a second get into tables like the store's own, with the same rows and the
/// same indexes, where nobody has to check them.
async fn again(url: &str, write: fn(Client, Batches) -> Writing) -> f64 {
    let client = connect(url).await;
    let make = "DROP SCHEMA IF EXISTS floor CASCADE;
        CREATE SCHEMA floor;
        CREATE TABLE floor.operations (LIKE operations INCLUDING ALL);
        CREATE TABLE floor.steps (LIKE steps INCLUDING ALL)";
    for sql in ["VACUUM ANALYZE", make, "CHECKPOINT"] {
        client.batch_execute(sql).await.unwrap();
    }
    let batches = Batches::new(Mutex::new(read(&client).await));
    let (began, mut writing) = (Instant::now(), JoinSet::new());
    for _ in 0..WRITERS {
        writing.spawn(write(connect(url).await, Arc::clone(&batches)));
    }
    writing.join_all().await;
    let rate = REGISTRATIONS as f64 / began.elapsed().as_secs_f64();
    let sql = "SELECT count(*) FROM floor.operations JOIN floor.steps ON operation = number";
    let count: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(usize::try_from(count).unwrap(), REGISTRATIONS);
    rate
}

async fn read(client: &Client) -> Vec<Batch> {
    let mut batches = Vec::new();
    for first in (0..REGISTRATIONS).step_by(BATCH) {
        let [above, up_to] = [first, first + BATCH].map(|it| i64::try_from(it).unwrap());
        let mut rows = [Bytes::new(), Bytes::new()];
        for ((table, number), rows) in TABLES.iter().zip(&mut rows) {
            let sql = format!(
                "COPY (SELECT * FROM {table} WHERE {number} > {above} AND {number} <= {up_to}) \
                TO STDOUT (FORMAT binary)"
            );
            let copied = client.copy_out(&sql).await.unwrap();
            *rows = copied.try_collect::<Vec<Bytes>>().await.unwrap().concat().into();
        }
        batches.push(Batch { above, up_to, rows });
    }
    batches
}

fn next(batches: &Batches) -> Option<Batch> {
    batches.lock().unwrap().pop()
}

fn copy_within(mut client: Client, batches: Batches) -> Writing {
    Box::pin(async move {
        while let Some(Batch { above, up_to, .. }) = next(&batches) {
            let commit = client.transaction().await.unwrap();
            for (table, number) in TABLES {
                let overriding = if table == "operations" { "OVERRIDING SYSTEM VALUE" } else { "" };
                let sql = format!(
                    "INSERT INTO floor.{table} {overriding} \
                    SELECT * FROM {table} WHERE {number} > {above} AND {number} <= {up_to}"
                );
                commit.batch_execute(&sql).await.unwrap();
            }
            commit.commit().await.unwrap();
        }
    })
}

fn copy_in(mut client: Client, batches: Batches) -> Writing {
    Box::pin(async move {
        while let Some(Batch { rows, .. }) = next(&batches) {
            let commit = client.transaction().await.unwrap();
            for ((table, _), rows) in TABLES.iter().zip(rows) {
                let sql = format!("COPY floor.{table} FROM STDIN (FORMAT binary)");
                let mut sink = pin!(commit.copy_in(&sql).await.unwrap());
                sink.send(rows).await.unwrap();
                sink.close().await.unwrap();
            }
            commit.commit().await.unwrap();
        }
    })
}
