//! A receiver that comes back after trouble is told little by little.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::world::{PATIENCE, World};

/// Answers that say it is not well, before it is.
const FAILURES: usize = 2;

/// What is owed to it when it comes back.
const OWED: usize = 60;

const MOST: usize = 16;

/// What the receiver sees from its side.
#[derive(Default)]
struct Seen {
    failures: usize,
    successes: u32,
    in_flight: usize,
    most_in_flight: usize,
    /// More in flight than the successes before allow.
    too_many: Vec<String>,
}

async fn take(State(seen): State<Arc<Mutex<Seen>>>) -> StatusCode {
    let is_well = {
        let mut seen = seen.lock().unwrap();
        seen.in_flight += 1;
        seen.most_in_flight = seen.most_in_flight.max(seen.in_flight);
        let allowed = 2_usize.saturating_pow(seen.successes).min(MOST);
        if allowed < seen.in_flight {
            let complaint = format!("{} after {} successes", seen.in_flight, seen.successes);
            seen.too_many.push(complaint);
        }
        FAILURES <= seen.failures
    };
    // Long enough for others to come meanwhile, were there any.
    tokio::time::sleep(Duration::from_millis(if is_well { 50 } else { 200 })).await;
    let mut seen = seen.lock().unwrap();
    seen.in_flight -= 1;
    if is_well {
        seen.successes += 1;
        StatusCode::NO_CONTENT
    } else {
        seen.failures += 1;
        StatusCode::SERVICE_UNAVAILABLE
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_comes_back_never_sees_more_than_the_doubling_allows() {
    let world = World::begin_with(&["--callback-schedule", "0s,10ms,10ms,10ms"]).await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let router = Router::new().route("/hooks", post(take)).with_state(Arc::clone(&seen));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(axum::serve(listener, router).into_future());
    for _ in 0..OWED {
        let operation = world.start(&json!([{ "status": "succeeded" }]));
        world.shop.register(&json!({ "operation": operation, "callbackUrl": url })).await;
    }
    let mut glance = tokio::time::interval(Duration::from_millis(5));
    let told = async {
        while (seen.lock().unwrap().successes as usize) < OWED {
            glance.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("not all was told in time");
    world.all_is_told().await;
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.too_many, [] as [String; 0]);
        assert_eq!((seen.failures, seen.successes as usize), (FAILURES, OWED));
        assert!(
            MOST / 2 <= seen.most_in_flight,
            "it was told of {} at a time",
            seen.most_in_flight
        );
    }
    world.end().await;
}
