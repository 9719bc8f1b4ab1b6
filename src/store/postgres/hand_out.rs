//! What a claim hands out: what lapses, and what is due on lanes that have room.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::error::both;
use super::line::{self, Numbered, PassedOver};
use super::row::{Columns, count};
use super::schedule::{Key, keys};
use super::{lanes, rows};
use crate::lane::{self, LaneName, share};
use crate::operation::after;
use crate::store::StoreError;

/// How often a claim goes on to further lanes, where those before have less to give than there are hands.
const ROUNDS: usize = 8;

/// So many lanes are asked at least, or one for each hand where hands are fewer.
const FEW_LANES: usize = 8;

/// No lane is thought to have more steps than this for a claim: what Viva Engage grants an identity at a
/// time.
const MANY_STEPS: usize = 10;

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
    lanes: Vec<Numbered>,
    /// Whether one of these lanes has given all of its share, and may have more.
    may_have_more: bool,
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
    (now, lease): (Timestamp, Duration),
    hands: usize,
    passed_over: &PassedOver,
) -> Result<Handful, StoreError> {
    let until = after(now, lease);
    // To lock a lane and to write it costs as much for one step as for all that it has, so no more of
    // them are asked than seems to be needed. At first each is taken for a Graph lane with much to do.
    let mut steps_of_a_lane = (policy.graph_requests as usize).clamp(1, MANY_STEPS);
    let mut limit = lanes_for(hands, steps_of_a_lane);
    // Looked for at the same time; what lapses takes hands from the last lanes.
    let looking = line::look(transaction, now, limit, passed_over);
    let (lapsed, look) = both(lapsed(transaction, now, hands.div_ceil(2)), looking).await?;
    take(transaction, &lapsed, until).await?;
    limit = lanes_for(hands.saturating_sub(lapsed.len()), steps_of_a_lane);
    let mut ready = look.lanes(transaction, now, limit, passed_over).await?;
    let lapse = |(key, token)| HandedOut { key, token, lane: None };
    let mut steps: Vec<HandedOut> = lapsed.into_iter().map(lapse).collect();

    let mut round = Round::default();
    for number in 0..ROUNDS {
        let left = hands.saturating_sub(steps.len());
        if left == 0 {
            break;
        }
        if 0 < number {
            std::mem::take(&mut round).write(transaction, until).await?;
            limit = lanes_for(left, steps_of_a_lane);
            ready = line::lock(transaction, now, limit).await?;
        }
        let (asked, before) = (ready.len(), steps.len());
        if asked == 0 {
            break;
        }
        let lanes = std::mem::take(&mut ready);
        round = serve(transaction, policy, lanes, (now, until), left, &mut steps).await?;
        if asked < limit && !round.may_have_more {
            break;
        }
        // Lanes that have nothing to give were made for registrations that came to nothing, and say
        // nothing of others. And some that have little may stand before those that have much, so what
        // is thought of these falls by half at the most.
        let given = steps.len() - before;
        if 0 < given {
            steps_of_a_lane = given.div_ceil(asked).max(steps_of_a_lane.div_ceil(2));
        }
    }
    Ok(Handful { steps, unwritten: round, until })
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

/// How many lanes are asked for so many hands, if each is thought to have so many steps for them.
fn lanes_for(hands: usize, steps_of_a_lane: usize) -> usize {
    hands.div_ceil(steps_of_a_lane).max(hands.min(FEW_LANES))
}

/// Gives due steps of these lanes to `left` hands, to each lane its share as far as it has room.
async fn serve(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    mut lanes: Vec<Numbered>,
    (now, until): (Timestamp, Timestamp),
    mut left: usize,
    steps: &mut Vec<HandedOut>,
) -> Result<Round, StoreError> {
    let most = share(left, lanes.len());
    let mut due = due(transaction, now, &lanes, most).await?;
    let (mut chosen, mut may_have_more, count) = (Vec::new(), false, lanes.len());
    for (index, (number, stored)) in lanes.iter_mut().enumerate() {
        let (share, room) = (share(left, count - index).min(most), stored.lane.room(now));
        let before = left;
        for key in due.remove(number).unwrap_or_default().into_iter().take(share) {
            let token = fresh_token()?;
            stored.lane.admit(policy, token, until, now);
            stored.served_at = now;
            chosen.push((key, token));
            steps.push(HandedOut { key, token, lane: Some(stored.name.clone()) });
            left -= 1;
        }
        may_have_more |= before - left == share && share < room;
    }
    Ok(Round { chosen, lanes, may_have_more })
}

/// Due steps of each of these lanes that nobody is at, locked: as many as it has room for, and `most`
/// at the most, of which some may be left over.
async fn due(
    transaction: &Transaction<'_>,
    now: Timestamp,
    lanes: &[Numbered],
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
