//! Remembers: operations, the callbacks they owe, lanes, and who may ask.
//!
//! [`Store`] keeps the two lives and hands out the right to take the next step in them;
//! [`Directory`] keeps callers and their keys, and what else belongs to them: [`Connections`],
//! [`CallbackOptions`] and [`SignIns`]; [`AuditLog`] keeps who has changed what; [`Safe`] knows what of all
//! that is sealed. Every backend implements all of these, and the contract suite in `tests/it/contract`
//! holds each backend to what is written here.
//!
//! # The contract
//!
//! * **Durable.** When a method that writes has returned `Ok`, what it wrote survives the end of
//!   the process and of the machine. When it has returned `Err`, nothing of it is there, or all.
//! * **One truth.** Each call is one transaction: others see all of it or nothing.
//! * **Claiming is rescheduling.** Before [`Store::claim`] returns a step, it has durably moved
//!   that step's due time to the end of the lease. So a step whose worker vanished is due again
//!   then, and not a moment before, whoever asks.
//! * **Commits are fenced.** A [`Commit`] takes effect only while the token of its claim is the
//!   step's newest. Otherwise it changes nothing but the lane, and says [`Committed::LeaseLost`].
//! * **Lanes hold everywhere.** No step is handed out that its lane has no room for, counted over
//!   all claims of all workers. Due lanes take turns: one that was served goes to the back.
//! * **Time is given.** No backend reads a clock, and times are kept in whole milliseconds.
//! * **No deciding.** A store never counts attempts, plans retries or picks outcomes. What is due
//!   is derived from the state it is given, by [`Agenda`](crate::operation::Agenda).

mod audit;
mod broken;
mod callback_options;
mod columns;
mod connections;
mod figures;
mod filters;
pub mod handover;
mod keys;
pub mod memory;
pub mod postgres;
mod records;
mod remembered;
mod resends;
mod safe;
mod sealed;
mod sign_ins;
pub mod sqlite;
mod user_grants;

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::callback::{Callback, CallbackId};
use crate::courier::{ExtraHeader, FixedHeaders, Signers, SigningSecret};
use crate::lane::LaneName;
use crate::operation::OperationId;

pub use audit::{AuditFilter, AuditLog, Ending, Entry, EntryId, Who};
pub use callback_options::CallbackOptions;
pub use connections::Connections;
pub use figures::{Census, Figures, LaneFigures};
pub use keys::{ApiKey, KeyAdded, KeyDigest, KeyHolder, KeyUse, Scope, Scopes};
pub use records::{
    Amended, Amendment, Attempt, CallbackFilter, CallbackSettings, CallerName, Change, Claim,
    Claimed, Commit, Committed, ConnectionSummary, Forgotten, GoneDestination, Handshake,
    Idempotency, Identity, InvalidName, Notice, OperationFilter, OwedCallback, Page, ProofSummary,
    Purged, Registered, Registration, Rotated, Rotation, Share, Shared, SigningKeySummary,
    SigningSecretSummary, Step, StoredCallback, Tracked, Waking, Work,
};
pub use resends::{Advance, Advanced, Asked, Batch, Resend, ResendChange, ResendId, Rest, Wanted};
pub use safe::{CannotOpen, Rekeying, Resealed, RowName, Safe, SealedUnder};
pub use sealed::{COLUMNS as SEALED_COLUMNS, SealedColumn};
pub use sign_ins::{Bound, SignInApp, SignInSummary, SignIns};
pub use user_grants::UserGrants;

/// Keeps operations and callbacks, and hands out the right to take their next steps.
#[async_trait]
pub trait Store: UserGrants + Census + Send + Sync {
    /// Keeps new operations, all or none, and answers for each in order.
    ///
    /// None is kept whose destination is gone.
    ///
    /// An operation is not kept twice: one of the same caller with the same Graph id, callback URL
    /// and client state that is not at rest yet is [`Registered::Existing`], and an idempotency
    /// key seen before is [`Registered::Replayed`] or [`Registered::KeyReused`]. One that is neither,
    /// and could be kept, is [`Registered::NotAgreed`] where its receiver has not agreed.
    async fn register(
        &self,
        registrations: Vec<Registration>,
    ) -> Result<Vec<Registered>, StoreError>;

    /// Leases up to `hands` steps that are due `now` and that their lanes admit, until
    /// `now + lease`.
    ///
    /// Operations and callbacks whose time has lapsed come too, lane or no lane, for no more than
    /// half of the hands, rounded up.
    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        hands: usize,
    ) -> Result<Vec<Claimed>, StoreError>;

    /// Spends claims on what came of their steps, all in one transaction, and answers for each in
    /// order. A callback that a change owes is due from then on; a destination of which it is learnt
    /// that it is gone is so from then on, for all callbacks of the caller to the same URL.
    ///
    /// Shared rather than given away, so that one that failed can be tried again; what had taken
    /// effect after all is then [`Committed::LeaseLost`].
    async fn commit(&self, commits: Arc<Vec<Commit>>) -> Result<Vec<Committed>, StoreError>;

    /// When [`Store::claim`] may next find something, so that nobody need ask before. It may be
    /// too early, as after a registration that was refused, until somebody has claimed then; never
    /// too late.
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Lets every Graph lane that there is admit nothing before `until`, and keeps no step that is
    /// planned from now on from its turn because its lane was served later than that.
    ///
    /// For a process that begins where another one ended: the machine's clock may have been set in
    /// between, so that what is written does not tell how long ago the last polls were.
    async fn rest_graph_lanes(&self, until: Timestamp) -> Result<(), StoreError>;

    /// Changes an operation or callback on somebody's request, provided that it is still what the
    /// one who decided took it for; with what that says of the callback's destination. A callback that
    /// was purged is not what anybody took it for who wants it to be pending.
    async fn amend(&self, amendment: Amendment) -> Result<Amended, StoreError>;

    /// The operation, whosever it is.
    async fn operation(&self, id: OperationId) -> Result<Option<Tracked>, StoreError>;

    /// A caller's operations, newest first.
    async fn operations(
        &self,
        caller: &CallerName,
        filter: OperationFilter,
        page: Page<OperationId>,
    ) -> Result<Vec<Tracked>, StoreError>;

    /// The callback, whosever it is.
    async fn callback(&self, id: CallbackId) -> Result<Option<StoredCallback>, StoreError>;

    /// A caller's callbacks, newest operation first.
    async fn callbacks(
        &self,
        caller: &CallerName,
        filter: CallbackFilter,
        page: Page<CallbackId>,
    ) -> Result<Vec<StoredCallback>, StoreError>;

    /// The latest `limit` attempts of a callback, oldest first.
    async fn attempts(&self, id: CallbackId, limit: u32) -> Result<Vec<Attempt>, StoreError>;

    /// The latest attempt of each of these callbacks, where there is one.
    async fn latest_attempts(
        &self,
        ids: Vec<CallbackId>,
    ) -> Result<HashMap<CallbackId, Attempt>, StoreError>;

    /// Keeps a new bulk resend, after it has counted what it is to send again; unless the same is
    /// under way for the same one, or `live_limit` are.
    async fn ask_resend(&self, resend: Resend, live_limit: u32) -> Result<Asked, StoreError>;

    /// The bulk resend, whoever asked for it.
    async fn resend(&self, id: ResendId) -> Result<Option<Resend>, StoreError>;

    /// The bulk resends that a caller has asked for, newest first; all that there are, unless one is
    /// named.
    async fn resends(
        &self,
        asked_by: Option<&CallerName>,
        page: Page<ResendId>,
    ) -> Result<Vec<Resend>, StoreError>;

    /// The oldest `limit` bulk resends that are not done.
    async fn resends_under_way(&self, limit: u32) -> Result<Vec<Resend>, StoreError>;

    /// What comes next in a bulk resend, `limit` callbacks looked at, and how many wait at `now` on the
    /// lanes of those that are wanted, counted no further than to `crowd`.
    async fn resend_batch(
        &self,
        resend: &Resend,
        limit: u32,
        now: Timestamp,
        crowd: u32,
    ) -> Result<Batch, StoreError>;

    /// Changes callbacks and writes down how far the bulk resend has come, both or neither. A callback
    /// that is not what it was taken for any more is left as it is, and the others are not.
    ///
    /// Their destinations are back, unless they are gone since the resend was asked for: a receiver that
    /// says so again while it is under way is not asked for each callback anew.
    async fn advance_resend(&self, advance: Arc<Advance>) -> Result<Advanced, StoreError>;

    /// Writes down that a connection was repaired, in place of an earlier time. Whoever looks for
    /// [`Store::wakings`] wakes what is blocked.
    async fn ask_waking(&self, waking: Waking) -> Result<(), StoreError>;

    /// The oldest `limit` connections that were repaired and of which that is not finished.
    async fn wakings(&self, limit: u32) -> Result<Vec<Waking>, StoreError>;

    /// Forgets it, unless it was asked for again.
    async fn finish_waking(&self, waking: &Waking) -> Result<(), StoreError>;

    /// A caller's destinations that are gone, by URL.
    async fn gone_destinations(
        &self,
        caller: &CallerName,
        page: Page<String>,
    ) -> Result<Vec<GoneDestination>, StoreError>;

    /// Lets callbacks go to a destination again; `false` if it is not gone.
    async fn bring_back(&self, caller: &CallerName, url: &str) -> Result<bool, StoreError>;

    /// Purges what up to `limit` callbacks consist of that were delivered before `before`: their bodies
    /// and attempts, and Graph's last word on their operations where those are told by them. They cannot
    /// be sent again from then on.
    async fn purge(&self, before: Timestamp, limit: u32) -> Result<Purged, StoreError>;

    /// What the receiver at the end of a callback lane has last agreed to.
    async fn handshake(&self, lane: &LaneName) -> Result<Option<Handshake>, StoreError>;

    /// Keeps what a receiver has agreed to, in place of what it agreed to before. Whatever is claimed on
    /// its lane from then on keeps to the rate, whether or not the lane is there yet, or again.
    async fn keep_handshake(&self, lane: &LaneName, handshake: Handshake)
    -> Result<(), StoreError>;

    /// Forgets up to `limit` handshakes that were agreed to before `before`, with their rates. Answers
    /// how many these were.
    async fn forget_handshakes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError>;

    /// Forgets up to `limit` of each of these: operations that came to rest, with all their
    /// callbacks, before `before`; bulk resends that were done before then; idempotency keys first used
    /// before `keys_before`; and lanes on which nothing waits and nothing counts any more at `now`.
    ///
    /// What a bulk resend has not come to yet is forgotten as well, in its time.
    ///
    /// Whoever repeats it for as long as there is more has had all of them forgotten, whatever else
    /// is kept; but for lanes that no claim has found empty yet.
    async fn forget(
        &self,
        before: Timestamp,
        keys_before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<Forgotten, StoreError>;
}

/// Keeps callers, and what belongs to them: their API keys, apps that sign in, connections, and how their
/// callbacks are signed and sent.
///
/// Methods that name a caller answer `Ok(None)` or `Ok(false)` where the caller, or the thing of
/// the caller's, is not there: that is for the one who asked to judge.
#[async_trait]
pub trait Directory: CallbackOptions + Connections + SignIns {
    /// Adds a caller with a first API key and signing secret; `false` if the name is taken.
    async fn add_caller(
        &self,
        name: &CallerName,
        key: ApiKey,
        secret: &SigningSecret,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// All callers, by name.
    async fn callers(&self, page: Page<CallerName>) -> Result<Vec<CallerName>, StoreError>;

    /// Whose key has this digest, unless it was revoked. Other replicas may go by a key for 5 s after
    /// it was.
    async fn key_holder(&self, digest: &KeyDigest) -> Result<Option<KeyHolder>, StoreError>;

    /// Adds a key, unless the caller has `most` already, which count until they are revoked.
    async fn add_key(
        &self,
        caller: &CallerName,
        key: ApiKey,
        most: u32,
    ) -> Result<KeyAdded, StoreError>;

    /// A caller's keys, oldest first, without what they consist of.
    async fn keys(&self, caller: &CallerName) -> Result<Option<Vec<ApiKey>>, StoreError>;

    /// Revokes a key at once; `false` if the caller has no such key.
    async fn revoke_key(&self, caller: &CallerName, id: &str) -> Result<bool, StoreError>;

    /// Writes down when keys were last used, each time unless a later one is there already. Of keys
    /// that have been revoked, nothing is written.
    async fn note_key_uses(&self, uses: Vec<KeyUse>) -> Result<(), StoreError>;
}

/// The version of a database's schema before it was brought up to date, 0 where it had none, and
/// after.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Migrated {
    pub had: usize,
    pub has: usize,
}

/// Why the store could not do what was asked. Never an expected outcome.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk is full: free some space, nothing was written")]
    Full(#[source] anyhow::Error),
    #[error("the database cannot be written to: check its permissions and mount options")]
    ReadOnly(#[source] anyhow::Error),
    #[error("the database is damaged: stop the bridge, keep what is left, and restore a backup")]
    Damaged(#[source] anyhow::Error),
    #[error("the database is locked by another program that writes to it")]
    Locked(#[source] anyhow::Error),
    #[error("the database did not answer")]
    Unavailable(#[source] anyhow::Error),
    #[error("too much is waiting to be written")]
    Overloaded,
    #[error("the store has been closed")]
    Closed,
    #[error("column {column} of {table} row {row} cannot be read")]
    Inconsistent {
        table: &'static str,
        column: &'static str,
        row: String,
        #[source]
        source: anyhow::Error,
    },
}

/// What a callback consists of besides its life: read by the one who sends it.
#[derive(Clone, Debug)]
pub struct Message {
    pub callback: Callback,
    pub notice: Notice,
    pub url: String,
    pub headers: FixedHeaders,
    pub body: Bytes,
    /// Of its caller's, as they stand.
    pub extra_headers: Vec<ExtraHeader>,
    /// The secret of its operation alone, where that has one; else whatever of its caller's is live.
    pub signers: Signers,
    /// Whether the receiver wants nothing at the URL any more.
    pub is_gone: bool,
}

impl StoreError {
    /// With its causes, for the log: of an error as such, a line of JSON shows the first words only.
    pub fn in_full(&self) -> impl std::fmt::Display {
        std::fmt::from_fn(move |f| {
            write!(f, "{self}")?;
            let mut causes = std::iter::successors(self.source(), |&it| it.source());
            causes.try_for_each(|cause| write!(f, ": {cause}"))
        })
    }

    /// Reports a stored value that is not one that we write.
    pub(crate) fn inconsistent(
        table: &'static str,
        column: &'static str,
        row: impl std::fmt::Display,
        source: impl Into<anyhow::Error>,
    ) -> Self {
        Self::Inconsistent { table, column, row: row.to_string(), source: source.into() }
    }
}
