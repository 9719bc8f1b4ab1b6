//! What is due, on which lane, and who holds it.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Context;
use super::row::Columns;
use crate::lane::{self, Lane, LaneName, Report, share};
use crate::operation::{Agenda, after};
use crate::store::columns::{Fields as _, StoredLane, millis, write_slots};
use crate::store::{Step, StoreError};

/// The key of a row of `steps`.
#[derive(Clone, Copy)]
pub(super) struct Key {
    /// `operations.number`
    pub(super) operation: i64,
    /// Which callback of the operation's; 0 for the operation itself.
    pub(super) callback: u32,
}

/// A step that has been handed out.
pub(super) struct HandedOut {
    pub(super) key: Key,
    pub(super) token: u64,
    /// `None` for a lapse.
    pub(super) lane: Option<LaneName>,
}

/// Writes what is to happen next to `key`, for anyone to take.
pub(super) fn plan(
    connection: &Connection,
    key: Key,
    lane: i64,
    agenda: Agenda,
) -> Result<(), StoreError> {
    let doing = "planning a step";
    let Some(lapse_at) = agenda.lapse_at else { return unplan(connection, key) };
    let sql = "INSERT INTO steps (operation, callback, lane, due_at, lapse_at) \
        VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (operation, callback) \
        DO UPDATE SET lane = ?3, due_at = ?4, lapse_at = ?5, token = NULL";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let (due_at, lapse_at) = (millis(agenda.step_at), lapse_at.as_millisecond());
            statement.execute(params![key.operation, key.callback, lane, due_at, lapse_at])
        })
        .context(doing)?;
    // Too early does no harm, as a claim that finds nothing sets it right; too late would starve.
    let sql = "UPDATE lanes SET ready_at = ?2 \
        WHERE lane = ?1 AND (ready_at IS NULL OR ready_at > ?2)";
    if let Some(step_at) = agenda.step_at {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([lane, step_at.as_millisecond()]))
            .context(doing)?;
    }
    Ok(())
}

/// Nothing is to happen to `key` any more.
pub(super) fn unplan(connection: &Connection, key: Key) -> Result<(), StoreError> {
    let deleted = connection
        .prepare_cached("DELETE FROM steps WHERE operation = ?1 AND callback = ?2")
        .and_then(|mut statement| statement.execute(params![key.operation, key.callback]));
    deleted.map(drop).context("forgetting a step")
}

/// Moves a step to another lane, whoever holds it; it keeps the slot that it has.
pub(super) fn change_lane(connection: &Connection, key: Key, lane: i64) -> Result<(), StoreError> {
    let doing = "changing a lane";
    let sql = "UPDATE steps SET lane = ?3 WHERE operation = ?1 AND callback = ?2 RETURNING due_at";
    let due_at: Option<Option<i64>> = connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let row = params![key.operation, key.callback, lane];
            statement.query_row(row, |row| row.get(0)).optional()
        })
        .context(doing)?;
    if let Some(Some(due_at)) = due_at {
        let sql = "UPDATE lanes SET ready_at = min(coalesce(ready_at, ?2), ?2) WHERE lane = ?1";
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([lane, due_at]))
            .context(doing)?;
    }
    Ok(())
}

/// The number of the lane of this name, made if it is not there yet.
pub(super) fn lane(
    connection: &Connection,
    policy: &lane::Policy,
    name: &LaneName,
) -> Result<i64, StoreError> {
    let doing = "finding a lane";
    let text = name.to_string();
    let found: Option<i64> = connection
        .prepare_cached("SELECT lane FROM lanes WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([&text], |row| row.get(0)).optional())
        .context(doing)?;
    if let Some(number) = found {
        return Ok(number);
    }
    let lane = Lane::new(name.kind, policy);
    let sql = "INSERT INTO lanes (name, allowance, failures, slots, served_at) \
        VALUES (?1, ?2, ?3, '', 0)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params![text, lane.allowance, lane.failures]))
        .context(doing)?;
    Ok(connection.last_insert_rowid())
}

/// Whether the claim `token` is the newest of its step.
pub(super) fn holds(connection: &Connection, step: Step, token: u64) -> Result<bool, StoreError> {
    let (operation, callback) = match step {
        Step::Operation(id) => (id, 0),
        Step::Callback(id) => (id.operation, id.number),
    };
    let sql = "SELECT token FROM steps \
        WHERE operation = (SELECT number FROM operations WHERE id = ?1) AND callback = ?2";
    let holder: Option<Option<i64>> = connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let row = params![operation.to_string(), callback];
            statement.query_row(row, |row| row.get(0)).optional()
        })
        .context("looking for the holder of a step")?;
    Ok(holder.flatten() == Some(token.cast_signed()))
}

/// Hands out what is due, and durably moves it to the end of the lease.
pub(super) fn hand_out(
    connection: &Connection,
    policy: &lane::Policy,
    now: Timestamp,
    lease: Duration,
    hands: usize,
) -> Result<Vec<HandedOut>, StoreError> {
    let until = after(now, lease);
    let sql = "SELECT operation, callback FROM steps WHERE lapse_at <= ?1 \
        ORDER BY lapse_at, operation, callback LIMIT ?2";
    let mut handed_out = Vec::new();
    for key in keys(connection, sql, &[now.as_millisecond(), count(hands.div_ceil(2))])? {
        let token = take(connection, key, until)?;
        handed_out.push(HandedOut { key, token, lane: None });
    }

    // A lane may turn out to have nothing to give, or less than its share; what that leaves goes to
    // the others. Each round hands something out or finds fewer lanes ready, so this ends.
    while handed_out.len() < hands {
        let ready = numbers(
            connection,
            "SELECT lane FROM lanes WHERE ready_at <= ?1 ORDER BY ready_at, name LIMIT ?2",
            &[now.as_millisecond(), count(hands)],
        )?;
        if ready.is_empty() {
            break;
        }
        let mut lanes_left = ready.len();
        for number in ready {
            let share = share(hands.saturating_sub(handed_out.len()), lanes_left);
            lanes_left -= 1;
            serve(connection, policy, number, share, (now, until), &mut handed_out)?;
        }
    }
    Ok(handed_out)
}

/// Hands out up to `share` due steps of one lane, as far as it has room.
fn serve(
    connection: &Connection,
    policy: &lane::Policy,
    number: i64,
    share: usize,
    (now, until): (Timestamp, Timestamp),
    handed_out: &mut Vec<HandedOut>,
) -> Result<(), StoreError> {
    let Some(mut stored) = load(connection, number)? else { return Ok(()) };
    let wanted = stored.lane.room(now).min(share);
    let sql = "SELECT operation, callback FROM steps WHERE lane = ?1 AND due_at <= ?2 \
        ORDER BY due_at, operation, callback LIMIT ?3";
    for key in keys(connection, sql, &[number, now.as_millisecond(), count(wanted)])? {
        let token = take(connection, key, until)?;
        stored.lane.admit(policy, token, until, now);
        stored.served_at = now;
        handed_out.push(HandedOut { key, token, lane: Some(stored.name.clone()) });
    }
    save(connection, number, &stored)
}

/// How a step of a lane went.
#[derive(Clone, Copy)]
pub(super) struct Settled {
    pub(super) token: u64,
    pub(super) report: Report,
    pub(super) at: Timestamp,
}

/// Tells a lane how some of its steps went.
pub(super) fn settle(
    connection: &Connection,
    policy: &lane::Policy,
    name: &LaneName,
    steps: &[Settled],
) -> Result<(), StoreError> {
    let number = lane(connection, policy, name)?;
    let Some(mut stored) = load(connection, number)? else { return Ok(()) };
    for Settled { token, report, at } in steps {
        stored.lane.settle(policy, *token, *report, *at);
    }
    save(connection, number, &stored)
}

/// Lets Graph lanes admit nothing before `until`: [`Lane::rest`] for all at once, since there may be
/// a hundred thousand.
pub(super) fn rest_graph_lanes(
    connection: &Connection,
    until: Timestamp,
) -> Result<(), StoreError> {
    let sql = "UPDATE lanes SET paused_until = max(coalesce(paused_until, ?1), ?1), \
        ready_at = max(ready_at, ?1) WHERE name GLOB 'graph:*'";
    let rested = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute([until.as_millisecond()]));
    rested.map(drop).context("letting lanes rest")
}

/// The first lanes after `lane` on which nothing waits, up to `limit` of them, in the order of their
/// numbers: so that those on which something counts for long are passed over, not met again.
///
/// It may look at every lane, so it is for a reader, which keeps nobody waiting.
pub(super) fn unused_lanes(
    connection: &Connection,
    lane: i64,
    limit: u32,
) -> Result<Vec<i64>, StoreError> {
    let sql = "SELECT lane FROM lanes WHERE lane > ?1 \
        AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.lane = lanes.lane) \
        ORDER BY lane LIMIT ?2";
    numbers(connection, sql, &[lane, limit.into()])
}

/// Forgets those of `lanes` on which still nothing waits, and on which nothing counts any more.
pub(super) fn forget_lanes(
    connection: &Connection,
    lanes: &[i64],
    now: Timestamp,
) -> Result<(), StoreError> {
    for number in lanes {
        if !load(connection, *number)?.is_some_and(|it| it.lane.is_forgettable(now)) {
            continue;
        }
        let sql = "DELETE FROM lanes WHERE lane = ?1 \
            AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.lane = lanes.lane)";
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([number]))
            .context("forgetting a lane")?;
    }
    Ok(())
}

/// How many steps are due on a lane and wait for their turn, counted no further than to `most`.
pub(super) fn waiting(
    connection: &Connection,
    lane: &LaneName,
    now: Timestamp,
    most: u32,
) -> Result<u32, StoreError> {
    let doing = "counting what waits";
    let sql = "SELECT count(*) FROM (SELECT 1 FROM steps \
        WHERE lane = (SELECT lane FROM lanes WHERE name = ?1) AND due_at <= ?2 LIMIT ?3)";
    let mut statement = connection.prepare_cached(sql).context(doing)?;
    let row = params![lane.to_string(), now.as_millisecond(), most];
    statement.query_row(row, |row| row.get(0)).context(doing)
}

/// When a claim may next find something.
pub(super) fn next_due(connection: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let sql = "SELECT min(at) AS at FROM (SELECT min(ready_at) AS at FROM lanes \
        WHERE ready_at IS NOT NULL UNION ALL SELECT min(lapse_at) AS at FROM steps)";
    let doing = "looking for the next due step";
    let mut statement = connection.prepare_cached(sql).context(doing)?;
    let read = |row: &rusqlite::Row<'_>| Ok(Columns { table: "steps", row }.time_or_null("at"));
    statement.query_row([], read).context(doing)?
}

/// Gives the step to a new claim until `until`.
fn take(connection: &Connection, key: Key, until: Timestamp) -> Result<u64, StoreError> {
    let mut token = [0; 8];
    getrandom::fill(&mut token)
        .map_err(|error| StoreError::Unavailable(anyhow::anyhow!("no random numbers: {error}")))?;
    let token = u64::from_ne_bytes(token);
    let sql = "UPDATE steps SET token = ?3, lapse_at = max(lapse_at, ?4), \
        due_at = CASE WHEN due_at IS NULL THEN NULL ELSE ?4 END \
        WHERE operation = ?1 AND callback = ?2";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let (token, until) = (token.cast_signed(), until.as_millisecond());
            statement.execute(params![key.operation, key.callback, token, until])
        })
        .context("claiming a step")?;
    Ok(token)
}

fn load(connection: &Connection, number: i64) -> Result<Option<StoredLane>, StoreError> {
    let doing = "reading a lane";
    let sql = "SELECT lanes.*, (SELECT rate FROM handshakes WHERE handshakes.lane = lanes.name) AS rate \
        FROM lanes WHERE lane = ?1";
    let mut statement = connection.prepare_cached(sql).context(doing)?;
    let read = |row: &rusqlite::Row<'_>| Ok(Columns { table: "lanes", row }.lane());
    statement.query_row([number], read).optional().context(doing)?.transpose()
}

/// Writes a lane, and when a claim need next look at it.
fn save(connection: &Connection, number: i64, stored: &StoredLane) -> Result<(), StoreError> {
    // In the past where it has been free for long: readiness is an age, by which lanes take turns.
    let free_at = stored.lane.free_at(Timestamp::MIN).max(stored.served_at);
    let sql = "UPDATE lanes SET allowance = ?2, failures = ?3, paused_until = ?4, slots = ?5, \
        served_at = ?6, ready_at = (SELECT max(due_at, ?7) FROM steps \
        WHERE lane = ?1 AND due_at IS NOT NULL ORDER BY due_at LIMIT 1) WHERE lane = ?1";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![
                number,
                stored.lane.allowance,
                stored.lane.failures,
                millis(stored.lane.paused_until),
                write_slots(&stored.lane.slots),
                stored.served_at.as_millisecond(),
                free_at.as_millisecond(),
            ])
        })
        .map(drop)
        .context("updating a lane")
}

fn keys(connection: &Connection, sql: &str, params: &[i64]) -> Result<Vec<Key>, StoreError> {
    let doing = "looking for due steps";
    let mut statement = connection.prepare_cached(sql).context(doing)?;
    let key = |row: &rusqlite::Row<'_>| Ok(Key { operation: row.get(0)?, callback: row.get(1)? });
    let rows = statement.query_map(rusqlite::params_from_iter(params), key).context(doing)?;
    rows.map(|row| row.context(doing)).collect()
}

fn numbers(connection: &Connection, sql: &str, params: &[i64]) -> Result<Vec<i64>, StoreError> {
    let doing = "reading the schedule";
    let mut statement = connection.prepare_cached(sql).context(doing)?;
    let rows =
        statement.query_map(rusqlite::params_from_iter(params), |row| row.get(0)).context(doing)?;
    rows.map(|row| row.context(doing)).collect()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
