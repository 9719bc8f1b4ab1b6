//! Asks Microsoft Graph how an operation is doing.
//!
//! A caller hands us a URL and a token. The URL is read, never fetched: [`Reference`] keeps its
//! version and id, and the client rebuilds the address from the root that the operator allows. So
//! a token goes to Graph and nowhere else, whatever a caller writes.

mod client;
mod grant;
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

pub use client::{ClientError, Deadlines, HARD_DEADLINE, HttpGraph, Settings};
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

/// A named Graph identity of a caller: an app registration that proves itself by a secret.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The caller's name for it.
    pub name: String,
    /// The directory: a GUID or a domain name, lower case.
    pub tenant: String,
    /// The app registration: a GUID, lower case.
    pub client_id: String,
    pub client_secret: SecretString,
}

impl Credential {
    /// Which budget at Graph this credential spends; the rest of its lane's name.
    ///
    /// One per app and tenant. A handed-in token is opaque, so it stands for itself, by a digest.
    pub fn identity(&self) -> String {
        match self {
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
