//! Microsoft Graph, as far as communities and their operations go.

mod spelling;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::record::RecordedRequest;
use super::script::{Reply, Script};
use super::throttle::WINDOW;
use super::tokens::{Audience, Worthless};
use super::told::Told;
use super::world::Shared;
use super::{Version, bearer, read};
use spelling::{Exchange, GraphError};

/// Answers one request to Graph, and completes its entry in the record but for the status.
///
/// In Graph's order: who is it, has it budget left, what does it want.
pub(super) async fn answer(
    shared: &Shared,
    head: &Parts,
    body: Body,
    entry: &mut RecordedRequest,
    now: Timestamp,
) -> Told {
    let exchange = Exchange::new(shared, head, now);
    let path = head.uri.path().replace("%27", "'").replace("%28", "(").replace("%29", ")");
    let call = Call::read(&head.method, &path);
    if let Call::Poll { id, .. } = call {
        entry.operation = Some(id.to_owned());
    }
    let identity = match authenticate(shared, bearer(head), now) {
        Ok(identity) => identity,
        Err(error) => return exchange.refuse(&error).into(),
    };
    entry.identity = Some(identity.to_string());
    let admitted = shared.world().throttle.admit(&identity, shared.real(WINDOW), now);
    if let Err(wait) = admitted {
        entry.throttled = true;
        let mut refusal = exchange.refuse(&GraphError::of(StatusCode::TOO_MANY_REQUESTS));
        refusal.headers_mut().insert(RETRY_AFTER, seconds(shared, wait));
        return refusal.into();
    }
    match call {
        Call::Create { version } => create(shared, &exchange, version, body, now).await.into(),
        Call::Poll { version, id } => poll(shared, &exchange, version, id, now),
        Call::WrongMethod => {
            exchange.refuse(&GraphError::of(StatusCode::METHOD_NOT_ALLOWED)).into()
        }
        Call::NoSuchSegment => exchange.refuse(&GraphError::NO_SUCH_SEGMENT).into(),
    }
}

/// The address of an operation, as in Graph's `Location`.
pub(super) fn location(root: &str, version: Version, id: &str) -> String {
    format!("{root}/{}/employeeExperience/engagementAsyncOperations('{id}')", version.as_str())
}

/// What a request wants of Graph.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Call<'a> {
    Create { version: Version },
    Poll { version: Version, id: &'a str },
    WrongMethod,
    NoSuchSegment,
}

impl<'a> Call<'a> {
    fn read(method: &Method, path: &'a str) -> Self {
        let mut segments = path.split('/').skip(1);
        let version = segments.next().and_then(Version::from_word);
        let (Some(version), Some("employeeExperience")) = (version, segments.next()) else {
            return Self::NoSuchSegment;
        };
        let (allowed, call) = match (segments.next(), segments.next(), segments.next()) {
            (Some("communities"), None, None) => (Method::POST, Self::Create { version }),
            (Some("engagementAsyncOperations"), Some(id), None) if !id.is_empty() => {
                (Method::GET, Self::Poll { version, id })
            }
            (Some(segment), None, None) => match key(segment) {
                Some(id) => (Method::GET, Self::Poll { version, id }),
                None => return Self::NoSuchSegment,
            },
            _ => return Self::NoSuchSegment,
        };
        if *method == allowed { call } else { Self::WrongMethod }
    }
}

/// The id in the form that puts it into the segment: `engagementAsyncOperations('{id}')`.
fn key(segment: &str) -> Option<&str> {
    let id = segment.strip_prefix("engagementAsyncOperations('")?.strip_suffix("')")?;
    (!id.is_empty()).then_some(id)
}

fn authenticate(
    shared: &Shared,
    token: Option<&str>,
    now: Timestamp,
) -> Result<Arc<str>, GraphError> {
    let token = token.ok_or(GraphError::NO_TOKEN)?;
    match shared.world().access_tokens.find(token, now) {
        Ok(access) if access.audience == Audience::Graph => Ok(Arc::clone(&access.identity)),
        Ok(_) => Err(GraphError::WRONG_AUDIENCE),
        Err(Worthless::Unknown) => Err(GraphError::UNKNOWN_TOKEN),
        Err(Worthless::Expired) => Err(GraphError::EXPIRED_TOKEN),
    }
}

/// The members of a new community that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewCommunity {
    display_name: String,
    description: String,
    privacy: String,
}

impl NewCommunity {
    /// By the lengths and the words of Graph's metadata.
    fn is_valid(&self) -> bool {
        (1..=255).contains(&self.display_name.chars().count())
            && self.description.chars().count() <= 1_024
            && ["public", "private"].iter().any(|word| self.privacy.eq_ignore_ascii_case(word))
    }
}

async fn create(
    shared: &Shared,
    exchange: &Exchange,
    version: Version,
    body: Body,
    now: Timestamp,
) -> Response {
    let Some(body) = read(body).await else {
        return exchange.refuse(&GraphError::of(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let community = match serde_json::from_slice::<NewCommunity>(&body) {
        Ok(community) if community.is_valid() => community,
        Ok(_) | Err(_) => return exchange.refuse(&GraphError::of(StatusCode::BAD_REQUEST)),
    };
    let script = Script::for_display_name(&community.display_name);
    let id = match shared.world().create(Arc::new(script), now) {
        Ok(id) => id,
        Err(full) => {
            tracing::warn!("no room for a new operation: {full}");
            return exchange.refuse(&GraphError::of(StatusCode::SERVICE_UNAVAILABLE));
        }
    };
    let location = location(&exchange.root, version, &id);
    let headers = [
        (CONTENT_TYPE.as_str(), "application/json"),
        ("operation-location", &location),
        (LOCATION.as_str(), &location),
    ];
    exchange.dress((StatusCode::ACCEPTED, headers, Body::empty()).into_response())
}

fn poll(shared: &Shared, exchange: &Exchange, version: Version, id: &str, now: Timestamp) -> Told {
    let mut world = shared.world();
    let Some(operation) = world.operations.get_mut(id) else {
        return exchange.refuse(&GraphError::of(StatusCode::NOT_FOUND)).into();
    };
    let answer = operation.poll(shared, now);
    let response = match &answer.reply {
        Reply::Operation { http, status, detail } => {
            let status = status.as_deref();
            exchange.spell(version, id, operation, *http, status, detail.as_deref())
        }
        Reply::Fault(fault) => exchange.dress(
            fault.response(|http, word| exchange.refuse(&GraphError::of(http).called(word))),
        ),
    };
    Told::scripted(response, answer)
}

/// How Graph tells a wait: in whole seconds. Where the sandbox runs faster they would be too coarse
/// to show its speed, so there it takes the decimals that Graph sends at times.
fn seconds(shared: &Shared, wait: Duration) -> HeaderValue {
    let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if shared.options.speed > 1.0 {
        let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
        return HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1"));
    }
    HeaderValue::from(millis.div_ceil(1_000))
}
