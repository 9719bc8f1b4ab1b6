//! The real process is killed, or told to stop, at random moments while operations are registered,
//! polled and told: nothing that was accepted is lost, and Graph sees its rules kept.
//!
//! `KILLS=300 cargo nextest run kills` does it as often as you like; `KILLS_SEED` draws other
//! moments.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::RngExt as _;

use super::Home;
use super::ordeal::{
    Apps, PATIENT_SCHEDULE, Receiver, Taken, all_delivered, draws, now_ms, rules_kept, setting,
    told_again,
};
use crate::world::sandbox;

/// The lease of a step that was in the hands of a process that was killed, and some more.
const AFTER_KILLS: Duration = Duration::from_secs(150);

/// A process that stops leaves no step to its lease.
const AFTER_STOPS: Duration = Duration::from_mins(1);

/// How long after a callback was taken a kill may still have come before that was written down.
const TO_COMMIT: i64 = 1_000;

/// How a life of the process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Kill,
    Terminate,
}

/// Ends the process so many times at random moments; then all that was promised must come true.
async fn endure(how: End, times: u64) {
    let mut random = draws("KILLS_SEED");
    let (sandbox, receiver) = (Arc::new(sandbox().await), Receiver::default());
    let (callback_url, _serving) = receiver.start().await;
    let home = Home::new(sandbox.root()).flag("--callback-schedule", PATIENT_SCHEDULE);
    let added = home.add_shop().await;
    let key = added["apiKey"].as_str().unwrap().to_owned();
    let mut serve = home.serve().await;
    let bridges = Arc::new(Mutex::new(vec![serve.client(&key)]));
    let pace = Duration::from_millis(40);
    let app = Apps::start(["app"], pace, &sandbox, &bridges, &callback_url);

    let mut ended_at = Vec::new();
    for _ in 0..times {
        let life = Duration::from_millis(random.random_range(20..1_200));
        tokio::time::sleep(life).await;
        ended_at.push(now_ms());
        match how {
            End::Kill => serve.kill().await,
            End::Terminate => assert!(serve.terminate().await.success()),
        }
        serve = home.serve().await;
        *bridges.lock().unwrap() = vec![serve.client(&key)];
    }
    let accepted = app.stop().await;
    assert!(times < accepted.len() as u64, "only {} were registered", accepted.len());

    let patience = if how == End::Kill { AFTER_KILLS } else { AFTER_STOPS };
    all_delivered(&serve.client(&key), &accepted, patience).await;
    assert!(serve.terminate().await.success());
    let taken = receiver.taken();
    let again = told_again(&taken, &accepted);
    assert!(how == End::Kill || again.is_empty(), "told again, for no reason: {again:?}");
    for Taken { id, at_ms, .. } in again {
        let cut_off = ended_at.iter().any(|end| (0..TO_COMMIT).contains(&(end - at_ms)));
        assert!(cut_off, "{id} came again, and no kill explains it");
    }
    rules_kept(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_thirty_kills() {
    endure(End::Kill, setting("KILLS", 30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_told_twice_by_ten_stops() {
    endure(End::Terminate, setting("KILLS", 10)).await;
}
