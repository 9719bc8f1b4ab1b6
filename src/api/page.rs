use std::str::FromStr;

use super::problem::Problem;
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
    let limit = limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        let detail = format!("between 1 and {MOST}");
        return Err(Problem::field("limit", "outOfRange", detail));
    }
    let after = after.map(str::parse).transpose();
    let after =
        after.map_err(|error: Key::Err| Problem::field("after", "invalid", error.to_string()))?;
    Ok(Page { after, limit })
}

/// What to ask for next, if there may be more behind a page as full as this.
pub(super) fn next<Key: ToString>(listed: usize, limit: u32, last: Option<&Key>) -> Option<String> {
    let full = listed >= usize::try_from(limit).unwrap_or(usize::MAX);
    last.filter(|_| full).map(ToString::to_string)
}
