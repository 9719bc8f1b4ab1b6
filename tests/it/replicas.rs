//! What holds between bridges that share a PostgreSQL, where two do the same at the same moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::callback::{self, CallbackId, Reply};
use engagement_bridge::clock::{Clock as _, SharedClock};
use engagement_bridge::graph::Credential;
use engagement_bridge::lane::{self, LaneName};
use engagement_bridge::names::Names;
use engagement_bridge::operation::{Answer, State, Verdict};
use engagement_bridge::store::postgres::{OpenError, PostgresStore};
use engagement_bridge::store::{
    Amended, Amendment, Claimed, Connections as _, Directory, Idempotency, OperationFilter, Page,
    Registered, Registration, Step, Store,
};
use engagement_bridge::tls;
use engagement_bridge::vault::{MasterKey, Vault};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::task;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::contract::{LEASE, attempted, polled};
use crate::support::postgres::{self, Server};
use crate::support::{
    NOON, SECRET, after, api_key, caller, connection, on_its_own_lane, registration, seconds, token,
};
use crate::world::NoNames;

/// Longer than anything takes that waits for nobody, and less than anybody waits for a lock.
const AT_ONCE: Duration = seconds(4);

/// How soon whoever registers is told that it cannot be done.
const TO_REFUSE: Duration = seconds(21);

/// How many registrations may be in the middle of being written.
const BEING_WRITTEN: usize = 3 * 512;

/// Somebody else on the database at `url`.
async fn connected(url: &str) -> (Client, task::JoinSet<Result<(), tokio_postgres::Error>>) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let mut connected = task::JoinSet::new();
    connected.spawn(connection);
    (client, connected)
}

async fn open(
    url: &str,
    key: &MasterKey,
    names: Arc<dyn Names>,
) -> Result<PostgresStore, OpenError> {
    let (vault, tls) = (Vault::new(key), tls::client_config(None).unwrap());
    let lanes = lane::Policy::default();
    PostgresStore::open(&url.parse().unwrap(), tls, names, vault, lanes).await
}

fn steps(claimed: &[Claimed]) -> Vec<Step> {
    claimed.iter().map(|it| it.claim.step).collect()
}

/// Two replicas on a fresh database, with a caller `contoso` who has a connection of that name.
struct Two {
    url: String,
    one: Arc<PostgresStore>,
    other: Arc<PostgresStore>,
}

impl Two {
    async fn start() -> Self {
        let (url, key) = (postgres::database(), MasterKey::generate().unwrap());
        let open_one = async || Arc::new(open(&url, &key, Arc::new(NoNames)).await.unwrap());
        // Both find an empty database, and one of them makes its tables.
        let (one, other) = tokio::join!(open_one(), open_one());
        let (contoso, secret) = (caller("contoso"), SECRET.parse().unwrap());
        assert!(one.add_caller(&contoso, api_key("first"), &secret, NOON).await.unwrap());
        one.add_connection(&contoso, &connection("contoso"), NOON).await.unwrap();
        Self { url, one, other }
    }

    /// Registers each of these at its replica, all at once.
    async fn register(&self, registrations: Vec<Registration>) -> Vec<Registered> {
        let registering = registrations.into_iter().enumerate().map(|(index, it)| {
            let store = if index % 2 == 0 { &self.one } else { &self.other };
            async move { store.register(vec![it]).await.unwrap().remove(0) }
        });
        join_all(registering).await
    }

    /// What the other replica's claim comes to while somebody holds a lane, who lets go of it as soon as
    /// the claim waits for it, or ends without; and whether it has waited.
    async fn claim_while_somebody_holds(
        &self,
        lane: &LaneName,
        now: Timestamp,
        hands: usize,
    ) -> (Vec<Step>, bool) {
        let (mut holder, _connected) = connected(&self.url).await;
        let (onlooker, _looking) = connected(&self.url).await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND wait_event_type = 'Lock'";
        let is_waiting =
            async || onlooker.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1;
        let holding = holder.transaction().await.unwrap();
        let sql = "SELECT * FROM lanes WHERE name = $1 FOR UPDATE";
        assert_eq!(holding.query(sql, &[&lane.to_string()]).await.unwrap().len(), 1);
        let (ended, claim_ended) = oneshot::channel::<()>();
        let claim = async {
            let claimed = self.other.claim(now, LEASE, hands).await.unwrap();
            drop(ended);
            steps(&claimed)
        };
        let release = async {
            let waited = async { while !is_waiting().await {} };
            let has_waited = tokio::select! { () = waited => true, _ = claim_ended => false };
            holding.commit().await.unwrap();
            has_waited
        };
        tokio::join!(claim, release)
    }
}

/// The same registration as another one, from somebody who knows nothing of that.
fn twin(n: u32) -> Registration {
    let id = registration(n + 1_000).operation.id;
    let mut twin = registration(n);
    twin.operation.id = id;
    twin
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_kept_once_whoever_registers_it_on_postgres() {
    let two = Two::start().await;
    let both = (0..60).flat_map(|n| [registration(n), twin(n)]);
    let registered = two.register(both.collect()).await;
    for pair in registered.chunks(2) {
        let found = match pair {
            [Registered::New, Registered::Existing(found)]
            | [Registered::Existing(found), Registered::New] => found,
            other => panic!("{other:?}"),
        };
        assert!(two.one.operation(found.operation.id).await.unwrap().is_some());
    }
    let page = Page { after: None, limit: 1_000 };
    let contoso = caller("contoso");
    let listed = two.other.operations(&contoso, OperationFilter::default(), page).await.unwrap();
    assert_eq!(listed.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_taken_once_on_postgres() {
    let two = Two::start().await;
    let with_key = |mut it: Registration, n: u32| {
        let (key, answer) = (format!("key-{n}"), it.operation.id.to_string().into());
        it.idempotency = Some(Idempotency { key, request: [7; 32], answer });
        it
    };
    let both = (0..40).flat_map(|n| [with_key(registration(n), n), with_key(twin(n), n)]);
    for (n, pair) in two.register(both.collect()).await.chunks(2).enumerate() {
        let (operation, answer) = match pair {
            [Registered::New, Registered::Replayed { operation, answer }]
            | [Registered::Replayed { operation, answer }, Registered::New] => (operation, answer),
            other => panic!("key {n}: {other:?}"),
        };
        assert_eq!(answer.as_deref(), Some(operation.to_string().as_bytes()));
        assert!(two.one.operation(*operation).await.unwrap().is_some());
    }
}

/// However many wait for a database that does nothing; and what is given up on before its turn comes
/// is not kept later.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_registers_is_answered_in_time_on_postgres() {
    let two = Two::start().await;
    let (mut holder, _connected) = connected(&two.url).await;
    let holding = holder.transaction().await.unwrap();
    holding.batch_execute("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let began_at = Instant::now();
    let registering = (0..4_000).map(|n| two.one.register(vec![registration(n)]));
    for registered in join_all(registering).await {
        registered.unwrap_err();
    }
    let took = began_at.elapsed();
    assert!(took < TO_REFUSE, "after {took:?}");

    holding.rollback().await.unwrap();
    // It comes last, but for what is being written.
    two.one.register(vec![registration(4_000)]).await.unwrap();
    let sql = "SELECT count(*) FROM operations";
    let kept: usize = Server::shared().ask(&two.url, sql).parse().unwrap();
    assert!(kept <= BEING_WRITTEN + 1, "{kept} were kept, of which nobody was told");
}

/// More at once than there is room for, whoever has how much in hand.
#[tokio::test(flavor = "multi_thread")]
async fn no_caller_has_more_live_operations_than_allowed_on_postgres() {
    let two = Two::start().await;
    let limited = |n| Registration { live_limit: 50, ..registration(n) };
    let registered = two.register((0..400).map(limited).collect()).await;
    let (kept, refused): (Vec<_>, Vec<_>) =
        registered.iter().partition(|it| matches!(it, Registered::New));
    assert!(refused.iter().all(|it| matches!(it, Registered::LimitReached)), "{refused:?}");
    assert_eq!(kept.len(), 50, "as many as there is room for, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_is_handed_out_twice_and_no_lane_above_its_budget_on_postgres() {
    let two = Two::start().await;
    let contoso = caller("contoso");
    for name in ["chess", "gardening"] {
        two.other.add_connection(&contoso, &connection(name), NOON).await.unwrap();
    }
    let on_three_lanes = (0..60).map(|n| {
        let name = ["contoso", "chess", "gardening"][n as usize % 3];
        let credential = Credential::Connection(connection(name).into());
        Registration { credential, ..registration(n) }
    });
    two.register(on_three_lanes.collect()).await;

    let claiming = (0..16).map(|n| {
        let store = if n % 2 == 0 { &two.one } else { &two.other };
        async move { store.claim(after(60), LEASE, 5).await.unwrap() }
    });
    let mut times: BTreeMap<Step, usize> = BTreeMap::new();
    for claimed in join_all(claiming).await.into_iter().flatten() {
        *times.entry(claimed.claim.step).or_default() += 1;
    }
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let budget = lane::Policy::default().graph_requests as usize;
    assert_eq!(times.len(), 3 * budget, "each lane gives what it has, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_live_operation_loses_its_connection_on_postgres() {
    let two = Two::start().await;
    let contoso = caller("contoso");
    let mut removals = 0;
    for round in 0..40 {
        let registering = two.register((0..6).map(|n| registration(round * 10 + n)).collect());
        let removing = two.other.remove_connection(&contoso, "contoso");
        let (registered, removed) = tokio::join!(registering, removing);
        let is_kept = |it: &Registered| matches!(it, Registered::New);
        if removed.unwrap() == Some(true) {
            assert!(!registered.iter().any(is_kept), "{registered:?}");
            two.one.add_connection(&contoso, &connection("contoso"), NOON).await.unwrap();
            removals += 1;
        } else {
            assert!(registered.iter().any(is_kept), "{registered:?}");
            let forget = "DELETE FROM operations; DELETE FROM live_operations";
            Server::shared().ask(&two.url, forget);
        }
    }
    assert!(0 < removals, "the race was never won by the removal");
}

/// It stays where it is, is reported, and comes up again when its lease ends; and nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_unsealed_keeps_nothing_else_from_its_step_on_postgres() {
    let two = Two::start().await;
    let contoso = caller("contoso");
    two.one.add_connection(&contoso, &connection("chess"), NOON).await.unwrap();
    let on = |n, name| {
        let credential = Credential::Connection(connection(name).into());
        Registration { credential, ..registration(n) }
    };
    two.register(vec![on(1, "chess"), on(2, "contoso"), on(3, "chess"), on(4, "contoso")]).await;
    let spoil =
        |table, column| format!("UPDATE {table} SET {column} = '\\x00' WHERE caller = 'contoso'");
    let chess = spoil("connections", "sealed_proof") + " AND name = 'chess'";
    Server::shared().ask(&two.url, &chess);
    let claimed = two.other.claim(after(60), LEASE, 8).await.unwrap();
    let mut steps: Vec<_> = claimed.iter().map(|it| it.claim.step).collect();
    steps.sort_unstable();
    let polls = [2, 4].map(|n| Step::Operation(registration(n).operation.id));
    assert_eq!(steps, polls);

    // A callback must not leave unsigned because its secret cannot be read.
    let settled = claimed
        .into_iter()
        .map(|it| polled(it, Answer::Finished(Verdict::Succeeded), after(61)))
        .collect();
    two.other.commit(Arc::new(settled)).await.unwrap();
    Server::shared().ask(&two.url, &spoil("signing_secrets", "sealed_secret"));
    assert!(two.one.claim(after(62), LEASE, 8).await.unwrap().is_empty());
}

/// As a replica does that was stopped in the middle of a claim.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_somebody_holds_keeps_no_other_from_being_served_on_postgres() {
    let two = Two::start().await;
    two.one.add_connection(&caller("contoso"), &connection("chess"), NOON).await.unwrap();
    let chess = Credential::Connection(connection("chess").into());
    let chess = Registration { credential: chess, ..registration(1) };
    let (held, free) = (LaneName::graph(chess.credential.identity()), registration(2));
    let id = free.operation.id;
    // Its lane is the first in line.
    two.one.register(vec![chess]).await.unwrap();
    two.one.register(vec![free]).await.unwrap();

    let (mut holder, _connected) = connected(&two.url).await;
    let holding = holder.transaction().await.unwrap();
    let sql = "SELECT * FROM lanes WHERE name = $1 FOR UPDATE";
    assert_eq!(holding.query(sql, &[&held.to_string()]).await.unwrap().len(), 1);
    let claiming = two.other.claim(after(60), LEASE, 8);
    let claimed = tokio::time::timeout(AT_ONCE, claiming).await.expect("it waits").unwrap();
    assert_eq!(steps(&claimed), [Step::Operation(id)]);
    // Where there is no other lane it waits for this one, but not for long.
    let claiming = two.other.claim(after(60), LEASE, 8);
    let claimed = tokio::time::timeout(AT_ONCE, claiming).await.expect("it waits").unwrap();
    assert!(claimed.is_empty(), "{claimed:?}");

    holding.commit().await.unwrap();
    assert_eq!(two.other.claim(after(60), LEASE, 8).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_finds_all_lanes_held_waits_a_little_for_the_first_on_postgres() {
    let two = Two::start().await;
    two.one.register(vec![in_line(1)]).await.unwrap();
    // On a machine that has much to do, a little may be over before we see that it waits.
    for _ in 0..20 {
        let (claimed, has_waited) =
            two.claim_while_somebody_holds(&graph_lane(1), after(100), 8).await;
        if has_waited && claimed.len() == 1 {
            return;
        }
        assert!(claimed.is_empty(), "it has come when nobody held the lane any more");
    }
    panic!("it never waits");
}

/// Or a lane that is in much use would be passed over for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_passed_over_is_waited_for_the_next_time_on_postgres() {
    let two = Two::start().await;
    // More than are taken below, or it would be waited for as the only one that is left.
    two.one.register((1..=40).map(in_line).collect()).await.unwrap();
    let first = [Step::Operation(in_line(1).operation.id)];
    let (others, has_waited) = two.claim_while_somebody_holds(&graph_lane(1), after(100), 1).await;
    assert!(others.len() == 1 && others != first && !has_waited, "{others:?}, {has_waited}");
    for _ in 0..20 {
        let (claimed, has_waited) =
            two.claim_while_somebody_holds(&graph_lane(1), after(100), 1).await;
        if has_waited && claimed == first {
            return;
        }
        assert_ne!(claimed, first, "it has come when nobody held the lane any more");
    }
    panic!("it is passed over each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_its_hands_full_of_lapses_waits_for_no_lane_on_postgres() {
    let two = Two::start().await;
    two.one.register(vec![in_line(1)]).await.unwrap();
    let long_after = NOON + seconds(48 * 3_600);
    let (lapsed, has_waited) = two.claim_while_somebody_holds(&graph_lane(1), long_after, 1).await;
    assert_eq!(lapsed, [Step::Operation(in_line(1).operation.id)]);
    assert!(!has_waited);
}

/// As a replica does that serves them, or was stopped while it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_goes_past_all_lanes_that_somebody_holds_on_postgres() {
    let two = Two::start().await;
    two.one.register((1..=42).map(in_line).collect()).await.unwrap();
    let (mut holder, _connected) = connected(&two.url).await;
    let holding = holder.transaction().await.unwrap();
    let held: Vec<String> = (1..=40).map(|n| graph_lane(n).to_string()).collect();
    let sql = "SELECT * FROM lanes WHERE name = ANY($1) FOR UPDATE";
    assert_eq!(holding.query(sql, &[&held]).await.unwrap().len(), 40);
    for (hands, free) in [(1, 41), (256, 42)] {
        let claiming = two.other.claim(after(100), LEASE, hands);
        let claimed = tokio::time::timeout(AT_ONCE, claiming).await.expect("it waits").unwrap();
        assert_eq!(steps(&claimed), [Step::Operation(in_line(free).operation.id)]);
    }
    holding.commit().await.unwrap();
}

/// On a lane of its own, which is the `n`th in line.
fn in_line(n: u32) -> Registration {
    let mut registration = on_its_own_lane(n);
    if let State::Watching(watch) = &mut registration.operation.state {
        watch.next_poll_at = after(30 + u64::from(n));
    }
    registration
}

/// The lane on which its polls are.
fn graph_lane(n: u32) -> LaneName {
    LaneName::graph(in_line(n).credential.identity())
}

/// As somebody does who commits it, and waits for its lane.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_somebody_holds_keeps_no_other_from_being_claimed_on_postgres() {
    let two = Two::start().await;
    two.one.register(vec![registration(1), registration(2)]).await.unwrap();
    let (mut holder, _connected) = connected(&two.url).await;
    let claim_at = async |now| {
        let claiming = two.other.claim(now, LEASE, 8);
        let claimed = tokio::time::timeout(AT_ONCE, claiming).await.expect("it waits").unwrap();
        steps(&claimed)
    };
    let [held, free] = [1, 2].map(|n| Step::Operation(registration(n).operation.id));
    // When they are due, and when they should long have ended.
    for now in [after(60), NOON + seconds(48 * 3_600)] {
        let holding = holder.transaction().await.unwrap();
        let sql = "SELECT * FROM steps JOIN operations ON operation = operations.number \
            WHERE id = $1 FOR UPDATE OF steps";
        let id = registration(1).operation.id.to_string();
        assert_eq!(holding.query(sql, &[&id]).await.unwrap().len(), 1);
        assert_eq!(claim_at(now).await, [free]);
        holding.commit().await.unwrap();
        assert_eq!(claim_at(now).await, [held]);
    }
}

/// A new lane is there for everybody at once, not only when whoever needed it first is done.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_registers_waits_for_nobody_who_needs_the_same_new_lane_on_postgres() {
    let two = Two::start().await;
    let on = |n, secret| {
        let credential = token(secret, after(3_600));
        Registration { credential, ..registration(n) }
    };
    two.one.register(vec![on(1, "known")]).await.unwrap();
    let known = LaneName::graph(on(1, "known").credential.identity());

    let (mut holder, _connected) = connected(&two.url).await;
    let holding = holder.transaction().await.unwrap();
    let sql = "SELECT * FROM lanes WHERE name = $1 FOR UPDATE";
    assert_eq!(holding.query(sql, &[&known.to_string()]).await.unwrap().len(), 1);
    let one = Arc::clone(&two.one);
    let mut waiting = task::JoinSet::new();
    waiting.spawn(async move { one.register(vec![on(2, "known"), on(3, "new")]).await.unwrap() });
    // It has come to where it waits for the lane that is held.
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock'";
    task::block_in_place(|| Server::shared().until(&two.url, sql, "1"));
    let registering = two.other.register(vec![on(4, "new")]);
    let registered = tokio::time::timeout(AT_ONCE, registering).await.expect("it waits").unwrap();
    assert!(matches!(registered[..], [Registered::New]), "{registered:?}");

    holding.commit().await.unwrap();
    let registered = waiting.join_all().await.remove(0);
    assert!(matches!(registered[..], [Registered::New, Registered::New]), "{registered:?}");
}

/// Its operation is at rest, and may be just old enough.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_sent_again_is_not_forgotten_on_postgres() {
    let two = Two::start().await;
    two.one.register(vec![registration(1)]).await.unwrap();
    let claimed = two.one.claim(after(60), LEASE, 1).await.unwrap().remove(0);
    let settled = polled(claimed, Answer::Finished(Verdict::Succeeded), after(60));
    two.one.commit(Arc::new(vec![settled])).await.unwrap();
    let claimed = two.one.claim(after(60), LEASE, 1).await.unwrap().remove(0);
    let told = attempted(claimed, Reply::Accepted, after(60));
    two.one.commit(Arc::new(vec![told])).await.unwrap();
    let id = CallbackId { operation: registration(1).operation.id, number: 1 };
    let before = two.one.callback(id).await.unwrap().unwrap().callback;
    let (policy, event) = (callback::Policy::default(), callback::Event::ResendRequested);
    let decision = callback::decide(&policy, &before, event, after(200));
    let callback::Decision::Become(again) = decision else { panic!("{decision:?}") };

    // In the middle of it, somebody holds the callback.
    let (mut holder, _connected) = connected(&two.url).await;
    let holding = holder.transaction().await.unwrap();
    holding.batch_execute("SELECT * FROM callbacks FOR UPDATE").await.unwrap();
    let one = Arc::clone(&two.one);
    let mut amending = task::JoinSet::new();
    amending.spawn(async move {
        let amendment = Amendment::Callback { before, after: again, destination_back: false };
        one.amend(amendment).await.unwrap()
    });
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock'";
    task::block_in_place(|| Server::shared().until(&two.url, sql, "1"));
    let forgetting = two.other.forget(after(300), NOON, after(300), 9);
    let forgotten = tokio::time::timeout(AT_ONCE, forgetting).await.expect("it waits").unwrap();
    assert_eq!(forgotten.operations, 0);

    holding.commit().await.unwrap();
    assert_eq!(amending.join_all().await, [Amended::Saved]);
    assert_eq!(two.other.claim(after(300), LEASE, 9).await.unwrap().len(), 1);
}

/// More than one transaction takes.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_lanes_there_are_all_of_them_rest_on_postgres() {
    let two = Two::start().await;
    let each_on_its_own = |n: u32| {
        let credential = token(&format!("token-{n}"), after(3_600));
        Registration { credential, ..registration(n) }
    };
    two.one.register((0..4_100).map(each_on_its_own).collect()).await.unwrap();
    two.other.rest_graph_lanes(after(90)).await.unwrap();
    assert!(two.one.claim(after(89), LEASE, 5_000).await.unwrap().is_empty());
    assert_eq!(two.one.claim(after(90), LEASE, 5_000).await.unwrap().len(), 4_100);
}

/// A statement that was prepared before does not fit the table any more.
#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_a_newer_replica_adds_columns_on_postgres() {
    let two = Two::start().await;
    let work = async |n: u32| {
        // At once, so that more than one connection has its statements prepared.
        let registered = two.register((n..n + 8).map(registration).collect()).await;
        assert!(registered.iter().all(|it| matches!(it, Registered::New)), "{registered:?}");
        let claimed = two.one.claim(after(60 + 100 * u64::from(n)), LEASE, 8).await.unwrap();
        assert_eq!(claimed.len(), 8);
        let id = registration(n).operation.id;
        assert!(two.other.operation(id).await.unwrap().is_some());
    };
    work(0).await;
    // Each by itself, as it is not the same statement of a transaction that fails then.
    let tables = ["operations", "callbacks", "lanes", "steps", "connections", "idempotency_keys"];
    for (table, n) in tables.into_iter().zip(1..) {
        let sql = format!("ALTER TABLE {table} ADD COLUMN later INTEGER DEFAULT 1");
        Server::shared().ask(&two.url, &sql);
        work(8 * n).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_claims_by_a_time_that_is_not_the_shared_one_on_postgres() {
    let two = Two::start().await;
    let clock = Arc::new(SharedClock::start(&*two.one).await.unwrap().unwrap());
    two.one.plan_by(&clock);
    let claim = async || two.one.claim(clock.now(), LEASE, 1).await;
    claim().await.unwrap();
    // As another replica would that finds the database's clock set, or that was awake when we were not.
    for ahead in [-60_000, 60_000] {
        let sql = format!("UPDATE planning_clock SET ahead = {ahead}, since = since + 1");
        task::block_in_place(|| Server::shared().ask(&two.url, &sql));
        let refused = claim().await.unwrap_err().in_full().to_string();
        assert!(refused.contains("off from what bridges on this database share"), "{refused}");
        clock.look(&*two.one).await.unwrap();
        claim().await.unwrap();
    }
    let other = SharedClock::start(&*two.other).await.unwrap().unwrap();
    let apart = clock.now().duration_since(other.now()).abs();
    assert!(apart < SignedDuration::from_secs(1), "{apart}");
}

/// Or each replica that starts would think that nobody has watched the clock before it.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_beside_others_learns_that_they_watch_the_clock_on_postgres() {
    let two = Two::start().await;
    let (here, there) = (
        SharedClock::start(&*two.one).await.unwrap().unwrap(),
        SharedClock::start(&*two.other).await.unwrap().unwrap(),
    );
    assert!(!there.is_kept_by_others(&*two.other).await.unwrap(), "nobody is there yet");

    let stop = CancellationToken::new();
    let mut present = task::JoinSet::new();
    present.spawn(Arc::clone(&two.one).attend(|| {}, stop.clone()));
    let watch = async {
        loop {
            let wait = here.look(&*two.one).await.unwrap();
            tokio::time::sleep(wait).await;
        }
    };
    // It is not there until it has connected.
    let learn = async { while !there.is_kept_by_others(&*two.other).await.unwrap() {} };
    tokio::select! {
        () = watch => unreachable!("it goes on"),
        learned = tokio::time::timeout(seconds(10), learn) => learned.expect("nobody says so"),
    }
    stop.cancel();
    present.join_all().await;
}
