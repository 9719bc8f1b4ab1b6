//! Sends spans to a collector: OTLP over HTTP, in protobuf.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Span, wire};
use crate::metrics::Metrics;

/// Spans in one request at the most.
const LARGEST_BATCH: usize = 512;

/// How long a batch may wait to become larger.
const GATHERING: Duration = Duration::from_secs(1);

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a batch is tried before it is given up, so that newer ones have their turn.
const IN_ALL: Duration = Duration::from_secs(30);

const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Between complaints in the log.
const BETWEEN_COMPLAINTS: Duration = Duration::from_mins(1);

/// How long there is for what is left when the bridge stops.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The longest answer that is read.
const LONGEST_ANSWER: usize = 64 * 1_024;

/// Whom to send to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where traces go: with its path.
    pub url: Url,
    /// What the collector wants with each request, such as a key. Marked as sensitive.
    pub headers: HeaderMap,
    /// The part of traces that is recorded where nobody else has decided that, from 0 to 1.
    pub ratio: f64,
    /// With a bound on everything but the time of a request.
    pub client: Client,
}

/// Sends what is recorded, batch by batch.
pub struct Exporter {
    settings: Settings,
    spans: mpsc::Receiver<Span>,
    metrics: Arc<Metrics>,
    /// Tells this process from others.
    instance: String,
    complained_at: Option<Instant>,
}

/// Why the collector has not taken a batch.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    /// It may take the same later.
    #[error("{why}")]
    Yet { why: String, wait: Option<Duration> },
    #[error("{0}")]
    Ever(String),
}

impl Exporter {
    pub(super) fn new(
        settings: Settings,
        spans: mpsc::Receiver<Span>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut random = [0; 16];
        // Without random numbers, processes are not told apart, and that is all.
        let _ = getrandom::fill(&mut random);
        let instance = uuid::Builder::from_random_bytes(random).into_uuid();
        let instance = Uuid::to_string(&instance);
        Self { settings, spans, metrics, instance, complained_at: None }
    }

    /// Sends until nobody is left who could record anything, or until `grace` after `stop` and a little
    /// longer.
    pub async fn run(mut self, stop: CancellationToken, grace: Duration) {
        let over = async {
            stop.cancelled().await;
            sleep(grace.saturating_add(LAST_WORDS)).await;
        };
        tokio::select! {
            () = self.send_all(&stop) => {}
            () = over => {}
        }
    }

    async fn send_all(&mut self, stop: &CancellationToken) {
        let mut batch = Vec::with_capacity(LARGEST_BATCH);
        loop {
            if self.spans.recv_many(&mut batch, LARGEST_BATCH).await == 0 {
                return;
            }
            let full_by = Instant::now() + GATHERING;
            while batch.len() < LARGEST_BATCH && !stop.is_cancelled() {
                let room = LARGEST_BATCH - batch.len();
                let gathering = self.spans.recv_many(&mut batch, room);
                match stop.run_until_cancelled(timeout_at(full_by, gathering)).await {
                    Some(Ok(more)) if 0 < more => {}
                    _ => break,
                }
            }
            self.send(&batch, stop).await;
            batch.clear();
        }
    }

    /// Tries for a while, and then gives up.
    async fn send(&mut self, spans: &[Span], stop: &CancellationToken) {
        let body = wire::request(spans, &self.instance);
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let (give_up_at, mut wait) = (Instant::now() + IN_ALL, FIRST_WAIT);
        let hurry = async {
            stop.cancelled().await;
            sleep(LAST_WORDS).await;
        };
        let mut hurry = std::pin::pin!(hurry);
        let why = loop {
            let sent = tokio::select! {
                biased;
                sent = post(&self.settings, body.clone()) => sent,
                () = &mut hurry => Err(NotTaken::Ever("the bridge has stopped".to_owned())),
            };
            match sent {
                Ok(answer) => {
                    let refused = wire::refused(&answer);
                    let lost = refused.as_ref().map_or(0, |(lost, _)| (*lost).min(count));
                    self.metrics.traces.count("sent", count - lost);
                    match refused {
                        None => return,
                        Some((_, why)) => break (lost, NotTaken::Ever(why)),
                    }
                }
                Err(NotTaken::Yet { why, wait: asked }) => {
                    let next = asked.unwrap_or_default().max(wait);
                    if stop.is_cancelled() || give_up_at < Instant::now() + next {
                        break (count, NotTaken::Ever(why));
                    }
                    let _ = stop.run_until_cancelled(sleep(next)).await;
                    wait *= 2;
                }
                Err(never) => break (count, never),
            }
        };
        let (lost, why) = why;
        self.metrics.traces.count("failed", lost);
        self.complain(lost, &why);
    }

    fn complain(&mut self, spans: u64, why: &NotTaken) {
        let now = Instant::now();
        if self.complained_at.is_some_and(|at| now < at + BETWEEN_COMPLAINTS) {
            return;
        }
        self.complained_at = Some(now);
        tracing::warn!(error = %why, spans, "the collector has not taken {spans} spans: {why}");
    }
}

/// One request (OTLP 1.x, "OTLP/HTTP").
async fn post(settings: &Settings, body: Vec<u8>) -> Result<Vec<u8>, NotTaken> {
    let yet = |why: String| NotTaken::Yet { why, wait: None };
    let request = settings
        .client
        .post(settings.url.clone())
        .headers(settings.headers.clone())
        .header(CONTENT_TYPE, "application/x-protobuf")
        .timeout(PATIENCE)
        .body(body);
    let in_words =
        |error: reqwest::Error| yet(format!("{:#}", anyhow::Error::new(error.without_url())));
    let mut response = request.send().await.map_err(in_words)?;
    let status = response.status();
    if !status.is_success() {
        let why = format!("it answered {status}");
        return Err(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let asked = response.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok());
                let seconds = asked.and_then(|it| it.parse().ok());
                NotTaken::Yet { why, wait: seconds.map(Duration::from_secs) }
            }
            _ => NotTaken::Ever(why),
        });
    }
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(in_words)? {
        if LONGEST_ANSWER < answer.len() + chunk.len() {
            break;
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}
