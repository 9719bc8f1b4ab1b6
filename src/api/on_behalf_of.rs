//! Exchanges the token that came with a request for a connection that asks Graph in the user's name.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::access::CallerSeat;
use super::connections::wake_blocked;
use super::problem::{Kind, Problem};
use super::{Api, Pacer};
use crate::graph::{Connection, NotExchanged, OnBehalfOf};

/// What exchanges cost is bounded: one for each token in ten minutes, so many of a caller's in a time,
/// and so many at once.
pub(super) struct Exchanges {
    authority: Arc<dyn OnBehalfOf>,
    recent: Mutex<Recent>,
    pacer: Pacer,
    hands: Semaphore,
}

/// What came of exchanges, and when, by the digest of caller and token.
type Recent = HashMap<[u8; 32], (Arc<Connection>, Instant)>;

/// How long an exchange stands for others of the same token. Shorter than a sign-in that nothing goes by
/// is kept.
const STANDS_FOR: Duration = Duration::from_mins(10);

/// As many recent exchanges are known at a time; past that each is made anew.
const CAPACITY: usize = 10_000;

const PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);

const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(49);

const AT_ONCE: usize = 64;

/// In seconds, where Entra does not say.
const RETRY_AFTER: u32 = 10;

impl Exchanges {
    pub(super) fn new(authority: Arc<dyn OnBehalfOf>) -> Self {
        let quota = Quota::per_second(PER_SECOND).allow_burst(BURST);
        let pacer = RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock);
        let (recent, hands) = (Mutex::default(), Semaphore::new(AT_ONCE));
        Self { authority, recent, pacer, hands }
    }

    fn recent(&self, key: &[u8; 32]) -> Option<Arc<Connection>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (connection, at) = recent.get(key)?;
        (at.elapsed() < STANDS_FOR).then(|| Arc::clone(connection))
    }

    fn remember(&self, key: [u8; 32], connection: &Arc<Connection>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if CAPACITY <= recent.len() {
            recent.retain(|_, (_, at)| at.elapsed() < STANDS_FOR);
        }
        if recent.len() < CAPACITY {
            recent.insert(key, (Arc::clone(connection), Instant::now()));
        }
    }
}

/// A connection for the user who sits in `seat`, kept before this returns; what was blocked until the user
/// signs in again is watched again. An exchange of before stands for another one, unless it is to be
/// `anew`, as where what came of it does not work any more.
pub(super) async fn connection(
    api: &Api,
    seat: &CallerSeat,
    anew: bool,
) -> Result<Arc<Connection>, Problem> {
    let field = |code, detail: &'static str| Problem::field("onBehalfOf", code, detail);
    let signed_in = seat.signed_in.as_ref().ok_or_else(|| {
        field("noToken", "sign in with a token of Microsoft Entra instead of an API key")
    })?;
    let user = signed_in.user.as_ref().ok_or_else(|| {
        field("noUser", "the token is an app's own: only a user can be acted for")
    })?;
    let not_set_up = || field("notSetUp", "the operator of the bridge has not set this up");
    let exchanges = api.exchanges.as_ref().ok_or_else(not_set_up)?;
    let digest = Sha256::new_with_prefix(seat.name.as_str()).chain_update([0]);
    let token = secrecy::ExposeSecret::expose_secret(&signed_in.token);
    let key: [u8; 32] = digest.chain_update(token).finalize().into();
    if let Some(connection) = exchanges.recent(&key).filter(|_| !anew) {
        return Ok(connection);
    }
    exchanges.pacer.check_key(&seat.name).map_err(|not_until| {
        let wait = not_until.wait_time_from(MonotonicClock.now());
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        Problem { retry_after: Some(seconds), ..Problem::new(Kind::TooManyRequests) }
    })?;
    let _hand = exchanges.hands.try_acquire().map_err(|_| unavailable(None))?;
    let answer = exchanges.authority.exchange(user, &signed_in.token).await;
    let connection = Arc::new(answer.map_err(|why| refused(why, not_set_up))?);
    if !api.store.keep_user(&seat.name, &connection).await? {
        return Err(Problem::new(Kind::Unauthenticated));
    }
    wake_blocked(api, &seat.name, &connection.name).await?;
    exchanges.remember(key, &connection);
    Ok(connection)
}

fn refused(why: NotExchanged, not_set_up: impl FnOnce() -> Problem) -> Problem {
    match why {
        NotExchanged::NotSetUp => not_set_up(),
        NotExchanged::Interaction { claims } => {
            let detail = "Microsoft Entra wants the user to sign in again and to prove more: ask it for \
                another token for this API, with the `claims` of `WWW-Authenticate` (base64).";
            let problem = Problem::with_detail(Kind::InteractionRequired, detail);
            Problem { claims, ..problem }
        }
        NotExchanged::Consent => Problem::with_detail(
            Kind::ConsentRequired,
            "Neither the user nor an administrator has consented that this API reads communities of Viva \
             Engage in the user's name (Community.Read.All) and goes on to (offline_access).",
        ),
        NotExchanged::Grant => {
            let detail = "Microsoft Entra does not exchange this token: it may have expired, or the user \
                may no longer sign in. Ask it for another one for this API.";
            Problem::with_detail(Kind::InteractionRequired, detail)
        }
        NotExchanged::Client => {
            tracing::error!("Entra does not accept this API's own identity: see --sign-in-*");
            let detail = "Microsoft Entra does not accept this API's own identity.";
            Problem::with_detail(Kind::OperatorMustAct, detail)
        }
        NotExchanged::Trouble { retry_after } => unavailable(retry_after),
    }
}

/// Entra cannot be asked at the moment.
pub(super) fn unavailable(retry_after: Option<Duration>) -> Problem {
    let seconds = retry_after.map(|wait| u32::try_from(wait.as_secs()).unwrap_or(u32::MAX));
    let retry_after = Some(seconds.unwrap_or(RETRY_AFTER).clamp(1, 3_600));
    Problem { retry_after, ..Problem::new(Kind::AuthorityUnavailable) }
}
