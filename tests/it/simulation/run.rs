//! Lives through a plan: two workers of one process on one store, killed and started again, until
//! nothing is left to do.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::callback::{self, CallbackId};
use engagement_bridge::clock::Clock as _;
use engagement_bridge::courier::Format;
use engagement_bridge::graph::{ApiVersion, Credential, Reference};
use engagement_bridge::lane::{self, LaneName, Rate};
use engagement_bridge::nudge::Nudge;
use engagement_bridge::operation::{
    self, Decision, Event, Operation, OperationId, RunningNotice, State, decide,
};
use engagement_bridge::store::memory::MemoryStore;
use engagement_bridge::store::postgres::{Address, PostgresStore};
use engagement_bridge::store::sqlite::SqliteStore;
use engagement_bridge::store::{
    Amended, Amendment, Asked, CallbackFilter, Handshake, Idempotency, OperationFilter, Page,
    Registered, Registration, Resend, ResendId, Rest, Store, StoredCallback, Tracked, Wanted,
};
use engagement_bridge::traces::Tracer;
use engagement_bridge::vault::{MasterKey, Vault};
use engagement_bridge::worker::{Crowds, Resender, Settings, Worker};
use jiff::SignedDuration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::outside::{Outside, SimulatedClock, WayOut, graph_id, receiver_origin, receiver_url};
use super::plan::{Identity, OperationPlan, Plan, Wish};
use super::unreliable::{Unreliable, now};
use crate::contract::Backend;
use crate::support::{self, NOON, SECRET, api_key, caller, connection, token};
use crate::world::NoNames;

/// Where the store keeps what it keeps.
pub(crate) enum Disk {
    Memory(Arc<MemoryStore>),
    File { directory: tempfile::TempDir, key: MasterKey },
    Server { address: Box<Address>, key: MasterKey },
}

/// What a caller did, and what came of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Done {
    Registered(OperationId),
    Found(OperationId),
    Cancelled(OperationId),
    Resent(CallbackId),
    AskedForBulk(ResendId),
    Nothing,
}

/// How a world ended.
pub(crate) struct Ending {
    pub(crate) outside: Arc<Outside>,
    /// What callers did, with the operation of the plan that it was about.
    pub(crate) done: Vec<(usize, Done)>,
    pub(crate) operations: Vec<Tracked>,
    pub(crate) callbacks: Vec<StoredCallback>,
    pub(crate) resends: Vec<Resend>,
}

/// What is done at a time of the plan.
#[derive(Clone, Copy, Debug)]
enum Act {
    Register,
    Wish(Wish),
    SetClock(i32),
}

struct Story {
    acts: Vec<(Duration, usize, Act)>,
    done: Vec<(usize, Done)>,
    ids_given: u128,
}

enum Ended {
    AtRest,
    Killed(Duration),
}

/// Longer than anything is owed or awaited in any plan, all of it one after the other.
const LONGEST: Duration = Duration::from_hours(20 * 24);

/// More than the busiest plan needs.
const MOST_CALLS: usize = 50_000;

const IDLE: Duration = Duration::from_mins(10);

pub(crate) fn operations_policy() -> operation::Policy {
    operation::Policy { credential_grace: Duration::from_mins(20), ..operation::Policy::default() }
}

pub(crate) fn callbacks_policy() -> callback::Policy {
    callback::Policy {
        schedule: [0, 5, 300, 1_800].map(Duration::from_secs).to_vec(),
        longest_owed: Duration::from_hours(3),
        longest_asked: Duration::from_hours(1),
    }
}

/// Narrow, so that few operations are enough to fill a lane.
pub(crate) fn lanes_policy() -> lane::Policy {
    lane::Policy { graph_requests: 3, callback_allowance: 2, ..lane::Policy::default() }
}

fn settings(hands: usize) -> Settings {
    Settings {
        hands,
        longest_sleep: IDLE,
        lease: Duration::from_secs(90),
        poll_takes: Duration::from_secs(35),
        poll_apart: Duration::from_secs(31),
        attempt_takes: Duration::from_secs(20),
    }
}

impl Disk {
    pub(crate) fn memory() -> Self {
        Self::Memory(Arc::new(MemoryStore::new(lanes_policy())))
    }

    pub(crate) fn file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::File { directory, key: MasterKey::generate().unwrap() }
    }

    pub(crate) fn server() -> Self {
        let address = Box::new(support::postgres::database().parse().unwrap());
        Self::Server { address, key: MasterKey::generate().unwrap() }
    }

    fn open(&self) -> Arc<dyn Backend> {
        match self {
            Self::Server { address, key } => {
                let tls = engagement_bridge::tls::client_config(None).unwrap();
                let (vault, lanes) = (Vault::new(key), lanes_policy());
                let store = now(PostgresStore::open(address, tls, Arc::new(NoNames), vault, lanes));
                Arc::new(store.unwrap())
            }
            Self::Memory(store) => Arc::clone(store) as Arc<dyn Backend>,
            Self::File { directory, key } => {
                let path = directory.path().join("bridge.db");
                Arc::new(SqliteStore::open(&path, Vault::new(key), lanes_policy()).unwrap())
            }
        }
    }
}

/// Lives through `plan`. Errs where it does not come to rest.
pub(crate) fn live(plan: &Plan, disk: &Disk) -> Result<Ending, String> {
    let outside = Outside::new(plan.clone());
    let mut story = Story::of(plan);
    now(furnish(&*disk.open(), plan));
    let (mut began, mut kills) = (Duration::ZERO, plan.kills.iter());
    loop {
        let kill = kills.next();
        let killed_at = kill.map(|(after, _)| began + Duration::from_secs((*after).into()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let opened = disk.open();
        let life = Life::begin(&outside, Arc::clone(&opened));
        let ended = runtime.block_on(life.live(&mut story, began, killed_at));
        // Takes every task along, wherever it is: that is what a kill does.
        drop(runtime);
        match ended? {
            Ended::Killed(at) => {
                let (_, down) = kill.copied().unwrap_or_default();
                began = at + Duration::from_secs(down.into());
            }
            Ended::AtRest => {
                let (operations, callbacks, resends) = now(everything(&*opened));
                return Ok(Ending { outside, done: story.done, operations, callbacks, resends });
            }
        }
    }
}

async fn furnish(store: &dyn Backend, plan: &Plan) {
    let (contoso, secret) = (caller("contoso"), SECRET.parse().unwrap());
    assert!(store.add_caller(&contoso, api_key("key"), &secret, NOON).await.unwrap());
    let added = store.add_connection(&contoso, &connection("contoso"), NOON).await.unwrap();
    assert_eq!(added, Some(true));
    for (receiver, plan) in plan.receivers.iter().enumerate() {
        let lane = LaneName::callback(&contoso, receiver_origin(receiver));
        let rate = plan.rate.and_then(NonZeroU32::new).map(Rate::per_minute);
        let handshake = Handshake { form: "graph".to_owned(), agreed_at: NOON, rate };
        store.keep_handshake(&lane, handshake).await.unwrap();
    }
}

async fn everything(store: &dyn Backend) -> (Vec<Tracked>, Vec<StoredCallback>, Vec<Resend>) {
    let contoso = caller("contoso");
    let page = Page { after: None, limit: 1_000 };
    let operations = store.operations(&contoso, OperationFilter::default(), page).await.unwrap();
    let page = Page { after: None, limit: 1_000 };
    let callbacks = store.callbacks(&contoso, CallbackFilter::default(), page).await.unwrap();
    let page = Page { after: None, limit: 1_000 };
    let resends = store.resends(Some(&contoso), page).await.unwrap();
    (operations, callbacks, resends)
}

impl Story {
    fn of(plan: &Plan) -> Self {
        let seconds = |it: u32| Duration::from_secs(it.into());
        let mut acts = Vec::new();
        for (index, operation) in plan.operations.iter().enumerate() {
            let registered_at = seconds(operation.registered_at);
            acts.push((registered_at, index, Act::Register));
            for (after, wish) in &operation.wishes {
                acts.push((registered_at + seconds(*after), index, Act::Wish(*wish)));
            }
        }
        let mut at = Duration::ZERO;
        for (after, by) in &plan.clock {
            at += seconds(*after);
            acts.push((at, 0, Act::SetClock(*by)));
        }
        acts.sort_by_key(|(at, _, _)| *at);
        acts.reverse();
        Self { acts, done: Vec::new(), ids_given: 0 }
    }

    fn newest(&self, operation: usize) -> Option<OperationId> {
        self.done.iter().rev().filter(|(of, _)| *of == operation).find_map(|(_, done)| {
            let Done::Registered(id) = done else { return None };
            Some(*id)
        })
    }
}

/// One life of the process.
struct Life {
    outside: Arc<Outside>,
    store: Arc<dyn Backend>,
    /// By which callers come in.
    desk: Arc<Unreliable>,
}

impl Life {
    fn begin(outside: &Arc<Outside>, store: Arc<dyn Backend>) -> Self {
        let desk =
            Unreliable { inner: Arc::clone(&store), outside: Arc::clone(outside), name: "caller" };
        Self { outside: Arc::clone(outside), store, desk: Arc::new(desk) }
    }

    async fn live(
        self,
        story: &mut Story,
        began: Duration,
        killed_at: Option<Duration>,
    ) -> Result<Ended, String> {
        self.outside.begin_life(began);
        let clock = Arc::new(SimulatedClock::start(Arc::clone(&self.outside)));
        let rested = operation_after(clock.now(), operations_policy().cadence.shortest);
        now(self.store.rest_graph_lanes(rested)).unwrap();

        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        let nudges = ["one", "other"].map(|name| {
            let worker = self.worker(name, &clock);
            let nudge = Arc::clone(&worker.nudge);
            running.spawn(Arc::new(worker).run(stop.clone(), Duration::from_mins(2)));
            nudge
        });
        if self.outside.plan.has_bulk_resends() {
            for (name, nudge) in ["one", "other"].into_iter().zip(&nudges) {
                running.spawn(self.resender(name, &clock, nudge).run(stop.clone()));
            }
        }
        let kill = async {
            match killed_at {
                Some(at) => tokio::time::sleep_until(self.outside.instant(at)).await,
                None => std::future::pending().await,
            }
        };
        let rest = async {
            while let Some((at, operation, act)) = story.acts.last().copied() {
                tokio::time::sleep_until(self.outside.instant(at)).await;
                let done = self.act(story, &clock, operation, act).await;
                story.acts.pop();
                story.done.push((operation, done));
                // Only the worker of the same process is nudged; here they take turns.
                nudges[story.done.len() % 2].now();
                nudges[story.done.len() % 2].resend();
            }
            self.come_to_rest().await
        };
        tokio::select! {
            biased;
            () = kill => {
                self.outside.note("the process is killed");
                return Ok(Ended::Killed(self.outside.elapsed()));
            }
            rest = rest => rest?,
        }
        stop.cancel();
        while let Some(ended) = running.join_next().await {
            ended.map_err(|died| format!("a worker died: {died}"))?;
        }
        Ok(Ended::AtRest)
    }

    fn worker(&self, name: &'static str, clock: &Arc<SimulatedClock>) -> Worker {
        let way_out =
            Arc::new(WayOut { outside: Arc::clone(&self.outside), clock: Arc::clone(clock) });
        Worker {
            store: Arc::new(Unreliable {
                inner: Arc::clone(&self.store),
                outside: Arc::clone(&self.outside),
                name,
            }),
            graph: Arc::clone(&way_out) as _,
            courier: way_out,
            clock: Arc::clone(clock) as _,
            nudge: Arc::default(),
            metrics: Arc::default(),
            tracer: Tracer::off(),
            operations: operations_policy(),
            callbacks: callbacks_policy(),
            settings: settings(self.outside.plan.hands),
        }
    }

    fn resender(
        &self,
        name: &'static str,
        clock: &Arc<SimulatedClock>,
        nudge: &Arc<Nudge>,
    ) -> Resender {
        Resender {
            store: Arc::new(Unreliable {
                inner: Arc::clone(&self.store),
                outside: Arc::clone(&self.outside),
                name,
            }),
            clock: Arc::clone(clock) as _,
            nudge: Arc::clone(nudge),
            callbacks: callbacks_policy(),
            // So few that a handful is a crowd.
            settings: Crowds { crowd: 1, patience: Duration::from_hours(1) },
        }
    }

    /// Waits until nothing is planned any more, for as long as that may take.
    async fn come_to_rest(&self) -> Result<(), String> {
        loop {
            let due = now(self.store.next_due()).unwrap();
            let under_way = now(self.store.resends_under_way(1)).unwrap();
            if due.is_none() && under_way.is_empty() {
                return Ok(());
            }
            if LONGEST < self.outside.elapsed() || MOST_CALLS < self.outside.calls_of_store() {
                return Err(format!("it does not come to rest: due: {due:?}, {under_way:?}"));
            }
            tokio::time::sleep(IDLE).await;
        }
    }

    async fn act(
        &self,
        story: &mut Story,
        clock: &SimulatedClock,
        operation: usize,
        act: Act,
    ) -> Done {
        match act {
            Act::SetClock(by) => {
                self.outside.set_clock(SignedDuration::from_secs(by.into()));
                Done::Nothing
            }
            Act::Register => self.register(story, clock, operation, true).await,
            Act::Wish(Wish::RegisterAgain) => self.register(story, clock, operation, false).await,
            Act::Wish(Wish::ResendAll { delivered }) => {
                self.resend_all(story, clock, delivered).await
            }
            Act::Wish(wish) => match story.newest(operation) {
                None => Done::Nothing,
                Some(id) => self.grant(clock, operation, id, wish).await,
            },
        }
    }

    /// Registers until it is told that it has.
    async fn register(
        &self,
        story: &mut Story,
        clock: &SimulatedClock,
        operation: usize,
        with_key: bool,
    ) -> Done {
        let plan = &self.outside.plan;
        loop {
            story.ids_given += 1;
            let id = OperationId(story.ids_given);
            let registration = self.registration(clock, operation, id, with_key);
            self.outside.note(&format!("caller: registers {operation} as {id}"));
            match self.desk.register(vec![registration]).await.map(|mut it| it.remove(0)) {
                Ok(Registered::New) => return Done::Registered(id),
                Ok(Registered::Replayed { operation, .. }) => return Done::Registered(operation),
                Ok(Registered::Existing(existing)) => return Done::Found(existing.operation.id),
                Ok(Registered::DestinationGone { .. }) if operation.is_multiple_of(2) => {
                    let receiver = plan.receiver_of(&plan.operations[operation]);
                    let url = receiver_url(receiver);
                    // What was not done is asked for again, and what was is not gone any more.
                    drop(self.desk.bring_back(&caller("contoso"), &url).await);
                }
                Ok(Registered::DestinationGone { .. }) => return Done::Nothing,
                Ok(other) => panic!("{other:?}"),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Asks until it is told that it has.
    async fn resend_all(&self, story: &mut Story, clock: &SimulatedClock, delivered: bool) -> Done {
        loop {
            story.ids_given += 1;
            let resend = Resend {
                id: ResendId(story.ids_given),
                asked_by: Some(caller("contoso")),
                asked_at: clock.now(),
                wanted: Wanted {
                    caller: Some(caller("contoso")),
                    rest: if delivered { Rest::Delivered } else { Rest::Undeliverable },
                    reason: None,
                    origin: None,
                    since: None,
                    until: None,
                },
                matched: 0,
                resent: 0,
                reached: None,
                held_back: 0,
                done_at: None,
            };
            self.outside.note(&format!("caller: asks for {}", resend.id));
            match self.desk.ask_resend(resend, 2).await {
                Ok(Asked::Begun(it) | Asked::UnderWay(it)) => return Done::AskedForBulk(it.id),
                Ok(Asked::LimitReached) => panic!("there are but two kinds"),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    fn registration(
        &self,
        clock: &SimulatedClock,
        operation: usize,
        id: OperationId,
        with_key: bool,
    ) -> Registration {
        let plan = &self.outside.plan.operations[operation];
        let receiver = self.outside.plan.receiver_of(plan);
        let now = clock.now();
        let deadline = operation_after(now, Duration::from_secs(plan.expires_after.into()));
        let idempotency = with_key.then(|| Idempotency {
            key: operation.to_string(),
            request: [0; 32],
            answer: crate::support::body("the first answer"),
        });
        let running =
            if plan.hears_of_running { RunningNotice::Wanted } else { RunningNotice::Unwanted };
        let fresh = operation::register(&operations_policy(), id, now, deadline);
        Registration {
            operation: Operation { running, ..fresh },
            caller: caller("contoso"),
            reference: Reference { version: ApiVersion::V1, id: graph_id(operation) },
            credential: credential(plan),
            callback_url: receiver_url(receiver),
            callback_origin: receiver_origin(receiver),
            client_state: None,
            callback_secret: None,
            format: Format::Envelope,
            trace: None,
            idempotency,
            live_limit: 1_000,
            is_agreed: true,
        }
    }

    /// What the API does, as often as others get in between.
    async fn grant(
        &self,
        clock: &SimulatedClock,
        operation: usize,
        id: OperationId,
        wish: Wish,
    ) -> Done {
        self.outside.note(&format!("caller: {wish:?} {id}"));
        loop {
            let before = self.desk.operation(id).await.unwrap().unwrap().operation;
            let now = clock.now();
            let (amendment, done) = match wish {
                Wish::RegisterAgain | Wish::ResendAll { .. } => return Done::Nothing,
                Wish::Resend => {
                    let State::Settled { .. } = before.state else { return Done::Nothing };
                    let id = CallbackId { operation: id, number: before.callbacks };
                    let before = self.desk.callback(id).await.unwrap().unwrap().callback;
                    let event = callback::Event::ResendRequested;
                    let decision = callback::decide(&callbacks_policy(), &before, event, now);
                    let callback::Decision::Become(after) = decision else { return Done::Nothing };
                    let destination_back = true;
                    (Amendment::Callback { before, after, destination_back }, Done::Resent(id))
                }
                Wish::Cancel | Wish::Renew => {
                    let plan = &self.outside.plan.operations[operation];
                    let (event, credential, done) = if matches!(wish, Wish::Cancel) {
                        (Event::CancelRequested, None, Done::Cancelled(id))
                    } else {
                        (Event::CredentialRenewed, Some(credential(plan)), Done::Nothing)
                    };
                    let after = match decide(&operations_policy(), &before, event, now) {
                        Decision::Become(after, _) => after,
                        Decision::Ignore(_)
                            if credential.is_some() && !before.state.is_at_rest() =>
                        {
                            before.clone()
                        }
                        Decision::Ignore(_) => return Done::Nothing,
                    };
                    (Amendment::Operation { before, after, owed: None, credential }, done)
                }
            };
            match self.desk.amend(amendment).await {
                Ok(Amended::Saved) => return done,
                Ok(Amended::Overtaken) => {}
                Ok(Amended::CredentialGone) => panic!("nobody removed the connection"),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }
}

fn credential(plan: &OperationPlan) -> Credential {
    match plan.identity {
        Identity::Connection => Credential::Connection(connection("contoso").into()),
        Identity::HandedInToken => token("handed-in", NOON + Duration::from_hours(10_000)),
    }
}

fn operation_after(now: jiff::Timestamp, span: Duration) -> jiff::Timestamp {
    now + span
}
