//! Everything fails at random moments: replicas, the ways to the database, the database.

use std::sync::{Arc, Mutex};

use proptest::prelude::RngExt as _;
use proptest::test_runner::TestRng;
use tokio::task::block_in_place;

use super::*;
use crate::process::ordeal::{
    Apps, Bridges, PATIENT_SCHEDULE, Receiver, Taken, all_delivered, draws, rules_kept, setting,
    told_again,
};
use crate::support::postgres::{Cluster, Fsync};
use crate::support::relay::{Relay, Way};
use crate::world::sandbox;

/// The lease of a step that was in the hands of a replica that was killed, and some more.
const AFTER_ALL: Duration = Duration::from_secs(150);

/// How long after a callback was taken a kill may still have come before that was written down.
const TO_COMMIT: i64 = 1_000;

/// How much later it is written down where a fault was in the way.
const TO_RECOVER: i64 = 5_000;

/// For so long the database lets a replica hold locks that has stopped in the middle of something.
const LOCKED: i64 = 5_000;

/// A stretch of time, in milliseconds since 1970.
type Span = (i64, i64);

struct Trial {
    random: TestRng,
    replicas: Vec<Replica>,
    bridges: Bridges,
    key: String,
    relay: Relay,
    cluster: Option<Cluster>,
    faults: Faults,
}

struct Replica {
    home: Home,
    serve: Option<Serve>,
}

/// What was done to replicas and their database, and when.
#[derive(Default)]
struct Faults {
    kills: Vec<i64>,
    short_pauses: Vec<Span>,
    long_pause: Span,
    outages: Vec<Span>,
    cuts: Vec<Span>,
}

impl Trial {
    async fn begin(sandbox: &Sandbox) -> Self {
        let cluster = block_in_place(|| Cluster::start(Fsync::Off));
        let database = cluster.create_database();
        let relay = Relay::to(cluster.address()).await;
        let homes = [
            replica(sandbox, &database),
            replica(sandbox, &relay.url(&database)),
            on_a_fast_machine(replica(sandbox, &database)),
        ];
        let homes = homes.map(|home| home.flag("--callback-schedule", PATIENT_SCHEDULE));
        let key = homes[0].add_shop().await["apiKey"].as_str().unwrap().to_owned();
        let (mut replicas, mut bridges) = (Vec::new(), Vec::new());
        for home in homes {
            let serve = home.serve().await;
            bridges.push(serve.client(&key));
            replicas.push(Replica { home, serve: Some(serve) });
        }
        Self {
            random: draws("FAULTS_SEED"),
            replicas,
            bridges: Arc::new(Mutex::new(bridges)),
            key,
            relay,
            cluster: Some(cluster),
            faults: Faults::default(),
        }
    }

    async fn wait(&mut self, shortest: u64, longest: u64) {
        let span = Duration::from_millis(self.random.random_range(shortest..longest));
        tokio::time::sleep(span).await;
    }

    /// One fault, and what undoes it. Whatever it is spares the replica that is stopped already.
    async fn fail(&mut self, spare: Option<usize>) {
        let victims: Vec<_> = (0..self.replicas.len()).filter(|it| Some(*it) != spare).collect();
        let victim = victims[self.random.random_range(0..victims.len())];
        match self.random.random_range(0..12) {
            0..=5 => self.kill(victim).await,
            6 | 7 => {
                let began = now_ms();
                self.stop(victim).await;
                self.wait(200, 3_000).await;
                self.resume(victim).await;
                self.faults.short_pauses.push((began, now_ms()));
            }
            8 | 9 => {
                let began = now_ms();
                self.relay.make(Way::Closed);
                self.wait(1, 1_000).await;
                self.relay.make(Way::Open);
                self.faults.cuts.push((began, now_ms()));
            }
            10 => self.interrupt(Cluster::stop).await,
            _ => self.interrupt(Cluster::kill).await,
        }
    }

    async fn kill(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let serve = replica.serve.take().unwrap();
        let log = serve.log();
        self.faults.kills.push(now_ms());
        serve.kill().await;
        is_sound(&log);
        let serve = started(&replica.home).await;
        self.bridges.lock().unwrap()[number] = serve.client(&self.key);
        replica.serve = Some(serve);
    }

    async fn stop(&self, number: usize) {
        self.serve(number).signal("STOP").await;
    }

    async fn resume(&self, number: usize) {
        self.serve(number).signal("CONT").await;
    }

    fn serve(&self, number: usize) -> &Serve {
        self.replicas[number].serve.as_ref().unwrap()
    }

    /// Ends the database, and starts it again a little later.
    async fn interrupt(&mut self, end: fn(&mut Cluster)) {
        let mut cluster = self.cluster.take().unwrap();
        let began = now_ms();
        block_in_place(|| end(&mut cluster));
        self.wait(1, 1_500).await;
        self.cluster = Some(block_in_place(|| cluster.start_again()));
        self.faults.outages.push((began, now_ms()));
    }
}

impl Faults {
    /// Whether a callback taken at this moment may have come again: whoever delivered it was ended,
    /// or stopped for longer than its lease, before that was written down.
    fn explain(&self, at: i64) -> bool {
        let (began, ended) = self.long_pause;
        let others_held_up = (began, ended.min(began + LOCKED));
        let hindrances = [&self.short_pauses, &self.outages, &self.cuts].into_iter().flatten();
        let is_held_up = |from: i64, until: i64| {
            hindrances.clone().chain([&others_held_up]).any(|(began, ended)| {
                began - TO_COMMIT <= from && from <= *ended && until <= ended + TO_RECOVER
            })
        };
        let is_cut_off_by =
            |kill: i64| at <= kill && (kill - at < TO_COMMIT || is_held_up(at, kill));
        self.kills.iter().any(|kill| is_cut_off_by(*kill))
            || (began - TO_RECOVER..=ended).contains(&at)
    }
}

fn is_sound(log: &str) {
    for fault in ["panicked", "is broken", "cannot be read", "fault of the program"] {
        assert!(!log.contains(fault), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_chaos_on_postgres() {
    let began_at = Instant::now();
    let (sandbox, receiver) = (Arc::new(sandbox().await), Receiver::default());
    let (callback_url, _serving) = receiver.start().await;
    let mut trial = Trial::begin(&sandbox).await;
    let (names, bridges) = (["one", "two", "three"], &trial.bridges);
    let apps = Apps::start(names, PACE, &sandbox, bridges, &callback_url);

    for _ in 0..3 {
        trial.wait(100, 1_000).await;
        trial.fail(None).await;
    }
    let paused = trial.random.random_range(0..trial.replicas.len());
    trial.stop(paused).await;
    let (paused_at, paused_at_ms) = (Instant::now(), now_ms());
    for _ in 0..setting("FAULTS", 30) {
        trial.wait(20, 1_200).await;
        trial.fail(Some(paused)).await;
    }
    let over = LEASE + Duration::from_secs(5);
    tokio::time::sleep(over.saturating_sub(paused_at.elapsed())).await;
    trial.resume(paused).await;
    trial.faults.long_pause = (paused_at_ms, now_ms());
    let accepted = apps.stop().await;

    all_delivered(&trial.serve(0).client(&trial.key), &accepted, AFTER_ALL).await;
    for replica in &mut trial.replicas {
        let serve = replica.serve.take().unwrap();
        is_sound(&serve.log());
        assert!(serve.terminate().await.success());
    }
    let taken = receiver.taken();
    let again = told_again(&taken, &accepted);
    for Taken { id, at_ms, .. } in &again {
        assert!(trial.faults.explain(*at_ms), "{id} came again, and no fault explains it");
    }
    rules_kept(&sandbox);
    report(&trial.faults, accepted.len(), again.len(), began_at.elapsed());
}

#[expect(clippy::print_stderr, reason = "how hard a trial it was is shown to whoever asks")]
fn report(faults: &Faults, accepted: usize, again: usize, took: Duration) {
    let Faults { kills, short_pauses, outages, cuts, .. } = faults;
    eprintln!(
        "{accepted} operations, {again} callbacks came again; {} kills, {} short pauses and a long \
         one, {} outages, {} cuts; took {took:?}",
        kills.len(),
        short_pauses.len(),
        outages.len(),
        cuts.len()
    );
}
