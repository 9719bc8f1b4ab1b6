//! What this PostgreSQL itself does at the most, and how near to it the store comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{connect, open, start};
use crate::storage::fill;
use crate::{Table, grouped};

const FOR: Duration = Duration::from_secs(5);

/// Rows of one statement, as many as the store writes at a time.
const BATCH: usize = 256;

/// Connections that write at the same time, as many as the store has for registrations.
const WRITERS: usize = 3;

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
    let url = cluster.create_database();
    let (kept, copied) = registrations(&url).await;
    table.add(
        format!("floor: rows of registrations copied within PostgreSQL, in commits of {BATCH}"),
        format!("{}/s", grouped(copied)),
    );
    table.add(
        "registrations that the store keeps on PostgreSQL, in calls of 500",
        format!("{}/s, {:.0} % of that", grouped(kept), 100.0 * kept / copied),
    );
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

/// How many registrations a second the store keeps, and how many the server writes when it copies
/// the same rows to the same tables with the same indexes, and nobody has to send or to check them.
async fn registrations(url: &str) -> (f64, f64) {
    let store = open(url).await;
    let began = Instant::now();
    fill(&*store, REGISTRATIONS).await;
    let kept = REGISTRATIONS as f64 / began.elapsed().as_secs_f64();

    let client = connect(url).await;
    for sql in ["VACUUM ANALYZE", "CHECKPOINT"] {
        client.batch_execute(sql).await.unwrap();
    }
    client
        .batch_execute(
            "CREATE SCHEMA floor;
             CREATE TABLE floor.operations (LIKE operations INCLUDING ALL);
             CREATE TABLE floor.steps (LIKE steps INCLUDING ALL)",
        )
        .await
        .unwrap();
    let (began, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut writing = JoinSet::new();
    for _ in 0..WRITERS {
        let (mut client, next) = (connect(url).await, Arc::clone(&next));
        writing.spawn(async move {
            let operations = "INSERT INTO floor.operations OVERRIDING SYSTEM VALUE \
                SELECT * FROM operations WHERE number > $1 AND number <= $2";
            let operations = client.prepare(operations).await.unwrap();
            let steps = "INSERT INTO floor.steps \
                SELECT * FROM steps WHERE operation > $1 AND operation <= $2";
            let steps = client.prepare(steps).await.unwrap();
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= REGISTRATIONS {
                    break;
                }
                let range = [first, first + BATCH].map(|it| i64::try_from(it).unwrap());
                let commit = client.transaction().await.unwrap();
                for statement in [&operations, &steps] {
                    commit.execute(statement, &[&range[0], &range[1]]).await.unwrap();
                }
                commit.commit().await.unwrap();
            }
        });
    }
    writing.join_all().await;
    let copied = REGISTRATIONS as f64 / began.elapsed().as_secs_f64();
    let sql = "SELECT count(*) FROM floor.operations JOIN floor.steps ON operation = number";
    let count: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(usize::try_from(count).unwrap(), REGISTRATIONS);
    (kept, copied)
}
