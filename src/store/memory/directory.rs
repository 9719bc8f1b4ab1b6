use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Identity, MemoryStore};
use crate::courier::{ExtraHeader, Format, Signers, SigningKey, SigningSecret};
use crate::graph::{Connection, Proof, ProofKind};
use crate::store::{
    ApiKey, CallbackSettings, CallerName, ConnectionSummary, Directory, KeyAdded, KeyDigest,
    KeyHolder, KeyUse, Page, ProofSummary, Rekeying, Resealed, Rotated, Rotation, RowName, Safe,
    SealedColumn, SealedUnder, Share, Shared, SigningKeySummary, SigningSecretSummary, StoreError,
};
use crate::vault::KeyId;

#[derive(Debug, Default)]
pub(super) struct Caller {
    keys: Vec<ApiKey>,
    secrets: Line<SigningSecret>,
    signing_keys: Line<SigningKey>,
    default_format: Format,
    /// By name.
    extra_headers: BTreeMap<String, ExtraHeader>,
    pub(super) connections: BTreeMap<String, ConnectionRow>,
    default_connection: Option<String>,
}

/// Secrets or keys that follow one another, oldest first.
#[derive(Debug)]
struct Line<T>(Vec<Signer<T>>);

#[derive(Debug)]
struct Signer<T> {
    it: T,
    id: u32,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

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

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Line<T> {
    /// Newest first.
    fn live(&self, now: Timestamp) -> impl Iterator<Item = &Signer<T>> {
        let is_live = move |it: &&Signer<T>| it.expires_at.is_none_or(|until| now < until);
        self.0.iter().rev().filter(is_live)
    }

    fn rotate(&mut self, it: &T, rotation: Rotation) -> Rotated {
        let Rotation { now, older_until, .. } = rotation;
        let live = u32::try_from(self.live(now).count()).unwrap_or(u32::MAX);
        if !rotation.has_room(live) {
            return Rotated::TooManyLive;
        }
        for older in &mut self.0 {
            let expires_at = &mut older.expires_at;
            *expires_at = Some(expires_at.map_or(older_until, |at| at.min(older_until)));
        }
        let id = self.0.iter().map(|it| it.id).max().unwrap_or_default() + 1;
        self.0.retain(|it| it.expires_at.is_none_or(|until| now < until));
        self.0.push(Signer { it: it.clone(), id, created_at: now, expires_at: None });
        Rotated::Made(id)
    }
}

impl Caller {
    pub(super) fn signers(&self, now: Timestamp) -> Signers {
        Signers {
            secrets: self.secrets.live(now).map(|it| it.it.clone()).collect(),
            keys: self.signing_keys.live(now).map(|it| it.it.clone()).collect(),
        }
    }

    pub(super) fn extra_headers(&self) -> Vec<ExtraHeader> {
        self.extra_headers.values().cloned().collect()
    }
}

/// Nothing is sealed that nobody else can read.
#[async_trait]
impl Safe for MemoryStore {
    fn keys(&self) -> Vec<KeyId> {
        Vec::new()
    }

    async fn sealed(&self) -> Result<Vec<SealedUnder>, StoreError> {
        Ok(Vec::new())
    }

    async fn ask_rekeying(&self, _: Timestamp) -> Result<Option<Rekeying>, StoreError> {
        Ok(None)
    }

    async fn rekeyings(&self, _: u32) -> Result<Vec<Rekeying>, StoreError> {
        Ok(Vec::new())
    }

    async fn reseal(
        &self,
        _: SealedColumn,
        _: KeyId,
        _: Option<RowName>,
        _: u32,
    ) -> Result<Resealed, StoreError> {
        Ok(Resealed::default())
    }

    async fn finish_rekeying(&self, _: u64, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Directory for MemoryStore {
    async fn add_caller(
        &self,
        name: &CallerName,
        key: ApiKey,
        secret: &SigningSecret,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        if rows.callers.contains_key(name) {
            return Ok(false);
        }
        let first = Signer { it: secret.clone(), id: 1, created_at: now, expires_at: None };
        let secrets = Line(vec![first]);
        rows.callers.insert(name.clone(), Caller { keys: vec![key], secrets, ..Caller::default() });
        Ok(true)
    }

    async fn callers(&self, page: Page<CallerName>) -> Result<Vec<CallerName>, StoreError> {
        let rows = self.rows();
        let behind =
            rows.callers.keys().filter(|name| page.after.as_ref().is_none_or(|it| it < name));
        Ok(behind.take(page.limit as usize).cloned().collect())
    }

    async fn key_holder(&self, digest: &KeyDigest) -> Result<Option<KeyHolder>, StoreError> {
        let rows = self.rows();
        let of_caller = |(name, caller): (&CallerName, &Caller)| {
            let key = caller.keys.iter().find(|key| key.digest == *digest)?;
            Some(key.holder(name))
        };
        Ok(rows.callers.iter().find_map(of_caller))
    }

    async fn add_key(
        &self,
        caller: &CallerName,
        key: ApiKey,
        most: u32,
    ) -> Result<KeyAdded, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(KeyAdded::NoSuchCaller) };
        if caller.keys.len() >= most as usize {
            return Ok(KeyAdded::TooMany);
        }
        caller.keys.push(key);
        Ok(KeyAdded::Added)
    }

    async fn keys(&self, caller: &CallerName) -> Result<Option<Vec<ApiKey>>, StoreError> {
        Ok(self.rows().callers.get(caller).map(|caller| caller.keys.clone()))
    }

    async fn revoke_key(&self, caller: &CallerName, id: &str) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        let before = caller.keys.len();
        caller.keys.retain(|key| key.id != id);
        Ok(caller.keys.len() < before)
    }

    async fn note_key_uses(&self, uses: Vec<KeyUse>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for KeyUse { caller, id, at } in uses {
            let caller = rows.callers.get_mut(&caller);
            let keys = caller.into_iter().flat_map(|it| &mut it.keys);
            for key in keys.filter(|key| key.id == id) {
                key.last_used_at = key.last_used_at.max(Some(at));
            }
        }
        Ok(())
    }

    async fn rotate_secret(
        &self,
        caller: &CallerName,
        secret: &SigningSecret,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(Rotated::NoSuchCaller) };
        Ok(caller.secrets.rotate(secret, rotation))
    }

    async fn secrets(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningSecretSummary>>, StoreError> {
        let rows = self.rows();
        let summary = |it: &Signer<SigningSecret>| SigningSecretSummary {
            id: it.id,
            created_at: it.created_at,
            expires_at: it.expires_at,
        };
        let summaries = |it: &Caller| it.secrets.live(now).map(summary).collect();
        Ok(rows.callers.get(caller).map(summaries))
    }

    async fn revoke_secret(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        if caller.secrets.live(now).skip(1).all(|older| older.id != id) {
            return Ok(false);
        }
        caller.secrets.0.retain(|it| it.id != id);
        Ok(true)
    }

    async fn rotate_signing_key(
        &self,
        caller: &CallerName,
        key: &SigningKey,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(Rotated::NoSuchCaller) };
        Ok(caller.signing_keys.rotate(key, rotation))
    }

    async fn signing_keys(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningKeySummary>>, StoreError> {
        let rows = self.rows();
        let summary = |it: &Signer<SigningKey>| SigningKeySummary {
            id: it.id,
            public_key: it.it.public(),
            created_at: it.created_at,
            expires_at: it.expires_at,
        };
        let summaries = |it: &Caller| it.signing_keys.live(now).map(summary).collect();
        Ok(rows.callers.get(caller).map(summaries))
    }

    async fn revoke_signing_key(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        let live: Vec<u32> = caller.signing_keys.live(now).map(|it| it.id).collect();
        if live != [id] && !live.iter().skip(1).any(|older| *older == id) {
            return Ok(false);
        }
        for key in caller.signing_keys.0.iter_mut().filter(|it| it.id == id) {
            key.expires_at = Some(now);
        }
        Ok(true)
    }

    async fn callback_settings(
        &self,
        caller: &CallerName,
    ) -> Result<Option<CallbackSettings>, StoreError> {
        let settings = |it: &Caller| CallbackSettings {
            format: it.default_format,
            extra_headers: it.extra_headers.keys().cloned().collect(),
        };
        Ok(self.rows().callers.get(caller).map(settings))
    }

    async fn default_format(&self, caller: &CallerName) -> Result<Option<Format>, StoreError> {
        Ok(self.rows().callers.get(caller).map(|it| it.default_format))
    }

    async fn set_default_format(
        &self,
        caller: &CallerName,
        format: Format,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        caller.default_format = format;
        Ok(true)
    }

    async fn set_extra_header(
        &self,
        caller: &CallerName,
        header: &ExtraHeader,
        most: u32,
    ) -> Result<Option<bool>, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(None) };
        let headers = &mut caller.extra_headers;
        let others = headers.keys().filter(|name| *name != header.name()).count();
        if others >= most as usize {
            return Ok(Some(false));
        }
        headers.insert(header.name().to_owned(), header.clone());
        Ok(Some(true))
    }

    async fn remove_extra_header(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let caller = rows.callers.get_mut(caller);
        Ok(caller.is_some_and(|it| it.extra_headers.remove(name).is_some()))
    }

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
