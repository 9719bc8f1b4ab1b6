//! Operations and callbacks as rows: written and read in one place, whoever asks for it.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::error::Context;
use super::row::Columns;
use super::schedule::Key;
use super::{connections, directory, schedule};
use crate::callback::{Callback, CallbackId};
use crate::courier::{SigningSecret, Trace};
use crate::graph::{AccessToken, Credential};
use crate::lane::{self, LaneName};
use crate::operation::{Operation, OperationId};
use crate::store::columns::{
    CallbackStateColumns, CredentialColumns, Fields as _, StateColumns, seal_callback_secret,
};
use crate::store::sealed::{self, callback_secret_place, token_place};
use crate::store::{
    Identity, Notice, OwedCallback, Registration, StoreError, StoredCallback, Tracked,
};
use crate::vault::Vault;

/// The live operation that a registration repeats.
pub(super) fn alike(
    connection: &Connection,
    registration: &Registration,
) -> Result<Option<Tracked>, StoreError> {
    let likeness = registration.likeness();
    let sql = "SELECT * FROM operations WHERE caller = ?1 AND likeness = ?2 AND rested_at IS NULL";
    one_operation(connection, sql, params![registration.caller.as_str(), likeness])
}

pub(super) fn insert_operation(
    connection: &Connection,
    vault: &Vault,
    policy: &lane::Policy,
    registration: &Registration,
) -> Result<(), StoreError> {
    let operation = &registration.operation;
    let lane =
        schedule::lane(connection, policy, &LaneName::graph(registration.credential.identity()))?;
    let credential = CredentialColumns::seal(vault, operation.id, &registration.credential)
        .context("sealing a token")?;
    let callback_secret =
        seal_callback_secret(vault, operation.id, registration.callback_secret.as_ref())
            .context("sealing a callback secret")?;
    let state = StateColumns::from(&operation.state);
    let likeness = registration.likeness();
    let sql = "INSERT INTO operations (id, caller, graph_version, graph_id, connection, \
        sealed_token, token_expires_at, lane, callback_url, callback_origin, client_state, \
        sealed_callback_secret, format, traceparent, tracestate, likeness, registered_at, \
        deadline, polls, callbacks, running_notice, state, next_poll_at, troubles, rejections, \
        refusals) \
        VALUES (:id, :caller, :graph_version, :graph_id, :connection, :sealed_token, \
        :token_expires_at, :lane, :callback_url, :callback_origin, :client_state, \
        :sealed_callback_secret, :format, :traceparent, :tracestate, :likeness, :registered_at, \
        :deadline, :polls, :callbacks, :running_notice, :state, :next_poll_at, :troubles, \
        :rejections, :refusals)";
    let inserted = connection.prepare_cached(sql).and_then(|mut statement| {
        statement.execute(named_params! {
            ":id": operation.id.to_string(),
            ":caller": registration.caller.as_str(),
            ":graph_version": registration.reference.version.as_str(),
            ":graph_id": registration.reference.id,
            ":connection": credential.connection,
            ":sealed_token": credential.sealed_token,
            ":token_expires_at": credential.token_expires_at,
            ":lane": lane,
            ":callback_url": registration.callback_url,
            ":callback_origin": registration.callback_origin,
            ":client_state": registration.client_state,
            ":sealed_callback_secret": callback_secret,
            ":format": registration.format.as_str(),
            ":traceparent": registration.trace.as_ref().map(Trace::parent),
            ":tracestate": registration.trace.as_ref().and_then(Trace::state),
            ":likeness": likeness,
            ":registered_at": operation.registered_at.as_millisecond(),
            ":deadline": operation.deadline.as_millisecond(),
            ":polls": operation.polls,
            ":callbacks": operation.callbacks,
            ":running_notice": operation.running.as_str(),
            ":state": operation.state.as_str(),
            ":next_poll_at": state.next_poll_at,
            ":troubles": state.troubles,
            ":rejections": state.rejections,
            ":refusals": state.refusals,
        })
    });
    inserted.context("keeping an operation")?;
    let key = Key { operation: connection.last_insert_rowid(), callback: 0 };
    schedule::plan(connection, key, lane, operation.agenda())?;
    directory::count_live(connection, &registration.caller, 1)
}

/// Writes what became of an operation, the callback that it owes, and what is to happen next.
pub(super) fn update_operation(
    connection: &Connection,
    policy: &lane::Policy,
    after: &Operation,
    body: Option<&Bytes>,
    owed: Option<&OwedCallback>,
) -> Result<(), StoreError> {
    let id = after.id.to_string();
    let state = StateColumns::from(&after.state);
    let sql = "UPDATE operations SET polls = :polls, callbacks = :callbacks, \
        running_notice = :running_notice, state = :state, next_poll_at = :next_poll_at, \
        troubles = :troubles, rejections = :rejections, refusals = :refusals, \
        refusal = :refusal, blocked_since = :blocked_since, blocked_until = :blocked_until, \
        earliest_poll_at = :earliest_poll_at, reminders = :reminders, outcome = :outcome, \
        rested_at = :rested_at, \
        last_body = coalesce(:body, last_body), \
        sealed_token = CASE WHEN :rested_at IS NULL THEN sealed_token END \
        WHERE id = :id RETURNING number, lane, caller, callback_url, callback_origin";
    let mut statement = connection.prepare_cached(sql).context("updating an operation")?;
    let (number, lane, caller, url, origin): (i64, i64, String, String, String) = statement
        .query_row(
            named_params! {
                ":id": id,
                ":polls": after.polls,
                ":callbacks": after.callbacks,
                ":running_notice": after.running.as_str(),
                ":state": after.state.as_str(),
                ":next_poll_at": state.next_poll_at,
                ":troubles": state.troubles,
                ":rejections": state.rejections,
                ":refusals": state.refusals,
                ":refusal": state.refusal,
                ":blocked_since": state.blocked_since,
                ":blocked_until": state.blocked_until,
                ":earliest_poll_at": state.earliest_poll_at,
                ":reminders": state.reminders,
                ":outcome": state.outcome,
                ":rested_at": state.rested_at,
                ":body": body.map(Bytes::as_ref),
            },
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .context("updating an operation")?;
    let key = Key { operation: number, callback: 0 };
    schedule::plan(connection, key, lane, after.agenda())?;
    if after.state.is_at_rest() {
        let caller = caller.parse().map_err(|error: crate::store::InvalidName| {
            StoreError::inconsistent("operations", "caller", &id, error)
        })?;
        directory::count_live(connection, &caller, -1)?;
    }
    let Some(owed) = owed else { return Ok(()) };
    insert_callback(connection, owed, &caller, (&url, &origin))?;
    plan_callback(connection, policy, &owed.callback)
}

fn insert_callback(
    connection: &Connection,
    owed: &OwedCallback,
    caller: &str,
    (url, origin): (&str, &str),
) -> Result<(), StoreError> {
    let callback = &owed.callback;
    let state = CallbackStateColumns::from(&callback.state);
    let sql = "INSERT INTO callbacks (operation_id, number, caller, notice, url, origin, headers, \
        body, owed_at, attempts, state, tries, next_attempt_at, give_up_at, reason, rested_at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    let inserted = connection.prepare_cached(sql).and_then(|mut statement| {
        statement.execute(params![
            callback.id.operation.to_string(),
            callback.id.number,
            caller,
            Notice::of(owed.owed).0,
            url,
            origin,
            owed.headers.as_str(),
            owed.body.as_ref(),
            callback.owed_at.as_millisecond(),
            callback.attempts,
            callback.state.as_str(),
            state.tries,
            state.next_attempt_at,
            state.give_up_at,
            state.reason,
            state.rested_at,
        ])
    });
    inserted.map(drop).context("keeping a callback")
}

/// Plans a callback's next step on the lane of its receiver. The lane may have been forgotten
/// while the callback was at rest, so it is found by its name.
fn plan_callback(
    connection: &Connection,
    policy: &lane::Policy,
    callback: &Callback,
) -> Result<(), StoreError> {
    let (operation, caller, origin): (i64, String, String) = connection
        .prepare_cached("SELECT number, caller, callback_origin FROM operations WHERE id = ?1")
        .and_then(|mut statement| {
            let id = callback.id.operation.to_string();
            statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        })
        .context("planning a callback")?;
    let key = Key { operation, callback: callback.id.number };
    let agenda = callback.state.agenda();
    if agenda.lapse_at.is_none() {
        return schedule::unplan(connection, key);
    }
    let lane = schedule::lane(connection, policy, &LaneName::callback(caller, origin))?;
    schedule::plan(connection, key, lane, agenda)
}

pub(super) fn update_callback(
    connection: &Connection,
    policy: &lane::Policy,
    after: &Callback,
) -> Result<(), StoreError> {
    let state = CallbackStateColumns::from(&after.state);
    let sql = "UPDATE callbacks SET attempts = ?3, state = ?4, tries = ?5, next_attempt_at = ?6, \
        give_up_at = ?7, reason = ?8, rested_at = ?9 \
        WHERE operation_id = ?1 AND number = ?2";
    let updated = connection.prepare_cached(sql).and_then(|mut statement| {
        statement.execute(params![
            after.id.operation.to_string(),
            after.id.number,
            after.attempts,
            after.state.as_str(),
            state.tries,
            state.next_attempt_at,
            state.give_up_at,
            state.reason,
            state.rested_at,
        ])
    });
    updated.context("updating a callback")?;
    plan_callback(connection, policy, after)
}

/// Replaces what an operation proves itself with, and moves it to the lane of that.
pub(super) fn replace_credential(
    connection: &Connection,
    vault: &Vault,
    policy: &lane::Policy,
    id: OperationId,
    credential: &Credential,
) -> Result<(), StoreError> {
    let lane = schedule::lane(connection, policy, &LaneName::graph(credential.identity()))?;
    let columns = CredentialColumns::seal(vault, id, credential).context("sealing a token")?;
    let sql = "UPDATE operations SET connection = ?2, sealed_token = ?3, token_expires_at = ?4, \
        lane = ?5 WHERE id = ?1 RETURNING number";
    let updated = connection.prepare_cached(sql).and_then(|mut statement| {
        let row = params![
            id.to_string(),
            columns.connection,
            columns.sealed_token,
            columns.token_expires_at,
            lane,
        ];
        statement.query_row(row, |row| row.get(0))
    });
    let operation = updated.context("replacing a credential")?;
    schedule::change_lane(connection, Key { operation, callback: 0 }, lane)
}

/// What an operation is to be polled with. `None` where its connection is gone.
pub(super) fn credential(
    connection: &Connection,
    vault: &Vault,
    tracked: &Tracked,
) -> Result<Option<Credential>, StoreError> {
    let expires_at = match &tracked.identity {
        Identity::Connection(name) => {
            let found = connections::connection(connection, vault, &tracked.caller, name)?;
            return Ok(found.map(|it| Credential::Connection(Arc::new(it))));
        }
        Identity::HandedIn { expires_at } => *expires_at,
    };
    let id = tracked.operation.id;
    let sealed: Option<Vec<u8>> = connection
        .prepare_cached("SELECT sealed_token FROM operations WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id.to_string()], |row| row.get(0)))
        .context("reading a token")?;
    let Some(sealed) = sealed else { return Ok(None) };
    let secret = sealed::open(vault, &token_place(id), &sealed)
        .map_err(|error| StoreError::inconsistent("operations", "sealed_token", id, error))?;
    Ok(Some(Credential::Token(AccessToken { secret, expires_at })))
}

pub(super) fn operation(
    connection: &Connection,
    id: OperationId,
) -> Result<Option<Tracked>, StoreError> {
    one_operation(connection, "SELECT * FROM operations WHERE id = ?1", [id.to_string()])
}

/// The operation of a step.
pub(super) fn operation_at(
    connection: &Connection,
    key: Key,
) -> Result<Option<Tracked>, StoreError> {
    one_operation(connection, "SELECT * FROM operations WHERE number = ?1", [key.operation])
}

pub(super) fn callback(
    connection: &Connection,
    id: CallbackId,
) -> Result<Option<StoredCallback>, StoreError> {
    let sql = "SELECT * FROM callbacks WHERE operation_id = ?1 AND number = ?2";
    one_callback(connection, sql, params![id.operation.to_string(), id.number])
}

/// The secret that the callbacks of an operation are signed with in place of their caller's.
pub(super) fn callback_secret(
    connection: &Connection,
    vault: &Vault,
    id: OperationId,
) -> Result<Option<SigningSecret>, StoreError> {
    let sealed: Option<Vec<u8>> = connection
        .prepare_cached("SELECT sealed_callback_secret FROM operations WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id.to_string()], |row| row.get(0)))
        .context("reading a callback secret")?;
    let read = |sealed: Vec<u8>| sealed::read(vault, &callback_secret_place(id), &sealed);
    sealed.map(read).transpose().map_err(|error| {
        StoreError::inconsistent("operations", "sealed_callback_secret", id, error)
    })
}

/// The callback of a step.
pub(super) fn callback_at(
    connection: &Connection,
    key: Key,
) -> Result<Option<StoredCallback>, StoreError> {
    let sql = "SELECT * FROM callbacks \
        WHERE operation_id = (SELECT id FROM operations WHERE number = ?1) AND number = ?2";
    one_callback(connection, sql, params![key.operation, key.callback])
}

fn one_callback(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Option<StoredCallback>, StoreError> {
    let mut statement = connection.prepare_cached(sql).context("reading a callback")?;
    let found = statement.query_row(params, |row| Ok(stored_callback(row))).optional();
    found.context("reading a callback")?.transpose()
}

fn one_operation(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Option<Tracked>, StoreError> {
    let mut statement = connection.prepare_cached(sql).context("reading an operation")?;
    let found = statement.query_row(params, |row| Ok(tracked(row))).optional();
    found.context("reading an operation")?.transpose()
}

/// A row of `operations`.
pub(super) fn tracked(row: &rusqlite::Row<'_>) -> Result<Tracked, StoreError> {
    Columns { table: "operations", row }.tracked()
}

/// A row of `callbacks`.
pub(super) fn stored_callback(row: &rusqlite::Row<'_>) -> Result<StoredCallback, StoreError> {
    Columns { table: "callbacks", row }.stored_callback()
}
