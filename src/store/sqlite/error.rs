//! SQLite's errors in the store's terms.

use rusqlite::{Error, ErrorCode};

use crate::store::StoreError;
use crate::vault::VaultError;

/// An error of a shared transaction, to be told to everyone who had a part in it.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    code: Option<ErrorCode>,
    text: String,
}

impl Failed {
    pub(super) fn of(error: &Error) -> Self {
        Self { code: error.sqlite_error_code(), text: error.to_string() }
    }

    /// For each of those who had a part in it.
    pub(super) fn to_error(&self) -> StoreError {
        of_code(self.code, anyhow::anyhow!("{}", self.text))
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Says what was being done when SQLite failed.
pub(super) trait Context<T> {
    fn context(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| {
            let code = error.sqlite_error_code();
            of_code(code, anyhow::Error::new(error).context(doing))
        })
    }
}

impl<T> Context<T> for Result<T, VaultError> {
    fn context(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::Unavailable(anyhow::Error::new(error).context(doing)))
    }
}

fn of_code(code: Option<ErrorCode>, error: anyhow::Error) -> StoreError {
    match code {
        Some(ErrorCode::DiskFull) => StoreError::Full(error),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly(error),
        // Unknown is "SQL logic error": our statements fit the tables that were there at the start, so
        // these are gone, as in a file that somebody cut short while we read it.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => {
            StoreError::Damaged(error)
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked(error),
        _ => StoreError::Unavailable(error),
    }
}
