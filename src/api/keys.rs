//! `/v1/keys`: a caller's API keys; and the same for the operator.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::{Span, SpanRelativeTo, Timestamp};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::{Caller, CallerSeat, Manage, NewKey, Read};
use super::audit::Made;
use super::body::{self, Segment};
use super::problem::{Kind, Problem, ProblemBody};
use super::secrets::no_randomness;
use super::{Api, FieldError};
use crate::operation::after;
use crate::store::{ApiKey, CallerName, KeyAdded, Scope, Scopes};

/// Keys of one caller at the most: some for each of its parts, twice as many while they change over.
const MOST: u32 = 50;

/// Characters of a label at the most.
const LONGEST_LABEL: usize = 64;

/// How long a key may be good for, where that has an end.
const SHORTEST_LIFE: Duration = Duration::from_mins(1);
const LONGEST_LIFE: Duration = Duration::from_hours(24 * 3_650);

/// One thing that a key may be for. None includes another.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Scope)]
pub(super) enum ScopeWord {
    /// Hands operations in and sees to them: registers, renews, cancels, sends again.
    Register,
    /// Looks at everything of the caller's.
    Read,
    /// Changes what belongs to the caller: keys, secrets, connections, settings.
    Manage,
}

/// What a key is to be. All of it may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ApiKeyRequest)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    /// What you call it: up to 64 characters. Kept and shown as it is, so no secret, and no control characters.
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]{1,64}$", example = "web frontend")]
    label: Option<String>,
    /// What it is for; all that the key you ask by is for, unless given. It cannot be for more.
    #[serde(deserialize_with = "body::words_or_null")]
    #[schema(min_items = 1)]
    scopes: Option<Vec<ScopeWord>>,
    /// For how long it is good, as an ISO 8601 duration between `PT1M` and `P3650D`; until it is
    /// revoked, unless given. A key that expires makes none that outlives it.
    #[schema(example = "P90D")]
    expires_after: Option<String>,
}

/// An API key without what it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView {
    id: String,
    label: Option<String>,
    scopes: Vec<ScopeWord>,
    created_at: String,
    /// Null for good until it is revoked.
    expires_at: Option<String>,
    /// Late by six minutes at the most; null if it was never used.
    last_used_at: Option<String>,
}

/// All keys of a caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeys)]
pub(super) struct Listed {
    /// Oldest first.
    keys: Vec<KeyView>,
}

/// A key that was just made, and the only sight of it.
#[derive(Serialize, ToSchema)]
#[schema(as = NewApiKey)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    id: String,
    /// Shown this once.
    #[schema(pattern = "^ebk_[0-9A-Za-z]{38}$")]
    api_key: String,
    scopes: Vec<ScopeWord>,
    expires_at: Option<String>,
}

/// Who makes a key decides what it can be at the most: no key makes one that may do more than itself,
/// or lasts longer.
pub(super) struct Maker {
    scopes: Scopes,
    until: Option<Timestamp>,
}

impl Maker {
    pub(super) const OPERATOR: Self = Self { scopes: Scopes::ALL, until: None };
}

impl From<&CallerSeat> for Maker {
    fn from(seat: &CallerSeat) -> Self {
        Self { scopes: seat.scopes, until: seat.until }
    }
}

impl From<ScopeWord> for Scope {
    fn from(word: ScopeWord) -> Self {
        match word {
            ScopeWord::Register => Self::Register,
            ScopeWord::Read => Self::Read,
            ScopeWord::Manage => Self::Manage,
        }
    }
}

impl From<Scope> for ScopeWord {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Register => Self::Register,
            Scope::Read => Self::Read,
            Scope::Manage => Self::Manage,
        }
    }
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            label: key.label,
            scopes: key.scopes.iter().map(Into::into).collect(),
            created_at: key.created_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
        }
    }
}

impl Request {
    /// What is to be made `now` for whom `maker` makes it.
    fn check(self, maker: &Maker, now: Timestamp) -> Result<NewKey, Problem> {
        let mut errors = Vec::new();
        if let Some(label) = &self.label
            && (!(1..=LONGEST_LABEL).contains(&label.chars().count())
                || label.chars().any(char::is_control))
        {
            let detail =
                format!("1 to {LONGEST_LABEL} characters, none of them a control character");
            errors.push(FieldError::new("label", "invalid", detail));
        }
        let scopes = self.scopes.map(|words| Scopes::of(words.into_iter().map(Scope::from)));
        let scopes = match scopes {
            None => maker.scopes,
            Some(Some(scopes)) if maker.scopes.include(scopes) => scopes,
            Some(Some(_)) => {
                let detail = format!("your own key has: {}", maker.scopes);
                errors.push(FieldError::new("scopes", "notYours", detail));
                maker.scopes
            }
            Some(None) => {
                errors.push(FieldError::new("scopes", "invalid", "one of them at the least"));
                maker.scopes
            }
        };
        let expires_at = self.expires_after.and_then(|text| {
            let span = life(&text);
            if span.is_none() {
                let detail = "an ISO 8601 duration between PT1M and P3650D";
                errors.push(FieldError::new("expiresAfter", "invalid", detail));
            }
            span.map(|span| after(now, span))
        });
        if let Some(until) = maker.until
            && expires_at.is_none_or(|at| until < at)
        {
            let detail =
                format!("your own key expires at {until}, and makes none that outlives it");
            errors.push(FieldError::new("expiresAfter", "tooLong", detail));
        }
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        Ok(NewKey { label: self.label, scopes, expires_at })
    }
}

fn life(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok().filter(|_| text.starts_with(['P', 'p']))?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(span).ok().filter(|it| (SHORTEST_LIFE..=LONGEST_LIFE).contains(it))
}

/// Lists your API keys.
#[utoipa::path(
    get,
    path = "/v1/keys",
    operation_id = "listKeys",
    tag = "settings",
    security(("apiKey" = ["read"])),
    responses(
        (status = 200, description = "All of them", body = Listed),
        Caller<Read>,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Read>,
) -> Result<Json<Listed>, Problem> {
    listed(&api, &caller).await
}

/// All keys of `caller`, whoever asked for them.
pub(super) async fn listed(api: &Api, caller: &CallerName) -> Result<Json<Listed>, Problem> {
    let keys = api.directory.keys(caller).await?.ok_or_else(Problem::no_such_caller)?;
    Ok(Json(Listed { keys: keys.into_iter().map(KeyView::from).collect() }))
}

/// Makes another API key. It is shown this once.
///
/// It can be for nothing that the key you ask by is not for, and lasts no longer than that one.
#[utoipa::path(
    post,
    path = "/v1/keys",
    operation_id = "createKey",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    request_body = Request,
    responses(
        (status = 201, description = "Made", body = Created),
        Caller<Manage>,
        body::Json<Request>,
        (status = 409, description = "You have as many as you may have", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Caller { name: caller, seat, .. }: Caller<Manage>,
    body::Json(request): body::Json<Request>,
) -> Result<(StatusCode, Made, Json<Created>), Problem> {
    add(&api, &caller, request, &Maker::from(&seat)).await
}

/// Makes a key for `caller`, whoever asked for it.
pub(super) async fn add(
    api: &Api,
    caller: &CallerName,
    request: Request,
    maker: &Maker,
) -> Result<(StatusCode, Made, Json<Created>), Problem> {
    let now = api.clock.now();
    let (secret, key) = request.check(maker, now)?.draw(now).map_err(no_randomness)?;
    let created = Created {
        id: key.id.clone(),
        api_key: secret.expose_secret().to_owned(),
        scopes: key.scopes.iter().map(Into::into).collect(),
        expires_at: key.expires_at.map(|at| at.to_string()),
    };
    let (id, scopes) = (key.id.clone(), key.scopes);
    match api.directory.add_key(caller, key, MOST).await? {
        KeyAdded::Added => {}
        KeyAdded::NoSuchCaller => return Err(Problem::no_such_caller()),
        KeyAdded::TooMany => {
            let detail = format!("There are {MOST} keys, expired ones included: revoke one first.");
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
    }
    tracing::info!(caller = %caller, key = id, %scopes, "made key {id} for {caller}");
    Ok((StatusCode::CREATED, Made(id), Json(created)))
}

/// Revokes an API key at once.
///
/// No bridge takes it any more after 5 s; this one, from now on.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    operation_id = "revokeKey",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("id" = String, Path, description = "As the list has it")),
    responses(
        (status = 204, description = "Revoked"),
        Caller<Manage>,
        (status = 404, description = "You have no such key", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    end(&api, &caller, &id).await
}

/// Revokes a key of `caller`, whoever asked for it.
pub(super) async fn end(api: &Api, caller: &CallerName, id: &str) -> Result<StatusCode, Problem> {
    if !api.directory.revoke_key(caller, id).await? {
        return Err(Problem::new(Kind::NotFound));
    }
    tracing::info!(caller = %caller, key = id, "revoked key {id} of {caller}");
    Ok(StatusCode::NO_CONTENT)
}
