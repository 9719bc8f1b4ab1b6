//! Rows to values and back, the same for every backend that keeps rows, with errors that name table,
//! column and row.

use std::num::NonZeroU32;

use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::handover::Value;
use super::sealed::{self, callback_secret_place, connection_place, token_place};
use super::{
    ApiKey, Attempt, CallerName, ConnectionSummary, Entry, GoneDestination, Handshake, Identity,
    KeyDigest, KeyHolder, Notice, ProofSummary, Rekeying, Resend, Rest, Scopes, Share, SignInApp,
    SignInSummary, SigningKeySummary, SigningSecretSummary, StoreError, StoredCallback, Tracked,
    Waking, Wanted, Who,
};
use crate::callback::{self, Callback, CallbackId, Reason};
use crate::courier::{Format, SigningSecret, Trace};
use crate::graph::{AccessToken, ApiVersion, Connection, Credential, Proof, ProofKind, Reference};
use crate::lane::{Lane, LaneName, Rate, Slot};
use crate::operation::{Operation, OperationId, Outcome, Refusal, RunningNotice, State, Watch};
use crate::vault::{Vault, VaultError};

/// The value of a column is not one that we write.
#[derive(Debug, thiserror::Error)]
#[error("unexpected value {0:?}")]
pub(super) struct Unexpected(String);

/// A row of a table, read by the names of its columns.
///
/// A backend says how one value is read; what values mean stands here once.
pub(super) trait Fields {
    fn number_or_null(&self, column: &'static str) -> Result<Option<i64>, StoreError>;

    fn text_or_null(&self, column: &'static str) -> Result<Option<String>, StoreError>;

    fn bytes_or_null(&self, column: &'static str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reports a value that is not one that we write.
    fn inconsistent(&self, column: &'static str, source: anyhow::Error) -> StoreError;

    fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.present(column, self.text_or_null(column)?)
    }

    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        self.present(column, self.bytes_or_null(column)?)
    }

    /// A number that fits into `T`.
    fn number<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: TryFrom<i64, Error: std::error::Error + Send + Sync + 'static>,
    {
        let number = self.present(column, self.number_or_null(column)?)?;
        T::try_from(number).map_err(|error| self.inconsistent(column, error.into()))
    }

    fn present<T>(&self, column: &'static str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| self.inconsistent(column, Unexpected("null".to_owned()).into()))
    }

    /// Reads a column of text as what its words stand for.
    fn word<T>(
        &self,
        column: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        let word = self.text(column)?;
        read(&word).ok_or_else(|| self.inconsistent(column, Unexpected(word).into()))
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.present(column, self.time_or_null(column)?)
    }

    fn time_or_null(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let time = self.number_or_null(column)?.map(Timestamp::from_millisecond).transpose();
        time.map_err(|error| self.inconsistent(column, error.into()))
    }

    /// The life in a row of `operations`.
    fn operation(&self) -> Result<Operation, StoreError> {
        let state = match self.text("state")?.as_str() {
            "watching" => State::Watching(Watch {
                next_poll_at: self.time("next_poll_at")?,
                troubles: self.number("troubles")?,
                rejections: self.number("rejections")?,
                refusals: self.number("refusals")?,
            }),
            "blocked" => State::Blocked {
                refusal: self.word("refusal", Refusal::from_word)?,
                since: self.time("blocked_since")?,
                until: self.time("blocked_until")?,
                earliest_poll_at: self.time("earliest_poll_at")?,
                reminders: self.number("reminders")?,
            },
            "settled" => State::Settled {
                outcome: self.word("outcome", Outcome::from_word)?,
                refusal: match self.text_or_null("refusal")? {
                    Some(_) => Some(self.word("refusal", Refusal::from_word)?),
                    None => None,
                },
                at: self.time("rested_at")?,
            },
            "cancelled" => State::Cancelled { at: self.time("rested_at")? },
            other => {
                return Err(self.inconsistent("state", Unexpected(other.to_owned()).into()));
            }
        };
        Ok(Operation {
            id: self.word("id", |text| text.parse().ok())?,
            registered_at: self.time("registered_at")?,
            deadline: self.time("deadline")?,
            polls: self.number("polls")?,
            callbacks: self.number("callbacks")?,
            running: self.word("running_notice", RunningNotice::from_word)?,
            state,
        })
    }

    /// A row of `operations`.
    fn tracked(&self) -> Result<Tracked, StoreError> {
        let identity = match self.text_or_null("connection")? {
            Some(name) => Identity::Connection(name),
            None => Identity::HandedIn { expires_at: self.time("token_expires_at")? },
        };
        let state = self.text_or_null("tracestate")?;
        let trace = |parent: &str| Trace::read(parent, state.as_deref());
        let trace = match self.text_or_null("traceparent")? {
            Some(_) => Some(self.word("traceparent", trace)?),
            None => None,
        };
        Ok(Tracked {
            operation: self.operation()?,
            caller: self.word("caller", |text| text.parse().ok())?,
            reference: Reference {
                version: self.word("graph_version", |text| text.parse::<ApiVersion>().ok())?,
                id: self.text("graph_id")?,
            },
            identity,
            callback_url: self.text("callback_url")?,
            client_state: self.text_or_null("client_state")?,
            has_callback_secret: self.bytes_or_null("sealed_callback_secret")?.is_some(),
            format: self.word("format", Format::from_word)?,
            trace,
            last_body: self.bytes_or_null("last_body")?.map(Bytes::from),
        })
    }

    /// The life in a row of `callbacks`.
    fn callback(&self) -> Result<Callback, StoreError> {
        let state = match self.text("state")?.as_str() {
            "pending" => callback::State::Pending {
                tries: self.number("tries")?,
                next_attempt_at: self.time("next_attempt_at")?,
                give_up_at: self.time("give_up_at")?,
            },
            "delivered" => callback::State::Delivered { at: self.time("rested_at")? },
            "undeliverable" => callback::State::Undeliverable {
                reason: self.word("reason", Reason::from_word)?,
                at: self.time("rested_at")?,
            },
            other => {
                return Err(self.inconsistent("state", Unexpected(other.to_owned()).into()));
            }
        };
        let id = CallbackId {
            operation: self.word("operation_id", |text| text.parse().ok())?,
            number: self.number("number")?,
        };
        let (owed_at, attempts) = (self.time("owed_at")?, self.number("attempts")?);
        Ok(Callback { id, owed_at, attempts, state })
    }

    /// A row of `callbacks`.
    fn stored_callback(&self) -> Result<StoredCallback, StoreError> {
        Ok(StoredCallback {
            callback: self.callback()?,
            caller: self.word("caller", |text| text.parse().ok())?,
            notice: Notice(self.text("notice")?),
            url: self.text("url")?,
            origin: self.text("origin")?,
            headers: self.text("headers")?.into(),
            body: self.bytes_or_null("body")?.map(Bytes::from),
        })
    }

    /// A row of `attempts`.
    fn attempt(&self) -> Result<Attempt, StoreError> {
        let status = self.number_or_null("status")?.map(u16::try_from).transpose();
        Ok(Attempt {
            number: self.number("number")?,
            at: self.time("at")?,
            took_ms: self.number("took_ms")?,
            status: status.map_err(|error| self.inconsistent("status", error.into()))?,
            failure: self.text_or_null("failure")?,
            detail: self.text_or_null("detail")?,
            answer: self.bytes("answer")?.into(),
        })
    }

    /// A row of `gone_destinations`.
    fn gone_destination(&self) -> Result<GoneDestination, StoreError> {
        Ok(GoneDestination { url: self.text("url")?, since: self.time("since")? })
    }

    /// A row of `resends`.
    fn resend(&self) -> Result<Resend, StoreError> {
        let caller = |column| {
            let parse = |text: &str| text.parse::<CallerName>().ok();
            self.text_or_null(column)?.map(|_| self.word(column, parse)).transpose()
        };
        let reached = match self.text_or_null("reached_operation_id")? {
            None => None,
            Some(_) => Some(CallbackId {
                operation: self.word("reached_operation_id", |text| text.parse().ok())?,
                number: self.number("reached_number")?,
            }),
        };
        let reason = self.text_or_null("reason")?.map(|_| self.word("reason", Reason::from_word));
        Ok(Resend {
            id: self.word("id", |text| text.parse().ok())?,
            asked_by: caller("asked_by")?,
            asked_at: self.time("asked_at")?,
            wanted: Wanted {
                caller: caller("caller")?,
                rest: self.word("state", Rest::from_word)?,
                reason: reason.transpose()?,
                origin: self.text_or_null("origin")?,
                since: self.time_or_null("since")?,
                until: self.time_or_null("until")?,
            },
            matched: self.number("matched")?,
            resent: self.number("resent")?,
            reached,
            held_back: self.number("held_back")?,
            done_at: self.time_or_null("done_at")?,
        })
    }

    /// A row of `wakings`.
    fn waking(&self) -> Result<Waking, StoreError> {
        Ok(Waking {
            caller: self.word("caller", |text| text.parse().ok())?,
            connection: self.text("connection")?,
            asked_at: self.time("asked_at")?,
        })
    }

    /// A row of `rekeyings`.
    fn rekeying(&self) -> Result<Rekeying, StoreError> {
        Ok(Rekeying {
            key: self.word("key_id", |text| text.parse().ok())?,
            asked_at: self.time("asked_at")?,
            done_at: self.time_or_null("done_at")?,
            rewritten: self.number("rewritten")?,
            unreadable: self.number("unreadable")?,
        })
    }

    /// A row of `api_keys`.
    fn api_key(&self) -> Result<ApiKey, StoreError> {
        let digest = <[u8; 32]>::try_from(self.bytes("digest")?.as_slice());
        let digest = digest.map_err(|error| self.inconsistent("digest", error.into()))?;
        Ok(ApiKey {
            id: self.text("id")?,
            digest: KeyDigest(digest),
            label: self.text_or_null("label")?,
            scopes: self.word("scopes", Scopes::read)?,
            created_at: self.time("created_at")?,
            expires_at: self.time_or_null("expires_at")?,
            last_used_at: self.time_or_null("last_used_at")?,
        })
    }

    /// The same, as far as whoever asks by it is concerned.
    fn key_holder(&self) -> Result<KeyHolder, StoreError> {
        Ok(KeyHolder {
            caller: self.word("caller", |text| text.parse().ok())?,
            id: self.text("id")?,
            scopes: self.word("scopes", Scopes::read)?,
            expires_at: self.time_or_null("expires_at")?,
        })
    }

    /// A row of `audit`.
    fn audit_entry(&self) -> Result<Entry, StoreError> {
        let who = match self.text("via")?.as_str() {
            "adminKey" => Who::AdminKey,
            "apiKey" => Who::ApiKey { id: self.text("key_id")? },
            "signIn" => Who::SignIn {
                tenant: self.text("tenant")?,
                subject: self.text("subject")?,
                app: self.text("app")?,
            },
            other => return Err(self.inconsistent("via", Unexpected(other.to_owned()).into())),
        };
        let or_null = |column| self.text_or_null(column);
        let caller = or_null("caller")?.map(|_| self.word("caller", |it| it.parse().ok()));
        let address = or_null("address")?.map(|_| self.word("address", |it| it.parse().ok()));
        let result = self.number_or_null("result")?.map(|_| self.number("result"));
        Ok(Entry {
            id: self.word("id", |text| text.parse().ok())?,
            at: self.time("at")?,
            who,
            caller: caller.transpose()?,
            method: self.text("method")?,
            resource: self.text("resource")?,
            names: self.text("names")?.split_ascii_whitespace().map(str::to_owned).collect(),
            address: address.transpose()?,
            result: result.transpose()?,
        })
    }

    /// A row of `signing_secrets`, without what it is.
    fn signing_secret_summary(&self) -> Result<SigningSecretSummary, StoreError> {
        Ok(SigningSecretSummary {
            id: self.number("id")?,
            created_at: self.time("created_at")?,
            expires_at: self.time_or_null("expires_at")?,
        })
    }

    /// A row of `signing_keys`, without its private half.
    fn signing_key_summary(&self) -> Result<SigningKeySummary, StoreError> {
        Ok(SigningKeySummary {
            id: self.number("id")?,
            public_key: self.word("public_key", |text| text.parse().ok())?,
            created_at: self.time("created_at")?,
            expires_at: self.time_or_null("expires_at")?,
        })
    }

    /// A row of `sign_ins`, but for its caller.
    fn sign_in(&self) -> Result<SignInSummary, StoreError> {
        let app = SignInApp { tenant: self.text("tenant")?, app: self.text("app")? };
        Ok(SignInSummary { app, created_at: self.time("created_at")? })
    }

    /// A row of [`PROVEN`] `connections`.
    fn connection(&self, vault: &Vault, caller: &CallerName) -> Result<Connection, StoreError> {
        let (name, tenant) = (self.text("name")?, self.text("tenant")?);
        let (kind, file) = (self.proof_kind()?, self.text_or_null("token_file")?);
        // What is shared is sealed for whose it is.
        let place = match (self.text_or_null("shared_by")?, self.text_or_null("shared_name")?) {
            (Some(_), Some(name)) => {
                let owner: CallerName = self.word("shared_by", |text| text.parse().ok())?;
                connection_place(&owner, &name)
            }
            _ => connection_place(caller, &name),
        };
        let open = |sealed: Vec<u8>| sealed::open(vault, &place, &sealed);
        let secret = self.bytes_or_null("sealed_proof")?.map(open).transpose();
        let unreadable = |error| self.inconsistent("sealed_proof", error);
        let secret = secret.map_err(|error| unreadable(error.into()))?;
        let signed_in_at = self.time_or_null("signed_in_at")?;
        let proof = Proof::from_parts(kind, secret, file.as_deref(), signed_in_at);
        let proof = proof.map_err(|error| unreadable(error.into()))?;
        Ok(Connection { tenant, client_id: self.text("client_id")?, proof, name })
    }

    fn proof_kind(&self) -> Result<ProofKind, StoreError> {
        self.word("kind", ProofKind::from_word)
    }

    /// A row of `connections` that is shared, or was.
    fn share(&self) -> Result<Share, StoreError> {
        Ok(Share {
            with: self.word("caller", |text| text.parse().ok())?,
            name: self.text("name")?,
            is_withdrawn: self.proof_kind()? == ProofKind::Withdrawn,
        })
    }

    /// A row of `connections`, of which the proof expires.
    fn expiring_proof(&self) -> Result<(CallerName, String, Timestamp), StoreError> {
        let caller = self.word("caller", |text| text.parse().ok())?;
        Ok((caller, self.text("name")?, self.time("proof_expires_at")?))
    }

    /// A row of `connections`, without its proof.
    fn connection_summary(&self, is_default: bool) -> Result<ConnectionSummary, StoreError> {
        Ok(ConnectionSummary {
            name: self.text("name")?,
            tenant: self.text("tenant")?,
            client_id: self.text("client_id")?,
            proof: ProofSummary {
                kind: self.proof_kind()?,
                token_file: self.text_or_null("token_file")?,
                thumbprint: self.text_or_null("thumbprint")?,
                expires_at: self.time_or_null("proof_expires_at")?,
            },
            is_default,
            created_at: self.time("created_at")?,
        })
    }

    /// Attempts a minute, or null.
    fn rate(&self) -> Result<Option<Rate>, StoreError> {
        let Some(number) = self.number_or_null("rate")? else { return Ok(None) };
        let rate = u32::try_from(number).ok().and_then(NonZeroU32::new).map(Rate::per_minute);
        let unexpected = || self.inconsistent("rate", Unexpected(number.to_string()).into());
        rate.ok_or_else(unexpected).map(Some)
    }

    /// A row of `handshakes`.
    fn handshake(&self) -> Result<Handshake, StoreError> {
        let (form, agreed_at) = (self.text("form")?, self.time("agreed_at")?);
        Ok(Handshake { form, agreed_at, rate: self.rate()? })
    }

    /// A row of `lanes`, with the rate that its receiver has agreed to.
    fn lane(&self) -> Result<StoredLane, StoreError> {
        let name = self.word("name", LaneName::parse)?;
        let lane = Lane {
            kind: name.kind,
            allowance: self.number("allowance")?,
            rate: self.rate()?,
            failures: self.number("failures")?,
            paused_until: self.time_or_null("paused_until")?,
            slots: self.word("slots", read_slots)?,
        };
        Ok(StoredLane { name, lane, served_at: self.time("served_at")? })
    }
}

/// A row of `lanes`.
pub(super) struct StoredLane {
    pub(super) name: LaneName,
    pub(super) lane: Lane,
    pub(super) served_at: Timestamp,
}

/// The columns of `operations` that follow from the state; null where they say nothing.
#[derive(Default)]
pub(super) struct StateColumns {
    pub(super) next_poll_at: Option<i64>,
    pub(super) troubles: Option<u32>,
    pub(super) rejections: Option<u32>,
    pub(super) refusals: Option<u32>,
    pub(super) refusal: Option<&'static str>,
    pub(super) blocked_since: Option<i64>,
    pub(super) blocked_until: Option<i64>,
    pub(super) earliest_poll_at: Option<i64>,
    pub(super) reminders: Option<u8>,
    pub(super) outcome: Option<&'static str>,
    pub(super) rested_at: Option<i64>,
}

impl From<&State> for StateColumns {
    fn from(state: &State) -> Self {
        let nothing = Self::default();
        match state {
            State::Watching(watch) => Self {
                next_poll_at: Some(watch.next_poll_at.as_millisecond()),
                troubles: Some(watch.troubles),
                rejections: Some(watch.rejections),
                refusals: Some(watch.refusals),
                ..nothing
            },
            State::Blocked { refusal, since, until, earliest_poll_at, reminders } => Self {
                refusal: Some(refusal.as_str()),
                blocked_since: Some(since.as_millisecond()),
                reminders: Some(*reminders),
                blocked_until: Some(until.as_millisecond()),
                earliest_poll_at: Some(earliest_poll_at.as_millisecond()),
                ..nothing
            },
            State::Settled { outcome, refusal, at } => Self {
                refusal: refusal.map(Refusal::as_str),
                outcome: Some(outcome.as_str()),
                rested_at: Some(at.as_millisecond()),
                ..nothing
            },
            State::Cancelled { at } => Self { rested_at: Some(at.as_millisecond()), ..nothing },
        }
    }
}

/// The columns of `callbacks` that follow from the state; null where they say nothing.
#[derive(Default)]
pub(super) struct CallbackStateColumns {
    pub(super) tries: Option<u32>,
    pub(super) next_attempt_at: Option<i64>,
    pub(super) give_up_at: Option<i64>,
    pub(super) reason: Option<&'static str>,
    pub(super) rested_at: Option<i64>,
}

impl From<&callback::State> for CallbackStateColumns {
    fn from(state: &callback::State) -> Self {
        let nothing = Self::default();
        match state {
            callback::State::Pending { tries, next_attempt_at, give_up_at } => Self {
                tries: Some(*tries),
                next_attempt_at: Some(next_attempt_at.as_millisecond()),
                give_up_at: Some(give_up_at.as_millisecond()),
                ..nothing
            },
            callback::State::Delivered { at } => {
                Self { rested_at: Some(at.as_millisecond()), ..nothing }
            }
            callback::State::Undeliverable { reason, at } => Self {
                reason: Some(reason.as_str()),
                rested_at: Some(at.as_millisecond()),
                ..nothing
            },
        }
    }
}

fn read_slots(text: &str) -> Option<Vec<Slot>> {
    let slot = |text: &str| {
        let (token, until) = text.split_once('@')?;
        let busy_until = Timestamp::from_millisecond(until.parse().ok()?).ok()?;
        Some(Slot { token: token.parse().ok()?, busy_until })
    };
    text.split_ascii_whitespace().map(slot).collect()
}

pub(super) fn write_slots(slots: &[Slot]) -> String {
    let slot = |slot: &Slot| format!("{}@{}", slot.token, slot.busy_until.as_millisecond());
    slots.iter().map(slot).collect::<Vec<_>>().join(" ")
}

/// The columns of `resends`, all of them, in the order in which they are written.
pub(super) const RESEND: &str = "id, asked_by, asked_at, caller, state, reason, origin, since, \
    until, matched, resent, reached_operation_id, reached_number, held_back, done_at";

/// What [`RESEND`] names.
pub(super) fn resend_values(resend: &Resend) -> Vec<Value> {
    fn text(text: Option<&str>) -> Value {
        text.map_or(Value::Null, Value::from)
    }
    let time = |at: Option<Timestamp>| at.map_or(Value::Null, Value::from);
    let count = |number: u64| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let Resend { id, asked_by, asked_at, wanted, matched, resent, reached, held_back, done_at } =
        resend;
    let operation = reached.map(|it| it.operation.to_string());
    vec![
        Value::Text(id.to_string()),
        text(asked_by.as_ref().map(CallerName::as_str)),
        Value::from(*asked_at),
        text(wanted.caller.as_ref().map(CallerName::as_str)),
        Value::from(wanted.rest.as_str()),
        text(wanted.reason.map(Reason::as_str)),
        text(wanted.origin.as_deref()),
        time(wanted.since),
        time(wanted.until),
        count(*matched),
        count(*resent),
        text(operation.as_deref()),
        reached.map_or(Value::Null, |it| Value::Number(it.number.into())),
        count(*held_back),
        time(*done_at),
    ]
}

/// The columns of `audit`, all of them, in the order in which they are written.
pub(super) const AUDIT: &str =
    "id, at, via, key_id, tenant, subject, app, caller, method, resource, names, address, result";

/// What [`AUDIT`] names.
pub(super) fn audit_values(entry: &Entry) -> Vec<Value> {
    fn text(text: Option<&str>) -> Value {
        text.map_or(Value::Null, Value::from)
    }
    let Entry { id, at, who, caller, method, resource, names, address, result } = entry;
    let (key, [tenant, subject, app]) = match who {
        Who::AdminKey => (None, [None; 3]),
        Who::ApiKey { id } => (Some(id.as_str()), [None; 3]),
        Who::SignIn { tenant, subject, app } => {
            (None, [tenant, subject, app].map(|it| Some(it.as_str())))
        }
    };
    vec![
        Value::Text(id.to_string()),
        Value::from(*at),
        Value::from(who.as_str()),
        text(key),
        text(tenant),
        text(subject),
        text(app),
        text(caller.as_ref().map(CallerName::as_str)),
        Value::from(method.as_str()),
        Value::from(resource.as_str()),
        Value::Text(names.join(" ")),
        text(address.map(|it| it.to_string()).as_deref()),
        result.map_or(Value::Null, |status| Value::Number(status.into())),
    ]
}

/// All connections with their proofs, which are another caller's where they are shared: what
/// [`Fields::connection`] reads.
pub(super) const PROVEN: &str = "(SELECT mine.caller, mine.name, mine.tenant, mine.client_id, \
    coalesce(theirs.kind, mine.kind) AS kind, \
    coalesce(theirs.sealed_proof, mine.sealed_proof) AS sealed_proof, \
    coalesce(theirs.token_file, mine.token_file) AS token_file, mine.signed_in_at, \
    mine.shared_by, mine.shared_name \
    FROM connections AS mine LEFT JOIN connections AS theirs ON mine.kind = 'shared' \
    AND theirs.caller = mine.shared_by AND theirs.name = mine.shared_name)";

/// The columns of `connections` that say how it proves itself.
pub(super) struct ProofColumns {
    pub(super) kind: &'static str,
    pub(super) sealed_proof: Option<Vec<u8>>,
    pub(super) token_file: Option<String>,
    pub(super) thumbprint: Option<String>,
    pub(super) proof_expires_at: Option<i64>,
    pub(super) signed_in_at: Option<i64>,
}

impl ProofColumns {
    /// Of the connection `name` of `caller`.
    pub(super) fn seal(
        vault: &Vault,
        caller: &CallerName,
        name: &str,
        proof: &Proof,
    ) -> Result<Self, VaultError> {
        let place = connection_place(caller, name);
        let seal = |secret: &SecretString| vault.seal(&place, secret.expose_secret().as_bytes());
        let ProofSummary { kind, token_file, thumbprint, expires_at } = ProofSummary::of(proof);
        Ok(Self {
            kind: kind.as_str(),
            sealed_proof: proof.secret().map(seal).transpose()?,
            token_file,
            thumbprint,
            proof_expires_at: millis(expires_at),
            signed_in_at: millis(proof.user_grant().map(|grant| grant.signed_in_at)),
        })
    }
}

/// The columns of `operations` that hold what it proves itself with.
pub(super) struct CredentialColumns {
    pub(super) connection: Option<String>,
    pub(super) sealed_token: Option<Vec<u8>>,
    pub(super) token_expires_at: Option<i64>,
}

impl CredentialColumns {
    pub(super) fn seal(
        vault: &Vault,
        id: OperationId,
        credential: &Credential,
    ) -> Result<Self, VaultError> {
        match credential {
            Credential::Connection(connection) => Ok(Self {
                connection: Some(connection.name.clone()),
                sealed_token: None,
                token_expires_at: None,
            }),
            Credential::Token(AccessToken { secret, expires_at }) => {
                let sealed = vault.seal(&token_place(id), secret.expose_secret().as_bytes());
                Ok(Self {
                    connection: None,
                    sealed_token: Some(sealed?),
                    token_expires_at: Some(expires_at.as_millisecond()),
                })
            }
        }
    }
}

/// The column of `operations` that holds the secret that its callbacks are signed with.
pub(super) fn seal_callback_secret(
    vault: &Vault,
    id: OperationId,
    secret: Option<&SigningSecret>,
) -> Result<Option<Vec<u8>>, VaultError> {
    let seal = |it: &SigningSecret| vault.seal(&callback_secret_place(id), it.expose().as_bytes());
    secret.map(seal).transpose()
}

/// Milliseconds, or null.
pub(super) fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_millisecond)
}
