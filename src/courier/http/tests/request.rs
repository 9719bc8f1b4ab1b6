//! What goes over the wire to the receiver, and what is logged of it.

use standardwebhooks::Webhook;

use super::*;
use crate::courier::{ExtraHeader, FixedHeaders};
use crate::tests::log::Log;

/// What follows the host in a URL, for nobody but the receiver.
const HIDDEN: &str = "/hooks/in-the-path?key=in-the-query";

/// What another implementation signs the message with.
fn signed(secret: &str, timestamp: i64) -> String {
    Webhook::new(secret).unwrap().sign(ID, timestamp, BODY.as_bytes()).unwrap()
}

#[tokio::test]
async fn the_request_is_one_signed_post_and_says_nothing_more() {
    let receiver = Receiver::start(answer(204, "", "")).await;
    let receipt = desk(PATIENT).deliver(&receiver.url("/hooks/a%20b?key=1&key=2")).await;
    assert_eq!(receipt.reply, Reply::Accepted);

    let arrived = receiver.arrived();
    let [request] = arrived.as_slice() else { panic!("{arrived:?}") };
    let mut lines: Vec<&str> = request.head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /hooks/a%20b?key=1&key=2 HTTP/1.1");
    lines.sort_unstable();
    let (port, length, version) = (receiver.port, BODY.len(), env!("CARGO_PKG_VERSION"));
    assert_eq!(
        lines,
        [
            "accept: */*",
            &format!("content-length: {length}"),
            "content-type: application/json",
            &format!("host: 127.0.0.1:{port}"),
            &format!("user-agent: engagement-bridge/{version}"),
            &format!("webhook-id: {ID}"),
            &format!("webhook-signature: {}", signed(FIRST_SECRET, 1_800_000_000)),
            "webhook-timestamp: 1800000000",
        ]
    );
    assert_eq!(request.body, BODY.as_bytes());
}

#[tokio::test]
async fn each_live_secret_signs_newest_first() {
    let receiver = Receiver::start(answer(204, "", "")).await;
    let mut parcel = parcel(&receiver.url("/hooks"));
    parcel.signers.secrets =
        [SECOND_SECRET, FIRST_SECRET].map(|secret| secret.parse().unwrap()).into();
    assert_eq!(desk(PATIENT).courier.deliver(parcel).await.reply, Reply::Accepted);
    let [second, first] = [SECOND_SECRET, FIRST_SECRET].map(|it| signed(it, 1_800_000_000));
    assert_eq!(receiver.arrived()[0].header("webhook-signature"), format!("{second} {first}"));
}

#[tokio::test]
async fn what_was_composed_and_what_the_caller_adds_goes_along_and_ours_stays_ours() {
    let receiver = Receiver::start(answer(204, "", "")).await;
    let mut parcel = parcel(&receiver.url("/hooks"));
    let composed = "content-type: application/cloudevents+json\nbridge-client-state: \n\
        webhook-id: msg_forged\n";
    parcel.headers = FixedHeaders::from(composed.to_owned());
    let header = |name, value: &str| ExtraHeader::new(name, value.into()).unwrap();
    parcel.extra_headers =
        vec![header("x-gateway", "planted"), header("authorization", "Basic eA==")];
    assert_eq!(desk(PATIENT).courier.deliver(parcel).await.reply, Reply::Accepted);
    let request = &receiver.arrived()[0];
    assert_eq!(request.header("content-type"), "application/cloudevents+json");
    assert_eq!(request.header("bridge-client-state"), "");
    assert_eq!(request.header("x-gateway"), "planted");
    assert_eq!(request.header("authorization"), "Basic eA==");
    assert_eq!(request.header("webhook-id"), ID);
}

#[tokio::test]
async fn another_attempt_is_the_same_message_signed_anew_over_the_same_connection() {
    let receiver = Receiver::start(answer(500, "", "no")).await;
    let desk = desk(PATIENT);
    desk.deliver(&receiver.url("/hooks")).await;
    desk.clock.advance(Duration::from_millis(5_999));
    desk.deliver(&receiver.url("/hooks")).await;

    let arrived = receiver.arrived();
    let [first, second] = arrived.as_slice() else { panic!("{arrived:?}") };
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(second.header("webhook-timestamp"), "1800000005");
    assert_eq!(second.header("webhook-signature"), signed(FIRST_SECRET, 1_800_000_005));
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn neither_log_nor_detail_tells_the_path_the_query_or_a_secret() {
    let log = Log::collect();

    let desk = desk(IMPATIENT);
    desk.names.tell("inside.example", &["10.0.0.7"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let mut urls = vec![
        format!("http://10.0.0.7{HIDDEN}"),
        format!("http://inside.example{HIDDEN}"),
        format!("http://absent.example{HIDDEN}"),
        format!("http://{closed}{HIDDEN}"),
        format!("http://user@app.example{HIDDEN}"),
        format!("http://app .example{HIDDEN}"),
    ];
    let elsewhere = format!("location: http://app.example{HIDDEN}\r\n");
    let mut receivers = Vec::new();
    for told in [
        answer(204, "", ""),
        answer(500, "", "no"),
        answer(302, &elsewhere, "no"),
        Told::new("SSH-2.0-OpenSSH\r\n", Then::Stall),
        Told::new("", Then::Close),
        Told::new("", Then::Stall),
    ] {
        let receiver = Receiver::start(told).await;
        urls.push(receiver.url(HIDDEN));
        urls.push(receiver.url(HIDDEN).replace("http:", "https:"));
        receivers.push(receiver);
    }
    let mut details = String::new();
    for url in &urls {
        details += &desk.deliver(url).await.detail.unwrap_or_default();
    }

    let log = log.text();
    assert_eq!(log.matches(&format!("callback.id={ID}")).count(), urls.len(), "\n{log}");
    for named in ["host=\"127.0.0.1\"", "status=500", "took_ms=", "failure=\"answerMalformed\""] {
        assert!(log.contains(named), "{named} is not in\n{log}");
    }
    let [_, secret] = FIRST_SECRET.split('_').collect::<Vec<_>>()[..] else { panic!() };
    for hidden in ["in-the-path", "in-the-query", secret] {
        assert!(!log.contains(hidden), "{hidden} is in\n{log}");
        assert!(!details.contains(hidden), "{hidden} is in\n{details}");
    }
}
