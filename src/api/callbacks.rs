//! `GET /v1/callbacks`, and what receivers get, for the OpenAPI document.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, SchemaType};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Paths, Required, ResponseBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::{Caller, Read};
use super::body::Params;
use super::operations::view::CallbackView;
use super::page::{next, page};
use super::problem::Problem;
use super::resends::{ReasonWord, origin, time};
use crate::operation::Outcome;
use crate::store::CallbackFilter;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only callbacks in this state.
    #[param(inline)]
    state: Option<StateWord>,
    /// Only callbacks that are undeliverable for this reason.
    #[param(inline)]
    reason: Option<ReasonWord>,
    /// Only callbacks to this origin: scheme and host of the callback URL, and the port where it is not
    /// the usual one.
    origin: Option<String>,
    /// Only callbacks that came to rest (delivered or undeliverable) then or later, in RFC 3339.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only callbacks that came to rest before.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Only callbacks behind this one: the `next` of the page before.
    #[param(pattern = "^msg_[0-9a-f]{32}_[1-9][0-9]{0,8}$")]
    after: Option<String>,
    /// How many at the most, 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum StateWord {
    Pending,
    Delivered,
    Undeliverable,
}

/// A page of callbacks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Callbacks)]
pub(super) struct Listed {
    /// Those of the newest operations first.
    callbacks: Vec<CallbackView>,
    /// Give this as `after` to see what is behind; null at the end.
    next: Option<String>,
}

/// Lists what your receivers are owed, have got, or could not be given.
#[utoipa::path(
    get,
    path = "/v1/callbacks",
    operation_id = "listCallbacks",
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
    let state = query.state.map(|word| match word {
        StateWord::Pending => "pending",
        StateWord::Delivered => "delivered",
        StateWord::Undeliverable => "undeliverable",
    });
    let mut errors = Vec::new();
    let filter = CallbackFilter {
        state,
        operation: None,
        reason: query.reason.map(ReasonWord::reason),
        origin: query.origin.as_deref().and_then(|text| origin(text, &mut errors)),
        since: query.since.as_deref().and_then(|text| time("since", text, &mut errors)),
        until: query.until.as_deref().and_then(|text| time("until", text, &mut errors)),
    };
    let page = match page(query.after.as_deref(), query.limit) {
        Ok(page) if errors.is_empty() => page,
        Ok(_) => return Err(Problem::invalid(errors)),
        Err(problem) => {
            errors.extend(problem.errors);
            return Err(Problem::invalid(errors));
        }
    };
    let limit = page.limit;
    let listed = api.store.callbacks(&caller, filter, page).await?;
    let next = next(listed.len(), limit, listed.last().map(|it| &it.callback.id));
    let ids = listed.iter().map(|it| it.callback.id).collect();
    let latest = api.store.latest_attempts(ids).await?;
    let view = |it| CallbackView::listed(it, latest.get(&it.callback.id));
    let callbacks = listed.iter().map(view).collect();
    Ok(Json(Listed { callbacks, next }))
}

/// The callbacks that receivers get, one entry for each `type`.
pub(super) fn webhooks() -> Paths {
    let finals = Outcome::ALL.map(Outcome::as_str);
    finals.into_iter().chain(["credentialNeeded", "running"]).fold(PathsBuilder::new(), add).build()
}

fn add(paths: PathsBuilder, about: &str) -> PathsBuilder {
    let name = format!("engagementAsyncOperation.{about}");
    let header = |name: &str, description: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(text()))
    };
    let summary = match about {
        "credentialNeeded" => "An operation is blocked until you bring a credential".to_owned(),
        "running" => "Graph has begun; told where `notify` asks for it".to_owned(),
        outcome => format!("An operation ended as `{outcome}`"),
    };
    let or_null = SchemaType::from_iter([Type::Object, Type::Null]);
    let kind = || text().enum_values(Some([name.as_str()]));
    let operation = || {
        ObjectBuilder::new().schema_type(or_null.clone()).description(Some(
            "The engagementAsyncOperation as Graph last sent it, byte for byte; or null",
        ))
    };
    let envelope = ObjectBuilder::new()
        .property("type", kind())
        .required("type")
        .property("timestamp", text().description(Some("When it was owed, in RFC 3339")))
        .required("timestamp")
        .property("data", operation())
        .required("data")
        .property("tracking", ObjectBuilder::new().description(Some("What we know of it")))
        .required("tracking");
    let body = AnyOfBuilder::new().item(envelope).item(operation()).description(Some(
        "By the format of the operation: `envelope`, or `operation` with all else in headers",
    ));
    let event = ["id", "source", "subject", "time"].into_iter().fold(
        ObjectBuilder::new()
            .property("specversion", text().enum_values(Some(["1.0"])))
            .required("specversion")
            .property("type", kind())
            .required("type")
            .property("data", operation()),
        |event, attribute| event.property(attribute, text()).required(attribute),
    );
    let received = OperationBuilder::new()
        .operation_id(Some(format!("receive{}{}", about[..1].to_uppercase(), &about[1..])))
        .tag("callbacks")
        .summary(Some(summary))
        .parameter(header("webhook-id", "The same in every attempt: to be remembered"))
        .parameter(header("webhook-timestamp", "Of this attempt, in seconds since 1970"))
        .parameter(header(
            "webhook-signature",
            "`v1,` and base64, one for each live secret; `v1a,` behind them for each live key",
        ))
        .request_body(Some(
            RequestBodyBuilder::new()
                .content("application/json", ContentBuilder::new().schema(Some(body)).build())
                .content(
                    "application/cloudevents+json",
                    ContentBuilder::new().schema(Some(event)).build(),
                )
                .required(Some(Required::True))
                .build(),
        ))
        .response("2XX", ResponseBuilder::new().description("Taken; it will not come again"))
        .response("410", ResponseBuilder::new().description("Never send this one again"))
        .response("default", ResponseBuilder::new().description("It will come again, later"));
    paths.path(name, PathItem::new(HttpMethod::Post, received))
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}
