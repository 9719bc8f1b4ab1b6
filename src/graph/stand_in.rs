//! What the tests of this module share: a server that answers as told, and a clock that is set.

use std::future::pending;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::ListenerExt;
use http::HeaderMap;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::{Connection, Proof};
use crate::clock::Clock;

/// A clock that stands still until it is moved.
#[derive(Default)]
pub(super) struct SetClock(AtomicI64);

impl SetClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Arrived {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn wants_a_token(&self) -> bool {
        self.path.ends_with("/oauth2/v2.0/token")
    }
}

/// A server on a real socket, in place of Graph and of Entra.
pub(super) struct StandIn {
    pub(super) root: String,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    connections: Arc<AtomicUsize>,
}

impl StandIn {
    /// Answers each request with what `answer` makes of it.
    pub(super) async fn start(
        answer: impl Fn(&Arrived) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::serve(move |request| Some(answer(request))).await
    }

    /// Takes requests and answers none.
    pub(super) async fn silent() -> Self {
        Self::serve(|_| None).await
    }

    async fn serve(
        answer: impl Fn(&Arrived) -> Option<Response> + Clone + Send + Sync + 'static,
    ) -> Self {
        let arrived: Arc<Mutex<Vec<Arrived>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let record = Arc::clone(&arrived);
        let handler = move |request: Request| async move {
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            let request = Arrived {
                method: parts.method.to_string(),
                path: parts.uri.to_string(),
                headers: parts.headers,
                body: String::from_utf8(body.to_vec()).unwrap(),
            };
            record.lock().unwrap().push(request.clone());
            match answer(&request) {
                Some(response) => response,
                None => pending().await,
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let root = format!("http://{}", listener.local_addr().unwrap());
        let count = Arc::clone(&connections);
        let listener = listener.tap_io(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let serving = axum::serve(listener, Router::new().fallback(handler));
        // Ends with the runtime of the test.
        drop(TaskTracker::new().spawn(serving.into_future()));
        Self { root, arrived, connections }
    }

    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    pub(super) fn polls(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().iter().filter(|a| !a.wants_a_token()).cloned().collect()
    }

    pub(super) fn token_requests(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().iter().filter(|a| a.wants_a_token()).cloned().collect()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub(super) fn connection(secret: &str) -> Connection {
    Connection {
        name: "contoso".to_owned(),
        tenant: "contoso.onmicrosoft.com".to_owned(),
        client_id: "6731de76-14a6-49ae-97bc-6eba6914391e".to_owned(),
        proof: Proof::Secret(secret.into()),
    }
}
