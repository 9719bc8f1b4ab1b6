use std::str::FromStr;

use super::problem::{FieldError, Problem};
use crate::store::Page;

/// Entries on a page, unless asked otherwise.
const USUAL: u32 = 50;

/// Entries on a page at the most.
const MOST: u32 = 200;

/// The part of a list that `after` and `limit` of a query ask for.
pub(super) fn page<Key: FromStr>(
    after: Option<&str>,
    limit: Option<u32>,
) -> Result<Page<Key>, Problem>
where
    Key::Err: std::fmt::Display,
{
    let mut errors = Vec::new();
    let limit = limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        let detail = format!("between 1 and {MOST}");
        errors.push(FieldError::new("limit", "outOfRange", detail));
    }
    let after = after.map(str::parse).transpose().unwrap_or_else(|error: Key::Err| {
        errors.push(FieldError::new("after", "invalid", error.to_string()));
        None
    });
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    Ok(Page { after, limit })
}

/// What to ask for next, if there may be more behind a page as full as this.
pub(super) fn next<Key: ToString>(listed: usize, limit: u32, last: Option<&Key>) -> Option<String> {
    let full = listed >= usize::try_from(limit).unwrap_or(usize::MAX);
    last.filter(|_| full).map(ToString::to_string)
}
