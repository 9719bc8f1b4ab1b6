//! One step under its lease: act, decide, say what to commit.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::time::Instant;

use super::Worker;
use super::counting::{Told, poll_outcome};
use super::traced::Traced;
use crate::callback::{self, CallbackId, Destination};
use crate::courier::{Letter, Parcel, Receipt, Tracking, Written, compose};
use crate::graph::{Connection, Credential, Inquiry, User};
use crate::lane::Report;
use crate::operation::{Decision, Event, Operation, Owed, before, decide, elapsed};
use crate::store::{
    Attempt, CallerName, Change, Claim, Claimed, Commit, Identity, Message, OwedCallback, Tracked,
    Work,
};

impl Worker {
    /// Takes the step and says what came of it.
    pub(super) async fn take(&self, claimed: Claimed) -> Commit {
        let Claimed { claim, work } = claimed;
        let left = elapsed(self.clock.now(), claim.until);
        match work {
            // Started this late, it could overlap with whoever claims it next.
            Work::Poll { .. } if left < self.settings.poll_needs() => self.hand_back(claim),
            Work::Attempt(_) if left < self.settings.attempt_takes => self.hand_back(claim),
            Work::Poll { tracked, credential } => self.poll(claim, &tracked, credential).await,
            Work::Attempt(message) => self.attempt(claim, *message).await,
            Work::LapseOperation(tracked) => {
                let now = self.clock.now();
                let change = self.happened(&tracked, Event::Lapsed, None, now);
                Commit { claim, change, report: Report::Unused, at: now }
            }
            Work::LapseCallback(callback) => {
                let now = self.clock.now();
                let event = callback::Event::Lapsed;
                let change =
                    told(callback::decide(&self.callbacks, &callback, event, now), None, event);
                Commit { claim, change, report: Report::Unused, at: now }
            }
        }
    }

    fn hand_back(&self, claim: Claim) -> Commit {
        self.metrics.work.handed_back();
        tracing::warn!(step = %claim.step, "started {} too late in its lease, handing it back", claim.step);
        Commit { claim, change: Change::HandBack, report: Report::Unused, at: self.clock.now() }
    }

    async fn poll(&self, claim: Claim, tracked: &Tracked, credential: Credential) -> Commit {
        let user = match &credential {
            Credential::Connection(connection) => Some(Arc::clone(connection)),
            Credential::Token(_) => None,
        };
        let inquiry = Inquiry {
            operation: tracked.operation.id,
            caller: tracked.caller.to_string(),
            reference: tracked.reference.clone(),
            credential,
            over_by: before(claim.until, self.settings.poll_apart),
        };
        self.count_begun("poll", tracked.operation.agenda().step_at);
        let (began_at, began) = (self.clock.wall(), Instant::now());
        let poll = self.graph.poll(inquiry).await;
        let took = began.elapsed();
        self.metrics.work.polled(poll_outcome(poll.event), took);
        self.trace_poll(tracked, began_at, took, poll.event);
        if let (Some(refresh_token), Some(connection)) = (&poll.renewed, &user) {
            self.renew_user(&tracked.caller, connection, refresh_token).await;
        }
        let at = self.clock.now();
        let change = self.happened(tracked, poll.event, poll.body, at);
        Commit { claim, change, report: Report::of_poll(poll.event), at }
    }

    /// Keeps what a user's next token is to be asked for with. If that fails, the one of before is used
    /// again, which is good for weeks.
    async fn renew_user(
        &self,
        caller: &CallerName,
        connection: &Connection,
        refresh_token: &SecretString,
    ) {
        let Some(grant) = connection.proof.user_grant() else { return };
        let (name, signed_in_at) = (&connection.name, grant.signed_in_at);
        let kept = self.store.renew_user(caller, name, signed_in_at, refresh_token).await;
        if let Err(error) = kept {
            let error = error.in_full();
            tracing::warn!(%caller, %error, "could not keep the new refresh token of {name}");
        }
    }

    async fn attempt(&self, claim: Claim, message: Message) -> Commit {
        let (counted, traced) = (Told::of(&message), Traced::of(&message));
        let Message { callback, url, headers, body, signers, extra_headers, is_gone, .. } = message;
        if is_gone {
            let (at, event) = (self.clock.now(), callback::Event::DestinationGone);
            let change = told(callback::decide(&self.callbacks, &callback, event, at), None, event);
            return Commit { claim, change, report: Report::Unused, at };
        }
        self.count_begun("attempt", callback.state.agenda().step_at);
        let (started_at, began_at) = (self.clock.now(), self.clock.wall());
        let parcel = Parcel { id: callback.id, url, headers, body, extra_headers, signers };
        let receipt = self.courier.deliver(parcel).await;
        let at = self.clock.now();
        self.count_attempt(&counted, &receipt, at);
        self.trace_attempt(&traced, began_at, &receipt);
        let event = callback::Event::Attempted(receipt.reply);
        let report = Report::of_attempt(receipt.reply);
        let attempt = record(callback.attempts.saturating_add(1), started_at, receipt);
        let decision = callback::decide(&self.callbacks, &callback, event, at);
        let change = told(decision, Some(attempt), event);
        Commit { claim, change, report, at }
    }

    /// What becomes of an operation, with the callback that it owes from now on.
    fn happened(
        &self,
        tracked: &Tracked,
        event: Event,
        body: Option<Bytes>,
        now: Timestamp,
    ) -> Change {
        match decide(&self.operations, &tracked.operation, event, now) {
            Decision::Become(after, owed) => {
                let latest = body.as_ref().or(tracked.last_body.as_ref());
                let owed = owed.map(|owed| self.owe(tracked, &after, owed, latest, now));
                log_transition(&tracked.operation, &after);
                Change::Operation { after, body, owed }
            }
            Decision::Ignore(reason) => {
                let id = tracked.operation.id;
                tracing::debug!(operation.id = %id, ?reason, "ignored an event of {id}");
                Change::HandBack
            }
        }
    }

    /// Writes the callback down as it will be sent, whenever that is.
    fn owe(
        &self,
        tracked: &Tracked,
        after: &Operation,
        owed: Owed,
        data: Option<&Bytes>,
        at: Timestamp,
    ) -> OwedCallback {
        let id = CallbackId { operation: after.id, number: after.callbacks };
        let connection = match &tracked.identity {
            // Not one of those that the caller knows by name.
            Identity::Connection(name) if User::of_connection(name).is_some() => None,
            Identity::Connection(name) => Some(name.as_str()),
            Identity::HandedIn { .. } => None,
        };
        let tracking = Tracking {
            operation: after.id,
            caller: tracked.caller.as_str(),
            client_state: tracked.client_state.as_deref(),
            polls: after.polls,
            registered_at: after.registered_at,
            connection,
            refusal: after.state.refusal(),
            blocked_until: after.state.blocked_until(),
        };
        let letter = Letter {
            id,
            format: tracked.format,
            owed,
            at,
            tracking,
            data: data.map(AsRef::as_ref),
            trace: tracked.trace.as_ref(),
        };
        let Written { headers, body } = compose(&letter);
        OwedCallback { callback: callback::owe(&self.callbacks, id, at), owed, headers, body }
    }
}

/// What becomes of a callback.
fn told(decision: callback::Decision, attempt: Option<Attempt>, event: callback::Event) -> Change {
    match decision {
        callback::Decision::Become(after) => {
            if let callback::State::Undeliverable { reason, .. } = after.state {
                let (id, reason, attempts) = (after.id, reason.as_str(), after.attempts);
                tracing::warn!(callback.id = %id, reason, attempts, "gave up on {id}: {reason}");
            }
            let destination_gone = event.destination() == Some(Destination::Gone);
            Change::Callback { after, attempt, destination_gone }
        }
        callback::Decision::Ignore(_) => Change::HandBack,
    }
}

fn record(number: u32, at: Timestamp, receipt: Receipt) -> Attempt {
    Attempt {
        number,
        at,
        took_ms: u64::try_from(receipt.took.as_millis()).unwrap_or(u64::MAX),
        status: receipt.status,
        failure: receipt.failure.map(|failure| failure.as_str().to_owned()),
        detail: receipt.detail,
        answer: receipt.answer,
    }
}

/// Says once what an operator may want to find later; ordinary polls are the client's to log.
fn log_transition(before: &Operation, after: &Operation) {
    if before.state.as_str() == after.state.as_str() {
        return;
    }
    let (id, state, polls) = (after.id, after.state.as_str(), after.polls);
    let outcome = after.outcome().map(crate::operation::Outcome::as_str);
    tracing::info!(operation.id = %id, state, outcome, polls, "{id} is {}", outcome.unwrap_or(state));
}
