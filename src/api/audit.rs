//! `/v1/admin/audit`: who has changed what; and how every change comes to be in it.
//!
//! [`begin`] is called where a seat is taken ([`access`](super::access)), for whatever is asked by a
//! method that changes things, and so no endpoint can forget it: without its entry on disk, nothing is
//! changed. [`complete`] is around all endpoints, and writes down what came of it.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::RequestPartsExt as _;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponseParts, Response, ResponseParts};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::Operator;
use super::body::Params;
use super::page::{next, page};
use super::problem::{Kind, Problem};
use super::{Api, FieldError, ids};
use crate::store::{AuditFilter, CallerName, Ending, Entry, EntryId, Who};

/// What is its own record: an operation, which is kept for as long as anybody may ask about it.
const ITS_OWN_RECORD: [(Method, &str); 1] = [(Method::POST, "/v1/operations")];

/// Characters of a name at the most; no id or name of ours is longer.
const LONGEST_NAME: usize = 64;

/// What keys, secrets and tokens begin with: somebody may give one where its id is meant.
const SECRETS: [&str; 5] = ["ebk_", "eba_", "whsec_", "whsk_", "eyJ"];

/// Where the id of the entry of a request is put.
#[derive(Clone, Default)]
struct Slot(Arc<OnceLock<EntryId>>);

/// Goes with the answer to a change that has made something, which it names.
#[derive(Clone)]
pub(super) struct Made(pub(super) String);

impl IntoResponseParts for Made {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}

/// Writes down that a change is about to be made, unless nothing is to be changed. What cannot be
/// written down is not done.
pub(super) async fn begin(
    parts: &mut Parts,
    api: &Api,
    who: Who,
    caller: Option<&CallerName>,
) -> Result<(), Problem> {
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let is_its_own =
        |(method, resource): &(Method, &str)| *method == parts.method && *resource == path;
    if parts.method.is_safe() || ITS_OWN_RECORD.iter().any(is_its_own) {
        return Ok(());
    }
    let Some(slot) = parts.extensions.get::<Slot>().cloned() else {
        tracing::error!(path, "nothing would write down what comes of a change");
        return Err(Problem::new(Kind::Internal));
    };
    let (mut caller, mut names) = (caller.cloned(), Vec::new());
    if let Ok(given) = parts.extract::<RawPathParams>().await {
        for (name, value) in &given {
            match value.parse::<CallerName>().ok().filter(|_| name == "caller") {
                Some(whose) => caller = Some(whose),
                None => names.push(presentable(value)),
            }
        }
    }
    let now = api.clock.now();
    let id = EntryId(ids::fresh(now)?);
    let entry = Entry {
        id,
        at: now,
        who,
        caller,
        method: parts.method.to_string(),
        resource: path,
        names,
        address: api.proxies.address(parts),
        result: None,
    };
    api.audit.begin_change(entry).await?;
    // A request takes one seat, so there is none in it.
    let _ = slot.0.set(id);
    Ok(())
}

/// A name as it was given, unless it can be none.
fn presentable(given: &str) -> String {
    let is_word = given.bytes().all(|byte| byte.is_ascii_graphic());
    let fits = (1..=LONGEST_NAME).contains(&given.len());
    if !is_word || !fits || SECRETS.iter().any(|secret| given.contains(secret)) {
        return "?".to_owned();
    }
    given.to_owned()
}

/// Writes down what came of a change, if one was begun.
pub(super) async fn complete(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let slot = Slot::default();
    request.extensions_mut().insert(slot.clone());
    let response = next.run(request).await;
    let Some(id) = slot.0.get() else { return response };
    let status = response.status();
    let ending = if status.is_client_error() {
        Ending::Refused
    } else {
        let made = response.extensions().get::<Made>().map(|Made(name)| presentable(name));
        Ending::Answered { status: status.as_u16(), made }
    };
    if let Err(error) = api.audit.end_change(*id, ending).await {
        // The change is made, and its entry says that it may have been.
        let error = error.in_full();
        tracing::warn!(%error, entry = %id, "could not write down what came of a change");
    }
    response
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only changes of what is this caller's.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    caller: Option<String>,
    /// Only changes by this one: the id of an API key, the `oid` of whoever signed in, or one of
    /// `adminKey`, `apiKey`, `signIn`.
    #[param(pattern = "^[!-~]{1,64}$")]
    by: Option<String>,
    /// Only changes that were begun then or later, in RFC 3339.
    #[param(format = DateTime, example = "2027-01-15T08:00:00Z")]
    since: Option<String>,
    /// Only changes that were begun before.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Only entries behind this one: the `next` of the page before.
    #[param(pattern = "^au_[0-9a-f]{32}$")]
    after: Option<String>,
    /// How many at the most, 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// A change, by whom, and what came of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    #[schema(example = "au_019a2b3c4d5e6f708192a3b4c5d6e7f8", pattern = "^au_[0-9a-f]{32}$")]
    id: String,
    /// When it was begun.
    at: String,
    by: By,
    /// Whose things were changed; null where it is about no caller in particular.
    caller: Option<String>,
    method: String,
    /// The path, with names in braces in the places of those that were given.
    #[schema(example = "/v1/keys/{id}")]
    resource: String,
    /// What it is about, and what it has made.
    names: Vec<String>,
    /// Where the request came from; null for a command that worked on the database itself.
    address: Option<String>,
    /// The status that it was answered with. Null where nobody knows what came of it: it may have been
    /// made, and may not.
    #[schema(minimum = 200, maximum = 599)]
    result: Option<u16>,
}

/// Who made a change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChangedBy)]
#[serde(rename_all = "camelCase")]
struct By {
    /// `adminKey`, `apiKey` or `signIn`.
    via: &'static str,
    /// The id of the API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The directory of whoever signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Who signed in: the `oid` in the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// By which app: its client id.
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLog)]
pub(super) struct Listed {
    /// Newest first.
    entries: Vec<View>,
    /// Give this as `after` to see what is behind; null at the end.
    next: Option<String>,
}

impl From<Who> for By {
    fn from(who: Who) -> Self {
        let nothing = Self { via: who.as_str(), key: None, tenant: None, subject: None, app: None };
        match who {
            Who::AdminKey => nothing,
            Who::ApiKey { id } => Self { key: Some(id), ..nothing },
            Who::SignIn { tenant, subject, app } => {
                Self { tenant: Some(tenant), subject: Some(subject), app: Some(app), ..nothing }
            }
        }
    }
}

impl From<Entry> for View {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id.to_string(),
            at: entry.at.to_string(),
            by: entry.who.into(),
            caller: entry.caller.map(|it| it.to_string()),
            method: entry.method,
            resource: entry.resource,
            names: entry.names,
            address: entry.address.map(|it| it.to_string()),
            result: entry.result,
        }
    }
}

impl Filter {
    fn read(&self) -> Result<AuditFilter, Problem> {
        let mut errors = Vec::new();
        let caller = self.caller.as_deref().and_then(|text| {
            let complaint = |it: crate::store::InvalidName| {
                errors.push(FieldError::new("caller", "invalid", it.to_string()));
            };
            text.parse::<CallerName>().map_err(complaint).ok()
        });
        if self.by.as_deref().is_some_and(|by| presentable(by) != by) {
            let detail = "the id of a key, an `oid`, or one of adminKey, apiKey, signIn";
            errors.push(FieldError::new("by", "invalid", detail));
        }
        let mut time = |field: &'static str, text: Option<&str>| -> Option<Timestamp> {
            let read = text?.parse();
            if read.is_err() {
                let detail = "a time in RFC 3339, such as 2027-01-15T08:00:00Z";
                errors.push(FieldError::new(field, "invalid", detail));
            }
            read.ok()
        };
        let (since, until) =
            (time("since", self.since.as_deref()), time("until", self.until.as_deref()));
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        Ok(AuditFilter { caller, by: self.by.clone(), since, until })
    }
}

/// Lists who has changed what, newest first.
///
/// Every change by whatever key is there, from a moment before it was made, and for a year; but for
/// registrations, which are their own record. What was refused has changed nothing, and is not there.
#[utoipa::path(
    get,
    path = "/v1/admin/audit",
    operation_id = "listChanges",
    tag = "admin",
    security(("adminKey" = [])),
    params(Filter),
    responses(
        (status = 200, description = "A page of them", body = Listed),
        Operator,
        Params<Filter>,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Operator: Operator,
    Params(query): Params<Filter>,
) -> Result<Json<Listed>, Problem> {
    let page = page::<EntryId>(query.after.as_deref(), query.limit)?;
    let limit = page.limit;
    let entries = api.audit.changes(&query.read()?, page).await?;
    let next = next(entries.len(), limit, entries.last().map(|it| it.id).as_ref());
    Ok(Json(Listed { entries: entries.into_iter().map(View::from).collect(), next }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_not_written_down_as_one() {
        for name in ["key_0123456789ab", "x-api-key", "1", "op_019a2b3c4d5e6f708192a3b4c5d6e7f8"] {
            assert_eq!(presentable(name), name);
        }
        let key = format!("ebk_{}", "0".repeat(38));
        let long = "x".repeat(65);
        for other in [&key, &long, "", "a b", "a\nb", "ü", "whsec_AAAA", "eyJhbGciOi.eyJ.c2ln"] {
            assert_eq!(presentable(other), "?", "{other}");
        }
    }
}
