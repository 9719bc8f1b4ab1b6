//! Every hostile receiver there is, beside a good one.

#[path = "../../src/tests/hostile.rs"]
#[expect(dead_code, reason = "the tests of the courier need more of it")]
mod kit;
#[path = "../../src/tests/secure.rs"]
#[expect(dead_code, reason = "the tests of the courier need more of it")]
mod secure;

use std::time::Duration;

use serde_json::json;

use crate::world::{PATIENCE, World};
use kit::{Hostile, Identities};

/// These hold an attempt until its deadline, which is longer than this test takes.
fn holds_on(hostile: &Hostile) -> bool {
    ["silence", "trickle", "stall", "window of nothing"].iter().any(|it| hostile.name.contains(it))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_receiver_is_told_everything_while_all_hostile_ones_are_dealt_with() {
    let identities = Identities::new();
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, identities.roots()).unwrap();
    let roots = roots.to_str().unwrap();
    let world = World::begin_with(&["--callback-schedule", "0s,1h", "--ca-file", roots]).await;

    let succeeds = json!([{ "status": "succeeded" }]);
    let mut dealt_with = Vec::new();
    for hostile in Hostile::all() {
        let at = hostile.start(&identities).await;
        let operation = world.start(&succeeds);
        let registration = json!({ "operation": operation, "callbackUrl": at.url });
        let id = world.shop.register(&registration).await;
        dealt_with.push((hostile, at, id));
    }
    let mut glance = tokio::time::interval(Duration::from_millis(5));
    let all_are_called = async {
        while dealt_with.iter().any(|(_, at, _)| at.connections() == 0) {
            glance.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_are_called).await.expect("some were never called");

    for _ in 0..30 {
        world.track(&succeeds).await;
    }
    for _ in 0..30 {
        world.receiver.next().await;
    }
    // None of those that hold on was let go meanwhile, so nobody waited for them.
    let mut held = 0;
    for (hostile, _, id) in dealt_with.iter().filter(|(hostile, ..)| holds_on(hostile)) {
        let seen = world.shop.operation(id).await;
        assert_eq!(seen["callbacks"][0]["attemptsMade"], 0, "{}", hostile.name);
        held += 1;
    }
    assert!(10 < held, "{held}");
    world.receiver.has_nothing_more().await;
    world.witness();
    world.stop().await;
}
