//! How PostgreSQL goes about what is asked of it again and again: by the keys of rows, whatever it takes
//! the tables for, and at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::callback::Reply;
use engagement_bridge::lane::Report;
use engagement_bridge::operation::{Answer, Verdict};
use engagement_bridge::store::{Change, Claimed, Commit, Registered, Registration, Work};
use jiff::Timestamp;
use tokio::task::block_in_place;

use crate::contract::keeping::cancel;
use crate::contract::{Bench, attempted, polled};
use crate::support::postgres::Cluster;
use crate::support::{NOON, after, on_its_own_lane};

/// A server that says how it goes about each statement, and would rather read whole tables, by several
/// processes, with a program compiled for it.
const EAGER: [&str; 8] = [
    "fsync=off",
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "jit_above_cost=0",
    "parallel_setup_cost=0",
    "parallel_tuple_cost=0",
    "min_parallel_table_scan_size=0",
    "min_parallel_index_scan_size=0",
];

const TABLES: [&str; 5] = ["operations", "steps", "lanes", "callbacks", "attempts"];

/// What of it there is in the plan of a statement.
fn excesses(plan: &str) -> BTreeSet<String> {
    let whole = TABLES.iter().map(|table| format!("Seq Scan on {table}"));
    let others = ["Gather", "JIT:"].map(str::to_owned);
    whole.chain(others).filter(|excess| plan.contains(excess)).collect()
}

/// The plans in what a server has logged, each with its statement.
fn plans(log: &str) -> Vec<&str> {
    log.split("LOG:  ").filter(|it| it.contains("Query Text:")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_again_and_again_finds_its_rows_by_their_keys() {
    let cluster = block_in_place(|| Cluster::start_with(&EAGER));
    let url = cluster.create_database();
    let bench = Bench::postgres_at(&url).await;
    bench.keep((1..=200).map(on_its_own_lane)).await;
    let ask = |sql: &str| block_in_place(|| cluster.ask(&url, sql));
    ask("ANALYZE");
    // It would do all of that, and we would see it.
    ask("SELECT count(*) FROM operations WHERE graph_version <> ''");
    let control = cluster.log();
    let control = *plans(&control).last().unwrap();
    for excess in ["Seq Scan on operations", "Gather", "JIT:"] {
        assert!(excesses(control).contains(excess), "no {excess} in {control}");
    }

    let before = cluster.log().len();
    some_lives(&bench).await;
    let log = cluster.log();
    let plans = plans(&log[before..]);
    for wanted in [
        "INSERT INTO lanes",
        "INSERT INTO operations",
        "UPDATE operations",
        "UPDATE steps",
        "UPDATE lanes",
        "INSERT INTO callbacks",
        "UPDATE callbacks",
        "INSERT INTO attempts",
        "WHERE lapse_at <=",
        "WHERE ready_at <=",
        "WHERE operation = (SELECT number",
    ] {
        assert!(plans.iter().any(|plan| plan.contains(wanted)), "nothing was asked with {wanted}");
    }
    for plan in plans {
        let mut excesses = excesses(plan);
        if plan.contains("LIMIT wanted.room") && plan.contains("Sort Key") {
            excesses.insert("due steps that are sorted".to_owned());
        }
        if plan.contains("WHERE ready_at <=") && plan.contains("Sort Key") {
            excesses.insert("lanes that are sorted".to_owned());
        }
        assert!(excesses.is_empty(), "{excesses:?} in {plan}");
    }
}

/// Registrations, polls and attempts, many at once and few.
async fn some_lives(bench: &Bench) {
    bench.keep((1_001..1_041).map(on_its_own_lane)).await;
    bench.keep((1_041..1_044).map(on_its_own_lane)).await;
    let again = Registration { reference: on_its_own_lane(1).reference, ..on_its_own_lane(2_000) };
    assert!(matches!(bench.register_one(again).await, Registered::Existing(_)));
    cancel(bench, on_its_own_lane(200).operation.id, after(59)).await;
    for (hands, seconds) in [(8, 60), (128, 61), (128, 200), (8, 300), (128, 2_000)] {
        let now = after(seconds);
        let claimed = bench.claim_at(now, hands).await;
        assert!(!claimed.is_empty(), "nothing is due {seconds} s later");
        bench.commit(Arc::new(worked(claimed, now))).await.unwrap();
    }
    // Long after all of them should have ended.
    let lapsed = bench.claim_at(NOON + Duration::from_hours(48), 64).await;
    assert!(lapsed.iter().any(|it| matches!(it.work, Work::LapseOperation(_))));
}

/// Of every four polls one settles its operation, and one was not made.
fn worked(claimed: Vec<Claimed>, now: Timestamp) -> Vec<Commit> {
    let work = |(index, claimed): (usize, Claimed)| match (&claimed.work, index % 4) {
        (Work::Attempt(_), _) => attempted(claimed, Reply::Accepted, now),
        (_, 0) => polled(claimed, Answer::Finished(Verdict::Succeeded), now),
        (_, 1) => {
            let change = Change::HandBack;
            Commit { claim: claimed.claim, change, report: Report::Unused, at: now }
        }
        _ => polled(claimed, Answer::StillRunning { retry_after: None }, now),
    };
    claimed.into_iter().enumerate().map(work).collect()
}
