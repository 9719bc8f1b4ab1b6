//! What keeps an attempt from being answered.

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::super::super::stand_in::SilentNames;
use super::*;

const ADDRESS_REFUSED: Failure = Failure::Refused(RefusalCode::AddressRefused);

/// Nothing was answered, for this reason.
#[track_caller]
fn assert_failed(receipt: &Receipt, failure: Failure) {
    assert_eq!(receipt.failure, Some(failure), "{:?}", receipt.detail);
    assert_eq!((receipt.status, receipt.answer.len()), (None, 0));
    let detail = receipt.detail.as_deref().unwrap_or_default();
    assert!((1..=LONGEST_DETAIL).contains(&detail.len()), "{detail:?}");
    let is_refusal = matches!(failure, Failure::Refused(_));
    let unwell = Reply::Unwell { retry_after: None };
    assert_eq!(receipt.reply, if is_refusal { Reply::AddressRefused } else { unwell });
}

#[tokio::test]
async fn a_name_without_an_address_is_told_apart_from_a_receiver_that_fails() {
    let desk = desk(PATIENT);
    let unavailable = LookupError::Unavailable("refused".to_owned());
    for (trouble, failure) in [
        (LookupError::NotFound, Failure::NameNotResolved),
        (unavailable, Failure::NameNotResolved),
        (LookupError::TimedOut, Failure::TimedOut(Phase::Resolving)),
    ] {
        desk.names.fail("receiver.example", trouble);
        let receipt = desk.deliver("http://receiver.example/hooks").await;
        assert_failed(&receipt, failure);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_name_server_does_not_pass_for_a_silent_receiver() {
    let clock = Arc::new(SetClock::at(NOON));
    let egress = Egress::new(any_port(), Arc::new(SilentNames), Arc::clone(&clock) as _);
    let courier = courier(egress, clock, PATIENT, None);
    let receipt = courier.deliver(parcel("http://receiver.example/hooks")).await;
    assert_failed(&receipt, Failure::TimedOut(Phase::Resolving));
    assert!(receipt.took < CONNECT_WITHIN, "{:?}", receipt.took);
}

#[tokio::test]
async fn a_literal_that_is_not_allowed_is_not_dialled() {
    let receiver = Receiver::start(answer(200, "", "")).await;
    let desk = desk_with(&[], PATIENT, None);
    for host in ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"] {
        let receipt = desk.deliver(&format!("http://{host}:{}/hooks", receiver.port)).await;
        assert_failed(&receipt, ADDRESS_REFUSED);
    }
    assert_eq!((receiver.connections(), desk.names.asked()), (0, 0));
}

#[tokio::test]
async fn a_name_that_was_well_at_registration_is_refused_when_it_leads_inside() {
    let receiver = Receiver::start(answer(200, "", "")).await;
    let desk = desk_with(&[], PATIENT, None);
    let url = format!("http://rebinding.example:{}/hooks", receiver.port);
    desk.names.tell("rebinding.example", &["8.8.8.8"]);
    let egress = &desk.courier.egress;
    egress.check_host(&egress.check_url(&url).unwrap()).await.unwrap();
    for inside in [
        &["127.0.0.1"][..],
        &["::ffff:127.0.0.1"],
        &["169.254.169.254"],
        &["fd00:ec2::254"],
        &["127.0.0.1", "8.8.8.8"],
        &["8.8.8.8", "127.0.0.1"],
    ] {
        desk.names.tell("rebinding.example", inside);
        let receipt = desk.deliver(&url).await;
        assert_failed(&receipt, ADDRESS_REFUSED);
        assert!(receipt.took < CONNECT_WITHIN, "something was dialled");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn one_address_that_is_not_allowed_keeps_the_others_from_being_dialled() {
    let receiver = Receiver::start(answer(200, "", "")).await;
    let desk = desk(PATIENT);
    desk.names.tell("mixed.example", &["127.0.0.1", "10.0.0.7"]);
    let receipt = desk.deliver(&format!("http://mixed.example:{}/hooks", receiver.port)).await;
    assert_failed(&receipt, ADDRESS_REFUSED);
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_receiver_that_is_not_there_refuses_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    drop(listener);
    assert_failed(&desk(PATIENT).deliver(&url).await, Failure::ConnectRefused);
}

#[tokio::test]
async fn where_no_way_leads_is_told_apart() {
    // Nobody is connected to by TCP at an address of many.
    let desk = desk_with(&["224.0.0.0/4"], PATIENT, None);
    let receipt = desk.deliver("http://224.0.0.1:8080/hooks").await;
    assert_failed(&receipt, Failure::ConnectUnreachable);
}

#[tokio::test]
async fn a_connection_that_is_not_taken_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts, so the queue of the listener fills, and the next in line waits.
    let mut queue = Vec::new();
    while let Ok(next) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queue.push(next.unwrap());
        assert!(queue.len() < 100, "the queue has no end");
    }
    let receipt = desk(IMPATIENT).deliver(&format!("http://{address}/hooks")).await;
    assert_failed(&receipt, Failure::TimedOut(Phase::Connecting));
    assert!(receipt.took < IMPATIENT, "the deadline for connecting is the shorter one");
}

#[tokio::test]
async fn a_secure_connection_that_is_not_answered_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/hooks", listener.local_addr().unwrap());
    assert_failed(&desk(IMPATIENT).deliver(&url).await, Failure::TimedOut(Phase::Securing));
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_not_waited_for() {
    for begun in ["", "HTTP/1.1 200 OK\r\nserver: x\r\n"] {
        let receipt = delivered(IMPATIENT, Told::new(begun, Then::Stall)).await;
        assert_failed(&receipt, Failure::TimedOut(Phase::Waiting));
        assert!((IMPATIENT..PATIENT).contains(&receipt.took), "{:?}", receipt.took);
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_lost() {
    for begun in ["", "HTTP/1.1 200 OK\r\nserver: x\r\n"] {
        let receipt = delivered(PATIENT, Told::new(begun, Then::Close)).await;
        assert_failed(&receipt, Failure::ClosedEarly);
    }
}

#[tokio::test]
async fn what_is_not_http_is_malformed() {
    for odd in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "220 mail.example ESMTP\r\n",
        "<html></html>\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
    ] {
        let receipt = delivered(PATIENT, Told::new(odd, Then::Stall)).await;
        assert_failed(&receipt, Failure::AnswerMalformed);
    }
}
