//! The audit log: who has changed what, from where, and what came of it.
//!
//! An entry is on disk *before* its change is made, and says afterwards what came of that. One that says
//! nothing stands for a change that may have been made: whoever made it was stopped, or never heard the
//! end. What was refused has changed nothing, and its entry is withdrawn.
//!
//! There are names in it, of things and of who changed them, and never what something consists of.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use async_trait::async_trait;
use jiff::Timestamp;

use super::filters::Conditions;
use super::handover::Value;
use super::{CallerName, Page, StoreError};
use crate::operation::InvalidId;

/// Names an entry: `au_` and 32 hex digits, which begin with its time, so that later ones sort behind
/// earlier ones.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EntryId(pub u128);

/// Who makes a change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Who {
    /// The operator.
    AdminKey,
    /// A caller, by the API key of this id.
    ApiKey { id: String },
    /// A caller, by a token of Entra's: the directory, whom in it (`oid`), and by which app (`azp`).
    SignIn { tenant: String, subject: String, app: String },
}

/// A change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub id: EntryId,
    pub at: Timestamp,
    pub who: Who,
    /// Whose things are changed; nobody's where it is about no caller in particular.
    pub caller: Option<CallerName>,
    pub method: String,
    /// The path, with names in braces in the places of those that were given.
    pub resource: String,
    /// What the change is about, and what it has made: names and ids without white space.
    pub names: Vec<String>,
    /// Where the request came from; none where it came from no network, as of a command.
    pub address: Option<IpAddr>,
    /// The status that it was answered with.
    pub result: Option<u16>,
}

/// What came of a change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending {
    /// It was answered with this status, and has made something of this name.
    Answered { status: u16, made: Option<String> },
    /// Nothing was changed.
    Refused,
}

/// Which entries to list: those of which all that is said here is true.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuditFilter {
    pub caller: Option<CallerName>,
    /// The id of a key, the `oid` of whoever signed in, or a word of [`Who::as_str`].
    pub by: Option<String>,
    /// They were begun then or later.
    pub since: Option<Timestamp>,
    /// They were begun before.
    pub until: Option<Timestamp>,
}

/// Keeps the audit log.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Writes down that a change is about to be made.
    async fn begin_change(&self, entry: Entry) -> Result<(), StoreError>;

    /// Writes down what came of it. There is nothing to write where the entry was forgotten.
    async fn end_change(&self, id: EntryId, ending: Ending) -> Result<(), StoreError>;

    /// Entries, newest first.
    async fn changes(
        &self,
        filter: &AuditFilter,
        page: Page<EntryId>,
    ) -> Result<Vec<Entry>, StoreError>;

    /// Forgets the oldest `limit` entries of those that were begun before `before`. Answers how many
    /// these were.
    async fn forget_changes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError>;
}

impl EntryId {
    /// Before every id of an entry that was begun then, and behind all earlier ones.
    pub(super) fn first_of(at: Timestamp) -> Self {
        let millis = u128::try_from(at.as_millisecond()).unwrap_or_default();
        // The first 48 bits of a UUID of version 7 (RFC 9562 §5.7).
        Self(millis << 80)
    }
}

impl Who {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::AdminKey => "adminKey",
            Self::ApiKey { .. } => "apiKey",
            Self::SignIn { .. } => "signIn",
        }
    }
}

/// As somebody is told who was refused.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AdminKey => f.write_str("the admin key"),
            Self::ApiKey { id } => f.write_str(id),
            Self::SignIn { subject, app, .. } => write!(f, "{subject} by the app {app}"),
        }
    }
}

impl AuditFilter {
    /// Whether an entry is one of those.
    pub(super) fn includes(&self, entry: &Entry) -> bool {
        let is_by = |by: &String| {
            by == entry.who.as_str()
                || match &entry.who {
                    Who::AdminKey => false,
                    Who::ApiKey { id } => id == by,
                    Who::SignIn { subject, .. } => subject == by,
                }
        };
        self.caller.as_ref().is_none_or(|caller| entry.caller.as_ref() == Some(caller))
            && self.by.as_ref().is_none_or(is_by)
            && self.since.is_none_or(|since| EntryId::first_of(since) <= entry.id)
            && self.until.is_none_or(|until| entry.id < EntryId::first_of(until))
    }

    /// What is true of the rows of `audit` on a page of the list. Times are told by the id, which an
    /// index finds.
    pub(super) fn conditions(&self, page: &Page<EntryId>) -> Conditions {
        let mut conditions = Conditions::default();
        // There is always something behind `WHERE`.
        let before = page.after.map_or_else(|| Value::from("av"), |id| id.to_string().into());
        conditions.and("id <", before);
        if let Some(caller) = &self.caller {
            conditions.and("caller =", caller.as_str());
        }
        if let Some(by) = &self.by {
            conditions.and_among(by.as_str(), "via, key_id, subject");
        }
        if let Some(since) = self.since {
            conditions.and("id >=", EntryId::first_of(since).to_string());
        }
        if let Some(until) = self.until {
            conditions.and("id <", EntryId::first_of(until).to_string());
        }
        conditions
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "au_{:032x}", self.0)
    }
}

impl FromStr for EntryId {
    type Err = InvalidId;

    /// Accepts exactly what [`fmt::Display`] prints.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { expected: "`au_` and 32 lower-case hex digits" };
        let digits = text.strip_prefix("au_").ok_or(invalid)?;
        let id = Self(u128::from_str_radix(digits, 16).map_err(|_| invalid)?);
        if id.to_string() != text {
            return Err(invalid);
        }
        Ok(id)
    }
}
