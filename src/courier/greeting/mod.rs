//! Asks a receiver whether it wants callbacks at all, before the first is registered for it.
//!
//! The question has two forms: that of Graph's change notifications (`graph`), and that of CloudEvents
//! (`cloud_events`). Each is pure: what is sent, and what an answer means. [`HttpGreeter`] sends it, by
//! the guard and the way out of callbacks.
//!
//! Whoever registers is told what was sent and what came back, down to the status, and nothing of an
//! answer's body: it may be some service that does not know us, and is not for callers to read.

mod cloud_events;
mod graph;
mod http;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use ::http::{HeaderMap, StatusCode};
use async_trait::async_trait;
use bytes::Bytes;
use rustls::pki_types::DnsName;

use super::{CallbackUrl, Failure};
use crate::lane::Rate;

pub use http::{GREETING_DEADLINE, HttpGreeter};

/// Asks receivers for their consent.
#[async_trait]
pub trait Greeter: Send + Sync {
    /// What is asked.
    fn form(&self) -> &Form;

    /// Asks the receiver at `url`, which the guard has let pass.
    ///
    /// Never takes longer than [`GREETING_DEADLINE`].
    async fn greet(&self, url: &CallbackUrl) -> Result<Consent, Declined>;
}

/// How receivers are asked. Its text is kept with their answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Form {
    /// To send a token back.
    Graph,
    /// Whether this name of ours may send to them, and how often.
    CloudEvents(RequestOrigin),
}

/// The DNS name by which receivers know us, in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestOrigin(String);

/// The text is no DNS name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("give a DNS name such as bridge.example.com")]
pub struct InvalidOrigin;

/// What a receiver has agreed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Consent {
    /// `None` for as many attempts as we like.
    pub rate: Option<Rate>,
}

/// There is no consent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Declined {
    pub cause: Cause,
    /// What was sent, what came back, and what is expected: for whoever registers.
    pub detail: String,
}

/// Why there is no consent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The receiver answered, and not as one that wants callbacks.
    Answer,
    /// It did not, or not in time.
    NoAnswer(Failure),
    /// It could not even be asked, by a fault of ours.
    Unasked,
}

/// What came back: so much of the body as there was a use for.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What an answer means; in words, where it is no consent.
type Verdict = Result<Consent, String>;

impl Form {
    /// What is sent, in words.
    fn asks(&self) -> String {
        match self {
            Self::Graph => graph::ASKS.to_owned(),
            Self::CloudEvents(origin) => cloud_events::asks(origin),
        }
    }

    /// What a receiver that wants callbacks answers, in words.
    fn expects(&self) -> &'static str {
        match self {
            Self::Graph => graph::EXPECTS,
            Self::CloudEvents(_) => cloud_events::EXPECTS,
        }
    }

    fn declined(&self, cause: Cause, what_came: &str) -> Declined {
        let (asks, expects) = (self.asks(), self.expects());
        let detail = format!(
            "its receiver has to agree to callbacks first. Sent was {asks}; {what_came}. Expected is \
             {expects}, within 10 s"
        );
        Declined { cause, detail }
    }
}

impl Declined {
    /// The code that a registration is refused with.
    pub fn code(&self) -> &'static str {
        match self.cause {
            Cause::Answer => "handshakeRefused",
            Cause::NoAnswer(Failure::Refused(code)) => code.as_str(),
            Cause::NoAnswer(_) | Cause::Unasked => "handshakeFailed",
        }
    }

    /// Whether other URLs of the same origin would have been declined as well, as far as one can tell.
    pub fn is_of_origin(&self) -> bool {
        matches!(self.cause, Cause::NoAnswer(_))
    }
}

impl RequestOrigin {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let name = text.trim().to_ascii_lowercase();
        if DnsName::try_from(name.as_str()).is_err() {
            return Err(InvalidOrigin);
        }
        Ok(Self(name))
    }
}

impl fmt::Display for RequestOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph => f.write_str("graph"),
            Self::CloudEvents(origin) => write!(f, "cloudEvents as {origin}"),
        }
    }
}
