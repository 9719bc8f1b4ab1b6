//! Keeping many registrations at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use deadpool_postgres::Transaction;

use super::error::Overtaken;
use super::row::Columns;
use super::schedule::{self, Key, Planned};
use super::{destinations, lives, rows};
use crate::graph::Credential;
use crate::lane::{self, LaneName};
use crate::operation::OperationId;
use crate::store::columns::Fields as _;
use crate::store::{CallerName, Idempotency, Registered, Registration, StoreError, Tracked};
use crate::vault::Vault;

/// More than a dozen replicas register at the same moment, of three batches each: only where less
/// room is left for a caller's live operations need they wait for each other.
const LIVE_MARGIN: u64 = 10_000;

/// Keeps registrations, and answers for each in order.
pub(super) async fn register(
    transaction: &Transaction<'_>,
    vault: &Vault,
    policy: &lane::Policy,
    registrations: &[Registration],
) -> Result<Vec<Registered>, StoreError> {
    let mut answers: Vec<Option<Registered>> = registrations.iter().map(|_| None).collect();
    let mut planned = Vec::new();
    let mut left: Vec<usize> = (0..registrations.len()).collect();
    while !left.is_empty() {
        let (round, later) = without_repetitions(registrations, left);
        let chosen: Vec<&Registration> = round.iter().map(|it| &registrations[*it]).collect();
        let answered = register_round(transaction, vault, policy, &chosen, &mut planned).await?;
        for (index, answer) in round.into_iter().zip(answered) {
            answers[index] = Some(answer);
        }
        left = later;
    }
    // Lanes come last, so that others wait for them as shortly as can be.
    schedule::announce(transaction, policy, &BTreeMap::new(), &planned).await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Those that a statement can take together, and those that may repeat one of them.
fn without_repetitions(
    registrations: &[Registration],
    indices: Vec<usize>,
) -> (Vec<usize>, Vec<usize>) {
    let (mut keys, mut likenesses) = (HashSet::new(), HashSet::new());
    indices.into_iter().partition(|index| {
        let it = &registrations[*index];
        let key = it.idempotency.as_ref().map(|idempotency| (&it.caller, &idempotency.key));
        let is_new_key = key.is_none_or(|key| keys.insert(key));
        likenesses.insert((&it.caller, it.likeness())) && is_new_key
    })
}

async fn register_round(
    transaction: &Transaction<'_>,
    vault: &Vault,
    policy: &lane::Policy,
    registrations: &[&Registration],
    planned: &mut Vec<Planned>,
) -> Result<Vec<Registered>, StoreError> {
    let mut answers: Vec<Option<Registered>> = replayed(transaction, registrations).await?;
    refuse_and_find(transaction, registrations, &mut answers).await?;

    let fresh: Vec<usize> = (0..answers.len()).filter(|it| answers[*it].is_none()).collect();
    let lane = |it: &Registration| LaneName::graph(it.credential.identity());
    let names = fresh.iter().map(|it| lane(registrations[*it])).collect::<BTreeSet<_>>();
    let lanes = schedule::lanes(transaction, policy, names).await?;
    let mut with_lanes = Vec::with_capacity(fresh.len());
    for index in &fresh {
        let registration = registrations[*index];
        // It was forgotten in between.
        let number = lanes.get(&lane(registration)).copied();
        let number = number.ok_or_else(|| StoreError::Unavailable(Overtaken.into()))?;
        with_lanes.push((registration, number));
    }
    let kept = lives::insert_operations(transaction, vault, &with_lanes).await?;
    let mut added: HashMap<CallerName, i64> = HashMap::new();
    let mut new = Vec::new();
    for (index, (registration, lane)) in fresh.iter().zip(&with_lanes) {
        // Somebody was quicker by a moment: found when the transaction is tried again.
        let Some(number) = kept.get(&registration.operation.id) else {
            return Err(StoreError::Unavailable(Overtaken.into()));
        };
        let key = Key { operation: *number, callback: 0 };
        new.push(Planned { key, lane: *lane, agenda: registration.operation.agenda() });
        *added.entry(registration.caller.clone()).or_default() += 1;
        answers[*index] = Some(Registered::New);
    }
    schedule::plan(transaction, &new).await?;
    planned.extend(new);
    lives::count_live(transaction, added).await?;
    let answers: Vec<Registered> = answers.into_iter().flatten().collect();
    put_keys_right(transaction, registrations, &answers).await?;
    Ok(answers)
}

/// Takes the idempotency keys, and answers for those that were taken before.
///
/// A key that another transaction is taking is waited for, in the order of the keys.
async fn replayed(
    transaction: &Transaction<'_>,
    registrations: &[&Registration],
) -> Result<Vec<Option<Registered>>, StoreError> {
    let doing = "taking idempotency keys";
    let mut with_keys: Vec<(&Registration, &Idempotency)> =
        registrations.iter().filter_map(|it| Some((*it, it.idempotency.as_ref()?))).collect();
    if with_keys.is_empty() {
        return Ok(registrations.iter().map(|_| None).collect());
    }
    with_keys.sort_unstable_by_key(|(it, idempotency)| (&it.caller, &idempotency.key));
    let callers: Vec<&str> = with_keys.iter().map(|(it, _)| it.caller.as_str()).collect();
    let keys: Vec<&str> = with_keys.iter().map(|(_, it)| it.key.as_str()).collect();
    let requests: Vec<&[u8]> = with_keys.iter().map(|(_, it)| it.request.as_slice()).collect();
    let operations: Vec<String> =
        with_keys.iter().map(|(it, _)| it.operation.id.to_string()).collect();
    let answers: Vec<&[u8]> = with_keys.iter().map(|(_, it)| it.answer.as_ref()).collect();
    let times: Vec<i64> =
        with_keys.iter().map(|(it, _)| it.operation.registered_at.as_millisecond()).collect();
    let sql = "INSERT INTO idempotency_keys (caller, key, request_digest, operation_id, answer, \
        first_used_at) SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], \
        $5::bytea[], $6::bigint[]) ON CONFLICT (caller, key) DO NOTHING";
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&callers, &keys, &requests, &operations, &answers, &times];
    rows(transaction, doing, sql, &params).await?;

    let sql = "SELECT idempotency_keys.* FROM unnest($1::text[], $2::text[]) \
        AS wanted (caller, key) JOIN idempotency_keys USING (caller, key)";
    let mut found = HashMap::new();
    for row in rows(transaction, doing, sql, &[&callers, &keys]).await? {
        let columns = Columns { table: "idempotency_keys", row: &row };
        let operation: OperationId = columns.word("operation_id", |text| text.parse().ok())?;
        let answer = columns.bytes_or_null("answer")?;
        let key = (columns.text("caller")?, columns.text("key")?);
        found.insert(key, (columns.bytes("request_digest")?, operation, answer));
    }
    let answer = |it: &&Registration| {
        let idempotency = it.idempotency.as_ref()?;
        let key = (it.caller.as_str().to_owned(), idempotency.key.clone());
        let (request, operation, answer) = found.remove(&key)?;
        if operation == it.operation.id {
            return None;
        }
        Some(if request == idempotency.request {
            Registered::Replayed { operation, answer: answer.map(Into::into) }
        } else {
            Registered::KeyReused
        })
    };
    Ok(registrations.iter().map(answer).collect())
}

/// Answers for those whose credential is gone, that are there already, that are too many, or whose
/// receivers have not agreed.
async fn refuse_and_find(
    transaction: &Transaction<'_>,
    registrations: &[&Registration],
    answers: &mut [Option<Registered>],
) -> Result<(), StoreError> {
    let open: Vec<&Registration> = registrations
        .iter()
        .zip(answers.iter())
        .filter_map(|(it, answer)| answer.is_none().then_some(*it))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let mut live = live(transaction, &open).await?;
    let connections = connections(transaction, &open).await?;
    let gone = destinations::gone(transaction, &open).await?;
    let mut existing: HashMap<(CallerName, Vec<u8>), Tracked> = lives::alike(transaction, &open)
        .await?
        .into_iter()
        .map(|(likeness, tracked)| ((tracked.caller.clone(), likeness), tracked))
        .collect();
    for (registration, answer) in registrations.iter().zip(answers) {
        if answer.is_some() {
            continue;
        }
        let Some(live) = live.get_mut(&registration.caller) else {
            *answer = Some(Registered::CredentialGone);
            continue;
        };
        if let Credential::Connection(it) = &registration.credential
            && !connections.contains(&(registration.caller.clone(), it.name.clone()))
        {
            *answer = Some(Registered::CredentialGone);
            continue;
        }
        let key = (registration.caller.clone(), registration.likeness());
        if let Some(tracked) = existing.remove(&key) {
            *answer = Some(Registered::Existing(Box::new(tracked)));
        } else if *live >= registration.live_limit {
            *answer = Some(Registered::LimitReached);
        } else if let Some(since) =
            gone.get(&(registration.caller.clone(), registration.callback_url.clone()))
        {
            *answer = Some(Registered::DestinationGone { since: *since });
        } else if !registration.is_agreed {
            *answer = Some(Registered::NotAgreed);
        } else {
            *live += 1;
        }
    }
    Ok(())
}

/// How many operations of these callers are live. Those who come near their limit register one after
/// the other from here on, so that no two take the same room.
async fn live(
    transaction: &Transaction<'_>,
    open: &[&Registration],
) -> Result<HashMap<CallerName, u64>, StoreError> {
    let callers = open.iter().map(|it| it.caller.as_str()).collect();
    let mut live = lives::live(transaction, callers).await?;
    let is_near = |it: &&&Registration| {
        live.get(&it.caller).is_some_and(|live| it.live_limit < live.saturating_add(LIVE_MARGIN))
    };
    let near: BTreeSet<&str> = open.iter().filter(is_near).map(|it| it.caller.as_str()).collect();
    if !near.is_empty() {
        let near: Vec<&str> = near.into_iter().collect();
        // Leaves alone those who only look whether the caller is there.
        let sql = "SELECT 1 FROM callers WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE";
        rows(transaction, "waiting for room", sql, &[&near]).await?;
        // A statement of its own, which sees what was registered before the lock was ours.
        live.extend(lives::live(transaction, near).await?);
    }
    Ok(live)
}

/// Those connections that there are, locked so that nobody removes them meanwhile.
async fn connections(
    transaction: &Transaction<'_>,
    registrations: &[&Registration],
) -> Result<HashSet<(CallerName, String)>, StoreError> {
    let (callers, names): (Vec<&str>, Vec<&str>) = registrations
        .iter()
        .filter_map(|it| match &it.credential {
            Credential::Connection(connection) => {
                Some((it.caller.as_str(), connection.name.as_str()))
            }
            Credential::Token(_) => None,
        })
        .unzip();
    if callers.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT caller, name FROM connections \
        WHERE (caller, name) IN (SELECT * FROM unnest($1::text[], $2::text[])) \
        ORDER BY caller, name FOR KEY SHARE";
    let found = rows(transaction, "looking for connections", sql, &[&callers, &names]).await?;
    let read = |row| {
        let columns = Columns { table: "connections", row };
        Ok((columns.word("caller", |text| text.parse().ok())?, columns.text("name")?))
    };
    found.iter().map(read).collect()
}

/// Lets keys stand for what came of their requests: those that found an operation for that one, and
/// those that were refused for nothing.
async fn put_keys_right(
    transaction: &Transaction<'_>,
    registrations: &[&Registration],
    answers: &[Registered],
) -> Result<(), StoreError> {
    let doing = "keeping idempotency keys";
    let (mut found, mut refused) = ((vec![], vec![], vec![]), (vec![], vec![]));
    for (registration, answer) in registrations.iter().zip(answers) {
        let Some(Idempotency { key, .. }) = &registration.idempotency else { continue };
        let caller = registration.caller.as_str();
        match answer {
            Registered::Existing(tracked) => {
                found.0.push(caller);
                found.1.push(key.as_str());
                found.2.push(tracked.operation.id.to_string());
            }
            Registered::LimitReached
            | Registered::CredentialGone
            | Registered::DestinationGone { .. }
            | Registered::NotAgreed => {
                refused.0.push(caller);
                refused.1.push(key.as_str());
            }
            Registered::New | Registered::Replayed { .. } | Registered::KeyReused => {}
        }
    }
    if !found.0.is_empty() {
        let sql = "UPDATE idempotency_keys SET operation_id = found.operation_id, answer = NULL \
            FROM unnest($1::text[], $2::text[], $3::text[]) AS found (caller, key, operation_id) \
            WHERE idempotency_keys.caller = found.caller AND idempotency_keys.key = found.key";
        rows(transaction, doing, sql, &[&found.0, &found.1, &found.2]).await?;
    }
    if !refused.0.is_empty() {
        let sql = "DELETE FROM idempotency_keys USING unnest($1::text[], $2::text[]) \
            AS refused (caller, key) WHERE idempotency_keys.caller = refused.caller \
            AND idempotency_keys.key = refused.key";
        rows(transaction, doing, sql, &[&refused.0, &refused.1]).await?;
    }
    Ok(())
}
