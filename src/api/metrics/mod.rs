//! `GET /metrics`: what Prometheus reads.

mod counting;
mod survey;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Api;
use super::access::Operator;
use super::problem::{Kind, Problem};
use crate::metrics::Exposition;

pub(super) use self::counting::count;
pub use self::survey::Survey;

/// What this bridge has counted, and what stands in the database.
///
/// In the text format of Prometheus, or in that of OpenMetrics for those who accept it. No label tells
/// of callers, operations or URLs.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "readMetrics",
    tag = "admin",
    security(("adminKey" = [])),
    responses(
        (status = 200, description = "Metrics", content(
            (String = "text/plain"),
            (String = "application/openmetrics-text"),
        )),
        Operator,
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    _: Operator,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    written(&api, &headers).await
}

/// The same and nothing else, for an address of its own where nobody need show a key.
pub fn metrics_router(api: Api) -> Router {
    let read =
        |State(api): State<Api>, headers: HeaderMap| async move { written(&api, &headers).await };
    Router::new()
        .route("/metrics", get(read))
        .fallback(|| std::future::ready(Problem::new(Kind::NotFound)))
        .method_not_allowed_fallback(|| std::future::ready(Problem::new(Kind::MethodNotAllowed)))
        .with_state(api)
}

async fn written(api: &Api, headers: &HeaderMap) -> Result<Response, Problem> {
    api.survey.bring_up_to_date(&api.metrics.database).await;
    let accept = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok());
    let exposition = Exposition::accepted_by(accept.unwrap_or_default());
    let text = api.metrics.write(exposition).map_err(|_| Problem::new(Kind::Internal))?;
    let content_type = HeaderValue::from_static(exposition.content_type());
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}
