//! What this PostgreSQL itself does at the most, and how near to it the store comes.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use super::{connect, open, start};
use crate::storage::{calls, introduce, keep};
use crate::{Table, grouped};

const FOR: Duration = Duration::from_secs(5);

/// Rows of one statement, where they are not of registrations.
const BATCH: usize = 256;

/// Connections that write at the same time, as many as the store has for registrations.
const WRITERS: usize = 3;

/// Registrations that are kept and then copied, before it is the other's turn again: as many as take
/// less than a second, for a machine that others share is not always as fast.
const SLICE: usize = 20_000;

/// How often. The first time is not counted: it has the server make the files that it writes its log
/// into.
const SLICES: usize = 16;

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

    let slices = in_turns(&cluster.create_database()).await;
    let rate = |took: fn(&Slice) -> Duration| {
        let in_all: Duration = slices.iter().map(took).sum();
        (SLICE * slices.len()) as f64 / in_all.as_secs_f64()
    };
    let (kept, sent) = (rate(|it| it.kept), rate(|it| it.sent));
    table.add(
        "floor: rows of registrations sent to PostgreSQL by COPY, in as many commits as the store's",
        format!("{}/s, {} in a commit", grouped(sent), slices[0].in_a_commit),
    );
    let share = |it: &Slice| 100.0 * it.sent.as_secs_f64() / it.kept.as_secs_f64();
    let mut shares: Vec<f64> = slices.iter().map(share).collect();
    shares.sort_unstable_by(f64::total_cmp);
    table.add(
        "registrations that the store keeps on PostgreSQL, in calls of 500",
        format!(
            "{}/s, {:.0} % of that ({:.0} to {:.0} % in half of all slices)",
            grouped(kept),
            100.0 * kept / sent,
            shares[shares.len() / 4],
            shares[shares.len() * 3 / 4],
        ),
    );
}

/// How long it took to keep registrations, and to send the same rows.
struct Slice {
    kept: Duration,
    sent: Duration,
    /// Rows of each table that were sent with one commit, as many as the store had in one of its own.
    in_a_commit: usize,
}

/// Keeps registrations, and sends their rows into tables like the store's own, with the same indexes,
/// where nobody has to check them; by turns, so that both grow alike.
async fn in_turns(url: &str) -> Vec<Slice> {
    let (store, client) = (open(url).await, connect(url).await);
    introduce(&*store).await;
    let make = "CREATE SCHEMA floor;
        CREATE TABLE floor.operations (LIKE operations INCLUDING ALL) WITH (fillfactor = 85);
        CREATE TABLE floor.steps (LIKE steps INCLUDING ALL) WITH (fillfactor = 70)";
    client.batch_execute(make).await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(Writer::connect(url).await);
    }
    let mut slices = Vec::with_capacity(SLICES);
    for first in (0..SLICES * SLICE).step_by(SLICE) {
        // They are there before the clock starts, as the rows are below.
        let calls: Vec<_> = calls(first..first + SLICE).collect();
        write_back().await;
        let began = Instant::now();
        keep(&*store, calls).await;
        let kept = began.elapsed();

        let sql = format!(
            "SELECT count(DISTINCT xmin::text) FROM operations \
            WHERE number > {first} AND number <= {}",
            first + SLICE
        );
        let commits: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
        let in_a_commit = SLICE.div_ceil(usize::try_from(commits).unwrap());
        let batches = Batches::new(Mutex::new(read(&client, first, in_a_commit).await));
        write_back().await;
        let (began, mut writing) = (Instant::now(), JoinSet::new());
        for writer in writers.drain(..) {
            writing.spawn(writer.send(Arc::clone(&batches)));
        }
        writers = writing.join_all().await;
        slices.push(Slice { kept, sent: began.elapsed(), in_a_commit });
    }
    let sql = "SELECT count(*) FROM floor.operations JOIN floor.steps ON operation = number";
    let count: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(usize::try_from(count).unwrap(), SLICES * SLICE);
    slices.split_off(1)
}

/// Has the system write what it holds back for half a minute, and would then write all at once: for some
/// seconds nobody's commits get to the disk, in whoever's turn that is.
async fn write_back() {
    let written = tokio::process::Command::new("sync").status().await.unwrap();
    assert!(written.success(), "sync: {written}");
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

/// Tables that a registration is a row of, and by which column it is found.
const TABLES: [(&str, &str); 2] = [("operations", "number"), ("steps", "operation")];

/// What is written with one commit: the rows in each of the tables, as COPY has them.
type Batch = [Bytes; 2];
type Batches = Arc<Mutex<Vec<Batch>>>;

/// The rows of a slice, so many at a time.
async fn read(client: &Client, first: usize, in_a_commit: usize) -> Vec<Batch> {
    let mut batches = Vec::new();
    for above in (first..first + SLICE).step_by(in_a_commit) {
        let up_to = (above + in_a_commit).min(first + SLICE);
        let mut batch = Batch::default();
        for ((table, number), rows) in TABLES.iter().zip(&mut batch) {
            let sql = format!(
                "COPY (SELECT * FROM {table} WHERE {number} > {above} AND {number} <= {up_to}) \
                TO STDOUT (FORMAT binary)"
            );
            let copied = client.copy_out(&sql).await.unwrap();
            *rows = copied.try_collect::<Vec<Bytes>>().await.unwrap().concat().into();
        }
        batches.push(batch);
    }
    batches
}

/// A connection that has all prepared.
struct Writer {
    client: Client,
    copies: [Statement; 2],
}

impl Writer {
    async fn connect(url: &str) -> Self {
        let client = connect(url).await;
        let copy = |table| format!("COPY floor.{table} FROM STDIN (FORMAT binary)");
        let [operations, steps] = TABLES.map(|(table, _)| copy(table));
        let copies =
            [client.prepare(&operations).await.unwrap(), client.prepare(&steps).await.unwrap()];
        Self { client, copies }
    }

    async fn send(mut self, batches: Batches) -> Self {
        let next = || batches.lock().unwrap().pop();
        while let Some(batch) = next() {
            let commit = self.client.transaction().await.unwrap();
            for (copy, rows) in self.copies.iter().zip(batch) {
                let mut sink = pin!(commit.copy_in(copy).await.unwrap());
                sink.send(rows).await.unwrap();
                sink.close().await.unwrap();
            }
            commit.commit().await.unwrap();
        }
        self
    }
}
