//! What tracked operations cost while nothing happens: memory, disk, and a claim among them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::graph::{AccessToken, ApiVersion, Credential, Reference};
use engagement_bridge::lane;
use engagement_bridge::operation::{self, OperationId};
use engagement_bridge::provision::add_caller;
use engagement_bridge::store::sqlite::SqliteStore;
use engagement_bridge::store::{Registration, Store};
use engagement_bridge::vault::{MasterKey, Vault};

use crate::bridge::Bridge;
use crate::{Table, grouped, percentile};

const SIZES: [usize; 3] = [10_000, 20_000, 1_000_000];
const PER_IDENTITY: usize = 8;
/// With a cache that is cold, as after a start, and then with one that is warm.
const COLD_CLAIMS: usize = 250;
const WARM_UP: usize = 250;
const WARM_CLAIMS: usize = 700;
const AT_REST: Duration = Duration::from_secs(20);

pub(crate) async fn measure(table: &mut Table) {
    for size in SIZES {
        let directory = tempfile::tempdir().unwrap();
        let key = MasterKey::generate().unwrap();
        std::fs::write(directory.path().join("bridge.db.master-key"), key.expose().as_bytes())
            .unwrap();
        fill(directory.path(), &key, size).await;
        let bytes = std::fs::metadata(directory.path().join("bridge.db")).unwrap().len();
        let count = grouped(size as f64);
        table.add(
            format!("database per operation, {count} tracked"),
            format!("{} bytes", grouped(bytes as f64 / size as f64)),
        );

        let bridge = Bridge::start(directory.path(), "http://127.0.0.1:9", &[]).await;
        // Past the start, with its rest of Graph lanes.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, began) = (bridge.processor_time(), Instant::now());
        tokio::time::sleep(AT_REST).await;
        let used = bridge.processor_time().saturating_sub(before);
        let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
        table.add(
            format!("at rest with {count} waiting"),
            format!(
                "{:.1} % of a core, {:.0} MiB resident",
                share * 100.0,
                bridge.resident() as f64 / f64::from(1 << 20)
            ),
        );
        bridge.stop().await;

        let took = claims(directory.path(), &key).await;
        let (cold, warm) = (&took[..COLD_CLAIMS], &took[COLD_CLAIMS + WARM_UP..]);
        for (when, took) in [("after a start", cold), ("from then on", warm)] {
            let mut took = took.to_vec();
            took.sort_unstable();
            table.add(
                format!("a claim of 8 polls among {count}, {when}"),
                format!(
                    "p50 {:.2} ms, p99 {:.2} ms",
                    percentile(&took, 50).as_secs_f64() * 1_000.0,
                    percentile(&took, 99).as_secs_f64() * 1_000.0
                ),
            );
        }
    }
}

fn open(directory: &Path, key: &MasterKey) -> SqliteStore {
    let path = directory.join("bridge.db");
    SqliteStore::open(&path, Vault::new(key), lane::Policy::default()).unwrap()
}

/// Registers so many operations, of which none is due for ten hours.
async fn fill(directory: &Path, key: &MasterKey, size: usize) {
    let store = open(directory, key);
    let now = SystemClock.now();
    let name: engagement_bridge::store::CallerName = "bench".parse().unwrap();
    add_caller(&store, name.clone(), now).await.unwrap();
    let mut policy = operation::Policy::default();
    policy.cadence.first_poll_after = Duration::from_hours(10);
    let deadline = now + Duration::from_hours(24);
    let millis = u128::try_from(now.as_millisecond()).unwrap();
    for first in (0..size).step_by(500) {
        let registrations = (first..size.min(first + 500)).map(|number| {
            let id = OperationId(millis << 80 | number as u128);
            Registration {
                operation: operation::register(&policy, id, now, deadline),
                caller: name.clone(),
                reference: Reference { version: ApiVersion::V1, id: graph_id(number) },
                credential: Credential::Token(AccessToken {
                    // Tokens of Entra are about as long.
                    secret: format!("{:x<1500}", number / PER_IDENTITY).into(),
                    expires_at: deadline,
                }),
                callback_url: "https://app.example.com/hooks/engage".to_owned(),
                callback_origin: "https://app.example.com:443".to_owned(),
                client_state: Some(format!("order-{number}")),
                idempotency: None,
                live_limit: u64::MAX >> 1,
            }
        });
        store.register(registrations.collect()).await.unwrap();
    }
}

/// As long as Graph's own ids.
fn graph_id(number: usize) -> String {
    format!("{number:A>142}")
}

/// How long claims take once all is due, in order.
async fn claims(directory: &Path, key: &MasterKey) -> Vec<Duration> {
    let store = Arc::new(open(directory, key));
    let mut now = SystemClock.now() + Duration::from_hours(12);
    let mut took = Vec::new();
    for _ in 0..COLD_CLAIMS + WARM_UP + WARM_CLAIMS {
        now += Duration::from_millis(1);
        let began = Instant::now();
        let claimed = store.claim(now, Duration::from_secs(90), 8).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(claimed.len(), 8);
    }
    took
}
