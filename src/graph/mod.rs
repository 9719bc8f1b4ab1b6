//! Asks Microsoft Graph how an operation is doing.
//!
//! A caller hands us a URL and a token. The URL is read, never fetched: [`Reference`] keeps its
//! version and id, and the client rebuilds the address from the root that the operator allows. So
//! a token goes to Graph and nowhere else, whatever a caller writes.

mod assertion;
mod authority;
mod certificate;
mod client;
mod connection;
mod examine;
mod grant;
mod machine;
mod on_behalf_of;
mod ration;
mod reference;
mod root;
mod tokens;
mod transport;
mod wire;

#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(test)]
mod stand_in;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::operation::{Event, OperationId};

pub use authority::{Authority, KeysUnavailable};
pub use certificate::{ClientCertificate, InvalidCertificate, Thumbprint};
pub use client::{ClientError, Deadlines, HARD_DEADLINE, HttpGraph, Settings};
pub use connection::{Connection, InvalidProof, ManagedIdentity, Proof, ProofKind};
pub use examine::{Examination, Examiner, Finding, GraphSaid, TooSoon};
pub use grant::{Complaint, Grant, Granted, NotGranted};
pub use machine::{INSTANCE_METADATA, InvalidMachineIdentity, MachineIdentity};
pub use on_behalf_of::{ApiIdentity, NotExchanged, OnBehalfOf, User, UserGrant};
pub use reference::{ApiVersion, InvalidReference, Reference};
pub use root::{GraphRoot, InvalidRoot, LoginRoot};
pub use tokens::SHORTEST_SERVICE;

/// Asks Graph once.
#[async_trait]
pub trait Graph: Send + Sync {
    /// Makes one poll and says what came of it.
    ///
    /// Never takes longer than its hard deadline, and never fails: whatever happens on the way is
    /// an event in the life of the operation.
    async fn poll(&self, inquiry: Inquiry) -> Poll;
}

/// What to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// Whose poll this is, for the log.
    pub operation: OperationId,
    /// Whose operation it is, by the caller's name. Each caller has a ration of requests for tokens by
    /// proofs that Entra has yet to take.
    pub caller: String,
    pub reference: Reference,
    pub credential: Credential,
    /// When the poll is over, one way or another: soon after, somebody else may poll the same.
    pub over_by: Timestamp,
}

/// What came of one poll.
#[derive(Clone, Debug)]
pub struct Poll {
    /// [`Event::Polled`] or [`Event::Unpolled`].
    pub event: Event,
    /// Graph's bytes as they came, where they are an `engagementAsyncOperation`.
    pub body: Option<Bytes>,
    /// What a user's next token is to be asked for with, where that is another one from now on. The old
    /// one goes on to be good, so nothing is lost if this is.
    pub renewed: Option<SecretString>,
}

/// What a poll proves itself with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// An access token for Graph that the caller handed in. It can be neither read nor renewed.
    Token(AccessToken),
    /// A connection, by which we get tokens ourselves.
    Connection(Arc<Connection>),
}

/// An access token for Graph.
#[derive(Clone, Debug)]
pub struct AccessToken {
    pub secret: SecretString,
    pub expires_at: Timestamp,
}

impl Credential {
    /// Which budget at Graph this credential spends; the rest of its lane's name.
    ///
    /// One per app and tenant, and per user where an app asks on behalf of one. A handed-in token is
    /// opaque, so it stands for itself, by a digest.
    pub fn identity(&self) -> String {
        match self {
            Self::Connection(connection) if let Some(user) = connection.user() => {
                format!("user:{}:{}:{user}", connection.tenant, connection.client_id)
            }
            Self::Connection(connection) => {
                format!("app:{}:{}", connection.tenant, connection.client_id)
            }
            Self::Token(token) => {
                let digest = Sha256::digest(token.secret.expose_secret());
                let short = digest.iter().take(12);
                short.fold("token:".to_owned(), |name, byte| name + &format!("{byte:02x}"))
            }
        }
    }
}
