//! What receivers notice of others, in virtual time: a worker on a store in memory, Graph that has
//! finished everything, and receivers of which some take long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use engagement_bridge::callback::{self, Reply};
use engagement_bridge::clock::Clock;
use engagement_bridge::courier::{Courier, Parcel, Receipt};
use engagement_bridge::graph::{Graph, Inquiry, Poll};
use engagement_bridge::lane;
use engagement_bridge::operation::{self, Answer, Event, OperationId, Verdict};
use engagement_bridge::store::memory::MemoryStore;
use engagement_bridge::store::{Connections as _, Directory as _, Registration, Store as _};
use engagement_bridge::traces::Tracer;
use engagement_bridge::worker::{Settings, Worker};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{NOON, SECRET, api_key, caller, connection, registration};

const HANDS: usize = 32;

/// Attempts in flight to one receiver.
const ALLOWANCE: u32 = 3;

/// How long a slow receiver takes, and a good one.
const SLOW: Duration = Duration::from_secs(10);
const QUICK: Duration = Duration::from_millis(10);

/// From the registration of an operation to its first poll, with all its jitter.
const FIRST_POLL: Duration = Duration::from_millis(5_500);

/// All that is outside.
struct Outside {
    began: Instant,
    delivered: Mutex<BTreeMap<OperationId, Duration>>,
    /// Attempts in flight at slow receivers, and the most of them that there were.
    slow: Mutex<(usize, usize)>,
}

impl Clock for Outside {
    fn now(&self) -> Timestamp {
        NOON + self.began.elapsed()
    }
}

#[async_trait]
impl Graph for Outside {
    async fn poll(&self, _: Inquiry) -> Poll {
        Poll {
            event: Event::Polled(Answer::Finished(Verdict::Succeeded)),
            body: None,
            renewed: None,
        }
    }
}

#[async_trait]
impl Courier for Outside {
    async fn deliver(&self, parcel: Parcel) -> Receipt {
        if parcel.url.contains("slow") {
            {
                let mut slow = self.slow.lock().unwrap();
                slow.0 += 1;
                slow.1 = slow.1.max(slow.0);
            }
            sleep(SLOW).await;
            self.slow.lock().unwrap().0 -= 1;
        } else {
            let at = self.began.elapsed();
            self.delivered.lock().unwrap().insert(parcel.id.operation, at);
            sleep(QUICK).await;
        }
        Receipt {
            reply: Reply::Accepted,
            status: Some(204),
            failure: None,
            detail: None,
            answer: Bytes::new(),
            took: Duration::ZERO,
        }
    }
}

fn for_receiver(n: u32, receiver: &str, now: Timestamp) -> Registration {
    let deadline = now + Duration::from_hours(24);
    let policy = operation::Policy::default();
    Registration {
        operation: operation::register(&policy, OperationId(n.into()), now, deadline),
        callback_url: format!("https://{receiver}.example/hooks"),
        callback_origin: format!("https://{receiver}.example:443"),
        ..registration(n)
    }
}

/// The longest that a callback of a good receiver took from the registration of its operation, beside
/// so many slow receivers; and the most attempts that were in flight to those.
async fn longest_lag(slow_receivers: u32) -> (Duration, usize) {
    let lanes = lane::Policy {
        graph_requests: 1_000_000,
        callback_allowance: ALLOWANCE,
        ..lane::Policy::default()
    };
    let store = Arc::new(MemoryStore::new(lanes));
    let contoso = caller("contoso");
    store.add_caller(&contoso, api_key("key"), &SECRET.parse().unwrap(), NOON).await.unwrap();
    store.add_connection(&contoso, &connection("contoso"), NOON).await.unwrap();
    let outside = Arc::new(Outside {
        began: Instant::now(),
        delivered: Mutex::default(),
        slow: Mutex::default(),
    });
    let worker = Arc::new(Worker {
        store: Arc::clone(&store) as _,
        graph: Arc::clone(&outside) as _,
        courier: Arc::clone(&outside) as _,
        clock: Arc::clone(&outside) as _,
        nudge: Arc::default(),
        metrics: Arc::default(),
        tracer: Tracer::off(),
        operations: operation::Policy::default(),
        callbacks: callback::Policy::default(),
        settings: Settings {
            hands: HANDS,
            longest_sleep: Duration::from_secs(1),
            lease: Duration::from_secs(90),
            poll_takes: Duration::from_secs(35),
            poll_apart: Duration::from_secs(31),
            attempt_takes: Duration::from_secs(20),
        },
    });
    let (stop, running) = (CancellationToken::new(), TaskTracker::new());
    running.spawn(Arc::clone(&worker).run(stop.clone(), Duration::from_mins(1)));
    running.close();

    let of_slow = (0..slow_receivers * 12)
        .map(|n| for_receiver(1_000 + n, &format!("slow-{}", n % slow_receivers.max(1)), NOON));
    store.register(of_slow.collect()).await.unwrap();
    worker.nudge.now();
    // By now each of them has as many in flight as it may, if there is room for them.
    sleep_until(outside.began + Duration::from_secs(32)).await;
    let mut registered = BTreeMap::new();
    for n in 1..=20 {
        let registration = for_receiver(n, "good", outside.now());
        registered.insert(registration.operation.id, outside.began.elapsed());
        store.register(vec![registration]).await.unwrap();
        worker.nudge.now();
        sleep(Duration::from_millis(500)).await;
    }
    while outside.delivered.lock().unwrap().len() < registered.len() {
        sleep(SLOW).await;
    }
    stop.cancel();
    running.wait().await;
    let delivered = outside.delivered.lock().unwrap();
    let lags = registered.iter().map(|(id, at)| delivered[id].saturating_sub(*at));
    (lags.max().unwrap(), outside.slow.lock().unwrap().1)
}

#[tokio::test(start_paused = true)]
async fn forty_slow_receivers_that_could_hold_all_hands_delay_no_good_one() {
    let (alone, _) = longest_lag(0).await;
    assert!(alone < FIRST_POLL, "{alone:?}");
    let (among, in_flight) = longest_lag(40).await;
    assert!(3 * HANDS < in_flight, "only {in_flight} were in flight: they were no trouble");
    assert!(among < FIRST_POLL + Duration::from_millis(100), "{among:?}");
}

#[tokio::test(start_paused = true)]
async fn slow_steps_are_bounded_and_good_receivers_are_told_past_that_bound_too() {
    let (among, in_flight) = longest_lag(80).await;
    assert!(in_flight <= HANDS + 4 * HANDS, "{in_flight}");
    assert!(among < FIRST_POLL + SLOW * 3, "{among:?}");
}
