//! A row of SQLite's as [`Fields`].

use rusqlite::Row;
use rusqlite::types::FromSql;

use crate::store::StoreError;
use crate::store::columns::Fields;

/// A row of a table, read by the names of its columns.
pub(super) struct Columns<'row> {
    pub(super) table: &'static str,
    pub(super) row: &'row Row<'row>,
}

impl Columns<'_> {
    pub(super) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, StoreError> {
        self.row.get(column).map_err(|error| self.inconsistent(column, error.into()))
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
        let name = |index| Some(self.row.get_ref(index).ok()?.as_str().ok()?.to_owned());
        let row = (0..2).find_map(name);
        StoreError::inconsistent(self.table, column, row.unwrap_or_default(), source)
    }
}
