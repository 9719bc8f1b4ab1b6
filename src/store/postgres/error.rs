//! PostgreSQL's errors in the store's terms.

use std::time::Duration;

use deadpool::managed::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::dial::Unreachable;
use crate::store::StoreError;
use crate::vault::VaultError;

/// How often a transaction is tried that others get into the way of.
pub(super) const TRIES: u32 = 5;

/// Says what was being done when PostgreSQL failed.
pub(super) trait Context<T> {
    fn context(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| failed(error, doing))
    }
}

impl<T> Context<T> for Result<T, PoolError<Unreachable>> {
    fn context(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| {
            let error = match error {
                PoolError::Backend(unreachable) => anyhow::Error::new(unreachable),
                other @ (PoolError::Timeout(_)
                | PoolError::Closed
                | PoolError::NoRuntimeSpecified
                | PoolError::PostCreateHook(_)) => anyhow::Error::new(other),
            };
            StoreError::Unavailable(error.context(doing))
        })
    }
}

impl<T> Context<T> for Result<T, VaultError> {
    fn context(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::Unavailable(anyhow::Error::new(error).context(doing)))
    }
}

/// A transaction that found what it had looked up gone, and may find it back when it looks again.
#[derive(Debug, thiserror::Error)]
#[error("somebody else changed what this transaction works on")]
pub(super) struct Overtaken;

/// Whether the transaction failed only because of others, and nothing of it is there.
pub(super) fn is_conflict(error: &StoreError) -> bool {
    let (StoreError::Unavailable(error) | StoreError::Locked(error)) = error else { return false };
    let conflicts = [&SqlState::T_R_DEADLOCK_DETECTED, &SqlState::T_R_SERIALIZATION_FAILURE];
    error.downcast_ref::<Overtaken>().is_some()
        || error
            .downcast_ref::<Error>()
            .and_then(Error::code)
            .is_some_and(|state| conflicts.contains(&state) || *state == STALE_PLAN)
}

/// "Cached plan must not change result type": a newer replica has added a column to a table since
/// the statement was prepared.
const STALE_PLAN: SqlState = SqlState::FEATURE_NOT_SUPPORTED;

/// Nothing came of what was asked.
#[derive(Debug, thiserror::Error)]
#[error("no answer of the database within {0:?}")]
pub(super) struct Silence(pub(super) Duration);

/// Whether every connection that was made before will meet the same: statements must be prepared
/// anew, or the server cannot be written to any more, and another one of its hosts can.
pub(super) fn is_of_all_connections(error: &StoreError) -> bool {
    let (StoreError::Unavailable(error) | StoreError::ReadOnly(error)) = error else {
        return false;
    };
    let state = error.downcast_ref::<Error>().and_then(Error::code);
    state.is_some_and(|it| [&STALE_PLAN, &SqlState::READ_ONLY_SQL_TRANSACTION].contains(&it))
}

/// Whether the database would not take some value: "data exception" or "integrity constraint
/// violation", the classes 22 and 23 of SQLSTATE.
pub(super) fn is_about_values(error: &StoreError) -> bool {
    let state = state(error).map(SqlState::code);
    state.is_some_and(|state| state.starts_with("22") || state.starts_with("23"))
}

/// Whether the database has something already that there can be only one of.
pub(super) fn is_there_already(error: &StoreError) -> bool {
    state(error) == Some(&SqlState::UNIQUE_VIOLATION)
}

/// What the server called it, where we have no word of our own for that.
fn state(error: &StoreError) -> Option<&SqlState> {
    let StoreError::Unavailable(error) = error else { return None };
    error.downcast_ref::<Error>().and_then(Error::code)
}

/// The same error, for another one who had a part in the transaction.
pub(super) fn for_another(error: &StoreError) -> StoreError {
    let text = |error: &anyhow::Error| anyhow::anyhow!("{error:#}");
    match error {
        StoreError::Full(error) => StoreError::Full(text(error)),
        StoreError::ReadOnly(error) => StoreError::ReadOnly(text(error)),
        StoreError::Damaged(error) => StoreError::Damaged(text(error)),
        StoreError::Locked(error) => StoreError::Locked(text(error)),
        StoreError::Unavailable(error) => StoreError::Unavailable(text(error)),
        StoreError::Overloaded => StoreError::Overloaded,
        StoreError::Closed => StoreError::Closed,
        StoreError::Inconsistent { table, column, row, source } => {
            StoreError::inconsistent(table, column, row, text(source))
        }
    }
}

/// Tries a transaction again for as long as others get into its way.
pub(super) async fn retried<T, F>(mut work: impl FnMut() -> F + Send) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>> + Send,
{
    for _ in 1..TRIES {
        match work().await {
            Err(error) if is_conflict(&error) => {
                tracing::debug!(error = %error, "trying a transaction again");
            }
            other => return other,
        }
    }
    work().await
}

/// What comes of statements that are sent without waiting for each other, `first` before `second`.
///
/// Where the server refuses one statement of a transaction, it refuses those behind it for that alone, and
/// either answer may be looked at first. The error is the one that says why: what is done about it, by
/// [`is_conflict`] and others, depends on that.
pub(super) fn both<A, B>(
    first: impl Future<Output = Result<A, StoreError>>,
    second: impl Future<Output = Result<B, StoreError>>,
) -> impl Future<Output = Result<(A, B), StoreError>> {
    // Apart, for they are large, and everybody who waits for them would carry both.
    let (first, second) = (Box::pin(first), Box::pin(second));
    async {
        match tokio::join!(first, second) {
            (Ok(first), Ok(second)) => Ok((first, second)),
            (Err(consequence), Err(cause)) if is_consequence(&consequence) => Err(cause),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    }
}

fn is_consequence(error: &StoreError) -> bool {
    state(error) == Some(&SqlState::IN_FAILED_SQL_TRANSACTION)
}

fn failed(error: Error, doing: &'static str) -> StoreError {
    let state = error.code().cloned();
    let error = anyhow::Error::new(error).context(doing);
    match state {
        Some(SqlState::DISK_FULL) => StoreError::Full(error),
        Some(SqlState::READ_ONLY_SQL_TRANSACTION | SqlState::INSUFFICIENT_PRIVILEGE) => {
            StoreError::ReadOnly(error)
        }
        Some(SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED) => StoreError::Damaged(error),
        Some(SqlState::LOCK_NOT_AVAILABLE) => StoreError::Locked(error),
        _ => StoreError::Unavailable(error),
    }
}
