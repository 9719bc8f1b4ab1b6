//! Sends one callback by HTTP, within bounds of time and size.
//!
//! # What is sent again at once
//!
//! A receiver may end a connection that is kept for the next callback at the moment when that leaves.
//! It is no failure of the receiver's, and there is no way to avoid it (RFC 9112 §9.3.1). So a request
//! goes once more, at once and over a fresh connection, as part of the same attempt, if
//!
//! * it went over a connection that had brought an answer before,
//! * which the receiver closed or reset (of HTTP/2 with or without `GOAWAY`),
//! * before a byte of an answer came; over HTTP/2, where bytes belong to many, before its headers.
//!
//! It is the same message, with the same `webhook-id` and signature, and delivery is at least once: a
//! receiver that did take the first one sees what it sees after any lost answer. It is *not* done on a
//! fresh connection, which tells that the receiver is in trouble; after a byte of an answer; where a
//! stream of HTTP/2 is reset, for then the receiver is alive and answers so; after a deadline; or a
//! second time. Both share the deadline of the attempt.
//!
//! hyper's client does less by itself: it passes on to another connection what it had not begun to
//! write when it noticed that a kept one is closed. That stays on, for nothing was sent.

mod classify;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, capture_connection};
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout_at};

use super::egress::{CallbackUrl, Egress, Refusal};
use super::exit::{Connector, Line, Patience, ProxyWay};
use super::failure::{Failure, Phase};
use super::{Courier, Parcel, Receipt, RequestOrigin};
use crate::callback::Reply;
use crate::clock::Clock;
use crate::lane::retry_after;
pub(super) use classify::classify;
use classify::is_reset_of_stream;

/// No attempt takes longer, whatever the receiver does.
pub const HARD_DEADLINE: Duration = Duration::from_secs(20);

pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read, so that the connection may be used again.
const READ: usize = 16 * 1_024;

/// Bytes of an answer that are kept.
const KEPT: usize = 4 * 1_024;

/// Bytes of the headers of an answer by HTTP/1.1 at the most.
const LARGEST_HEAD: usize = 64 * 1_024;

/// Between two pings of HTTP/2, while an answer is waited for, and how long one is waited for.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(super) const USER_AGENT: &str = concat!("engagement-bridge/", env!("CARGO_PKG_VERSION"));

/// A [`Courier`] over HTTP/1.1 and HTTP/2.
pub struct HttpCourier {
    client: Client<Connector, Full<Bytes>>,
    /// Connects anew for each request.
    anew: Client<Connector, Full<Bytes>>,
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
        let patience = Patience { connect: connect_within, blocked: within };
        let connector = Connector::new(Arc::clone(&egress), tls, proxy, patience);
        let mut builder = bounded();
        let client = builder.pool_max_idle_per_host(16).build(connector.clone());
        let anew = builder.pool_max_idle_per_host(0).build(connector);
        Self { client, anew, egress, clock, within, origin: None }
    }

    /// Says in each callback who sends it, as receivers expect who were asked by that name.
    #[must_use]
    pub fn known_as(self, origin: &RequestOrigin) -> Self {
        Self { origin: HeaderValue::try_from(origin.as_str()).ok(), ..self }
    }

    async fn attempt(&self, url: &CallbackUrl, parcel: &Parcel) -> Result<Receipt, Unanswered> {
        let until = Instant::now() + self.within;
        let headers = self.headers(parcel);
        let sending = Sending { url, headers: &headers, body: &parcel.body, until };
        let answered = match sending.over(&self.client).await {
            Err(Lost { is_stale: true, .. }) => {
                tracing::debug!(callback.id = %parcel.id, "sent {} again, anew", parcel.id);
                sending.over(&self.anew).await
            }
            answered => answered,
        };
        let (response, line) =
            answered.map_err(|lost| lost.unanswered.unwrap_or_else(|phase| self.late(phase)))?;
        let status = response.status();
        // The status says what becomes of the callback, however the rest of the answer goes.
        let reply = reply(status, response.headers(), self.clock.wall());
        let mut answer = BytesMut::new();
        let broken = match timeout_at(until, read(response.into_body(), &mut answer)).await {
            Ok(Ok(())) => None,
            // Whoever says 2xx has taken the callback, and nothing went wrong.
            Ok(Err(_)) | Err(_) if status.is_success() => None,
            Ok(Err(error)) => Some(classify(&error)),
            Err(_) => Some(self.late(Phase::Reading)),
        };
        if let Some(line) = line {
            line.answered();
        }
        let (failure, detail) = broken.map(|it| (it.failure, it.detail)).unzip();
        let (status, answer) = (Some(status.as_u16()), answer.freeze());
        Ok(Receipt { reply, status, failure, detail, answer, took: Duration::ZERO })
    }

    /// The deadline of the attempt passed in this phase.
    fn late(&self, phase: Phase) -> Unanswered {
        let (within, phase_in_words) = (self.within.as_secs_f32(), phase.in_words());
        let detail = format!("no complete answer within {within} s: {phase_in_words}");
        Unanswered { failure: Failure::TimedOut(phase), detail }
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

/// Clients of receivers, who may send what they like. A redirect is an answer like any other, since it
/// leads where nobody has looked.
pub(super) fn bounded() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .http1_max_buf_size(LARGEST_HEAD)
        .http2_max_header_list_size(16 * 1_024)
        .http2_initial_stream_window_size(64 * 1_024)
        .http2_initial_connection_window_size(512 * 1_024)
        // A peer that is silently gone is noticed, also where nothing can be written any more.
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// One request, which may have to be sent twice.
struct Sending<'a> {
    url: &'a CallbackUrl,
    headers: &'a HeaderMap,
    body: &'a Bytes,
    until: Instant,
}

/// No headers of an answer came.
struct Lost {
    /// Why, or how far it had come by the deadline.
    unanswered: Result<Unanswered, Phase>,
    /// Whether it was lost because the connection was kept for too long.
    is_stale: bool,
}

impl Sending<'_> {
    async fn over(
        &self,
        client: &Client<Connector, Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Option<Line>), Lost> {
        let (body, is_sent) = Unsent::watch(self.body.clone());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.uri().clone();
        *request.headers_mut() = self.headers.clone();
        let connection = capture_connection(&mut request);
        match timeout_at(self.until, client.request(request)).await {
            Ok(Ok(response)) => Ok((response, line(&connection))),
            Ok(Err(error)) => {
                let unanswered = classify(&error);
                let is_stale = is_stale(&unanswered, &error, &connection);
                Err(Lost { unanswered: Ok(unanswered), is_stale })
            }
            Err(_) => {
                let line = line(&connection);
                // HTTP/2 would carry further requests over it, to a receiver that may be gone.
                if let Some(connected) = connection.connection_metadata().as_ref() {
                    connected.poison();
                }
                let phase = match line {
                    None => Phase::Connecting,
                    Some(line) if line.is_blocked() || !is_sent.load(Ordering::Relaxed) => {
                        Phase::Sending
                    }
                    Some(_) => Phase::Waiting,
                };
                Err(Lost { unanswered: Err(phase), is_stale: false })
            }
        }
    }
}

/// What is known of the connection that a request went over, if it got so far.
fn line(connection: &CaptureConnection) -> Option<Line> {
    let mut extras = http::Extensions::new();
    connection.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.remove()
}

/// See the head of this file.
fn is_stale(
    unanswered: &Unanswered,
    error: &(dyn Error + 'static),
    connection: &CaptureConnection,
) -> bool {
    let is_shared =
        connection.connection_metadata().as_ref().is_some_and(Connected::is_negotiated_h2);
    let is_lost = matches!(unanswered.failure, Failure::ClosedEarly | Failure::ResetByReceiver);
    is_lost
        && !is_reset_of_stream(error)
        && line(connection).is_some_and(|it| it.is_used() && (is_shared || !it.has_heard_more()))
}

/// A body that is let go of once it is written.
struct Unsent {
    bytes: Bytes,
    is_sent: Arc<AtomicBool>,
}

impl Unsent {
    /// The bytes to send, and what tells whether they are written.
    fn watch(bytes: Bytes) -> (Bytes, Arc<AtomicBool>) {
        let is_sent = Arc::new(AtomicBool::new(false));
        let unsent = Self { bytes, is_sent: Arc::clone(&is_sent) };
        (Bytes::from_owner(unsent), is_sent)
    }
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.is_sent.store(true, Ordering::Relaxed);
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
    // Of several, the one that asks for most: it is no use to come earlier.
    let asked = headers.get_all(header::RETRY_AFTER).iter().filter_map(|value| value.to_str().ok());
    let retry_after = asked.filter_map(|value| retry_after(value, now)).max();
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
            | Failure::ConnectRefused
            | Failure::ConnectUnreachable
            | Failure::ConnectFailed
            | Failure::Tls(_)
            | Failure::TimedOut(_)
            | Failure::ResetByReceiver
            | Failure::ClosedEarly
            | Failure::AnswerMalformed
            | Failure::AnswerTooLarge => Reply::Unwell { retry_after: None },
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
