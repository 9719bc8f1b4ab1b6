//! What a receiver can cost us at the most.

use super::*;

/// Room for what the kernel buffers on both sides of a loopback connection.
const BUFFERED: usize = 32 * 1_024 * 1_024;

const LINE: &str = "0123456789abcdef";

#[tokio::test]
async fn a_body_without_end_is_read_so_far_and_kept_less_far() {
    let told = Told::new("HTTP/1.1 500 X\r\n\r\n", Then::Flood(LINE));
    let receiver = Receiver::start(told).await;
    let receipt = desk(PATIENT).deliver(&receiver.url("/hooks")).await;
    assert_eq!(receipt.reply, Reply::Unwell { retry_after: None });
    assert_eq!(receipt.failure, None, "{:?}", receipt.detail);
    assert_eq!(receipt.answer, LINE.repeat(KEPT / LINE.len()));
    // It was not for want of time.
    assert!(receipt.took < PATIENT);
    assert!(receiver.flooded() < BUFFERED);
}

#[tokio::test]
async fn sixteen_kilobytes_of_an_answer_are_read_and_not_one_more() {
    let begun =
        |length| format!("HTTP/1.1 500 X\r\ncontent-length: 99999\r\n\r\n{:x<1$}", "", length);
    let receipt = delivered(PATIENT, Told::new(begun(READ), Then::Stall)).await;
    assert_eq!((receipt.failure, receipt.answer.len()), (None, KEPT));
    let receipt = delivered(IMPATIENT, Told::new(begun(READ - 1), Then::Stall)).await;
    assert_eq!(
        (receipt.failure, receipt.answer.len()),
        (Some(Failure::TimedOut(Phase::Reading)), KEPT)
    );
}

#[tokio::test]
async fn an_answer_that_trickles_is_not_waited_for() {
    // Each chunk is small, and READ is far away.
    let told =
        Told::new("HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n", Then::Drip("1\r\nx\r\n"));
    let receipt = delivered(IMPATIENT, told).await;
    assert_eq!(receipt.failure, Some(Failure::TimedOut(Phase::Reading)), "{:?}", receipt.detail);
    assert!((IMPATIENT..PATIENT).contains(&receipt.took), "{:?}", receipt.took);
    assert!(receipt.answer.starts_with(b"xx"), "{:?}", receipt.answer);
}

#[tokio::test]
async fn headers_without_end_are_a_failure_long_before_the_deadline() {
    let single = Told::new("HTTP/1.1 200 OK\r\nx: ", Then::Flood(LINE));
    let many = Told::new("HTTP/1.1 200 OK\r\n", Then::Flood("x: 0123456789\r\n"));
    for told in [single, many] {
        let receiver = Receiver::start(told).await;
        let receipt = desk(PATIENT).deliver(&receiver.url("/hooks")).await;
        assert_eq!(receipt.failure, Some(Failure::AnswerTooLarge), "{:?}", receipt.detail);
        assert_eq!((receipt.status, receipt.answer.len()), (None, 0));
        assert!(receipt.took < PATIENT);
        assert!(receiver.flooded() < BUFFERED);
    }
}

#[tokio::test]
async fn a_flood_of_interim_answers_ends_long_before_the_deadline() {
    for interim in
        ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"]
    {
        let receipt = delivered(PATIENT, Told::new("", Then::Flood(interim))).await;
        assert_eq!(receipt.failure, Some(Failure::AnswerTooLarge), "{:?}", receipt.detail);
        assert!(receipt.took < PATIENT, "{:?}", receipt.took);
    }
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer() {
    let told = Told::new(
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
        Then::Listen,
    );
    assert_eq!(delivered(PATIENT, told).await.reply, Reply::Gone);
}
