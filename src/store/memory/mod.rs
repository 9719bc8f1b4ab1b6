//! The contract in its plainest form: maps behind one lock, and every question answered by looking
//! at everything. What the other backends are measured against; forgotten when the process ends.

mod audit;
mod callback_options;
mod connections;
mod directory;
mod figures;
mod sign_ins;
mod user_grants;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use self::connections::proven;
use self::directory::Caller;
use super::{
    Advance, Advanced, Amended, Amendment, Asked, Attempt, Batch, CallbackFilter, CallerName,
    Change, Claim, Claimed, Commit, Committed, Entry, EntryId, Forgotten, GoneDestination,
    Handshake, Identity, Message, Notice, OperationFilter, OwedCallback, Page, Purged, Registered,
    Registration, Resend, ResendChange, ResendId, SignInApp, Step, Store, StoreError,
    StoredCallback, Tracked, Waking, Work,
};
use crate::callback::{self, Callback, CallbackId};
use crate::courier::{Signers, SigningSecret};
use crate::graph::{AccessToken, Credential};
use crate::lane::{self, Lane, LaneName, share};
use crate::operation::{Agenda, OperationId, after};

/// Everything in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    rows: Mutex<Rows>,
    policy: lane::Policy,
}

#[derive(Debug, Default)]
struct Rows {
    operations: BTreeMap<OperationId, OperationRow>,
    callbacks: BTreeMap<CallbackId, CallbackRow>,
    lanes: BTreeMap<LaneName, LaneRow>,
    handshakes: BTreeMap<LaneName, Handshake>,
    idempotency: BTreeMap<(CallerName, String), IdempotencyRow>,
    resends: BTreeMap<ResendId, Resend>,
    /// By caller and URL: since when.
    gone: BTreeMap<(CallerName, String), Timestamp>,
    /// By caller and connection: when it was repaired.
    wakings: BTreeMap<(CallerName, String), Timestamp>,
    callers: BTreeMap<CallerName, Caller>,
    audit: BTreeMap<EntryId, Entry>,
    /// As whom each app signs in, and since when.
    sign_ins: BTreeMap<SignInApp, (CallerName, Timestamp)>,
    tokens_issued: u64,
}

#[derive(Debug)]
struct OperationRow {
    tracked: Tracked,
    /// A token that was handed in. What a connection brings is looked up when it is needed.
    handed_in: Option<AccessToken>,
    callback_secret: Option<SigningSecret>,
    callback_origin: String,
    lane: LaneName,
    held: Option<Held>,
}

#[derive(Debug)]
struct CallbackRow {
    stored: StoredCallback,
    lane: LaneName,
    attempts: Vec<Attempt>,
    held: Option<Held>,
}

#[derive(Debug)]
struct LaneRow {
    lane: Lane,
    served_at: Timestamp,
}

#[derive(Debug)]
struct IdempotencyRow {
    request: [u8; 32],
    operation: OperationId,
    answer: Option<Bytes>,
    first_used_at: Timestamp,
}

/// Who may take the step, and until when.
#[derive(Clone, Copy, Debug)]
struct Held {
    token: u64,
    until: Timestamp,
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
    fn destination(&self) -> (CallerName, String) {
        (self.stored.caller.clone(), self.stored.url.clone())
    }

    /// Whether it is one of those that it looks at.
    fn is_in_place_for(&self, resend: &Resend) -> bool {
        let (StoredCallback { callback, caller, body, .. }, wanted) =
            (&self.stored, &resend.wanted);
        body.is_some()
            && callback.state.as_str() == wanted.rest.as_str()
            && wanted.caller.as_ref().is_none_or(|it| it == caller)
    }

    fn is_wanted_by(&self, resend: &Resend) -> bool {
        let StoredCallback { callback, caller, origin, body, .. } = &self.stored;
        body.is_some() && resend.wanted.includes(callback, caller, origin, resend.asked_at)
    }
}

impl MemoryStore {
    pub fn new(policy: lane::Policy) -> Self {
        Self { rows: Mutex::default(), policy }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a lane admits its first step, its name, and its planned steps, earliest first.
type Queue = (Timestamp, LaneName, Vec<(Timestamp, Step)>);

impl Rows {
    /// Every step that is planned, with its lane.
    fn agendas(&self) -> impl Iterator<Item = (Step, &LaneName, Agenda)> {
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
    fn queues(&self) -> Vec<Queue> {
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

    fn lane(&mut self, policy: &lane::Policy, name: &LaneName) -> &mut LaneRow {
        let rate = self.handshakes.get(name).and_then(|it| it.rate);
        self.lanes.entry(name.clone()).or_insert_with(|| LaneRow {
            lane: Lane { rate, ..Lane::new(name.kind, policy) },
            served_at: Timestamp::MIN,
        })
    }

    fn issue_token(&mut self) -> u64 {
        self.tokens_issued += 1;
        self.tokens_issued
    }

    fn register(&mut self, policy: &lane::Policy, registration: Registration) -> Registered {
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

    /// Hands out `step`. Its lane has been seen to have room for it, unless it is a lapse.
    fn hand_out(
        &mut self,
        policy: &lane::Policy,
        step: Step,
        lapse: bool,
        now: Timestamp,
        until: Timestamp,
    ) -> Option<Claimed> {
        let token = self.issue_token();
        let held = Some(Held { token, until });
        let (work, lane) = match step {
            Step::Operation(id) => {
                let row = self.operations.get_mut(&id)?;
                row.held = held;
                let tracked = Box::new(row.tracked.clone());
                let lane = row.lane.clone();
                let work = match (lapse, row.handed_in.clone(), &tracked.identity) {
                    (true, _, _) => Work::LapseOperation(tracked),
                    (false, Some(token), _) => {
                        Work::Poll { tracked, credential: Credential::Token(token) }
                    }
                    (false, None, Identity::Connection(name)) => {
                        let connection = proven(&self.callers, &tracked.caller, name)?;
                        Work::Poll { tracked, credential: Credential::Connection(connection) }
                    }
                    (false, None, Identity::HandedIn { .. }) => return None,
                };
                (work, lane)
            }
            Step::Callback(id) => {
                let row = self.callbacks.get_mut(&id)?;
                row.held = held;
                let callback = row.stored.callback.clone();
                let lane = row.lane.clone();
                let work = if lapse {
                    Work::LapseCallback(callback)
                } else {
                    let operation = self.operations.get(&id.operation)?;
                    let signers = match operation.callback_secret.clone() {
                        Some(secret) => Signers::only(secret),
                        None => self.callers.get(&row.stored.caller)?.signers(now),
                    };
                    Work::Attempt(Box::new(Message {
                        callback,
                        notice: row.stored.notice.clone(),
                        url: row.stored.url.clone(),
                        headers: row.stored.headers.clone(),
                        body: row.stored.body.clone()?,
                        extra_headers: self.callers.get(&row.stored.caller)?.extra_headers(),
                        signers,
                        is_gone: self.gone.contains_key(&row.destination()),
                    }))
                };
                (work, lane)
            }
        };
        if !lapse {
            let row = self.lane(policy, &lane);
            row.lane.admit(policy, token, until, now);
            row.served_at = now;
        }
        let claim = Claim { step, until, token, lane: (!lapse).then_some(lane) };
        Some(Claimed { claim, work })
    }

    fn owe(&mut self, policy: &lane::Policy, operation: OperationId, owed: OwedCallback) {
        let Some(row) = self.operations.get(&operation) else { return };
        let lane = LaneName::callback(&row.tracked.caller, &row.callback_origin);
        let stored = StoredCallback {
            callback: owed.callback,
            caller: row.tracked.caller.clone(),
            notice: Notice::of(owed.owed),
            url: row.tracked.callback_url.clone(),
            origin: row.callback_origin.clone(),
            headers: owed.headers,
            body: Some(owed.body),
        };
        self.lane(policy, &lane);
        self.callbacks.insert(
            stored.callback.id,
            CallbackRow { stored, lane, attempts: Vec::new(), held: None },
        );
    }

    fn commit(&mut self, policy: &lane::Policy, commit: &Commit) -> Committed {
        let Commit { claim, change, report, at } = commit;
        if let Some(name) = &claim.lane {
            self.lane(policy, name).lane.settle(policy, claim.token, *report, *at);
        }
        let newest = |held: Option<Held>| held.is_some_and(|held| held.token == claim.token);
        match (claim.step, change) {
            (Step::Operation(id), change) => {
                let Some(row) = self.operations.get_mut(&id).filter(|row| newest(row.held)) else {
                    return Committed::LeaseLost;
                };
                row.held = None;
                if let Change::Operation { after, body, owed } = change {
                    row.tracked.operation = after.clone();
                    row.tracked.last_body = body.clone().or(row.tracked.last_body.take());
                    if let Some(owed) = owed.clone() {
                        self.owe(policy, id, owed);
                    }
                }
            }
            (Step::Callback(id), change) => {
                let Some(row) = self.callbacks.get_mut(&id).filter(|row| newest(row.held)) else {
                    return Committed::LeaseLost;
                };
                row.held = None;
                if let Change::Callback { after, attempt, destination_gone } = change {
                    row.stored.callback = after.clone();
                    row.attempts.extend(attempt.clone());
                    if *destination_gone {
                        self.gone.entry(row.destination()).or_insert(*at);
                    }
                }
            }
        }
        Committed::Saved
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn register(
        &self,
        registrations: Vec<Registration>,
    ) -> Result<Vec<Registered>, StoreError> {
        let mut rows = self.rows();
        Ok(registrations.into_iter().map(|it| rows.register(&self.policy, it)).collect())
    }

    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        hands: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        let mut rows = self.rows();
        let until = after(now, lease);

        let mut lapsed: Vec<(Timestamp, Step)> = rows
            .agendas()
            .filter_map(|(step, _, agenda)| Some((agenda.lapse_at?, step)))
            .filter(|(lapse_at, _)| *lapse_at <= now)
            .collect();
        lapsed.sort_unstable();
        lapsed.truncate(hands.div_ceil(2));
        let mut claimed: Vec<Claimed> = lapsed
            .into_iter()
            .filter_map(|(_, step)| rows.hand_out(&self.policy, step, true, now, until))
            .collect();

        // What one lane leaves of its share goes to the others.
        loop {
            let mut queues = rows.queues();
            queues.retain(|(ready_at, _, _)| *ready_at <= now);
            if queues.is_empty() || claimed.len() >= hands {
                break;
            }
            let mut lanes_left = queues.len();
            for (_, name, steps) in queues {
                let room = rows.lane(&self.policy, &name).lane.room(now);
                let share = share(hands.saturating_sub(claimed.len()), lanes_left);
                let due = steps.into_iter().take_while(|(step_at, _)| *step_at <= now);
                for (_, step) in due.take(room.min(share)) {
                    claimed.extend(rows.hand_out(&self.policy, step, false, now, until));
                }
                lanes_left -= 1;
            }
        }
        Ok(claimed)
    }

    async fn commit(&self, commits: Arc<Vec<Commit>>) -> Result<Vec<Committed>, StoreError> {
        let mut rows = self.rows();
        Ok(commits.iter().map(|it| rows.commit(&self.policy, it)).collect())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let rows = self.rows();
        let ready = rows.queues().into_iter().map(|(ready_at, _, _)| ready_at);
        let lapses = rows.agendas().filter_map(|(_, _, agenda)| agenda.lapse_at);
        Ok(ready.chain(lapses).min())
    }

    async fn rest_graph_lanes(&self, until: Timestamp) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for (name, row) in &mut rows.lanes {
            if name.kind == lane::Kind::Graph {
                row.lane.rest(until);
            }
            // By a clock that has gone back since, it would wait for its turn until that time comes.
            row.served_at = row.served_at.min(until);
        }
        Ok(())
    }

    async fn amend(&self, amendment: Amendment) -> Result<Amended, StoreError> {
        let mut rows = self.rows();
        match amendment {
            Amendment::Operation { before, after, owed, credential } => {
                if let Some(Credential::Connection(connection)) = &credential {
                    let row = rows.operations.get(&before.id);
                    let caller = row.and_then(|row| rows.callers.get(&row.tracked.caller));
                    if !caller.is_some_and(|it| it.connections.contains_key(&connection.name)) {
                        return Ok(Amended::CredentialGone);
                    }
                }
                let Some(row) = rows.operations.get_mut(&before.id) else {
                    return Ok(Amended::Overtaken);
                };
                if row.tracked.operation != before {
                    return Ok(Amended::Overtaken);
                }
                // Whoever holds the step keeps it, unless the plan is another one now.
                if before.agenda() != after.agenda() {
                    row.held = None;
                }
                row.tracked.operation = after;
                let mut new_lane = None;
                if let Some(credential) = credential {
                    row.tracked.identity = Identity::of(&credential);
                    row.lane = LaneName::graph(credential.identity());
                    new_lane = Some(row.lane.clone());
                    row.handed_in = match credential {
                        Credential::Token(token) => Some(token),
                        Credential::Connection(_) => None,
                    };
                }
                if let Some(name) = new_lane {
                    rows.lane(&self.policy, &name);
                }
                if let Some(owed) = owed {
                    rows.owe(&self.policy, before.id, owed);
                }
            }
            Amendment::Callback { before, after, destination_back } => {
                let Some(row) = rows.callbacks.get_mut(&before.id) else {
                    return Ok(Amended::Overtaken);
                };
                let is_purged = row.stored.body.is_none();
                if row.stored.callback != before || is_purged && after.state.rested_at().is_none() {
                    return Ok(Amended::Overtaken);
                }
                row.held = None;
                row.stored.callback = after;
                // It may have been forgotten while the callback was at rest.
                let (lane, of) = (row.lane.clone(), row.destination());
                rows.lane(&self.policy, &lane);
                if destination_back {
                    rows.gone.remove(&of);
                }
            }
        }
        Ok(Amended::Saved)
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Tracked>, StoreError> {
        Ok(self.rows().operations.get(&id).map(|row| row.tracked.clone()))
    }

    async fn operations(
        &self,
        caller: &CallerName,
        filter: OperationFilter,
        page: Page<OperationId>,
    ) -> Result<Vec<Tracked>, StoreError> {
        let rows = self.rows();
        let mine = rows.operations.values().rev().map(|row| &row.tracked).filter(|it| {
            it.caller == *caller
                && page.after.is_none_or(|after| it.operation.id < after)
                && filter.state.is_none_or(|state| it.operation.state.as_str() == state)
                && filter.connection.as_ref().is_none_or(|connection| {
                    it.identity == Identity::Connection(connection.clone())
                })
        });
        Ok(mine.take(page.limit as usize).cloned().collect())
    }

    async fn callback(&self, id: CallbackId) -> Result<Option<StoredCallback>, StoreError> {
        Ok(self.rows().callbacks.get(&id).map(|row| row.stored.clone()))
    }

    async fn callbacks(
        &self,
        caller: &CallerName,
        filter: CallbackFilter,
        page: Page<CallbackId>,
    ) -> Result<Vec<StoredCallback>, StoreError> {
        let rows = self.rows();
        let mine = rows.callbacks.values().rev().map(|row| &row.stored).filter(|it| {
            it.caller == *caller
                && page.after.is_none_or(|after| it.callback.id < after)
                && filter.includes(it)
        });
        Ok(mine.take(page.limit as usize).cloned().collect())
    }

    async fn attempts(&self, id: CallbackId, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        let rows = self.rows();
        let Some(row) = rows.callbacks.get(&id) else { return Ok(Vec::new()) };
        let first = row.attempts.len().saturating_sub(limit as usize);
        Ok(row.attempts.iter().skip(first).cloned().collect())
    }

    async fn latest_attempts(
        &self,
        ids: Vec<CallbackId>,
    ) -> Result<HashMap<CallbackId, Attempt>, StoreError> {
        let rows = self.rows();
        let latest = |id: CallbackId| Some((id, rows.callbacks.get(&id)?.attempts.last()?.clone()));
        Ok(ids.into_iter().filter_map(latest).collect())
    }

    async fn ask_resend(&self, mut resend: Resend, live_limit: u32) -> Result<Asked, StoreError> {
        let mut rows = self.rows();
        let under_way = |it: &&Resend| it.done_at.is_none() && it.asked_by == resend.asked_by;
        let live: Vec<&Resend> = rows.resends.values().filter(under_way).collect();
        if let Some(same) = live.iter().find(|it| it.is_same_as(&resend)) {
            return Ok(Asked::UnderWay((*same).clone()));
        }
        if live_limit as usize <= live.len() {
            return Ok(Asked::LimitReached);
        }
        let matching = rows.callbacks.values().filter(|row| row.is_wanted_by(&resend));
        resend.matched = matching.count() as u64;
        rows.resends.insert(resend.id, resend.clone());
        Ok(Asked::Begun(resend))
    }

    async fn resend(&self, id: ResendId) -> Result<Option<Resend>, StoreError> {
        Ok(self.rows().resends.get(&id).cloned())
    }

    async fn resends(
        &self,
        asked_by: Option<&CallerName>,
        page: Page<ResendId>,
    ) -> Result<Vec<Resend>, StoreError> {
        let rows = self.rows();
        let listed = rows.resends.values().rev().filter(|it| {
            page.after.is_none_or(|after| it.id < after)
                && asked_by.is_none_or(|caller| it.asked_by.as_ref() == Some(caller))
        });
        Ok(listed.take(page.limit as usize).cloned().collect())
    }

    async fn resends_under_way(&self, limit: u32) -> Result<Vec<Resend>, StoreError> {
        let rows = self.rows();
        let under_way = rows.resends.values().filter(|it| it.done_at.is_none());
        Ok(under_way.take(limit as usize).cloned().collect())
    }

    async fn resend_batch(
        &self,
        resend: &Resend,
        limit: u32,
        now: Timestamp,
        crowd: u32,
    ) -> Result<Batch, StoreError> {
        let rows = self.rows();
        let behind = rows
            .callbacks
            .values()
            .filter(|row| row.is_in_place_for(resend))
            .filter(|row| resend.reached.is_none_or(|it| it < row.stored.callback.id));
        let looked_at: Vec<&CallbackRow> = behind.take(limit as usize).collect();
        let wanted = looked_at.iter().filter(|row| row.is_wanted_by(resend));
        let callbacks: Vec<(Callback, LaneName)> =
            wanted.map(|row| (row.stored.callback.clone(), row.lane.clone())).collect();
        let mut waiting: HashMap<LaneName, u32> =
            callbacks.iter().map(|(_, lane)| (lane.clone(), 0)).collect();
        for (_, lane, agenda) in rows.agendas() {
            if agenda.step_at.is_some_and(|at| at <= now)
                && let Some(waiting) = waiting.get_mut(lane)
            {
                *waiting = crowd.min(*waiting + 1);
            }
        }
        Ok(Batch {
            callbacks,
            waiting,
            reached: looked_at.last().map(|row| row.stored.callback.id).or(resend.reached),
            is_last: looked_at.len() < limit as usize,
        })
    }

    async fn advance_resend(&self, advance: Arc<Advance>) -> Result<Advanced, StoreError> {
        let mut rows = self.rows();
        let is_there = |it: &Resend| it.done_at.is_none() && it.reached == advance.from;
        let found = rows.resends.get(&advance.id).filter(|it| is_there(it));
        let Some(asked_at) = found.map(|it| it.asked_at) else {
            return Ok(Advanced::Overtaken);
        };
        let mut resent = 0;
        for ResendChange { before, after } in &advance.changes {
            let row = rows.callbacks.get_mut(&before.id);
            let is_same = |row: &StoredCallback| row.callback == *before && row.body.is_some();
            if let Some(row) = row.filter(|row| is_same(&row.stored)) {
                row.held = None;
                row.stored.callback = after.clone();
                let (lane, of) = (row.lane.clone(), row.destination());
                rows.lane(&self.policy, &lane);
                rows.gone.retain(|it, since| *it != of || asked_at <= *since);
                resent += 1;
            }
        }
        if let Some(resend) = rows.resends.get_mut(&advance.id) {
            resend.resent += resent;
            resend.reached = advance.to;
            resend.held_back = advance.held_back;
            resend.done_at = advance.done_at;
        }
        Ok(Advanced::Saved { resent })
    }

    async fn ask_waking(&self, waking: Waking) -> Result<(), StoreError> {
        let Waking { caller, connection, asked_at } = waking;
        self.rows().wakings.insert((caller, connection), asked_at);
        Ok(())
    }

    async fn wakings(&self, limit: u32) -> Result<Vec<Waking>, StoreError> {
        let rows = self.rows();
        let waking = |((caller, connection), asked_at): (&(CallerName, String), &Timestamp)| {
            Waking { caller: caller.clone(), connection: connection.clone(), asked_at: *asked_at }
        };
        let mut wakings: Vec<_> = rows.wakings.iter().map(waking).collect();
        wakings.sort_by_key(|it| it.asked_at);
        wakings.truncate(limit as usize);
        Ok(wakings)
    }

    async fn finish_waking(&self, waking: &Waking) -> Result<(), StoreError> {
        let key = (waking.caller.clone(), waking.connection.clone());
        let mut rows = self.rows();
        if rows.wakings.get(&key) == Some(&waking.asked_at) {
            rows.wakings.remove(&key);
        }
        Ok(())
    }

    async fn gone_destinations(
        &self,
        caller: &CallerName,
        page: Page<String>,
    ) -> Result<Vec<GoneDestination>, StoreError> {
        let rows = self.rows();
        let behind = rows.gone.iter().filter(|((of, url), _)| {
            of == caller && page.after.as_ref().is_none_or(|after| after < url)
        });
        let gone = |((_, url), since): (&(_, String), &_)| GoneDestination {
            url: url.clone(),
            since: *since,
        };
        Ok(behind.take(page.limit as usize).map(gone).collect())
    }

    async fn bring_back(&self, caller: &CallerName, url: &str) -> Result<bool, StoreError> {
        Ok(self.rows().gone.remove(&(caller.clone(), url.to_owned())).is_some())
    }

    async fn purge(&self, before: Timestamp, limit: u32) -> Result<Purged, StoreError> {
        let (mut rows, mut callbacks) = (self.rows(), 0);
        let Rows { callbacks: all, operations, .. } = &mut *rows;
        for (id, row) in all {
            let callback::State::Delivered { at } = row.stored.callback.state else { continue };
            if before <= at || row.stored.body.is_none() || callbacks == limit {
                continue;
            }
            row.stored.body = None;
            row.attempts.clear();
            callbacks += 1;
            if let Some(row) = operations.get_mut(&id.operation)
                && row.tracked.operation.state.is_at_rest()
                && row.tracked.operation.callbacks == id.number
            {
                row.tracked.last_body = None;
            }
        }
        Ok(Purged { callbacks, more: callbacks == limit })
    }

    async fn handshake(&self, lane: &LaneName) -> Result<Option<Handshake>, StoreError> {
        Ok(self.rows().handshakes.get(lane).cloned())
    }

    async fn keep_handshake(
        &self,
        lane: &LaneName,
        handshake: Handshake,
    ) -> Result<(), StoreError> {
        let mut rows = self.rows();
        if let Some(row) = rows.lanes.get_mut(lane) {
            row.lane.rate = handshake.rate;
        }
        rows.handshakes.insert(lane.clone(), handshake);
        Ok(())
    }

    async fn forget_handshakes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let mut rows = self.rows();
        let is_old = |handshake: &Handshake| handshake.agreed_at < before;
        let old = rows.handshakes.extract_if(.., |_, it| is_old(it)).take(limit as usize);
        let old: Vec<LaneName> = old.map(|(name, _)| name).collect();
        for name in &old {
            if let Some(row) = rows.lanes.get_mut(name) {
                row.lane.rate = None;
            }
        }
        Ok(u32::try_from(old.len()).unwrap_or(u32::MAX))
    }

    async fn forget(
        &self,
        before: Timestamp,
        keys_before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<Forgotten, StoreError> {
        let (mut rows, most) = (self.rows(), limit as usize);
        let operations: Vec<OperationId> = rows
            .operations
            .values()
            .filter(|row| row.tracked.operation.rested_before(before))
            .map(|row| row.tracked.operation.id)
            .filter(|id| {
                rows.callbacks
                    .values()
                    .filter(|row| row.stored.callback.id.operation == *id)
                    .all(|row| row.stored.callback.state.rested_at().is_some_and(|at| at < before))
            })
            .take(most)
            .collect();
        rows.operations.retain(|id, _| !operations.contains(id));
        rows.callbacks.retain(|id, _| !operations.contains(&id.operation));
        let is_old = |row: &IdempotencyRow| row.first_used_at < keys_before;
        let keys = rows.idempotency.extract_if(.., |_, row| is_old(row)).take(most).count();
        let is_done = |it: &Resend| it.done_at.is_some_and(|at| at < before);
        let resends = rows.resends.extract_if(.., |_, it| is_done(it)).take(most).count();
        let used: std::collections::BTreeSet<LaneName> = rows
            .agendas()
            .filter(|(_, _, agenda)| *agenda != Agenda::default())
            .map(|(_, lane, _)| lane.clone())
            .collect();
        let is_unused =
            |name: &LaneName, row: &LaneRow| !used.contains(name) && row.lane.is_forgettable(now);
        let lanes = rows.lanes.extract_if(.., |name, row| is_unused(name, row)).take(most).count();
        Ok(Forgotten {
            operations: u32::try_from(operations.len()).unwrap_or(u32::MAX),
            more: [operations.len(), keys, resends, lanes].contains(&most),
        })
    }
}
