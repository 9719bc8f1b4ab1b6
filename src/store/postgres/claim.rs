//! What a claim gives to whoever takes steps.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::directory::Readable;
use super::error::{both, for_another};
use super::hand_out::{HandedOut, hand_out};
use super::line::PassedOver;
use super::row::Columns;
use super::schedule::Key;
use super::{callback_options, connections, lives};
use crate::courier::{ExtraHeader, Signers};
use crate::graph::{self, AccessToken, Credential};
use crate::lane;
use crate::store::broken::BrokenSteps;
use crate::store::columns::Fields as _;
use crate::store::sealed::{self, callback_secret_place, token_place};
use crate::store::{CallerName, Claim, Claimed, Identity, Message, StoreError, Tracked, Work};
use crate::vault::Vault;

pub(super) async fn claim(
    transaction: &Transaction<'_>,
    vault: &Vault,
    policy: &lane::Policy,
    (now, lease): (Timestamp, Duration),
    hands: usize,
    passed_over: &PassedOver,
) -> Result<Vec<Claimed>, StoreError> {
    let handful = hand_out(transaction, policy, (now, lease), hands, passed_over).await?;
    // Operations and callbacks are asked for first: while the server writes, we open what it has told.
    let claimed = open(transaction, vault, &handful.steps, (now, handful.until));
    Ok(both(claimed, handful.write(transaction)).await?.0)
}

/// What there is to do for each of these steps; all but those of which that cannot be told.
async fn open(
    transaction: &Transaction<'_>,
    vault: &Vault,
    handed_out: &[HandedOut],
    (now, until): (Timestamp, Timestamp),
) -> Result<Vec<Claimed>, StoreError> {
    let materials = Materials::read(transaction, vault, handed_out, now).await?;
    let mut claimed = Vec::with_capacity(handed_out.len());
    let mut broken = BrokenSteps::default();
    for HandedOut { key, token, lane } in handed_out {
        match materials.work(vault, *key, lane.is_none()) {
            Ok(Some(work)) => {
                let claim = Claim { step: work.step(), until, token: *token, lane: lane.clone() };
                claimed.push(Claimed { claim, work });
            }
            Ok(None) => broken.pass_over(key.operation, key.callback, None),
            Err(error @ StoreError::Inconsistent { .. }) => {
                broken.pass_over(key.operation, key.callback, Some(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(claimed)
}

/// What the steps that were handed out consist of.
struct Materials {
    rows: HashMap<Key, Row>,
    connections: Readable<(CallerName, String), Arc<graph::Connection>>,
    signers: Readable<CallerName, (Signers, Vec<ExtraHeader>)>,
}

impl Materials {
    async fn read(
        transaction: &Transaction<'_>,
        vault: &Vault,
        handed_out: &[HandedOut],
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let keys = handed_out.iter().map(|it| it.key);
        let (polls, attempts): (Vec<Key>, Vec<Key>) = keys.partition(|key| key.callback == 0);
        let operations = lives::operation_rows(transaction, polls.into_iter());
        let callbacks = lives::callback_rows(transaction, attempts.into_iter());
        let (mut rows, callbacks) = both(operations, callbacks).await?;
        let mut connections = BTreeSet::new();
        for row in rows.values() {
            let columns = Columns { table: "operations", row };
            if let (Ok(caller), Ok(Some(name))) =
                (caller(&columns), columns.text_or_null("connection"))
            {
                connections.insert((caller, name));
            }
        }
        let tell = |row| caller(&Columns { table: "callbacks", row }).ok();
        let callers: BTreeSet<CallerName> = callbacks.values().filter_map(tell).collect();
        rows.extend(callbacks);
        let connections: Vec<_> = connections.into_iter().collect();
        let callers: Vec<_> = callers.into_iter().collect();
        let connections = connections::connections_of(transaction, vault, &connections);
        let signers = callback_options::signers(transaction, vault, &callers, now);
        let (connections, signers) = both(connections, signers).await?;
        Ok(Self { rows, connections, signers })
    }

    fn work(&self, vault: &Vault, key: Key, lapse: bool) -> Result<Option<Work>, StoreError> {
        let Some(row) = self.rows.get(&key) else { return Ok(None) };
        if key.callback == 0 {
            let columns = Columns { table: "operations", row };
            let tracked = Box::new(columns.tracked()?);
            if lapse {
                return Ok(Some(Work::LapseOperation(tracked)));
            }
            let credential = self.credential(vault, &columns, &tracked)?;
            return Ok(credential.map(|credential| Work::Poll { tracked, credential }));
        }
        let stored = Columns { table: "callbacks", row }.stored_callback()?;
        if lapse {
            return Ok(Some(Work::LapseCallback(stored.callback)));
        }
        let columns = Columns { table: "operations", row };
        let own = columns.bytes_or_null("sealed_callback_secret")?;
        let Some((mut signers, extra_headers)) = readable(&self.signers, &stored.caller)? else {
            return Ok(None);
        };
        if let Some(sealed) = own {
            let place = callback_secret_place(stored.callback.id.operation);
            let secret = sealed::read(vault, &place, &sealed)
                .map_err(|error| columns.inconsistent("sealed_callback_secret", error))?;
            signers = Signers::only(secret);
        }
        let Some(body) = stored.body else { return Ok(None) };
        Ok(Some(Work::Attempt(Box::new(Message {
            callback: stored.callback,
            notice: stored.notice,
            url: stored.url,
            headers: stored.headers,
            body,
            extra_headers,
            signers,
            is_gone: Columns { table: "callbacks", row }.get("is_gone")?,
        }))))
    }

    /// What an operation is to be polled with. `None` where its connection is gone.
    fn credential(
        &self,
        vault: &Vault,
        columns: &Columns<'_>,
        tracked: &Tracked,
    ) -> Result<Option<Credential>, StoreError> {
        let expires_at = match &tracked.identity {
            Identity::Connection(name) => {
                let key = (tracked.caller.clone(), name.clone());
                return Ok(readable(&self.connections, &key)?.map(Credential::Connection));
            }
            Identity::HandedIn { expires_at } => *expires_at,
        };
        let Some(sealed) = columns.bytes_or_null("sealed_token")? else { return Ok(None) };
        let secret = sealed::open(vault, &token_place(tracked.operation.id), &sealed)
            .map_err(|error| columns.inconsistent("sealed_token", error.into()))?;
        Ok(Some(Credential::Token(AccessToken { secret, expires_at })))
    }
}

/// What there is under this key, for one of the steps that need it.
fn readable<K: Eq + Hash, V: Clone>(
    found: &Readable<K, V>,
    key: &K,
) -> Result<Option<V>, StoreError> {
    found.get(key).map(|found| found.as_ref().cloned().map_err(for_another)).transpose()
}

fn caller(columns: &Columns<'_>) -> Result<CallerName, StoreError> {
    columns.word("caller", |text| text.parse().ok())
}
