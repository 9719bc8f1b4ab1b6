//! A receiver that keeps what comes, as it came.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use engagement_bridge::clock::{Clock as _, SystemClock};
use engagement_bridge::courier::SigningSecret;
use engagement_bridge::courier::signing::{SignedHeaders, verify};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;

use super::PATIENCE;

/// Listens from its start until it is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    received: AsyncMutex<mpsc::Receiver<Received>>,
    desk: Desk,
    _serving: JoinSet<std::io::Result<()>>,
}

/// One request that came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone)]
struct Desk {
    received: mpsc::Sender<Received>,
    answers: Arc<Mutex<Vec<Response>>>,
    secret: Arc<Mutex<Option<SigningSecret>>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::channel(1_000);
        let desk = Desk { received: sender, answers: Arc::default(), secret: Arc::default() };
        let router = Router::new().route("/hooks", post(take)).with_state(desk.clone());
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(listener, router).into_future());
        Self { address, received: AsyncMutex::new(received), desk, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// From now on, whatever comes must be signed by this.
    pub(crate) fn expect_secret(&self, secret: SigningSecret) {
        *self.desk.secret.lock().unwrap() = Some(secret);
    }

    /// Answers the next requests with these, and 204 behind them.
    pub(crate) fn answer<R: IntoResponse>(&self, answers: Vec<R>) {
        let answers = answers.into_iter().rev().map(IntoResponse::into_response);
        *self.desk.answers.lock().unwrap() = answers.collect();
    }

    /// The next callback, verified.
    pub(crate) async fn next(&self) -> Received {
        let mut received = self.received.lock().await;
        let next = tokio::time::timeout(PATIENCE, received.recv()).await;
        let next = next.expect("no callback came in time").unwrap();
        let secret = self.desk.secret.lock().unwrap().clone().expect("a secret to verify with");
        next.verify(&secret);
        next
    }

    /// Nothing has come that was not looked at.
    pub(crate) async fn has_nothing_more(&self) {
        let more = self.received.lock().await.try_recv();
        assert!(more.is_err(), "one callback more than expected: {more:?}");
    }
}

impl Received {
    pub(crate) fn verify(&self, secret: &SigningSecret) {
        let headers = SignedHeaders {
            id: Some(self.header("webhook-id")),
            timestamp: Some(self.header("webhook-timestamp")),
            signature: Some(self.header("webhook-signature")),
        };
        verify(secret, headers, &self.body, SystemClock.now()).unwrap();
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// What follows `engagementAsyncOperation.` in the type.
    pub(crate) fn about(&self) -> String {
        let kind = self.json()["type"].as_str().unwrap().to_owned();
        kind.strip_prefix("engagementAsyncOperation.").unwrap().to_owned()
    }

    /// Graph's operation as it was sent on, byte for byte.
    pub(crate) fn data(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            data: &'a RawValue,
        }
        let body: Body<'_> = serde_json::from_slice(&self.body).unwrap();
        body.data.get().to_owned()
    }
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    let answer = desk.answers.lock().unwrap().pop();
    desk.received.send(Received { headers, body }).await.unwrap();
    answer.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
}
