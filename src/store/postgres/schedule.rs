//! What is due, on which lane, and who holds it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::connect::{Database, work};
use super::error::{Context as _, Overtaken};
use super::fresh::{FOR_A_COPY, copy_into};
use super::row::Columns;
use super::{plan_by_keys, rows};
use crate::lane::{self, Lane, LaneName, Report, share};
use crate::operation::{Agenda, after};
use crate::store::StoreError;
use crate::store::columns::{Fields as _, StoredLane, millis, write_slots};

/// In how many rounds a claim gives to some lanes what others have left of their share.
const ROUNDS: usize = 8;

/// How many steps of a lane a claim with many hands takes at a time, where there are so many: to lock
/// a lane and to write it costs as much for one.
const STEPS_OF_A_LANE: usize = 4;

/// To so many lanes a claim gives one step at least before it gives any of them more.
const FEW_LANES: usize = 8;

/// How many lanes one transaction lets rest, so that it is over long before its time is.
const RESTED_AT_ONCE: usize = 2_000;

/// For how long a claim waits for a lane, in milliseconds.
const LANE_PATIENCE_MS: u32 = 200;

/// A lane with the rate that its receiver has agreed to: all that [`StoredLane`] is read from.
const LANE: &str = "SELECT *, (SELECT rate FROM handshakes WHERE handshakes.lane = lanes.name) AS rate \
    FROM lanes";

/// The key of a row of `steps`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Key {
    /// `operations.number`
    pub(super) operation: i64,
    /// Which callback of the operation's; 0 for the operation itself.
    pub(super) callback: i64,
}

/// A step that has been handed out.
pub(super) struct HandedOut {
    pub(super) key: Key,
    pub(super) token: u64,
    /// `None` for a lapse.
    pub(super) lane: Option<LaneName>,
}

/// What is to happen next to a step, for anyone to take.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    pub(super) key: Key,
    pub(super) lane: i64,
    pub(super) agenda: Agenda,
}

/// How a step of a lane went.
#[derive(Clone, Copy)]
pub(super) struct Settled {
    pub(super) token: u64,
    pub(super) report: Report,
    pub(super) at: Timestamp,
}

/// The numbers of the lanes of these names, made where they are not there yet.
pub(super) async fn lanes<N: Borrow<LaneName> + Ord>(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    names: BTreeSet<N>,
) -> Result<HashMap<LaneName, i64>, StoreError> {
    let names = names.iter().map(Borrow::borrow);
    let mut found = numbers(transaction, names.clone()).await?;
    let missing: Vec<&LaneName> = names.filter(|name| !found.contains_key(*name)).collect();
    if missing.is_empty() {
        return Ok(found);
    }
    // Whoever plans on them tells them when they are ready.
    NewLanes::of(policy, missing.iter().map(|name| (*name, None))).make(transaction).await?;
    found.extend(numbers(transaction, missing.into_iter()).await?);
    Ok(found)
}

/// Makes those lanes that are not there yet, for everybody to see at once, each ready for the first
/// step that is to be planned on it. What is planned in the end may be nothing, or later: a claim that
/// finds nothing sets it right. But for most of them it need not be written again by [`announce`].
pub(super) async fn make_lanes(
    database: &Database,
    policy: &lane::Policy,
    first_due: &BTreeMap<&LaneName, Option<Timestamp>>,
) -> Result<(), StoreError> {
    let new = Arc::new(NewLanes::of(policy, first_due.iter().map(|(name, at)| (*name, *at))));
    let make = work(move |transaction| {
        let new = Arc::clone(&new);
        Box::pin(async move {
            tokio::try_join!(plan_by_keys(transaction), new.make(transaction)).map(drop)
        })
    });
    database.transaction(make).await
}

/// The columns of lanes to be made.
#[derive(Default)]
struct NewLanes {
    names: Vec<String>,
    allowances: Vec<i64>,
    failures: Vec<i64>,
    ready: Vec<Option<i64>>,
}

impl NewLanes {
    fn of<'a>(
        policy: &lane::Policy,
        lanes: impl Iterator<Item = (&'a LaneName, Option<Timestamp>)>,
    ) -> Self {
        let mut new = Self::default();
        for (name, ready_at) in lanes {
            let lane = Lane::new(name.kind, policy);
            new.names.push(name.to_string());
            new.allowances.push(i64::from(lane.allowance));
            new.failures.push(i64::from(lane.failures));
            new.ready.push(millis(ready_at));
        }
        new
    }

    /// In the order of their names, as everybody makes them. Leaves alone what is there, for an attempt
    /// to insert it costs a number.
    async fn make(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let sql = "INSERT INTO lanes (name, allowance, failures, slots, served_at, ready_at) \
            SELECT name, allowance, failures, '', 0, ready_at \
            FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) \
            AS fresh (name, allowance, failures, ready_at) \
            WHERE NOT EXISTS (SELECT 1 FROM lanes WHERE lanes.name = fresh.name) \
            ORDER BY fresh.name COLLATE \"C\" ON CONFLICT (name) DO NOTHING";
        let params: [&(dyn ToSql + Sync); 4] =
            [&self.names, &self.allowances, &self.failures, &self.ready];
        rows(transaction, "making lanes", sql, &params).await.map(drop)
    }
}

async fn numbers<'a>(
    transaction: &Transaction<'_>,
    names: impl Iterator<Item = &'a LaneName>,
) -> Result<HashMap<LaneName, i64>, StoreError> {
    let texts: Vec<String> = names.map(ToString::to_string).collect();
    // As a join it is an index that is asked for each, whatever the server takes the table for; as a
    // condition, a plan made while there were few lanes reads all of them.
    let sql = "SELECT lane, name FROM unnest($1::text[]) AS wanted (name) JOIN lanes USING (name)";
    let found = rows(transaction, "finding lanes", sql, &[&texts]).await?;
    let read = |row| {
        let columns = Columns { table: "lanes", row };
        Ok((columns.word("name", LaneName::parse)?, columns.get("lane")?))
    };
    found.iter().map(read).collect()
}

/// Writes what is to happen first to operations that are new. Who calls this calls [`announce`] as
/// well, before the end of the transaction.
pub(super) async fn begin(
    transaction: &Transaction<'_>,
    planned: &[Planned],
) -> Result<(), StoreError> {
    if FOR_A_COPY <= planned.len() {
        return copy(transaction, planned).await.context(PLANNING);
    }
    let sql = "INSERT INTO steps (operation, callback, lane, due_at, lapse_at) \
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])";
    insert(transaction, sql, planned.iter().collect()).await
}

async fn copy(
    transaction: &Transaction<'_>,
    planned: &[Planned],
) -> Result<(), tokio_postgres::Error> {
    let columns = "operation, callback, lane, due_at, lapse_at";
    let mut writer = pin!(copy_into(transaction, "steps", columns).await?);
    for Planned { key, lane, agenda } in planned {
        let (due, lapse) = (millis(agenda.step_at), millis(agenda.lapse_at));
        writer.as_mut().write(&[&key.operation, &key.callback, lane, &due, &lapse]).await?;
    }
    writer.finish().await.map(drop)
}

/// Writes what is to happen next, or that nothing is. Who calls this calls [`announce`] as well,
/// before the end of the transaction.
pub(super) async fn plan(
    transaction: &Transaction<'_>,
    planned: &[Planned],
) -> Result<(), StoreError> {
    let (kept, mut ended): (Vec<_>, Vec<_>) =
        planned.iter().partition(|it| it.agenda.lapse_at.is_some());
    let sql = "INSERT INTO steps (operation, callback, lane, due_at, lapse_at) \
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) \
        ON CONFLICT (operation, callback) DO UPDATE SET lane = excluded.lane, \
        due_at = excluded.due_at, lapse_at = excluded.lapse_at, token = NULL, \
        claimed_until = NULL";
    insert(transaction, sql, kept).await?;
    if !ended.is_empty() {
        ended.sort_unstable_by_key(|it| it.key);
        let (operations, callbacks) = keys(ended.iter().map(|it| it.key));
        let sql = "DELETE FROM steps USING unnest($1::bigint[], $2::bigint[]) \
            AS ended (operation, callback) \
            WHERE steps.operation = ended.operation AND steps.callback = ended.callback";
        rows(transaction, PLANNING, sql, &[&operations, &callbacks]).await?;
    }
    Ok(())
}

const PLANNING: &str = "planning steps";

/// Runs a statement that takes rows of `steps`, in the order of their keys.
async fn insert(
    transaction: &Transaction<'_>,
    sql: &str,
    mut planned: Vec<&Planned>,
) -> Result<(), StoreError> {
    if planned.is_empty() {
        return Ok(());
    }
    planned.sort_unstable_by_key(|it| it.key);
    let (operations, callbacks) = keys(planned.iter().map(|it| it.key));
    let lanes: Vec<i64> = planned.iter().map(|it| it.lane).collect();
    let due: Vec<Option<i64>> = planned.iter().map(|it| millis(it.agenda.step_at)).collect();
    let lapse: Vec<Option<i64>> = planned.iter().map(|it| millis(it.agenda.lapse_at)).collect();
    rows(transaction, PLANNING, sql, &[&operations, &callbacks, &lanes, &due, &lapse])
        .await
        .map(drop)
}

/// Tells lanes how some of their steps went, and when they are ready again for what was planned.
///
/// Locks them, so it comes as near to the end of a transaction as can be.
pub(super) async fn announce(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    settled: &BTreeMap<i64, Vec<Settled>>,
    planned: &[Planned],
) -> Result<(), StoreError> {
    let mut first_due: BTreeMap<i64, Timestamp> = BTreeMap::new();
    let mut waited_on = BTreeSet::new();
    for Planned { lane, agenda: Agenda { step_at, lapse_at }, .. } in planned {
        if let Some(at) = step_at {
            first_due.entry(*lane).and_modify(|due| *due = *at.min(due)).or_insert(*at);
        }
        if step_at.is_some() || lapse_at.is_some() {
            waited_on.insert(*lane);
        }
    }
    let touched: BTreeSet<i64> = settled.keys().chain(&waited_on).copied().collect();
    if touched.is_empty() {
        return Ok(());
    }
    let mut locked = lock(transaction, touched.into_iter().collect()).await?;
    if waited_on.iter().any(|lane| !locked.contains_key(lane)) {
        // It was forgotten since we looked for it, and a step on it would be so, too.
        return Err(StoreError::Unavailable(Overtaken.into()));
    }
    for (number, steps) in settled {
        // A lane that is gone has nothing that counts.
        let Some(Locked { stored, .. }) = locked.get_mut(number) else { continue };
        for Settled { token, report, at } in steps {
            stored.lane.settle(policy, *token, *report, *at);
        }
    }
    let told = |number: &i64| settled.contains_key(number);
    let changed = locked.iter().filter(|(number, _)| told(number));
    save(transaction, changed.map(|(number, it)| (number, &it.stored))).await?;

    // Too early does no harm, as a claim that finds nothing sets it right; too late would starve.
    let is_late = |lane: &i64, due: Timestamp| {
        let ready_at = locked.get(lane).and_then(|it| it.ready_at);
        ready_at.is_none_or(|ready_at| due < ready_at)
    };
    first_due.retain(|lane, due| !told(lane) && is_late(lane, *due));
    if !first_due.is_empty() {
        let lanes: Vec<i64> = first_due.keys().copied().collect();
        let due: Vec<i64> = first_due.values().map(|at| at.as_millisecond()).collect();
        let sql = "UPDATE lanes SET ready_at = planned.due_at \
            FROM unnest($1::bigint[], $2::bigint[]) AS planned (lane, due_at) \
            WHERE lanes.lane = planned.lane";
        rows(transaction, "announcing steps", sql, &[&lanes, &due]).await?;
    }
    Ok(())
}

/// Hands out what is due, and moves it to the end of the lease.
pub(super) async fn hand_out(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    now: Timestamp,
    lease: Duration,
    hands: usize,
) -> Result<Vec<HandedOut>, StoreError> {
    let until = after(now, lease);
    let sql =
        "SELECT operation, callback FROM steps WHERE lapse_at <= $1 ORDER BY lapse_at LIMIT $2";
    let (at, most) = (now.as_millisecond(), count(hands.div_ceil(2)));
    let params: [&(dyn ToSql + Sync); 2] = [&at, &most];
    // The first lanes are looked for at the same time; what lapses takes hands from the last of them.
    let (lapsed, mut candidates) = tokio::try_join!(
        rows(transaction, "looking for lapses", sql, &params),
        candidates(transaction, now, lanes_for(hands)),
    )?;
    let lapsed = lapsed.iter().map(|row| Ok((key(row)?, fresh_token()?)));
    let lapsed: Vec<(Key, u64)> = lapsed.collect::<Result<_, StoreError>>()?;
    let taken = take(transaction, &lapsed, "lapse_at", now, until).await?;
    let lapse = |(key, token)| HandedOut { key, token, lane: None };
    let mut handed_out: Vec<HandedOut> = taken.into_iter().map(lapse).collect();

    for round in 0..ROUNDS {
        let lanes = lanes_for(hands.saturating_sub(handed_out.len()));
        if 0 < round {
            candidates = self::candidates(transaction, now, lanes).await?;
        }
        candidates.truncate(lanes);
        let ready = ready(transaction, now, &candidates, round == 0).await?;
        if ready.is_empty() {
            break;
        }
        let before = handed_out.len();
        serve(transaction, policy, ready, (now, until), hands, &mut handed_out).await?;
        // Lanes that were made for registrations that came to nothing stand before others once.
        let may_be_more = candidates.len() == lanes;
        if handed_out.len() == before && !may_be_more {
            break;
        }
    }
    Ok(handed_out)
}

/// To how many lanes so many hands are given.
fn lanes_for(hands: usize) -> usize {
    hands.div_ceil(STEPS_OF_A_LANE).max(hands.min(FEW_LANES))
}

/// Up to `limit` lanes that are ready, longest first.
async fn candidates(
    transaction: &Transaction<'_>,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<i64>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let sql = "SELECT lane FROM lanes WHERE ready_at <= $1 ORDER BY ready_at LIMIT $2";
    let params: [&(dyn ToSql + Sync); 2] = [&now.as_millisecond(), &count(limit)];
    let found = rows(transaction, LOOKING, sql, &params).await?;
    found.iter().map(|row| Columns { table: "lanes", row }.get("lane")).collect()
}

const LOOKING: &str = "looking for lanes that are ready";

/// Those of these lanes that are ready, locked.
///
/// Waits for the first, if `may_wait`, and passes over others that somebody holds. Whoever waits
/// holds no lane yet, or two claims could wait for each other.
async fn ready(
    transaction: &Transaction<'_>,
    now: Timestamp,
    numbers: &[i64],
    may_wait: bool,
) -> Result<Vec<(i64, StoredLane)>, StoreError> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let now = now.as_millisecond();
    let mut locked = HashMap::new();
    if let (Some(first), true) = (numbers.first(), may_wait) {
        // Somebody else may have served it while we waited.
        if let Some(row) = wait_for(transaction, *first, now).await? {
            locked.insert(*first, Columns { table: "lanes", row: &row }.lane()?);
        }
    }
    let sql = format!("{LANE} WHERE lane = ANY($1) AND ready_at <= $2 FOR UPDATE SKIP LOCKED");
    for row in rows(transaction, LOOKING, &sql, &[&numbers, &now]).await? {
        let columns = Columns { table: "lanes", row: &row };
        locked.insert(columns.get("lane")?, columns.lane()?);
    }
    Ok(numbers.iter().filter_map(|it| Some((*it, locked.remove(it)?))).collect())
}

/// Locks a lane if it is ready, and waits a little for whoever holds it.
async fn wait_for(
    transaction: &Transaction<'_>,
    lane: i64,
    now: i64,
) -> Result<Option<tokio_postgres::Row>, StoreError> {
    let doing = "waiting for a lane";
    let ready = format!("{LANE} WHERE lane = $1 AND ready_at <= $2 FOR UPDATE");
    let free = format!("{ready} SKIP LOCKED");
    if let Some(row) = rows(transaction, doing, &free, &[&lane, &now]).await?.pop() {
        return Ok(Some(row));
    }
    // Longer than anybody holds a lane who is not in trouble. Of one that is, the time ends with the
    // server's patience for transactions that stand still, during which all other lanes go on.
    let patient = format!("SAVEPOINT waiting; SET LOCAL lock_timeout = {LANE_PATIENCE_MS}");
    transaction.batch_execute(&patient).await.context(doing)?;
    let waited = rows(transaction, doing, &ready, &[&lane, &now]).await;
    let end = match &waited {
        Ok(_) => "SET LOCAL lock_timeout TO DEFAULT",
        Err(StoreError::Locked(_)) => "ROLLBACK TO waiting",
        Err(_) => return waited.map(|mut found| found.pop()),
    };
    transaction.batch_execute(end).await.context(doing)?;
    Ok(waited.ok().and_then(|mut found| found.pop()))
}

/// Hands out due steps of these lanes, to each its share of the hands as far as it has room.
async fn serve(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    mut ready: Vec<(i64, StoredLane)>,
    (now, until): (Timestamp, Timestamp),
    hands: usize,
    handed_out: &mut Vec<HandedOut>,
) -> Result<(), StoreError> {
    let mut left = hands.saturating_sub(handed_out.len());
    let most = share(left, ready.len());
    let lanes: Vec<i64> = ready.iter().map(|(number, _)| *number).collect();
    let room: Vec<i64> = ready.iter().map(|(_, it)| count(it.lane.room(now).min(most))).collect();
    let sql = "SELECT wanted.lane, due.operation, due.callback \
        FROM unnest($1::bigint[], $2::bigint[]) AS wanted (lane, room) CROSS JOIN LATERAL \
        (SELECT operation, callback FROM steps WHERE steps.lane = wanted.lane AND due_at <= $3 \
        AND (claimed_until IS NULL OR claimed_until <= $3) \
        ORDER BY due_at, operation, callback LIMIT wanted.room) AS due";
    let due =
        rows(transaction, "looking for due steps", sql, &[&lanes, &room, &now.as_millisecond()])
            .await?;
    let mut found: HashMap<i64, Vec<Key>> = HashMap::new();
    for row in &due {
        let lane = Columns { table: "steps", row }.get("lane")?;
        found.entry(lane).or_default().push(key(row)?);
    }

    let mut chosen: Vec<(Key, u64)> = Vec::new();
    let mut lane_of = HashMap::new();
    for (index, number) in lanes.iter().enumerate() {
        let share = share(left, lanes.len() - index);
        for key in found.remove(number).unwrap_or_default().into_iter().take(share) {
            chosen.push((key, fresh_token()?));
            lane_of.insert(key, index);
            left = left.saturating_sub(1);
        }
    }
    for (key, token) in take(transaction, &chosen, "due_at", now, until).await? {
        let Some((_, stored)) = lane_of.get(&key).and_then(|index| ready.get_mut(*index)) else {
            continue;
        };
        stored.lane.admit(policy, token, until, now);
        stored.served_at = now;
        handed_out.push(HandedOut { key, token, lane: Some(stored.name.clone()) });
    }
    save(transaction, ready.iter().map(|(number, stored)| (number, stored))).await
}

/// Gives steps to new claims until `until`, save those that are not due `now` any more by the time in
/// `column`, and those that somebody is at.
async fn take(
    transaction: &Transaction<'_>,
    chosen: &[(Key, u64)],
    column: &'static str,
    now: Timestamp,
    until: Timestamp,
) -> Result<Vec<(Key, u64)>, StoreError> {
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    let (operations, callbacks) = keys(chosen.iter().map(|(key, _)| *key));
    let tokens: Vec<i64> = chosen.iter().map(|(_, token)| token.cast_signed()).collect();
    let sql = format!(
        "WITH due AS (SELECT steps.operation, steps.callback, chosen.token \
            FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) \
            AS chosen (operation, callback, token) JOIN steps USING (operation, callback) \
            WHERE steps.{column} <= $4 AND (claimed_until IS NULL OR claimed_until <= $4) \
            FOR UPDATE OF steps SKIP LOCKED) \
        UPDATE steps SET token = due.token, claimed_until = $5, \
            lapse_at = greatest(steps.lapse_at, $5) FROM due \
        WHERE steps.operation = due.operation AND steps.callback = due.callback \
        RETURNING steps.operation, steps.callback"
    );
    let (now, until) = (now.as_millisecond(), until.as_millisecond());
    let taken = rows(
        transaction,
        "claiming steps",
        &sql,
        &[&operations, &callbacks, &tokens, &now, &until],
    )
    .await?;
    let taken: BTreeSet<Key> = taken.iter().map(key).collect::<Result<_, _>>()?;
    Ok(chosen.iter().filter(|(key, _)| taken.contains(key)).copied().collect())
}

/// A lane that nobody else changes before the end of the transaction.
struct Locked {
    stored: StoredLane,
    ready_at: Option<Timestamp>,
}

/// Locks lanes in the order of their numbers. What is gone is left out.
async fn lock(
    transaction: &Transaction<'_>,
    numbers: Vec<i64>,
) -> Result<BTreeMap<i64, Locked>, StoreError> {
    let sql = format!("{LANE} WHERE lane = ANY($1) ORDER BY lane FOR UPDATE");
    let read = |row| {
        let columns = Columns { table: "lanes", row };
        let ready_at = columns.time_or_null("ready_at")?;
        Ok((columns.get("lane")?, Locked { stored: columns.lane()?, ready_at }))
    };
    rows(transaction, "locking lanes", &sql, &[&numbers]).await?.iter().map(read).collect()
}

/// Writes lanes that are locked, and when a claim need next look at them.
async fn save(
    transaction: &Transaction<'_>,
    lanes: impl Iterator<Item = (&i64, &StoredLane)>,
) -> Result<(), StoreError> {
    let (mut numbers, mut allowances, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    let (mut paused, mut slots, mut served) = (Vec::new(), Vec::new(), Vec::new());
    let mut free = Vec::new();
    for (number, stored) in lanes {
        numbers.push(*number);
        allowances.push(i64::from(stored.lane.allowance));
        failures.push(i64::from(stored.lane.failures));
        paused.push(millis(stored.lane.paused_until));
        slots.push(write_slots(&stored.lane.slots));
        served.push(stored.served_at.as_millisecond());
        // In the past where it has been free for long: readiness is an age, by which lanes take turns.
        let free_at = stored.lane.free_at(Timestamp::MIN).max(stored.served_at);
        free.push(free_at.as_millisecond());
    }
    if numbers.is_empty() {
        return Ok(());
    }
    // The first step that is not claimed, or one of those before it once its lease is over.
    let sql = "UPDATE lanes SET allowance = told.allowance, failures = told.failures, \
        paused_until = told.paused_until, slots = told.slots, served_at = told.served_at, \
        ready_at = least(first.ready_at, \
            (SELECT min(greatest(due_at, claimed_until, told.free_at)) FROM steps \
            WHERE steps.lane = told.lane AND claimed_until IS NOT NULL \
            AND due_at <= coalesce(first.due_at, 9223372036854775807))) \
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], \
            $6::bigint[], $7::bigint[]) \
        AS told (lane, allowance, failures, paused_until, slots, served_at, free_at) \
        LEFT JOIN LATERAL (SELECT due_at, greatest(due_at, told.free_at) AS ready_at FROM steps \
            WHERE steps.lane = told.lane AND due_at IS NOT NULL AND claimed_until IS NULL \
            ORDER BY due_at LIMIT 1) AS first ON true \
        WHERE lanes.lane = told.lane";
    let params: [&(dyn ToSql + Sync); 7] =
        [&numbers, &allowances, &failures, &paused, &slots, &served, &free];
    rows(transaction, "updating lanes", sql, &params).await.map(drop)
}

/// Lets some Graph lanes admit nothing before `until`: the first after `lane`, in the order of their
/// numbers. Says which one was the last, if there may be more.
pub(super) async fn rest_graph_lanes(
    transaction: &Transaction<'_>,
    until: Timestamp,
    lane: i64,
) -> Result<Option<i64>, StoreError> {
    let doing = "letting lanes rest";
    let sql = "SELECT lane FROM lanes WHERE lane > $1 AND name LIKE 'graph:%' \
        ORDER BY lane LIMIT $2 FOR UPDATE";
    let found = rows(transaction, doing, sql, &[&lane, &count(RESTED_AT_ONCE)]).await?;
    let number = |row| Columns { table: "lanes", row }.get("lane");
    let lanes: Vec<i64> = found.iter().map(number).collect::<Result<_, _>>()?;
    let sql = "UPDATE lanes SET paused_until = greatest(paused_until, $2), \
        ready_at = CASE WHEN ready_at IS NOT NULL THEN greatest(ready_at, $2) END \
        WHERE lane = ANY($1)";
    rows(transaction, doing, sql, &[&lanes, &until.as_millisecond()]).await?;
    Ok(lanes.last().copied().filter(|_| lanes.len() == RESTED_AT_ONCE))
}

/// Looks at lanes on which nothing waits, and forgets those on which nothing counts any more: up to
/// `limit`, the first after `lane`, in the order of their numbers. Says which one was the last, if
/// there may be more.
pub(super) async fn forget_lanes(
    transaction: &Transaction<'_>,
    now: Timestamp,
    lane: i64,
    limit: u32,
) -> Result<Option<i64>, StoreError> {
    let doing = "forgetting lanes";
    let sql = format!(
        "{LANE} WHERE lane > $1 AND ready_at IS NULL \
        AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.lane = lanes.lane) \
        ORDER BY lane LIMIT $2 FOR UPDATE SKIP LOCKED"
    );
    let unused = rows(transaction, doing, &sql, &[&lane, &i64::from(limit)]).await?;
    let (mut last, mut forgettable) = (None, Vec::new());
    for row in &unused {
        let columns = Columns { table: "lanes", row };
        let number: i64 = columns.get("lane")?;
        last = Some(number);
        if columns.lane()?.lane.is_forgettable(now) {
            forgettable.push(number);
        }
    }
    // A statement of its own, which sees what was planned before the lock was ours.
    let sql = "DELETE FROM lanes WHERE lane = ANY($1) \
        AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.lane = lanes.lane)";
    rows(transaction, doing, sql, &[&forgettable]).await?;
    Ok(last.filter(|_| unused.len() == limit as usize))
}

fn fresh_token() -> Result<u64, StoreError> {
    let mut token = [0; 8];
    getrandom::fill(&mut token)
        .map_err(|error| StoreError::Unavailable(anyhow::anyhow!("no random numbers: {error}")))?;
    Ok(u64::from_ne_bytes(token))
}

fn key(row: &tokio_postgres::Row) -> Result<Key, StoreError> {
    let columns = Columns { table: "steps", row };
    Ok(Key { operation: columns.get("operation")?, callback: columns.get("callback")? })
}

fn keys(keys: impl Iterator<Item = Key>) -> (Vec<i64>, Vec<i64>) {
    keys.map(|key| (key.operation, key.callback)).unzip()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
