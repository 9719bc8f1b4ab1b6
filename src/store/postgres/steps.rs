//! What commits and amendments do inside their transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::error::{Context as _, Overtaken};
use super::lives::{self, Became};
use super::row::Columns;
use super::schedule::{self, Key, Planned, Settled};
use super::{destinations, lanes, rows};
use crate::callback::Callback;
use crate::graph::Credential;
use crate::lane::{self, LaneName};
use crate::operation::{Agenda, OperationId};
use crate::store::columns::{CredentialColumns, Fields as _};
use crate::store::{
    Amended, Amendment, CallerName, Change, Commit, Committed, OwedCallback, ResendChange, Step,
    StoreError,
};
use crate::vault::Vault;

pub(super) async fn commit(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    commits: &[Commit],
) -> Result<Vec<Committed>, StoreError> {
    let mut held = held(transaction, commits).await?;
    let mut saved = Vec::with_capacity(commits.len());
    let mut committed = Vec::with_capacity(commits.len());
    for commit in commits {
        // Spent by the first that comes with it.
        let is_newest = held.get(&commit.claim.step) == Some(&commit.claim.token);
        if is_newest {
            held.remove(&commit.claim.step);
            saved.push(commit);
        }
        committed.push(if is_newest { Committed::Saved } else { Committed::LeaseLost });
    }

    let plans = change(transaction, &saved).await?;
    let lanes_of_steps = commits.iter().filter_map(|it| it.claim.lane.clone());
    let lanes_planned = plans.iter().filter_map(|it| it.lane.clone().name());
    let names: BTreeSet<LaneName> = lanes_of_steps.chain(lanes_planned).collect();
    let lanes = lanes::find_or_make(transaction, policy, names).await?;
    let number = |name: &LaneName| {
        // It was forgotten in between.
        lanes.get(name).copied().ok_or_else(|| StoreError::Unavailable(Overtaken.into()))
    };

    let mut planned = Vec::with_capacity(plans.len());
    for Plan { key, lane, agenda } in plans {
        let lane = match lane {
            LaneOf::Number(number) => number,
            LaneOf::Name(name) => number(&name)?,
        };
        planned.push(Planned { key, lane, agenda });
    }
    schedule::plan(transaction, &planned).await?;
    let mut settled: BTreeMap<i64, Vec<Settled>> = BTreeMap::new();
    for Commit { claim, report, at, .. } in commits {
        if let Some(lane) = &claim.lane {
            let step = Settled { token: claim.token, report: *report, at: *at };
            settled.entry(number(lane)?).or_default().push(step);
        }
    }
    schedule::announce(transaction, policy, &settled, &planned).await?;
    Ok(committed)
}

/// The newest tokens of these steps, locked in the order of their keys.
async fn held(
    transaction: &Transaction<'_>,
    commits: &[Commit],
) -> Result<HashMap<Step, u64>, StoreError> {
    let (ids, callbacks): (Vec<String>, Vec<i64>) = commits
        .iter()
        .map(|commit| match commit.claim.step {
            Step::Operation(id) => (id.to_string(), 0),
            Step::Callback(id) => (id.operation.to_string(), i64::from(id.number)),
        })
        .unzip();
    let sql = "SELECT operations.id, steps.callback, steps.token \
        FROM unnest($1::text[], $2::bigint[]) AS wanted (id, callback) \
        JOIN operations ON operations.id = wanted.id \
        JOIN steps ON steps.operation = operations.number AND steps.callback = wanted.callback \
        ORDER BY steps.operation, steps.callback FOR UPDATE OF steps";
    let mut held = HashMap::new();
    for row in rows(transaction, "looking for holders of steps", sql, &[&ids, &callbacks]).await? {
        let columns = Columns { table: "steps", row: &row };
        let operation: OperationId = columns.word("id", |text| text.parse().ok())?;
        let step = match columns.number("callback")? {
            0 => Step::Operation(operation),
            number => Step::Callback(crate::callback::CallbackId { operation, number }),
        };
        if let Some(token) = columns.number_or_null("token")? {
            held.insert(step, token.cast_unsigned());
        }
    }
    Ok(held)
}

/// What is to happen next to a step, on a lane that may not have been looked up yet.
struct Plan {
    key: Key,
    lane: LaneOf,
    agenda: Agenda,
}

#[derive(Clone)]
enum LaneOf {
    Number(i64),
    /// It may have been forgotten while the callback was at rest.
    Name(LaneName),
}

impl LaneOf {
    fn name(self) -> Option<LaneName> {
        match self {
            Self::Number(_) => None,
            Self::Name(name) => Some(name),
        }
    }
}

/// Writes what commits change, and tells what is to happen next.
async fn change(
    transaction: &Transaction<'_>,
    commits: &[&Commit],
) -> Result<Vec<Plan>, StoreError> {
    let (mut operations, mut owed): (Vec<Became<'_>>, Vec<&OwedCallback>) = (vec![], vec![]);
    let (mut callbacks, mut attempts, mut handed_back) = (vec![], vec![], vec![]);
    let mut gone = Vec::new();
    for commit in commits {
        match &commit.change {
            Change::Operation { after, body, owed: its } => {
                operations.push((after, body.as_ref()));
                owed.extend(its.as_ref());
            }
            Change::Callback { after, attempt, destination_gone } => {
                gone.extend(destination_gone.then_some((after.id, commit.at)));
                callbacks.push(after);
                attempts.extend(attempt.as_ref().map(|attempt| (after.id, attempt)));
            }
            Change::HandBack => handed_back.push(commit.claim.step),
        }
    }
    let mut plans = hand_back(transaction, &handed_back).await?;
    plans.extend(update(transaction, &operations, &owed).await?);

    lives::insert_attempts(transaction, &attempts).await?;
    lives::update_callbacks(transaction, &callbacks).await?;
    destinations::mark(transaction, &gone).await?;
    let ids = callbacks.iter().map(|it| it.id.operation);
    let places = lives::places(transaction, ids).await?;
    for callback in callbacks {
        let Some(place) = places.get(&callback.id.operation) else { continue };
        let key = Key { operation: place.number, callback: callback.id.number.into() };
        let (lane, agenda) = (LaneOf::Name(place.callback_lane()), callback.state.agenda());
        plans.push(Plan { key, lane, agenda });
    }
    Ok(plans)
}

/// Writes what became of operations, and what they owe.
async fn update(
    transaction: &Transaction<'_>,
    operations: &[Became<'_>],
    owed: &[&OwedCallback],
) -> Result<Vec<Plan>, StoreError> {
    let mut plans = Vec::new();
    let places = lives::update_operations(transaction, operations).await?;
    let mut ended: HashMap<CallerName, i64> = HashMap::new();
    for (after, _) in operations {
        let Some(place) = places.get(&after.id) else { continue };
        let key = Key { operation: place.number, callback: 0 };
        plans.push(Plan { key, lane: LaneOf::Number(place.lane), agenda: after.agenda() });
        if after.state.is_at_rest() {
            *ended.entry(place.caller.clone()).or_default() -= 1;
        }
    }
    let mut new = Vec::with_capacity(owed.len());
    for owed in owed {
        let Some(place) = places.get(&owed.callback.id.operation) else { continue };
        let key = Key { operation: place.number, callback: owed.callback.id.number.into() };
        let (lane, agenda) = (LaneOf::Name(place.callback_lane()), owed.callback.state.agenda());
        plans.push(Plan { key, lane, agenda });
        new.push((*owed, place));
    }
    lives::insert_callbacks(transaction, &new).await?;
    lives::count_live(transaction, ended).await?;
    Ok(plans)
}

/// Steps that were not taken are due again as their states say.
async fn hand_back(transaction: &Transaction<'_>, steps: &[Step]) -> Result<Vec<Plan>, StoreError> {
    let operation = |step: &Step| match step {
        Step::Operation(id) => *id,
        Step::Callback(id) => id.operation,
    };
    let places = lives::places(transaction, steps.iter().map(operation)).await?;
    let key = |step: &Step| {
        let place = places.get(&operation(step))?;
        Some(match step {
            Step::Operation(_) => Key { operation: place.number, callback: 0 },
            Step::Callback(id) => Key { operation: place.number, callback: id.number.into() },
        })
    };
    let keys: Vec<Key> = steps.iter().filter_map(key).collect();
    let (polls, attempts): (Vec<Key>, Vec<Key>) = keys.iter().partition(|it| it.callback == 0);
    let mut plans = Vec::with_capacity(keys.len());
    for (key, row) in lives::operation_rows(transaction, polls.into_iter()).await? {
        let columns = Columns { table: "operations", row: &row };
        let lane = LaneOf::Number(columns.get("lane")?);
        plans.push(Plan { key, lane, agenda: columns.operation()?.agenda() });
    }
    for (key, row) in lives::callback_rows(transaction, attempts.into_iter()).await? {
        let callback = Columns { table: "callbacks", row: &row }.callback()?;
        let Some(place) = places.get(&callback.id.operation) else { continue };
        let lane = LaneOf::Name(place.callback_lane());
        plans.push(Plan { key, lane, agenda: callback.state.agenda() });
    }
    Ok(plans)
}

pub(super) async fn amend(
    transaction: &Transaction<'_>,
    vault: &Vault,
    policy: &lane::Policy,
    amendment: &Amendment,
) -> Result<Amended, StoreError> {
    let doing = "changing what somebody asked for";
    let (id, callback) = match amendment {
        Amendment::Operation { before, .. } => (before.id, 0),
        Amendment::Callback { before, .. } => (before.id.operation, i64::from(before.id.number)),
    };
    // In the order in which commits lock: the step, then the row.
    let sql = "SELECT 1 FROM steps WHERE operation = (SELECT number FROM operations WHERE id = $1) \
        AND callback = $2 FOR UPDATE";
    rows(transaction, doing, sql, &[&id.to_string(), &callback]).await?;
    let plans = match amendment {
        Amendment::Operation { before, after, owed, credential } => {
            let sql = "SELECT * FROM operations WHERE id = $1 FOR UPDATE";
            let found = rows(transaction, doing, sql, &[&id.to_string()]).await?;
            let Some(row) = found.first() else { return Ok(Amended::Overtaken) };
            let columns = Columns { table: "operations", row };
            let tracked = columns.tracked()?;
            if tracked.operation != *before {
                return Ok(Amended::Overtaken);
            }
            let mut plans = Vec::new();
            if let Some(credential) = credential {
                let key = Key { operation: columns.get("number")?, callback: 0 };
                let caller = &tracked.caller;
                match replace(transaction, vault, policy, (key, id, caller), credential).await? {
                    Some(plan) => plans.push(plan),
                    None => return Ok(Amended::CredentialGone),
                }
            }
            // Whoever holds the step keeps it, unless the plan is another one now.
            if before != after {
                let owed: Vec<_> = owed.iter().collect();
                plans = update(transaction, &[(after, None)], &owed).await?;
            }
            plans
        }
        Amendment::Callback { before, after, destination_back } => {
            // Nobody forgets it meanwhile, though it is at rest.
            let sql = "SELECT 1 FROM operations WHERE id = $1 FOR KEY SHARE";
            rows(transaction, doing, sql, &[&id.to_string()]).await?;
            let sql = "SELECT * FROM callbacks WHERE operation_id = $1 AND number = $2 FOR UPDATE";
            let found = rows(transaction, doing, sql, &[&id.to_string(), &callback]).await?;
            let Some(row) = found.first() else { return Ok(Amended::Overtaken) };
            let stored = Columns { table: "callbacks", row }.stored_callback()?;
            let is_purged = stored.body.is_none();
            if stored.callback != *before || is_purged && after.state.rested_at().is_none() {
                return Ok(Amended::Overtaken);
            }
            lives::update_callbacks(transaction, &[after]).await?;
            if *destination_back {
                let ids = std::iter::once(after.id);
                destinations::bring_back_since(transaction, ids, Timestamp::MAX).await?;
            }
            let places = lives::places(transaction, std::iter::once(id)).await?;
            let plan = places.get(&id).map(|place| Plan {
                key: Key { operation: place.number, callback },
                lane: LaneOf::Name(place.callback_lane()),
                agenda: after.state.agenda(),
            });
            plan.into_iter().collect()
        }
    };
    let names = plans.iter().filter_map(|it| it.lane.clone().name()).collect();
    let lanes = lanes::find_or_make(transaction, policy, names).await?;
    let is_replaced =
        matches!(amendment, Amendment::Operation { before, after, .. } if before == after);
    let mut planned = Vec::with_capacity(plans.len());
    for Plan { key, lane, agenda } in plans {
        let lane = match lane {
            LaneOf::Number(number) => Some(number),
            LaneOf::Name(name) => lanes.get(&name).copied(),
        };
        let lane = lane.ok_or_else(|| StoreError::Unavailable(Overtaken.into()))?;
        planned.push(Planned { key, lane, agenda });
    }
    if !is_replaced {
        schedule::plan(transaction, &planned).await?;
    }
    schedule::announce(transaction, policy, &BTreeMap::new(), &planned).await?;
    Ok(Amended::Saved)
}

/// Replaces what an operation proves itself with, and moves its step to the lane of that. `None`
/// where there is no such connection.
async fn replace(
    transaction: &Transaction<'_>,
    vault: &Vault,
    policy: &lane::Policy,
    (key, id, caller): (Key, OperationId, &CallerName),
    credential: &Credential,
) -> Result<Option<Plan>, StoreError> {
    let doing = "replacing a credential";
    if let Credential::Connection(it) = credential {
        let sql = "SELECT 1 FROM connections WHERE caller = $1 AND name = $2 FOR KEY SHARE";
        if rows(transaction, doing, sql, &[&caller.as_str(), &it.name]).await?.is_empty() {
            return Ok(None);
        }
    }
    let name = LaneName::graph(credential.identity());
    let lanes = lanes::find_or_make(transaction, policy, BTreeSet::from([name.clone()])).await?;
    let lane = lanes.get(&name).copied();
    let lane = lane.ok_or_else(|| StoreError::Unavailable(Overtaken.into()))?;
    let columns = CredentialColumns::seal(vault, id, credential).context("sealing a token")?;
    let sql = "UPDATE operations SET connection = $2, sealed_token = $3, token_expires_at = $4, \
        lane = $5 WHERE number = $1";
    let CredentialColumns { connection, sealed_token, token_expires_at } = columns;
    rows(
        transaction,
        doing,
        sql,
        &[&key.operation, &connection, &sealed_token, &token_expires_at, &lane],
    )
    .await?;
    // Whoever holds the step keeps it, and the slot that it has.
    let sql = "UPDATE steps SET lane = $2 WHERE operation = $1 AND callback = 0 \
        RETURNING CASE WHEN due_at IS NOT NULL THEN greatest(due_at, claimed_until) END AS due_at";
    let moved = rows(transaction, doing, sql, &[&key.operation, &lane]).await?;
    let step_at = match moved.first() {
        Some(row) => Columns { table: "steps", row }.time_or_null("due_at")?,
        None => None,
    };
    Ok(Some(Plan { key, lane: LaneOf::Number(lane), agenda: Agenda { step_at, lapse_at: None } }))
}

/// Sends callbacks again that are locked, together with their operations.
pub(super) async fn resend(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    changes: &[&ResendChange],
) -> Result<(), StoreError> {
    let became: Vec<&Callback> = changes.iter().map(|it| &it.after).collect();
    lives::update_callbacks(transaction, &became).await?;
    let places = lives::places(transaction, became.iter().map(|it| it.id.operation)).await?;
    let place =
        |it: &Callback| Some((places.get(&it.id.operation)?, it.id.number, it.state.agenda()));
    let found: Vec<_> = became.iter().filter_map(|it| place(it)).collect();
    let names = found.iter().map(|(place, ..)| place.callback_lane()).collect();
    let lanes = lanes::find_or_make(transaction, policy, names).await?;
    let mut planned = Vec::with_capacity(found.len());
    for (place, number, agenda) in found {
        // It was forgotten in between.
        let lane = lanes.get(&place.callback_lane()).copied();
        let lane = lane.ok_or_else(|| StoreError::Unavailable(Overtaken.into()))?;
        let key = Key { operation: place.number, callback: number.into() };
        planned.push(Planned { key, lane, agenda });
    }
    schedule::plan(transaction, &planned).await?;
    schedule::announce(transaction, policy, &BTreeMap::new(), &planned).await
}
