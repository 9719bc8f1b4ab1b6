//! Counts what is kept.

use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::lane::Kind;
use crate::store::{Census, Figures, StoreError};
use crate::{callback, operation};

#[async_trait]
impl Census for MemoryStore {
    async fn figures(&self, now: Timestamp) -> Result<Figures, StoreError> {
        let rows = self.rows();
        let mut figures = Figures::default();
        for row in rows.operations.values() {
            match row.tracked.operation.state {
                operation::State::Watching(_) => figures.watching += 1,
                operation::State::Blocked { .. } => figures.blocked += 1,
                operation::State::Settled { .. } => figures.settled += 1,
                operation::State::Cancelled { .. } => figures.cancelled += 1,
            }
        }
        for row in rows.callbacks.values() {
            match row.stored.callback.state {
                callback::State::Pending { .. } => figures.pending += 1,
                callback::State::Undeliverable { .. } => figures.undeliverable += 1,
                callback::State::Delivered { .. } => {}
            }
        }
        for (_, name, steps) in rows.queues() {
            let of_lanes = match name.kind {
                Kind::Graph => &mut figures.graph_lanes,
                Kind::Callback => &mut figures.callback_lanes,
            };
            let is_paused = |until: Timestamp| now < until;
            let paused_until = rows.lanes.get(&name).and_then(|row| row.lane.paused_until);
            of_lanes.paused += u64::from(paused_until.is_some_and(is_paused));
            let due = steps.iter().filter(|(step_at, _)| *step_at <= now).count();
            of_lanes.waiting += u64::try_from(due).unwrap_or(u64::MAX);
        }
        Ok(figures)
    }
}
