//! How the cost of an operation grows with their number, and with a day's polls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::lane::Report;
use engagement_bridge::operation::{self, Answer, Decision, Event, decide};
use engagement_bridge::store::postgres::PostgresStore;
use engagement_bridge::store::{Change, Claimed, Commit, Store as _, Work};
use jiff::Timestamp;
use tokio_postgres::Client;

use super::{connect, open, start};
use crate::storage::{PER_IDENTITY, calls_of, claims, fill, introduce, keep, spread};
use crate::{Table, grouped};

const MANY: usize = 1_000_000;
const LEASE: Duration = Duration::from_secs(90);

/// Between two claims of the replay, so that there is more than one poll to each.
const TURN: Duration = Duration::from_secs(30);

/// Operations whose polls of a whole day are replayed.
const FOR_A_DAY: usize = 2_000;

pub(crate) async fn measure(table: &mut Table) {
    for (size, per_identity) in [(10_000, PER_IDENTITY), (MANY, PER_IDENTITY), (MANY, 1)] {
        one_size(table, size, per_identity).await;
    }
    let cluster = start();
    a_day(table, &cluster.create_database()).await;
}

/// On a server of its own, whose memory no other database takes up.
async fn one_size(table: &mut Table, size: usize, per_identity: usize) {
    let cluster = start();
    let url = cluster.create_database();
    let (store, client) = (open(&url).await, connect(&url).await);
    let mut count = grouped(size as f64);
    if per_identity == 1 {
        count += " with an identity each";
    }
    let began = Instant::now();
    introduce(&*store).await;
    keep(&*store, calls_of(per_identity, 0..size)).await;
    table.add(
        format!("PostgreSQL: filling with {count}, in calls of 500"),
        format!("{}/s", grouped(size as f64 / began.elapsed().as_secs_f64())),
    );
    // As the server does by itself within minutes.
    client.batch_execute("VACUUM ANALYZE").await.unwrap();
    client.batch_execute("CHECKPOINT").await.unwrap();
    let bytes = sizes(&client).await;
    table.add(
        format!("PostgreSQL: database per operation, {count} tracked"),
        describe(&bytes, size),
    );
    // Of which there are enough left for it in the smallest one, too.
    for (hands, times) in [(8, 500), (256, (size / 512).min(200))] {
        let took = claims(&*store, hands, times).await;
        table.add(
            format!("PostgreSQL: a claim of {hands} polls among {count}"),
            spread(&took[times / 10..]),
        );
    }
}

/// Bytes of tables and of their indexes.
async fn sizes(client: &Client) -> BTreeMap<String, (i64, i64)> {
    let sql = "SELECT relname::text, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class \
        WHERE relkind = 'r' AND relname IN ('operations', 'steps', 'lanes')";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

fn describe(bytes: &BTreeMap<String, (i64, i64)>, operations: usize) -> String {
    let each = |bytes: i64| grouped(bytes as f64 / operations as f64);
    let describe = |(name, (table, indexes)): (&String, &(i64, i64))| {
        format!("{name} {} + {}", each(*table), each(*indexes))
    };
    format!("{} bytes", bytes.iter().map(describe).collect::<Vec<_>>().join(", "))
}

/// Replays a day's polls, none of which brings news.
async fn a_day(table: &mut Table, url: &str) {
    let (store, client) = (open(url).await, connect(url).await);
    fill(&*store, FOR_A_DAY).await;
    client.batch_execute("VACUUM ANALYZE").await.unwrap();
    let before = sizes(&client).await;
    let policy = operation::Policy::default();
    let mut now = SystemClock.now() + Duration::from_hours(10);
    let until = now + Duration::from_hours(13);
    let (began, mut polls) = (Instant::now(), 0);
    while now < until {
        let claimed = store.claim(now, LEASE, 256).await.unwrap();
        if claimed.is_empty() {
            let due = store.next_due().await.unwrap().unwrap();
            now = due.max(now + TURN);
            continue;
        }
        polls += claimed.len();
        commit(&store, claimed, &policy, now).await;
    }
    table.add(
        "PostgreSQL: polls claimed and committed, 256 at a time, one after the other",
        format!("{}/s", grouped(polls as f64 / began.elapsed().as_secs_f64())),
    );
    let count = grouped(FOR_A_DAY as f64);
    table.add(
        format!("PostgreSQL: database per operation, {count} tracked"),
        describe(&before, FOR_A_DAY),
    );
    table.add(
        format!("PostgreSQL: the same after 13 h with {} polls", grouped(polls as f64)),
        describe(&sizes(&client).await, FOR_A_DAY),
    );
}

async fn commit(
    store: &PostgresStore,
    claimed: Vec<Claimed>,
    policy: &operation::Policy,
    at: Timestamp,
) {
    let event = Event::Polled(Answer::StillRunning { retry_after: None });
    let commits = claimed.into_iter().map(|Claimed { claim, work }| {
        let Work::Poll { tracked, .. } = work else { panic!("{work:?}") };
        let Decision::Become(after, None) = decide(policy, &tracked.operation, event, at) else {
            panic!("still watched");
        };
        let change = Change::Operation { after, body: None, owed: None };
        Commit { claim, change, report: Report::Well, at }
    });
    store.commit(Arc::new(commits.collect())).await.unwrap();
}
