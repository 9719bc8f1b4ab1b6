//! Stands in for Microsoft Graph and Entra where there is no tenant.
//!
//! A real HTTP server on a port of its own, which behaves as Microsoft's do, as far as creating
//! communities goes: it hands out tokens, starts operations, lets them progress by a script, spends
//! budgets, throttles, and fails in every way that a script asks for. It records each request, so
//! that a client's promises can be proved from the other side. To be an independent witness it uses
//! nothing of this crate but the clock.
//!
//! # What it answers
//!
//! | request | answer |
//! |---|---|
//! | `POST /{tenant}/oauth2/v2.0/token` | a token: client credentials, on behalf of a user, refresh; by a secret, or by an assertion, which is verified |
//! | `GET /{tenant}/v2.0/.well-known/openid-configuration` | where everything of the tenant's is |
//! | `GET /{tenant}/discovery/v2.0/keys` | the keys that it signs by |
//! | `GET /metadata/identity/oauth2/token` | a token of the machine's identity, as the Instance Metadata Service hands out |
//! | `GET /msi/token` | the same, as an App Service does, where [`Options::identity_header`] is set |
//! | `POST /{v1.0,beta}/employeeExperience/communities` | 202, `Operation-Location` and `Location` |
//! | `GET /{v1.0,beta}/employeeExperience/engagementAsyncOperations/{id}` | the operation; also as `engagementAsyncOperations('{id}')` |
//!
//! A community whose `displayName` ends in `#fails`, `#skipped`, `#slow`, `#endless`, `#throttled`
//! or `#unstable` gets the script of that name (see [`Script::named`]), any other one `succeeds`.
//!
//! Each identity has 10 requests to Graph in any 30 s of sandbox time, whatever they are for, and
//! then 429s. An identity is `{tenant}/{client id}` for an app, `{tenant}/{client id}/{user}` for a
//! user on whose behalf an app asks, and as it was called for a token that was handed out by
//! [`Sandbox::hand_out_token`]. Words other than the first four of Graph's statuses come as
//! `unknownFutureValue` to a client that does not send `Prefer: include-unknown-enum-members`.
//!
//! # How it is controlled
//!
//! In process by the methods of [`Sandbox`], and from other processes by HTTP with JSON. None of
//! this is recorded, throttled or protected: who reaches the port controls the sandbox.
//!
//! | request | does |
//! |---|---|
//! | `POST /sandbox/operations` `{"version":"v1.0","script":…}` | starts an operation: 201 with its `id` and `location`; for scripts see [`Script`] |
//! | `POST /sandbox/tokens` `{"identity":"alice","expiresIn":3600}` | hands out a token for Graph: 201 with `accessToken`; with `"audience":"{client id}"` one to be exchanged on behalf of the user |
//! | `POST /sandbox/sign-ins` `{"tenant":…,"audience":…,"app":…,"user":…,"scopes":[…],"expiresIn":3600}` | hands out a signed token of version 2.0, by which an app signs in to another: 201 with `accessToken`; without a user in the app's own name, with `roles` |
//! | `POST /sandbox/key-rollover` `{"withdraw":false}` | signs by another key from now on: 204 |
//! | `POST /sandbox/token-script` `[{"http":503,"retryAfter":"2"}]` | the next answers of the token endpoint: 204; see [`TokenScript`] |
//! | `POST /sandbox/certificates` `{"tenant":…,"clientId":…,"certificate":"-----BEGIN…"}` | lets an app sign assertions by the key of a certificate: 204 |
//! | `POST /sandbox/federated-tokens` `{"tenant":…,"clientId":…,"token":…}` | lets an app prove itself by this token of another issuer, and by none before it: 204 |
//! | `GET /sandbox/record` | `{"requests":[…],"forgotten":0}`; see [`RecordedRequest`] |
//! | `POST /sandbox/reset` | forgets operations, tokens, scripts, budgets and the record: 204 |

mod control;
mod entra;
mod graph;
mod record;
mod script;
mod serve;
mod throttle;
mod tokens;
mod told;
mod world;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use entra::App;
use tokens::{Access, Audience};
use world::Shared;

pub use control::Created;
pub use entra::signing::{Grants, SignInToken};
pub use record::{
    RECORDED_HEADERS, RecordedRequest, Surface, largest_window, shortest_gap_between_polls,
};
pub use script::{InvalidScript, Script, TokenScript};

/// No larger body is read.
const BODY_LIMIT: usize = 64 * 1_024;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// How a sandbox is to behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many times faster than real time its time runs, 1 to 1,000,000: what takes 30 s there
    /// takes 30 s / `speed`. Holds for the budgets and for operations that progress by time; not
    /// for tokens, of which the client is told in seconds, and not for what a script gives
    /// verbatim.
    pub speed: f64,
    /// Port 0 takes any port that is free.
    pub listen: SocketAddr,
    /// How long an access token lives.
    pub token_life: Duration,
    /// Who may get tokens. Where this is empty, any client of any tenant with any secret.
    pub clients: Vec<Client>,
    /// What `X-IDENTITY-HEADER` must say for a token of an App Service; without it there is none.
    pub identity_header: Option<SecretString>,
    /// The root by which it names itself, where it is not reached by its own address: behind TLS.
    pub known_as: Option<String>,
}

/// An app registration.
#[derive(Clone, Debug)]
pub struct Client {
    pub tenant: String,
    pub client_id: String,
    pub secret: SecretString,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            speed: 1.0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            token_life: Duration::from_secs(3_599),
            clients: Vec::new(),
            identity_header: None,
            known_as: None,
        }
    }
}

/// The version of Graph's API.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum Version {
    #[default]
    #[serde(rename = "v1.0")]
    V1,
    #[serde(rename = "beta")]
    Beta,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the sandbox holds {limit} {what}, which is all it can: reset it, or start another")]
pub struct Full {
    pub what: &'static str,
    pub limit: usize,
}

/// Why an app cannot sign by a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotUploaded {
    #[error("the bytes are no X.509 certificate")]
    NotACertificate,
    #[error(transparent)]
    Full(#[from] Full),
}

/// A sandbox that is serving. Stops when it is dropped.
#[must_use = "a sandbox stops when it is dropped"]
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    connections: TaskTracker,
    stopped: CancellationToken,
}

impl Sandbox {
    /// Binds `options.listen` and begins to serve. Its time of day is that of `clock`.
    ///
    /// Errs where the address cannot be bound, the system has no randomness, or the speed is out of
    /// range ([`io::ErrorKind::InvalidInput`]).
    pub async fn start(options: Options, clock: Arc<dyn Clock>) -> io::Result<Self> {
        if !(1.0..=1_000_000.0).contains(&options.speed) {
            let reason = format!("the sandbox's speed is 1 to 1000000, not {}", options.speed);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(clock, options, format!("http://{}", dialled(address)))?);
        let connections = TaskTracker::new();
        let stopped = CancellationToken::new();
        let router = serve::router(Arc::clone(&shared));
        connections.spawn(serve::serve(listener, router, connections.clone(), stopped.clone()));
        Ok(Self { address, shared, connections, stopped })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The root of Graph and of the login endpoints, as in `http://127.0.0.1:8123`.
    ///
    /// Where it is asked by another name, it names itself by that one in its answers.
    pub fn root(&self) -> &str {
        &self.shared.root
    }

    /// Starts an operation that follows `script`, as if a community had been created.
    pub fn create(&self, version: Version, script: Script) -> Result<Created, Full> {
        let now = self.shared.clock.now();
        let id = self.shared.world().create(Arc::new(script), now)?;
        Ok(Created { location: graph::location(self.root(), version, &id), id })
    }

    /// A token for Graph as a caller would hand it in, with which requests are those of `identity`.
    pub fn hand_out_token(&self, identity: &str, life: Duration) -> Result<SecretString, Full> {
        let access = Access { identity: identity.into(), audience: Audience::Graph };
        self.shared.world().access_token(access, life, self.shared.clock.now())
    }

    /// A token of `user` for the app `client_id`, which that app can exchange on behalf of the user.
    pub fn hand_out_assertion(
        &self,
        user: &str,
        client_id: &str,
        life: Duration,
    ) -> Result<SecretString, Full> {
        let audience = Audience::App(client_id.to_ascii_lowercase());
        let access = Access { identity: user.into(), audience };
        self.shared.world().access_token(access, life, self.shared.clock.now())
    }

    /// A signed token by which an app signs in to another, in a user's name or in its own.
    pub fn hand_out_sign_in(
        &self,
        token: &SignInToken,
        life: Duration,
    ) -> Result<SecretString, Full> {
        self.shared.world().sign_in_token(token, self.root(), life, self.shared.clock.now())
    }

    /// Signs by another key from now on. The one of before is published still, unless withdrawn.
    pub fn roll_keys_over(&self, withdraw: bool) {
        self.shared.world().signing.roll_over(withdraw);
    }

    /// Lets an app sign assertions by the key of this certificate (DER), beside those it has.
    pub fn upload_certificate(
        &self,
        tenant: &str,
        client_id: &str,
        der: &[u8],
    ) -> Result<(), NotUploaded> {
        self.shared.world().trust.certificate(App::new(tenant, client_id), der)
    }

    /// Lets an app prove itself by this token of another issuer, and by none before it.
    pub fn federate(&self, tenant: &str, client_id: &str, token: &str) -> Result<(), Full> {
        self.shared.world().trust.federated(App::new(tenant, client_id), token)
    }

    /// Lets the token endpoint answer `script`, once what it was told before is used up.
    pub fn script_tokens(&self, script: TokenScript) {
        self.shared.world().script_tokens(script);
    }

    /// The newest 250,000 requests, in the order in which they were answered.
    pub fn record(&self) -> Vec<RecordedRequest> {
        self.shared.world().record.requests()
    }

    /// How many requests are no longer in the record, because newer ones took their place.
    pub fn forgotten(&self) -> u64 {
        self.shared.world().record.forgotten()
    }

    /// Forgets operations, tokens, scripts, budgets and the record.
    pub fn reset(&self) {
        self.shared.world().reset();
    }

    /// Stops serving, and returns when every connection is cut.
    pub async fn stop(self) {
        self.stopped.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

impl Version {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1.0",
            Self::Beta => "beta",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::V1, Self::Beta].into_iter().find(|version| version.as_str() == word)
    }
}

/// An address that leads to `bound`, where that is all addresses of the machine.
fn dialled(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// The sandbox's root by the name under which it was asked, which may lead where its address does
/// not, as between containers.
fn root_as_seen(shared: &Shared, headers: &HeaderMap) -> String {
    if let Some(root) = &shared.options.known_as {
        return root.clone();
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.map_or_else(|| shared.root.clone(), |host| format!("http://{host}"))
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1).
fn bearer(head: &Parts) -> Option<&str> {
    let value = head.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The body of a request, unless it is too large, too late or cut off.
async fn read(body: Body) -> Option<Bytes> {
    let body = axum::body::to_bytes(body, BODY_LIMIT);
    tokio::time::timeout(BODY_TIME, body).await.ok()?.ok()
}

/// The value of `Date` (RFC 9110 §6.6.1), which hyper would take from another clock.
fn http_date(now: Timestamp) -> HeaderValue {
    let since_epoch =
        Duration::from_millis(u64::try_from(now.as_millisecond()).unwrap_or_default());
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since_epoch);
    HeaderValue::try_from(date).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
