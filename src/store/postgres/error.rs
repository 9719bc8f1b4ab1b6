//! PostgreSQL's errors in the store's terms.

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

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
        self.map_err(|error| {
            let state = error.code().cloned();
            of_state(state.as_ref(), anyhow::Error::new(error).context(doing))
        })
    }
}

impl<T> Context<T> for Result<T, PoolError> {
    fn context(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| match error {
            PoolError::Backend(error) => Err::<(), _>(error).context(doing).unwrap_err(),
            other => StoreError::Unavailable(anyhow::Error::new(other).context(doing)),
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
            .is_some_and(|state| conflicts.contains(&state))
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

fn of_state(state: Option<&SqlState>, error: anyhow::Error) -> StoreError {
    match state {
        Some(&SqlState::DISK_FULL) => StoreError::Full(error),
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION | &SqlState::INSUFFICIENT_PRIVILEGE) => {
            StoreError::ReadOnly(error)
        }
        Some(&SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED) => StoreError::Damaged(error),
        Some(&SqlState::LOCK_NOT_AVAILABLE) => StoreError::Locked(error),
        _ => StoreError::Unavailable(error),
    }
}
