//! Which rows are meant, for every backend that keeps rows.

use jiff::Timestamp;

use super::handover::Value;
use super::{CallbackFilter, CallerName, Page};
use crate::callback::CallbackId;

/// What is true of the rows that are meant, as a condition of SQL, and the values of its parameters
/// in their order. Several statements, each with an index of its own, rather than one for all filters.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// Adds a condition: a column with its comparison, and what it is compared to.
    pub(super) fn and(&mut self, comparison: &str, value: impl Into<Value>) {
        let parameter = self.parameter(value);
        self.add(&format!("{comparison} {parameter}"));
    }

    /// Adds that the state is this one. Written out, or no index that is for some states only could
    /// be used.
    pub(super) fn and_state(&mut self, state: &'static str) {
        self.add(&format!("state = '{state}'"));
    }

    /// Adds that it can be sent: that it was not purged.
    pub(super) fn and_body(&mut self) {
        self.add("body IS NOT NULL");
    }

    /// Adds that a value is in one of these columns, of which some may be null.
    pub(super) fn and_among(&mut self, value: impl Into<Value>, columns: &'static str) {
        let parameter = self.parameter(value);
        self.add(&format!("{parameter} IN ({columns})"));
    }

    /// Adds that the key of a callback comes before or behind another one's.
    pub(super) fn and_key(&mut self, comparison: &str, id: CallbackId) {
        let operation = self.parameter(id.operation.to_string());
        let number = self.parameter(i64::from(id.number));
        self.add(&format!("(operation_id, number) {comparison} ({operation}, {number})"));
    }

    /// The place of a value that stands for itself, as behind `LIMIT`.
    pub(super) fn parameter(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    /// What belongs behind `WHERE`.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    fn add(&mut self, condition: &str) {
        if !self.sql.is_empty() {
            self.sql.push_str(" AND ");
        }
        self.sql.push_str(condition);
    }
}

impl CallbackFilter {
    /// What is true of a caller's callbacks on a page of their list.
    pub(super) fn conditions(&self, caller: &CallerName, page: &Page<CallbackId>) -> Conditions {
        let mut conditions = Conditions::default();
        conditions.and("caller =", caller.as_str());
        if let Some(state) = self.state {
            conditions.and_state(state);
        }
        if let Some(operation) = self.operation {
            conditions.and("operation_id =", operation.to_string());
        }
        if let Some(after) = page.after {
            conditions.and_key("<", after);
        }
        if let Some(reason) = self.reason {
            conditions.and("reason =", reason.as_str());
        }
        if let Some(origin) = &self.origin {
            conditions.and("origin =", origin.as_str());
        }
        if let Some(since) = self.since {
            conditions.and("rested_at >=", since);
        }
        if let Some(until) = self.until {
            conditions.and("rested_at <", until);
        }
        conditions
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Timestamp> for Value {
    fn from(at: Timestamp) -> Self {
        Self::Number(at.as_millisecond())
    }
}
