//! The operator's desk: requests to `/v1/admin`, wherever the database happens to be open.
//!
//! One process at a time has a database file open. Where a bridge is running, the requests go to its
//! API. Where none is, or where the database is a server's, the same API is set up here, without a
//! socket. Either way the same code answers, so that what is refused is refused in the same words.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{self, Api};
use crate::clock::{Clock, SystemClock};
use crate::config::{Database, DatabaseSettings, GraphSettings};
use crate::courier::Egress;
use crate::courier::egress::Rules;
use crate::graph::{self, HttpGraph};
use crate::names::{Names, SystemNames, Unguarded};
use crate::nudge::Nudge;
use crate::serve::{self, Opened, Whereabouts};
use crate::store::sqlite::holder;
use crate::tls::Fingerprint;
use crate::worker::Rekeyer;
use crate::{callback, lane, operation, tls};

/// How long a running bridge may take to answer.
const PATIENCE: Duration = Duration::from_secs(35);

/// Who answers.
pub(super) struct Desk {
    clerk: Clerk,
    admin_key: SecretString,
    /// Whether nobody else can have the database open meanwhile.
    pub(super) is_alone: bool,
}

enum Clerk {
    /// The database is open here.
    Here { router: axum::Router, opened: Opened, nudge: Arc<Nudge> },
    /// A running bridge has it open.
    There { client: reqwest::Client, url: String },
}

impl Desk {
    /// Opens the database, made new if there is none, or finds the process that has it open.
    pub(super) async fn open(settings: &DatabaseSettings) -> anyhow::Result<Self> {
        Self::open_asking(settings, &GraphSettings::usual()?).await
    }

    /// The same, for requests that have Graph asked: where the database is opened here, as `graph` says.
    pub(super) async fn open_asking(
        settings: &DatabaseSettings,
        graph: &GraphSettings,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let database = settings.database()?;
        if let Database::File(path) = &database
            && let Some(at) = holder(path).and_then(|word| word.parse::<Whereabouts>().ok())
        {
            let clerk = Clerk::There { client: client(at.certificate, PATIENCE)?, url: at.url() };
            let admin_key = settings.admin_key()?;
            return Ok(Self { clerk, admin_key, is_alone: false });
        }
        let names: Arc<dyn Names> = Arc::new(SystemNames::default());
        let opened = Opened::open(settings, lane::Policy::default(), Arc::clone(&names)).await?;
        let admin_key = settings.admin_key()?;
        let nudge = Arc::new(Nudge::default());
        let router = api_of(&opened, &admin_key, names, clock, graph, Arc::clone(&nudge))?;
        let clerk = Clerk::Here { router, opened, nudge };
        let is_alone = matches!(database, Database::File(_));
        Ok(Self { clerk, admin_key, is_alone })
    }

    /// Who seals anew what is in the database, where that is open here.
    pub(super) fn rekeyer(&self) -> Option<Rekeyer> {
        let Clerk::Here { opened, nudge, .. } = &self.clerk else { return None };
        let (safe, clock) = (opened.safe(), opened.clock());
        Some(Rekeyer { safe, clock, nudge: Arc::clone(nudge) })
    }

    /// Makes a request of the API, and reads its answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<T> {
        let bytes = self.send(method, path, body).await?;
        serde_json::from_slice(&bytes).context("the API's answer is not as expected")
    }

    /// Makes a request of the API that is answered by nothing but success.
    pub(super) async fn tell(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<()> {
        self.send(method, path, body).await.map(drop)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Bytes> {
        let (status, bytes) = match &self.clerk {
            Clerk::Here { router, .. } => self.ask_here(router, method, path, body).await?,
            Clerk::There { client, url } => {
                let request = client
                    .request(method, format!("{url}{path}"))
                    .bearer_auth(self.admin_key.expose_secret());
                let request = body.into_iter().fold(request, reqwest::RequestBuilder::json);
                let answered = async {
                    let response = request.send().await?;
                    Ok((response.status(), response.bytes().await?))
                };
                answered.await.map_err(reqwest::Error::without_url).with_context(|| {
                    format!("the bridge that has the database open does not answer at {url}")
                })?
            }
        };
        if !status.is_success() {
            return Err(refusal(status, &bytes));
        }
        Ok(bytes)
    }

    async fn ask_here(
        &self,
        router: &axum::Router,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {}", self.admin_key.expose_secret()))
            .header(CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))?;
        let service = TowerToHyperService::new(router.clone());
        let Ok(response) = service.call(request).await;
        let (head, body) = response.into_parts();
        Ok((head.status, body.collect().await?.to_bytes()))
    }
}

/// The API on a database that is open here. Only its `/v1/admin` is used.
fn api_of(
    opened: &Opened,
    admin_key: &SecretString,
    names: Arc<dyn Names>,
    clock: Arc<dyn Clock>,
    graph: &GraphSettings,
    nudge: Arc<Nudge>,
) -> anyhow::Result<axum::Router> {
    let asking = graph::Settings {
        root: graph.graph_root.clone(),
        login: graph.login()?,
        // Nobody signs in at a desk.
        api: None,
        machine: graph.machine.machine()?,
        tls: serve::tls(graph.ca_file.as_deref())?,
        resolver: Some(Arc::new(Unguarded(Arc::clone(&names)))),
        deadlines: graph::Deadlines::default(),
        shortest_service: graph::SHORTEST_SERVICE,
    };
    let examiner = Arc::new(HttpGraph::new(asking, Arc::clone(&clock))?);
    let (router, _) = api::router(Api::new(api::Parts {
        store: opened.store(),
        directory: opened.directory(),
        safe: opened.safe(),
        egress: Arc::new(Egress::new(Rules::default(), names, Arc::clone(&clock))),
        examiner,
        handshakes: None,
        clock,
        nudge,
        graph_root: graph.graph_root.clone(),
        operations: operation::Policy::default(),
        callbacks: callback::Policy::default(),
        audit: opened.audit(),
        admin_key: api::digest(admin_key),
        proxies: api::Proxies::default(),
        limits: api::Limits::default(),
    }));
    Ok(router)
}

/// Says what the API says, to somebody at a terminal.
fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text =
        |value: &Value, member: &str| value.get(member).and_then(Value::as_str).map(str::to_owned);
    let title = text(&problem, "title").unwrap_or_else(|| status.to_string());
    let mut lines = vec![text(&problem, "detail").unwrap_or(title)];
    for error in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let (field, detail) = (text(error, "field"), text(error, "detail"));
        lines.push(format!("  {}: {}", field.unwrap_or_default(), detail.unwrap_or_default()));
    }
    anyhow::anyhow!(lines.join("\n"))
}

/// A client for a bridge on this machine or near it, which shows this certificate where it speaks HTTPS.
pub(super) fn client(
    certificate: Option<Fingerprint>,
    within: Duration,
) -> anyhow::Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::pinned_client_config(certificate)?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(within);
    Ok(client.build()?)
}
