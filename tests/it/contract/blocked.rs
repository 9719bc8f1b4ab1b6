//! Operations that wait for a credential, and connections that are repaired.

use engagement_bridge::lane::Report;
use engagement_bridge::operation::{Answer, Event, Operation, Outcome, Refusal, Renewal, State};
use engagement_bridge::store::{
    Change, Claimed, Commit, Committed, OperationFilter, Page, Waking, Work,
};
use jiff::Timestamp;

use super::{Bench, decided, laws, polled};
use crate::support::{NOON, after, caller, connection, registration, token};

laws!(
    a_blocked_operation_comes_up_for_its_reminders_and_is_read_as_it_was_written,
    a_repair_is_kept_until_it_is_finished_and_no_longer,
    operations_are_listed_by_the_connection_that_they_are_polled_by,
);

async fn blocked_at(bench: &Bench, now: Timestamp) -> Operation {
    let refused =
        Answer::CredentialRefused { refusal: Refusal::Forbidden, renewal: Renewal::Impossible };
    let commit = polled(bench.claim_one(now).await, refused, now);
    let Change::Operation { after: blocked, owed: Some(_), .. } = &commit.change else {
        panic!("a refusal blocks, and owes a notice");
    };
    let blocked = blocked.clone();
    assert_eq!(bench.commit_one(commit).await, Committed::Saved);
    blocked
}

/// What the lapse that is due then makes of the operation, beside the callbacks that are due as well.
async fn lapse(bench: &Bench, now: Timestamp) -> Option<Operation> {
    for Claimed { claim, work } in bench.claim_at(now, 16).await {
        let Work::LapseOperation(tracked) = work else { continue };
        let change = decided(&tracked.operation, Event::Lapsed, now);
        let Change::Operation { after, .. } = &change else { panic!("it came too early") };
        let after = after.clone();
        let commit = Commit { claim, change, report: Report::Unused, at: now };
        assert_eq!(bench.commit_one(commit).await, Committed::Saved);
        return Some(after);
    }
    None
}

async fn a_blocked_operation_comes_up_for_its_reminders_and_is_read_as_it_was_written(
    bench: &Bench,
) {
    bench.keep([registration(1)]).await;
    let id = registration(1).operation.id;
    let stored = async || bench.operation(id).await.unwrap().unwrap().operation;
    let since = after(10);
    let blocked = blocked_at(bench, since).await;
    assert_eq!(stored().await, blocked);
    assert!(matches!(blocked.state, State::Blocked { reminders: 0, .. }));
    let (half, nine_tenths, end) = (after(10 + 10_800), after(10 + 19_440), after(10 + 21_600));
    let moment = std::time::Duration::from_millis(1);
    for (number, at) in [(1, half), (2, nine_tenths)] {
        assert_eq!(lapse(bench, at - moment).await, None, "before reminder {number}");
        let reminded = lapse(bench, at).await.unwrap();
        assert!(matches!(reminded.state, State::Blocked { reminders, .. } if reminders == number));
        assert_eq!(stored().await, reminded);
        assert_eq!(lapse(bench, at).await, None, "once");
    }
    let ended = lapse(bench, end).await.unwrap();
    let outcome = Outcome::Unauthorized;
    let expected = State::Settled { outcome, refusal: Some(Refusal::Forbidden), at: end };
    assert_eq!(ended.state, expected);
    assert_eq!(stored().await, ended);
    assert_eq!(ended.callbacks, 4);
}

async fn a_repair_is_kept_until_it_is_finished_and_no_longer(bench: &Bench) {
    let waking = |name: &str, at| Waking {
        caller: caller("contoso"),
        connection: name.to_owned(),
        asked_at: after(at),
    };
    let (first, other, again) = (waking("contoso", 1), waking("other", 2), waking("contoso", 3));
    assert_eq!(bench.wakings(9).await.unwrap(), []);
    for it in [&first, &other] {
        bench.ask_waking(it.clone()).await.unwrap();
    }
    assert_eq!(bench.wakings(1).await.unwrap(), std::slice::from_ref(&first));
    bench.ask_waking(again.clone()).await.unwrap();
    bench.finish_waking(&first).await.unwrap();
    assert_eq!(bench.wakings(9).await.unwrap(), [other.clone(), again.clone()], "asked again");
    bench.finish_waking(&again).await.unwrap();
    assert_eq!(bench.wakings(9).await.unwrap(), std::slice::from_ref(&other));
    bench.finish_waking(&other).await.unwrap();
    assert_eq!(bench.wakings(9).await.unwrap(), []);
}

async fn operations_are_listed_by_the_connection_that_they_are_polled_by(bench: &Bench) {
    let contoso = caller("contoso");
    bench.add_connection(&contoso, &connection("other"), NOON).await.unwrap();
    let of = |n, credential| {
        let mut it = registration(n);
        it.credential = credential;
        it
    };
    let by = |name: &str| engagement_bridge::graph::Credential::Connection(connection(name).into());
    let handed_in = token("contoso", after(600));
    bench
        .keep([of(1, by("contoso")), of(2, by("other")), of(3, handed_in), of(4, by("other"))])
        .await;
    let listed = async |state, name: &str| {
        let filter = OperationFilter { state, connection: Some(name.to_owned()) };
        let page = Page { after: None, limit: 9 };
        let listed = bench.operations(&contoso, filter, page).await.unwrap();
        listed.iter().map(|it| it.operation.id.0).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, "contoso").await, [1]);
    assert_eq!(listed(Some("watching"), "other").await, [4, 2]);
    assert_eq!(listed(Some("blocked"), "other").await, [0; 0]);
    assert_eq!(listed(None, "none").await, [0; 0]);
}
