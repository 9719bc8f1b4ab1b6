//! Plans as data: everything that will happen in one simulated world, drawn before it begins.

use std::time::Duration;

use engagement_bridge::operation::Verdict;
use proptest::prelude::*;

/// One world.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) operations: Vec<OperationPlan>,
    pub(crate) receivers: Vec<ReceiverPlan>,
    /// Of each of the two workers.
    pub(crate) hands: usize,
    /// What befalls calls of the store, in the order in which they are made; none behind the last.
    pub(crate) store: Vec<Fault>,
    /// How many seconds each life of the process lasts, and how many it is down then. Nobody kills
    /// the last life.
    pub(crate) kills: Vec<(u32, u32)>,
    /// At which second, counted from the one before, somebody sets the machine's clock, and by how
    /// many seconds.
    pub(crate) clock: Vec<(u32, i32)>,
}

/// An operation at Graph, and what its caller does about it.
#[derive(Clone, Debug)]
pub(crate) struct OperationPlan {
    /// When it is registered, in seconds since noon.
    pub(crate) registered_at: u32,
    /// In seconds.
    pub(crate) expires_after: u32,
    pub(crate) identity: Identity,
    /// Whether its caller wants to be told when Graph has begun.
    pub(crate) hears_of_running: bool,
    /// Which of the receivers is told, modulo their number.
    pub(crate) receiver: usize,
    /// What Graph answers to the first polls.
    pub(crate) answers: Vec<(Answer, Delay)>,
    /// What Graph answers to all polls behind those.
    pub(crate) end: End,
    /// What the caller wants, and how many seconds after the registration.
    pub(crate) wishes: Vec<(u32, Wish)>,
}

/// By whose eyes Graph is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Identity {
    Connection,
    HandedInToken,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Running {
        retry_after: Option<u16>,
    },
    NotStarted,
    Throttled {
        retry_after: Option<u16>,
    },
    Trouble {
        retry_after: Option<u16>,
    },
    Rejected,
    Missing,
    Unauthorized,
    /// The token endpoint refuses, so that no request leaves.
    NoToken,
}

/// How Graph ends it, if it does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Finishes(Verdict),
    Goes,
    StaysRunning,
    StaysMissing,
    StaysRejected,
    StaysForbidden,
}

/// How long an exchange takes, in milliseconds, until the request has arrived, and from there on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delay {
    before: u16,
    after: u16,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    Cancel,
    Renew,
    Resend,
    /// All of the caller's that are at rest so.
    ResendAll {
        delivered: bool,
    },
    RegisterAgain,
}

/// Whoever is told.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverPlan {
    /// What it answers to the first attempts.
    pub(crate) replies: Vec<(Reply, Delay)>,
    /// What it answers to all attempts behind those.
    pub(crate) manner: Reply,
    /// How many attempts a minute it has agreed to, if it has named a number.
    pub(crate) rate: Option<u32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Accepts,
    /// It takes the callback, and its answer is lost.
    AcceptsInVain,
    Refuses,
    Unwell {
        retry_after: Option<u16>,
    },
    Gone,
    /// What the name resolves to is not allowed, so that nothing is sent.
    AddressRefused,
}

/// What befalls a call of the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Nothing,
    /// It is not done, and says so.
    Refused,
    /// It is done, and the caller is told that it is not.
    ReplyLost,
    /// It is done so many seconds late, as if the caller had been stopped.
    StalledBefore(u16),
    /// It is done, and its answer comes so many seconds late.
    StalledAfter(u16),
}

impl Delay {
    pub(crate) fn before(self) -> Duration {
        Duration::from_millis(self.before.into())
    }

    pub(crate) fn after(self) -> Duration {
        Duration::from_millis(self.after.into())
    }
}

impl Plan {
    /// Whether store, process and clock are as they should be, whatever Graph and receivers do.
    pub(crate) fn has_a_calm_house(&self) -> bool {
        self.kills.is_empty()
            && self.clock.iter().all(|(_, by)| *by == 0)
            && self.store.iter().all(|fault| *fault == Fault::Nothing)
    }

    /// Whether calls of the store may fail, and nothing else may.
    pub(crate) fn has_a_house_without_stalls(&self) -> bool {
        let stalls =
            |fault: &Fault| matches!(fault, Fault::StalledBefore(_) | Fault::StalledAfter(_));
        self.kills.is_empty() && self.clock.is_empty() && !self.store.iter().any(stalls)
    }

    /// Whether the clock is set in one life of the process and another one begins by it.
    pub(crate) fn begins_by_another_clock(&self) -> bool {
        !self.kills.is_empty() && !self.clock.is_empty()
    }

    /// Whether somebody sets the clock back.
    pub(crate) fn clock_went_back(&self) -> bool {
        self.clock.iter().any(|(_, by)| *by < 0)
    }

    /// How far the clock is set forward, all in all.
    pub(crate) fn clock_set_forward_by(&self) -> Duration {
        let forward = self.clock.iter().filter_map(|(_, by)| u64::try_from(*by).ok());
        Duration::from_secs(forward.sum())
    }

    /// Whether Graph or Entra ever keeps an operation that could be polled from being polled.
    pub(crate) fn holds_polls_up(&self) -> bool {
        let holds_up = |(answer, _): &(Answer, Delay)| {
            matches!(answer, Answer::Throttled { .. } | Answer::NoToken)
        };
        self.operations.iter().any(|it| it.answers.iter().any(holds_up))
    }

    /// Whether anybody ever wants many callbacks to be sent again at once.
    pub(crate) fn has_bulk_resends(&self) -> bool {
        let wishes = self.operations.iter().flat_map(|it| &it.wishes);
        wishes.into_iter().any(|(_, wish)| matches!(wish, Wish::ResendAll { .. }))
    }

    pub(crate) fn receiver_of(&self, operation: &OperationPlan) -> usize {
        operation.receiver % self.receivers.len()
    }
}

impl ReceiverPlan {
    /// Whether it takes whatever comes.
    pub(crate) fn is_good(&self) -> bool {
        self.manner == Reply::Accepts
            && self.replies.iter().all(|(reply, _)| *reply == Reply::Accepts)
    }
}

pub(crate) fn any_plan() -> impl Strategy<Value = Plan> {
    // Now and then enough that receivers have many owed to them at once.
    let operations = prop_oneof![
        9 => prop::collection::vec(any_operation(), 1..8),
        1 => prop::collection::vec(any_operation(), 12..24),
    ];
    let receivers = prop::collection::vec(any_receiver(), 1..4);
    let store = prop_oneof![
        2 => Just(Vec::new()),
        3 => prop::collection::vec(any_fault(), 1..60),
        // After which a step is done once all the same.
        1 => prop::collection::vec(prop_oneof![Just(Fault::Nothing), Just(Fault::Refused)], 1..60),
    ];
    let kills = prop_oneof![
        2 => Just(Vec::new()),
        2 => prop::collection::vec((1_u32..600, prop_oneof![Just(0_u32), 0_u32..200]), 1..5),
    ];
    let by = prop_oneof![-7_200_i32..7_200, -60_i32..60];
    let clock = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((1_u32..900, by), 1..4),
    ];
    (operations, receivers, 1_usize..5, store, kills, clock).prop_map(
        |(operations, receivers, hands, store, kills, clock)| Plan {
            operations,
            receivers,
            hands,
            store,
            kills,
            clock,
        },
    )
}

fn any_operation() -> impl Strategy<Value = OperationPlan> {
    let identity = prop_oneof![3 => Just(Identity::Connection), 1 => Just(Identity::HandedInToken)];
    let answers = prop::collection::vec((any_answer(), any_delay()), 0..6);
    let end = prop_oneof![
        8 => prop_oneof![Just(Verdict::Succeeded), Just(Verdict::Failed), Just(Verdict::Skipped)]
            .prop_map(End::Finishes),
        1 => Just(End::Goes),
        1 => Just(End::StaysRunning),
        1 => Just(End::StaysMissing),
        1 => Just(End::StaysRejected),
        1 => Just(End::StaysForbidden),
    ];
    let wish = prop_oneof![
        1 => Just(Wish::Cancel),
        2 => Just(Wish::Renew),
        2 => Just(Wish::Resend),
        2 => prop_oneof![3 => Just(false), 1 => Just(true)]
            .prop_map(|delivered| Wish::ResendAll { delivered }),
        1 => Just(Wish::RegisterAgain),
    ];
    let wishes = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec((0_u32..2_000, wish), 1..4),
    ];
    (
        (0_u32..200, prop_oneof![60_u32..600, 60_u32..7_200], identity, 0_usize..3, any::<bool>()),
        (answers, end, wishes),
    )
        .prop_map(
            |(
                (registered_at, expires_after, identity, receiver, hears_of_running),
                (answers, end, wishes),
            )| {
                OperationPlan {
                    registered_at,
                    expires_after,
                    identity,
                    hears_of_running,
                    receiver,
                    answers,
                    end,
                    wishes,
                }
            },
        )
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => any_wait().prop_map(|retry_after| Answer::Running { retry_after }),
        2 => Just(Answer::NotStarted),
        2 => any_wait().prop_map(|retry_after| Answer::Throttled { retry_after }),
        2 => any_wait().prop_map(|retry_after| Answer::Trouble { retry_after }),
        1 => Just(Answer::Rejected),
        1 => Just(Answer::Missing),
        1 => Just(Answer::Unauthorized),
        1 => Just(Answer::NoToken),
    ]
}

fn any_receiver() -> impl Strategy<Value = ReceiverPlan> {
    let replies = prop::collection::vec((any_reply(), any_delay()), 0..5);
    let manner = prop_oneof![4 => Just(Reply::Accepts), 2 => any_reply()];
    let good = Just((Vec::<(Reply, Delay)>::new(), Reply::Accepts));
    let comes_back = prop::collection::vec((any_trouble(), any_delay()), 3..12)
        .prop_map(|replies| (replies, Reply::Accepts));
    let replies = prop_oneof![1 => good, 1 => comes_back, 2 => (replies, manner)];
    let rate = prop_oneof![2 => Just(None), 1 => (1_u32..6).prop_map(Some)];
    (replies, rate).prop_map(|((replies, manner), rate)| ReceiverPlan { replies, manner, rate })
}

fn any_reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        3 => Just(Reply::Accepts),
        2 => Just(Reply::AcceptsInVain),
        1 => Just(Reply::Refuses),
        3 => any_trouble(),
        1 => Just(Reply::Gone),
        1 => Just(Reply::AddressRefused),
    ]
}

fn any_trouble() -> impl Strategy<Value = Reply> {
    any_wait().prop_map(|retry_after| Reply::Unwell { retry_after })
}

fn any_wait() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![2 => Just(None), 1 => (0_u16..400).prop_map(Some)]
}

/// Short most of the time, and now and then longer than anybody waits.
fn any_delay() -> impl Strategy<Value = Delay> {
    let some = || prop_oneof![8 => 0_u16..300, 1 => 0_u16..40_000];
    (some(), some()).prop_map(|(before, after)| Delay { before, after })
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let stall = || prop_oneof![1_u16..30, 1_u16..400];
    prop_oneof![
        6 => Just(Fault::Nothing),
        1 => Just(Fault::Refused),
        1 => Just(Fault::ReplyLost),
        1 => stall().prop_map(Fault::StalledBefore),
        1 => stall().prop_map(Fault::StalledAfter),
    ]
}
