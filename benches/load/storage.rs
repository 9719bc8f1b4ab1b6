//! What tracked operations cost while nothing happens: memory, disk, and a claim among them.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::courier::Format;
use engagement_bridge::graph::{AccessToken, ApiVersion, Credential, Reference};
use engagement_bridge::lane;
use engagement_bridge::operation::{self, OperationId};
use engagement_bridge::provision::add_caller;
use engagement_bridge::store::sqlite::SqliteStore;
use engagement_bridge::store::{Directory, Registration, Store};
use engagement_bridge::vault::{MasterKey, Vault};
use futures_util::{StreamExt as _, stream};

use crate::bridge::Bridge;
use crate::{Table, grouped, percentile};

const SIZES: [usize; 3] = [10_000, 20_000, 1_000_000];
/// How many operations share an identity at Graph, where nothing else is said.
pub(crate) const PER_IDENTITY: usize = 8;
/// How many registrations come in one call, and how many calls at a time.
const IN_A_CALL: usize = 500;
const CALLS: usize = 12;
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
        fill(&open(directory.path(), &key), size).await;
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

        let store = open(directory.path(), &key);
        let took = claims(&store, 8, COLD_CLAIMS + WARM_UP + WARM_CLAIMS).await;
        let (cold, warm) = (&took[..COLD_CLAIMS], &took[COLD_CLAIMS + WARM_UP..]);
        for (when, took) in [("after a start", cold), ("from then on", warm)] {
            table.add(format!("a claim of 8 polls among {count}, {when}"), spread(took));
        }
    }
}

fn open(directory: &Path, key: &MasterKey) -> SqliteStore {
    let path = directory.join("bridge.db");
    SqliteStore::open(&path, Vault::new(key), lane::Policy::default()).unwrap()
}

/// Adds a caller, and registers so many operations of its, none of which is due for ten hours.
pub(crate) async fn fill<S: Store + Directory>(store: &S, size: usize) {
    introduce(store).await;
    keep(store, calls(0..size)).await;
}

/// Adds the caller whose registrations these are.
pub(crate) async fn introduce<D: Directory>(store: &D) {
    add_caller(store, "bench".parse().unwrap(), SystemClock.now()).await.unwrap();
}

/// Makes so many calls at a time.
pub(crate) async fn keep(store: &dyn Store, calls: impl IntoIterator<Item = Vec<Registration>>) {
    let calls = calls.into_iter().map(|call| store.register(call));
    let mut registering = stream::iter(calls).buffer_unordered(CALLS);
    while let Some(registered) = registering.next().await {
        registered.unwrap();
    }
}

/// Registrations of operations with these numbers, call by call.
pub(crate) fn calls(numbers: Range<usize>) -> impl Iterator<Item = Vec<Registration>> {
    calls_of(PER_IDENTITY, numbers)
}

/// The same, where so many of them share an identity at Graph.
pub(crate) fn calls_of(
    per_identity: usize,
    numbers: Range<usize>,
) -> impl Iterator<Item = Vec<Registration>> {
    let now = SystemClock.now();
    let name: engagement_bridge::store::CallerName = "bench".parse().unwrap();
    let mut policy = operation::Policy::default();
    policy.cadence.first_poll_after = Duration::from_hours(10);
    let deadline = now + Duration::from_hours(24);
    let millis = u128::try_from(now.as_millisecond()).unwrap();
    // As long as Graph's own ids, and as tokens of Entra. Made up at once: letter by letter, they would
    // take as long as to keep them does.
    let (letters, exes) = ("A".repeat(142), "x".repeat(1_500));
    let registration = move |number: usize| {
        let id = OperationId(millis << 80 | number as u128);
        Registration {
            operation: operation::register(&policy, id, now, deadline),
            caller: name.clone(),
            reference: Reference { version: ApiVersion::V1, id: padded(number, &letters) },
            credential: Credential::Token(AccessToken {
                secret: padded(number / per_identity, &exes).into(),
                expires_at: deadline,
            }),
            callback_url: "https://app.example.com/hooks/engage".to_owned(),
            callback_origin: "https://app.example.com:443".to_owned(),
            client_state: Some(format!("order-{number}")),
            callback_secret: None,
            format: Format::Envelope,
            trace: None,
            idempotency: None,
            live_limit: u64::MAX >> 1,
            is_agreed: true,
        }
    };
    let end = numbers.end;
    numbers
        .step_by(IN_A_CALL)
        .map(move |first| (first..end.min(first + IN_A_CALL)).map(&registration).collect())
}

/// A number, and enough of the padding behind it to be as long as that.
fn padded(number: usize, padding: &str) -> String {
    let number = number.to_string();
    let rest = &padding[number.len()..];
    number + rest
}

/// How long each of so many claims takes once all is due, in order.
pub(crate) async fn claims(store: &dyn Store, hands: usize, count: usize) -> Vec<Duration> {
    let mut now = SystemClock.now() + Duration::from_hours(12);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        now += Duration::from_millis(1);
        let began = Instant::now();
        let claimed = store.claim(now, Duration::from_secs(90), hands).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(claimed.len(), hands, "all hands are filled");
    }
    took
}

/// How long most of them took.
pub(crate) fn spread(took: &[Duration]) -> String {
    let mut took = took.to_vec();
    took.sort_unstable();
    let millis = |hundredths| percentile(&took, hundredths).as_secs_f64() * 1_000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms", millis(50), millis(99))
}
