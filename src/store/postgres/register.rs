//! Keeping many registrations at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::connect::Database;
use super::error::{Context as _, Overtaken, both};
use super::row::Columns;
use super::schedule::{self, Key, Planned};
use super::{destinations, fresh, lanes, lives, plan_by_keys, rows};
use crate::graph::Credential;
use crate::lane::{self, LaneName};
use crate::operation::{Operation, OperationId};
use crate::store::columns::{CredentialColumns, Fields as _, seal_callback_secret};
use crate::store::{CallerName, Idempotency, Registered, Registration, StoreError};
use crate::vault::Vault;

/// More than a dozen replicas register at the same moment, of three batches each: only where less
/// room is left for a caller's live operations need they wait for each other.
const LIVE_MARGIN: u64 = 10_000;

/// A registration, and what is worked out of it before a transaction begins, once for all of its tries.
pub(super) struct Prepared {
    pub(super) registration: Registration,
    /// The lane of its polls.
    pub(super) lane: LaneName,
    pub(super) likeness: Vec<u8>,
    pub(super) credential: CredentialColumns,
    pub(super) sealed_callback_secret: Option<Vec<u8>>,
}

impl Prepared {
    pub(super) fn new(vault: &Vault, registration: Registration) -> Result<Self, StoreError> {
        let Registration { operation: Operation { id, .. }, credential, callback_secret, .. } =
            &registration;
        Ok(Self {
            lane: LaneName::graph(credential.identity()),
            likeness: registration.likeness(),
            credential: CredentialColumns::seal(vault, *id, credential)
                .context("sealing a token")?,
            sealed_callback_secret: seal_callback_secret(vault, *id, callback_secret.as_ref())
                .context("sealing a callback secret")?,
            registration,
        })
    }

    fn caller(&self) -> &CallerName {
        &self.registration.caller
    }
}

/// Makes those lanes that are missing, in a transaction of their own: others who need them too would
/// have to wait for the end of a transaction that makes them.
pub(super) async fn make_lanes(
    database: &Database,
    policy: &lane::Policy,
    registrations: &[Prepared],
) -> Result<(), StoreError> {
    let mut first_due: BTreeMap<&LaneName, Option<Timestamp>> = BTreeMap::new();
    for Prepared { lane, registration, .. } in registrations {
        let due = registration.operation.agenda().step_at;
        let first = first_due.entry(lane).or_insert(due);
        *first = [*first, due].into_iter().flatten().min();
    }
    lanes::make(database, policy, &first_due).await
}

/// Keeps registrations, and answers for each in order.
pub(super) async fn register(
    transaction: &Transaction<'_>,
    policy: &lane::Policy,
    registrations: &[Prepared],
) -> Result<Vec<Registered>, StoreError> {
    let names: BTreeSet<&LaneName> = registrations.iter().map(|it| &it.lane).collect();
    // They were made before this transaction, and those made again that somebody has forgotten since.
    let lanes = lanes::find_or_make(transaction, policy, names);
    let ((), lanes) = both(plan_by_keys(transaction), lanes).await?;
    let mut answers: Vec<Option<Registered>> = registrations.iter().map(|_| None).collect();
    let mut planned = Vec::new();
    let mut left: Vec<usize> = (0..registrations.len()).collect();
    while !left.is_empty() {
        let (round, later) = without_repetitions(registrations, left);
        let chosen: Vec<&Prepared> = round.iter().map(|it| &registrations[*it]).collect();
        let answered = register_round(transaction, &lanes, &chosen, &mut planned).await?;
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
    registrations: &[Prepared],
    indices: Vec<usize>,
) -> (Vec<usize>, Vec<usize>) {
    let (mut keys, mut likenesses) = (HashSet::new(), HashSet::new());
    indices.into_iter().partition(|index| {
        let it = &registrations[*index];
        let idempotency = it.registration.idempotency.as_ref();
        let key = idempotency.map(|idempotency| (it.caller(), &idempotency.key));
        let is_new_key = key.is_none_or(|key| keys.insert(key));
        likenesses.insert((it.caller(), &it.likeness)) && is_new_key
    })
}

async fn register_round(
    transaction: &Transaction<'_>,
    lanes: &HashMap<LaneName, i64>,
    registrations: &[&Prepared],
    planned: &mut Vec<Planned>,
) -> Result<Vec<Registered>, StoreError> {
    let mut answers: Vec<Option<Registered>> = replayed(transaction, registrations).await?;
    refuse(transaction, registrations, &mut answers).await?;

    let fresh: Vec<usize> = (0..answers.len()).filter(|it| answers[*it].is_none()).collect();
    let mut with_lanes = Vec::with_capacity(fresh.len());
    for index in &fresh {
        let it = registrations[*index];
        // It was forgotten in between.
        let number = lanes.get(&it.lane).copied();
        with_lanes.push((it, number.ok_or_else(|| StoreError::Unavailable(Overtaken.into()))?));
    }
    let kept = fresh::insert_operations(transaction, &with_lanes).await?;
    let mut added: HashMap<CallerName, i64> = HashMap::new();
    let (mut new, mut repeated) = (Vec::with_capacity(fresh.len()), Vec::new());
    for (index, (Prepared { registration, .. }, lane)) in fresh.into_iter().zip(with_lanes) {
        let Some(number) = kept.get(&registration.operation.id) else {
            repeated.push(index);
            continue;
        };
        let key = Key { operation: *number, callback: 0 };
        new.push(Planned { key, lane, agenda: registration.operation.agenda() });
        *added.entry(registration.caller.clone()).or_default() += 1;
        answers[index] = Some(Registered::New);
    }
    find_repeated(transaction, registrations, &repeated, &mut answers).await?;
    schedule::begin(transaction, &new).await?;
    planned.extend(new);
    lives::count_live(transaction, added).await?;
    let answers: Vec<Registered> = answers.into_iter().flatten().collect();
    put_keys_right(transaction, registrations, &answers).await?;
    Ok(answers)
}

/// Answers for those that were not kept because they are there already.
async fn find_repeated(
    transaction: &Transaction<'_>,
    registrations: &[&Prepared],
    repeated: &[usize],
    answers: &mut [Option<Registered>],
) -> Result<(), StoreError> {
    let chosen: Vec<&Prepared> = repeated.iter().map(|it| registrations[*it]).collect();
    let mut existing = lives::alike(transaction, &chosen).await?;
    for (index, it) in repeated.iter().zip(chosen) {
        let tracked = existing.remove(&(it.caller().clone(), it.likeness.clone()));
        // It has come to rest since: found out when the transaction is tried again.
        let tracked = tracked.ok_or_else(|| StoreError::Unavailable(Overtaken.into()))?;
        answers[*index] = Some(Registered::Existing(Box::new(tracked)));
    }
    Ok(())
}

/// Takes the idempotency keys, and answers for those that were taken before.
///
/// A key that another transaction is taking is waited for, in the order of the keys.
async fn replayed(
    transaction: &Transaction<'_>,
    registrations: &[&Prepared],
) -> Result<Vec<Option<Registered>>, StoreError> {
    let doing = "taking idempotency keys";
    let registrations = registrations.iter().map(|it| &it.registration);
    let mut with_keys: Vec<(&Registration, &Idempotency)> =
        registrations.clone().filter_map(|it| Some((it, it.idempotency.as_ref()?))).collect();
    if with_keys.is_empty() {
        return Ok(registrations.map(|_| None).collect());
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
    let answer = |it: &Registration| {
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
    Ok(registrations.map(answer).collect())
}

/// Answers for those whose credential is gone, that are too many, or whose receivers have not agreed;
/// and among those that would be refused, for what is there already. Of all others that is told by
/// the attempt to keep them, which saves looking for what hardly ever is.
async fn refuse(
    transaction: &Transaction<'_>,
    registrations: &[&Prepared],
    answers: &mut [Option<Registered>],
) -> Result<(), StoreError> {
    let open: Vec<&Prepared> = registrations
        .iter()
        .zip(answers.iter())
        .filter_map(|(it, answer)| answer.is_none().then_some(*it))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    // None of them needs another, so they share a round trip.
    let gone = destinations::gone(transaction, open.iter().map(|it| &it.registration));
    let others = both(connections(transaction, &open), gone);
    let (live, (connections, gone)) = both(live(transaction, &open), others).await?;
    let Live { mut counts, near } = live;
    let gone_since =
        |it: &Registration| gone.get(&(it.caller.clone(), it.callback_url.clone())).copied();
    let is_in_doubt = |it: &&Prepared| {
        let Prepared { registration, .. } = it;
        near.contains(it.caller()) || !registration.is_agreed || gone_since(registration).is_some()
    };
    let in_doubt: Vec<&Prepared> = open.into_iter().filter(is_in_doubt).collect();
    let mut existing = lives::alike(transaction, &in_doubt).await?;
    for (Prepared { registration, likeness, .. }, answer) in registrations.iter().zip(answers) {
        if answer.is_some() {
            continue;
        }
        let Some(live) = counts.get_mut(&registration.caller) else {
            *answer = Some(Registered::CredentialGone);
            continue;
        };
        if let Credential::Connection(it) = &registration.credential
            && !connections.contains(&(registration.caller.clone(), it.name.clone()))
        {
            *answer = Some(Registered::CredentialGone);
            continue;
        }
        let key = (registration.caller.clone(), likeness.clone());
        if let Some(tracked) = existing.remove(&key) {
            *answer = Some(Registered::Existing(Box::new(tracked)));
        } else if *live >= registration.live_limit {
            *answer = Some(Registered::LimitReached);
        } else if let Some(since) = gone_since(registration) {
            *answer = Some(Registered::DestinationGone { since });
        } else if !registration.is_agreed {
            *answer = Some(Registered::NotAgreed);
        } else {
            *live += 1;
        }
    }
    Ok(())
}

/// How many operations callers have.
struct Live {
    /// Of those callers that there are.
    counts: HashMap<CallerName, u64>,
    /// Who comes near the limit, and is locked.
    near: HashSet<CallerName>,
}

/// How many operations of these callers are live. Those who come near their limit register one after
/// the other from here on, so that no two take the same room.
async fn live(transaction: &Transaction<'_>, open: &[&Prepared]) -> Result<Live, StoreError> {
    let callers: BTreeSet<&str> = open.iter().map(|it| it.caller().as_str()).collect();
    let mut counts = lives::live(transaction, callers.into_iter().collect()).await?;
    let margin = LIVE_MARGIN.saturating_add(open.len() as u64);
    let is_near = |it: &&&Prepared| {
        let live = counts.get(it.caller());
        live.is_some_and(|live| it.registration.live_limit < live.saturating_add(margin))
    };
    let near: HashSet<CallerName> =
        open.iter().filter(is_near).map(|it| it.caller().clone()).collect();
    if !near.is_empty() {
        let names: Vec<&str> = near.iter().map(CallerName::as_str).collect();
        // Leaves alone those who only look whether the caller is there.
        let sql = "SELECT 1 FROM callers WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE";
        rows(transaction, "waiting for room", sql, &[&names]).await?;
        // A statement of its own, which sees what was registered before the lock was ours.
        counts.extend(lives::live(transaction, names).await?);
    }
    Ok(Live { counts, near })
}

/// Those connections that there are, locked so that nobody removes them meanwhile.
async fn connections(
    transaction: &Transaction<'_>,
    registrations: &[&Prepared],
) -> Result<HashSet<(CallerName, String)>, StoreError> {
    let wanted: BTreeSet<(&str, &str)> = registrations
        .iter()
        .filter_map(|it| match &it.registration.credential {
            Credential::Connection(connection) => {
                Some((it.caller().as_str(), connection.name.as_str()))
            }
            Credential::Token(_) => None,
        })
        .collect();
    let (callers, names): (Vec<&str>, Vec<&str>) = wanted.into_iter().unzip();
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
    registrations: &[&Prepared],
    answers: &[Registered],
) -> Result<(), StoreError> {
    let doing = "keeping idempotency keys";
    let (mut found, mut refused) = ((vec![], vec![], vec![]), (vec![], vec![]));
    for (Prepared { registration, .. }, answer) in registrations.iter().zip(answers) {
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
