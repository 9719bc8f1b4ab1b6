//! Sees to it that no callback is registered for a receiver that has not agreed to any.
//!
//! A receiver is asked once for each caller and origin, before the first registration is accepted. How
//! is for the courier's greeter to know; here is when:
//!
//! * What a receiver agreed to is kept in the store, and is good for a week, in every replica and after
//!   every restart. From a day on it is asked again, beside the registrations that go on meanwhile. If
//!   that fails, the last good answer counts until its week is over: nobody is kept from registering by
//!   a receiver that is away for a day or two.
//! * What it did not agree to is kept nowhere, and counts for some seconds only, so that whoever has
//!   mended it need not wait. But as every question goes where a caller wishes, nobody is asked twice at
//!   a time, and a caller has so many questions a minute and no more (in each replica).
//! * Whoever registers waits for the answer. What is registered already, or is sent again under the same
//!   idempotency key, needs none.

mod recent;
mod turns;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use governor::clock::{Clock as _, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use self::recent::Recent;
use self::turns::Turns;
use crate::clock::Clock;
use crate::courier::{CallbackUrl, Declined, Greeter};
use crate::lane::LaneName;
use crate::operation::after;
use crate::store::{CallerName, Handshake, Store, StoreError};

/// How long answers count, and how much may be asked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How long what a receiver agreed to is good for.
    pub good_for: Duration,
    /// From which age on it is asked again.
    pub renewed_from: Duration,
    /// Between two tries to renew the same.
    pub between_renewals: Duration,
    /// How long a refusal counts for the next registration.
    pub refusal_counts_for: Duration,
    /// How long a registration waits for its turn, where another is asking the same receiver.
    pub patience: Duration,
    /// Questions of one caller in a minute.
    pub questions_per_minute: NonZeroU32,
    /// Of these, so many at once.
    pub questions_at_once: NonZeroU32,
}

impl Default for Policy {
    fn default() -> Self {
        let number = |it| NonZeroU32::new(it).unwrap_or(NonZeroU32::MIN);
        Self {
            good_for: Duration::from_hours(7 * 24),
            renewed_from: Duration::from_hours(24),
            between_renewals: Duration::from_mins(10),
            refusal_counts_for: Duration::from_secs(5),
            patience: Duration::from_secs(11),
            questions_per_minute: number(60),
            questions_at_once: number(10),
        }
    }
}

/// How many renewals may wait. One that finds no room is planned again by a later registration.
const RENEWALS: usize = 256;

/// How many receivers are asked at a time to renew what they agreed to.
const RENEWED_AT_ONCE: usize = 4;

type Pacer = RateLimiter<CallerName, HashMapStateStore<CallerName>, MonotonicClock>;

/// Asks receivers, and knows which of them have agreed.
pub struct Handshakes {
    greeter: Arc<dyn Greeter>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    policy: Policy,
    form: String,
    /// When receivers agreed, of those that did.
    agreed: Recent<LaneName, Timestamp>,
    refused: Recent<LaneName, Refused>,
    /// When renewals were planned last.
    renewed: Recent<LaneName, ()>,
    turns: Turns<LaneName>,
    pacer: Pacer,
    renewals: mpsc::Sender<Renewal>,
    planned: Mutex<mpsc::Receiver<Renewal>>,
}

/// A refusal of a moment ago.
#[derive(Clone, Debug)]
struct Refused {
    url: String,
    declined: Declined,
}

/// A receiver that is to be asked again.
struct Renewal {
    caller: CallerName,
    url: CallbackUrl,
}

/// Why a registration cannot go on.
#[derive(Debug)]
pub enum Unagreed {
    Declined(Declined),
    /// Too much is being asked for this caller: there is room again in so long.
    Later(Duration),
    Store(StoreError),
}

impl From<StoreError> for Unagreed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Handshakes {
    pub fn new(
        greeter: Arc<dyn Greeter>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        policy: Policy,
    ) -> Self {
        let quota = Quota::per_minute(policy.questions_per_minute);
        let quota = quota.allow_burst(policy.questions_at_once);
        let (renewals, planned) = mpsc::channel(RENEWALS);
        Self {
            form: greeter.form().to_string(),
            agreed: Recent::default(),
            refused: Recent::default(),
            renewed: Recent::default(),
            turns: Turns::default(),
            pacer: RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock),
            renewals,
            planned: Mutex::new(planned),
            greeter,
            store,
            clock,
            policy,
        }
    }

    /// Whether the receiver at `url` has agreed to callbacks of `caller`. Where that is long ago, sees
    /// to it that it is asked again.
    pub async fn has_agreed(
        &self,
        caller: &CallerName,
        url: &CallbackUrl,
    ) -> Result<bool, StoreError> {
        let lane = LaneName::callback(caller, url.origin());
        let Some(agreed_at) = self.agreed_at(&lane).await? else { return Ok(false) };
        let now = self.clock.now();
        let is_old = after(agreed_at, self.policy.renewed_from) <= now;
        if is_old && self.renewed.get(&lane, now).is_none() {
            let next_try = after(now, self.policy.between_renewals);
            self.renewed.put(lane, (), now, next_try);
            let renewal = Renewal { caller: caller.clone(), url: url.clone() };
            // Where there is no room, a registration plans it again ten minutes later.
            drop(self.renewals.try_send(renewal));
        }
        Ok(true)
    }

    /// Asks the receiver at `url`, unless it has agreed meanwhile, or has just refused.
    pub async fn ask(&self, caller: &CallerName, url: &CallbackUrl) -> Result<(), Unagreed> {
        let lane = LaneName::callback(caller, url.origin());
        let turn = tokio::time::timeout(self.policy.patience, self.turns.take(lane.clone()));
        let Ok(_turn) = turn.await else { return Err(Unagreed::Later(Duration::from_secs(1))) };
        if self.agreed_at(&lane).await?.is_some() {
            return Ok(());
        }
        if let Some(refused) = self.refused.get(&lane, self.clock.now())
            && (refused.url == url.as_str() || refused.declined.is_of_origin())
        {
            return Err(Unagreed::Declined(refused.declined));
        }
        self.pace(caller).map_err(Unagreed::Later)?;
        let asked = self.greet(&lane, url).await;
        if let Err(Unagreed::Declined(declined)) = &asked {
            let refused = Refused { url: url.as_str().to_owned(), declined: declined.clone() };
            let now = self.clock.now();
            self.refused.put(lane, refused, now, after(now, self.policy.refusal_counts_for));
        }
        asked
    }

    /// Asks again whoever is to be asked again, until `stop`.
    pub async fn renew(&self, stop: CancellationToken) {
        let renewing = join_all((0..RENEWED_AT_ONCE).map(|_| self.renew_in_turn()));
        stop.run_until_cancelled(renewing).await;
    }

    async fn renew_in_turn(&self) {
        loop {
            let planned = self.planned.lock().await.recv().await;
            let Some(renewal) = planned else { return };
            self.renew_one(renewal).await;
        }
    }

    async fn renew_one(&self, Renewal { caller, url }: Renewal) {
        let lane = LaneName::callback(&caller, url.origin());
        let _turn = self.turns.take(lane.clone()).await;
        // Another replica may have been quicker.
        let is_fresh = |handshake: &Handshake| {
            self.clock.now() < after(handshake.agreed_at, self.policy.renewed_from)
        };
        match self.good(&lane).await {
            Ok(Some(handshake)) if is_fresh(&handshake) => self.know(&lane, handshake.agreed_at),
            Ok(_) if self.pace(&caller).is_err() => {}
            Ok(_) => match self.greet(&lane, &url).await {
                Ok(()) => {}
                // The greeter has said why.
                Err(Unagreed::Declined(_) | Unagreed::Later(_)) => {
                    let host = url.host();
                    tracing::warn!(%caller, host, "{host} was asked again and does not agree: its last consent counts");
                }
                Err(Unagreed::Store(error)) => log(&error),
            },
            Err(error) => log(&error),
        }
    }

    /// When the receiver last agreed, if that still counts.
    async fn agreed_at(&self, lane: &LaneName) -> Result<Option<Timestamp>, StoreError> {
        if let Some(agreed_at) = self.agreed.get(lane, self.clock.now()) {
            return Ok(Some(agreed_at));
        }
        let agreed_at = self.good(lane).await?.map(|handshake| handshake.agreed_at);
        if let Some(agreed_at) = agreed_at {
            self.know(lane, agreed_at);
        }
        Ok(agreed_at)
    }

    /// What the receiver has agreed to, if that was what is asked now, and still counts.
    async fn good(&self, lane: &LaneName) -> Result<Option<Handshake>, StoreError> {
        let found = self.store.handshake(lane).await?;
        let now = self.clock.now();
        Ok(found
            .filter(|it| it.form == self.form && now < after(it.agreed_at, self.policy.good_for)))
    }

    fn know(&self, lane: &LaneName, agreed_at: Timestamp) {
        let good_until = after(agreed_at, self.policy.good_for);
        self.agreed.put(lane.clone(), agreed_at, self.clock.now(), good_until);
    }

    /// Asks, and keeps what is agreed to before anybody builds on it.
    async fn greet(&self, lane: &LaneName, url: &CallbackUrl) -> Result<(), Unagreed> {
        let consent = self.greeter.greet(url).await.map_err(Unagreed::Declined)?;
        let (form, agreed_at) = (self.form.clone(), self.clock.now());
        let handshake = Handshake { form, agreed_at, rate: consent.rate };
        self.store.keep_handshake(lane, handshake).await?;
        self.know(lane, agreed_at);
        Ok(())
    }

    /// Counts a question of `caller`, or says how long it has to wait.
    fn pace(&self, caller: &CallerName) -> Result<(), Duration> {
        let checked = self.pacer.check_key(caller);
        checked.map_err(|not_until| not_until.wait_time_from(MonotonicClock.now()))
    }
}

fn log(error: &StoreError) {
    tracing::warn!(error = %error.in_full(), "could not renew a handshake, trying again later");
}
