//! Polls Graph over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use reqwest::dns::Resolve;
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::Level;
use uuid::Uuid;

#[cfg(doc)]
use super::SHORTEST_SERVICE;
use super::tokens::{Identity, Tokens};
use super::transport::{NoAnswer, Received, Transport, causes};
use super::wire::{Answered, Reading};
use super::{
    AccessToken, ApiIdentity, ApiVersion, Complaint, Connection, Credential, Examination, Examiner,
    Finding, Grant, Granted, Graph, GraphRoot, GraphSaid, Inquiry, LoginRoot, MachineIdentity,
    NotGranted, Poll, Proof, Reference, TooSoon, grant, wire,
};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::operation::{Answer, Event, Hindrance, Refusal, Renewal, Verdict, after, elapsed};

/// Microsoft Graph, or what stands in for it at the operator's root.
pub struct HttpGraph {
    pub(super) root: GraphRoot,
    pub(super) login: LoginRoot,
    machine: MachineIdentity,
    /// By what this API acts for users who have signed in, where it does.
    pub(super) api: Option<ApiIdentity>,
    scope: String,
    pub(super) deadlines: Deadlines,
    pub(super) transport: Transport,
    pub(super) tokens: Tokens,
    pub(super) clock: Arc<dyn Clock>,
}

/// What the operator chose about Graph, passed in rather than looked up.
pub struct Settings {
    pub root: GraphRoot,
    pub login: LoginRoot,
    /// By what this API acts for users who have signed in, where it does.
    pub api: Option<ApiIdentity>,
    /// Where managed identities get their tokens.
    pub machine: MachineIdentity,
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

/// How long a test waits for Graph, so that with its token it is over within a request to the API.
const LONGEST_TRY: Duration = Duration::from_secs(15);

/// Names no operation: Graph's ids are longer.
const NO_OPERATION: &str = "test-of-a-connection";

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
        let Settings { root, login, api, machine, tls, resolver, deadlines, shortest_service } =
            settings;
        let transport = Transport::new(tls, resolver, deadlines.connect).map_err(ClientError)?;
        let scope = root.scope();
        let tokens = Tokens::new(shortest_service);
        Ok(Self { root, login, machine, api, scope, deadlines, transport, tokens, clock })
    }

    /// The same, with somebody who counts the tokens that are asked for.
    #[must_use]
    pub fn counted_by(mut self, metrics: &Arc<Metrics>) -> Self {
        self.tokens.metrics = Arc::clone(metrics);
        self
    }

    /// What to poll with; and, where a user's was renewed, what the next is to be asked for with.
    async fn token(
        &self,
        Inquiry { credential, caller, .. }: &Inquiry,
    ) -> (Result<AccessToken, Hindrance>, Option<SecretString>) {
        let token = match credential {
            Credential::Token(token) if token.expires_at <= after(self.clock.now(), MARGIN) => {
                Err(Hindrance::Refused(Refusal::TokenExpired))
            }
            Credential::Token(token) => Ok(token.clone()),
            Credential::Connection(connection) => match connection.proof.user_grant() {
                Some(grant) => return self.token_of_user(connection, grant, caller).await,
                None => self.token_of(connection, caller).await,
            },
        };
        (token, None)
    }

    async fn token_of(
        &self,
        connection: &Connection,
        caller: &str,
    ) -> Result<AccessToken, Hindrance> {
        if matches!(connection.proof, Proof::Withdrawn) {
            return Err(Hindrance::Refused(Refusal::GrantRefused));
        }
        let until = Instant::now() + self.deadlines.token;
        let fetch = async {
            let granted =
                self.fetch(connection, &self.scope, Grant::ClientCredentials, until).await;
            granted.map_err(|refused| refused.hindrance)
        };
        self.tokens.get(&self.identity(connection), caller, &*self.clock, until, fetch).await
    }

    /// Whose tokens polls by this connection use: the app's, or those of a user who has signed in.
    pub(super) fn identity(&self, connection: &Connection) -> Identity {
        match connection.user() {
            Some(_) => Identity::of(connection, &self.user_scope()),
            None => Identity::of(connection, &self.scope),
        }
    }

    /// Asks for a token once, by whatever `client` proves itself with; ends at `until`.
    ///
    /// Counts nothing: whoever asks in earnest goes through [`Tokens`].
    pub(super) async fn fetch(
        &self,
        client: &Connection,
        scope: &str,
        grant: Grant<'_>,
        until: Instant,
    ) -> Result<Granted, NotGranted> {
        let (transport, clock) = (&self.transport, &*self.clock);
        if let (Proof::ManagedIdentity(identity), Grant::ClientCredentials) = (&client.proof, grant)
        {
            let resource = self.root.to_string();
            return self.machine.ask(client, *identity, &resource, transport, clock, until).await;
        }
        let endpoint = self.login.token_endpoint(&client.tenant);
        grant::Request { endpoint, scope, client, grant }.send(transport, clock, until).await
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
                return Ok(Poll { event, body: None, renewed: None });
            }
        };
        let reading = self.read(inquiry, token, &received);
        exchange.note(inquiry, &received, &reading);
        let body = reading.operation.and_then(|_| received.body.ok());
        Ok(Poll { event: Event::Polled(reading.answer), body, renewed: None })
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
            self.tokens.forget(&self.identity(connection), token, self.clock.now());
        }
        reading
    }
}

#[async_trait]
impl Graph for HttpGraph {
    async fn poll(&self, inquiry: Inquiry) -> Poll {
        let (token, renewed) = self.token(&inquiry).await;
        let poll = match token {
            Ok(token) => self.ask(&inquiry, &token).await,
            Err(hindrance) => Err(hindrance),
        };
        let poll = poll.unwrap_or_else(|hindrance| {
            let id = inquiry.operation;
            tracing::info!(operation.id = %id, ?hindrance, "no token to poll operation `{id}` with");
            Poll { event: Event::Unpolled(hindrance), body: None, renewed: None }
        });
        Poll { renewed, ..poll }
    }
}

#[async_trait]
impl Examiner for HttpGraph {
    async fn examine(&self, connection: &Connection, caller: &str) -> Result<Examination, TooSoon> {
        let identity = Identity::of(connection, &self.scope);
        let asked_at = self.clock.now();
        let counted_for = self.tokens.examination(&identity, caller, asked_at)?;
        let until = Instant::now() + self.deadlines.token;
        let grant = Grant::ClientCredentials;
        let granted = match self.fetch(connection, &self.scope, grant, until).await {
            Ok(granted) => granted,
            Err(NotGranted { complaint, .. }) => {
                let mut finding = Finding::of_complaint(&complaint);
                if finding == Finding::Trouble && connection.proof.kind().is_of_the_machine() {
                    finding = Finding::NoProof;
                }
                return Ok(Examination { finding, complaint: *complaint, graph: None });
            }
        };
        // What a repair has brought is for the polls as well.
        let token = self.tokens.keep(&identity, asked_at, self.clock.now(), granted);
        self.tokens.examination_at_graph(&identity, &counted_for, asked_at)?;
        let graph = match token {
            Some(token) => self.try_out(&token).await,
            None => None,
        };
        let finding = graph.as_ref().map_or(Finding::Trouble, |it| Finding::of_status(it.status));
        Ok(Examination { finding, complaint: Complaint::default(), graph })
    }
}

impl HttpGraph {
    /// Asks for an operation that cannot exist; `None` where there was no answer.
    async fn try_out(&self, token: &AccessToken) -> Option<GraphSaid> {
        let bearer = bearer(token)?;
        let reference = Reference { version: ApiVersion::V1, id: NO_OPERATION.to_owned() };
        let until = Instant::now() + self.deadlines.exchange.min(LONGEST_TRY);
        let asked = self.transport.exchange(until, BODY_LIMIT, |client| {
            let request = client.get(self.root.url(&reference)).header(AUTHORIZATION, bearer);
            request.header(ACCEPT, "application/json")
        });
        let received = match asked.await {
            Ok(received) => received,
            Err(no_answer) => {
                tracing::warn!(error = causes(&no_answer), "Graph did not answer a test");
                return None;
            }
        };
        let answered = Answered {
            status: received.status.as_u16(),
            retry_after: received.header(&RETRY_AFTER),
            body: received.body.as_deref().ok(),
        };
        let fault = wire::read(answered, Renewal::Possible, self.clock.wall()).fault;
        let named = fault.as_ref().and_then(|fault| fault.request_id.clone());
        Some(GraphSaid {
            status: answered.status,
            code: fault.and_then(|fault| fault.code),
            request_id: received.legible("request-id").or(named),
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
