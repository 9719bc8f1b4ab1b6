//! What follows from what happened.

use std::time::Duration;

use jiff::Timestamp;

use super::schedule::{after, elapsed, jittered, reminder};
use super::{Operation, OperationId, Outcome, Policy, Refusal, RunningNotice, State, Watch};

/// Something that happened to an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// Graph was asked, and this came of it.
    Polled(Answer),
    /// No request left for Graph, because no usable token was to be had.
    Unpolled(Hindrance),
    /// The caller brought another credential, or repaired the connection.
    CredentialRenewed,
    CancelRequested,
    /// The time that the agenda calls `lapse_at` has come.
    Lapsed,
}

/// What Graph's answer to one poll means, by the table of answers (see `graph::wire`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// 200 with `running`.
    StillRunning { retry_after: Option<Duration> },
    /// 200 with another status that is not final: `notStarted`, null, words yet to be invented.
    Undecided { retry_after: Option<Duration> },
    /// 200 with a final status.
    Finished(Verdict),
    /// 400, and what else says that the request itself is at fault.
    Rejected,
    /// 401 or 403.
    CredentialRefused { refusal: Refusal, renewal: Renewal },
    /// 404.
    Missing,
    /// 410.
    Gone,
    /// 429: the identity's budget is spent, and no operation is at fault.
    Throttled { retry_after: Option<Duration> },
    /// 5xx, 423, no connection, time-out, HTML, broken JSON.
    Trouble { retry_after: Option<Duration> },
}

/// Graph's own words for an end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Succeeded,
    Failed,
    Skipped,
}

/// Whether we can get another token by ourselves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// The refused token has been thrown away; the next poll brings a fresh one.
    Possible,
    /// Only the caller can bring another.
    Impossible,
}

/// Why no request left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hindrance {
    /// The token endpoint is in trouble, or was so slow that the poll's time is over.
    Trouble { retry_after: Option<Duration> },
    /// There is no token, and trying again will not change that.
    Refused(Refusal),
}

/// What becomes of an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// The operation is now this, and owes that. Both are to be recorded in one commit.
    Become(Operation, Option<Owed>),
    /// The event came too late to matter. Ordinary: at-least-once work repeats itself.
    Ignore(Ignored),
}

/// A message that the caller is to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owed {
    /// How it ended. Each operation owes this once at the most.
    Final(Outcome),
    /// Polling stands still until the caller brings a credential. Owed at once, and again while that is
    /// so (see [`State::next_reminder`]).
    CredentialNeeded(Refusal),
    /// Graph is at work on it. Owed once at the most, and never after the end.
    Running,
}

impl Owed {
    /// The word for it in the API, in callbacks and in the store: an outcome's, `credentialNeeded` or
    /// `running`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Final(outcome) => outcome.as_str(),
            Self::CredentialNeeded(_) => "credentialNeeded",
            Self::Running => "running",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ignored {
    AlreadyAtRest,
    NotWatching,
    NothingToRenew,
    NotYetDue,
}

/// A freshly registered operation. `deadline` is when waiting for Graph ends.
pub fn register(
    policy: &Policy,
    id: OperationId,
    now: Timestamp,
    deadline: Timestamp,
) -> Operation {
    let first = after(now, jittered(policy.cadence.first_poll_after, id, 0));
    let next_poll_at = policy.cadence.next_poll(now, first, deadline);
    let state = State::Watching(Watch::from(next_poll_at));
    let running = RunningNotice::default();
    Operation { id, registered_at: now, deadline, polls: 0, callbacks: 0, running, state }
}

/// Decides what becomes of `operation` now that `event` has happened.
pub fn decide(policy: &Policy, operation: &Operation, event: Event, now: Timestamp) -> Decision {
    match operation.state {
        State::Watching(watch) => watching(policy, operation, watch, event, now),
        State::Blocked { .. } => blocked(operation, event, now),
        State::Settled { .. } | State::Cancelled { .. } => Decision::Ignore(Ignored::AlreadyAtRest),
    }
}

fn watching(
    policy: &Policy,
    operation: &Operation,
    watch: Watch,
    event: Event,
    now: Timestamp,
) -> Decision {
    let life = Life { policy, operation, now };
    match event {
        Event::Polled(answer) => polled(&life, watch, answer),
        Event::Unpolled(Hindrance::Trouble { retry_after }) => life
            .watch_on(Watch { troubles: watch.troubles.saturating_add(1), ..watch }, retry_after),
        Event::Unpolled(Hindrance::Refused(refusal)) => life.block(refusal),
        Event::CredentialRenewed => Decision::Ignore(Ignored::NothingToRenew),
        Event::CancelRequested => life.cancel(),
        Event::Lapsed if now < operation.deadline => Decision::Ignore(Ignored::NotYetDue),
        Event::Lapsed => life.settle(Outcome::Expired),
    }
}

fn polled(life: &Life<'_>, watch: Watch, answer: Answer) -> Decision {
    let counted =
        Operation { polls: life.operation.polls.saturating_add(1), ..life.operation.clone() };
    let life = Life { operation: &counted, ..*life };
    // A run of one kind of failure ends with an answer of another kind, except that trouble and
    // throttling say nothing about the request or the credential.
    match answer {
        Answer::StillRunning { retry_after } => {
            has_begun(life.watch_on(Watch::from(watch.next_poll_at), retry_after))
        }
        Answer::Undecided { retry_after } => {
            life.watch_on(Watch::from(watch.next_poll_at), retry_after)
        }
        Answer::Finished(Verdict::Succeeded) => life.settle(Outcome::Succeeded),
        Answer::Finished(Verdict::Failed) => life.settle(Outcome::Failed),
        Answer::Finished(Verdict::Skipped) => life.settle(Outcome::Skipped),
        Answer::Gone => life.settle(Outcome::Gone),
        Answer::Rejected => {
            let rejections = watch.rejections.saturating_add(1);
            if rejections >= life.policy.rejections_allowed {
                return life.settle(Outcome::Rejected);
            }
            life.watch_on(Watch { rejections, ..Watch::from(watch.next_poll_at) }, None)
        }
        Answer::Missing => {
            if life.age() >= life.policy.not_found_grace {
                return life.settle(Outcome::NotFound);
            }
            life.watch_on(Watch::from(watch.next_poll_at), None)
        }
        // Renewing at once would poll twice within 30 s, so the fresh token waits for its turn.
        Answer::CredentialRefused { renewal: Renewal::Possible, .. } if watch.refusals == 0 => {
            life.watch_on(Watch { refusals: 1, ..Watch::from(watch.next_poll_at) }, None)
        }
        Answer::CredentialRefused { refusal, .. } => life.block(refusal),
        Answer::Throttled { retry_after } => life.watch_on(watch, retry_after),
        Answer::Trouble { retry_after } => life
            .watch_on(Watch { troubles: watch.troubles.saturating_add(1), ..watch }, retry_after),
    }
}

fn blocked(operation: &Operation, event: Event, now: Timestamp) -> Decision {
    let State::Blocked { refusal, since, until, earliest_poll_at, reminders } = operation.state
    else {
        return Decision::Ignore(Ignored::NotWatching);
    };
    match event {
        Event::CredentialRenewed => {
            let state = State::Watching(Watch::from(earliest_poll_at.max(now)));
            Decision::Become(Operation { state, ..operation.clone() }, None)
        }
        Event::CancelRequested => cancel(operation, now),
        Event::Lapsed if until <= now => unauthorized(operation, refusal, now),
        Event::Lapsed => {
            // Of several that fell due together, for nobody was there, one is as good as all.
            let is_over = |number: &u8| reminder(since, until, *number).is_some_and(|at| at <= now);
            let owed = (reminders..u8::MAX).find(|number| !is_over(number)).unwrap_or(reminders);
            if owed == reminders {
                return Decision::Ignore(Ignored::NotYetDue);
            }
            let state = State::Blocked { refusal, since, until, earliest_poll_at, reminders: owed };
            owing(operation, state, Owed::CredentialNeeded(refusal))
        }
        Event::Polled(_) | Event::Unpolled(_) => Decision::Ignore(Ignored::NotWatching),
    }
}

/// What every transition out of `Watching` needs.
#[derive(Clone, Copy)]
struct Life<'a> {
    policy: &'a Policy,
    operation: &'a Operation,
    now: Timestamp,
}

impl Life<'_> {
    fn age(&self) -> Duration {
        elapsed(self.operation.registered_at, self.now)
    }

    /// Stays watching with what `watch` counts, and plans the next poll; unless time is up.
    fn watch_on(&self, watch: Watch, asked: Option<Duration>) -> Decision {
        if self.operation.deadline <= self.now {
            return self.settle(Outcome::Expired);
        }
        let cadence = &self.policy.cadence;
        let wait = cadence.interval(self.age(), watch.troubles, asked);
        let wait = jittered(wait, self.operation.id, self.operation.polls);
        let floor = cadence.interval(Duration::ZERO, 0, asked);
        let next_poll_at = cadence.next_poll(
            after(self.now, floor),
            after(self.now, wait),
            self.operation.deadline,
        );
        let state = State::Watching(Watch { next_poll_at, ..watch });
        Decision::Become(Operation { state, ..self.operation.clone() }, None)
    }

    fn block(&self, refusal: Refusal) -> Decision {
        let until = after(self.now, self.policy.credential_grace).min(self.operation.deadline);
        if until <= self.now {
            return unauthorized(self.operation, refusal, self.now);
        }
        let earliest_poll_at = after(self.now, self.policy.cadence.shortest);
        let (since, reminders) = (self.now, 0);
        let state = State::Blocked { refusal, since, until, earliest_poll_at, reminders };
        owing(self.operation, state, Owed::CredentialNeeded(refusal))
    }

    fn settle(&self, outcome: Outcome) -> Decision {
        settle(self.operation, outcome, self.now)
    }

    fn cancel(&self) -> Decision {
        cancel(self.operation, self.now)
    }
}

/// Owes the notice that Graph has begun, where that is wanted and was never owed; unless time was up,
/// for nothing is owed behind the end.
fn has_begun(decision: Decision) -> Decision {
    match decision {
        Decision::Become(after, None) if after.running == RunningNotice::Wanted => {
            let begun = Operation { running: RunningNotice::Owed, ..after };
            owing(&begun, begun.state.clone(), Owed::Running)
        }
        Decision::Become(..) | Decision::Ignore(_) => decision,
    }
}

fn settle(operation: &Operation, outcome: Outcome, at: Timestamp) -> Decision {
    owing(operation, State::Settled { outcome, refusal: None, at }, Owed::Final(outcome))
}

fn unauthorized(operation: &Operation, refusal: Refusal, at: Timestamp) -> Decision {
    let outcome = Outcome::Unauthorized;
    let state = State::Settled { outcome, refusal: Some(refusal), at };
    owing(operation, state, Owed::Final(outcome))
}

fn cancel(operation: &Operation, at: Timestamp) -> Decision {
    let state = State::Cancelled { at };
    Decision::Become(Operation { state, ..operation.clone() }, None)
}

fn owing(operation: &Operation, state: State, owed: Owed) -> Decision {
    let callbacks = operation.callbacks.saturating_add(1);
    Decision::Become(Operation { callbacks, state, ..operation.clone() }, Some(owed))
}
