//! What is forgotten in time.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::rows::{IdempotencyRow, LaneRow, Rows};
use crate::callback;
use crate::lane::LaneName;
use crate::operation::{Agenda, OperationId};
use crate::store::{Forgotten, Purged, Resend};

impl Rows {
    pub(super) fn purge(&mut self, before: Timestamp, limit: u32) -> Purged {
        let mut callbacks = 0;
        let Self { callbacks: all, operations, .. } = self;
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
        Purged { callbacks, more: callbacks == limit }
    }

    pub(super) fn forget(
        &mut self,
        before: Timestamp,
        keys_before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Forgotten {
        let most = limit as usize;
        let operations: Vec<OperationId> = self
            .operations
            .values()
            .filter(|row| row.tracked.operation.rested_before(before))
            .map(|row| row.tracked.operation.id)
            .filter(|id| {
                self.callbacks
                    .values()
                    .filter(|row| row.stored.callback.id.operation == *id)
                    .all(|row| row.stored.callback.state.rested_at().is_some_and(|at| at < before))
            })
            .take(most)
            .collect();
        self.operations.retain(|id, _| !operations.contains(id));
        self.callbacks.retain(|id, _| !operations.contains(&id.operation));
        let is_old = |row: &IdempotencyRow| row.first_used_at < keys_before;
        let keys = self.idempotency.extract_if(.., |_, row| is_old(row)).take(most).count();
        let is_done = |it: &Resend| it.done_at.is_some_and(|at| at < before);
        let resends = self.resends.extract_if(.., |_, it| is_done(it)).take(most).count();
        let used: BTreeSet<LaneName> = self
            .agendas()
            .filter(|(_, _, agenda)| *agenda != Agenda::default())
            .map(|(_, lane, _)| lane.clone())
            .collect();
        let is_unused =
            |name: &LaneName, row: &LaneRow| !used.contains(name) && row.lane.is_forgettable(now);
        let lanes = self.lanes.extract_if(.., |name, row| is_unused(name, row)).take(most).count();
        Forgotten {
            operations: u32::try_from(operations.len()).unwrap_or(u32::MAX),
            more: [operations.len(), keys, resends, lanes].contains(&most),
        }
    }
}
