//! What is remembered, and how it is looked at.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use super::directory::Caller;
use crate::callback::CallbackId;
use crate::courier::SigningSecret;
use crate::graph::{AccessToken, Credential};
use crate::lane::{self, Lane, LaneName};
use crate::operation::{Agenda, OperationId};
use crate::store::{
    Attempt, CallerName, Entry, EntryId, Handshake, Identity, Registered, Registration, Resend,
    ResendId, SignInApp, Step, StoredCallback, Tracked,
};

#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) operations: BTreeMap<OperationId, OperationRow>,
    pub(super) callbacks: BTreeMap<CallbackId, CallbackRow>,
    pub(super) lanes: BTreeMap<LaneName, LaneRow>,
    pub(super) handshakes: BTreeMap<LaneName, Handshake>,
    pub(super) idempotency: BTreeMap<(CallerName, String), IdempotencyRow>,
    pub(super) resends: BTreeMap<ResendId, Resend>,
    /// By caller and URL: since when.
    pub(super) gone: BTreeMap<(CallerName, String), Timestamp>,
    /// By caller and connection: when it was repaired.
    pub(super) wakings: BTreeMap<(CallerName, String), Timestamp>,
    pub(super) callers: BTreeMap<CallerName, Caller>,
    pub(super) audit: BTreeMap<EntryId, Entry>,
    /// As whom each app signs in, and since when.
    pub(super) sign_ins: BTreeMap<SignInApp, (CallerName, Timestamp)>,
    pub(super) tokens_issued: u64,
}

#[derive(Debug)]
pub(super) struct OperationRow {
    pub(super) tracked: Tracked,
    /// A token that was handed in. What a connection brings is looked up when it is needed.
    pub(super) handed_in: Option<AccessToken>,
    pub(super) callback_secret: Option<SigningSecret>,
    pub(super) callback_origin: String,
    pub(super) lane: LaneName,
    pub(super) held: Option<Held>,
}

#[derive(Debug)]
pub(super) struct CallbackRow {
    pub(super) stored: StoredCallback,
    pub(super) lane: LaneName,
    pub(super) attempts: Vec<Attempt>,
    pub(super) held: Option<Held>,
}

#[derive(Debug)]
pub(super) struct LaneRow {
    pub(super) lane: Lane,
    pub(super) served_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct IdempotencyRow {
    pub(super) request: [u8; 32],
    pub(super) operation: OperationId,
    pub(super) answer: Option<Bytes>,
    pub(super) first_used_at: Timestamp,
}

/// Who may take the step, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) token: u64,
    pub(super) until: Timestamp,
}

/// What the state plans, put off to the end of the lease while somebody holds the step.
fn put_off(agenda: Agenda, held: Option<Held>) -> Agenda {
    let Some(Held { until, .. }) = held else { return agenda };
    Agenda {
        step_at: agenda.step_at.map(|_| until),
        lapse_at: agenda.lapse_at.map(|lapse_at| lapse_at.max(until)),
    }
}

impl CallbackRow {
    pub(super) fn destination(&self) -> (CallerName, String) {
        (self.stored.caller.clone(), self.stored.url.clone())
    }

    /// Whether it is one of those that it looks at.
    pub(super) fn is_in_place_for(&self, resend: &Resend) -> bool {
        let (StoredCallback { callback, caller, body, .. }, wanted) =
            (&self.stored, &resend.wanted);
        body.is_some()
            && callback.state.as_str() == wanted.rest.as_str()
            && wanted.caller.as_ref().is_none_or(|it| it == caller)
    }

    pub(super) fn is_wanted_by(&self, resend: &Resend) -> bool {
        let StoredCallback { callback, caller, origin, body, .. } = &self.stored;
        body.is_some() && resend.wanted.includes(callback, caller, origin, resend.asked_at)
    }
}

/// When a lane admits its first step, its name, and its planned steps, earliest first.
pub(super) type Queue = (Timestamp, LaneName, Vec<(Timestamp, Step)>);

impl Rows {
    /// Every step that is planned, with its lane.
    pub(super) fn agendas(&self) -> impl Iterator<Item = (Step, &LaneName, Agenda)> {
        let operations = self.operations.iter().map(|(id, row)| {
            let agenda = put_off(row.tracked.operation.agenda(), row.held);
            (Step::Operation(*id), &row.lane, agenda)
        });
        let callbacks = self.callbacks.iter().map(|(id, row)| {
            let agenda = put_off(row.stored.callback.state.agenda(), row.held);
            (Step::Callback(*id), &row.lane, agenda)
        });
        operations.chain(callbacks)
    }

    /// The planned steps of each lane, earliest first, with the time from which on the lane admits
    /// the first of them.
    pub(super) fn queues(&self) -> Vec<Queue> {
        let mut queues: BTreeMap<&LaneName, Vec<(Timestamp, Step)>> = BTreeMap::new();
        for (step, lane, agenda) in self.agendas() {
            if let Some(step_at) = agenda.step_at {
                queues.entry(lane).or_default().push((step_at, step));
            }
        }
        let mut queues: Vec<_> = queues
            .into_iter()
            .filter_map(|(name, mut steps)| {
                steps.sort_unstable();
                let first_at = steps.first()?.0;
                let row = self.lanes.get(name)?;
                let ready_at = first_at.max(row.lane.free_at(Timestamp::MIN)).max(row.served_at);
                Some((ready_at, name.clone(), steps))
            })
            .collect();
        queues.sort_unstable();
        queues
    }

    pub(super) fn lane(&mut self, policy: &lane::Policy, name: &LaneName) -> &mut LaneRow {
        let rate = self.handshakes.get(name).and_then(|it| it.rate);
        self.lanes.entry(name.clone()).or_insert_with(|| LaneRow {
            lane: Lane { rate, ..Lane::new(name.kind, policy) },
            served_at: Timestamp::MIN,
        })
    }

    pub(super) fn issue_token(&mut self) -> u64 {
        self.tokens_issued += 1;
        self.tokens_issued
    }

    pub(super) fn register(
        &mut self,
        policy: &lane::Policy,
        registration: Registration,
    ) -> Registered {
        let key = registration
            .idempotency
            .as_ref()
            .map(|idempotency| (registration.caller.clone(), idempotency.key.clone()));
        if let (Some(key), Some(idempotency)) = (&key, &registration.idempotency)
            && let Some(row) = self.idempotency.get(key)
        {
            if row.request != idempotency.request {
                return Registered::KeyReused;
            }
            return Registered::Replayed { operation: row.operation, answer: row.answer.clone() };
        }
        let Some(caller) = self.callers.get(&registration.caller) else {
            return Registered::CredentialGone;
        };
        let identity = Identity::of(&registration.credential);
        if let Identity::Connection(name) = &identity
            && !caller.connections.contains_key(name)
        {
            return Registered::CredentialGone;
        }

        let mut mine = self
            .operations
            .values()
            .map(|row| &row.tracked)
            .filter(|it| it.caller == registration.caller && !it.operation.state.is_at_rest());
        let existing = mine.clone().find(|it| registration.is_same_as(it)).cloned();
        if existing.is_none() && mine.by_ref().count() as u64 >= registration.live_limit {
            return Registered::LimitReached;
        }
        let destination = (registration.caller.clone(), registration.callback_url.clone());
        if existing.is_none()
            && let Some(since) = self.gone.get(&destination)
        {
            return Registered::DestinationGone { since: *since };
        }
        if existing.is_none() && !registration.is_agreed {
            return Registered::NotAgreed;
        }
        if let (Some(key), Some(idempotency)) = (key, registration.idempotency) {
            let found = existing.as_ref().map(|it| it.operation.id);
            self.idempotency.insert(
                key,
                IdempotencyRow {
                    request: idempotency.request,
                    operation: found.unwrap_or(registration.operation.id),
                    answer: found.is_none().then_some(idempotency.answer),
                    first_used_at: registration.operation.registered_at,
                },
            );
        }
        if let Some(existing) = existing {
            return Registered::Existing(Box::new(existing));
        }

        let lane = LaneName::graph(registration.credential.identity());
        self.lane(policy, &lane);
        let handed_in = match registration.credential {
            Credential::Token(token) => Some(token),
            Credential::Connection(_) => None,
        };
        self.operations.insert(
            registration.operation.id,
            OperationRow {
                tracked: Tracked {
                    operation: registration.operation,
                    caller: registration.caller,
                    reference: registration.reference,
                    identity,
                    callback_url: registration.callback_url,
                    client_state: registration.client_state,
                    has_callback_secret: registration.callback_secret.is_some(),
                    format: registration.format,
                    trace: registration.trace,
                    last_body: None,
                },
                handed_in,
                callback_secret: registration.callback_secret,
                callback_origin: registration.callback_origin,
                lane,
                held: None,
            },
        );
        Registered::New
    }
}
