//! `POST /v1/operations`

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::view::OperationView;
use super::{agreed, token};
use crate::api::access::{Caller, CallerSeat, Register};
use crate::api::body::{Json, whole, word_or_null, words_or_null};
use crate::api::problem::{Kind, Problem, ProblemBody};
use crate::api::words::{Format, Notice};
use crate::api::{Api, FieldError, ids, on_behalf_of};
use crate::courier::egress::Refusal;
use crate::courier::signing::InvalidSecret;
use crate::courier::{self, CallbackUrl, SigningSecret, Trace, may_stand_in_cloud_events};
use crate::graph::{Credential, Reference, User};
use crate::operation::{self, Operation, OperationId, RunningNotice, after};
use crate::store::{
    CallerName, Idempotency, Identity, Registered, Registration, StoreError, Tracked,
};
use crate::traces::{Act, Attribute};

/// Characters of a client state at the most; as in Graph's change notifications.
const LONGEST_CLIENT_STATE: usize = 128;

/// Bytes of an `Idempotency-Key` at the most.
const LONGEST_KEY: usize = 255;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// An operation of Graph to be tracked.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Registration)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct Request {
    /// What Graph answered in `Operation-Location` or `Location`: absolute, or from `/v1.0` or
    /// `/beta` on, or the bare id.
    #[schema(
        min_length = 1,
        max_length = 2048,
        example = "https://graph.microsoft.com/v1.0/employeeExperience/engagementAsyncOperations('eyJf')"
    )]
    operation: String,
    /// Where to tell how it ended: an address that the operator allows, which is looked at again for
    /// each attempt.
    ///
    /// If it is refused, the error's code says why, and so does the `failure` of an attempt: `tooLong`,
    /// `notAUrl`, `schemeNotAllowed` (neither http nor https), `notHttps`, `userInfo` (a user name or a
    /// password), `fragment`, `portNotAllowed`, `hostDenied`, `hostNotAllowed` (only certain hosts are),
    /// `hostNotFound`, `addressDenied` (by the operator), `addressRefused` (private, loopback,
    /// metadata and the like), `gone` (the receiver has answered 410 there: see
    /// `GET /v1/destinations`). New ones may come.
    ///
    /// Where the operator has receivers asked first whether they want callbacks, at the first
    /// registration for an origin, the code is `handshakeRefused` if this one answered otherwise than it
    /// should, and `handshakeFailed` if it did not answer. The detail says what was sent, what came back,
    /// and what is expected.
    #[schema(min_length = 1, max_length = 2048, example = "https://app.example.com/hooks/engage")]
    callback_url: String,
    /// The connection to ask Graph by; your default one, unless named. Not with `accessToken`.
    connection: Option<String>,
    /// A token for Graph to ask with. Not with `connection`.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 16384, pattern = "^[!-~]+$")]
    access_token: Option<SecretString>,
    /// Whether to ask Graph in the name of the user who has signed in with the token that this request is
    /// sent with. Not with the other two.
    on_behalf_of: Option<bool>,
    /// For how long `accessToken` is good, in seconds.
    #[schema(minimum = 1, maximum = 172_800)]
    #[serde(default, deserialize_with = "whole")]
    expires_in: Option<u64>,
    /// Given back in every callback.
    #[schema(max_length = 128)]
    client_state: Option<String>,
    /// What the callback's body looks like; as your settings say, unless given.
    #[serde(default, deserialize_with = "word_or_null")]
    format: Option<Format>,
    /// What you want to hear of besides the end. That a credential is needed is always told.
    #[serde(default, deserialize_with = "words_or_null")]
    notify: Option<Vec<Notice>>,
    /// Signs the callbacks of this operation, and nothing else does: neither your signing secrets nor
    /// your signing keys. `whsec_` and base64 of 24 to 64 bytes. Never shown again. An operation that
    /// is tracked already keeps what it has.
    #[schema(
        value_type = Option<String>,
        pattern = "^whsec_(([A-Za-z0-9+/]{4}){8,20}([A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)?|([A-Za-z0-9+/]{4}){21}([A-Za-z0-9+/][AQgw]==)?)$"
    )]
    callback_secret: Option<SecretString>,
    /// How long to wait for Graph, as an ISO 8601 duration between `PT1M` and `P7D`; `PT24H`
    /// unless given.
    #[schema(example = "PT24H")]
    expires_after: Option<String>,
}

/// Registers an operation.
///
/// The answer is sent once the operation is on disk. From then on exactly one outcome will be
/// recorded, and a callback for it delivered, or listed as undeliverable.
#[utoipa::path(
    post,
    path = "/v1/operations",
    operation_id = "registerOperation",
    tag = "operations",
    security(("apiKey" = ["register"])),
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            description = "Makes it safe to send the same request again: it gets the first one's answer"),
        ("traceparent" = Option<String>, Header,
            description = "Passed on with the callbacks, and `tracestate` with it (W3C Trace Context)"),
    ),
    request_body = Request,
    responses(
        (status = 202, description = "Tracked from now on", body = OperationView,
            headers(("Location" = String, description = "Where to look at it"))),
        (status = 200, description = "Tracked already, with the same callback and client state",
            body = OperationView,
            headers(("Location" = String, description = "Where to look at it"))),
        Caller<Register>,
        Json<Request>,
        (status = 422, description = "Something is not as it must be, or the Idempotency-Key was \
            used for another request; nothing was kept",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "You are asking too often, or have as many live operations \
            as you may have",
            body = ProblemBody, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "When to try again, in seconds"))),
    )
)]
pub(in crate::api) async fn register(
    State(api): State<Api>,
    Caller { name: caller, seat, .. }: Caller<Register>,
    headers: HeaderMap,
    Json(request): Json<Request>,
) -> Result<Response, Problem> {
    let kept = keep(&api, caller, &seat, &headers, request).await;
    api.metrics.api.registered(word(&kept));
    kept.map(|kept| kept.answer)
}

/// A registration that was kept, now or before.
struct Kept {
    word: &'static str,
    answer: Response,
}

/// What became of a registration, for whoever counts them.
fn word(kept: &Result<Kept, Problem>) -> &'static str {
    match kept {
        Ok(kept) => kept.word,
        Err(problem) if problem.kind.status().is_client_error() => "refused",
        Err(_) => "failed",
    }
}

async fn keep(
    api: &Api,
    caller: CallerName,
    seat: &CallerSeat,
    headers: &HeaderMap,
    request: Request,
) -> Result<Kept, Problem> {
    let (began_at, began) = (api.clock.wall(), Instant::now());
    let digest = digest(&request, seat);
    let key = idempotency_key(headers);
    let now = api.clock.now();
    let mut registration = check(api, seat, request, key.as_ref().err(), now).await?;
    registration.trace = trace(headers);
    let id = registration.operation.id;
    let fresh = answer(&tracked(&registration));
    if let Ok(Some(key)) = key {
        let answer = fresh.clone();
        registration.idempotency = Some(Idempotency { key, request: digest, answer });
    }
    let kept = |word, answer| Ok(Kept { word, answer });
    let first_poll = registration.operation.agenda().step_at;

    let traced = registration.trace.clone();
    match agreed::keep(api, registration).await? {
        Some(Registered::New) => {
            let parent = traced.as_ref().map(|trace| (trace.parent(), trace.state()));
            if let Some(trace) = api.tracer.trace(id, parent) {
                let named = ("engagement_bridge.caller", Attribute::text(caller.as_str()));
                let (name, took) = ("register", began.elapsed());
                let attributes = vec![named];
                let act = Act { name, number: 0, began: began_at, took, failure: None, attributes };
                trace.registered(act);
            }
            if let Some(first_poll) = first_poll {
                api.nudge.due(first_poll);
            }
            kept("new", respond(StatusCode::ACCEPTED, id, fresh, false))
        }
        Some(Registered::Existing(existing)) => {
            let id = existing.operation.id;
            kept("existing", respond(StatusCode::OK, id, answer(&existing), false))
        }
        Some(Registered::Replayed { operation, answer: Some(first) }) => {
            kept("replayed", respond(StatusCode::ACCEPTED, operation, first, true))
        }
        Some(Registered::Replayed { operation, answer: None }) => {
            let existing = super::find(api, &caller, &operation.to_string()).await?;
            kept("replayed", respond(StatusCode::OK, operation, answer(&existing), true))
        }
        Some(Registered::KeyReused) => Err(Problem::new(Kind::IdempotencyKeyReused)),
        Some(Registered::LimitReached) => {
            let detail = format!("Up to {} may be watched at a time.", api.limits.live_operations);
            Err(Problem::with_detail(Kind::TooManyOperations, detail))
        }
        Some(Registered::DestinationGone { since }) => {
            let detail = format!(
                "the receiver answered 410 there on {since}: lift that by DELETE /v1/destinations, or \
                 by sending one of its callbacks again"
            );
            Err(Problem::field("callbackUrl", "gone", detail))
        }
        Some(Registered::CredentialGone) => {
            Err(Problem::field("connection", "unknown", "it has just been removed"))
        }
        // Whoever has been asked has agreed by now.
        Some(Registered::NotAgreed) | None => Err(Problem::new(Kind::Internal)),
    }
}

/// Where the database gave no answer, nobody knows whether the registration is kept.
pub(super) fn unkept(error: StoreError) -> Problem {
    let unsure = matches!(error, StoreError::Unavailable(_));
    let detail = "It may have been kept all the same. Sent again, with the same Idempotency-Key, it is \
        kept once.";
    Problem { detail: unsure.then_some(detail.into()), ..error.into() }
}

/// Checks everything, so that a caller learns of all faults at once.
async fn check(
    api: &Api,
    seat: &CallerSeat,
    request: Request,
    key_fault: Option<&FieldError>,
    now: Timestamp,
) -> Result<Registration, Problem> {
    let caller = &seat.name;
    let mut errors: Vec<FieldError> = key_fault.cloned().into_iter().collect();
    let reference = Reference::parse(&request.operation, &api.graph_root)
        .map_err(|refused| {
            errors.push(FieldError::new("operation", refused.as_str(), refused.to_string()));
        })
        .ok();
    let hands_in = request.access_token.is_some() || request.expires_in.is_some();
    let token = token(request.access_token, request.expires_in, now, &mut errors);
    let on_behalf_of = request.on_behalf_of == Some(true);
    let credential = match (hands_in, &request.connection) {
        _ if on_behalf_of => {
            if hands_in || request.connection.is_some() {
                let detail = "give one of `connection`, `accessToken` and `onBehalfOf`";
                errors.push(FieldError::new("onBehalfOf", "unexpected", detail));
            }
            None
        }
        (true, Some(_)) => {
            let detail = "give either `connection` or `accessToken`";
            errors.push(FieldError::new("connection", "unexpected", detail));
            None
        }
        (true, None) => token.map(Credential::Token),
        (false, name) => {
            let found = api.directory.connection(caller, name.as_deref()).await?;
            let found = found.filter(|it| it.user().is_none());
            if found.is_none() {
                let detail = match name {
                    Some(_) => "you have no connection of that name",
                    None => "you have no connection: create one, or give `accessToken`",
                };
                errors.push(FieldError::new("connection", "unknown", detail));
            }
            found.map(Credential::Connection)
        }
    };
    check_client_state(request.client_state.as_deref(), &mut errors);
    let format = match request.format {
        Some(word) => word.into(),
        None => api.directory.default_format(caller).await?.unwrap_or_default(),
    };
    if format == courier::Format::CloudEvents
        && request.client_state.as_deref().is_some_and(|it| !may_stand_in_cloud_events(it))
    {
        let detail = "no control characters, for CloudEvents has none of them";
        errors.push(FieldError::new("clientState", "invalid", detail));
    }
    let callback_secret = request.callback_secret.as_ref().and_then(|text| {
        let secret = text.expose_secret().parse::<SigningSecret>();
        let complaint =
            |it: InvalidSecret| FieldError::new("callbackSecret", "invalid", it.to_string());
        secret.map_err(|invalid| errors.push(complaint(invalid))).ok()
    });
    let deadline = deadline(api, request.expires_after.as_deref(), now, &mut errors);
    let callback_url = callback_url(api, &request.callback_url, &mut errors).await;

    // Last, for it costs a request to Entra.
    let credential = if on_behalf_of && errors.is_empty() {
        Some(Credential::Connection(on_behalf_of::connection(api, seat, false).await?))
    } else {
        credential
    };
    let (Some(reference), Some(credential), Some(deadline), Some(callback_url), true) =
        (reference, credential, deadline, callback_url, errors.is_empty())
    else {
        return Err(Problem::invalid(errors));
    };
    let running = if request.notify.unwrap_or_default().contains(&Notice::Running) {
        RunningNotice::Wanted
    } else {
        RunningNotice::Unwanted
    };
    let id = OperationId(ids::fresh(now)?);
    let operation = operation::register(&api.operations, id, now, deadline);
    Ok(Registration {
        operation: Operation { running, ..operation },
        caller: caller.clone(),
        reference,
        credential,
        callback_origin: callback_url.origin(),
        callback_url: callback_url.as_str().to_owned(),
        client_state: request.client_state,
        callback_secret,
        format,
        trace: None,
        idempotency: None,
        live_limit: api.limits.live_operations,
        is_agreed: true,
    })
}

/// Refuses what cannot be given back in every callback as it is.
fn check_client_state(client_state: Option<&str>, errors: &mut Vec<FieldError>) {
    if client_state.is_some_and(|it| it.chars().count() > LONGEST_CLIENT_STATE) {
        let detail = format!("{LONGEST_CLIENT_STATE} characters at the most");
        errors.push(FieldError::new("clientState", "tooLong", detail));
    }
    // PostgreSQL has no such text, and what one database takes every other one should take.
    if client_state.is_some_and(|it| it.contains('\0')) {
        errors.push(FieldError::new("clientState", "invalid", "no text with U+0000 in it"));
    }
}

/// Refuses what no attempt would be allowed to reach, name resolution included.
async fn callback_url(api: &Api, text: &str, errors: &mut Vec<FieldError>) -> Option<CallbackUrl> {
    let checked = api.egress.check(text).await;
    let complaint = |refused: Refusal| {
        FieldError::new("callbackUrl", refused.code().as_str(), refused.to_string())
    };
    checked.map_err(|refused| errors.push(complaint(refused))).ok()
}

fn deadline(
    api: &Api,
    expires_after: Option<&str>,
    now: Timestamp,
    errors: &mut Vec<FieldError>,
) -> Option<Timestamp> {
    let span = match expires_after {
        None => api.limits.default_deadline,
        Some(text) => {
            let span = text.parse::<Span>().ok().filter(|_| text.starts_with(['P', 'p']));
            let days = SpanRelativeTo::days_are_24_hours();
            let span = span.and_then(|it| it.to_duration(days).ok());
            let span = span.and_then(|it| std::time::Duration::try_from(it).ok());
            let (shortest, longest) = (api.limits.shortest_deadline, api.limits.longest_deadline);
            let Some(span) = span.filter(|span| (shortest..=longest).contains(span)) else {
                let iso = |span| SignedDuration::try_from(span).unwrap_or_default();
                let (shortest, longest) = (iso(shortest), iso(longest));
                let detail = format!("an ISO 8601 duration between {shortest} and {longest}");
                errors.push(FieldError::new("expiresAfter", "invalid", detail));
                return None;
            };
            span
        }
    };
    Some(after(now, span))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, FieldError> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
    if let (Some(key), None) = (key, values.next()) {
        return Ok(Some(key.to_owned()));
    }
    let detail = format!("one value of 1 to {LONGEST_KEY} visible ASCII characters");
    Err(FieldError::new("Idempotency-Key", "invalid", detail))
}

/// Tells this request from another under the same key, by what was meant rather than how it was
/// spelt.
fn digest(request: &Request, seat: &CallerSeat) -> [u8; 32] {
    let Request {
        operation,
        callback_url,
        connection,
        access_token,
        expires_in,
        client_state,
        format,
        notify,
        callback_secret,
        expires_after,
        on_behalf_of,
    } = request;
    let user = seat.signed_in.as_ref().and_then(|it| it.user.as_ref());
    let user = user.filter(|_| *on_behalf_of == Some(true)).map(User::connection_name);
    let format = format.map(courier::Format::from);
    let is_told_of_running = notify.as_ref().is_some_and(|it| it.contains(&Notice::Running));
    let expires_in = expires_in.map(|seconds| seconds.to_string());
    let parts = [
        Some(operation.as_str()),
        Some(callback_url),
        connection.as_deref(),
        access_token.as_ref().map(SecretString::expose_secret),
        expires_in.as_deref(),
        client_state.as_deref(),
        format.map(courier::Format::as_str),
        is_told_of_running.then_some("running"),
        callback_secret.as_ref().map(SecretString::expose_secret),
        expires_after.as_deref(),
        user.as_deref(),
    ];
    let mut digest = Sha256::new();
    for part in parts {
        // Length first, so that no two lists of parts read alike.
        let length = part.map_or(0, |part| part.len() as u64 + 1);
        digest.update(length.to_be_bytes());
        digest.update(part.unwrap_or_default());
    }
    digest.finalize().into()
}

/// The trace that the request is part of. What is not in order is left out, as the specification asks.
fn trace(headers: &HeaderMap) -> Option<Trace> {
    let mut parents = headers.get_all("traceparent").iter();
    let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else { return None };
    let states = headers.get_all("tracestate").iter().map(|value| value.to_str());
    let states = states.collect::<Result<Vec<_>, _>>().unwrap_or_default().join(",");
    Trace::read(parent, Some(&states))
}

/// What the store will hold once it has taken the registration.
fn tracked(registration: &Registration) -> Tracked {
    Tracked {
        operation: registration.operation.clone(),
        caller: registration.caller.clone(),
        reference: registration.reference.clone(),
        identity: Identity::of(&registration.credential),
        callback_url: registration.callback_url.clone(),
        client_state: registration.client_state.clone(),
        has_callback_secret: registration.callback_secret.is_some(),
        format: registration.format,
        trace: registration.trace.clone(),
        last_body: None,
    }
}

fn answer(tracked: &Tracked) -> Bytes {
    // Nothing in a view can fail to be written as JSON.
    serde_json::to_vec(&OperationView::of(tracked)).unwrap_or_default().into()
}

fn respond(status: StatusCode, id: OperationId, body: Bytes, replayed: bool) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(location) = HeaderValue::try_from(format!("/v1/operations/{id}")) {
        headers.insert(header::LOCATION, location);
    }
    if replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
