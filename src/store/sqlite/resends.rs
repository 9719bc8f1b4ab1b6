//! Bulk resends as rows.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::error::Context;
use super::row::Columns;
use super::{destinations, lives};
use crate::callback::CallbackId;
use crate::lane::{self, LaneName};
use crate::store::columns::{Fields as _, RESEND, resend_values};
use crate::store::handover::Value;
use crate::store::{
    Advance, Advanced, Asked, Batch, CallerName, Page, Resend, ResendChange, ResendId, StoreError,
};

const READING: &str = "reading bulk resends";
const WRITING: &str = "writing a bulk resend";

/// How many callbacks it is to send again.
///
/// It may look at every one of a caller's, so it is for a reader, which keeps nobody waiting.
pub(super) fn count(database: &Connection, resend: &Resend) -> Result<u64, StoreError> {
    let doing = "counting what is to be sent again";
    let conditions = resend.wanted.conditions(resend.asked_at);
    let sql = format!("SELECT count(*) FROM callbacks WHERE {}", conditions.sql());
    let mut statement = database.prepare_cached(&sql).context(doing)?;
    statement.query_row(params_from_iter(conditions.values()), |row| row.get(0)).context(doing)
}

/// Keeps a bulk resend that has been counted.
pub(super) fn ask(
    database: &Connection,
    resend: &Resend,
    live_limit: u32,
) -> Result<Asked, StoreError> {
    let sql = "SELECT * FROM resends WHERE done_at IS NULL AND asked_by IS ?1";
    let asked_by = resend.asked_by.as_ref().map(CallerName::as_str);
    let live = list(database, sql, &[asked_by.map_or(Value::Null, Value::from)])?;
    if let Some(same) = live.iter().find(|it| it.is_same_as(resend)) {
        return Ok(Asked::UnderWay(same.clone()));
    }
    if live_limit as usize <= live.len() {
        return Ok(Asked::LimitReached);
    }
    let values = resend_values(resend);
    let places = vec!["?"; values.len()].join(", ");
    let sql = format!("INSERT INTO resends ({RESEND}) VALUES ({places})");
    let inserted = database
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.execute(params_from_iter(values)));
    inserted.context(WRITING)?;
    Ok(Asked::Begun(resend.clone()))
}

pub(super) fn one(database: &Connection, id: ResendId) -> Result<Option<Resend>, StoreError> {
    let mut statement =
        database.prepare_cached("SELECT * FROM resends WHERE id = ?1").context(READING)?;
    let found = statement.query_row([id.to_string()], |row| Ok(read(row))).optional();
    found.context(READING)?.transpose()
}

/// Newest first.
pub(super) fn page(
    database: &Connection,
    asked_by: Option<&CallerName>,
    page: &Page<ResendId>,
) -> Result<Vec<Resend>, StoreError> {
    let behind = if page.after.is_some() { "id < ?1" } else { "?1 IS NULL" };
    let by_asker = if asked_by.is_some() { "asked_by = ?2" } else { "?2 IS NULL" };
    let sql = format!(
        "SELECT * FROM resends WHERE {behind} AND {by_asker} ORDER BY id DESC LIMIT {}",
        page.limit
    );
    let text = |text: Option<String>| text.map_or(Value::Null, Value::Text);
    let after = page.after.map(|id| id.to_string());
    list(database, &sql, &[text(after), text(asked_by.map(ToString::to_string))])
}

pub(super) fn under_way(database: &Connection, limit: u32) -> Result<Vec<Resend>, StoreError> {
    let sql = "SELECT * FROM resends WHERE done_at IS NULL ORDER BY id LIMIT ?1";
    list(database, sql, &[Value::Number(limit.into())])
}

pub(super) fn batch(
    database: &Connection,
    resend: &Resend,
    limit: u32,
) -> Result<Batch, StoreError> {
    let doing = "looking for callbacks to send again";
    let mut place = resend.wanted.place();
    if let Some(reached) = resend.reached {
        place.and_key(">", reached);
    }
    let most = place.parameter(i64::from(limit));
    let sql = format!(
        "SELECT operation_id, number, caller, origin, owed_at, attempts, state, tries, \
         next_attempt_at, give_up_at, reason, rested_at FROM callbacks WHERE {} \
         ORDER BY operation_id, number LIMIT {most}",
        place.sql()
    );
    let mut statement = database.prepare_cached(&sql).context(doing)?;
    let mut rows = statement.query(params_from_iter(place.values())).context(doing)?;
    let (mut callbacks, mut reached, mut looked_at) = (Vec::new(), resend.reached, 0);
    while let Some(row) = rows.next().context(doing)? {
        let columns = Columns { table: "callbacks", row };
        let callback = columns.callback()?;
        let caller = columns.word("caller", |text| text.parse().ok())?;
        let origin = columns.text("origin")?;
        looked_at += 1;
        reached = Some(callback.id);
        if resend.wanted.includes(&callback, &caller, &origin, resend.asked_at) {
            callbacks.push((callback, LaneName::callback(caller, origin)));
        }
    }
    let waiting = callbacks.iter().map(|(_, lane)| (lane.clone(), 0)).collect();
    Ok(Batch { callbacks, waiting, reached, is_last: looked_at < limit })
}

pub(super) fn advance(
    database: &Connection,
    policy: &lane::Policy,
    advance: &Advance,
) -> Result<Advanced, StoreError> {
    let found = one(database, advance.id)?;
    let is_there = |it: &Resend| it.done_at.is_none() && it.reached == advance.from;
    let Some(asked_at) = found.filter(is_there).map(|it| it.asked_at) else {
        return Ok(Advanced::Overtaken);
    };
    let mut resent = 0;
    for ResendChange { before, after } in &advance.changes {
        let found = lives::callback(database, before.id)?;
        if let Some(stored) = found.filter(|it| it.callback == *before && it.body.is_some()) {
            lives::update_callback(database, policy, after)?;
            destinations::bring_back_since(database, &stored, asked_at)?;
            resent += 1;
        }
    }
    let sql = "UPDATE resends SET resent = resent + ?2, reached_operation_id = ?3, \
        reached_number = ?4, held_back = ?5, done_at = ?6 WHERE id = ?1";
    let (operation, number) = split(advance.to);
    let row = params![
        advance.id.to_string(),
        resent,
        operation,
        number,
        advance.held_back,
        advance.done_at.map(Timestamp::as_millisecond),
    ];
    let updated = database.prepare_cached(sql).and_then(|mut statement| statement.execute(row));
    updated.context(WRITING)?;
    Ok(Advanced::Saved { resent })
}

/// Forgets those that were done before then.
pub(super) fn forget(
    database: &Connection,
    before: Timestamp,
    limit: u32,
) -> Result<usize, StoreError> {
    let sql = "DELETE FROM resends \
        WHERE id IN (SELECT id FROM resends WHERE done_at < ?1 LIMIT ?2)";
    let forgotten = database
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params![before.as_millisecond(), limit]));
    forgotten.context("forgetting bulk resends")
}

fn split(id: Option<CallbackId>) -> (Option<String>, Option<u32>) {
    id.map(|id| (id.operation.to_string(), id.number)).unzip()
}

fn list(database: &Connection, sql: &str, values: &[Value]) -> Result<Vec<Resend>, StoreError> {
    let mut statement = database.prepare_cached(sql).context(READING)?;
    let rows = statement.query_map(params_from_iter(values), |row| Ok(read(row)));
    rows.context(READING)?.map(|row| row.context(READING)?).collect()
}

fn read(row: &rusqlite::Row<'_>) -> Result<Resend, StoreError> {
    Columns { table: "resends", row }.resend()
}
