//! How often one identity may ask for tokens, whatever goes wrong; and each caller by proofs of it that
//! Entra has yet to take.
//!
//! Entra blocks apps that ask in a loop (AADSTS50196), and a loop can be made of many things: tokens
//! that expire at once or that Graph refuses, proofs that are replaced again and again, restarts aside.
//! So each request counts, whatever it is for, before it is made.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::operation::{after, elapsed};

/// Identities that are remembered. Those that have rested make room first.
const CAPACITY: usize = 20_000;

/// Lets `at_once` requests of each through, and then one each `period`: of ten and a minute, 70 in any
/// hour. Counted per process.
#[derive(Debug)]
pub(super) struct Ration {
    at_once: u32,
    period: Duration,
    /// When each would have rested in full, all that it has asked for counted (GCRA).
    rested_at: HashMap<Eater, Timestamp>,
}

/// Whom Entra sees: an app in a tenant, or a user of that app; and who is to answer for it. The proof and
/// the scope are not part of it, or each new one would bring a ration of its own.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Eater {
    pub(super) tenant: String,
    pub(super) client_id: String,
    pub(super) user: Option<String>,
    /// The caller who asks by a proof that Entra has yet to take. Who knows the name of another caller's
    /// app could use up the ration of that otherwise, with proofs that are none.
    pub(super) unproven_by: Option<String>,
}

impl Ration {
    pub(super) fn new(at_once: u32, period: Duration) -> Self {
        Self { at_once, period, rested_at: HashMap::new() }
    }

    /// Counts a request, or says how long to wait until one may be made.
    pub(super) fn take(&mut self, eater: &Eater, now: Timestamp) -> Result<(), Duration> {
        if CAPACITY <= self.rested_at.len() && !self.rested_at.contains_key(eater) {
            self.make_room(now);
        }
        let rested_at = self.rested_at.get(eater).copied().unwrap_or(now).max(now);
        let backlog = elapsed(now, rested_at);
        let allowed = self.period.saturating_mul(self.at_once.saturating_sub(1));
        if allowed < backlog {
            return Err(backlog.saturating_sub(allowed));
        }
        self.rested_at.insert(eater.clone(), after(rested_at, self.period));
        Ok(())
    }

    fn make_room(&mut self, now: Timestamp) {
        self.rested_at.retain(|_, rested_at| now < *rested_at);
        if CAPACITY <= self.rested_at.len() {
            let first = self.rested_at.iter().min_by_key(|(_, at)| **at).map(|(it, _)| it.clone());
            first.map(|eater| self.rested_at.remove(&eater));
        }
    }
}
