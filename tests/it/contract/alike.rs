//! Every backend against the plainest one: the same history, the same answers.

use std::num::NonZeroU32;

use engagement_bridge::callback::Reply;
use engagement_bridge::lane::{LaneName, Rate};
use engagement_bridge::operation::{Answer, RunningNotice, Verdict};
use engagement_bridge::store::{Claimed, Commit, Handshake, Work};
use proptest::prelude::*;

use super::{Bench, attempted, decided, polled};
use crate::support::{NOON, registration, seconds, token};

/// One thing done to a store.
#[derive(Clone, Copy, Debug)]
enum Act {
    Register {
        lane: u8,
    },
    Claim,
    Commit {
        which: usize,
        how: How,
    },
    /// The receiver of every other lane agrees to a rate.
    Agree {
        lane: u8,
        rate: Option<u32>,
    },
    Wait {
        seconds: u16,
    },
}

/// What came of a step.
#[derive(Clone, Copy, Debug)]
enum How {
    Well,
    Final,
    Badly,
    Asked { retry_after: u16 },
}

fn any_act() -> impl Strategy<Value = Act> {
    let how = prop_oneof![
        3 => Just(How::Well),
        3 => Just(How::Final),
        2 => Just(How::Badly),
        1 => (0_u16..2_000).prop_map(|retry_after| How::Asked { retry_after }),
    ];
    prop_oneof![
        3 => (0_u8..3).prop_map(|lane| Act::Register { lane }),
        3 => Just(Act::Claim),
        4 => (any::<usize>(), how).prop_map(|(which, how)| Act::Commit { which, how }),
        1 => (0_u8..2, prop::option::of(1_u32..40))
            .prop_map(|(lane, rate)| Act::Agree { lane, rate }),
        2 => (0_u16..4_000).prop_map(|seconds| Act::Wait { seconds }),
    ]
}

fn commit(claimed: Claimed, how: How, at: jiff::Timestamp) -> Commit {
    let retry_after = match how {
        How::Asked { retry_after } => Some(seconds(retry_after.into())),
        How::Well | How::Final | How::Badly => None,
    };
    match &claimed.work {
        Work::Poll { .. } => {
            let answer = match how {
                How::Well => Answer::StillRunning { retry_after },
                How::Final => Answer::Finished(Verdict::Failed),
                How::Badly => Answer::Trouble { retry_after },
                How::Asked { .. } => Answer::Throttled { retry_after },
            };
            polled(claimed, answer, at)
        }
        Work::Attempt(_) => {
            let reply = match how {
                How::Well | How::Final => Reply::Accepted,
                How::Badly => Reply::Refused { retry_after },
                How::Asked { .. } => Reply::Unwell { retry_after },
            };
            attempted(claimed, reply, at)
        }
        Work::LapseOperation(tracked) => {
            let event = engagement_bridge::operation::Event::Lapsed;
            let change = decided(&tracked.operation, event, at);
            let report = engagement_bridge::lane::Report::Unused;
            Commit { claim: claimed.claim, change, report, at }
        }
        Work::LapseCallback(_) => {
            let change = engagement_bridge::store::Change::HandBack;
            let report = engagement_bridge::lane::Report::Unused;
            Commit { claim: claimed.claim, change, report, at }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_answers_as_the_memory_does(acts in prop::collection::vec(any_act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(acts))?;
    }
}

async fn compare(acts: Vec<Act>) -> Result<(), TestCaseError> {
    let benches = [Bench::memory().await, Bench::sqlite().await];
    let mut held: [Vec<Claimed>; 2] = [Vec::new(), Vec::new()];
    let (mut now, mut registered) = (NOON, 0);
    for act in acts {
        let mut answers = Vec::new();
        for (bench, held) in benches.iter().zip(&mut held) {
            answers.push(match act {
                Act::Register { lane } => {
                    let mut registration = registration(registered);
                    registration.credential = token(&format!("lane-{lane}"), NOON);
                    if registered % 2 == 1 {
                        registration.operation.running = RunningNotice::Wanted;
                    }
                    registration.callback_origin = format!("https://{}.example:443", lane % 2);
                    format!("{:?}", bench.register_one(registration).await)
                }
                Act::Claim => {
                    // Hands for everyone, so that the order among equals plays no part.
                    let mut claimed = bench.claim_at(now, 1_000).await;
                    claimed.sort_by_key(|it| it.claim.step);
                    let steps: Vec<_> = claimed.iter().map(|it| it.claim.step).collect();
                    held.extend(claimed);
                    format!("{steps:?}")
                }
                Act::Commit { .. } if held.is_empty() => String::new(),
                Act::Commit { which, how } => {
                    let claimed = held.remove(which % held.len());
                    let step = claimed.claim.step;
                    format!("{step}: {:?}", bench.commit_one(commit(claimed, how, now)).await)
                }
                Act::Agree { lane, rate } => {
                    let rate = rate.and_then(NonZeroU32::new).map(Rate::per_minute);
                    let handshake = Handshake { form: "graph".to_owned(), agreed_at: now, rate };
                    let lane = LaneName::callback("contoso", format!("https://{lane}.example:443"));
                    format!("{:?}", bench.keep_handshake(&lane, handshake).await)
                }
                Act::Wait { .. } => String::new(),
            });
        }
        prop_assert_eq!(&answers[0], &answers[1], "after {:?}", act);
        match act {
            Act::Register { .. } => registered += 1,
            Act::Wait { seconds: span } => now += seconds(span.into()),
            Act::Claim | Act::Commit { .. } | Act::Agree { .. } => {}
        }
        let due = [benches[0].next_due().await.unwrap(), benches[1].next_due().await.unwrap()];
        if let Some(exact) = due[0] {
            let starves = due[1].is_none_or(|due| exact < due);
            prop_assert!(!starves, "{:?} would starve what is due at {:?}", due[1], exact);
        }
    }
    Ok(())
}
