//! What receivers have agreed to, and what follows from it.

use std::num::NonZeroU32;
use std::time::Duration;

use engagement_bridge::callback::Reply;
use engagement_bridge::graph::Credential;
use engagement_bridge::lane::{LaneName, Rate};
use engagement_bridge::operation::{Answer, OperationId};
use engagement_bridge::store::{Committed, Handshake, Idempotency, Registered, Registration};
use jiff::Timestamp;

use super::{Bench, attempted, laws, polled};
use crate::support::{NOON, after, body, connection, registration, seconds, token};

laws![
    what_a_receiver_has_agreed_to_is_read_back_until_it_agrees_to_something_else,
    without_consent_a_registration_is_answered_from_what_is_there,
    a_rate_holds_on_a_lane_and_on_one_that_is_made_anew,
    another_rate_holds_from_the_next_claim_on,
    handshakes_are_forgotten_in_time_and_their_rates_with_them,
];

/// A minute by the clock of lanes.
const MINUTE: Duration = Duration::from_secs(61);

const MOMENT: Duration = Duration::from_millis(1);

/// The lane of the receiver of all registrations.
fn lane() -> LaneName {
    LaneName::callback("contoso", "https://app.example.com:443")
}

fn agreed(agreed_at: Timestamp, rate: Option<u32>) -> Handshake {
    let rate = rate.and_then(NonZeroU32::new).map(Rate::per_minute);
    Handshake { form: "cloudEvents as bridge.example.com".to_owned(), agreed_at, rate }
}

/// Lets these operations come to an end, so that each owes a callback.
async fn owe(bench: &Bench, numbers: std::ops::RangeInclusive<u32>, now: Timestamp) {
    let on_its_own_lane = |n| Registration {
        credential: token(&format!("token-{n}"), after(1_000_000)),
        ..registration(n)
    };
    bench.keep(numbers.map(on_its_own_lane)).await;
    for claimed in bench.claim_at(now, 100).await {
        bench.commit_one(polled(claimed, Answer::Gone, now)).await;
    }
}

/// Delivers what it may deliver now; how many attempts came together each time.
async fn delivered(bench: &Bench, now: Timestamp) -> Vec<usize> {
    let mut together = Vec::new();
    loop {
        let claimed = bench.claim_at(now, 100).await;
        if claimed.is_empty() {
            return together;
        }
        together.push(claimed.len());
        for claimed in claimed {
            let commit = attempted(claimed, Reply::Accepted, now);
            assert_eq!(bench.commit_one(commit).await, Committed::Saved);
        }
    }
}

async fn what_a_receiver_has_agreed_to_is_read_back_until_it_agrees_to_something_else(
    bench: &Bench,
) {
    assert_eq!(bench.handshake(&lane()).await.unwrap(), None);
    let other = LaneName::callback("contoso", "https://app.example.com:8443");
    for handshake in [
        agreed(NOON, Some(120)),
        agreed(after(1), None),
        agreed(after(2), Some(u32::MAX)),
        Handshake { form: "graph".to_owned(), ..agreed(after(3), None) },
    ] {
        bench.keep_handshake(&lane(), handshake.clone()).await.unwrap();
        assert_eq!(bench.handshake(&lane()).await.unwrap(), Some(handshake));
        assert_eq!(bench.handshake(&other).await.unwrap(), None);
    }
}

async fn without_consent_a_registration_is_answered_from_what_is_there(bench: &Bench) {
    let unagreed = |n: u32| {
        let idempotency =
            Idempotency { key: "key".to_owned(), request: [1; 32], answer: body("the first") };
        let idempotency = Some(idempotency);
        Registration { idempotency, is_agreed: false, ..registration(n) }
    };
    assert!(matches!(bench.register_one(unagreed(1)).await, Registered::NotAgreed));
    assert!(bench.operation(OperationId(1)).await.unwrap().is_none());
    assert!(bench.claim_at(after(60), 10).await.is_empty());

    // Its key is as good as new.
    bench.keep([Registration { is_agreed: true, ..unagreed(2) }]).await;
    let replayed = bench.register_one(unagreed(3)).await;
    assert!(matches!(replayed, Registered::Replayed { operation: OperationId(2), .. }));
    let mut reused = unagreed(4);
    reused.idempotency.as_mut().unwrap().request = [2; 32];
    assert!(matches!(bench.register_one(reused).await, Registered::KeyReused));
    let again = Registration {
        reference: registration(2).reference,
        idempotency: None,
        is_agreed: false,
        ..registration(5)
    };
    assert!(matches!(bench.register_one(again).await, Registered::Existing(_)));

    // What would be refused is refused, and nobody need be asked.
    let without_key = Registration { idempotency: None, ..unagreed(6) };
    let full = Registration { live_limit: 1, ..without_key.clone() };
    assert!(matches!(bench.register_one(full).await, Registered::LimitReached));
    let credential = Credential::Connection(connection("fabrikam").into());
    let strange = Registration { credential, ..without_key.clone() };
    assert!(matches!(bench.register_one(strange).await, Registered::CredentialGone));

    // Beside others it takes nothing from them.
    let mixed = vec![without_key, registration(7)];
    let answers = bench.register(mixed).await.unwrap();
    assert!(matches!(answers[..], [Registered::NotAgreed, Registered::New]), "{answers:?}");
    let live = Registration { live_limit: 3, ..registration(8) };
    bench.keep([live]).await;
}

async fn a_rate_holds_on_a_lane_and_on_one_that_is_made_anew(bench: &Bench) {
    // Before there is any lane.
    bench.keep_handshake(&lane(), agreed(NOON, Some(3))).await.unwrap();
    let mut now = after(60);
    owe(bench, 1..=7, now).await;
    assert_eq!(delivered(bench, now).await, [1, 1, 1]);
    assert!(bench.next_due().await.unwrap().unwrap() <= now + MINUTE);
    assert_eq!(delivered(bench, now + MINUTE - MOMENT).await, [0; 0]);
    now += MINUTE;
    assert_eq!(delivered(bench, now).await, [3]);
    now += MINUTE;
    assert_eq!(delivered(bench, now).await, [1]);

    now += MINUTE;
    assert!(bench.claim_at(now, 100).await.is_empty());
    for _ in 0..3 {
        bench.forget(NOON, NOON, now, 100).await.unwrap();
    }
    owe(bench, 11..=14, now).await;
    // One at a time again: it is another lane.
    assert_eq!(delivered(bench, now).await, [1, 1, 1]);
    assert_eq!(delivered(bench, now + MINUTE - MOMENT).await, [0; 0]);
}

async fn another_rate_holds_from_the_next_claim_on(bench: &Bench) {
    let now = after(60);
    owe(bench, 1..=20, now).await;
    let first = bench.claim_one(now).await;
    bench.keep_handshake(&lane(), agreed(now, Some(2))).await.unwrap();
    bench.commit_one(attempted(first, Reply::Accepted, now)).await;
    assert_eq!(delivered(bench, now).await, [1]);
    let full = bench.next_due().await.unwrap().unwrap();
    assert!(now < full && full <= now + MINUTE, "{full}");

    bench.keep_handshake(&lane(), agreed(now, Some(5))).await.unwrap();
    let soon = bench.next_due().await.unwrap().unwrap();
    assert!(soon <= now, "there is room, and nobody would look before {soon}");
    assert_eq!(delivered(bench, now).await.iter().sum::<usize>(), 3);
    bench.keep_handshake(&lane(), agreed(now, None)).await.unwrap();
    assert_eq!(delivered(bench, now).await.iter().sum::<usize>(), 15);
}

async fn handshakes_are_forgotten_in_time_and_their_rates_with_them(bench: &Bench) {
    let now = after(60);
    owe(bench, 1..=5, now).await;
    bench.keep_handshake(&lane(), agreed(NOON, Some(1))).await.unwrap();
    let other = |n: u64| LaneName::callback("contoso", format!("https://{n}.example:443"));
    for n in 0..3 {
        bench.keep_handshake(&other(n), agreed(after(n + 1), None)).await.unwrap();
    }
    assert_eq!(delivered(bench, now).await, [1]);
    assert_eq!(bench.forget_handshakes(NOON, 10).await.unwrap(), 0);
    assert_eq!(bench.forget_handshakes(after(3), 2).await.unwrap(), 2);
    assert_eq!(bench.forget_handshakes(after(3), 2).await.unwrap(), 1);
    assert_eq!(bench.forget_handshakes(after(3), 2).await.unwrap(), 0);
    assert_eq!(bench.handshake(&lane()).await.unwrap(), None);
    assert_eq!(bench.handshake(&other(2)).await.unwrap(), Some(agreed(after(3), None)));
    // The slot that was taken by the rate counts for as long as it was to.
    let later = now + MINUTE + seconds(1);
    assert_eq!(delivered(bench, later).await.iter().sum::<usize>(), 4);
}
