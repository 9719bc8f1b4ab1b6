//! The contract in its plainest form: maps behind one lock, and every question answered by looking
//! at everything. What the other backends are measured against; forgotten when the process ends.

mod audit;
mod callback_options;
mod connections;
mod directory;
mod figures;
mod resends;
mod retention;
mod rows;
mod sign_ins;
mod steps;
mod user_grants;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use self::rows::Rows;
use super::{
    Advance, Advanced, Amended, Amendment, Asked, Attempt, Batch, CallbackFilter, CallerName,
    Claimed, Commit, Committed, Forgotten, GoneDestination, Handshake, Identity, OperationFilter,
    Page, Purged, Registered, Registration, Resend, ResendId, Step, Store, StoreError,
    StoredCallback, Tracked, Waking,
};
use crate::callback::CallbackId;
use crate::lane::{self, LaneName, share};
use crate::operation::{OperationId, after};

/// Everything in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    rows: Mutex<Rows>,
    policy: lane::Policy,
}

impl MemoryStore {
    pub fn new(policy: lane::Policy) -> Self {
        Self { rows: Mutex::default(), policy }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
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
        Ok(self.rows().amend(&self.policy, amendment))
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

    async fn ask_resend(&self, resend: Resend, live_limit: u32) -> Result<Asked, StoreError> {
        Ok(self.rows().ask_resend(resend, live_limit))
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
        Ok(self.rows().resend_batch(resend, limit, now, crowd))
    }

    async fn advance_resend(&self, advance: Arc<Advance>) -> Result<Advanced, StoreError> {
        Ok(self.rows().advance_resend(&self.policy, &advance))
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
        Ok(self.rows().purge(before, limit))
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
        Ok(self.rows().forget(before, keys_before, now, limit))
    }
}
