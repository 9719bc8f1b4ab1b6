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
            let (code, is_gone) = (error.sqlite_error_code(), has_lost_a_table(&error));
            let error = anyhow::Error::new(error).context(doing);
            if is_gone { StoreError::Damaged(error) } else { of_code(code, error) }
        })
    }
}

impl<T> Context<T> for Result<T, VaultError> {
    fn context(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::Unavailable(anyhow::Error::new(error).context(doing)))
    }
}

/// Our statements fit the tables that were there at the start, so one that does not any more has been
/// read from a file that somebody has cut short since. SQLite has no code of its own for it.
fn has_lost_a_table(error: &Error) -> bool {
    error.to_string().starts_with("no such table")
}

fn of_code(code: Option<ErrorCode>, error: anyhow::Error) -> StoreError {
    match code {
        Some(ErrorCode::DiskFull) => StoreError::Full(error),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly(error),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked(error),
        _ => StoreError::Unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_table_that_is_gone_is_damage_and_a_transaction_that_is_gone_is_not() {
        let connection = Connection::open_in_memory().unwrap();
        let failed = |sql| connection.execute_batch(sql).context("testing").unwrap_err();
        assert!(matches!(failed("SELECT * FROM lanes"), StoreError::Damaged(_)));
        assert!(matches!(failed("COMMIT"), StoreError::Unavailable(_)));
    }
}
