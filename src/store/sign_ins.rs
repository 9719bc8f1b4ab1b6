//! Which apps sign in as which caller.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{CallerName, StoreError};

/// An app of a tenant, which comes with tokens of Microsoft Entra.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SignInApp {
    /// The directory that issues its tokens: a GUID, lower case.
    pub tenant: String,
    /// Its client id: a GUID, lower case.
    pub app: String,
}

/// An app that signs in as a caller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignInSummary {
    pub app: SignInApp,
    pub created_at: Timestamp,
}

/// What came of letting an app sign in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bound {
    Made,
    /// It signs in as a caller already, be it this one or another.
    Taken,
    /// As many apps as may sign in as the caller.
    TooMany,
    NoSuchCaller,
}

/// Keeps which apps sign in as which caller. An app signs in as one caller at the most.
#[async_trait]
pub trait SignIns: Send + Sync {
    /// Lets an app sign in as a caller, of whose there may be `most`.
    async fn add_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
        most: u32,
        now: Timestamp,
    ) -> Result<Bound, StoreError>;

    /// The apps that sign in as a caller, by tenant and app; `None` if there is no such caller.
    async fn sign_ins(&self, caller: &CallerName)
    -> Result<Option<Vec<SignInSummary>>, StoreError>;

    /// Lets an app sign in no more, at once; `false` if it does not sign in as this caller.
    async fn remove_sign_in(
        &self,
        caller: &CallerName,
        app: &SignInApp,
    ) -> Result<bool, StoreError>;

    /// The caller that an app signs in as. May be asked for by each request.
    async fn caller_by_sign_in(&self, app: &SignInApp) -> Result<Option<CallerName>, StoreError>;
}
