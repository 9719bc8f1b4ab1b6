//! Lanes: what shares a budget, so that nobody's trouble becomes another's delay.
//!
//! A Graph lane is one identity at Graph; it admits so many polls in any window of time. A callback
//! lane is one receiver's origin, seen by one caller; it admits so many attempts at a time, twice
//! as many after each success, and after a failure a single one, once a pause is over.
//!
//! Both are the same thing: an allowance of *slots*. A slot is taken by a claim and stays busy
//! until the step is over, on a Graph lane for one window longer, and on a callback lane whose
//! receiver takes so many attempts a minute for a part of that (see [`Rate`]). A claim that is never
//! heard of again frees its slot by time. Counting from the *answer*, not from the claim, keeps the rate
//! exact where it matters, at Graph: whatever the network does in between, a request that has been
//! answered has arrived, and the one that takes over its slot leaves a full window later.
//!
//! Lanes are pure. The store keeps them, so that they hold over restarts and replicas.

mod rate;
mod report;
mod retry_after;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::operation::after;

pub use rate::Rate;
pub use report::Report;
pub use retry_after::retry_after;

/// Names a lane: `graph:<identity>` or `callback:<caller>:<origin>`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LaneName {
    pub kind: Kind,
    /// The identity, or the caller and origin.
    pub rest: String,
}

/// What a lane leads to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    Graph,
    Callback,
}

/// The operator's choices for lanes, passed in rather than looked up.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Polls of one identity in any [`Policy::graph_window`]. Viva Engage grants 10 per user and
    /// app; what we leave is for the app's own calls.
    pub graph_requests: u32,
    pub graph_window: Duration,
    /// How long a 429 without `Retry-After` pauses the lane at first, doubled with each in a row.
    pub graph_pause: Duration,
    /// Attempts in flight to one receiver at the most.
    pub callback_allowance: u32,
    /// How long the first failure pauses the lane, doubled with each in a row.
    pub callback_pause: Duration,
    /// No pause of a callback lane grows beyond this by doubling.
    pub longest_callback_pause: Duration,
    /// The longest `Retry-After` of Graph that is taken at its word.
    pub longest_asked_by_graph: Duration,
    /// The longest `Retry-After` of a receiver that is taken at its word.
    pub longest_asked_by_receiver: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            graph_requests: 8,
            // A second more than Graph's window, for a clock that was set runs a little fast for a
            // while (see `clock::Steady`).
            graph_window: Duration::from_secs(31),
            graph_pause: Duration::from_secs(30),
            callback_allowance: 16,
            callback_pause: Duration::from_secs(1),
            longest_callback_pause: Duration::from_mins(5),
            longest_asked_by_graph: Duration::from_hours(1),
            longest_asked_by_receiver: Duration::from_hours(24),
        }
    }
}

/// The state of a lane that is not in its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lane {
    pub kind: Kind,
    /// How many slots there are. Fixed on a Graph lane, moving on a callback lane.
    pub allowance: u32,
    /// What the receiver has agreed to, where it has named a rate. Never on a Graph lane.
    pub rate: Option<Rate>,
    /// Failures in a row, each of which lengthened the pause.
    pub failures: u32,
    /// Nothing is admitted before this.
    pub paused_until: Option<Timestamp>,
    pub slots: Vec<Slot>,
}

/// One admitted step, for as long as it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Of the claim that took the slot.
    pub token: u64,
    pub busy_until: Timestamp,
}

impl Lane {
    /// A lane on which nothing has happened yet.
    pub fn new(kind: Kind, policy: &Policy) -> Self {
        let allowance = match kind {
            Kind::Graph => policy.graph_requests,
            Kind::Callback => 1,
        };
        Self { kind, allowance, rate: None, failures: 0, paused_until: None, slots: Vec::new() }
    }

    /// How many steps may be admitted `now`.
    pub fn room(&self, now: Timestamp) -> usize {
        if self.paused_until.is_some_and(|until| now < until) {
            return 0;
        }
        let busy = self.slots.iter().filter(|slot| now < slot.busy_until).count();
        self.width().saturating_sub(busy)
    }

    /// The earliest time from `now` on at which there is room for a step.
    pub fn free_at(&self, now: Timestamp) -> Timestamp {
        let pause_over = self.paused_until.map_or(now, |until| until.max(now));
        let mut busy: Vec<Timestamp> = self
            .slots
            .iter()
            .map(|slot| slot.busy_until)
            .filter(|until| pause_over < *until)
            .collect();
        let too_many = (busy.len() + 1).saturating_sub(self.width());
        if too_many == 0 {
            return pause_over;
        }
        busy.sort_unstable();
        busy.get(too_many - 1).copied().unwrap_or(pause_over)
    }

    /// Takes a slot for the claim `token`, whose right to act ends at `claimed_until`.
    ///
    /// The caller has seen [`Lane::room`] for it.
    pub fn admit(&mut self, policy: &Policy, token: u64, claimed_until: Timestamp, now: Timestamp) {
        self.slots.retain(|slot| now < slot.busy_until);
        let busy_until = after(claimed_until, self.counts_for(policy));
        self.slots.push(Slot { token, busy_until });
    }

    /// Learns how the step of the claim `token` went, and lets go of its slot in due time.
    pub fn settle(&mut self, policy: &Policy, token: u64, report: Report, now: Timestamp) {
        let counts_for =
            if report == Report::Unused { Duration::ZERO } else { self.counts_for(policy) };
        for slot in self.slots.iter_mut().filter(|slot| slot.token == token) {
            slot.busy_until = after(now, counts_for);
        }
        self.slots.retain(|slot| now < slot.busy_until);

        match report {
            Report::Unused | Report::Indifferent => {}
            Report::Well => {
                self.failures = 0;
                if self.kind == Kind::Callback {
                    let doubled = self.allowance.saturating_mul(2);
                    self.allowance = doubled.clamp(1, policy.callback_allowance.max(1));
                }
            }
            Report::Unwell { retry_after } => self.pause(policy, retry_after, now),
        }
    }

    /// Admits nothing before `until`, whatever else is known.
    pub fn rest(&mut self, until: Timestamp) {
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
    }

    /// Whether a fresh lane in its place would behave the same: nothing counts, nothing is
    /// remembered against it.
    pub fn is_forgettable(&self, now: Timestamp) -> bool {
        self.slots.iter().all(|slot| slot.busy_until <= now)
            && self.paused_until.is_none_or(|until| until <= now)
    }

    /// How many of its slots are of use. Read off rather than set, so that a rate that changes holds
    /// from the next step on.
    fn width(&self) -> usize {
        self.rate.map_or(self.allowance, |rate| rate.slots(self.allowance)) as usize
    }

    /// How long a slot stays busy after its step is over.
    fn counts_for(&self, policy: &Policy) -> Duration {
        match (self.kind, self.rate) {
            (Kind::Graph, _) => policy.graph_window,
            (Kind::Callback, None) => Duration::ZERO,
            (Kind::Callback, Some(rate)) => {
                rate.apart(policy.callback_allowance.max(self.allowance))
            }
        }
    }

    /// Pauses for as long as asked, or for longer with each failure in a row.
    ///
    /// What was in flight together fails together. So while the lane is paused already, only an
    /// explicit wish lengthens the pause.
    fn pause(&mut self, policy: &Policy, asked: Option<Duration>, now: Timestamp) {
        let (shortest, longest, longest_asked) = match self.kind {
            Kind::Graph => {
                (policy.graph_pause, policy.longest_asked_by_graph, policy.longest_asked_by_graph)
            }
            Kind::Callback => (
                policy.callback_pause,
                policy.longest_callback_pause,
                policy.longest_asked_by_receiver,
            ),
        };
        let already_paused = self.paused_until.is_some_and(|until| now < until);
        let asked = asked.unwrap_or_default().min(longest_asked);
        let wait = if already_paused {
            asked
        } else {
            let doubled = shortest.saturating_mul(2_u32.saturating_pow(self.failures));
            self.failures = self.failures.saturating_add(1);
            match self.kind {
                // Graph's word is exact: its window opens then, and waiting longer gains nothing.
                Kind::Graph if !asked.is_zero() => asked,
                Kind::Graph | Kind::Callback => doubled.min(longest).max(asked),
            }
        };
        if self.kind == Kind::Callback {
            self.allowance = 1;
        }
        self.rest(after(now, wait));
    }
}

/// How many of `hands` free hands the first of `lanes` due lanes may take, so that each gets some.
pub fn share(hands: usize, lanes: usize) -> usize {
    hands.div_ceil(lanes.max(1))
}

impl LaneName {
    /// The lane of a Graph identity.
    pub fn graph(identity: impl Into<String>) -> Self {
        Self { kind: Kind::Graph, rest: identity.into() }
    }

    /// The lane of `origin` (scheme, host and port) as `caller` sees it.
    pub fn callback(caller: impl fmt::Display, origin: impl fmt::Display) -> Self {
        Self { kind: Kind::Callback, rest: format!("{caller}:{origin}") }
    }

    /// Reads what [`fmt::Display`] prints.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let kind = match kind {
            "graph" => Kind::Graph,
            "callback" => Kind::Callback,
            _ => return None,
        };
        Some(Self { kind, rest: rest.to_owned() })
    }
}

impl fmt::Display for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Graph => "graph",
            Kind::Callback => "callback",
        };
        write!(f, "{kind}:{}", self.rest)
    }
}
