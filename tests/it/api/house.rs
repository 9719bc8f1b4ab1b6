//! The bridge's own router without a socket, on a store in memory, with a caller who has everything that
//! can be asked about, another caller, and a clock that can be set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use engagement_bridge::api::{Api, Limits, Parts, Proxies, router};
use engagement_bridge::callback::{self, Reply};
use engagement_bridge::clock::Clock;
use engagement_bridge::courier::egress::Rules;
use engagement_bridge::courier::{Egress, ExtraHeader, SigningKey};
use engagement_bridge::graph::GraphRoot;
use engagement_bridge::nudge::Nudge;
use engagement_bridge::operation;
use engagement_bridge::store::{AuditLog, KeyDigest, Registration, Rotation, Share, SignInApp};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::listener::NoGraph;
use crate::contract::{Bench, attempted};
use crate::support::{NOON, SECRET, after, api_key, caller, connection, registration};
use crate::world::NoNames;

/// Of a tenant, and of an app that signs in as the caller.
pub(super) const GUID: &str = "11111111-2222-3333-4444-555555555555";

pub(super) const ADMIN_KEY: &str = "correct horse battery staple";

/// Shows the time that it was set to.
pub(super) struct SetClock(AtomicI64);

impl SetClock {
    pub(super) fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.as_millisecond()))
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

pub(super) struct House {
    pub(super) bench: Bench,
    pub(super) document: Value,
    router: Router,
    clock: Arc<SetClock>,
    _keeping: JoinSet<()>,
}

impl House {
    /// With everything in it that the caller `contoso` can have. Its first operation has ended, and its
    /// callback was answered by 410; its second one is watched.
    pub(super) async fn furnished() -> Self {
        let bench = Bench::memory().await;
        let audit = bench.store();
        Self::furnished_with(bench, audit).await
    }

    /// The same, where another one keeps the audit log.
    pub(super) async fn furnished_with(bench: Bench, audit: Arc<dyn AuditLog>) -> Self {
        Self::built(bench, audit, None).await
    }

    /// The same on that store, where one may sign in as well.
    pub(super) async fn with_door(bench: Bench, door: &Door) -> Self {
        let audit = bench.store();
        Self::built(bench, audit, Some(door)).await
    }

    async fn built(bench: Bench, audit: Arc<dyn AuditLog>, door: Option<&Door>) -> Self {
        let contoso = caller("contoso");
        bench.keep([registration(1)]).await;
        bench.settle_one(after(60)).await;
        let attempt = bench.claim_one(after(60)).await;
        bench.commit_one(attempted(attempt, Reply::Gone, after(61))).await;
        let elsewhere = "https://app.example.com/other-hooks".to_owned();
        bench.keep([Registration { callback_url: elsewhere, ..registration(2) }]).await;
        let rotation = Rotation { now: NOON, older_until: after(9_999), most_live: 9 };
        bench.rotate_secret(&contoso, &SECRET.parse().unwrap(), rotation).await.unwrap();
        for _ in 0..2 {
            let key = SigningKey::generate().unwrap();
            bench.rotate_signing_key(&contoso, &key, rotation).await.unwrap();
        }
        let header = ExtraHeader::new("x-api-key", "of the gateway".into()).unwrap();
        bench.set_extra_header(&contoso, &header, 9).await.unwrap();
        bench.add_connection(&contoso, &connection("spare"), NOON).await.unwrap();
        let tailspin = caller("tailspin");
        let key = api_key("tailspin");
        bench.add_caller(&tailspin, key, &SECRET.parse().unwrap(), NOON).await.unwrap();
        let share = Share { with: tailspin, name: "shared".to_owned(), is_withdrawn: false };
        bench.share_connection(&contoso, "contoso", &share, NOON).await.unwrap();
        let app = SignInApp { tenant: GUID.to_owned(), app: GUID.to_owned() };
        bench.add_sign_in(&contoso, &app, 9, NOON).await.unwrap();

        let clock = Arc::new(SetClock::at(after(62)));
        let now: Arc<dyn Clock> = clock.clone();
        let egress = Egress::new(Rules::default(), Arc::new(NoNames), Arc::clone(&now));
        let mut api = Api::new(Parts {
            store: bench.store(),
            directory: bench.store(),
            audit,
            safe: Arc::clone(&bench.safe),
            egress: Arc::new(egress),
            examiner: Arc::new(NoGraph),
            handshakes: None,
            clock: now,
            nudge: Arc::new(Nudge::default()),
            graph_root: GraphRoot::parse("https://graph.microsoft.com").unwrap(),
            operations: operation::Policy::default(),
            callbacks: callback::Policy::default(),
            admin_key: KeyDigest(Sha256::digest(ADMIN_KEY).into()),
            proxies: Proxies::default(),
            limits: Limits::default(),
        });
        let mut keeping = JoinSet::new();
        if let Some(door) = door {
            let (sign_in, exchanging) = door.sign_in();
            api = api.with_sign_in(Arc::clone(&sign_in), exchanging);
            keeping.spawn(async move { sign_in.keep_keys(CancellationToken::new()).await });
        }
        let (router, document) = router(api);
        let document = serde_json::to_value(document).unwrap();
        Self { bench, document, router, clock, _keeping: keeping }
    }

    pub(super) fn wait(&self, span: Duration) {
        let millis = i64::try_from(span.as_millis()).unwrap();
        self.clock.0.fetch_add(millis, Ordering::Relaxed);
    }

    /// Asks with this bearer, if any; the status, and the body as JSON.
    pub(super) async fn ask(
        &self,
        bearer: Option<&str>,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let service = TowerToHyperService::new(self.router.clone());
        let answer = service.call(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Makes a key of `caller`'s: the key itself, and its id.
    pub(super) async fn make_key(&self, caller: &str, wanted: &Value) -> (String, String) {
        let path = format!("/v1/admin/callers/{caller}/keys");
        let (status, made) = self.ask(Some(ADMIN_KEY), "POST", &path, Some(wanted)).await;
        assert_eq!(status, 201, "{made}");
        let text = |member: &str| made[member].as_str().unwrap().to_owned();
        (text("apiKey"), text("id"))
    }

    /// Adds a caller; its key.
    pub(super) async fn add_caller(&self, name: &str) -> String {
        let body = json!({ "name": name });
        let (_, added) = self.ask(Some(ADMIN_KEY), "POST", "/v1/admin/callers", Some(&body)).await;
        added["apiKey"].as_str().unwrap().to_owned()
    }
}
