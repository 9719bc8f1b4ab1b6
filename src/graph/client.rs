//! Polls Graph over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use reqwest::dns::Resolve;
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tracing::Level;
use uuid::Uuid;

#[cfg(doc)]
use super::SHORTEST_SERVICE;
use super::tokens::{Identity, Tokens};
use super::transport::{NoAnswer, Received, Transport, causes};
use super::wire::{Answered, Reading};
use super::{
    AccessToken, Connection, Credential, Graph, GraphRoot, Inquiry, LoginRoot, Poll, grant, wire,
};
use crate::clock::Clock;
use crate::operation::{Answer, Event, Hindrance, Refusal, Renewal, Verdict, after, elapsed};

/// Microsoft Graph, or what stands in for it at the operator's root.
pub struct HttpGraph {
    root: GraphRoot,
    login: LoginRoot,
    scope: String,
    deadlines: Deadlines,
    transport: Transport,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
}

/// What the operator chose about Graph, passed in rather than looked up.
pub struct Settings {
    pub root: GraphRoot,
    pub login: LoginRoot,
    /// Whom to believe; see [`crate::tls::client_config`].
    pub tls: ClientConfig,
    /// Resolves the names of both roots; without one the operating system does.
    pub resolver: Option<Arc<dyn Resolve>>,
    pub deadlines: Deadlines,
    /// How long a token is used though Graph refuses it; [`SHORTEST_SERVICE`] for Microsoft's.
    pub shortest_service: Duration,
}

/// How long the parts of a poll may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// To open a connection: name resolution and TLS included, and within the other two.
    pub connect: Duration,
    /// To get a token, waiting for another poll that is getting one included.
    pub token: Duration,
    /// From the request to the last byte of Graph's answer.
    pub exchange: Duration,
}

/// No poll takes longer than this, with the default [`Deadlines`].
pub const HARD_DEADLINE: Duration = Deadlines::DEFAULT.in_all();

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for Graph cannot be built")]
pub struct ClientError(#[source] reqwest::Error);

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// At most this much of an answer is read. An operation is about 1 KiB.
const BODY_LIMIT: usize = 1_024 * 1_024;

/// A handed-in token is not used in the last moments of its life, lest it expire on its way.
const MARGIN: Duration = Duration::from_secs(10);

impl Deadlines {
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(10),
        token: Duration::from_secs(10),
        exchange: Duration::from_secs(25),
    };

    /// How long a whole poll may take.
    pub const fn in_all(self) -> Duration {
        self.token.saturating_add(self.exchange)
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl HttpGraph {
    /// Connects to nothing yet.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let Settings { root, login, tls, resolver, deadlines, shortest_service } = settings;
        let transport = Transport::new(tls, resolver, deadlines.connect).map_err(ClientError)?;
        let scope = root.scope();
        let tokens = Tokens::new(shortest_service);
        Ok(Self { root, login, scope, deadlines, transport, tokens, clock })
    }

    async fn token(&self, credential: &Credential) -> Result<AccessToken, Hindrance> {
        match credential {
            Credential::Token(token) if token.expires_at <= after(self.clock.now(), MARGIN) => {
                Err(Hindrance::Refused(Refusal::TokenExpired))
            }
            Credential::Token(token) => Ok(token.clone()),
            Credential::Connection(connection) => self.token_of(connection).await,
        }
    }

    async fn token_of(&self, connection: &Connection) -> Result<AccessToken, Hindrance> {
        let until = Instant::now() + self.deadlines.token;
        let request = grant::Request {
            endpoint: self.login.token_endpoint(&connection.tenant),
            scope: &self.scope,
            connection,
        };
        let fetch = request.send(&self.transport, &*self.clock, until);
        self.tokens.get(&Identity::of(connection), &*self.clock, until, fetch).await
    }

    async fn ask(&self, inquiry: &Inquiry, token: &AccessToken) -> Result<Poll, Hindrance> {
        // Not what the caller says is a token, then; and no other poll of it will fare better.
        let bearer = bearer(token).ok_or(Hindrance::Refused(Refusal::Unauthorized))?;
        // A token may have been long in coming, or this process may have been stopped for a while.
        let left = elapsed(self.clock.now(), inquiry.over_by);
        if left.is_zero() {
            return Err(Hindrance::Trouble { retry_after: None });
        }
        let exchange = Exchange::begin();
        let until = exchange.began_at + self.deadlines.exchange.min(left);
        let received = self
            .transport
            .exchange(until, BODY_LIMIT, |client| {
                let request = client
                    .get(self.root.url(&inquiry.reference))
                    .header(AUTHORIZATION, bearer)
                    .header(ACCEPT, "application/json")
                    // Without it, members that Graph learns later arrive as `unknownFutureValue`.
                    .header(PREFER, "include-unknown-enum-members");
                match exchange.id {
                    Some(id) => request.header(CLIENT_REQUEST_ID, id.to_string()),
                    None => request,
                }
            })
            .await;

        let received = match received {
            Ok(received) => received,
            Err(no_answer) => {
                exchange.note_silence(inquiry, &no_answer);
                let event = Event::Polled(Answer::Trouble { retry_after: None });
                return Ok(Poll { event, body: None });
            }
        };
        let reading = self.read(inquiry, token, &received);
        exchange.note(inquiry, &received, &reading);
        let body = reading.operation.and_then(|_| received.body.ok());
        Ok(Poll { event: Event::Polled(reading.answer), body })
    }

    fn read(&self, inquiry: &Inquiry, token: &AccessToken, received: &Received) -> Reading {
        let renewal = match &inquiry.credential {
            Credential::Connection(_) => Renewal::Possible,
            Credential::Token(_) => Renewal::Impossible,
        };
        let answered = Answered {
            status: received.status.as_u16(),
            retry_after: received.header(&RETRY_AFTER),
            body: received.body.as_deref().ok(),
        };
        let reading = wire::read(answered, renewal, self.clock.wall());
        if let (Answer::CredentialRefused { .. }, Credential::Connection(connection)) =
            (reading.answer, &inquiry.credential)
        {
            // On 403 as well: a permission granted since is only in a token that is made since.
            self.tokens.forget(&Identity::of(connection), token, self.clock.now());
        }
        reading
    }
}

#[async_trait]
impl Graph for HttpGraph {
    async fn poll(&self, inquiry: Inquiry) -> Poll {
        let poll = match self.token(&inquiry.credential).await {
            Ok(token) => self.ask(&inquiry, &token).await,
            Err(hindrance) => Err(hindrance),
        };
        poll.unwrap_or_else(|hindrance| {
            let id = inquiry.operation;
            tracing::info!(operation.id = %id, ?hindrance, "no token to poll operation `{id}` with");
            Poll { event: Event::Unpolled(hindrance), body: None }
        })
    }
}

/// The value of `Authorization`, where the token is one that a header can hold.
fn bearer(token: &AccessToken) -> Option<HeaderValue> {
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", token.secret.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One request to Graph, as the log tells it.
struct Exchange {
    /// `client-request-id`, by which Microsoft finds a request. Random numbers are never
    /// unavailable for long, and a poll without an id is better than none.
    id: Option<Uuid>,
    began_at: Instant,
}

impl Exchange {
    fn begin() -> Self {
        let mut bytes = [0; 16];
        let drawn = getrandom::fill(&mut bytes).is_ok();
        let id = drawn.then(|| uuid::Builder::from_random_bytes(bytes).into_uuid());
        Self { id, began_at: Instant::now() }
    }

    fn took_ms(&self) -> u64 {
        u64::try_from(self.began_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn client_request_id(&self) -> Option<String> {
        self.id.map(|id| id.to_string())
    }

    fn note_silence(&self, inquiry: &Inquiry, no_answer: &NoAnswer) {
        let id = inquiry.operation;
        tracing::warn!(
            operation.id = %id,
            identity = inquiry.credential.identity(),
            took_ms = self.took_ms(),
            client_request_id = self.client_request_id(),
            error = causes(no_answer),
            "Graph did not answer the poll of operation `{id}`"
        );
    }

    fn note(&self, inquiry: &Inquiry, received: &Received, reading: &Reading) {
        // The macro wants the level as a constant, so each has a call of its own.
        macro_rules! note {
            ($level:expr) => {{
                let id = inquiry.operation;
                let meaning = meaning(reading.answer);
                let fault = reading.fault.as_ref();
                tracing::event!(
                    $level,
                    operation.id = %id,
                    identity = inquiry.credential.identity(),
                    status = received.status.as_u16(),
                    took_ms = self.took_ms(),
                    client_request_id = self.client_request_id(),
                    request_id = received
                        .legible("request-id")
                        .or_else(|| fault.and_then(|fault| fault.request_id.clone())),
                    date = received.legible("date"),
                    diagnostic = received.legible("x-ms-ags-diagnostic"),
                    code = fault.and_then(|fault| fault.code.as_deref()),
                    error = received.body.as_ref().err().map(|error| causes(error)),
                    other_id = reading.operation.as_ref().filter(|id| **id != inquiry.reference.id),
                    "polled operation `{id}`: {meaning}"
                )
            }};
        }
        match reading.answer {
            // That it is settled is told where it is decided.
            Answer::StillRunning { .. } | Answer::Undecided { .. } | Answer::Finished(_) => {
                note!(Level::DEBUG);
            }
            Answer::Rejected
            | Answer::CredentialRefused { .. }
            | Answer::Missing
            | Answer::Gone
            | Answer::Throttled { .. }
            | Answer::Trouble { .. } => note!(Level::WARN),
        }
    }
}

fn meaning(answer: Answer) -> &'static str {
    match answer {
        Answer::StillRunning { .. } => "still running",
        Answer::Undecided { .. } => "not running, and not at its end",
        Answer::Finished(Verdict::Succeeded) => "succeeded",
        Answer::Finished(Verdict::Failed) => "failed",
        Answer::Finished(Verdict::Skipped) => "skipped",
        Answer::Rejected => "the request was rejected",
        Answer::CredentialRefused { .. } => "the credential was refused",
        Answer::Missing => "not found",
        Answer::Gone => "gone",
        Answer::Throttled { .. } => "throttled",
        Answer::Trouble { .. } => "trouble at Graph",
    }
}

#[cfg(test)]
mod tests;
