//! How much there is of what.

use engagement_bridge::callback::Reply;
use engagement_bridge::operation::{Answer, Event, Refusal, Renewal, Verdict};
use engagement_bridge::store::{Amendment, Change, Figures, LaneFigures, Registration, Work};

use super::{Bench, attempted, decided, laws, polled};
use crate::support::{SECRET, after, api_key, caller, connection, registration, token};

laws![an_empty_database_has_nothing_to_count, what_is_kept_is_counted_by_state_and_by_lane];

async fn an_empty_database_has_nothing_to_count(bench: &Bench) {
    assert_eq!(bench.figures(after(0)).await.unwrap(), Figures::default());
}

/// Answers nine polls: three are over, two lack a credential, one is throttled, the others go on.
async fn poll_all(bench: &Bench) {
    let claimed = bench.claim_at(after(60), 16).await;
    assert_eq!(claimed.len(), 9);
    let claimed_figures = bench.figures(after(60)).await.unwrap();
    assert_eq!(
        claimed_figures.graph_lanes,
        LaneFigures::default(),
        "what is claimed waits no more"
    );
    for claimed in claimed {
        let Work::Poll { tracked, .. } = &claimed.work else { panic!("nothing else is due") };
        let answer = match tracked.operation.id.0 {
            1..=3 => Answer::Finished(Verdict::Succeeded),
            4 | 5 => Answer::CredentialRefused {
                refusal: Refusal::Forbidden,
                renewal: Renewal::Impossible,
            },
            9 => Answer::Throttled { retry_after: None },
            _ => Answer::StillRunning { retry_after: None },
        };
        bench.commit_one(polled(claimed, answer, after(61))).await;
    }
}

async fn what_is_kept_is_counted_by_state_and_by_lane(bench: &Bench) {
    // Eight of one identity, which are as many as it may have polled at once, and one of another.
    bench.keep((1..=8).map(registration)).await;
    let alone = token("of somebody else", after(9_999));
    bench.keep([Registration { credential: alone, ..registration(9) }]).await;
    let graph_lanes = LaneFigures { paused: 0, waiting: 9 };
    let expected = Figures { watching: 9, graph_lanes, ..Figures::default() };
    assert_eq!(bench.figures(after(60)).await.unwrap(), expected);
    let not_yet = Figures { graph_lanes: LaneFigures::default(), ..expected };
    assert_eq!(bench.figures(after(0)).await.unwrap(), not_yet, "nothing is due");

    poll_all(bench).await;
    let before = bench.operation(registration(6).operation.id).await.unwrap().unwrap().operation;
    let change = decided(&before, Event::CancelRequested, after(62));
    let Change::Operation { after: cancelled, .. } = change else { panic!("it can be cancelled") };
    let amendment = Amendment::Operation { before, after: cancelled, owed: None, credential: None };
    bench.amend(amendment).await.unwrap();
    let expected = Figures {
        watching: 3,
        blocked: 2,
        settled: 3,
        cancelled: 1,
        pending: 5,
        undeliverable: 0,
        graph_lanes: LaneFigures { paused: 1, waiting: 0 },
        callback_lanes: LaneFigures { paused: 0, waiting: 5 },
    };
    assert_eq!(bench.figures(after(62)).await.unwrap(), expected);

    // The receiver takes one, wants none of another, and is in trouble with a third.
    for reply in [Reply::Accepted, Reply::Gone, Reply::Unwell { retry_after: None }] {
        let claimed = bench.claim_at(after(62), 1).await.remove(0);
        bench.commit_one(attempted(claimed, reply, after(62))).await;
    }
    let figures = bench.figures(after(62)).await.unwrap();
    assert_eq!((figures.pending, figures.undeliverable), (3, 1));
    // The one that failed is due again later; the others wait for the end of the pause.
    assert_eq!(figures.callback_lanes, LaneFigures { paused: 1, waiting: 2 });

    // What another caller has counts as well.
    let name = caller("tailspin");
    let (key, secret) = (api_key("tailspin"), SECRET.parse().unwrap());
    bench.add_caller(&name, key, &secret, after(0)).await.unwrap();
    bench.add_connection(&name, &connection("contoso"), after(0)).await.unwrap();
    bench.keep([Registration { caller: name, ..registration(10) }]).await;
    assert_eq!(bench.figures(after(62)).await.unwrap().watching, 4);
}
