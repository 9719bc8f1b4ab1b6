//! Who is asking, and whether they may: the one place where a bearer becomes a seat.
//!
//! A caller sits down by one of its API keys, the operator by the admin key. What an endpoint needs is
//! the type of its argument: [`Caller<Read>`](Caller), [`Caller<Register>`](Caller),
//! [`Caller<Manage>`](Caller) or [`Operator`]. There is no other way to the name of a caller, so an
//! endpoint cannot forget to ask.

mod address;
mod attempts;
mod format;

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header;
use axum::http::request::Parts;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::IntoResponses;

use self::format::Shape;
use super::problem::{Kind, Problem, Responses, documented};
use super::{Api, audit, on_behalf_of};
use crate::graph::User;
use crate::sign_in;
use crate::store::{ApiKey, CallerName, KeyDigest, Scope, Scopes, SignInApp, Who};

pub use self::address::{ForwardedBy, Proxies};
pub(super) use self::attempts::Attempts;

/// Who is asking.
#[derive(Clone, Debug)]
pub(super) enum Seat {
    Operator,
    Caller(CallerSeat),
}

/// A caller, by one of the ways that it has to sit down.
#[derive(Clone, Debug)]
pub(super) struct CallerSeat {
    pub(super) name: CallerName,
    pub(super) scopes: Scopes,
    /// When what it came with opens nothing any more.
    pub(super) until: Option<Timestamp>,
    /// As the audit log has it.
    pub(super) who: Who,
    /// Where it came with a token of Microsoft Entra.
    pub(super) signed_in: Option<SignedIn>,
}

/// Who has signed in by a token of Microsoft Entra.
#[derive(Clone, Debug)]
pub(super) struct SignedIn {
    /// `None` for an app in its own name.
    pub(super) user: Option<User>,
    pub(super) token: SecretString,
}

/// A caller that may do what the endpoint needs.
pub(super) struct Caller<Need> {
    pub(super) name: CallerName,
    pub(super) seat: CallerSeat,
    need: PhantomData<Need>,
}

/// What an endpoint needs of a caller.
pub(super) trait Need {
    const SCOPE: Scope;
}

/// The scope [`Scope::Register`].
pub(super) enum Register {}

/// The scope [`Scope::Read`].
pub(super) enum Read {}

/// The scope [`Scope::Manage`].
pub(super) enum Manage {}

/// The operator, by the admin key.
pub(super) struct Operator;

/// What a new key is to be.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    pub(crate) label: Option<String>,
    pub(crate) scopes: Scopes,
    pub(crate) expires_at: Option<Timestamp>,
}

impl Need for Register {
    const SCOPE: Scope = Scope::Register;
}

impl Need for Read {
    const SCOPE: Scope = Scope::Read;
}

impl Need for Manage {
    const SCOPE: Scope = Scope::Manage;
}

impl NewKey {
    /// A key that may do everything, for as long as it is not revoked.
    pub(crate) const FULL: Self = Self { label: None, scopes: Scopes::ALL, expires_at: None };

    /// Makes it, and the only sight of it.
    pub(crate) fn draw(self, now: Timestamp) -> Result<(SecretString, ApiKey), getrandom::Error> {
        let key = format::draw(format::API_KEY)?;
        let digest = digest(&key);
        let number = digest.0.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
        let Self { label, scopes, expires_at } = self;
        let kept = ApiKey {
            id: format!("key_{number:012x}"),
            digest,
            label,
            scopes,
            created_at: now,
            expires_at,
            last_used_at: None,
        };
        Ok((key, kept))
    }
}

/// A new admin key, and the only sight of it.
pub(crate) fn new_admin_key() -> Result<SecretString, getrandom::Error> {
    format::draw(format::ADMIN_KEY)
}

/// What is kept of a key.
pub(crate) fn digest(key: &SecretString) -> KeyDigest {
    KeyDigest(Sha256::digest(key.expose_secret()).into())
}

/// What came as the bearer of a request (RFC 6750 §2.1), if anything did.
fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, bearer) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| SecretString::from(bearer.trim()))
}

/// Turns what came with a request into a seat, unless too many wrong keys came from its address.
async fn seat(parts: &Parts, api: &Api) -> Result<Seat, Problem> {
    let bearer = bearer(&parts.headers)
        .ok_or_else(|| refused("Send `Authorization: Bearer` with a key."))?;
    let (from, now) = (api.proxies.address(parts), api.clock.now());
    let spent = from.and_then(|from| api.attempts.spent(from, now));
    let taken = take(&bearer, spent.is_none(), api).await;
    let Err(Problem { kind: Kind::Unauthenticated, .. }) = &taken else { return taken };
    if let Some(wait) = spent {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        return Err(Problem { retry_after: Some(seconds), ..Problem::new(Kind::TooManyAttempts) });
    }
    if let Some(from) = from
        && api.attempts.count(from, now)
    {
        tracing::warn!(address = %from, "too many wrong keys come from {from}, or from others too");
    }
    taken
}

/// The seat that a bearer is good for. Where `may_guess` is not so, what somebody could have guessed is
/// not even looked at.
async fn take(bearer: &SecretString, may_guess: bool, api: &Api) -> Result<Seat, Problem> {
    let (digest, shape) = (digest(bearer), Shape::of(bearer.expose_secret()));
    let is_comparable = may_guess || shape == Shape::Whole;
    if is_comparable && digest.0.ct_eq(&api.admin_key.0).into() {
        return Ok(Seat::Operator);
    }
    match shape {
        Shape::Whole => by_api_key(&digest, api).await.map(Seat::Caller),
        Shape::Broken => {
            Err(refused("The key is mistyped or cut short: its last six characters do not fit."))
        }
        Shape::Token => by_token(bearer.clone(), api).await.map(Seat::Caller),
        Shape::Other => Err(refused("That is no API key: they begin with `ebk_`.")),
    }
}

async fn by_api_key(digest: &KeyDigest, api: &Api) -> Result<CallerSeat, Problem> {
    // Looked up by digest: how long that takes says nothing about the key itself.
    let found = api.directory.key_holder(digest).await?;
    let holder = found.ok_or_else(|| refused("There is no such key, or it was revoked."))?;
    let now = api.clock.now();
    if let Some(expired) = holder.expires_at.filter(|at| *at <= now) {
        return Err(refused(format!("The key {} has expired at {expired}.", holder.id)));
    }
    api.key_uses.note(&holder.caller, &holder.id, now);
    Ok(CallerSeat {
        name: holder.caller,
        scopes: holder.scopes,
        until: holder.expires_at,
        who: Who::ApiKey { id: holder.id },
        signed_in: None,
    })
}

async fn by_token(token: SecretString, api: &Api) -> Result<CallerSeat, Problem> {
    let nobody = || refused("Nobody signs in by a token here: send an API key.");
    let sign_in = api.sign_in.as_ref().ok_or_else(nobody)?;
    let visitor = sign_in.visitor(&token, api.clock.wall()).await.map_err(|why| match why {
        sign_in::Refused::Token(why) => refused(format!("The token is refused: {why}.")),
        sign_in::Refused::Unsure { retry_after } => on_behalf_of::unavailable(Some(retry_after)),
    })?;
    let sign_in::Visitor { tenant, object_id, app, rights, .. } = visitor;
    let wanted = SignInApp { tenant: tenant.clone(), app: app.clone() };
    let name = api.directory.caller_by_sign_in(&wanted).await?;
    let name = name.ok_or_else(|| {
        refused(format!(
            "The app {app} of tenant {tenant} signs in as no caller: ask the operator."
        ))
    })?;
    let granted = [
        (rights.register, Scope::Register),
        (rights.read, Scope::Read),
        (rights.manage, Scope::Manage),
    ];
    let scopes = granted.into_iter().filter_map(|(is_granted, scope)| is_granted.then_some(scope));
    let scopes = Scopes::of(scopes).ok_or_else(|| refused("The token grants nothing here."))?;
    let who = Who::SignIn { tenant: tenant.clone(), subject: object_id.clone(), app };
    let user = visitor.is_user.then_some(User { tenant, object_id });
    let (until, signed_in) = (Some(visitor.expires_at), Some(SignedIn { user, token }));
    Ok(CallerSeat { name, scopes, until, who, signed_in })
}

fn refused(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::with_detail(Kind::Unauthenticated, detail)
}

impl<N: Need> FromRequestParts<Api> for Caller<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let Seat::Caller(seat) = seat(parts, api).await? else {
            let detail = "This is for callers, and the admin key is none of theirs.";
            return Err(Problem::with_detail(Kind::Forbidden, detail));
        };
        api.pace(&seat.name)?;
        if !seat.scopes.has(N::SCOPE) {
            let (needed, has) = (N::SCOPE.as_str(), seat.scopes);
            let detail = format!("This needs the scope `{needed}`; {} has: {has}.", seat.who);
            return Err(Problem::with_detail(Kind::Forbidden, detail));
        }
        audit::begin(parts, api, seat.who.clone(), Some(&seat.name)).await?;
        Ok(Self { name: seat.name.clone(), seat, need: PhantomData })
    }
}

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        match seat(parts, api).await? {
            Seat::Operator => {
                audit::begin(parts, api, Who::AdminKey, None).await?;
                Ok(Self)
            }
            Seat::Caller(seat) => {
                api.pace(&seat.name)?;
                let detail = "This is for the operator: send the admin key.";
                Err(Problem::with_detail(Kind::Forbidden, detail))
            }
        }
    }
}

impl<N> IntoResponses for Caller<N> {
    fn responses() -> Responses {
        Operator::responses()
    }
}

impl IntoResponses for Operator {
    /// Whoever asks for a key asks the store as well, and may have to wait for it.
    fn responses() -> Responses {
        documented([
            Kind::Unauthenticated,
            Kind::Forbidden,
            Kind::RequestTimeout,
            Kind::TooManyRequests,
            Kind::Internal,
            Kind::StoreUnavailable,
        ])
    }
}
