//! All that a receiver may do to harm us: what it comes to, and what follows from it.

use futures_util::future::join_all;

use super::*;
use crate::callback::{self, Decision, Event, State, decide, owe};
use crate::lane::{self, Kind, Lane, Report};
use crate::tests::hostile::{Act, Hostile, Identities, Listening, Way};

/// Long enough for each of a hundred exchanges at a time to come as far as it does.
const WITHIN: Duration = Duration::from_secs(10);

/// What the kernel takes of a flood that nobody reads, on both sides of a loopback connection.
const BUFFERED: usize = 16 * 1_024 * 1_024;

/// The window of a stream of HTTP/2 has no room for it.
const LARGE: usize = 100_000;

/// What the receipt's reply makes of a callback and of its lane.
fn next_step(reply: Reply) -> String {
    let policy = callback::Policy::default();
    let id = CallbackId { operation: OperationId(7), number: 1 };
    let owed = owe(&policy, id, NOON);
    let Decision::Become(after) = decide(&policy, &owed, Event::Attempted(reply), NOON) else {
        panic!("the first attempt is not ignored");
    };
    let callback = match after.state {
        State::Pending { next_attempt_at, .. } => {
            let wait = next_attempt_at.duration_since(NOON).as_secs();
            // With its jitter.
            format!("again in {} s", if (5..7).contains(&wait) { 5 } else { wait })
        }
        State::Delivered { .. } => "delivered".to_owned(),
        State::Undeliverable { reason, .. } => reason.as_str().to_owned(),
    };
    let policy = lane::Policy::default();
    let mut lane = Lane { allowance: 16, ..Lane::new(Kind::Callback, &policy) };
    lane.settle(&policy, 1, Report::of_attempt(reply), NOON);
    let pause = lane.free_at(NOON).duration_since(NOON).as_secs();
    format!("{callback}, lane of {} paused {pause} s", lane.allowance)
}

/// Where chance has it which of two ends of a connection is seen first.
fn told(failure: Failure) -> &'static str {
    let is_end = matches!(failure, Failure::ClosedEarly | Failure::ResetByReceiver);
    if is_end { "closedEarly or resetByReceiver" } else { failure.as_str() }
}

fn row(hostile: &Hostile, receipt: &Receipt) -> String {
    let Hostile { way, name, .. } = hostile;
    let ends = matches!(hostile.acts.last(), Some(Act::Close | Act::Reset));
    let is_up_to_chance =
        ends && *way == Way::Http2 || *name == "the end before the request is read";
    let failure = match receipt.failure {
        Some(failure) if is_up_to_chance => told(failure),
        Some(failure) => failure.as_str(),
        None => "",
    };
    let status = receipt.status.map(|it| it.to_string()).unwrap_or_default();
    let way = format!("{way:?}");
    let next = next_step(receipt.reply);
    format!("{way:<14} {name:<52} {status:<4} {failure:<32} {next}")
}

#[tokio::test]
async fn whatever_a_receiver_does_is_bounded_and_has_its_class_and_its_next_step() {
    let identities = Identities::new();
    let desk = desk_with(&["127.0.0.0/8"], WITHIN, Some(&identities.roots()));
    let all = Hostile::all();
    let listening: Vec<Listening> = join_all(all.iter().map(|it| it.start(&identities))).await;
    let attempts = all.iter().zip(&listening).map(|(hostile, at)| {
        let mut parcel = parcel(&at.url);
        if matches!(hostile.name, "no streams" | "a window of nothing") {
            parcel.body = vec![b' '; LARGE].into();
        }
        desk.courier.deliver(parcel)
    });
    let mut table = String::new();
    for ((hostile, at), receipt) in all.iter().zip(&listening).zip(join_all(attempts).await) {
        let name = hostile.name;
        assert!(receipt.took < WITHIN + WITHIN / 2, "{name}: {:?}", receipt.took);
        assert!(receipt.answer.len() <= KEPT, "{name}: {}", receipt.answer.len());
        assert!(at.flooded() < BUFFERED, "{name}: {} bytes were read", at.flooded());
        assert_eq!(at.connections(), 1, "{name} was connected to more than once");
        let detail = receipt.detail.as_deref().unwrap_or_default();
        assert_eq!(receipt.failure.is_some(), !detail.is_empty(), "{name}: {detail}");
        table += row(hostile, &receipt).trim_end();
        table += "\n";
    }
    insta::assert_snapshot!(table);
}

#[tokio::test]
async fn who_floods_is_heard_of_as_much_as_is_bounded_and_then_hung_up_on() {
    let identities = Identities::new();
    let desk = desk_with(&["127.0.0.0/8"], PATIENT, Some(&identities.roots()));
    for name in ["interim answers without end", "pings without end", "settings without end"] {
        let all = Hostile::all();
        let hostile = all.iter().find(|it| it.name == name && it.way != Way::Http1).unwrap();
        let at = hostile.start(&identities).await;
        let receipt = desk.deliver(&at.url).await;
        assert_eq!(receipt.failure, Some(Failure::AnswerTooLarge), "{name}: {:?}", receipt.detail);
        assert!(receipt.took < PATIENT, "{name}: {:?}", receipt.took);
    }
}
