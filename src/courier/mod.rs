//! Tells the receiver: one signed POST, to an address that the operator allows.
//!
//! [`compose`] writes what is sent, once; [`signing`] signs it, anew for each attempt; [`egress`]
//! says where it may go; [`HttpCourier`] sends it, by the way out that `exit` keeps. [`HttpGreeter`]
//! asks a receiver beforehand whether it wants any. Signing, composing and the rules of where it may
//! go are pure.

pub mod egress;
mod exit;
mod extra_header;
mod greeting;
mod http;
mod letter;
pub mod signing;
#[cfg(test)]
mod stand_in;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::callback::{CallbackId, Reply};
use egress::RefusalCode;

pub use egress::{CallbackUrl, Egress};
pub use exit::{InvalidProxy, Proxy, ProxyWay};
pub use extra_header::{ExtraHeader, InvalidHeader};
pub use greeting::{
    Cause, Consent, Declined, Form, GREETING_DEADLINE, Greeter, HttpGreeter, InvalidOrigin,
    RequestOrigin,
};
pub use http::{HARD_DEADLINE, HttpCourier};
pub use letter::{
    FixedHeaders, Format, Letter, Trace, Tracking, Written, compose, may_stand_in_cloud_events,
};
pub use signing::{PublicKey, Signers, SigningKey, SigningSecret};

/// Makes one attempt to deliver a callback.
#[async_trait]
pub trait Courier: Send + Sync {
    /// Signs and sends `parcel`, and says what came of it.
    ///
    /// Never takes longer than its hard deadline, and never fails: whatever happens on the way is
    /// an event in the life of the callback.
    async fn deliver(&self, parcel: Parcel) -> Receipt;
}

/// One callback, ready to be signed and sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub id: CallbackId,
    pub url: String,
    /// The same in every attempt.
    pub headers: FixedHeaders,
    /// The exact bytes to sign and to send; the same in every attempt.
    pub body: Bytes,
    /// What else the caller wants to have sent with it.
    pub extra_headers: Vec<ExtraHeader>,
    /// Each of them signs.
    pub signers: Signers,
}

/// What one attempt came to, as the caller may see it.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub reply: Reply,
    /// The status that was answered, where one was.
    pub status: Option<u16>,
    /// What went wrong, where it was not the status alone.
    pub failure: Option<Failure>,
    /// One sentence for people, where there is more to say than `failure` does.
    pub detail: Option<String>,
    /// The first 4 KiB of the answer's body.
    pub answer: Bytes,
    pub took: Duration,
}

/// What kept an attempt from being answered, or its answer from being read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Failure {
    /// Nothing was sent: the operator's rules do not allow it.
    Refused(RefusalCode),
    /// No address was found for the name.
    NameNotResolved,
    /// The operator's proxy was not reached, or did not connect us.
    ProxyFailed,
    ConnectFailed,
    /// No secure connection: certificate wrong or expired, no common version.
    TlsFailed,
    /// The deadline for the whole exchange, or for connecting, passed.
    TimedOut,
    /// The connection broke off before the answer was complete.
    ConnectionLost,
    /// The answer was not HTTP.
    AnswerMalformed,
}

impl Failure {
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::NameNotResolved,
            Self::ProxyFailed,
            Self::ConnectFailed,
            Self::TlsFailed,
            Self::TimedOut,
            Self::ConnectionLost,
            Self::AnswerMalformed,
        ];
        RefusalCode::ALL.map(Self::Refused).into_iter().chain(others)
    }

    /// The code in attempt records and logs; it stays the same.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused(code) => code.as_str(),
            Self::NameNotResolved => "nameNotResolved",
            Self::ProxyFailed => "proxyFailed",
            Self::ConnectFailed => "connectFailed",
            Self::TlsFailed => "tlsFailed",
            Self::TimedOut => "timedOut",
            Self::ConnectionLost => "connectionLost",
            Self::AnswerMalformed => "answerMalformed",
        }
    }
}
