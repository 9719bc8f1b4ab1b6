//! Graph and its token endpoint by https: certificates, streams, and what is sent before trust.

use h2::Reason;
use h2::server::SendResponse;

use super::*;
use crate::tests::peer::{Peer, Then, Told};
use crate::tests::secure::{Connected, identity, streams};

const HOST: &str = "localhost";

#[tokio::test]
async fn without_a_certificate_to_believe_neither_a_token_nor_a_client_secret_leaves() {
    let good = identity(HOST, 4_000, "http/1.1");
    let other = identity("other.example", 4_000, "http/1.1");
    let expired = identity(HOST, 2_001, "http/1.1");
    for (identity, believed) in [
        (&good, None),
        (&good, Some(&other.pem)),
        (&other, Some(&other.pem)),
        (&expired, Some(&expired.pem)),
        (&good, Some(&good.pem)),
    ] {
        let is_good = believed == Some(&good.pem);
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{RUNNING}", RUNNING.len());
        let peer = Peer::start_tls(identity.acceptor.clone(), Told::new(text, Then::Listen)).await;
        let root = format!("https://{HOST}:{}", peer.port);
        let believed = believed.map(String::as_str);
        let graph = graph_between(&root, &root, PATIENT, &Arc::default(), believed);

        let event = graph.poll(by_token()).await.event;
        assert_eq!(event, if is_good { STILL_RUNNING } else { TROUBLE });
        assert_eq!(peer.arrived().len(), usize::from(is_good));
        let event = graph.poll(by_connection()).await.event;
        let retry_after = Some(Duration::from_secs(5));
        assert_eq!(event, Event::Unpolled(Hindrance::Trouble { retry_after }));
        assert_eq!(peer.arrived().len(), 2 * usize::from(is_good));
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_and_a_connection_that_goes_away_are_one_request_each() {
    type Respond = fn(&mut Connected, SendResponse<Bytes>);
    let refuse: Respond = |_, mut response| response.send_reset(Reason::REFUSED_STREAM);
    let cancel: Respond = |_, mut response| response.send_reset(Reason::CANCEL);
    let go_away: Respond = |connection, _| connection.abrupt_shutdown(Reason::NO_ERROR);
    let calm_down: Respond = |connection, _| connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    for respond in [refuse, cancel, go_away, calm_down] {
        let identity = identity(HOST, 4_000, "h2");
        let (port, mut arrivals) = streams(identity.acceptor, respond).await;
        let root = format!("https://{HOST}:{port}");
        let graph = graph_between(&root, &root, PATIENT, &Arc::default(), Some(&identity.pem));
        assert_eq!(graph.poll(by_token()).await.event, TROUBLE);
        let arrived = arrivals.try_recv().unwrap();
        assert_eq!(arrived.headers()["authorization"], "Bearer handed-in");
        assert!(arrivals.try_recv().is_err(), "it was sent again within the poll");

        let event = graph.poll(by_connection()).await.event;
        let retry_after = Some(Duration::from_secs(5));
        assert_eq!(event, Event::Unpolled(Hindrance::Trouble { retry_after }));
        assert_eq!(arrivals.try_recv().unwrap().method(), "POST");
        assert!(arrivals.try_recv().is_err(), "a token was asked for again");
    }
}
