//! What is counted of the worker's steps, and the words for it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Worker;
use crate::callback::{self, Callback, Reply};
use crate::courier::Receipt;
use crate::operation::{Answer, Event, Hindrance, Verdict, elapsed};
use crate::store::{Change, Commit, Committed, Message, StoreError};

impl Worker {
    /// A step was begun that was due at that time.
    pub(super) fn count_begun(&self, step: &'static str, due: Option<Timestamp>) {
        let late = due.map_or(Duration::ZERO, |due| elapsed(due, self.clock.now()));
        self.metrics.work.begun(step, late);
    }

    /// A callback was attempted, and its receiver said so `at` that time.
    pub(super) fn count_attempt(&self, told: &Told, receipt: &Receipt, at: Timestamp) {
        let work = &self.metrics.work;
        work.attempted(attempt_outcome(receipt.reply), failure(receipt), receipt.took);
        if let (true, Reply::Accepted) = (told.is_first_round_of_end, receipt.reply) {
            work.told(elapsed(told.owed_at, at));
        }
    }

    /// Claims and commits: how many steps, and how long it took.
    pub(super) fn count_call<T>(
        &self,
        call: &'static str,
        began: Instant,
        result: &Result<Vec<T>, StoreError>,
    ) {
        let size = result.as_ref().ok().map(Vec::len);
        self.metrics.store.called(call, size, began.elapsed());
    }

    /// What came of a step is on disk, or was somebody else's to say.
    pub(super) fn count_committed(&self, commit: &Commit, committed: Committed) {
        let work = &self.metrics.work;
        match (committed, &commit.change) {
            (Committed::LeaseLost, _) => work.lease_lost(),
            (Committed::Saved, Change::Operation { after, .. }) => {
                if let Some(outcome) = after.outcome() {
                    work.settled(outcome.as_str());
                }
            }
            (Committed::Saved, Change::Callback { after, .. }) => {
                if let Some(end) = end(after) {
                    work.callback_ended(end);
                }
            }
            (Committed::Saved, Change::HandBack) => {}
        }
    }
}

/// What of a message its attempt is counted by.
pub(super) struct Told {
    owed_at: Timestamp,
    /// Whether it tells an end, and was never asked for again.
    is_first_round_of_end: bool,
}

impl Told {
    pub(super) fn of(message: &Message) -> Self {
        let Callback { state, attempts, owed_at, .. } = &message.callback;
        let is_first_round =
            matches!(state, callback::State::Pending { tries, .. } if tries == attempts);
        let is_first_round_of_end = is_first_round && message.notice.is_final();
        Self { owed_at: *owed_at, is_first_round_of_end }
    }
}

fn end(callback: &Callback) -> Option<&'static str> {
    match &callback.state {
        callback::State::Pending { .. } => None,
        callback::State::Delivered { .. } => Some("delivered"),
        callback::State::Undeliverable { reason, .. } => Some(reason.as_str()),
    }
}

/// The word for what came of a poll.
pub(super) fn poll_outcome(event: Event) -> &'static str {
    match event {
        Event::Polled(Answer::StillRunning { .. }) => "running",
        Event::Polled(Answer::Undecided { .. }) => "undecided",
        Event::Polled(Answer::Finished(Verdict::Succeeded)) => "succeeded",
        Event::Polled(Answer::Finished(Verdict::Failed)) => "failed",
        Event::Polled(Answer::Finished(Verdict::Skipped)) => "skipped",
        Event::Polled(Answer::Rejected) => "rejected",
        Event::Polled(Answer::CredentialRefused { .. }) => "credentialRefused",
        Event::Polled(Answer::Missing) => "notFound",
        Event::Polled(Answer::Gone) => "gone",
        Event::Polled(Answer::Throttled { .. }) => "throttled",
        Event::Polled(Answer::Trouble { .. }) => "trouble",
        Event::Unpolled(Hindrance::Trouble { .. }) => "tokenUnavailable",
        Event::Unpolled(Hindrance::Refused(_)) => "tokenRefused",
        // No poll comes to these.
        Event::CredentialRenewed | Event::CancelRequested | Event::Lapsed => "other",
    }
}

/// The word for what came of an attempt.
pub(super) fn attempt_outcome(reply: Reply) -> &'static str {
    match reply {
        Reply::Accepted => "accepted",
        Reply::Refused { .. } => "refused",
        Reply::Unwell { .. } => "unwell",
        Reply::Gone => "gone",
        Reply::AddressRefused => "addressRefused",
    }
}

/// The class of what went wrong, if anything did.
pub(super) fn failure(receipt: &Receipt) -> Option<&'static str> {
    match (receipt.reply, receipt.failure, receipt.status) {
        (Reply::Accepted, _, _) => None,
        (_, Some(failure), _) => Some(failure.as_str()),
        (_, None, Some(300..=399)) => Some("status3xx"),
        (_, None, Some(410)) => Some("status410"),
        (_, None, Some(429)) => Some("status429"),
        (_, None, Some(400..=499)) => Some("status4xx"),
        (_, None, Some(500..=599)) => Some("status5xx"),
        (_, None, _) => Some("statusOther"),
    }
}
