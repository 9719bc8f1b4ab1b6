//! What a good receiver notices of bad ones beside it: a third of all callbacks are for a receiver that
//! never answers, a third for one that takes long to, and a third for the good one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::caller::Connection;
use crate::sink::Sink;
use crate::storage::spread;
use crate::work::Bench;
use crate::{Table, grouped};

/// Callbacks to the good receiver, and as many to each of the others.
const GOOD: usize = 3_333;

/// Between two operations for the good receiver.
const APART: Duration = Duration::from_millis(6);

/// How long the slow receiver takes to answer.
const SLOW: Duration = Duration::from_secs(5);

pub(crate) async fn measure(table: &mut Table) {
    let alone = lags(false).await;
    let among = lags(true).await;
    let count = grouped(GOOD as f64);
    table
        .add(format!("from owed to arrived, {count} callbacks to a good receiver"), spread(&alone));
    table.add("the same beside as many to a slow and to a dead receiver", spread(&among));
}

/// How long callbacks to the good receiver took to arrive, from when they were owed.
async fn lags(with_others: bool) -> Vec<Duration> {
    let bench = Bench::set_up(&[]).await;
    bench.sink.note_arrivals();
    let slow = Sink::start().await;
    slow.think_for(SLOW);
    let dead = dead().await;
    let mut urls = vec![bench.sink.url(0)];
    if with_others {
        urls.extend([slow.url(0), format!("http://{dead}/hooks")]);
    }
    let script = json!([{ "status": "succeeded" }]);
    let bodies = bench.registrations_to(&urls, GOOD * urls.len(), &script);
    let mut connection = Connection::open(bench.bridges[0].address).await;
    let mut pace = tokio::time::interval(APART);
    for bodies in bodies.chunks(urls.len()) {
        pace.tick().await;
        for body in bodies {
            let answer = connection.ask("POST", "/v1/operations", &bench.key, body).await;
            assert_eq!(answer.0, 202, "{}", answer.1);
        }
    }
    bench.taken(GOOD).await;
    let lags = bench.sink.take_lags();
    // It has callbacks in hand that nobody will take.
    bench.abandon();
    lags
}

/// Takes connections, and never answers.
async fn dead() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(TaskTracker::new().spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    }));
    address
}
