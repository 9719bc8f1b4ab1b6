//! The Graph identities of callers.
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::directory::Caller;
use super::{Identity, MemoryStore};
use crate::graph::{Connection, Proof, ProofKind};
use crate::store::{
    CallerName, ConnectionSummary, Connections, ProofSummary, Share, Shared, StoreError,
};

#[derive(Debug)]
pub(super) struct ConnectionRow {
    pub(super) connection: Arc<Connection>,
    /// Whose it is, and that caller's name for it.
    shared: Option<(CallerName, String)>,
    is_withdrawn: bool,
    pub(super) created_at: Timestamp,
}

impl ConnectionRow {
    /// Of a connection that nobody else lets its caller use.
    pub(super) fn own(connection: Connection, created_at: Timestamp) -> Self {
        Self { connection: Arc::new(connection), shared: None, is_withdrawn: false, created_at }
    }
}

/// A connection as it is used: with the proof of whose it is.
pub(super) fn proven(
    callers: &BTreeMap<CallerName, Caller>,
    caller: &CallerName,
    name: &str,
) -> Option<Arc<Connection>> {
    let row = callers.get(caller)?.connections.get(name)?;
    let Some((owner, theirs)) = &row.shared else { return Some(Arc::clone(&row.connection)) };
    let theirs = callers.get(owner).and_then(|it| it.connections.get(theirs));
    let proof = match theirs.filter(|_| !row.is_withdrawn) {
        Some(theirs) => theirs.connection.proof.clone(),
        None => Proof::Withdrawn,
    };
    Some(Arc::new(Connection { proof, ..(*row.connection).clone() }))
}

impl ConnectionRow {
    /// Whether it is neither another caller's nor a user's sign-in.
    fn is_its_own(&self) -> bool {
        self.shared.is_none() && self.connection.user().is_none()
    }

    fn proof(&self) -> ProofSummary {
        let kind = match (&self.shared, self.is_withdrawn) {
            (None, _) => return ProofSummary::of(&self.connection.proof),
            (Some(_), false) => ProofKind::Shared,
            (Some(_), true) => ProofKind::Withdrawn,
        };
        ProofSummary { kind, token_file: None, thumbprint: None, expires_at: None }
    }

    fn is_of(&self, owner: &CallerName, name: &str) -> bool {
        self.shared.as_ref().is_some_and(|(by, theirs)| by == owner && theirs == name)
    }
}

#[async_trait]
impl Connections for MemoryStore {
    async fn add_connection(
        &self,
        caller: &CallerName,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(None) };
        if caller.connections.contains_key(&connection.name) {
            return Ok(Some(false));
        }
        caller.default_connection.get_or_insert_with(|| connection.name.clone());
        let row = ConnectionRow::own(connection.clone(), now);
        caller.connections.insert(connection.name.clone(), row);
        Ok(Some(true))
    }

    async fn connections(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<ConnectionSummary>>, StoreError> {
        let rows = self.rows();
        let Some(caller) = rows.callers.get(caller) else { return Ok(None) };
        let summary = |row: &ConnectionRow| ConnectionSummary {
            name: row.connection.name.clone(),
            tenant: row.connection.tenant.clone(),
            client_id: row.connection.client_id.clone(),
            proof: row.proof(),
            is_default: caller.default_connection.as_ref() == Some(&row.connection.name),
            created_at: row.created_at,
        };
        let its = caller.connections.values().filter(|row| row.connection.user().is_none());
        Ok(Some(its.map(summary).collect()))
    }

    async fn connection(
        &self,
        caller: &CallerName,
        name: Option<&str>,
    ) -> Result<Option<Arc<Connection>>, StoreError> {
        let rows = self.rows();
        let Some(known) = rows.callers.get(caller) else { return Ok(None) };
        let name = name.or(known.default_connection.as_deref());
        Ok(name.and_then(|name| proven(&rows.callers, caller, name)))
    }

    async fn replace_proof(
        &self,
        caller: &CallerName,
        name: &str,
        proof: &Proof,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let caller = rows.callers.get_mut(caller);
        let row = caller.and_then(|it| it.connections.get_mut(name));
        let Some(row) = row.filter(|row| row.is_its_own()) else {
            return Ok(false);
        };
        let connection = Connection { proof: proof.clone(), ..(*row.connection).clone() };
        row.connection = Arc::new(connection);
        Ok(true)
    }

    async fn share_connection(
        &self,
        owner: &CallerName,
        name: &str,
        share: &Share,
        now: Timestamp,
    ) -> Result<Shared, StoreError> {
        let mut rows = self.rows();
        let theirs = rows.callers.get(owner).and_then(|it| it.connections.get(name));
        let Some(theirs) = theirs.filter(|row| row.is_its_own()) else {
            return Ok(Shared::NoSuchConnection);
        };
        let connection = Connection {
            name: share.name.clone(),
            proof: Proof::Withdrawn,
            ..(*theirs.connection).clone()
        };
        let Some(with) = rows.callers.get_mut(&share.with) else {
            return Ok(Shared::NoSuchCaller);
        };
        if let Some(row) = with.connections.get_mut(&share.name) {
            if !row.is_of(owner, name) {
                return Ok(Shared::NameTaken);
            }
            row.is_withdrawn = false;
            return Ok(Shared::Done);
        }
        with.default_connection.get_or_insert_with(|| share.name.clone());
        let row = ConnectionRow {
            connection: Arc::new(connection),
            shared: Some((owner.clone(), name.to_owned())),
            is_withdrawn: false,
            created_at: now,
        };
        with.connections.insert(share.name.clone(), row);
        Ok(Shared::Done)
    }

    async fn withdraw_connection(
        &self,
        owner: &CallerName,
        name: &str,
        from: &CallerName,
    ) -> Result<u64, StoreError> {
        let mut rows = self.rows();
        let Some(from) = rows.callers.get_mut(from) else { return Ok(0) };
        let mut withdrawn = 0;
        for row in from.connections.values_mut() {
            if row.is_of(owner, name) && !row.is_withdrawn {
                row.is_withdrawn = true;
                withdrawn += 1;
            }
        }
        Ok(withdrawn)
    }

    async fn shares(&self, owner: &CallerName, name: &str) -> Result<Vec<Share>, StoreError> {
        let rows = self.rows();
        let of_caller = |(with, it): (&CallerName, &Caller)| {
            let shared = it.connections.values().filter(|row| row.is_of(owner, name));
            let share = |row: &ConnectionRow| Share {
                with: with.clone(),
                name: row.connection.name.clone(),
                is_withdrawn: row.is_withdrawn,
            };
            shared.map(share).collect::<Vec<_>>()
        };
        Ok(rows.callers.iter().flat_map(of_caller).collect())
    }

    async fn expiring_proofs(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(CallerName, String, Timestamp)>, StoreError> {
        let rows = self.rows();
        let of_caller = |(caller, it): (&CallerName, &Caller)| {
            let caller = caller.clone();
            let expiring = it.connections.values().filter_map(move |row| {
                let expires_at = row.connection.proof.certificate()?.expires_at();
                let is_near = expires_at < before;
                is_near.then(|| (caller.clone(), row.connection.name.clone(), expires_at))
            });
            expiring.collect::<Vec<_>>()
        };
        let mut expiring: Vec<_> = rows.callers.iter().flat_map(of_caller).collect();
        expiring.sort_by(|(a, x, at), (b, y, then)| (at, a, x).cmp(&(then, b, y)));
        expiring.truncate(limit as usize);
        Ok(expiring)
    }

    async fn remove_connection(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<Option<bool>, StoreError> {
        let mut rows = self.rows();
        let in_use = rows.operations.values().any(|row| {
            row.tracked.caller == *caller
                && row.tracked.identity == Identity::Connection(name.to_owned())
                && !row.tracked.operation.state.is_at_rest()
        });
        let others = rows.callers.values().flat_map(|it| it.connections.values());
        let is_shared = others.filter(|row| !row.is_withdrawn).any(|row| row.is_of(caller, name));
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(None) };
        if caller.connections.get(name).is_none_or(|row| row.connection.user().is_some()) {
            return Ok(None);
        }
        if in_use || is_shared {
            return Ok(Some(false));
        }
        caller.connections.remove(name);
        if caller.default_connection.as_deref() == Some(name) {
            let mut others = caller.connections.values().map(|row| &row.connection);
            let next = others.find(|it| it.user().is_none());
            caller.default_connection = next.map(|it| it.name.clone());
        }
        Ok(Some(true))
    }
}
