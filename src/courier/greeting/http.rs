//! Sends the question, within bounds of time and size.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Cause, Consent, Declined, Form, Greeter, cloud_events, graph};
use crate::courier::egress::{CallbackUrl, Egress};
use crate::courier::exit::{Connector, Patience, ProxyWay};
use crate::courier::http::{CONNECT_WITHIN, USER_AGENT, Unanswered, bounded, classify};
use crate::courier::{Failure, Phase};

/// No receiver is waited for any longer, whatever it does.
pub const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// A [`Greeter`] over HTTP/1.1 and HTTP/2.
pub struct HttpGreeter {
    client: Client<Connector, Full<Bytes>>,
    form: Form,
    within: Duration,
}

impl HttpGreeter {
    /// Asks in this form, through `proxy` where there is one.
    pub fn new(
        form: Form,
        egress: Arc<Egress>,
        tls: &ClientConfig,
        proxy: Option<ProxyWay>,
    ) -> Self {
        Self::with_deadlines(form, egress, tls, proxy, CONNECT_WITHIN, GREETING_DEADLINE)
    }

    pub(super) fn with_deadlines(
        form: Form,
        egress: Arc<Egress>,
        tls: &ClientConfig,
        proxy: Option<ProxyWay>,
        connect_within: Duration,
        within: Duration,
    ) -> Self {
        let patience = Patience { connect: connect_within, blocked: within };
        let connector = Connector::new(egress, tls, proxy, patience);
        // No connection is kept: whoever is asked is asked once, and its name is judged for that.
        let client = bounded().pool_max_idle_per_host(0).build(connector);
        Self { client, form, within }
    }

    async fn ask(&self, url: &CallbackUrl) -> Result<Consent, Declined> {
        let unasked = || self.form.declined(Cause::Unasked, "nothing was sent after all");
        let verdict = match &self.form {
            Form::Graph => {
                let token = graph::token().map_err(|error| {
                    tracing::error!(error = %error, "the operating system has no random numbers");
                    unasked()
                })?;
                let question = graph::question(url, &token).ok_or_else(unasked)?;
                // One byte more tells what is longer.
                let answer = self.send(question, token.len() + 1).await;
                answer.map(|answer| graph::verdict(&answer, &token))
            }
            Form::CloudEvents(origin) => {
                let question = cloud_events::question(url, origin).ok_or_else(unasked)?;
                let answer = self.send(question, 0).await;
                answer.map(|answer| cloud_events::verdict(&answer, origin))
            }
        };
        match verdict {
            Ok(verdict) => {
                verdict.map_err(|what_came| self.form.declined(Cause::Answer, &what_came))
            }
            Err(Unanswered { failure, detail }) => {
                let what_came = format!("no answer came: {} ({detail})", failure.as_str());
                Err(self.form.declined(Cause::NoAnswer(failure), &what_came))
            }
        }
    }

    /// Sends one request, and reads so many bytes of the body of a 200.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<Answer, Unanswered> {
        let until = Instant::now() + self.within;
        let timed_out = |phase| Unanswered {
            failure: Failure::TimedOut(phase),
            detail: format!("within {} s", self.within.as_secs_f32()),
        };
        let name = HeaderValue::from_static(USER_AGENT);
        request.headers_mut().insert(header::USER_AGENT, name);
        let sent = timeout_at(until, self.client.request(request)).await;
        let response = sent.map_err(|_| timed_out(Phase::Waiting))?;
        let response = response.map_err(|error| classify(&error))?;
        let (head, mut incoming) = response.into_parts();
        let most = if head.status == StatusCode::OK { most } else { 0 };
        let mut body = BytesMut::new();
        while body.len() < most {
            let frame = timeout_at(until, incoming.frame()).await;
            let Some(frame) = frame.map_err(|_| timed_out(Phase::Reading))? else { break };
            let frame = frame.map_err(|error| classify(&error))?;
            let Ok(chunk) = frame.into_data() else { continue };
            body.extend_from_slice(&chunk[..chunk.len().min(most - body.len())]);
        }
        Ok(Answer { status: head.status, headers: head.headers, body: body.freeze() })
    }
}

#[async_trait]
impl Greeter for HttpGreeter {
    fn form(&self) -> &Form {
        &self.form
    }

    async fn greet(&self, url: &CallbackUrl) -> Result<Consent, Declined> {
        let started = Instant::now();
        let greeted = self.ask(url).await;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Never the URL's path or query, which may hold secrets.
        let host = url.host();
        match &greeted {
            Ok(Consent { rate }) => {
                let rate = rate.map(crate::lane::Rate::attempts);
                tracing::info!(host, rate, took_ms, "{host} agrees to callbacks");
            }
            Err(Declined { cause, detail }) => {
                tracing::info!(host, ?cause, detail, took_ms, "{host} does not agree to callbacks");
            }
        }
        greeted
    }
}
