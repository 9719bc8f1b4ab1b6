//! Bulk resends.

use std::collections::HashMap;

use jiff::Timestamp;

use super::rows::{CallbackRow, Rows};
use crate::callback::Callback;
use crate::lane::{self, LaneName};
use crate::store::{Advance, Advanced, Asked, Batch, Resend, ResendChange, StoredCallback};

impl Rows {
    pub(super) fn ask_resend(&mut self, mut resend: Resend, live_limit: u32) -> Asked {
        let under_way = |it: &&Resend| it.done_at.is_none() && it.asked_by == resend.asked_by;
        let live: Vec<&Resend> = self.resends.values().filter(under_way).collect();
        if let Some(same) = live.iter().find(|it| it.is_same_as(&resend)) {
            return Asked::UnderWay((*same).clone());
        }
        if live_limit as usize <= live.len() {
            return Asked::LimitReached;
        }
        let matching = self.callbacks.values().filter(|row| row.is_wanted_by(&resend));
        resend.matched = matching.count() as u64;
        self.resends.insert(resend.id, resend.clone());
        Asked::Begun(resend)
    }

    pub(super) fn resend_batch(
        &self,
        resend: &Resend,
        limit: u32,
        now: Timestamp,
        crowd: u32,
    ) -> Batch {
        let behind = self
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
        for (_, lane, agenda) in self.agendas() {
            if agenda.step_at.is_some_and(|at| at <= now)
                && let Some(waiting) = waiting.get_mut(lane)
            {
                *waiting = crowd.min(*waiting + 1);
            }
        }
        Batch {
            callbacks,
            waiting,
            reached: looked_at.last().map(|row| row.stored.callback.id).or(resend.reached),
            is_last: looked_at.len() < limit as usize,
        }
    }

    pub(super) fn advance_resend(&mut self, policy: &lane::Policy, advance: &Advance) -> Advanced {
        let is_there = |it: &Resend| it.done_at.is_none() && it.reached == advance.from;
        let found = self.resends.get(&advance.id).filter(|it| is_there(it));
        let Some(asked_at) = found.map(|it| it.asked_at) else {
            return Advanced::Overtaken;
        };
        let mut resent = 0;
        for ResendChange { before, after } in &advance.changes {
            let row = self.callbacks.get_mut(&before.id);
            let is_same = |row: &StoredCallback| row.callback == *before && row.body.is_some();
            if let Some(row) = row.filter(|row| is_same(&row.stored)) {
                row.held = None;
                row.stored.callback = after.clone();
                let (lane, of) = (row.lane.clone(), row.destination());
                self.lane(policy, &lane);
                self.gone.retain(|it, since| *it != of || asked_at <= *since);
                resent += 1;
            }
        }
        if let Some(resend) = self.resends.get_mut(&advance.id) {
            resend.resent += resent;
            resend.reached = advance.to;
            resend.held_back = advance.held_back;
            resend.done_at = advance.done_at;
        }
        Advanced::Saved { resent }
    }
}
