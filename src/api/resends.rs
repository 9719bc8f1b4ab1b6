//! `/v1/callbacks/resend…`: many callbacks sent again by one request; and the same for the operator,
//! over all callers.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::{Caller, Operator, Read, Register};
use super::body::{self, Params, Segment};
use super::page::{next, page};
use super::problem::{Kind, Problem, ProblemBody};
use super::{Api, FieldError, ids};
use crate::callback::Reason;
use crate::courier::CallbackUrl;
use crate::store::{Asked, CallerName, Resend, ResendId, Rest, Wanted};

/// Bulk resends that may be under way for one who asks.
const UNDER_WAY: u32 = 4;

/// Which callbacks to send again: those of which all that is said here is true.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = BulkResendRequest)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    /// `undeliverable`, unless given; or `delivered`, where a receiver has lost what it got.
    #[schema(value_type = Option<RestWord>)]
    state: Option<String>,
    /// Only those that are undeliverable for this reason.
    #[schema(value_type = Option<ReasonWord>)]
    reason: Option<String>,
    /// Only those to this origin: scheme and host of the callback URL, and the port where it is not
    /// the usual one.
    #[schema(example = "https://app.example.com")]
    origin: Option<String>,
    /// Only those that came to rest then or later, in RFC 3339.
    #[schema(format = DateTime, example = "2027-01-15T08:00:00Z")]
    since: Option<String>,
    /// Only those that came to rest before.
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// Which callbacks to send again, of whichever callers.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = BulkResendRequestOfOperator)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OperatorsRequest {
    /// Only those of this caller.
    caller: Option<String>,
    /// `undeliverable`, unless given; or `delivered`, where a receiver has lost what it got.
    #[schema(value_type = Option<RestWord>)]
    state: Option<String>,
    /// Only those that are undeliverable for this reason.
    #[schema(value_type = Option<ReasonWord>)]
    reason: Option<String>,
    /// Only those to this origin: scheme and host of the callback URL, and the port where it is not
    /// the usual one.
    #[schema(example = "https://app.example.com")]
    origin: Option<String>,
    /// Only those that came to rest then or later, in RFC 3339.
    #[schema(format = DateTime, example = "2027-01-15T08:00:00Z")]
    since: Option<String>,
    /// Only those that came to rest before.
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// How a callback can be at rest.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "what the document says of a word that is read as text")]
enum RestWord {
    Delivered,
    Undeliverable,
}

/// Why a callback can be undeliverable.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReasonWord {
    Gone,
    AddressRefused,
    AttemptsSpent,
    TooOld,
}

/// A bulk resend, and how far it has come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BulkResend)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    #[schema(example = "rs_019a2b3c4d5e6f708192a3b4c5d6e7f8", pattern = "^rs_[0-9a-f]{32}$")]
    id: String,
    /// The caller who asked for it; null for the operator.
    asked_by: Option<String>,
    /// Of what comes to rest from then on, nothing is sent again by this one.
    asked_at: String,
    /// `underWay` or `done`.
    state: &'static str,
    wanted: WantedView,
    /// How many callbacks there were to be sent again when it was asked for.
    #[schema(minimum = 0)]
    matched: u64,
    /// How many of them are on their way, each on the usual schedule.
    #[schema(minimum = 0)]
    resent: u64,
    /// Once it is done: how many were not sent again, since they had gone out by another wish
    /// meanwhile, or were forgotten.
    #[schema(minimum = 0)]
    skipped: Option<u64>,
    done_at: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BulkResendWanted)]
#[serde(rename_all = "camelCase")]
struct WantedView {
    /// Null for those of all callers.
    caller: Option<String>,
    state: &'static str,
    reason: Option<&'static str>,
    origin: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only bulk resends behind this one: the `next` of the page before.
    #[param(pattern = "^rs_[0-9a-f]{32}$")]
    after: Option<String>,
    /// How many at the most, 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// A page of bulk resends.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BulkResends)]
pub(super) struct Listed {
    /// Newest first.
    resends: Vec<View>,
    /// Give this as `after` to see what is behind; null at the end.
    next: Option<String>,
}

/// Sends many callbacks again, on the usual schedule, each with the `webhook-id` that it had.
///
/// It is done little by little, through restarts, and how far it has come can be looked at. What it is
/// about is fixed when you ask: callbacks that were at rest by then. One that is pending is left alone,
/// and one that fails again is not sent a second time by the same request. Asking for the same while it
/// is under way begins nothing new.
#[utoipa::path(
    post,
    path = "/v1/callbacks/resend",
    operation_id = "resendCallbacks",
    tag = "callbacks",
    security(("apiKey" = ["register"])),
    request_body = Request,
    responses(
        (status = 202, description = "Under way from now on", body = View,
            headers(("Location" = String, description = "Where to look at it"))),
        (status = 200, description = "The same is under way already", body = View,
            headers(("Location" = String, description = "Where to look at it"))),
        Caller<Register>,
        body::Json<Request>,
        (status = 409, description = "You have as many under way as you may have",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn ask(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Register>,
    body::Json(request): body::Json<Request>,
) -> Result<Response, Problem> {
    let wanted = request.read(Some(caller.clone()))?;
    begin(&api, Some(caller), wanted, "/v1/callbacks/resends").await
}

/// Lists your bulk resends, newest first.
#[utoipa::path(
    get,
    path = "/v1/callbacks/resends",
    operation_id = "listBulkResends",
    tag = "callbacks",
    security(("apiKey" = ["read"])),
    params(Filter),
    responses(
        (status = 200, description = "A page of them", body = Listed),
        Caller<Read>,
        Params<Filter>,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Read>,
    Params(query): Params<Filter>,
) -> Result<Json<Listed>, Problem> {
    listed(&api, Some(&caller), &query).await
}

/// Shows a bulk resend, and how far it has come.
#[utoipa::path(
    get,
    path = "/v1/callbacks/resends/{id}",
    operation_id = "inspectBulkResend",
    tag = "callbacks",
    security(("apiKey" = ["read"])),
    params(("id" = String, Path, description = "As the request for it answered it")),
    responses(
        (status = 200, description = "As it stands", body = View),
        Caller<Read>,
        (status = 404, description = "You have asked for no such thing", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn inspect(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Read>,
    Segment(id): Segment,
) -> Result<Json<View>, Problem> {
    let resend = find(&api, &id).await?;
    if resend.asked_by != Some(caller) {
        return Err(Problem::new(Kind::NotFound));
    }
    Ok(Json(View::of(&resend)))
}

/// Sends many callbacks again, of one caller or of all.
///
/// As `POST /v1/callbacks/resend` does for a caller.
#[utoipa::path(
    post,
    path = "/v1/admin/callbacks/resend",
    operation_id = "resendCallbacksOfCallers",
    tag = "admin",
    security(("adminKey" = [])),
    request_body = OperatorsRequest,
    responses(
        (status = 202, description = "Under way from now on", body = View,
            headers(("Location" = String, description = "Where to look at it"))),
        (status = 200, description = "The same is under way already", body = View,
            headers(("Location" = String, description = "Where to look at it"))),
        Operator,
        body::Json<OperatorsRequest>,
        (status = 409, description = "As many as may be are under way",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn ask_as_operator(
    State(api): State<Api>,
    Operator: Operator,
    body::Json(request): body::Json<OperatorsRequest>,
) -> Result<Response, Problem> {
    let OperatorsRequest { caller, state, reason, origin, since, until } = request;
    let caller = caller
        .map(|name| name.parse::<CallerName>())
        .transpose()
        .map_err(|error| Problem::field("caller", "invalid", error.to_string()))?;
    if let Some(caller) = &caller
        && api.directory.keys(caller).await?.is_none()
    {
        return Err(Problem::field("caller", "unknown", "there is no caller of that name"));
    }
    let wanted = Request { state, reason, origin, since, until }.read(caller)?;
    begin(&api, None, wanted, "/v1/admin/callbacks/resends").await
}

/// Lists bulk resends, whoever asked for them, newest first.
#[utoipa::path(
    get,
    path = "/v1/admin/callbacks/resends",
    operation_id = "listBulkResendsOfCallers",
    tag = "admin",
    security(("adminKey" = [])),
    params(Filter),
    responses(
        (status = 200, description = "A page of them", body = Listed),
        Operator,
        Params<Filter>,
    )
)]
pub(super) async fn list_as_operator(
    State(api): State<Api>,
    Operator: Operator,
    Params(query): Params<Filter>,
) -> Result<Json<Listed>, Problem> {
    listed(&api, None, &query).await
}

/// Shows a bulk resend, whoever asked for it, and how far it has come.
#[utoipa::path(
    get,
    path = "/v1/admin/callbacks/resends/{id}",
    operation_id = "inspectBulkResendOfCallers",
    tag = "admin",
    security(("adminKey" = [])),
    params(("id" = String, Path, description = "As the request for it answered it")),
    responses(
        (status = 200, description = "As it stands", body = View),
        Operator,
        (status = 404, description = "There is no such thing", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn inspect_as_operator(
    State(api): State<Api>,
    Operator: Operator,
    Segment(id): Segment,
) -> Result<Json<View>, Problem> {
    Ok(Json(View::of(&find(&api, &id).await?)))
}

async fn begin(
    api: &Api,
    asked_by: Option<CallerName>,
    wanted: Wanted,
    list: &str,
) -> Result<Response, Problem> {
    let asked_at = whole_millis(api.clock.now());
    let resend = Resend {
        id: ResendId(ids::fresh(asked_at)?),
        asked_by,
        asked_at,
        wanted,
        matched: 0,
        resent: 0,
        reached: None,
        held_back: 0,
        done_at: None,
    };
    let (status, resend) = match api.store.ask_resend(resend, UNDER_WAY).await? {
        Asked::Begun(resend) => {
            api.nudge.resend();
            (StatusCode::ACCEPTED, resend)
        }
        Asked::UnderWay(resend) => (StatusCode::OK, resend),
        Asked::LimitReached => {
            let detail = format!("Up to {UNDER_WAY} may be under way at a time; wait for one.");
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
    };
    let mut response = (status, Json(View::of(&resend))).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("{list}/{}", resend.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn listed(
    api: &Api,
    asked_by: Option<&CallerName>,
    query: &Filter,
) -> Result<Json<Listed>, Problem> {
    let page = page::<ResendId>(query.after.as_deref(), query.limit)?;
    let limit = page.limit;
    let listed = api.store.resends(asked_by, page).await?;
    let next = next(listed.len(), limit, listed.last().map(|it| &it.id));
    Ok(Json(Listed { resends: listed.iter().map(View::of).collect(), next }))
}

async fn find(api: &Api, id: &str) -> Result<Resend, Problem> {
    let id: ResendId = id.parse().map_err(|_| Problem::new(Kind::NotFound))?;
    api.store.resend(id).await?.ok_or_else(|| Problem::new(Kind::NotFound))
}

impl Request {
    /// Checks everything, so that whoever asks learns of all faults at once.
    fn read(self, caller: Option<CallerName>) -> Result<Wanted, Problem> {
        let mut errors = Vec::new();
        let rest = match self.state.as_deref() {
            None => Some(Rest::Undeliverable),
            Some(word) => Rest::ALL.into_iter().find(|rest| rest.as_str() == word),
        };
        if rest.is_none() {
            errors.push(FieldError::new("state", "invalid", "`undeliverable` or `delivered`"));
        }
        let reason = self.reason.as_deref().map(Reason::from_word);
        if reason == Some(None) {
            let words = Reason::ALL.map(Reason::as_str).join("`, `");
            errors.push(FieldError::new("reason", "invalid", format!("one of `{words}`")));
        } else if reason.is_some() && rest == Some(Rest::Delivered) {
            let detail = "what was delivered has none";
            errors.push(FieldError::new("reason", "unexpected", detail));
        }
        let origin = self.origin.as_deref().map(|text| origin(text, &mut errors));
        let since = self.since.as_deref().and_then(|text| time("since", text, &mut errors));
        let until = self.until.as_deref().and_then(|text| time("until", text, &mut errors));
        match rest {
            Some(rest) if errors.is_empty() => Ok(Wanted {
                caller,
                rest,
                reason: reason.flatten(),
                origin: origin.flatten(),
                since,
                until,
            }),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

/// Reads an origin as callbacks are kept with it.
pub(super) fn origin(text: &str, errors: &mut Vec<FieldError>) -> Option<String> {
    let origin = CallbackUrl::origin_of(text);
    if origin.is_none() {
        let detail = "scheme, host and perhaps a port, such as https://app.example.com";
        errors.push(FieldError::new("origin", "invalid", detail));
    }
    origin
}

/// Reads a time.
pub(super) fn time(
    field: &'static str,
    text: &str,
    errors: &mut Vec<FieldError>,
) -> Option<Timestamp> {
    let time = text.parse().ok();
    if time.is_none() {
        let detail = "a time in RFC 3339, such as 2027-01-15T08:00:00Z";
        errors.push(FieldError::new(field, "invalid", detail));
    }
    time.map(whole_millis)
}

/// As times are kept.
fn whole_millis(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

impl ReasonWord {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Gone => Reason::Gone,
            Self::AddressRefused => Reason::AddressRefused,
            Self::AttemptsSpent => Reason::AttemptsSpent,
            Self::TooOld => Reason::TooOld,
        }
    }
}

impl View {
    fn of(resend: &Resend) -> Self {
        let wanted = &resend.wanted;
        Self {
            id: resend.id.to_string(),
            asked_by: resend.asked_by.as_ref().map(ToString::to_string),
            asked_at: resend.asked_at.to_string(),
            state: if resend.done_at.is_some() { "done" } else { "underWay" },
            wanted: WantedView {
                caller: wanted.caller.as_ref().map(ToString::to_string),
                state: wanted.rest.as_str(),
                reason: wanted.reason.map(Reason::as_str),
                origin: wanted.origin.clone(),
                since: wanted.since.map(|at| at.to_string()),
                until: wanted.until.map(|at| at.to_string()),
            },
            matched: resend.matched,
            resent: resend.resent,
            skipped: resend.skipped(),
            done_at: resend.done_at.map(|at| at.to_string()),
        }
    }
}
