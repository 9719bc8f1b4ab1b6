//! `/v1/destinations`: callback URLs at which a receiver wants nothing any more.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::{Caller, Read, Register};
use super::body::Params;
use super::page::{next, page};
use super::problem::{Kind, Problem, ProblemBody};
use crate::courier::CallbackUrl;
use crate::store::{GoneDestination, Page};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only destinations behind this one: the `next` of the page before.
    after: Option<String>,
    /// How many at the most, 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    /// The callback URL, as it is listed or as you register it.
    url: String,
}

/// A page of destinations that are gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GoneDestinations)]
pub(super) struct Listed {
    /// By URL.
    destinations: Vec<View>,
    /// Give this as `after` to see what is behind; null at the end.
    next: Option<String>,
}

/// A callback URL at which the receiver has answered 410, and is sent nothing any more.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GoneDestination)]
#[serde(rename_all = "camelCase")]
struct View {
    url: String,
    /// When it answered so.
    gone_since: String,
}

/// A URL as it is listed.
struct Spelt(String);

/// The text is not one.
#[derive(Debug, thiserror::Error)]
#[error("a URL, as it is listed")]
struct NotAUrl;

impl FromStr for Spelt {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Self, NotAUrl> {
        CallbackUrl::spelling_of(text).map(Self).ok_or(NotAUrl)
    }
}

/// Lists your destinations that are gone: callback URLs where the receiver has answered 410.
///
/// Nothing is sent there, what is owed to them becomes undeliverable, and registrations with such a
/// URL are refused, until you bring it back.
#[utoipa::path(
    get,
    path = "/v1/destinations",
    operation_id = "listGoneDestinations",
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
    let Page { after, limit } = page::<Spelt>(query.after.as_deref(), query.limit)?;
    let page = Page { after: after.map(|Spelt(url)| url), limit };
    let gone = api.store.gone_destinations(&caller, page).await?;
    let next = next(gone.len(), limit, gone.last().map(|it| &it.url));
    let view = |it: GoneDestination| View { url: it.url, gone_since: it.since.to_string() };
    Ok(Json(Listed { destinations: gone.into_iter().map(view).collect(), next }))
}

/// Brings a destination back that was gone: callbacks may go there again.
///
/// What has become undeliverable meanwhile stays so until you send it again; sending a callback again
/// brings its destination back by itself.
#[utoipa::path(
    delete,
    path = "/v1/destinations",
    operation_id = "bringDestinationBack",
    tag = "callbacks",
    security(("apiKey" = ["register"])),
    params(Named),
    responses(
        (status = 204, description = "It is not gone any more"),
        Caller<Register>,
        Params<Named>,
        (status = 404, description = "No such destination of yours is gone", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn bring_back(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Register>,
    Params(named): Params<Named>,
) -> Result<StatusCode, Problem> {
    let url = CallbackUrl::spelling_of(&named.url);
    let url = url.ok_or_else(|| Problem::new(Kind::NotFound))?;
    if !api.store.bring_back(&caller, &url).await? {
        return Err(Problem::new(Kind::NotFound));
    }
    Ok(StatusCode::NO_CONTENT)
}
