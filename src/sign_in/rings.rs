//! The keys of all tenants that may sign in, fetched now and then by a task of their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Refused;
use super::keys::{KeySet, UnusableKeys};
use crate::graph::{Authority, KeysUnavailable};

/// When keys are fetched, as Microsoft advises.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Without anybody asking.
    pub refreshed_every: Duration,
    /// Between two requests of one tenant, whatever keys are asked for in between.
    pub apart: Duration,
    /// The same for as long as there are none at all.
    pub apart_at_first: Duration,
    /// After so long without news, keys that may have been withdrawn are no longer believed.
    pub trusted_for: Duration,
}

/// One ring for each tenant; there are no others than those that the operator allows.
pub(super) struct KeyRings {
    rings: HashMap<String, Ring>,
    pace: Pace,
}

struct Ring {
    state: watch::Sender<State>,
    /// Somebody has a token that is signed by a key which is not in the ring.
    wanted: Notify,
}

#[derive(Clone, Default)]
struct State {
    held: Option<Held>,
    /// When the authority was asked last, whatever came of it.
    asked_at: Option<Instant>,
    is_asking: bool,
}

#[derive(Clone)]
struct Held {
    keys: Arc<KeySet>,
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
enum NoKeys {
    #[error(transparent)]
    Unavailable(#[from] KeysUnavailable),
    #[error(transparent)]
    Unusable(#[from] UnusableKeys),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refreshed_every: Duration::from_hours(1),
            apart: Duration::from_mins(5),
            apart_at_first: Duration::from_secs(10),
            trusted_for: Duration::from_hours(24),
        }
    }
}

impl KeyRings {
    pub(super) fn new<'a>(tenants: impl Iterator<Item = &'a str>, pace: Pace) -> Self {
        let ring = || Ring { state: watch::Sender::new(State::default()), wanted: Notify::new() };
        Self { rings: tenants.map(|tenant| (tenant.to_owned(), ring())).collect(), pace }
    }

    /// Fetches keys when it is time to, for ever.
    pub(super) async fn keep(&self, authority: &dyn Authority) {
        let keeping = self.rings.iter().map(async |(tenant, ring)| {
            loop {
                self.rest(ring).await;
                ring.fetch(tenant, authority).await;
                // Whoever wanted it until now has got what there is.
                ring.wanted.notified().now_or_never();
            }
        });
        join_all(keeping).await;
    }

    /// The keys of `tenant`, with the one that is called `kid` if that is to be had by `until`.
    pub(super) async fn keys(
        &self,
        tenant: &str,
        kid: &str,
        until: Instant,
    ) -> Result<Arc<KeySet>, Refused> {
        let unsure = |retry_after| Refused::Unsure { retry_after };
        let ring = self.rings.get(tenant).ok_or_else(|| unsure(self.pace.apart))?;
        let mut states = ring.state.subscribe();
        let seen = states.borrow_and_update().clone();
        if let Some(keys) = seen.trusted(self.pace).filter(|keys| keys.has(kid)) {
            return Ok(keys);
        }
        let now = Instant::now();
        if !seen.is_asking && now < self.may_ask_from(&seen) {
            // Asking would be of no use so soon.
            let wait = self.may_ask_from(&seen) - now;
            return seen.trusted(self.pace).ok_or_else(|| unsure(wait));
        }
        ring.wanted.notify_one();
        let answered = states.wait_for(|state| {
            !state.is_asking && state.asked_at.is_some() && state.asked_at != seen.asked_at
                || state.trusted(self.pace).is_some_and(|keys| keys.has(kid))
        });
        match timeout_at(until, answered).await {
            Ok(Ok(state)) => {
                state.trusted(self.pace).ok_or_else(|| unsure(self.pace.apart_at_first))
            }
            // Whether the key is there is not known.
            Ok(Err(_)) | Err(_) => Err(unsure(self.pace.apart_at_first)),
        }
    }

    /// Waits until keys are to be fetched: until their time has come, or somebody wants others and it is
    /// long enough since the last time.
    async fn rest(&self, ring: &Ring) {
        let state = ring.state.borrow().clone();
        let Some(asked_at) = state.asked_at else { return };
        let may_ask_from = self.may_ask_from(&state);
        sleep_until(may_ask_from).await;
        // What failed is tried again as soon as may be.
        let is_fresh = state.held.as_ref().is_some_and(|held| asked_at <= held.since);
        if is_fresh {
            let due_at = (asked_at + self.pace.refreshed_every).max(may_ask_from);
            tokio::select! {
                () = sleep_until(due_at) => {}
                () = ring.wanted.notified() => {}
            }
        }
    }

    fn may_ask_from(&self, state: &State) -> Instant {
        let Some(asked_at) = state.asked_at else { return Instant::now() };
        let apart = if state.held.is_some() { self.pace.apart } else { self.pace.apart_at_first };
        asked_at + apart
    }
}

impl Ring {
    async fn fetch(&self, tenant: &str, authority: &dyn Authority) {
        let asked_at = Instant::now();
        self.state.send_modify(|state| state.is_asking = true);
        let published = authority.published_keys(tenant).await.map_err(NoKeys::from);
        let keys = published.and_then(|bytes| Ok(KeySet::read(&bytes)?));
        match &keys {
            Ok(keys) => {
                tracing::debug!(tenant, keys = keys.count(), "fetched the keys of a tenant");
            }
            Err(error) => tracing::warn!(
                tenant,
                %error,
                "cannot fetch the keys of tenant {tenant}: who signs in there is believed by those of \
                 before, if any"
            ),
        }
        self.state.send_modify(|state| {
            state.is_asking = false;
            state.asked_at = Some(asked_at);
            if let Ok(keys) = keys {
                state.held = Some(Held { keys: Arc::new(keys), since: asked_at });
            }
        });
    }
}

impl State {
    fn trusted(&self, pace: Pace) -> Option<Arc<KeySet>> {
        let held = self.held.as_ref()?;
        (held.since.elapsed() < pace.trusted_for).then(|| Arc::clone(&held.keys))
    }
}
