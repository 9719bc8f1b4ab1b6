//! A row of PostgreSQL's as [`Fields`].

use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use crate::store::StoreError;
use crate::store::columns::Fields;

/// A row of a table, read by the names of its columns.
pub(super) struct Columns<'row> {
    pub(super) table: &'static str,
    pub(super) row: &'row Row,
}

impl Columns<'_> {
    pub(super) fn get<T: FromSqlOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        self.row.try_get(column).map_err(|error| self.inconsistent(column, error.into()))
    }
}

impl Fields for Columns<'_> {
    fn number_or_null(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        self.get(column)
    }

    fn text_or_null(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        self.get(column)
    }

    fn bytes_or_null(&self, column: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(column)
    }

    fn inconsistent(&self, column: &'static str, source: anyhow::Error) -> StoreError {
        // Where it is a number that a row begins with, its name comes next.
        let name = |index| self.row.try_get::<_, String>(index).ok();
        let row = (0..self.row.len().min(2)).find_map(name);
        StoreError::inconsistent(self.table, column, row.unwrap_or_default(), source)
    }
}

/// A number of rows, as the server takes it.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
