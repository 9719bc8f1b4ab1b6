//! The access tokens of connections: fetched once however many polls wait, shared, renewed.
//!
//! Entra blocks apps that ask in a loop (AADSTS50196). So nothing that goes wrong here, and nothing
//! that goes wrong at Graph, makes one identity ask more often than its [`Ration`] allows; nor each caller
//! who asks by proofs of it that Entra has yet to take, which may be none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as Gate, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use super::grant::Granted;
use super::ration::{Eater, Ration};
use super::{AccessToken, Connection, TooSoon};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::operation::{Hindrance, after};

/// The tokens of all connections, for all polls.
pub(super) struct Tokens {
    identities: Mutex<HashMap<Identity, Entry>>,
    ration: Mutex<Ration>,
    examinations: Mutex<Ration>,
    capacity: usize,
    shortest_service: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// Whom a token is for, and what for.
///
/// The proof is part of it, by a digest: a connection that was given another proof is another
/// identity, which inherits neither the tokens nor the refusals of the one before.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Identity {
    eater: Eater,
    proof: [u8; 32],
    scope: String,
}

/// What is known of one identity.
#[derive(Debug)]
struct Entry {
    held: Option<Held>,
    failure: Option<Failure>,
    used_at: Timestamp,
    /// Held by the one poll that is asking for a token.
    gate: Arc<Gate<()>>,
}

#[derive(Clone, Debug)]
struct Held {
    token: AccessToken,
    made_at: Timestamp,
    /// From here on a poll gets another one, while this one still serves the rest.
    renew_at: Timestamp,
    usable_until: Timestamp,
}

/// The last request for a token came to nothing.
#[derive(Clone, Copy, Debug)]
struct Failure {
    hindrance: Hindrance,
    in_a_row: u32,
    /// No other request is made before this.
    until: Timestamp,
}

/// What a poll is to do about its token.
enum Next {
    Use(AccessToken),
    /// Get another one, or use this one where that is being done.
    Renew(AccessToken, Arc<Gate<()>>),
    /// Get one, or wait for the poll that is doing so.
    Fetch(Arc<Gate<()>>),
    GoWithout(Hindrance),
}

/// An entry takes a few KiB, most of which is the token.
const CAPACITY: usize = 10_000;

/// A token is not used in the last moments of its life, lest it expire on its way.
const LONGEST_MARGIN: Duration = Duration::from_secs(30);

/// A token is renewed once three quarters of its life are over, and up to this part of it later, lest
/// those of all identities that began together be renewed together.
const JITTER_DIVISOR: u32 = 20;

/// A token that Graph refuses serves on until it is this old, so that a connection without
/// permission, which has every token refused, does not ask for one with each poll. Shorter than
/// the shortest interval of polls: the operation that was refused gets a fresh token next time.
pub const SHORTEST_SERVICE: Duration = Duration::from_secs(30);

/// Tokens that one identity may ask for at once, after a rest.
const AT_ONCE: u32 = 10;

/// Of the requests that Graph grants to an identity in 30 s, those that its lane leaves.
const EXAMINATIONS_AT_ONCE: u32 = 2;

const FIRST_PAUSE: Duration = Duration::from_secs(5);

const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The longest `Retry-After` of the token endpoint that is taken at its word.
const LONGEST_ASKED: Duration = Duration::from_hours(1);

/// How long a refusal is remembered. It costs a repair that leaves the secret as it is, such as
/// granting a permission, a minute at the most.
const REFUSED_FOR: Duration = Duration::from_mins(1);

impl Tokens {
    /// For `shortest_service` see [`SHORTEST_SERVICE`]; a ration is one request in twice that.
    pub(super) fn new(shortest_service: Duration) -> Self {
        let ration = Ration::new(AT_ONCE, shortest_service.saturating_mul(2));
        let examinations = Ration::new(EXAMINATIONS_AT_ONCE, shortest_service);
        Self {
            identities: Mutex::default(),
            ration: Mutex::new(ration),
            examinations: Mutex::new(examinations),
            capacity: CAPACITY,
            shortest_service,
            metrics: Arc::default(),
        }
    }

    /// A token for `identity`, for an operation of `caller`: the one that is held, or what `fetch` comes
    /// to.
    ///
    /// `fetch` runs only if this poll is the one to ask; it limits its own time. Waiting for
    /// another poll that asks ends at `until`, with trouble.
    pub(super) async fn get(
        &self,
        identity: &Identity,
        caller: &str,
        clock: &dyn Clock,
        until: Instant,
        fetch: impl Future<Output = Result<Granted, Hindrance>>,
    ) -> Result<AccessToken, Hindrance> {
        let _asking: OwnedMutexGuard<()> = match self.next(identity, clock.now()) {
            Next::Use(token) => return Ok(token),
            Next::GoWithout(hindrance) => return Err(hindrance),
            Next::Renew(token, gate) => match gate.try_lock_owned() {
                Ok(asking) => asking,
                Err(_) => return Ok(token),
            },
            Next::Fetch(gate) => timeout_at(until, gate.lock_owned())
                .await
                .map_err(|_| Hindrance::Trouble { retry_after: None })?,
        };
        // Another poll may have asked while this one waited, and then its answer is for both.
        match self.next(identity, clock.now()) {
            Next::Use(token) => return Ok(token),
            Next::GoWithout(hindrance) => return Err(hindrance),
            Next::Renew(..) | Next::Fetch(_) => {}
        }
        let asked_at = clock.now();
        let eater = self.eater(identity, caller);
        let result = match self.ration(&eater, asked_at) {
            Ok(()) => {
                let began = Instant::now();
                let fetched = fetch.await;
                self.metrics.tokens.asked(word(&fetched), began.elapsed());
                fetched
            }
            Err(hindrance) => {
                self.metrics.tokens.rationed();
                if eater.unproven_by.is_some() {
                    // Others may ask with the same proof, who have not used up what is theirs.
                    return Err(hindrance);
                }
                Err(hindrance)
            }
        };
        self.learn(identity, asked_at, clock.now(), result)
    }

    /// Counts a request for a token for `eater`, which is made elsewhere or next; trouble until there
    /// may be one.
    pub(super) fn ration(&self, eater: &Eater, now: Timestamp) -> Result<(), Hindrance> {
        let mut ration = self.ration.lock().unwrap_or_else(PoisonError::into_inner);
        let Eater { tenant, client_id, unproven_by, .. } = eater;
        ration.take(eater, now).map_err(|wait| {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            match unproven_by {
                None => tracing::error!(
                    %tenant, client_id, wait_ms,
                    "too many tokens were asked for, and no more are for now: see why they do not last"
                ),
                Some(caller) => tracing::warn!(
                    %tenant, client_id, caller, wait_ms,
                    "{caller} asked for too many tokens by proofs that Entra has not taken, and asks for \
                     no more for now"
                ),
            }
            Hindrance::Trouble { retry_after: Some(wait) }
        })
    }

    /// Counts an examination of `identity` for `caller`, which asks for a token, and tells for whom it
    /// was counted. [`Self::examination_at_graph`] comes next.
    pub(super) fn examination(
        &self,
        identity: &Identity,
        caller: &str,
        now: Timestamp,
    ) -> Result<Eater, TooSoon> {
        let eater = self.eater(identity, caller);
        self.count_examination(&eater, now)?;
        self.ration(&eater, now).map_err(|hindrance| match hindrance {
            Hindrance::Trouble { retry_after } => TooSoon { wait: retry_after.unwrap_or_default() },
            Hindrance::Refused(_) => TooSoon { wait: self.shortest_service },
        })?;
        Ok(eater)
    }

    /// Counts that an examination goes on to ask Graph, which has one budget for an identity, whoever
    /// has brought which proof.
    pub(super) fn examination_at_graph(
        &self,
        identity: &Identity,
        counted_for: &Eater,
        now: Timestamp,
    ) -> Result<(), TooSoon> {
        if *counted_for == identity.eater {
            return Ok(());
        }
        self.count_examination(&identity.eater, now)
    }

    fn count_examination(&self, eater: &Eater, now: Timestamp) -> Result<(), TooSoon> {
        let mut examinations = self.examinations.lock().unwrap_or_else(PoisonError::into_inner);
        examinations.take(eater, now).map_err(|wait| TooSoon { wait })
    }

    /// For whom a request counts: the identity, once its proof has brought a token; `caller` until then.
    fn eater(&self, identity: &Identity, caller: &str) -> Eater {
        let is_taken = self.lock().get(identity).is_some_and(|entry| entry.held.is_some());
        let unproven_by = (!is_taken).then(|| caller.to_owned());
        Eater { unproven_by, ..identity.eater.clone() }
    }

    /// Keeps what was granted to who asked in another way than by [`Self::get`].
    pub(super) fn keep(
        &self,
        identity: &Identity,
        asked_at: Timestamp,
        now: Timestamp,
        granted: Granted,
    ) -> Option<AccessToken> {
        self.learn(identity, asked_at, now, Ok(granted)).ok()
    }

    /// Learns that Graph refuses `token`, so that the next poll of an operation brings another.
    pub(super) fn forget(&self, identity: &Identity, token: &AccessToken, now: Timestamp) {
        let mut identities = self.lock();
        let Some(held) = identities.get_mut(identity).and_then(|entry| entry.held.as_mut()) else {
            return;
        };
        // Many polls may have used the same token, and one of them may have replaced it already.
        if held.token.secret.expose_secret() == token.secret.expose_secret() {
            let end = after(held.made_at, self.shortest_service).max(now);
            held.usable_until = held.usable_until.min(end);
        }
    }

    fn next(&self, identity: &Identity, now: Timestamp) -> Next {
        self.with_entry(identity, now, |entry| entry.next(now))
    }

    fn learn(
        &self,
        identity: &Identity,
        asked_at: Timestamp,
        now: Timestamp,
        result: Result<Granted, Hindrance>,
    ) -> Result<AccessToken, Hindrance> {
        let jitter = identity.jitter(asked_at);
        self.with_entry(identity, now, |entry| entry.learn(asked_at, now, result, jitter))
    }

    fn with_entry<T>(
        &self,
        identity: &Identity,
        now: Timestamp,
        act: impl FnOnce(&mut Entry) -> T,
    ) -> T {
        let mut identities = self.lock();
        if self.capacity <= identities.len() && !identities.contains_key(identity) {
            let longest_unused = identities
                .iter()
                .min_by_key(|(_, entry)| entry.used_at)
                .map(|(key, _)| key.clone());
            if let Some(longest_unused) = longest_unused {
                identities.remove(&longest_unused);
            }
        }
        let entry = identities.entry(identity.clone()).or_insert_with(|| Entry::new(now));
        entry.used_at = now;
        act(entry)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Entry>> {
        // Every change is a single assignment, so a panic elsewhere cannot leave half of one.
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a request for a token, for whoever counts them.
fn word(fetched: &Result<Granted, Hindrance>) -> &'static str {
    match fetched {
        Ok(_) => "granted",
        Err(Hindrance::Refused(_)) => "refused",
        Err(Hindrance::Trouble { .. }) => "unavailable",
    }
}

impl Identity {
    /// The app of `connection` itself.
    pub(super) fn of(connection: &Connection, scope: &str) -> Self {
        let Connection { tenant, client_id, proof, .. } = connection;
        // A user's budget of token requests is none of the app's.
        let user = connection.user().map(str::to_owned);
        let (tenant, client_id) = (tenant.clone(), client_id.clone());
        let eater = Eater { tenant, client_id, user, unproven_by: None };
        Self { eater, proof: proof.digest(), scope: scope.to_owned() }
    }

    /// The jitter of the renewal of what was granted at `at`, hashed rather than drawn: from 0 to 1.
    fn jitter(&self, at: Timestamp) -> f64 {
        let digest = Sha256::new_with_prefix(self.proof)
            .chain_update(&self.scope)
            .chain_update(self.eater.user.as_deref().unwrap_or_default())
            .chain_update(at.as_millisecond().to_be_bytes())
            .finalize();
        let drawn = digest.iter().take(4).fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        f64::from(drawn) / f64::from(u32::MAX)
    }
}

impl Entry {
    fn new(now: Timestamp) -> Self {
        Self { held: None, failure: None, used_at: now, gate: Arc::default() }
    }

    fn next(&self, now: Timestamp) -> Next {
        let pausing = self.failure.filter(|failure| now < failure.until);
        match (&self.held, pausing) {
            (Some(held), None) if held.renew_at <= now && now < held.usable_until => {
                Next::Renew(held.token.clone(), Arc::clone(&self.gate))
            }
            (Some(held), _) if now < held.usable_until => Next::Use(held.token.clone()),
            (_, Some(failure)) => Next::GoWithout(failure.remembered(now)),
            (_, None) => Next::Fetch(Arc::clone(&self.gate)),
        }
    }

    fn learn(
        &mut self,
        asked_at: Timestamp,
        now: Timestamp,
        result: Result<Granted, Hindrance>,
        jitter: f64,
    ) -> Result<AccessToken, Hindrance> {
        match result {
            Ok(granted) => {
                let held = Held::new(granted.secret, asked_at, granted.lives_for, jitter);
                let token = held.token.clone();
                self.held = Some(held);
                self.failure = None;
                Ok(token)
            }
            Err(hindrance) => {
                let before = self.failure.map_or(0, |failure| failure.in_a_row);
                let failure = Failure::new(hindrance, before, now);
                self.failure = Some(failure);
                match &self.held {
                    Some(held) if now < held.usable_until => Ok(held.token.clone()),
                    Some(_) | None => Err(failure.remembered(now)),
                }
            }
        }
    }
}

impl Held {
    fn new(secret: SecretString, made_at: Timestamp, lives_for: Duration, jitter: f64) -> Self {
        let later = (lives_for / JITTER_DIVISOR).mul_f64(jitter);
        let margin = (lives_for / 10).min(LONGEST_MARGIN);
        let expires_at = after(made_at, lives_for);
        Self {
            token: AccessToken { secret, expires_at },
            made_at,
            renew_at: after(made_at, lives_for / 4 * 3 + later),
            usable_until: after(made_at, lives_for.saturating_sub(margin)),
        }
    }
}

impl Failure {
    fn new(hindrance: Hindrance, before: u32, now: Timestamp) -> Self {
        let pause = match hindrance {
            Hindrance::Trouble { retry_after } => {
                let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(before));
                let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
                doubled.min(LONGEST_PAUSE).max(asked)
            }
            Hindrance::Refused(_) => REFUSED_FOR,
        };
        Self { hindrance, in_a_row: before.saturating_add(1), until: after(now, pause) }
    }

    /// What a poll is told while no other request is made: not to come back before one may be.
    fn remembered(self, now: Timestamp) -> Hindrance {
        match self.hindrance {
            Hindrance::Trouble { .. } => {
                let rest = Duration::try_from(self.until.duration_since(now)).unwrap_or_default();
                Hindrance::Trouble { retry_after: Some(rest) }
            }
            Hindrance::Refused(refusal) => Hindrance::Refused(refusal),
        }
    }
}

#[cfg(test)]
mod tests;
