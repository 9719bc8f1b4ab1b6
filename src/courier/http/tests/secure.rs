//! Receivers by https.

use h2::server::SendResponse;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::super::super::failure::TlsFault;
use super::*;
use crate::tests::secure::{Connected, identity, identity_between, streams};

const HOST: &str = "receiver.example";

/// A courier that believes `root_pem`, for which the receiver's name leads to loopback.
fn desk_believing(root_pem: Option<&str>, within: Duration) -> Desk {
    let desk = desk_with(&["127.0.0.0/8"], within, root_pem);
    desk.names.tell(HOST, &["127.0.0.1"]);
    desk
}

#[tokio::test]
async fn a_certificate_counts_if_it_is_believed_for_this_name_and_not_expired() {
    let good = identity(HOST, 4_000, "http/1.1");
    let other = identity("other.example", 4_000, "http/1.1");
    let expired = identity(HOST, 2_001, "http/1.1");
    let early = identity_between(3_000, 4_000, HOST, "http/1.1");
    for (identity, believed, fault, word) in [
        (&good, Some(&good.pem), None, ""),
        (&good, None, Some(TlsFault::UnknownIssuer), "vouches"),
        (&good, Some(&other.pem), Some(TlsFault::UnknownIssuer), "vouches"),
        (&other, Some(&other.pem), Some(TlsFault::WrongName), "another name"),
        (&expired, Some(&expired.pem), Some(TlsFault::CertificateExpired), "expired"),
        (&early, Some(&early.pem), Some(TlsFault::CertificateNotYetValid), "not valid yet"),
    ] {
        let failure = fault.map(Failure::Tls);
        let receiver = Receiver::start_tls(identity.acceptor.clone(), answer(200, "", "")).await;
        let desk = desk_believing(believed.map(String::as_str), PATIENT);
        let receipt = desk.deliver(&format!("https://{HOST}:{}/hooks", receiver.port)).await;
        assert_eq!(receipt.failure, failure, "{:?}", receipt.detail);
        assert_eq!(receiver.arrived().len(), usize::from(failure.is_none()));
        assert_eq!(receipt.reply == Reply::Accepted, failure.is_none());
        let detail = receipt.detail.unwrap_or_default();
        assert!(detail.contains(word), "{word:?} is not in {detail:?}");
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_is_no_secure_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let speaking = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        pending::<()>().await;
    };
    drop(TaskTracker::new().spawn(speaking));
    let receipt = desk_believing(None, PATIENT).deliver(&format!("https://{HOST}:{port}/")).await;
    assert_eq!(receipt.failure, Some(Failure::Tls(TlsFault::Other)), "{:?}", receipt.detail);
}

#[tokio::test]
async fn a_secure_connection_that_is_tampered_with_is_told_from_an_answer_that_is_malformed() {
    let identity = identity(HOST, 4_000, "http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tampering = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = identity.acceptor.accept(stream).await.unwrap();
        stream.get_mut().0.write_all(b"in the clear").await.unwrap();
        pending::<()>().await;
    };
    drop(TaskTracker::new().spawn(tampering));
    let desk = desk_believing(Some(&identity.pem), PATIENT);
    let receipt = desk.deliver(&format!("https://{HOST}:{port}/")).await;
    assert_eq!(receipt.failure, Some(Failure::Tls(TlsFault::Other)), "{:?}", receipt.detail);
}

#[tokio::test]
async fn a_receiver_of_http_2_gets_the_same_message() {
    let identity = identity(HOST, 4_000, "h2");
    let respond = |_: &mut Connected, mut response: SendResponse<Bytes>| {
        let answer = http::Response::builder().status(429).header("retry-after", "7");
        response.send_response(answer.body(()).unwrap(), true).unwrap();
    };
    let (port, mut arrivals) = streams(identity.acceptor, respond).await;
    let url = format!("https://{HOST}:{port}/hooks?key=1");
    let receipt = desk_believing(Some(&identity.pem), PATIENT).deliver(&url).await;
    let retry_after = Some(Duration::from_secs(7));
    assert_eq!(receipt.reply, Reply::Unwell { retry_after }, "{:?}", receipt.detail);
    let request = arrivals.try_recv().unwrap();
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), url.as_str());
    assert_eq!(request.headers()["webhook-id"], ID);
    assert_eq!(request.headers()["webhook-timestamp"], "1800000000");
    let body = request.into_body().data().await.unwrap().unwrap();
    assert_eq!(body, BODY);
}

#[tokio::test]
async fn a_stream_that_is_refused_is_an_attempt_and_no_more_than_one() {
    let identity = identity(HOST, 4_000, "h2");
    let respond = |_: &mut Connected, mut response: SendResponse<Bytes>| {
        response.send_reset(h2::Reason::REFUSED_STREAM);
    };
    let (port, mut arrivals) = streams(identity.acceptor, respond).await;
    let url = format!("https://{HOST}:{port}/hooks?key=1");
    let receipt = desk_believing(Some(&identity.pem), PATIENT).deliver(&url).await;
    assert_eq!(receipt.failure, Some(Failure::ResetByReceiver), "{:?}", receipt.detail);
    assert!(arrivals.try_recv().is_ok());
    assert!(arrivals.try_recv().is_err(), "it was sent again within the attempt");
}
