//! Sends one callback by HTTP, within bounds of time and size.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout_at};

use super::egress::{CallbackUrl, Egress, NotDialled, Refusal};
use super::exit::{ConnectTimedOut, Connector, ProxyFailed, ProxyWay};
use super::{Courier, Failure, Parcel, Receipt, RequestOrigin};
use crate::callback::Reply;
use crate::clock::Clock;
use crate::lane::retry_after;
use crate::names::LookupError;

/// No attempt takes longer, whatever the receiver does.
pub const HARD_DEADLINE: Duration = Duration::from_secs(20);

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read, so that the connection may be used again.
const READ: usize = 16 * 1_024;

/// Bytes of an answer that are kept.
const KEPT: usize = 4 * 1_024;

pub(super) const USER_AGENT: &str = concat!("engagement-bridge/", env!("CARGO_PKG_VERSION"));

/// Characters of a failure's detail at the most.
const LONGEST_DETAIL: usize = 300;

/// A [`Courier`] over HTTP/1.1 and HTTP/2.
pub struct HttpCourier {
    client: Client<Connector, Full<Bytes>>,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
    within: Duration,
    origin: Option<HeaderValue>,
}

/// Why no answer came, or not all of it.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) failure: Failure,
    pub(super) detail: String,
}

impl HttpCourier {
    /// Callbacks go through `proxy`, where there is one.
    pub fn new(
        egress: Arc<Egress>,
        tls: &ClientConfig,
        proxy: Option<ProxyWay>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::with_deadlines(egress, tls, proxy, clock, CONNECT_WITHIN, HARD_DEADLINE)
    }

    fn with_deadlines(
        egress: Arc<Egress>,
        tls: &ClientConfig,
        proxy: Option<ProxyWay>,
        clock: Arc<dyn Clock>,
        connect_within: Duration,
        within: Duration,
    ) -> Self {
        let connector = Connector::new(Arc::clone(&egress), tls, proxy, connect_within);
        // One attempt is one request: a redirect is an answer like any other, since it leads where
        // nobody has looked, and a stream that a receiver refuses is not sent again, for the record
        // of attempts would not tell of it.
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(16)
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { client, egress, clock, within, origin: None }
    }

    /// Says in each callback who sends it, as receivers expect who were asked by that name.
    #[must_use]
    pub fn known_as(self, origin: &RequestOrigin) -> Self {
        Self { origin: HeaderValue::try_from(origin.as_str()).ok(), ..self }
    }

    async fn attempt(&self, url: &CallbackUrl, parcel: &Parcel) -> Result<Receipt, Unanswered> {
        let until = Instant::now() + self.within;
        let timed_out = |phase: &str| Unanswered {
            failure: Failure::TimedOut,
            detail: format!("no complete answer within {} s, {phase}", self.within.as_secs_f32()),
        };
        let mut request = Request::new(Full::new(parcel.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.uri().clone();
        *request.headers_mut() = self.headers(parcel);
        let sent = timeout_at(until, self.client.request(request)).await;
        let response = sent.map_err(|_| timed_out("before its headers"))?;
        let response = response.map_err(|error| classify(&error, error.is_connect()))?;
        let status = response.status();
        // The status says what becomes of the callback, however the rest of the answer goes.
        let reply = reply(status, response.headers(), self.clock.wall());
        let mut answer = BytesMut::new();
        let broken = match timeout_at(until, read(response.into_body(), &mut answer)).await {
            Ok(Ok(())) => None,
            // Whoever says 2xx has taken the callback, and nothing went wrong.
            Ok(Err(_)) | Err(_) if status.is_success() => None,
            Ok(Err(error)) => Some(classify(&error, false)),
            Err(_) => Some(timed_out("before the end of its body")),
        };
        let (failure, detail) = broken.map(|it| (it.failure, it.detail)).unzip();
        let (status, answer) = (Some(status.as_u16()), answer.freeze());
        Ok(Receipt { reply, status, failure, detail, answer, took: Duration::ZERO })
    }

    /// Signed anew for each attempt, with its own time.
    fn headers(&self, parcel: &Parcel) -> HeaderMap {
        let (id, timestamp) = (parcel.id.to_string(), self.clock.wall().as_second());
        let signature = parcel.signers.sign(&id, timestamp, &parcel.body);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let extra =
            parcel.extra_headers.iter().map(|it| (it.name(), it.value().expose_secret(), true));
        let fixed = parcel.headers.iter().map(|(name, value)| (name, value, false));
        // Ours come last, and take the place of any that has the same name.
        for (name, value, is_secret) in extra.chain(fixed) {
            // All were checked before they were stored.
            if let (Ok(name), Ok(mut value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                value.set_sensitive(is_secret);
                headers.insert(name, value);
            }
        }
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
        if let Some(origin) = &self.origin {
            headers.insert("webhook-request-origin", origin.clone());
        }
        for (name, value) in [("webhook-id", id), ("webhook-signature", signature)] {
            // Both are made of letters, digits and base64, which headers take.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        headers
    }
}

#[async_trait]
impl Courier for HttpCourier {
    async fn deliver(&self, parcel: Parcel) -> Receipt {
        let started = Instant::now();
        // Judged anew: the operator's rules may have changed since the registration, and a literal
        // address is never shown to the resolver.
        let (host, result) = match self.egress.check_url(&parcel.url) {
            Ok(url) => (url.host().to_owned(), self.attempt(&url, &parcel).await),
            Err(refusal) => (String::new(), Err(Unanswered::from(&refusal))),
        };
        let mut receipt = result.unwrap_or_else(Receipt::from);
        receipt.took = started.elapsed();
        log(&parcel, &host, &receipt);
        receipt
    }
}

/// Once for each attempt. Never the URL's path or query, which may hold secrets.
fn log(parcel: &Parcel, host: &str, receipt: &Receipt) {
    let (id, status) = (parcel.id, receipt.status);
    let took_ms = u64::try_from(receipt.took.as_millis()).unwrap_or(u64::MAX);
    let failure = receipt.failure.map(Failure::as_str);
    let detail = receipt.detail.as_deref();
    if receipt.reply == Reply::Accepted {
        tracing::info!(callback.id = %id, host, status, took_ms, "delivered {id}");
    } else {
        tracing::warn!(
            callback.id = %id, host, status, failure, detail, took_ms,
            "{id} was not accepted"
        );
    }
}

/// What a status means for the callback.
fn reply(status: StatusCode, headers: &HeaderMap, now: jiff::Timestamp) -> Reply {
    let asked = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|value| retry_after(value, now));
    match status.as_u16() {
        200..=299 => Reply::Accepted,
        410 => Reply::Gone,
        429 | 500..=599 => Reply::Unwell { retry_after },
        _ => Reply::Refused { retry_after },
    }
}

/// Reads so much of the answer, and keeps less.
async fn read(mut body: Incoming, kept: &mut BytesMut) -> Result<(), hyper::Error> {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame?.into_data() else { continue };
        let room = KEPT.saturating_sub(kept.len()).min(chunk.len());
        kept.extend_from_slice(chunk.get(..room).unwrap_or_default());
        read += chunk.len();
        if read >= READ {
            break;
        }
    }
    Ok(())
}

/// Finds the failure in the chain of causes, by type and never by text.
pub(super) fn classify(error: &(dyn Error + 'static), is_connect: bool) -> Unanswered {
    let causes: Vec<_> = std::iter::successors(Some(error), cause_of).collect();
    // Those within know more than those around them.
    let found = causes.iter().rev().find_map(|cause| failure(*cause, is_connect));
    let failure =
        found.unwrap_or(if is_connect { Failure::ConnectFailed } else { Failure::ConnectionLost });
    let last = causes.last().map(ToString::to_string).unwrap_or_default();
    Unanswered { failure, detail: last.chars().take(LONGEST_DETAIL).collect() }
}

/// What an `io::Error` holds is passed over by its `source`, and rustls hides in there.
fn cause_of<'a>(&error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => Some(held),
        None => error.source(),
    }
}

fn failure(cause: &(dyn Error + 'static), is_connect: bool) -> Option<Failure> {
    if let Some(not_dialled) = cause.downcast_ref::<NotDialled>() {
        return Some(match not_dialled {
            NotDialled::Refused(refusal) => Failure::Refused(refusal.code()),
            NotDialled::NotResolved(
                LookupError::NotFound | LookupError::TimedOut | LookupError::Unavailable(_),
            ) => Failure::NameNotResolved,
        });
    }
    if cause.is::<rustls::Error>() {
        return Some(Failure::TlsFailed);
    }
    if cause.is::<ProxyFailed>() {
        return Some(Failure::ProxyFailed);
    }
    if cause.is::<ConnectTimedOut>() {
        return Some(Failure::TimedOut);
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>()
        && (error.is_parse() || error.is_parse_status())
    {
        return Some(Failure::AnswerMalformed);
    }
    let kind = cause.downcast_ref::<io::Error>()?.kind();
    if kind == ErrorKind::TimedOut {
        return Some(Failure::TimedOut);
    }
    // So hyper says that a body is not as its headers announce it.
    let is_malformed = matches!(kind, ErrorKind::InvalidInput | ErrorKind::InvalidData);
    (is_malformed && !is_connect).then_some(Failure::AnswerMalformed)
}

impl From<&Refusal> for Unanswered {
    fn from(refusal: &Refusal) -> Self {
        Self { failure: Failure::Refused(refusal.code()), detail: refusal.to_string() }
    }
}

impl From<Unanswered> for Receipt {
    fn from(unanswered: Unanswered) -> Self {
        let reply = match unanswered.failure {
            Failure::Refused(_) => Reply::AddressRefused,
            Failure::NameNotResolved
            | Failure::ProxyFailed
            | Failure::ConnectFailed
            | Failure::TlsFailed
            | Failure::TimedOut
            | Failure::ConnectionLost
            | Failure::AnswerMalformed => Reply::Unwell { retry_after: None },
        };
        Self {
            reply,
            status: None,
            failure: Some(unanswered.failure),
            detail: Some(unanswered.detail),
            answer: Bytes::new(),
            took: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
