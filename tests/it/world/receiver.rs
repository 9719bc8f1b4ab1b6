//! A receiver that keeps what comes, as it came.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
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

/// A question whether it wants callbacks.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

type Manners = dyn Fn(&Asked) -> Response + Send + Sync;

#[derive(Clone)]
struct Desk {
    asked: Arc<Mutex<Vec<Asked>>>,
    manners: Arc<Mutex<Arc<Manners>>>,
    received: mpsc::Sender<Received>,
    answers: Arc<Mutex<Vec<Response>>>,
    secret: Arc<Mutex<Option<SigningSecret>>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::channel(1_000);
        let manners: Arc<Manners> = Arc::new(agree);
        let desk = Desk {
            asked: Arc::default(),
            manners: Arc::new(Mutex::new(manners)),
            received: sender,
            answers: Arc::default(),
            secret: Arc::default(),
        };
        let hooks = post(take).options(answer);
        let router = Router::new().route("/hooks", hooks).with_state(desk.clone());
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(listener, router).into_future());
        Self { address, received: AsyncMutex::new(received), desk, _serving: serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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

    /// From now on, questions whether it wants callbacks are answered so.
    pub(crate) fn answer_questions(
        &self,
        manners: impl Fn(&Asked) -> Response + Send + Sync + 'static,
    ) {
        *self.desk.manners.lock().unwrap() = Arc::new(manners);
    }

    /// All that it was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.desk.asked.lock().unwrap().clone()
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

async fn take(
    State(desk): State<Desk>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if token(&uri).is_some() {
        return answer(State(desk), method, uri, headers).await;
    }
    let answer = desk.answers.lock().unwrap().pop();
    desk.received.send(Received { headers, body }).await.unwrap();
    answer.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
}

async fn answer(
    State(desk): State<Desk>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let asked = Asked { method, uri, headers };
    let manners = Arc::clone(&desk.manners.lock().unwrap());
    let answer = manners(&asked);
    desk.asked.lock().unwrap().push(asked);
    answer
}

/// As whoever wants callbacks, in both forms.
pub(crate) fn agree(asked: &Asked) -> Response {
    match token(&asked.uri) {
        Some(token) => token.into_response(),
        None => [("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "*")].into_response(),
    }
}

fn token(uri: &Uri) -> Option<String> {
    let pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.into_iter().find(|(name, _)| name == "validationToken").map(|(_, it)| it.into_owned())
}
