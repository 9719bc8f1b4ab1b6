//! Where receivers want nothing any more.

use std::collections::{BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::connect::Database;
use super::row::Columns;
use super::rows;
use crate::callback::CallbackId;
use crate::store::columns::Fields as _;
use crate::store::{CallerName, GoneDestination, Page, Registration, StoreError};

const READING: &str = "reading what destinations are gone";
const WRITING: &str = "writing what destinations are gone";

/// Since when the receivers of these registrations want nothing there any more, where that is so.
pub(super) async fn gone(
    transaction: &Transaction<'_>,
    registrations: impl Iterator<Item = &Registration>,
) -> Result<HashMap<(CallerName, String), Timestamp>, StoreError> {
    let wanted: BTreeSet<(&str, &str)> =
        registrations.map(|it| (it.caller.as_str(), it.callback_url.as_str())).collect();
    let (callers, urls): (Vec<&str>, Vec<&str>) = wanted.into_iter().unzip();
    let sql = "SELECT caller, url, since FROM gone_destinations \
        WHERE (caller, url) IN (SELECT * FROM unnest($1::text[], $2::text[]))";
    let found = rows(transaction, READING, sql, &[&callers, &urls]).await?;
    let read = |row| {
        let columns = Columns { table: "gone_destinations", row };
        let GoneDestination { url, since } = columns.gone_destination()?;
        Ok(((columns.word("caller", |text| text.parse().ok())?, url), since))
    };
    found.iter().map(read).collect()
}

/// Marks the destinations of callbacks, each since then.
pub(super) async fn mark(
    transaction: &Transaction<'_>,
    gone: &[(CallbackId, Timestamp)],
) -> Result<(), StoreError> {
    if gone.is_empty() {
        return Ok(());
    }
    let (operations, numbers) = keys(gone.iter().map(|(id, _)| *id));
    let since: Vec<i64> = gone.iter().map(|(_, since)| since.as_millisecond()).collect();
    // In one order, as everybody marks them.
    let sql = "INSERT INTO gone_destinations (caller, url, since) \
        SELECT caller, url, min(those.since) \
        FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS those (operation_id, number, since) \
        JOIN callbacks USING (operation_id, number) GROUP BY caller, url ORDER BY caller, url \
        ON CONFLICT (caller, url) DO NOTHING";
    rows(transaction, WRITING, sql, &[&operations, &numbers, &since]).await.map(drop)
}

/// Brings the destinations of callbacks back, those that were gone before then.
pub(super) async fn bring_back_since(
    transaction: &Transaction<'_>,
    ids: impl Iterator<Item = CallbackId>,
    then: Timestamp,
) -> Result<(), StoreError> {
    let (operations, numbers) = keys(ids);
    // Locked in the order in which others mark them.
    let sql = "DELETE FROM gone_destinations WHERE (caller, url) IN (SELECT caller, url \
        FROM gone_destinations WHERE since < $3 AND (caller, url) IN \
        (SELECT callbacks.caller, callbacks.url FROM unnest($1::text[], $2::bigint[]) \
        AS those (operation_id, number) JOIN callbacks USING (operation_id, number)) \
        ORDER BY caller, url FOR UPDATE)";
    let then = then.as_millisecond();
    rows(transaction, WRITING, sql, &[&operations, &numbers, &then]).await.map(drop)
}

pub(super) async fn bring_back(
    database: &Database,
    caller: &CallerName,
    url: &str,
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM gone_destinations WHERE caller = $1 AND url = $2 RETURNING 1";
    Ok(!database.query(WRITING, sql, &[&caller.as_str(), &url]).await?.is_empty())
}

/// By URL.
pub(super) async fn page(
    database: &Database,
    caller: &CallerName,
    page: &Page<String>,
) -> Result<Vec<GoneDestination>, StoreError> {
    let behind = if page.after.is_some() { "url > $2" } else { "$2::text IS NULL" };
    let sql = format!(
        "SELECT url, since FROM gone_destinations WHERE caller = $1 AND {behind} \
         ORDER BY url LIMIT $3"
    );
    let (caller, limit) = (caller.as_str(), i64::from(page.limit));
    let found = database.query(READING, &sql, &[&caller, &page.after, &limit]).await?;
    found.iter().map(|row| Columns { table: "gone_destinations", row }.gone_destination()).collect()
}

fn keys(ids: impl Iterator<Item = CallbackId>) -> (Vec<String>, Vec<i64>) {
    ids.map(|id| (id.operation.to_string(), i64::from(id.number))).unzip()
}
