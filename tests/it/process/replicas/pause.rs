//! One replica is stopped for longer than its lease, with a poll and a delivery in hand.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;

use super::*;
use crate::process::ordeal::rules_kept;
use crate::support::postgres;
use crate::world::{Receiver, sandbox};

/// The lease, and time to do what it left.
const TO_TAKE_OVER: Duration = Duration::from_mins(2);

/// Answers the first request late, and that it does not want this any more; takes all others.
#[derive(Clone, Default)]
struct Undecided {
    came: Arc<Mutex<Vec<(String, Bytes)>>>,
    answer_the_first: Arc<Notify>,
}

impl Undecided {
    async fn start(&self) -> (String, JoinSet<std::io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let router = Router::new().route("/hooks", post(decide)).with_state(self.clone());
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(listener, router).into_future());
        (url, serving)
    }
}

async fn decide(State(receiver): State<Undecided>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let turn = {
        let mut came = receiver.came.lock().await;
        came.push((id, body));
        came.len()
    };
    if turn > 1 {
        return StatusCode::NO_CONTENT;
    }
    receiver.answer_the_first.notified().await;
    StatusCode::GONE
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_paused_replica_had_in_hand_is_taken_over_on_postgres() {
    let (sandbox, receiver, undecided) =
        (sandbox().await, Receiver::start().await, Undecided::default());
    let (undecided_url, _serving) = undecided.start().await;
    let database = postgres::database();
    let homes = [(); 2].map(|()| replica(&sandbox, &database));
    let added = homes[0].add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let key = added["apiKey"].as_str().unwrap();
    let paused = homes[0].serve().await;
    let shop = paused.client(key);

    let in_delivery = json!({
        "operation": operation(&sandbox, &json!([{ "status": "succeeded" }])),
        "callbackUrl": undecided_url,
    });
    let in_delivery = shop.register(&in_delivery).await;
    until(async || undecided.came.lock().await.len() == 1).await;
    let polls = sandbox.record().len();
    // Whoever polls second is told something else than the first, which is still waiting.
    let script = json!([{ "status": "failed", "delayMs": 5_000 }, { "status": "succeeded" }]);
    let in_poll = operation(&sandbox, &script);
    let in_poll = json!({ "operation": in_poll, "callbackUrl": receiver.url() });
    let in_poll = shop.register(&in_poll).await;
    until(async || sandbox.record().len() > polls).await;
    paused.signal("STOP").await;

    let other = started(&homes[1]).await;
    let shop = other.client(key);
    let mut glance = tokio::time::interval(Duration::from_millis(200));
    let taken_over = async {
        for id in [&in_delivery, &in_poll] {
            while shop.operation(id).await["callbacks"][0]["state"] != "delivered" {
                glance.tick().await;
            }
        }
    };
    tokio::time::timeout(TO_TAKE_OVER, taken_over).await.expect("nobody took it over in time");
    let seen = [shop.operation(&in_delivery).await, shop.operation(&in_poll).await];
    assert_eq!(seen[1]["callbacks"][0]["about"], "succeeded");

    undecided.answer_the_first.notify_one();
    paused.signal("CONT").await;
    let came_late = |log: &str| log.matches("someone else got to").count();
    until(async || came_late(&paused.log()) == 2).await;
    for serve in [&other, &paused] {
        let shop = serve.client(key);
        let again = [shop.operation(&in_delivery).await, shop.operation(&in_poll).await];
        assert_eq!(again, seen, "a late commit has changed it");
    }
    for serve in [other, paused] {
        assert!(serve.terminate().await.success());
    }
    let came = undecided.came.lock().await;
    assert_eq!(came.len(), 2, "once by each");
    assert_eq!(came[0], came[1], "told again as it was");
    assert_eq!(receiver.next().await.about(), "succeeded");
    receiver.has_nothing_more().await;
    rules_kept(&sandbox);
}
