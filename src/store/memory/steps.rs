//! Steps handed out, and what becomes of them.

use jiff::Timestamp;

use super::connections::proven;
use super::rows::{CallbackRow, Held, Rows};
use crate::courier::Signers;
use crate::graph::Credential;
use crate::lane::{self, LaneName};
use crate::operation::OperationId;
use crate::store::{
    Amended, Amendment, Change, Claim, Claimed, Commit, Committed, Identity, Message, Notice,
    OwedCallback, Step, StoredCallback, Work,
};

impl Rows {
    /// Hands out `step`. Its lane has been seen to have room for it, unless it is a lapse.
    pub(super) fn hand_out(
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

    pub(super) fn commit(&mut self, policy: &lane::Policy, commit: &Commit) -> Committed {
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

    pub(super) fn amend(&mut self, policy: &lane::Policy, amendment: Amendment) -> Amended {
        match amendment {
            Amendment::Operation { before, after, owed, credential } => {
                if let Some(Credential::Connection(connection)) = &credential {
                    let row = self.operations.get(&before.id);
                    let caller = row.and_then(|row| self.callers.get(&row.tracked.caller));
                    if !caller.is_some_and(|it| it.connections.contains_key(&connection.name)) {
                        return Amended::CredentialGone;
                    }
                }
                let Some(row) = self.operations.get_mut(&before.id) else {
                    return Amended::Overtaken;
                };
                if row.tracked.operation != before {
                    return Amended::Overtaken;
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
                    self.lane(policy, &name);
                }
                if let Some(owed) = owed {
                    self.owe(policy, before.id, owed);
                }
            }
            Amendment::Callback { before, after, destination_back } => {
                let Some(row) = self.callbacks.get_mut(&before.id) else {
                    return Amended::Overtaken;
                };
                let is_purged = row.stored.body.is_none();
                if row.stored.callback != before || is_purged && after.state.rested_at().is_none() {
                    return Amended::Overtaken;
                }
                row.held = None;
                row.stored.callback = after;
                // It may have been forgotten while the callback was at rest.
                let (lane, of) = (row.lane.clone(), row.destination());
                self.lane(policy, &lane);
                if destination_back {
                    self.gone.remove(&of);
                }
            }
        }
        Amended::Saved
    }
}
