//! What the answers of receivers mean.

use super::*;

#[tokio::test]
async fn each_status_means_what_it_should() {
    let (retry_after, unwell) = (None, Reply::Unwell { retry_after: None });
    for (statuses, expected) in [
        (&[200, 201, 202, 204, 226, 299][..], Reply::Accepted),
        (&[410], Reply::Gone),
        (&[429, 500, 501, 502, 503, 504, 599], unwell),
        (&[300, 301, 304, 400, 401, 403, 404, 408, 409, 422, 600], Reply::Refused { retry_after }),
    ] {
        for status in statuses {
            let receipt = delivered(PATIENT, answer(*status, "", "")).await;
            assert_eq!(receipt.reply, expected, "{status}");
            assert_eq!(receipt.status, Some(*status));
            assert_eq!((receipt.failure, receipt.detail), (None, None), "{status}");
        }
    }
}

#[tokio::test]
async fn retry_after_is_passed_on_in_all_its_forms() {
    let second = Duration::from_secs(1);
    for (asked, expected) in [
        ("120", Some(120 * second)),
        ("2.128", Some(Duration::from_millis(2_128))),
        ("0", Some(Duration::ZERO)),
        ("-5", Some(Duration::ZERO)),
        ("99999999999999999999999", Some(Duration::from_secs(u64::MAX))),
        ("Fri, 15 Jan 2027 08:01:30 GMT", Some(90 * second)),
        ("Friday, 15-Jan-27 08:01:30 GMT", Some(90 * second)),
        ("Fri, 15 Jan 2027 07:59:59 GMT", Some(Duration::ZERO)),
        ("soon", None),
        ("1e9", None),
        ("\u{fc}", None),
        ("", None),
    ] {
        let headers = format!("retry-after: {asked}\r\n");
        for status in [429, 503] {
            let receipt = delivered(PATIENT, answer(status, &headers, "")).await;
            assert_eq!(receipt.reply, Reply::Unwell { retry_after: expected }, "{asked:?}");
        }
        let receipt = delivered(PATIENT, answer(404, &headers, "")).await;
        assert_eq!(receipt.reply, Reply::Refused { retry_after: expected }, "{asked:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_a_refusal_and_its_target_is_never_asked() {
    let target = Receiver::start(answer(200, "", "")).await;
    let location = format!("location: {}\r\n", target.url("/elsewhere"));
    for status in [301, 302, 303, 307, 308] {
        let receiver = Receiver::start(answer(status, &location, "moved")).await;
        let receipt = desk(PATIENT).deliver(&receiver.url("/hooks")).await;
        assert_eq!(receipt.reply, Reply::Refused { retry_after: None }, "{status}");
        assert_eq!(receipt.status, Some(status));
        assert_eq!(receiver.arrived().len(), 1);
    }
    assert_eq!(target.connections(), 0);
}

/// Beginnings of a body that is never complete, and how it ends.
fn broken(status: u16) -> [(Told, Failure); 4] {
    let short = format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: 99\r\n\r\nbegun");
    let head =
        format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ntransfer-encoding: chunked\r\n\r\n");
    let unended = format!("{head}5\r\nbegun\r\n");
    let malformed = format!("{unended}x\r\n");
    [
        (Told::new(short.clone(), Then::Close), Failure::ClosedEarly),
        (Told::new(unended, Then::Close), Failure::ClosedEarly),
        (Told::new(short, Then::Stall), Failure::TimedOut(Phase::Reading)),
        (Told::new(malformed, Then::Stall), Failure::AnswerMalformed),
    ]
}

#[tokio::test]
async fn two_hundred_is_taken_though_its_body_never_ends() {
    for (told, _) in broken(200) {
        let receipt = delivered(IMPATIENT, told).await;
        assert_eq!((receipt.reply, receipt.status), (Reply::Accepted, Some(200)));
        assert_eq!(receipt.failure, None);
        assert_eq!(receipt.answer, "begun");
    }
}

#[tokio::test]
async fn the_status_counts_though_the_body_does_not_arrive() {
    let retry_after = Some(Duration::from_secs(7));
    for (status, expected) in [
        (410, Reply::Gone),
        (503, Reply::Unwell { retry_after }),
        (400, Reply::Refused { retry_after }),
    ] {
        for (told, failure) in broken(status) {
            let receipt = delivered(IMPATIENT, told).await;
            assert_eq!((receipt.reply, receipt.status), (expected, Some(status)));
            assert_eq!(receipt.failure, Some(failure), "{:?}", receipt.detail);
            assert!(receipt.detail.is_some());
            assert_eq!(receipt.answer, "begun");
        }
    }
}

#[tokio::test]
async fn the_answer_comes_back_as_it_is() {
    let receipt = delivered(PATIENT, answer(422, "content-encoding: gzip\r\n", "\u{1f}né")).await;
    assert_eq!(receipt.answer, "\u{1f}né");
    let receipt = delivered(PATIENT, answer(200, "", "")).await;
    assert_eq!(receipt.answer, "");
}
