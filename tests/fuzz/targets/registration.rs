//! Whatever body comes to `POST /v1/operations`, it is refused by a documented problem and leaves
//! nothing behind, or it is tracked as it says, once.

#![no_main]

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use engagement_bridge::api::{Api, Limits, Parts, Proxies, router};
use engagement_bridge::clock::Clock;
use engagement_bridge::courier::Egress;
use engagement_bridge::courier::egress::{Ports, Rules};
use engagement_bridge::graph::{
    Connection, Examination, Examiner, GraphRoot, Proof, Reference, TooSoon,
};
use engagement_bridge::names::{LookupError, Names};
use engagement_bridge::nudge::Nudge;
use engagement_bridge::provision::add_caller;
use engagement_bridge::store::memory::MemoryStore;
use engagement_bridge::store::{CallerName, Connections as _, KeyDigest};
use engagement_bridge::{callback, lane, operation};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const ROOT: &str = "https://graph.microsoft.com";

const MEMBERS: [&str; 10] = [
    "operation",
    "callbackUrl",
    "connection",
    "accessToken",
    "expiresIn",
    "clientState",
    "format",
    "notify",
    "callbackSecret",
    "expiresAfter",
];

/// Every name has an address on the open internet, and nobody is asked for it.
struct AllNames;

#[async_trait]
impl Names for AllNames {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, LookupError> {
        Ok(vec![Ipv4Addr::new(8, 8, 8, 8).into()])
    }
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::constant(1_800_000_000, 0)
    }
}

/// A bridge with one caller, which has one connection and has registered nothing yet.
struct Fresh {
    runtime: Runtime,
    router: Router,
    documented: Vec<String>,
    key: SecretString,
}

struct Answer {
    status: StatusCode,
    media_type: String,
    location: Option<String>,
    body: Bytes,
}

/// Has no Graph to try connections out at, which no registration asks for.
struct NoGraph;

#[async_trait]
impl Examiner for NoGraph {
    async fn examine(&self, _: &Connection, _: &str) -> Result<Examination, TooSoon> {
        Err(TooSoon { wait: std::time::Duration::ZERO })
    }
}

impl Fresh {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let store = Arc::new(MemoryStore::new(lane::Policy::default()));
        let shop: CallerName = "shop".parse().unwrap();
        let key = runtime.block_on(async {
            let added = add_caller(store.as_ref(), shop.clone(), Noon.now()).await.unwrap();
            let connection = Connection {
                name: "contoso".to_owned(),
                tenant: "contoso.example".to_owned(),
                client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
                proof: Proof::Secret(SecretString::from("client-secret")),
            };
            store.add_connection(&shop, &connection, Noon.now()).await.unwrap();
            added.unwrap().api_key
        });
        let rules = Rules { allow_http: true, ports: Ports::Any, ..Rules::default() };
        let egress = Egress::new(rules, Arc::new(AllNames), Arc::new(Noon));
        let (router, document) = router(Api::new(Parts {
            store: store.clone(),
            directory: store.clone(),
            audit: store.clone(),
            safe: store,
            egress: Arc::new(egress),
            examiner: Arc::new(NoGraph),
            handshakes: None,
            clock: Arc::new(Noon),
            nudge: Arc::new(Nudge::default()),
            graph_root: GraphRoot::parse(ROOT).unwrap(),
            operations: operation::Policy::default(),
            callbacks: callback::Policy::default(),
            admin_key: KeyDigest([0; 32]),
            proxies: Proxies::default(),
            limits: Limits {
                requests_per_second: u32::MAX.try_into().unwrap(),
                ..Limits::default()
            },
        }));
        let document = serde_json::to_value(document).unwrap();
        let responses = &document["paths"]["/v1/operations"]["post"]["responses"];
        let documented = responses.as_object().unwrap().keys().cloned().collect();
        Self { runtime, router, documented, key }
    }

    fn ask(&self, method: Method, path: &str, body: &[u8]) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key.expose_secret()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(Bytes::copy_from_slice(body)))
            .unwrap();
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let text = |name| answer.headers().get(name).map(|it| it.to_str().unwrap().to_owned());
            let (media_type, location) = (text(header::CONTENT_TYPE), text(header::LOCATION));
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            Answer { status, media_type: media_type.unwrap_or_default(), location, body }
        })
    }

    fn operations(&self) -> Vec<Value> {
        let listed: Value =
            serde_json::from_slice(&self.ask(Method::GET, "/v1/operations", b"").body).unwrap();
        listed["operations"].as_array().unwrap().clone()
    }

    /// Whether it is as fresh as before.
    fn registers(&self, body: &[u8]) -> bool {
        let answer = self.ask(Method::POST, "/v1/operations", body);
        let status = answer.status.as_str().to_owned();
        assert!(self.documented.contains(&status), "{status} is not documented");
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        if answer.status != StatusCode::ACCEPTED {
            assert!(answer.status.is_client_error(), "{told}");
            assert_eq!(answer.media_type, "application/problem+json");
            assert_eq!(told["status"], json!(answer.status.as_u16()));
            if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
                let errors = told["errors"].as_array().unwrap();
                assert!(!errors.is_empty());
                assert!(errors.iter().all(|it| it["code"] != "" && it["detail"] != ""), "{told}");
            }
            assert_eq!(self.operations(), [] as [Value; 0]);
            return true;
        }
        self.tracks_once(body, &answer, &told);
        false
    }

    fn tracks_once(&self, body: &[u8], answer: &Answer, told: &Value) {
        let asked: Value = serde_json::from_slice(body).expect("another reader takes it for JSON");
        let members = asked.as_object().unwrap();
        assert!(members.keys().all(|it| MEMBERS.contains(&it.as_str())), "{asked}");
        assert_eq!(answer.media_type, "application/json");
        assert_eq!(told["clientState"], asked["clientState"]);
        assert_eq!(told["state"], "watching");
        let graph = GraphRoot::parse(ROOT).unwrap();
        let read = |text: &Value| Reference::parse(text.as_str().unwrap(), &graph).unwrap();
        assert_eq!(read(&told["operation"]), read(&asked["operation"]));
        let has_token = asked["accessToken"].is_string();
        assert_eq!(has_token, told["tokenExpiresAt"].is_string());
        assert_eq!(told["connection"], if has_token { Value::Null } else { json!("contoso") });
        if let Some(token) = asked["accessToken"].as_str().filter(|token| token.len() > 8) {
            let elsewhere = told.to_string() + asked["operation"].as_str().unwrap();
            let is_said = members.iter().any(|(name, value)| {
                name != "accessToken" && value.as_str().is_some_and(|it| it.contains(token))
            });
            assert!(is_said || !elsewhere.contains(token), "the answer tells the token");
        }
        let deadline: Timestamp = told["deadline"].as_str().unwrap().parse().unwrap();
        let span = deadline.duration_since(Noon.now()).as_secs();
        assert!((60..=7 * 24 * 3_600).contains(&span), "{told}");

        let location = answer.location.as_deref().unwrap();
        assert_eq!(location, format!("/v1/operations/{}", told["id"].as_str().unwrap()));
        let seen = self.ask(Method::GET, location, b"");
        let mut seen: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(seen.as_object_mut().unwrap().remove("callbacks"), Some(json!([])));
        assert_eq!(&seen, told);

        // The same again, spelt as it was answered, is the one that is there.
        let mut again = asked.clone();
        again["callbackUrl"] = told["callbackUrl"].clone();
        again["operation"] = told["operation"].clone();
        for same in [body, again.to_string().as_bytes()] {
            let same = self.ask(Method::POST, "/v1/operations", same);
            assert_eq!((same.status, &same.body), (StatusCode::OK, &answer.body));
        }
        assert_eq!(self.operations().len(), 1);
    }
}

thread_local! {
    /// Made anew once something is tracked, so that an input does alone what it does among others.
    static FRESH: RefCell<Option<Fresh>> = const { RefCell::new(None) };
}

fuzz_target!(|body: &[u8]| {
    FRESH.with_borrow_mut(|fresh| {
        let bridge = fresh.take().unwrap_or_else(Fresh::new);
        if bridge.registers(body) {
            *fresh = Some(bridge);
        }
    });
});
