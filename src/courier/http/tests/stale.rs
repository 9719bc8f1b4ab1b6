//! Connections that a receiver closed while they were kept for the next callback.

use std::sync::atomic::AtomicUsize;

use h2::server::SendResponse;

use super::*;
use crate::tests::hostile::{Hostile, Identities};
use crate::tests::log::Log;
use crate::tests::secure::{Connected, identity, streams};

fn good() -> Told {
    answer(204, "", "")
}

/// What becomes of one attempt after another with a receiver that answers so, and how often it was
/// asked over how many connections.
async fn told(all: Vec<Told>, attempts: usize) -> (Vec<Receipt>, Receiver) {
    let receiver = Receiver::start_with(all).await;
    let desk = desk(IMPATIENT);
    let mut receipts = Vec::new();
    for _ in 0..attempts {
        receipts.push(desk.deliver(&receiver.url("/hooks")).await);
    }
    (receipts, receiver)
}

#[tokio::test]
async fn what_was_lost_with_a_kept_connection_goes_once_more_as_the_same_message() {
    for then in [Then::Close, Then::Reset] {
        let log = Log::collect();
        let (receipts, receiver) = told(vec![good(), Told::new("", then), good()], 2).await;
        assert_eq!(receipts[1].reply, Reply::Accepted, "{then:?}: {:?}", receipts[1].detail);
        let arrived = receiver.arrived();
        let [_, lost, again] = arrived.as_slice() else { panic!("{arrived:?}") };
        assert_eq!((&lost.head, &lost.body), (&again.head, &again.body));
        assert_eq!(again.header("webhook-id"), ID);
        assert_eq!(receiver.connections(), 2);
        // One attempt, of which one line tells.
        assert_eq!(log.text().matches("delivered msg_").count(), 2);
    }
}

#[tokio::test]
async fn it_goes_no_third_time() {
    let lost = || Told::new("", Then::Close);
    let (receipts, receiver) = told(vec![good(), lost(), lost(), good()], 2).await;
    assert_eq!(receipts[1].failure, Some(Failure::ClosedEarly));
    assert_eq!(receiver.arrived().len(), 3);
}

#[tokio::test]
async fn what_was_lost_with_a_fresh_connection_goes_no_second_time() {
    for then in [Then::Close, Then::Reset] {
        let (receipts, receiver) = told(vec![Told::new("", then), good()], 1).await;
        assert!(receipts[0].failure.is_some(), "{then:?}");
        assert_eq!(receiver.arrived().len(), 1, "{then:?}");
    }
}

#[tokio::test]
async fn what_was_begun_to_be_answered_goes_no_second_time() {
    for begun in
        ["H", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 503 X\r\ncontent-length: 9\r\n\r\n"]
    {
        let told = told(vec![good(), Told::new(begun, Then::Close), good()], 2).await;
        let (receipts, receiver) = told;
        assert_eq!(receipts[1].failure, Some(Failure::ClosedEarly), "{begun:?}");
        assert_eq!(receiver.arrived().len(), 2, "{begun:?}");
    }
}

#[tokio::test]
async fn what_is_not_answered_in_time_goes_no_second_time() {
    let (receipts, receiver) = told(vec![good(), Told::new("", Then::Stall), good()], 2).await;
    assert_eq!(receipts[1].failure, Some(Failure::TimedOut(Phase::Waiting)));
    assert_eq!(receiver.arrived().len(), 2);
}

#[tokio::test]
async fn both_times_share_the_deadline() {
    let all = vec![good(), Told::new("", Then::Close), Told::new("", Then::Stall)];
    let (receipts, receiver) = told(all, 2).await;
    assert_eq!(receipts[1].failure, Some(Failure::TimedOut(Phase::Waiting)));
    assert!(receipts[1].took < IMPATIENT * 3 / 2, "{:?}", receipts[1].took);
    assert_eq!(receiver.arrived().len(), 3);
}

/// However many are kept: the second goes over none of them.
#[tokio::test]
async fn of_many_kept_connections_that_are_lost_none_is_tried_twice() {
    let begun = Arc::new(tokio::sync::Barrier::new(8));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    let serving = async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let begun = Arc::clone(&begun);
            drop(tokio_util::task::TaskTracker::new().spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut request = vec![0; 4_096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                if connection < 8 {
                    begun.wait().await;
                }
                stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
                // It ends when the next request has come.
                assert!(stream.read(&mut request).await.unwrap() > 0);
            }));
        }
    };
    drop(tokio_util::task::TaskTracker::new().spawn(serving));
    let desk = desk(PATIENT);
    for _ in 0..2 {
        let all = (0..8).map(|_| desk.deliver(&url));
        for receipt in futures_util::future::join_all(all).await {
            assert_eq!(receipt.reply, Reply::Accepted, "{:?}", receipt.detail);
        }
    }
}

#[tokio::test]
async fn streams_that_end_with_a_kept_connection_go_once_more() {
    const HOST: &str = "receiver.example";
    let identity = identity(HOST, 4_000, "h2");
    let asked = AtomicUsize::new(0);
    let respond = move |connection: &mut Connected, mut response: SendResponse<Bytes>| {
        if asked.fetch_add(1, Ordering::SeqCst) == 1 {
            return connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        }
        let answer = http::Response::builder().status(204).body(()).unwrap();
        response.send_response(answer, true).unwrap();
    };
    let (port, mut arrivals) = streams(identity.acceptor, respond).await;
    let desk = desk_with(&["127.0.0.0/8"], PATIENT, Some(&identity.pem));
    desk.names.tell(HOST, &["127.0.0.1"]);
    for _ in 0..2 {
        let receipt = desk.deliver(&format!("https://{HOST}:{port}/hooks")).await;
        assert_eq!(receipt.reply, Reply::Accepted, "{:?}", receipt.detail);
    }
    for _ in 0..3 {
        let request = arrivals.try_recv().unwrap();
        assert_eq!(request.headers()["webhook-id"], ID);
    }
    assert!(arrivals.try_recv().is_err());
}

/// A receiver that is silently gone takes along what is in flight, and nothing that comes later.
#[tokio::test]
async fn no_other_attempt_goes_over_a_connection_on_which_one_timed_out() {
    let identities = Identities::new();
    let all = Hostile::all();
    let silent = all.iter().find(|it| it.name == "silence of HTTP/2").unwrap();
    let at = silent.start(&identities).await;
    let desk = desk_with(&["127.0.0.0/8"], IMPATIENT, Some(&identities.roots()));
    for connections in 1..=2 {
        let receipt = desk.deliver(&at.url).await;
        assert_eq!(receipt.failure, Some(Failure::TimedOut(Phase::Waiting)));
        assert_eq!(at.connections(), connections);
    }
}
