//! The receiver in the demo: verifies each callback before it believes a word of it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::{Clock as _, SystemClock};
use crate::courier::SigningSecret;
use crate::courier::signing::{SignedHeaders, VerifyError, verify};

/// A receiver that is bound and not yet listening, so that callbacks wait for it.
pub(super) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
}

/// Callbacks as they come, for as long as this is kept.
pub(super) struct Deliveries {
    received: mpsc::Receiver<Delivery>,
    _serving: JoinSet<std::io::Result<()>>,
}

/// One callback that came.
pub(super) struct Delivery {
    pub(super) id: String,
    /// The bridge's id of the operation.
    pub(super) operation: String,
    pub(super) outcome: String,
    pub(super) client_state: String,
    /// What Graph made, where it did.
    pub(super) resource_id: Option<String>,
    pub(super) verified: Result<(), VerifyError>,
}

#[derive(Clone)]
struct Desk {
    secret: SigningSecret,
    deliveries: mpsc::Sender<Delivery>,
}

#[derive(Deserialize)]
struct Body {
    data: Option<Data>,
    tracking: Tracking,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    resource_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tracking {
    id: String,
    outcome: Option<String>,
    client_state: Option<String>,
}

impl Receiver {
    pub(super) async fn bind() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hooks/engage", self.address)
    }

    /// Begins to take callbacks that are signed with `secret`.
    pub(super) fn serve(self, secret: SigningSecret) -> Deliveries {
        let (deliveries, received) = mpsc::channel(16);
        let router = Router::new()
            .route("/hooks/engage", post(receive))
            .with_state(Desk { secret, deliveries });
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(self.listener, router).into_future());
        Deliveries { received, _serving: serving }
    }
}

impl Deliveries {
    pub(super) async fn next(&mut self) -> anyhow::Result<Delivery> {
        self.received.recv().await.context("the receiver of the demo stopped")
    }
}

async fn receive(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let signed = SignedHeaders {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
    };
    let verified = verify(&desk.secret, signed, &body, SystemClock.now());
    let Ok(Body { data, tracking }) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let status = if verified.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED };
    let delivery = Delivery {
        id: signed.id.unwrap_or_default().to_owned(),
        operation: tracking.id,
        outcome: tracking.outcome.unwrap_or_default(),
        client_state: tracking.client_state.unwrap_or_default(),
        resource_id: data.and_then(|data| data.resource_id),
        verified,
    };
    // Answered even if the demo is over: the bridge should not try again.
    drop(desk.deliveries.send(delivery).await);
    status
}
