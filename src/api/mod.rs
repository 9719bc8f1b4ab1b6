//! Listens: the REST API. It stores and nudges, and never takes a step itself.
//!
//! The router below is the table of contents. One endpoint, one function; its file has the shapes
//! of request and answer, the handler, and what can be wrong.

mod access;
mod admin;
mod audit;
mod body;
mod callback_settings;
mod callbacks;
mod connections;
mod destinations;
mod health;
mod ids;
mod key_uses;
mod keys;
mod listener;
mod metrics;
mod on_behalf_of;
mod operations;
mod page;
mod problem;
mod resends;
mod secrets;
mod sign_ins;
mod signing_keys;
mod vault;
mod words;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Router, middleware};
use governor::clock::{Clock as _, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use utoipa::OpenApi;
use utoipa::openapi::Components;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::on_behalf_of::Exchanges;
use crate::clock::Clock;
use crate::courier::Egress;
use crate::graph::{Examiner, GraphRoot, OnBehalfOf};
use crate::handshake::Handshakes;
use crate::metrics::Metrics;
use crate::nudge::Nudge;
use crate::sign_in::SignIn;
use crate::store::{AuditLog, CallerName, Directory, KeyDigest, Safe, Store};
use crate::traces::Tracer;
use crate::{callback, operation};

use access::Attempts;
pub use access::{ForwardedBy, Proxies};
pub(crate) use access::{NewKey, digest, new_admin_key};
pub use key_uses::KeyUses;
pub use listener::{Listener, ListenerLimits};
pub use metrics::{Survey, metrics_router};
pub use problem::{FieldError, Kind, Problem};

/// What the handlers work with.
#[derive(Clone)]
pub struct Api {
    pub store: Arc<dyn Store>,
    pub directory: Arc<dyn Directory>,
    pub safe: Arc<dyn Safe>,
    pub egress: Arc<Egress>,
    /// Tries connections out.
    pub examiner: Arc<dyn Examiner>,
    /// `None` where receivers need not be asked first.
    pub handshakes: Option<Arc<Handshakes>>,
    pub clock: Arc<dyn Clock>,
    pub nudge: Arc<Nudge>,
    /// The only place that operations may refer to.
    pub graph_root: Arc<GraphRoot>,
    pub operations: Arc<operation::Policy>,
    pub callbacks: Arc<callback::Policy>,
    pub audit: Arc<dyn AuditLog>,
    pub admin_key: KeyDigest,
    pub limits: Limits,
    pub key_uses: Arc<KeyUses>,
    pub metrics: Arc<Metrics>,
    pub survey: Arc<Survey>,
    pub tracer: Tracer,
    proxies: Arc<Proxies>,
    attempts: Arc<Attempts>,
    /// Where people and apps sign in by tokens of Microsoft Entra.
    sign_in: Option<Arc<SignIn>>,
    exchanges: Option<Arc<Exchanges>>,
    pacer: Arc<Pacer>,
}

type Pacer = RateLimiter<CallerName, HashMapStateStore<CallerName>, MonotonicClock>;

/// How much one caller, and one request, may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// From the first byte of a request to the last of its answer.
    pub request: Duration,
    /// Requests of one caller per second, with as many again in a burst.
    pub requests_per_second: NonZeroU32,
    /// Wrong keys from one address per minute, with as many at once.
    pub failed_attempts: NonZeroU32,
    /// Operations of one caller that are not at rest.
    pub live_operations: u64,
    pub default_deadline: Duration,
    /// What `expiresAfter` may be at the least.
    pub shortest_deadline: Duration,
    pub longest_deadline: Duration,
    /// `/readyz` fails once what is due has waited for longer.
    pub longest_overdue: Duration,
    /// Between two looks at the database for `/metrics`, at the least.
    pub surveys_apart: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 * 1024,
            request: Duration::from_secs(30),
            requests_per_second: NonZeroU32::new(1_000).unwrap_or(NonZeroU32::MIN),
            failed_attempts: NonZeroU32::new(60).unwrap_or(NonZeroU32::MIN),
            live_operations: 100_000,
            default_deadline: Duration::from_hours(24),
            shortest_deadline: Duration::from_mins(1),
            longest_deadline: Duration::from_hours(7 * 24),
            longest_overdue: Duration::from_mins(2),
            surveys_apart: Duration::from_secs(10),
        }
    }
}

/// What an [`Api`] is made of.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub directory: Arc<dyn Directory>,
    pub safe: Arc<dyn Safe>,
    pub egress: Arc<Egress>,
    /// Tries connections out.
    pub examiner: Arc<dyn Examiner>,
    pub handshakes: Option<Arc<Handshakes>>,
    pub clock: Arc<dyn Clock>,
    pub nudge: Arc<Nudge>,
    pub graph_root: GraphRoot,
    pub operations: operation::Policy,
    pub callbacks: callback::Policy,
    pub audit: Arc<dyn AuditLog>,
    pub admin_key: KeyDigest,
    pub proxies: Proxies,
    pub limits: Limits,
}

impl Api {
    pub fn new(parts: Parts) -> Self {
        let per_second = parts.limits.requests_per_second;
        let quota = Quota::per_second(per_second).allow_burst(per_second.saturating_mul(TWO));
        let pacer = RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock);
        Self {
            store: parts.store,
            directory: parts.directory,
            safe: parts.safe,
            egress: parts.egress,
            examiner: parts.examiner,
            handshakes: parts.handshakes,
            clock: parts.clock,
            nudge: parts.nudge,
            graph_root: Arc::new(parts.graph_root),
            operations: Arc::new(parts.operations),
            callbacks: Arc::new(parts.callbacks),
            audit: parts.audit,
            admin_key: parts.admin_key,
            key_uses: Arc::default(),
            metrics: Arc::default(),
            tracer: Tracer::off(),
            survey: Arc::new(Survey::new(parts.limits.surveys_apart)),
            proxies: Arc::new(parts.proxies),
            attempts: Arc::new(Attempts::new(parts.limits.failed_attempts)),
            limits: parts.limits,
            sign_in: None,
            exchanges: None,
            pacer: Arc::new(pacer),
        }
    }

    /// The same, with a door for tokens of Microsoft Entra, and somebody to exchange those of users.
    #[must_use]
    pub fn with_sign_in(self, sign_in: Arc<SignIn>, authority: Arc<dyn OnBehalfOf>) -> Self {
        let exchanges = Some(Arc::new(Exchanges::new(authority)));
        Self { sign_in: Some(sign_in), exchanges, ..self }
    }

    /// The same, counting where others of this bridge count.
    #[must_use]
    pub fn counted_by(self, metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), ..self }
    }

    /// The same, telling whoever traces operations of their registration.
    #[must_use]
    pub fn traced_by(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Counts a request of `caller`, or says how long it has to wait.
    fn pace(&self, caller: &CallerName) -> Result<(), Problem> {
        self.pacer.check_key(caller).map_err(|not_until| {
            let wait = not_until.wait_time_from(MonotonicClock.now());
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            Problem { retry_after: Some(seconds), ..Problem::new(Kind::TooManyRequests) }
        })
    }
}

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "engagement-bridge",
        description = "Tracks long-running Viva Engage operations of Microsoft Graph, and tells \
            how each one ended by one signed callback.",
    ),
    tags(
        (name = "operations", description = "What is being tracked"),
        (name = "callbacks", description = "What is owed to receivers"),
        (name = "settings", description = "A caller's keys, signing secrets, connections, and what its callbacks look like"),
        (name = "public", description = "For receivers"),
        (name = "admin", description = "Callers, and how the bridge does; for the operator"),
        (name = "health", description = "For probes"),
    ),
)]
struct Document;

/// All endpoints, and the OpenAPI document that describes them.
pub fn router(api: Api) -> (Router, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        // Used by callers, for what they have tracked.
        .routes(routes!(operations::register::register, operations::list::list))
        .routes(routes!(operations::inspect::inspect, operations::cancel::cancel))
        .routes(routes!(operations::credential::renew))
        .routes(routes!(operations::resend::resend))
        .routes(routes!(callbacks::list))
        .routes(routes!(destinations::list, destinations::bring_back))
        .routes(routes!(resends::ask))
        .routes(routes!(resends::list))
        .routes(routes!(resends::inspect))
        // Used by callers, for what belongs to them.
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(secrets::list, secrets::rotate))
        .routes(routes!(secrets::revoke))
        .routes(routes!(signing_keys::list, signing_keys::rotate))
        .routes(routes!(signing_keys::revoke))
        .routes(routes!(callback_settings::inspect, callback_settings::change))
        .routes(routes!(callback_settings::set_header, callback_settings::remove_header))
        .routes(routes!(connections::list, connections::create))
        .routes(routes!(connections::remove))
        .routes(routes!(connections::proof::replace))
        .routes(routes!(connections::examine::test))
        // Used by the operator and by the command line.
        .routes(routes!(admin::list_callers, admin::create_caller))
        .routes(routes!(admin::list_keys, admin::create_key))
        .routes(routes!(admin::revoke_key))
        .routes(routes!(admin::rotate_secret))
        .routes(routes!(audit::list))
        .routes(routes!(admin::list_connections, admin::create_connection))
        .routes(routes!(connections::proof::replace_as_operator))
        .routes(routes!(connections::examine::test_as_operator))
        .routes(routes!(connections::shares::list))
        .routes(routes!(connections::shares::share, connections::shares::withdraw))
        .routes(routes!(vault::inspect))
        .routes(routes!(vault::rekey))
        .routes(routes!(sign_ins::list, sign_ins::add))
        .routes(routes!(sign_ins::remove))
        // Used by receivers.
        .routes(routes!(signing_keys::publish))
        .routes(routes!(resends::ask_as_operator))
        .routes(routes!(resends::list_as_operator))
        .routes(routes!(resends::inspect_as_operator))
        // Used by probes, and by Prometheus.
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::read))
        .split_for_parts();
    let components = document.components.get_or_insert_default();
    components.responses.extend(problem::catalogue());
    describe_security(components);
    document.webhooks = Some(callbacks::webhooks());

    let json = document.to_json().unwrap_or_default();
    let limits = api.limits.clone();
    let router = router
        .route(
            "/openapi.json",
            get(move || std::future::ready(health::json_document(json.clone()))),
        )
        .fallback(|| std::future::ready(Problem::new(Kind::NotFound)))
        .method_not_allowed_fallback(|| std::future::ready(Problem::new(Kind::MethodNotAllowed)))
        .layer(middleware::from_fn_with_state(api.clone(), audit::complete))
        .layer(DefaultBodyLimit::max(limits.body))
        .layer(middleware::from_fn(move |request, next| {
            listener::within(limits.request, request, next)
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&api.metrics), metrics::count))
        .with_state(api);
    (router, document)
}

fn describe_security(components: &mut Components) {
    let bearer = |description: &str| {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        SecurityScheme::Http(scheme.description(Some(description)).build())
    };
    components.add_security_scheme(
        "apiKey",
        bearer("One of the caller's API keys, with the scope that is named"),
    );
    components.add_security_scheme("adminKey", bearer("The operator's admin key"));
}
