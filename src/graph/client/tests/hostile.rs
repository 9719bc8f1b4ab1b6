//! A Graph, and a token endpoint, that answer with anything whatever: bytes on a real socket.

use super::*;
use crate::tests::peer::{Peer, Then, Told};

/// Room for what the kernel buffers on both sides of a loopback connection.
const BUFFERED: usize = 32 * 1_024 * 1_024;

/// `{"id":"a","status":"succeeded"}` for whoever unpacks it.
const GZIPPED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xabV\xcaLQ\xb2RJT\xd2Q*.I,)-\
    \x06r\x8aK\x93\x93SSSRS\x94j\x01\x990\xdf\x1c\x1f\x00\x00\x00";

/// When an exchange has to be over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    /// Long before the deadline.
    AtOnce,
    AtTheDeadline,
}

use Over::{AtOnce, AtTheDeadline};

/// What a server does, and when even an impatient client has done with it.
fn unusable() -> Vec<(&'static str, Told, Over)> {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"id\":\"a\"";
    const LINE: &str = "0123456789abcdef";
    const CHUNK: &str = "20\r\n                                \r\n";
    let error = r#"{"error":{"code":"UnknownError","message":""}}"#;
    let whole = |headers: &str, body: &[u8]| {
        let head = format!("{OK}{headers}content-length: {}\r\n\r\n", body.len());
        Told::new([head.as_bytes(), body].concat(), Then::Listen)
    };
    vec![
        ("silence", Told::new("", Then::Stall), AtTheDeadline),
        ("a status that trickles", Told::new("HTTP/1.1 200 ", Then::Drip("x")), AtTheDeadline),
        ("headers that trickle", Told::new(format!("{OK}x: "), Then::Drip("y")), AtTheDeadline),
        ("headers that stop", Told::new(OK, Then::Stall), AtTheDeadline),
        ("a body that trickles", Told::new(CHUNKED, Then::Drip("1\r\n \r\n")), AtTheDeadline),
        ("a body that stops", Told::new(SHORT, Then::Stall), AtTheDeadline),
        (
            "100 without end",
            Told::new("", Then::Flood("HTTP/1.1 100 Continue\r\n\r\n")),
            AtTheDeadline,
        ),
        (
            "103 without end",
            Told::new("", Then::Flood("HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n")),
            AtTheDeadline,
        ),
        ("a header without end", Told::new(format!("{OK}x: "), Then::Flood(LINE)), AtOnce),
        ("headers without end", Told::new(OK, Then::Flood("x: 0123456789\r\n")), AtOnce),
        ("a body without end", Told::new(format!("{OK}\r\n"), Then::Flood(LINE)), AtOnce),
        ("chunks without end", Told::new(CHUNKED, Then::Flood(CHUNK)), AtOnce),
        ("a length without end", whole("content-length: 99999999999\r\n", b"{}"), AtOnce),
        ("gzip", whole("content-encoding: gzip\r\n", GZIPPED), AtOnce),
        ("an error", whole("content-type: application/json\r\n", error.as_bytes()), AtOnce),
        ("a page", whole("content-type: text/html\r\n", b"<html></html>"), AtOnce),
        ("nothing", whole("", b""), AtOnce),
        ("not HTTP", Told::new("SSH-2.0-OpenSSH_9.9\r\n", Then::Stall), AtOnce),
        ("an early close", Told::new("", Then::Close), AtOnce),
        ("a close among the headers", Told::new(OK, Then::Close), AtOnce),
        ("a close in the body", Told::new(SHORT, Then::Close), AtOnce),
        ("a close between chunks", Told::new(CHUNKED, Then::Close), AtOnce),
        ("an early reset", Told::new("", Then::Reset), AtOnce),
        ("a reset among the headers", Told::new(OK, Then::Reset), AtOnce),
        ("a reset in the body", Told::new(SHORT, Then::Reset), AtOnce),
    ]
}

/// Where a time-out is expected it is short, and elsewhere it would be noticed.
fn deadlines(over: Over) -> Deadlines {
    if over == AtOnce { PATIENT } else { IMPATIENT }
}

fn assert_took(name: &str, took: Duration, over: Over) {
    match over {
        AtOnce => assert!(took < PATIENT.token, "{name} took {took:?}"),
        AtTheDeadline => {
            assert!((IMPATIENT.token..PATIENT.token).contains(&took), "{name} took {took:?}");
        }
    }
}

#[tokio::test]
async fn whatever_graph_does_a_poll_is_one_request_and_in_time_and_trouble() {
    let polls = unusable().into_iter().map(async |(name, told, over)| {
        let peer = Peer::start(told).await;
        let graph = graph_at(&peer.root(), deadlines(over), &Arc::default());
        let began_at = Instant::now();
        let poll = graph.poll(by_token()).await;
        assert_eq!((poll.event, poll.body), (TROUBLE, None), "{name}");
        assert_took(name, began_at.elapsed(), over);
        assert_eq!(peer.arrived().len(), 1, "{name}");
        // A flood of interim answers is read until the deadline, and none of it is kept.
        let unread = over == AtTheDeadline || peer.flooded() < BODY_LIMIT + BUFFERED;
        assert!(unread, "{name}: {} bytes were taken", peer.flooded());
    });
    join_all(polls).await;
}

#[tokio::test]
async fn whatever_the_token_endpoint_does_it_is_asked_once_and_graph_not_at_all() {
    let polls = unusable().into_iter().map(async |(name, told, over)| {
        let (graph, login) = (StandIn::start(|_| json(RUNNING)).await, Peer::start(told).await);
        let client =
            graph_between(&graph.root, &login.root(), deadlines(over), &Arc::default(), None);
        let trouble = Hindrance::Trouble { retry_after: Some(Duration::from_secs(5)) };
        let began_at = Instant::now();
        assert_eq!(client.poll(by_connection()).await.event, Event::Unpolled(trouble), "{name}");
        assert_took(name, began_at.elapsed(), over);
        // Those that come while it is left alone are told so, and do not ask.
        for _ in 0..3 {
            assert_eq!(client.poll(by_connection()).await.event, Event::Unpolled(trouble));
        }
        assert_eq!(login.arrived().len(), 1, "{name}");
        assert_eq!(graph.connections(), 0, "{name}");
        let unread = over == AtTheDeadline || login.flooded() < BUFFERED;
        assert!(unread, "{name}: {} bytes were taken", login.flooded());
    });
    join_all(polls).await;
}

/// A whole answer of 200 with an operation, between such headers.
fn running(headers: &str) -> Told {
    let length = RUNNING.len();
    let text = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n{RUNNING}");
    Told::new(text, Then::Listen)
}

async fn polled(told: Told) -> Event {
    let peer = Peer::start(told).await;
    graph_at(&peer.root(), PATIENT, &Arc::default()).poll(by_token()).await.event
}

#[tokio::test]
async fn an_operation_is_known_by_its_bytes_whatever_the_headers_call_it() {
    // To distrust a label would be to poll until the deadline what has long ended.
    for headers in [
        "",
        "content-type: text/html\r\n",
        "content-type: application/octet-stream\r\n",
        "content-type: application/json; charset=utf-16\r\n",
        "content-type: \r\ncontent-type: image/png\r\n",
        "content-encoding: identity\r\n",
    ] {
        assert_eq!(polled(running(headers)).await, STILL_RUNNING, "{headers:?}");
    }
}

#[tokio::test]
async fn an_answer_behind_others_that_are_not_final_is_the_answer() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    let told = Told::new(
        format!("{interim}{interim}HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n"),
        Then::Listen,
    );
    assert_eq!(polled(told).await, Event::Polled(Answer::Missing));
}

#[tokio::test]
async fn no_date_of_graphs_is_believed_but_the_one_to_come_back_at() {
    let second = Duration::from_secs(1);
    for date in ["Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "yesterday"] {
        for (asked, retry_after) in [
            // Counted from our own clock, which stands at a minute past midnight.
            ("Thu, 01 Jan 1970 00:02:30 GMT", Some(90 * second)),
            ("Thu, 01 Jan 1970 00:00:59 GMT", Some(Duration::ZERO)),
            ("1000000000000000000", Some(Duration::from_secs(1_000_000_000_000_000_000))),
            ("-30", Some(Duration::ZERO)),
            ("1e18", None),
            ("in a while", None),
            ("\u{fc}", None),
            ("", None),
        ] {
            let headers = format!("date: {date}\r\nretry-after: {asked}\r\n");
            let peer = Peer::start(running(&headers)).await;
            let clock = Arc::new(SetClock::default());
            clock.advance(60 * second);
            let event = graph_at(&peer.root(), PATIENT, &clock).poll(by_token()).await.event;
            let expected = Event::Polled(Answer::StillRunning { retry_after });
            assert_eq!(event, expected, "{date} {asked:?}");
        }
    }
}

#[tokio::test]
async fn the_token_endpoint_is_left_alone_for_as_long_as_it_asks_but_an_hour_at_most() {
    for (asked, rest) in [
        ("1000000000000000000", 3_600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600),
        ("120", 120),
        ("-30", 5),
        ("0", 5),
        ("1e18", 5),
        ("in a while", 5),
    ] {
        let head = format!("HTTP/1.1 429 X\r\nretry-after: {asked}\r\ncontent-length: 0\r\n\r\n");
        let login = Peer::start(Told::new(head, Then::Listen)).await;
        let clock = Arc::new(SetClock::default());
        let graph = graph_at(&login.root(), PATIENT, &clock);
        for (moved, left, requests) in [(0, rest, 1), (rest - 1, 1, 1)] {
            clock.advance(Duration::from_secs(moved));
            let retry_after = Some(Duration::from_secs(left));
            let event = graph.poll(by_connection()).await.event;
            assert_eq!(event, Event::Unpolled(Hindrance::Trouble { retry_after }), "{asked:?}");
            assert_eq!(login.arrived().len(), requests, "{asked:?}");
        }
        clock.advance(Duration::from_secs(1));
        graph.poll(by_connection()).await;
        assert_eq!(login.arrived().len(), 2, "{asked:?}");
    }
}

#[tokio::test]
async fn no_redirect_takes_a_token_or_a_client_secret_elsewhere() {
    let elsewhere = Peer::start(running("")).await;
    let port = elsewhere.port;
    for status in [301, 302, 303, 307, 308] {
        for location in [
            format!("http://127.0.0.1:{port}/v1.0/me"),
            format!("//127.0.0.1:{port}/oauth2/v2.0/token"),
            format!("http://graph.microsoft.com@127.0.0.1:{port}/"),
        ] {
            let head = format!(
                "HTTP/1.1 {status} X\r\nlocation: {location}\r\nrefresh: 0; url={location}\r\n\
                 content-length: 0\r\n\r\n"
            );
            let peer = Peer::start(Told::new(head, Then::Listen)).await;
            let graph = graph_at(&peer.root(), PATIENT, &Arc::default());
            let event = graph.poll(by_token()).await.event;
            assert_eq!(event, Event::Polled(Answer::Rejected), "{status} {location}");
            let retry_after = Some(Duration::from_secs(5));
            let event = graph.poll(by_connection()).await.event;
            assert_eq!(event, Event::Unpolled(Hindrance::Trouble { retry_after }), "{status}");
            assert_eq!(peer.arrived().len(), 2, "{status} {location}");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_a_poll_costs_that_poll_and_no_second_request() {
    for then in [Then::Reset, Then::Close] {
        let peer = Peer::start_with([running(""), Told::new("", then), running("")]).await;
        let graph = graph_at(&peer.root(), PATIENT, &Arc::default());
        assert_eq!(graph.poll(by_token()).await.event, STILL_RUNNING);
        assert_eq!(graph.poll(by_token()).await.event, TROUBLE, "{then:?}");
        assert_eq!(peer.arrived().len(), 2, "{then:?}");
        assert_eq!(graph.poll(by_token()).await.event, STILL_RUNNING, "{then:?}");
        assert_eq!((peer.arrived().len(), peer.connections()), (3, 2), "{then:?}");
    }
}
