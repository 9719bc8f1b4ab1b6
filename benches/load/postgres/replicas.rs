//! One, two and four replicas on one PostgreSQL, beside one bridge on a file.
//!
//! Bridges, server, receivers and callers share the processors of one machine. So what is bound to
//! processors gains nothing by more replicas here; what a replica waits for does.

use std::time::{Duration, Instant};

use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::store::Store as _;
use engagement_bridge::vault::MasterKey;
use futures_util::future::join_all;

use super::{connect, open_with, start};
use crate::cluster::Cluster;
use crate::storage::fill;
use crate::work::{Bench, MANY, NO_POLLS, draining_of, living, registering};
use crate::{Table, grouped};

const REPLICAS: [usize; 3] = [1, 2, 4];

/// How long receivers think, where it is they who are waited for.
const THINKING: Duration = Duration::from_millis(100);

/// Steps that each replica has in hand at the most, where receivers are waited for.
const FEW_HANDS: &[&str] = &["--hands", "32"];

/// Operations of which all polls are due, and how many a claim takes.
const DUE: usize = 300_000;
const HANDS: usize = 64;
const CLAIMING: Duration = Duration::from_secs(5);

pub(crate) async fn measure(table: &mut Table) {
    let cluster = start();
    one_setting(table, "one bridge on a file", || None).await;
    for replicas in REPLICAS {
        let what = named(replicas);
        one_setting(table, &what, || Some((cluster.create_database(), replicas))).await;
    }
    for replicas in REPLICAS {
        let url = cluster.create_database();
        let bench = Bench::set_up_on(Some((&url, replicas)), FEW_HANDS).await;
        bench.sink.think_for(THINKING);
        table.add(
            format!("{}: callbacks to receivers that take 100 ms, 32 hands each", named(replicas)),
            draining_of(&bench, MANY / 4).await,
        );
        bench.stop().await;
    }
    for replicas in REPLICAS {
        table.add(
            format!(
                "{}: polls claimed, {HANDS} at a time, of {} due",
                named(replicas),
                grouped(DUE as f64)
            ),
            format!("{}/s", grouped(claimed(&cluster, replicas).await)),
        );
    }
}

fn named(replicas: usize) -> String {
    match replicas {
        1 => "one bridge on PostgreSQL".to_owned(),
        several => format!("{several} bridges on PostgreSQL"),
    }
}

async fn one_setting(
    table: &mut Table,
    what: &str,
    database: impl Fn() -> Option<(String, usize)>,
) {
    let set_up = async |flags| {
        let database = database();
        let postgres = database.as_ref().map(|(url, replicas)| (url.as_str(), *replicas));
        Bench::set_up_on(postgres, flags).await
    };
    let bench = set_up(NO_POLLS).await;
    for (connections, count) in [(1, 1_000), (128, MANY)] {
        let figure = registering(&bench, connections, count).await;
        table.add(format!("{what}: registrations at {connections} connections"), figure);
    }
    bench.stop().await;
    let bench = set_up(&[]).await;
    table.add(format!("{what}: whole lives"), living(&bench, MANY).await);
    bench.stop().await;
    let bench = set_up(&[]).await;
    table.add(format!("{what}: callbacks while draining"), draining_of(&bench, MANY).await);
    bench.stop().await;
}

/// How many steps a second so many replicas are handed out of one database.
async fn claimed(cluster: &Cluster, replicas: usize) -> f64 {
    let (url, key) = (cluster.create_database(), MasterKey::generate().unwrap());
    let stores = join_all((0..replicas).map(|_| open_with(&url, &key))).await;
    fill(&*stores[0], DUE).await;
    connect(&url).await.batch_execute("VACUUM ANALYZE").await.unwrap();
    let (now, began) = (SystemClock.now() + Duration::from_hours(12), Instant::now());
    let claiming = stores.iter().map(async |store| {
        let mut count = 0;
        while began.elapsed() < CLAIMING {
            count += store.claim(now, Duration::from_secs(90), HANDS).await.unwrap().len();
        }
        count
    });
    let count: usize = join_all(claiming).await.into_iter().sum();
    assert!(count < DUE * 9 / 10, "too few were due");
    count as f64 / began.elapsed().as_secs_f64()
}
