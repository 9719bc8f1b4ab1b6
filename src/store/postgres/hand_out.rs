//! What a claim hands out: what lapses, and what is due on lanes that have room.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::dial::LOCK_PATIENCE;
use super::error::{Context as _, both};
use super::lanes::{self, LANE};
use super::row::Columns;
use super::rows;
use super::schedule::{Key, keys};
use crate::lane::{self, LaneName, share};
use crate::operation::after;
use crate::store::StoreError;
use crate::store::columns::{Fields as _, StoredLane};

/// In how many rounds a claim gives to some lanes what others have left of their share.
const ROUNDS: usize = 8;

/// How many steps of a lane a claim with many hands takes at a time, where there are so many: to lock
/// a lane and to write it costs as much for one. It is what a Graph lane has room for at once.
const STEPS_OF_A_LANE: usize = 8;

/// To so many lanes a claim gives one step at least before it gives any of them more.
const FEW_LANES: usize = 8;

/// For how long a claim waits for a lane, in milliseconds.
const LANE_PATIENCE_MS: u32 = 200;

/// A step that has been handed out.
pub(super) struct HandedOut {
    pub(super) key: Key,
    pub(super) token: u64,
    /// `None` for a lapse.
    pub(super) lane: Option<LaneName>,
}

/// What a claim hands out. All of it is locked.
pub(super) struct Handful {
    pub(super) steps: Vec<HandedOut>,
    /// What is still to be written of it, before the end of the transaction.
    unwritten: Round,
    /// The end of the lease.
    pub(super) until: Timestamp,
}

impl Handful {
    /// Writes the last round, which is left unwritten so that its caller can read and decrypt meanwhile.
    pub(super) async fn write(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        self.unwritten.write(transaction, self.until).await
    }
}

/// Steps that were taken from some lanes, and how that leaves these.
#[derive(Default)]
struct Round {
    chosen: Vec<(Key, u64)>,
    lanes: Vec<(i64, StoredLane)>,
}

impl Round {
    async fn write(
        &self,
        transaction: &Transaction<'_>,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let lanes = self.lanes.iter().map(|(number, stored)| (number, stored));
        let taking = take(transaction, &self.chosen, until);
        // When a lane is next ready follows from the steps that are left, so it is sent after them. A
        // statement that has yet to be prepared may come later all the same: the lane is ready too
        // early then, and the claim that finds nothing sets it right.
        both(taking, lanes::save(transaction, lanes)).await.map(drop)
    }
}

/// Hands out what is due, and moves it to the end of the lease. [`Handful::write`] is to be called
/// before the end of the transaction.
pub(super) async fn hand_out(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    now: Timestamp,
    lease: Duration,
    hands: usize,
) -> Result<Handful, StoreError> {
    let until = after(now, lease);
    // The first lanes are looked for at the same time; what lapses takes hands from the last of them.
    let lapsed = lapsed(transaction, now, hands.div_ceil(2));
    let mut steps_of_a_lane = STEPS_OF_A_LANE;
    let first = candidates(transaction, now, lanes_for(hands, steps_of_a_lane));
    let (lapsed, mut candidates) = both(lapsed, first).await?;
    take(transaction, &lapsed, until).await?;
    let lapse = |(key, token)| HandedOut { key, token, lane: None };
    let mut steps: Vec<HandedOut> = lapsed.into_iter().map(lapse).collect();

    let mut last = Round::default();
    for round in 0..ROUNDS {
        let left = hands.saturating_sub(steps.len());
        if left == 0 {
            break;
        }
        let lanes = lanes_for(left, steps_of_a_lane);
        if 0 < round {
            std::mem::take(&mut last).write(transaction, until).await?;
            candidates = self::candidates(transaction, now, lanes).await?;
        }
        candidates.truncate(lanes);
        let ready = ready(transaction, now, &candidates, round == 0).await?;
        if ready.is_empty() {
            break;
        }
        let (before, served) = (steps.len(), ready.len());
        last = serve(transaction, policy, ready, (now, until), left, &mut steps).await?;
        // Lanes that were made for registrations that came to nothing stand before others once.
        let may_be_more = candidates.len() == lanes;
        let taken = steps.len() - before;
        if taken == 0 && !may_be_more {
            break;
        }
        // The next ones will hardly have more: where each has a single step, two rounds are enough.
        steps_of_a_lane = (taken / served).clamp(1, STEPS_OF_A_LANE);
    }
    Ok(Handful { steps, unwritten: last, until })
}

/// Up to `limit` steps whose time is over, locked, with the tokens of new claims.
async fn lapsed(
    transaction: &Transaction<'_>,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<(Key, u64)>, StoreError> {
    let sql = "SELECT operation, callback FROM steps WHERE lapse_at <= $1 \
        AND (claimed_until IS NULL OR claimed_until <= $1) \
        ORDER BY lapse_at LIMIT $2 FOR UPDATE SKIP LOCKED";
    let params: [&(dyn ToSql + Sync); 2] = [&now.as_millisecond(), &count(limit)];
    let found = rows(transaction, "looking for lapses", sql, &params).await?;
    found.iter().map(|row| Ok((key(row)?, fresh_token()?))).collect()
}

/// To how many lanes so many hands are given, if each has so many steps for them.
fn lanes_for(hands: usize, steps_of_a_lane: usize) -> usize {
    hands.div_ceil(steps_of_a_lane).max(hands.min(FEW_LANES))
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
        // The default is the server's or the role's, which is not what we have set for the session.
        Ok(_) => &format!("SET LOCAL lock_timeout = '{LOCK_PATIENCE}'"),
        Err(StoreError::Locked(_)) => "ROLLBACK TO waiting",
        Err(_) => return waited.map(|mut found| found.pop()),
    };
    transaction.batch_execute(end).await.context(doing)?;
    Ok(waited.ok().and_then(|mut found| found.pop()))
}

/// Gives due steps of these lanes to `left` hands, to each lane its share as far as it has room.
async fn serve(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    mut lanes: Vec<(i64, StoredLane)>,
    (now, until): (Timestamp, Timestamp),
    mut left: usize,
    steps: &mut Vec<HandedOut>,
) -> Result<Round, StoreError> {
    let mut due = due(transaction, now, &lanes, share(left, lanes.len())).await?;
    let (mut chosen, count) = (Vec::new(), lanes.len());
    for (index, (number, stored)) in lanes.iter_mut().enumerate() {
        let share = share(left, count - index);
        for key in due.remove(number).unwrap_or_default().into_iter().take(share) {
            let token = fresh_token()?;
            stored.lane.admit(policy, token, until, now);
            stored.served_at = now;
            chosen.push((key, token));
            steps.push(HandedOut { key, token, lane: Some(stored.name.clone()) });
            left -= 1;
        }
    }
    Ok(Round { chosen, lanes })
}

/// Due steps of each of these lanes that nobody is at, locked: as many as it has room for, and `most`
/// at the most, of which some may be left over.
async fn due(
    transaction: &Transaction<'_>,
    now: Timestamp,
    lanes: &[(i64, StoredLane)],
    most: usize,
) -> Result<HashMap<i64, Vec<Key>>, StoreError> {
    let numbers: Vec<i64> = lanes.iter().map(|(number, _)| *number).collect();
    let room: Vec<i64> = lanes.iter().map(|(_, it)| count(it.lane.room(now).min(most))).collect();
    // Whoever commits holds steps and waits for their lanes, which we hold: so we wait for none of them.
    let sql = "SELECT wanted.lane, due.operation, due.callback \
        FROM unnest($1::bigint[], $2::bigint[]) AS wanted (lane, room) CROSS JOIN LATERAL \
        (SELECT operation, callback FROM steps WHERE steps.lane = wanted.lane AND due_at <= $3 \
        AND (claimed_until IS NULL OR claimed_until <= $3) \
        ORDER BY due_at, operation, callback LIMIT wanted.room FOR UPDATE SKIP LOCKED) AS due";
    let params: [&(dyn ToSql + Sync); 3] = [&numbers, &room, &now.as_millisecond()];
    let mut due: HashMap<i64, Vec<Key>> = HashMap::new();
    for row in &rows(transaction, "looking for due steps", sql, &params).await? {
        let lane = Columns { table: "steps", row }.get("lane")?;
        due.entry(lane).or_default().push(key(row)?);
    }
    Ok(due)
}

/// Gives steps that are locked to new claims until `until`.
async fn take(
    transaction: &Transaction<'_>,
    chosen: &[(Key, u64)],
    until: Timestamp,
) -> Result<(), StoreError> {
    if chosen.is_empty() {
        return Ok(());
    }
    let (operations, callbacks) = keys(chosen.iter().map(|(key, _)| *key));
    let tokens: Vec<i64> = chosen.iter().map(|(_, token)| token.cast_signed()).collect();
    let sql = "UPDATE steps SET token = taken.token, claimed_until = $4, \
        lapse_at = greatest(steps.lapse_at, $4) \
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS taken (operation, callback, token) \
        WHERE steps.operation = taken.operation AND steps.callback = taken.callback";
    let params: [&(dyn ToSql + Sync); 4] =
        [&operations, &callbacks, &tokens, &until.as_millisecond()];
    rows(transaction, "claiming steps", sql, &params).await.map(drop)
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

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
