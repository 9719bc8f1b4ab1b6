//! Hundreds of operations of one identity, blocked and woken, in virtual time: a worker on a store in
//! memory, and Graph that refuses until the connection is repaired.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use engagement_bridge::callback::{self, Reply};
use engagement_bridge::clock::Clock;
use engagement_bridge::courier::{Courier, Parcel, Receipt};
use engagement_bridge::graph::{Graph, Inquiry, Poll};
use engagement_bridge::lane;
use engagement_bridge::nudge::Nudge;
use engagement_bridge::operation::{
    self, Answer, Event, OperationId, Outcome, Refusal, Renewal, Verdict,
};
use engagement_bridge::store::memory::MemoryStore;
use engagement_bridge::store::{
    Connections as _, Directory as _, OperationFilter, Page, Registration, Store as _, Tracked,
    Waking,
};
use engagement_bridge::traces::Tracer;
use engagement_bridge::worker::{Settings, Waker, Worker};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{NOON, SECRET, api_key, caller, connection, registration};

const OPERATIONS: u32 = 400;

/// Those beside them, of another connection that is out of order and stays so.
const OTHERS: u32 = 5;

const POLL_TAKES: Duration = Duration::from_secs(2);

/// All that is outside.
struct Outside {
    began: Instant,
    is_repaired: AtomicBool,
    /// When each operation was polled.
    polls: Mutex<BTreeMap<OperationId, Vec<Duration>>>,
}

impl Clock for Outside {
    fn now(&self) -> Timestamp {
        NOON + self.began.elapsed()
    }
}

#[async_trait]
impl Graph for Outside {
    async fn poll(&self, inquiry: Inquiry) -> Poll {
        let at = self.began.elapsed();
        self.polls.lock().unwrap().entry(inquiry.operation).or_default().push(at);
        // By the token that it left with.
        let is_good = self.is_repaired.load(Ordering::SeqCst) && is_meant(inquiry.operation);
        sleep(POLL_TAKES).await;
        let (refusal, renewal) = (Refusal::Unauthorized, Renewal::Impossible);
        let answer = if is_good {
            Answer::Finished(Verdict::Succeeded)
        } else {
            Answer::CredentialRefused { refusal, renewal }
        };
        Poll { event: Event::Polled(answer), body: None, renewed: None }
    }
}

#[async_trait]
impl Courier for Outside {
    async fn deliver(&self, _: Parcel) -> Receipt {
        Receipt {
            reply: Reply::Accepted,
            status: Some(204),
            failure: None,
            detail: None,
            answer: Bytes::new(),
            took: Duration::from_millis(1),
        }
    }
}

fn is_meant(id: OperationId) -> bool {
    id.0 < 1_000
}

/// What a bridge consists of here.
struct Bridge {
    store: Arc<MemoryStore>,
    outside: Arc<Outside>,
    nudge: Arc<Nudge>,
}

impl Bridge {
    async fn begin() -> Self {
        let store = Arc::new(MemoryStore::new(lane::Policy::default()));
        let contoso = caller("contoso");
        store.add_caller(&contoso, api_key("key"), &SECRET.parse().unwrap(), NOON).await.unwrap();
        for name in ["contoso", "other"] {
            store.add_connection(&contoso, &connection(name), NOON).await.unwrap();
        }
        let outside = Arc::new(Outside {
            began: Instant::now(),
            is_repaired: AtomicBool::new(false),
            polls: Mutex::default(),
        });
        Self { store, outside, nudge: Arc::default() }
    }

    fn worker(&self) -> Arc<Worker> {
        Arc::new(Worker {
            store: Arc::clone(&self.store) as _,
            graph: Arc::clone(&self.outside) as _,
            courier: Arc::clone(&self.outside) as _,
            clock: Arc::clone(&self.outside) as _,
            nudge: Arc::clone(&self.nudge),
            metrics: Arc::default(),
            tracer: Tracer::off(),
            operations: operation::Policy::default(),
            callbacks: callback::Policy::default(),
            settings: Settings {
                hands: 64,
                longest_sleep: Duration::from_secs(5),
                lease: Duration::from_secs(90),
                poll_takes: Duration::from_secs(35),
                poll_apart: Duration::from_secs(31),
                attempt_takes: Duration::from_secs(20),
            },
        })
    }

    fn waker(&self) -> Waker {
        Waker {
            store: Arc::clone(&self.store) as _,
            clock: Arc::clone(&self.outside) as _,
            nudge: Arc::clone(&self.nudge),
            operations: operation::Policy::default(),
            poll_takes: Duration::from_secs(35),
        }
    }

    async fn of_state(&self, state: &'static str) -> Vec<Tracked> {
        let filter = OperationFilter { state: Some(state), connection: None };
        let page = Page { after: None, limit: 10_000 };
        self.store.operations(&caller("contoso"), filter, page).await.unwrap()
    }

    /// Waits, in virtual time, until so many are in that state.
    async fn until(&self, state: &'static str, count: u32) {
        for _ in 0..20_000 {
            if self.of_state(state).await.len() == count as usize {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        panic!("there are {} {state}, not {count}", self.of_state(state).await.len());
    }
}

fn of_connection(n: u32, name: &str) -> Registration {
    let mut it = registration(n);
    it.credential = engagement_bridge::graph::Credential::Connection(connection(name).into());
    it
}

#[tokio::test(start_paused = true)]
async fn a_repaired_connection_resumes_all_its_operations_within_the_budget() {
    let bridge = Bridge::begin().await;
    let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
    running.spawn(bridge.worker().run(stop.clone(), Duration::from_mins(1)));
    let meant = (1..=OPERATIONS).map(|n| of_connection(n, "contoso"));
    let others = (1_000..1_000 + OTHERS).map(|n| of_connection(n, "other"));
    bridge.store.register(meant.chain(others).collect()).await.unwrap();
    bridge.nudge.now();
    // All have been polled, and the last of them are refused only in a moment.
    while bridge.outside.polls.lock().unwrap().len() < (OPERATIONS + OTHERS) as usize {
        sleep(Duration::from_millis(100)).await;
    }
    let in_flight = bridge.of_state("watching").await.len();
    assert!(in_flight > 0);
    let repaired_at = bridge.outside.began.elapsed();
    bridge.outside.is_repaired.store(true, Ordering::SeqCst);
    let waking = Waking {
        caller: caller("contoso"),
        connection: "contoso".to_owned(),
        asked_at: bridge.outside.now(),
    };
    bridge.store.ask_waking(waking).await.unwrap();

    // Whoever was asked is gone in the middle of it, and another replica goes on.
    let gone = CancellationToken::new();
    let first = bridge.waker().run(gone.clone());
    let breaking_off = async {
        while bridge.of_state("watching").await.len() <= in_flight {
            sleep(Duration::from_millis(10)).await;
        }
        gone.cancel();
    };
    tokio::join!(first, breaking_off);
    let left = bridge.of_state("blocked").await.len();
    assert!(OTHERS as usize + 100 < left, "{left} are left to the other one");
    running.spawn(bridge.waker().run(stop.clone()));
    bridge.until("settled", OPERATIONS).await;
    sleep(Duration::from_mins(2)).await;

    assert_eq!(bridge.store.wakings(9).await.unwrap(), [], "it is finished");
    assert_eq!(bridge.of_state("blocked").await.len(), OTHERS as usize, "of another connection");
    for tracked in bridge.of_state("settled").await {
        assert_eq!(tracked.operation.outcome(), Some(Outcome::Succeeded));
    }
    let polls = bridge.outside.polls.lock().unwrap().clone();
    let mut times = Vec::new();
    for (id, polled) in polls.into_iter().filter(|(id, _)| is_meant(*id)) {
        assert_eq!(polled.len(), 2, "{id} once by each secret");
        assert!(polled[0] + Duration::from_secs(30) < polled[1], "{id}: {polled:?}");
        assert!(repaired_at <= polled[1]);
        times.extend(polled);
    }
    times.sort_unstable();
    assert_eq!(times.len(), 2 * OPERATIONS as usize);
    let width = lane::Policy::default().graph_requests as usize;
    for within in times.windows(width + 1) {
        assert!(within[0] + Duration::from_secs(30) <= within[width], "too many: {within:?}");
    }
    stop.cancel();
    while running.join_next().await.is_some() {}
}
