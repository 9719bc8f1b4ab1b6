//! Tells the receiver: one signed POST, to an address that the operator allows.
//!
//! [`compose`] writes what is sent, once; [`signing`] signs it, anew for each attempt; [`egress`]
//! says where it may go; [`HttpCourier`] sends it, by the way out that `exit` keeps. [`HttpGreeter`]
//! asks a receiver beforehand whether it wants any. Signing, composing and the rules of where it may
//! go are pure.

pub mod egress;
mod exit;
mod extra_header;
mod failure;
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

pub use egress::{CallbackUrl, Egress};
pub use exit::{InvalidProxy, Proxy, ProxyWay};
pub use extra_header::{ExtraHeader, InvalidHeader};
pub use failure::{Failure, Phase, TlsFault};
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
