//! What the store's methods do inside their transaction.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Context;
use super::row::Columns;
use super::schedule::Settled;
use super::{callback_options, connections, destinations, directory, lives, schedule};
use crate::callback::CallbackId;
use crate::courier::{ExtraHeader, Signers};
use crate::graph::Credential;
use crate::lane::{self, LaneName};
use crate::operation::after;
use crate::store::broken::BrokenSteps;
use crate::store::columns::Fields as _;
use crate::store::{
    Amended, Amendment, Attempt, CallerName, Change, Claim, Claimed, Commit, Committed,
    Idempotency, Message, Registered, Registration, Step, StoreError, StoredCallback, Work,
};
use crate::vault::Vault;

pub(super) fn register(
    database: &Connection,
    vault: &Vault,
    policy: &lane::Policy,
    registration: &Registration,
) -> Result<Registered, StoreError> {
    if let Some(idempotency) = &registration.idempotency
        && let Some(answer) = replayed(database, registration, idempotency)?
    {
        return Ok(answer);
    }
    let Some(live) = directory::live(database, &registration.caller)? else {
        return Ok(Registered::CredentialGone);
    };
    if let Credential::Connection(it) = &registration.credential
        && !connections::has_connection(database, &registration.caller, &it.name)?
    {
        return Ok(Registered::CredentialGone);
    }
    let existing = lives::alike(database, registration)?;
    if existing.is_none() && live >= registration.live_limit {
        return Ok(Registered::LimitReached);
    }
    if existing.is_none() {
        let gone = destinations::gone_since(
            database,
            registration.caller.as_str(),
            &registration.callback_url,
        )?;
        if let Some(since) = gone {
            return Ok(Registered::DestinationGone { since });
        }
    }
    if existing.is_none() && !registration.is_agreed {
        return Ok(Registered::NotAgreed);
    }
    if let Some(idempotency) = &registration.idempotency {
        let found = existing.as_ref().map(|it| it.operation.id);
        let sql = "INSERT INTO idempotency_keys (caller, key, request_digest, operation_id, \
            answer, first_used_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let row = params![
            registration.caller.as_str(),
            idempotency.key,
            idempotency.request.as_slice(),
            found.unwrap_or(registration.operation.id).to_string(),
            found.is_none().then_some(idempotency.answer.as_ref()),
            registration.operation.registered_at.as_millisecond(),
        ];
        execute(database, sql, row, "keeping an idempotency key")?;
    }
    if let Some(existing) = existing {
        return Ok(Registered::Existing(Box::new(existing)));
    }
    lives::insert_operation(database, vault, policy, registration)?;
    Ok(Registered::New)
}

/// What the key stands for already, if it was used before.
fn replayed(
    database: &Connection,
    registration: &Registration,
    idempotency: &Idempotency,
) -> Result<Option<Registered>, StoreError> {
    let doing = "looking for an idempotency key";
    let sql = "SELECT operation_id, request_digest, answer FROM idempotency_keys \
        WHERE caller = ?1 AND key = ?2";
    let mut statement = database.prepare_cached(sql).context(doing)?;
    let found = statement
        .query_row([registration.caller.as_str(), &idempotency.key], |row| {
            let columns = Columns { table: "idempotency_keys", row };
            let read = || {
                if columns.get::<[u8; 32]>("request_digest")? != idempotency.request {
                    return Ok(Registered::KeyReused);
                }
                let operation = columns.word("operation_id", |text| text.parse().ok())?;
                let answer = columns.get::<Option<Vec<u8>>>("answer")?.map(Bytes::from);
                Ok(Registered::Replayed { operation, answer })
            };
            Ok(read())
        })
        .optional();
    found.context(doing)?.transpose()
}

pub(super) fn claim(
    database: &Connection,
    vault: &Vault,
    policy: &lane::Policy,
    now: Timestamp,
    lease: Duration,
    hands: usize,
) -> Result<Vec<Claimed>, StoreError> {
    let mut claimed = Vec::new();
    let (mut known, mut broken) = (KnownCallers::default(), BrokenSteps::default());
    for handed_out in schedule::hand_out(database, policy, now, lease, hands)? {
        let schedule::HandedOut { key, token, lane } = handed_out;
        let work = match work(database, vault, &mut known, key, lane.is_none(), now) {
            Ok(Some(work)) => work,
            Ok(None) => {
                broken.pass_over(key.operation, key.callback.into(), None);
                continue;
            }
            Err(error @ StoreError::Inconsistent { .. }) => {
                broken.pass_over(key.operation, key.callback.into(), Some(&error));
                continue;
            }
            Err(error) => return Err(error),
        };
        let claim = Claim { step: work.step(), until: after(now, lease), token, lane };
        claimed.push(Claimed { claim, work });
    }
    Ok(claimed)
}

/// What signs for callers, and what goes with all of their callbacks: read once in a claim, however many
/// of their callbacks are in it.
type KnownCallers = BTreeMap<CallerName, (Signers, Vec<ExtraHeader>)>;

fn work(
    database: &Connection,
    vault: &Vault,
    known: &mut KnownCallers,
    key: schedule::Key,
    lapse: bool,
    now: Timestamp,
) -> Result<Option<Work>, StoreError> {
    if key.callback == 0 {
        let found = lives::operation_at(database, key)?;
        let Some(tracked) = found.map(Box::new) else { return Ok(None) };
        if lapse {
            return Ok(Some(Work::LapseOperation(tracked)));
        }
        let credential = lives::credential(database, vault, &tracked)?;
        return Ok(credential.map(|credential| Work::Poll { tracked, credential }));
    }
    let Some(stored) = lives::callback_at(database, key)? else { return Ok(None) };
    if lapse {
        return Ok(Some(Work::LapseCallback(stored.callback)));
    }
    let (signers, extra_headers) = match known.entry(stored.caller.clone()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert((
            callback_options::signers(database, vault, &stored.caller, now)?,
            callback_options::extra_headers(database, vault, &stored.caller)?,
        )),
    };
    let own = lives::callback_secret(database, vault, stored.callback.id.operation)?;
    let gone_since = destinations::gone_since(database, stored.caller.as_str(), &stored.url)?;
    let Some(body) = stored.body else { return Ok(None) };
    Ok(Some(Work::Attempt(Box::new(Message {
        callback: stored.callback,
        notice: stored.notice,
        url: stored.url,
        headers: stored.headers,
        body,
        extra_headers: extra_headers.clone(),
        signers: own.map_or_else(|| signers.clone(), Signers::only),
        is_gone: gone_since.is_some(),
    }))))
}

pub(super) fn commit(
    database: &Connection,
    policy: &lane::Policy,
    commits: &[Commit],
) -> Result<Vec<Committed>, StoreError> {
    let mut settled: BTreeMap<&LaneName, Vec<Settled>> = BTreeMap::new();
    let mut committed = Vec::with_capacity(commits.len());
    for Commit { claim, change, report, at } in commits {
        committed.push(if schedule::holds(database, claim.step, claim.token)? {
            self::change(database, policy, claim, change, *at)?;
            Committed::Saved
        } else {
            Committed::LeaseLost
        });
        if let Some(lane) = &claim.lane {
            let step = Settled { token: claim.token, report: *report, at: *at };
            settled.entry(lane).or_default().push(step);
        }
    }
    // After the changes, so that a lane's readiness takes in what is planned on it now; and once
    // for each lane, however many of its steps there are.
    for (lane, steps) in settled {
        schedule::settle(database, policy, lane, &steps)?;
    }
    Ok(committed)
}

fn change(
    database: &Connection,
    policy: &lane::Policy,
    claim: &Claim,
    change: &Change,
    at: Timestamp,
) -> Result<(), StoreError> {
    match (claim.step, change) {
        (_, Change::Operation { after, body, owed }) => {
            lives::update_operation(database, policy, after, body.as_ref(), owed.as_ref())?;
        }
        (_, Change::Callback { after, attempt, destination_gone }) => {
            if let Some(attempt) = attempt {
                insert_attempt(database, after.id, attempt)?;
            }
            if *destination_gone {
                destinations::mark(database, after.id, at)?;
            }
            lives::update_callback(database, policy, after)?;
        }
        (Step::Operation(id), Change::HandBack) => {
            if let Some(tracked) = lives::operation(database, id)? {
                lives::update_operation(database, policy, &tracked.operation, None, None)?;
            }
        }
        (Step::Callback(id), Change::HandBack) => {
            if let Some(stored) = lives::callback(database, id)? {
                lives::update_callback(database, policy, &stored.callback)?;
            }
        }
    }
    Ok(())
}

pub(super) fn amend(
    database: &Connection,
    vault: &Vault,
    policy: &lane::Policy,
    amendment: &Amendment,
) -> Result<Amended, StoreError> {
    match amendment {
        Amendment::Operation { before, after, owed, credential } => {
            let found = lives::operation(database, before.id)?;
            let Some(tracked) = found.filter(|it| it.operation == *before) else {
                return Ok(Amended::Overtaken);
            };
            if let Some(Credential::Connection(it)) = credential
                && !connections::has_connection(database, &tracked.caller, &it.name)?
            {
                return Ok(Amended::CredentialGone);
            }
            if let Some(credential) = credential {
                lives::replace_credential(database, vault, policy, before.id, credential)?;
            }
            // Whoever holds the step keeps it, unless the plan is another one now.
            if before != after {
                lives::update_operation(database, policy, after, None, owed.as_ref())?;
            }
        }
        Amendment::Callback { before, after, destination_back } => {
            let found = lives::callback(database, before.id)?;
            let is_same = |it: &StoredCallback| {
                it.callback == *before && (it.body.is_some() || after.state.rested_at().is_some())
            };
            let Some(stored) = found.filter(is_same) else { return Ok(Amended::Overtaken) };
            if *destination_back {
                destinations::bring_back(database, stored.caller.as_str(), &stored.url)?;
            }
            lives::update_callback(database, policy, after)?;
        }
    }
    Ok(Amended::Saved)
}

fn insert_attempt(
    database: &Connection,
    id: CallbackId,
    attempt: &Attempt,
) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO attempts (operation_id, callback_number, number, at, \
        took_ms, status, failure, detail, answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let row = params![
        id.operation.to_string(),
        id.number,
        attempt.number,
        attempt.at.as_millisecond(),
        attempt.took_ms,
        attempt.status,
        attempt.failure,
        attempt.detail,
        attempt.answer.as_ref(),
    ];
    execute(database, sql, row, "keeping an attempt").map(drop)
}

pub(super) fn attempts(
    database: &Connection,
    id: CallbackId,
    limit: u32,
) -> Result<Vec<Attempt>, StoreError> {
    let doing = "reading attempts";
    let sql = "SELECT * FROM attempts WHERE operation_id = ?1 AND callback_number = ?2 \
        ORDER BY number DESC LIMIT ?3";
    let mut statement = database.prepare_cached(sql).context(doing)?;
    let rows = statement
        .query_map(params![id.operation.to_string(), id.number, limit], |row| {
            Ok(Columns { table: "attempts", row }.attempt())
        })
        .context(doing)?;
    let mut attempts: Vec<Attempt> =
        rows.map(|row| row.context(doing)?).collect::<Result<_, _>>()?;
    attempts.reverse();
    Ok(attempts)
}

pub(super) fn execute(
    database: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    doing: &'static str,
) -> Result<usize, StoreError> {
    database.prepare_cached(sql).and_then(|mut it| it.execute(params)).context(doing)
}
