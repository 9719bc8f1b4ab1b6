//! The primary is lost under load, and its synchronous standby takes its place; then the other way
//! round.

use std::sync::{Arc, Mutex};

use tokio::task::block_in_place;

use super::*;
use crate::process::ordeal::{
    Apps, PATIENT_SCHEDULE, Receiver, all_delivered, rules_kept, told_again,
};
use crate::support::postgres::{Cluster, Fsync};
use crate::support::relay::{Relay, Way};
use crate::world::sandbox;

/// The lease of what was claimed and never handed out, since the claim's answer was lost.
const AFTER_ALL: Duration = Duration::from_secs(150);

/// How long all goes on before the next server is lost.
const BETWEEN: Duration = Duration::from_secs(3);

/// How long it takes until somebody has found out that a primary is lost, and promotes its standby.
const TO_DECIDE: Duration = Duration::from_secs(2);

/// The address of both servers, the first of them by way of a relay.
fn both(relay: &Relay, standby: &Cluster, database: &str) -> String {
    let mut url: url::Url = relay.url(database).parse().unwrap();
    let first = format!("127.0.0.1:{}", relay.address().port());
    let second = standby.address();
    url.set_port(None).unwrap();
    url.as_str().replacen("127.0.0.1", &format!("{first},{second}"), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_the_place_of_a_lost_primary_on_postgres() {
    let mut first = block_in_place(|| Cluster::start(Fsync::Off));
    let mut second = block_in_place(|| Cluster::start_standby_of(first.address().port()));
    block_in_place(|| first.wait_for_standbys());
    let database = block_in_place(|| first.create_database());
    let relay = Relay::to(first.address()).await;
    let address = both(&relay, &second, &database);

    let (sandbox, receiver) = (Arc::new(sandbox().await), Receiver::default());
    let (callback_url, _serving) = receiver.start().await;
    let homes =
        [(); 3].map(|()| replica(&sandbox, &address).flag("--callback-schedule", PATIENT_SCHEDULE));
    let key = homes[0].add_shop().await["apiKey"].as_str().unwrap().to_owned();
    let mut replicas = Vec::new();
    for home in &homes {
        replicas.push(home.serve().await);
    }
    let bridges = Arc::new(Mutex::new(replicas.iter().map(|it| it.client(&key)).collect()));
    let apps = Apps::start(["one", "two", "three"], PACE, &sandbox, &bridges, &callback_url);
    goes_on(&receiver).await;

    // Its machine is gone: connections are not closed, and nothing comes by them any more.
    relay.make(Way::Silent);
    block_in_place(|| first.kill());
    tokio::time::sleep(TO_DECIDE).await;
    block_in_place(|| second.promote());
    goes_on(&receiver).await;

    // It comes back as the other one's standby, which all commits wait for from then on.
    first = block_in_place(|| first.start_again_as_standby_of(second.address().port()));
    relay.make(Way::Open);
    block_in_place(|| second.wait_for_standbys());
    goes_on(&receiver).await;
    tokio::time::sleep(BETWEEN).await;

    // A crash, this time of the server alone.
    block_in_place(|| second.kill());
    tokio::time::sleep(TO_DECIDE).await;
    block_in_place(|| first.promote());
    goes_on(&receiver).await;

    // The one that can be written to is told apart from the one that cannot, whatever is in use.
    second = block_in_place(|| second.start_again_as_standby_of(first.address().port()));
    block_in_place(|| first.wait_for_standbys());
    let accepted = apps.stop().await;
    all_delivered(&replicas[0].client(&key), &accepted, AFTER_ALL).await;
    for replica in replicas {
        assert!(replica.terminate().await.success());
    }
    let again = told_again(&receiver.taken(), &accepted).len();
    assert_eq!(again, 0, "nobody was killed who could have delivered it");
    rules_kept(&sandbox);
    drop(second);
}
