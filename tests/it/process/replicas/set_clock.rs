//! The clock of the database, by which all replicas plan, is set under load.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::task::block_in_place;

use super::*;
use crate::process::ordeal::{Apps, Receiver, all_delivered, rules_kept, told_again};
use crate::support::postgres::Cluster;
use crate::world::sandbox;

/// What was claimed may have been left to its lease, where a delivery failed to say so.
const AFTER_ALL: Duration = Duration::from_mins(2);

/// How long all goes on between two moments at which the clock is set.
const BETWEEN: Duration = Duration::from_secs(4);

/// How long replicas may take to find out and to go on.
const TO_NOTICE: Duration = Duration::from_secs(30);

/// A file that says by how much a server's clock is off.
struct Dial {
    path: PathBuf,
}

impl Dial {
    fn new(directory: &Path) -> Self {
        let dial = Self { path: directory.join("clock") };
        dial.set("+0");
        dial
    }

    fn set(&self, offset: &str) {
        // Put in place whole: the server reads it whenever it looks at its clock.
        let new = self.path.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &self.path).unwrap();
    }

    fn server(&self) -> Cluster {
        Cluster::start_in(&[
            ("LD_PRELOAD", libfaketime().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.path.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_clock_is_set_makes_no_poll_early_on_postgres() {
    let directory = tempfile::tempdir().unwrap();
    let dial = Dial::new(directory.path());
    let cluster = block_in_place(|| dial.server());
    let (sandbox, receiver) = (Arc::new(sandbox().await), Receiver::default());
    let (callback_url, _serving) = receiver.start().await;
    let database = cluster.create_database();
    let homes = [(); 3].map(|()| replica(&sandbox, &database));
    let key = homes[0].add_shop().await["apiKey"].as_str().unwrap().to_owned();
    let mut replicas = vec![homes[0].serve().await, homes[1].serve().await];
    let bridges = Arc::new(Mutex::new(replicas.iter().map(|it| it.client(&key)).collect()));
    let apps = Apps::start(["chess", "gardening"], PACE, &sandbox, &bridges, &callback_url);

    for (times, offset) in ["+20m", "-20m", "+2s"].into_iter().enumerate() {
        tokio::time::sleep(BETWEEN).await;
        dial.set(offset);
        if times == 0 {
            // It sees nothing but the new time.
            replicas.push(started(&homes[2]).await);
        }
        let noticed = async || {
            let logs: String = replicas.iter().map(Serve::log).collect();
            times < logs.matches("the clock of the database was set").count()
        };
        tokio::time::timeout(TO_NOTICE, until(noticed)).await.expect("nobody has noticed");
        goes_on(&receiver).await;
    }
    let accepted = apps.stop().await;
    all_delivered(&replicas[0].client(&key), &accepted, AFTER_ALL).await;
    for replica in replicas {
        assert!(replica.terminate().await.success());
    }
    let taken = receiver.taken();
    assert_eq!(told_again(&taken, &accepted).len(), 0, "a callback was sent by two");
    rules_kept(&sandbox);
}
