//! `/v1/admin/vault`: what is sealed under which master key, and the change to another one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Operator;
use super::problem::{Kind, Problem, ProblemBody};
use crate::store::{Rekeying, SealedUnder};

/// What is sealed under which master key. Keys go by their ids, which tell nothing about them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Vault)]
pub(super) struct VaultView {
    /// Those that are given, that which seals first; then others that something is sealed under.
    keys: Vec<KeyView>,
    /// By table, column and key.
    values: Vec<ValuesView>,
    /// The latest change of keys that was asked for.
    rekeying: Option<RekeyingView>,
}

/// A master key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MasterKey)]
#[serde(rename_all = "camelCase")]
struct KeyView {
    #[schema(example = "3f0c6a1e9b52d874", pattern = "^[0-9a-f]{16}$")]
    id: String,
    /// Whether the bridge that answers has it. Without it, what is sealed under it cannot be opened.
    is_given: bool,
    /// Whether new values are sealed under it.
    seals: bool,
    /// How many values are sealed under it. A key with none can be taken away.
    #[schema(minimum = 0)]
    values: u64,
}

/// How many values of a column are sealed under a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SealedValues)]
struct ValuesView {
    #[schema(example = "connections")]
    table: &'static str,
    column: &'static str,
    /// Null for what is no sealed value, and so cannot be opened.
    key: Option<String>,
    #[schema(minimum = 1)]
    values: u64,
}

/// A change of master keys.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rekeying)]
#[serde(rename_all = "camelCase")]
struct RekeyingView {
    /// What everything is to be sealed under. Bridges do so to which this is the first key.
    key: String,
    asked_at: String,
    /// Since when all that can be opened is sealed under that key.
    done_at: Option<String>,
    /// How many values were sealed anew so far.
    #[schema(minimum = 0)]
    rewritten: u64,
    /// Once it is done: how many were left as they are, for no key that is given opens them.
    #[schema(minimum = 0)]
    unreadable: u64,
}

impl From<Rekeying> for RekeyingView {
    fn from(rekeying: Rekeying) -> Self {
        Self {
            key: rekeying.key.to_string(),
            asked_at: rekeying.asked_at.to_string(),
            done_at: rekeying.done_at.map(|at| at.to_string()),
            rewritten: rekeying.rewritten,
            unreadable: rekeying.unreadable,
        }
    }
}

/// Shows what is sealed under which master key.
#[utoipa::path(
    get,
    path = "/v1/admin/vault",
    operation_id = "inspectVault",
    tag = "admin",
    security(("adminKey" = [])),
    responses(
        (status = 200, description = "As it is now", body = VaultView),
        Operator,
    )
)]
pub(super) async fn inspect(
    State(api): State<Api>,
    Operator: Operator,
) -> Result<Json<VaultView>, Problem> {
    view(&api).await.map(Json)
}

/// Seals everything anew under the first master key, little by little, while the bridge serves. Asking
/// again changes nothing while that is under way.
#[utoipa::path(
    post,
    path = "/v1/admin/vault/rekey",
    operation_id = "rekeyVault",
    tag = "admin",
    security(("adminKey" = [])),
    responses(
        (status = 202, description = "Under way", body = VaultView),
        Operator,
        (status = 409, description = "Nothing is sealed here", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn rekey(
    State(api): State<Api>,
    Operator: Operator,
) -> Result<(StatusCode, Json<VaultView>), Problem> {
    let Some(asked) = api.safe.ask_rekeying(api.clock.now()).await? else {
        return Err(Problem::with_detail(Kind::Conflict, "Nothing is sealed here."));
    };
    tracing::info!(key = %asked.key, "all is to be sealed under master key {}", asked.key);
    api.nudge.rekeying();
    Ok((StatusCode::ACCEPTED, Json(view(&api).await?)))
}

async fn view(api: &Api) -> Result<VaultView, Problem> {
    let sealed = api.safe.sealed().await?;
    let latest = api.safe.rekeyings(1).await?.into_iter().next();
    let given = api.safe.keys();
    let mut keys = given.clone();
    for key in sealed.iter().filter_map(|it| it.key) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let under = |key| {
        let its = |it: &&SealedUnder| it.key == Some(key);
        sealed.iter().filter(its).map(|it| it.values).sum()
    };
    Ok(VaultView {
        keys: keys
            .into_iter()
            .map(|key| KeyView {
                id: key.to_string(),
                is_given: given.contains(&key),
                seals: given.first() == Some(&key),
                values: under(key),
            })
            .collect(),
        values: sealed
            .iter()
            .map(|SealedUnder { column, key, values }| ValuesView {
                table: column.table,
                column: column.column,
                key: key.map(|key| key.to_string()),
                values: *values,
            })
            .collect(),
        rekeying: latest.map(RekeyingView::from),
    })
}
