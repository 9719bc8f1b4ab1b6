//! What goes into the store and comes out of it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Message;
use crate::callback::{self, Callback, CallbackId, Reason};
use crate::courier::{FixedHeaders, Format, PublicKey, SigningSecret, Trace};
use crate::graph::{AccessToken, ClientCertificate, Credential, Proof, ProofKind, Reference};
use crate::lane::{LaneName, Rate, Report};
use crate::operation::{Operation, OperationId, Outcome, Owed};

/// A caller's name: 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, beginning with a letter or digit.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CallerName(String);

/// The text is not a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected 1 to 64 of a-z, 0-9, `.`, `_` and `-`, beginning with a lower-case letter or a digit"
)]
pub struct InvalidName;

/// A new operation, as a caller hands it in.
#[derive(Clone, Debug)]
pub struct Registration {
    pub operation: Operation,
    pub caller: CallerName,
    pub reference: Reference,
    pub credential: Credential,
    pub callback_url: String,
    /// Scheme, host and port of the callback URL: what callbacks share a lane by.
    pub callback_origin: String,
    pub client_state: Option<String>,
    /// Signs this operation's callbacks in place of the caller's secrets.
    pub callback_secret: Option<SigningSecret>,
    pub format: Format,
    pub trace: Option<Trace>,
    pub idempotency: Option<Idempotency>,
    /// How many operations that are not at rest the caller may have, this one included.
    pub live_limit: u64,
    /// Whether its receiver has agreed to callbacks, or need not. Without that it is answered from what
    /// is there already, or [`Registered::NotAgreed`].
    pub is_agreed: bool,
}

/// An `Idempotency-Key` and what it stands for.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// As the caller sent it.
    pub key: String,
    /// Tells the same request from another under the same key.
    pub request: [u8; 32],
    /// What to answer now, and to everyone who comes with the key again.
    pub answer: Bytes,
}

/// What became of a registration.
#[derive(Clone, Debug)]
pub enum Registered {
    New,
    /// The same operation is being tracked already.
    Existing(Box<Tracked>),
    /// The idempotency key has been used for the same request. `answer` is the first one's;
    /// `None` where that one had found an existing operation.
    Replayed {
        operation: OperationId,
        answer: Option<Bytes>,
    },
    /// The idempotency key has been used for another request.
    KeyReused,
    /// The caller has too many live operations.
    LimitReached,
    /// The caller or the connection has been removed in the meantime.
    CredentialGone,
    /// The receiver wants nothing at the callback URL any more, since then.
    DestinationGone {
        since: Timestamp,
    },
    /// It would be new, and its receiver has not agreed to callbacks.
    NotAgreed,
}

/// What a receiver has agreed to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handshake {
    /// What it was asked, as [`Form`](crate::courier::Form) spells it: whoever asks for something else has
    /// no answer yet.
    pub form: String,
    pub agreed_at: Timestamp,
    /// `None` for as many attempts as we like.
    pub rate: Option<Rate>,
}

/// An operation with all that we know of it.
#[derive(Clone, Debug)]
pub struct Tracked {
    pub operation: Operation,
    pub caller: CallerName,
    pub reference: Reference,
    pub identity: Identity,
    pub callback_url: String,
    pub client_state: Option<String>,
    /// Whether its callbacks are signed by a secret of its own.
    pub has_callback_secret: bool,
    pub format: Format,
    pub trace: Option<Trace>,
    /// The operation as Graph last sent it, byte for byte.
    pub last_body: Option<Bytes>,
}

/// Whose eyes Graph is looked at with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Identity {
    Connection(String),
    HandedIn { expires_at: Timestamp },
}

/// Names a step: whose it is. Each has one next step at the most.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Step {
    Callback(CallbackId),
    Operation(OperationId),
}

/// The sole right, until `until`, to take a step.
///
/// Deliberately not `Clone`: [`Commit`] consumes it.
#[derive(Debug)]
pub struct Claim {
    pub step: Step,
    pub until: Timestamp,
    /// Fresh for every claim, so that a worker which stalls and resumes cannot pass for its
    /// successor.
    pub(super) token: u64,
    /// Whose slot it holds; `None` for a lapse.
    pub(super) lane: Option<LaneName>,
}

impl Claim {
    /// Whose slot it holds; `None` for a lapse.
    pub fn lane(&self) -> Option<&LaneName> {
        self.lane.as_ref()
    }
}

/// A claim, and what is to be done by its right.
#[derive(Debug)]
pub struct Claimed {
    pub claim: Claim,
    pub work: Work,
}

/// What a step consists of.
#[derive(Debug)]
pub enum Work {
    Poll { tracked: Box<Tracked>, credential: Credential },
    Attempt(Box<Message>),
    LapseOperation(Box<Tracked>),
    LapseCallback(Callback),
}

impl Work {
    /// The step that this is.
    pub fn step(&self) -> Step {
        match self {
            Self::Poll { tracked, .. } | Self::LapseOperation(tracked) => {
                Step::Operation(tracked.operation.id)
            }
            Self::Attempt(message) => Step::Callback(message.callback.id),
            Self::LapseCallback(callback) => Step::Callback(callback.id),
        }
    }
}

/// What came of a step.
#[derive(Debug)]
pub struct Commit {
    pub claim: Claim,
    pub change: Change,
    pub report: Report,
    pub at: Timestamp,
}

/// What a commit changes.
#[derive(Debug)]
pub enum Change {
    Operation {
        after: Operation,
        /// The body that Graph sent, if one came.
        body: Option<Bytes>,
        owed: Option<OwedCallback>,
    },
    Callback {
        after: Callback,
        attempt: Option<Attempt>,
        /// Whether its destination is gone from now on.
        destination_gone: bool,
    },
    /// The step was not taken: it is due again as its state says, for anyone.
    HandBack,
}

/// A callback from the moment it is owed.
#[derive(Clone, Debug)]
pub struct OwedCallback {
    pub callback: Callback,
    pub owed: Owed,
    /// The exact headers and bytes to be sent, now and in every later attempt.
    pub headers: FixedHeaders,
    pub body: Bytes,
}

/// Whether a commit took effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Committed {
    Saved,
    /// Someone else holds the step by now, or it is gone, and their work stands. Not an error.
    LeaseLost,
}

/// A change that somebody asked for, decided upon what stood in the store a moment ago.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made one at a time, when somebody asks")]
pub enum Amendment {
    Operation {
        before: Operation,
        after: Operation,
        owed: Option<OwedCallback>,
        /// Replaces the credential, and with it the lane.
        credential: Option<Credential>,
    },
    Callback {
        before: Callback,
        after: Callback,
        /// Whether its destination is back, if it was gone.
        destination_back: bool,
    },
}

/// Whether an amendment took effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Amended {
    Saved,
    /// It is not what it was taken for any more: read again, decide again.
    Overtaken,
    /// The connection that was named is not there.
    CredentialGone,
}

/// A callback with what it says and whom it is for.
#[derive(Clone, Debug)]
pub struct StoredCallback {
    pub callback: Callback,
    pub caller: CallerName,
    pub notice: Notice,
    pub url: String,
    /// Scheme, host and port of the URL.
    pub origin: String,
    pub headers: FixedHeaders,
    /// `None` once that was purged.
    pub body: Option<Bytes>,
}

/// What a callback is about, as the word that [`Owed::as_str`] has for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice(pub String);

/// One attempt, as it went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attempt {
    /// Counted from 1 over the callback's whole life.
    pub number: u32,
    pub at: Timestamp,
    pub took_ms: u64,
    pub status: Option<u16>,
    /// A code of [`Failure`](crate::courier::Failure), where no status came.
    pub failure: Option<String>,
    pub detail: Option<String>,
    /// The first 4 KiB of the answer.
    pub answer: Bytes,
}

/// A callback URL of a caller's at which the receiver wants nothing any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GoneDestination {
    pub url: String,
    /// When it said so first.
    pub since: Timestamp,
}

/// What came of forgetting a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forgotten {
    /// How many operations are gone.
    pub operations: u32,
    /// Whether there may be more to forget, of whatever kind.
    pub more: bool,
}

/// What came of purging a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Purged {
    /// How many callbacks have no contents any more.
    pub callbacks: u32,
    /// Whether there may be more to purge.
    pub more: bool,
}

/// A signing secret without what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SigningSecretSummary {
    pub id: u32,
    pub created_at: Timestamp,
    /// When it stops signing; `None` for the newest.
    pub expires_at: Option<Timestamp>,
}

/// A signing key without its private half.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SigningKeySummary {
    pub id: u32,
    pub public_key: PublicKey,
    pub created_at: Timestamp,
    /// When it stops signing; `None` for the newest.
    pub expires_at: Option<Timestamp>,
}

/// How a caller changes over to another secret or key.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    pub now: Timestamp,
    /// Until when older ones go on signing beside the new one.
    pub older_until: Timestamp,
    /// How many may sign, the new one included.
    pub most_live: u32,
}

/// What came of changing over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rotated {
    /// The new one has this id, which no other one of the caller's has had.
    Made(u32),
    /// More would sign than may; nothing was changed.
    TooManyLive,
    NoSuchCaller,
}

impl Rotation {
    /// Whether there is room for a new one beside so many that are live.
    pub(super) fn has_room(&self, live: u32) -> bool {
        let beside = if self.now < self.older_until { live } else { 0 };
        beside < self.most_live
    }
}

/// How a caller's callbacks are sent, without what is secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallbackSettings {
    pub format: Format,
    /// The names of the headers that go with each, in their order.
    pub extra_headers: Vec<String>,
}

/// A connection without its proof.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectionSummary {
    pub name: String,
    pub tenant: String,
    pub client_id: String,
    pub proof: ProofSummary,
    pub is_default: bool,
    pub created_at: Timestamp,
}

/// A connection of one caller's that another may use under a name of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Share {
    pub with: CallerName,
    pub name: String,
    /// Whether it was taken back, so that what is asked by it is refused.
    pub is_withdrawn: bool,
}

/// What came of a wish to share a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shared {
    Done,
    /// The other caller has a connection of that name.
    NameTaken,
    /// There is no such connection that is its caller's own.
    NoSuchConnection,
    NoSuchCaller,
}

/// What may be told of a proof.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProofSummary {
    pub kind: ProofKind,
    /// Where the token of another issuer is read.
    pub token_file: Option<String>,
    /// Of a certificate: its SHA-256, in upper-case hex.
    pub thumbprint: Option<String>,
    /// Of a certificate; when a client secret expires, Entra alone knows.
    pub expires_at: Option<Timestamp>,
}

impl ProofSummary {
    pub(super) fn of(proof: &Proof) -> Self {
        let certificate = proof.certificate();
        Self {
            kind: proof.kind(),
            token_file: proof.token_file().map(|file| file.to_string_lossy().into_owned()),
            thumbprint: certificate.map(|it| it.thumbprint().to_string()),
            expires_at: certificate.map(ClientCertificate::expires_at),
        }
    }
}

/// A part of a list: the entries behind `after`, `limit` of them at the most.
#[derive(Clone, Debug)]
pub struct Page<Key> {
    pub after: Option<Key>,
    pub limit: u32,
}

/// Which operations to list.
#[derive(Clone, Debug, Default)]
pub struct OperationFilter {
    /// A word of [`operation::State::as_str`](crate::operation::State::as_str).
    pub state: Option<&'static str>,
    /// The connection that Graph is asked by.
    pub connection: Option<String>,
}

/// A connection that was repaired: operations that were blocked for want of it are to be watched again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waking {
    pub caller: CallerName,
    pub connection: String,
    pub asked_at: Timestamp,
}

/// Which callbacks to list.
#[derive(Clone, Debug, Default)]
pub struct CallbackFilter {
    /// A word of [`callback::State::as_str`](crate::callback::State::as_str).
    pub state: Option<&'static str>,
    pub operation: Option<OperationId>,
    /// Why they are undeliverable.
    pub reason: Option<Reason>,
    /// Where they go to: scheme, host and port.
    pub origin: Option<String>,
    /// They came to rest then or later.
    pub since: Option<Timestamp>,
    /// They came to rest before.
    pub until: Option<Timestamp>,
}

impl CallbackFilter {
    /// Whether a callback is one of those.
    pub(super) fn includes(&self, stored: &StoredCallback) -> bool {
        let callback = &stored.callback;
        let reason = match callback.state {
            callback::State::Undeliverable { reason, .. } => Some(reason),
            callback::State::Pending { .. } | callback::State::Delivered { .. } => None,
        };
        let rested_at = callback.state.rested_at();
        self.state.is_none_or(|state| callback.state.as_str() == state)
            && self.operation.is_none_or(|operation| callback.id.operation == operation)
            && self.reason.is_none_or(|wanted| reason == Some(wanted))
            && self.origin.as_ref().is_none_or(|origin| *origin == stored.origin)
            && self.since.is_none_or(|since| rested_at.is_some_and(|at| since <= at))
            && self.until.is_none_or(|until| rested_at.is_some_and(|at| at < until))
    }
}

impl CallerName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CallerName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let begins_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if text.len() > 64 || !begins_well || !text.bytes().all(allowed) {
            return Err(InvalidName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(id) => id.fmt(f),
            Self::Callback(id) => id.fmt(f),
        }
    }
}

impl Identity {
    /// What is to be shown of a credential.
    pub fn of(credential: &Credential) -> Self {
        match credential {
            Credential::Connection(connection) => Self::Connection(connection.name.clone()),
            Credential::Token(AccessToken { expires_at, .. }) => {
                Self::HandedIn { expires_at: *expires_at }
            }
        }
    }
}

impl Notice {
    /// Whether it tells how the operation ended.
    pub fn is_final(&self) -> bool {
        Outcome::from_word(&self.0).is_some()
    }

    /// The word for what is owed.
    pub fn of(owed: Owed) -> Self {
        Self(owed.as_str().to_owned())
    }
}

impl Registration {
    /// Whether `other` is a registration of the same thing, as far as callers are concerned.
    pub(super) fn is_same_as(&self, other: &Tracked) -> bool {
        self.caller == other.caller
            && self.reference.id == other.reference.id
            && self.callback_url == other.callback_url
            && self.client_state == other.client_state
    }

    /// Tells the same registration again: a digest of what [`Registration::is_same_as`] compares
    /// besides the caller.
    pub(super) fn likeness(&self) -> Vec<u8> {
        let mut digest = Sha256::new();
        let parts =
            [Some(&self.reference.id), Some(&self.callback_url), self.client_state.as_ref()];
        for part in parts {
            // Length first, so that no two lists of parts read alike; one more than it, so that the
            // empty text is not the absent one.
            let length = part.map_or(0, |part| part.len() as u64 + 1);
            digest.update(length.to_be_bytes());
            digest.update(part.map(String::as_str).unwrap_or_default());
        }
        digest.finalize().iter().take(16).copied().collect()
    }
}
