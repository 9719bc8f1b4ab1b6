//! Puts everything together. With the commands, the one place that names implementations.

mod database;
mod entrance;
mod whereabouts;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::database::{Opened, server};
use self::entrance::{Entrance, keep};
pub(crate) use self::whereabouts::{Whereabouts, reachable};
use crate::api::{self, Api, KeyUses, Listener, ListenerLimits, Survey};
use crate::clock::Clock;
use crate::config::{Collector, ConfigError, EgressSettings, Sections, Settings};
use crate::courier::{Egress, HttpCourier, HttpGreeter, ProxyWay};
use crate::graph::{self, HttpGraph};
use crate::handshake::{self, Handshakes};
use crate::metrics::Metrics;
use crate::names::{Names, SystemNames, Unguarded};
use crate::nudge::Nudge;
use crate::operation::after;
use crate::shutdown::Shutdown;
use crate::sign_in::SignIn;
use crate::tls;
use crate::traces::{self, Exporter, Tracer};
use crate::worker::{Crowds, Rekeyer, Resender, Waker, Worker, forget_what_rests, warn_of_expiry};

/// A bridge that is bound to its address and ready to run.
pub struct Bridge {
    entrance: Entrance,
    router: axum::Router,
    worker: Arc<Worker>,
    handshakes: Option<Arc<Handshakes>>,
    sign_in: Option<Arc<SignIn>>,
    opened: Arc<Opened>,
    nudge: Arc<Nudge>,
    key_uses: Arc<KeyUses>,
    metrics: Arc<Metrics>,
    survey: Arc<Survey>,
    /// Where metrics alone can be read, and by which router.
    scraped: Option<(Listener, axum::Router)>,
    /// Sends what is traced, where there is a collector.
    exporter: Option<Exporter>,
    sections: Sections,
    grace: std::time::Duration,
}

/// Connections of those who read metrics where they need no key.
const SCRAPERS: usize = 64;

/// A part of the bridge ended by itself, which none ever should.
#[derive(Debug, thiserror::Error)]
#[error("the {0} ended by itself; this is a fault of the program")]
pub struct Died(&'static str);

impl Bridge {
    /// Opens, connects and binds everything; does nothing yet.
    pub async fn prepare(settings: &Settings) -> anyhow::Result<Self> {
        Self::prepare_with(settings, Arc::new(SystemNames::default())).await
    }

    /// The same with other name servers than the machine's.
    pub async fn prepare_with(settings: &Settings, names: Arc<dyn Names>) -> anyhow::Result<Self> {
        let sections = settings.sections()?;
        // First of all, so that a start is refused before there is anything new.
        let certificate = sections.certificate.clone().map(entrance::certificate).transpose()?;
        let lanes = sections.lanes.clone();
        let opened = Opened::open(&settings.database, lanes, Arc::clone(&names)).await?;
        let opened = Arc::new(opened);
        let (store, directory, clock) = (opened.store(), opened.directory(), opened.clock());
        let metrics = Arc::new(Metrics::new());
        opened.count_by(&metrics);
        let admin_key = settings.database.admin_key()?;

        let tls = tls(settings.ca_file.as_deref())?;
        let (tracer, exporter) = traced(sections.collector.clone(), &tls, &names, &metrics)?;
        let egress = Arc::new(egress(&settings.egress, Arc::clone(&names), Arc::clone(&clock)));
        let proxy = settings.egress.proxy()?;
        let proxy = proxy.map(|proxy| ProxyWay { proxy, names: Arc::clone(&names) });
        let handshakes = sections.handshake.clone().map(|form| {
            let greeter = HttpGreeter::new(form, Arc::clone(&egress), &tls, proxy.clone());
            let (store, clock) = (Arc::clone(&store), Arc::clone(&clock));
            let policy = handshake::Policy::default();
            Arc::new(Handshakes::new(Arc::new(greeter), store, clock, policy))
        });
        let courier = HttpCourier::new(Arc::clone(&egress), &tls, proxy, Arc::clone(&clock));
        let courier = match &settings.handshake.callback_request_origin {
            Some(origin) => courier.known_as(origin),
            None => courier,
        };
        let graph = Arc::new(
            HttpGraph::new(asking(&sections, tls, names), Arc::clone(&clock))?.counted_by(&metrics),
        );
        let sign_in = sections.sign_in.clone().map(|rules| {
            let authority: Arc<dyn graph::Authority> = Arc::clone(&graph) as _;
            Arc::new(SignIn::new(rules, authority, sections.pace_of_keys))
        });

        let nudge = Arc::new(Nudge::default());
        let worker = Arc::new(Worker {
            store: Arc::clone(&store),
            graph: Arc::clone(&graph) as _,
            courier: Arc::new(courier),
            clock: Arc::clone(&clock),
            nudge: Arc::clone(&nudge),
            metrics: Arc::clone(&metrics),
            tracer: tracer.clone(),
            operations: sections.operations.clone(),
            callbacks: sections.callbacks.clone(),
            settings: sections.worker.clone(),
        });
        let api = Api::new(api::Parts {
            store,
            directory,
            safe: opened.safe(),
            egress,
            examiner: Arc::clone(&graph) as _,
            handshakes: handshakes.clone(),
            clock,
            nudge: Arc::clone(&nudge),
            graph_root: sections.graph_root.clone(),
            operations: sections.operations.clone(),
            callbacks: sections.callbacks.clone(),
            audit: opened.audit(),
            admin_key: api::digest(&admin_key),
            proxies: settings.access.proxies(),
            limits: sections.limits.clone(),
        })
        .counted_by(&metrics)
        .traced_by(tracer);
        let (key_uses, survey) = (Arc::clone(&api.key_uses), Arc::clone(&api.survey));
        let api = match &sign_in {
            Some(sign_in) => api.with_sign_in(Arc::clone(sign_in), graph),
            None => api,
        };
        let scraped = scraped(settings.metrics.metrics_listen, api.clone()).await?;
        let (router, _) = api::router(api);
        let (listen, limits) = (settings.listening.listen, sections.listener.clone());
        let entrance = Entrance::open(listen, limits, certificate, &metrics).await?;
        // For an interval nothing is polled, since how long ago the process before this one polled
        // cannot be told by a clock that may have been set since. Where others are at work, they would
        // have noticed; and if each start made them rest, a bridge that is started again and again
        // would keep all of them from polling.
        if !opened.is_kept_by_others().await? {
            let rested = after(opened.clock().now(), sections.operations.cadence.shortest);
            opened.store().rest_graph_lanes(rested).await?;
        }
        opened.announce(entrance.at)?;
        let grace = settings.shutdown_grace;
        Ok(Self {
            entrance,
            router,
            worker,
            handshakes,
            sign_in,
            opened,
            nudge,
            key_uses,
            metrics,
            survey,
            scraped,
            exporter,
            sections,
            grace,
        })
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.entrance.at.address
    }

    /// Where metrics alone can be read, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.scraped.as_ref().and_then(|(listener, _)| listener.address().ok())
    }

    fn resender(&self) -> Resender {
        Resender {
            store: self.opened.store(),
            clock: self.opened.clock(),
            nudge: Arc::clone(&self.nudge),
            callbacks: self.sections.callbacks.clone(),
            settings: Crowds::default(),
        }
    }

    fn rekeyer(&self) -> Rekeyer {
        let (safe, clock) = (self.opened.safe(), self.opened.clock());
        Rekeyer { safe, clock, nudge: Arc::clone(&self.nudge) }
    }

    fn waker(&self) -> Waker {
        Waker {
            store: self.opened.store(),
            clock: self.opened.clock(),
            nudge: Arc::clone(&self.nudge),
            operations: self.sections.operations.clone(),
            poll_takes: self.sections.worker.poll_takes,
        }
    }

    /// Runs until told to stop. Fails if a part ends by itself.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let at = self.entrance.at;
        tracing::info!(address = %at.address, "listening on {}", at.own_url());
        let (stop, grace) = (shutdown.stop.clone(), self.grace);
        if let Some(address) = self.metrics_address() {
            tracing::info!(metrics = %address, "metrics are on http://{address}/metrics");
        }
        let (resender, rekeyer, waker) = (self.resender(), self.rekeyer(), self.waker());
        let Entrance { listener, certificate, .. } = self.entrance;
        let mut parts = JoinSet::new();
        parts.spawn(named("listener", listener.serve(self.router, stop.clone(), grace)));
        parts.spawn(named("resender", resender.run(stop.clone())));
        parts.spawn(named("rekeyer", rekeyer.run(stop.clone())));
        parts.spawn(named("waker", waker.run(stop.clone())));
        parts.spawn(named("worker", self.worker.run(stop.clone(), grace)));
        if let Some(certificate) = certificate {
            let (opened, metrics) = (Arc::clone(&self.opened), Arc::clone(&self.metrics));
            let keeping = keep(certificate, at, opened, metrics, stop.clone());
            parts.spawn(named("certificate", keeping));
        }
        if let Some((listener, router)) = self.scraped {
            let serving = listener.serve(router, stop.clone(), grace);
            parts.spawn(named("listener for metrics", serving));
        }
        if let Some(exporter) = self.exporter {
            parts.spawn(named("exporter of traces", exporter.run(stop.clone(), grace)));
        }
        let (store, clock) = (self.opened.store(), self.opened.clock());
        parts.spawn(named("survey", self.survey.run(store, clock, self.metrics, stop.clone())));
        let (store, clock) = (self.opened.store(), self.opened.clock());
        let (retention, audit) = (self.sections.retention, self.opened.audit());
        let forgetting = forget_what_rests(store, audit, clock, retention, stop.clone());
        parts.spawn(named("retention", forgetting));
        let (directory, clock) = (self.opened.directory(), self.opened.clock());
        let (key_uses, until) = (self.key_uses, stop.clone());
        let noting = async move { key_uses.write_down(directory, clock, until).await };
        parts.spawn(named("key uses", noting));
        let (directory, clock) = (self.opened.directory(), self.opened.clock());
        let own = self.sections.api.as_ref().and_then(|api| api.proof.certificate());
        let own = own.map(graph::ClientCertificate::expires_at);
        parts.spawn(named("expiry", warn_of_expiry(directory, own, clock, stop.clone())));
        if let Some(handshakes) = self.handshakes {
            let stop = stop.clone();
            parts.spawn(named("handshakes", async move { handshakes.renew(stop).await }));
        }
        if let Some(sign_in) = self.sign_in {
            let stop = stop.clone();
            parts.spawn(named("sign-in", async move { sign_in.keep_keys(stop).await }));
        }
        let attending = Arc::clone(&self.opened).attend(self.nudge, stop.clone());
        parts.spawn(named("replicas", attending));

        let ended = shutdown.abandon.run_until_cancelled(all_ended(&mut parts, &stop)).await;
        let ended = ended.unwrap_or(Ok(()));
        stop.cancel();
        parts.shutdown().await;
        // Closing waits for the writer, which may have a commit to finish.
        tokio::task::spawn_blocking(move || drop(self.opened)).await?;
        if ended.is_ok() {
            tracing::info!("stopped");
        }
        ended
    }
}

/// How Graph is asked.
fn asking(sections: &Sections, tls: ClientConfig, names: Arc<dyn Names>) -> graph::Settings {
    graph::Settings {
        root: sections.graph_root.clone(),
        login: sections.login_root.clone(),
        api: sections.api.clone(),
        machine: sections.machine.clone(),
        tls,
        resolver: Some(Arc::new(Unguarded(names))),
        deadlines: graph::Deadlines::default(),
        shortest_service: sections.shortest_service,
    }
}

/// Who takes spans and who sends them, where there is a collector.
fn traced(
    collector: Option<Collector>,
    tls: &ClientConfig,
    names: &Arc<dyn Names>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(Tracer, Option<Exporter>)> {
    let Some(Collector { url, headers, ratio }) = collector else {
        return Ok((Tracer::off(), None));
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .dns_resolver(Unguarded(Arc::clone(names)))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .context("cannot send traces")?;
    let settings = traces::Settings { url, headers, ratio, client };
    let (tracer, exporter) = traces::begin(settings, metrics);
    Ok((tracer, Some(exporter)))
}

/// A listener for metrics alone, where the operator wants one.
async fn scraped(
    address: Option<SocketAddr>,
    api: Api,
) -> anyhow::Result<Option<(Listener, axum::Router)>> {
    let Some(address) = address else { return Ok(None) };
    let limits = ListenerLimits { connections: SCRAPERS, ..ListenerLimits::default() };
    let listener = Listener::bind(address, limits).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    Ok(Some((listener, api::metrics_router(api))))
}

/// What Graph and receivers are believed by: Mozilla's roots, and those in a file of the operator's.
pub(crate) fn tls(roots: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let read = |path: &Path| {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        std::fs::read(path).map_err(unreadable)
    };
    Ok(tls::client_config(roots.map(read).transpose()?.as_deref())?)
}

/// The guard at the exit, by the operator's rules.
pub(crate) fn egress(
    settings: &EgressSettings,
    names: Arc<dyn Names>,
    clock: Arc<dyn Clock>,
) -> Egress {
    let rules = settings.rules();
    if settings.callback_proxy_resolves {
        return Egress::without_names(rules, clock);
    }
    Egress::new(rules, names, clock)
}

/// Waits for all parts. Fails as soon as one ends that was not told to.
async fn all_ended(
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    while let Some(ended) = parts.join_next().await {
        let name = ended.context("a part of the bridge panicked")?;
        if !stop.is_cancelled() {
            return Err(Died(name).into());
        }
    }
    Ok(())
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_or_panics_by_itself_is_a_failure() {
        let stop = CancellationToken::new();
        let mut parts = JoinSet::new();
        parts.spawn(named("worker", std::future::ready(())));
        parts.spawn(named("listener", std::future::pending()));
        let error = all_ended(&mut parts, &stop).await.unwrap_err();
        assert!(error.to_string().starts_with("the worker ended by itself"), "{error}");

        let mut parts = JoinSet::new();
        parts.spawn(named("worker", async { panic!("a fault of the program") }));
        let error = all_ended(&mut parts, &stop).await.unwrap_err();
        assert_eq!(error.to_string(), "a part of the bridge panicked");
    }

    #[tokio::test]
    async fn parts_that_were_told_to_stop_end_well() {
        let stop = CancellationToken::new();
        let mut parts = JoinSet::new();
        for name in ["worker", "listener"] {
            parts.spawn(named(name, stop.clone().cancelled_owned()));
        }
        stop.cancel();
        assert!(all_ended(&mut parts, &stop).await.is_ok());
    }
}
