//! How the demo is told.

use std::io;
use std::time::Duration;

use anstyle::Style;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::app::{App, Tracked};
use super::receiver::Delivery;
use crate::cli::output::{BAD, CAUTION, FAINT, GOOD, NOTE, STRONG, line, table};
use crate::sandbox::{RecordedRequest, Surface, largest_window, shortest_gap_between_polls};

/// What Viva Engage grants to one identity, in any 30 s.
const BUDGET: usize = 10;
const WINDOW: Duration = Duration::from_secs(30);

/// Prints each step with the time since the beginning.
pub(super) struct Teller {
    began: Instant,
}

/// One step.
pub(super) enum Tale<'a> {
    Begins { speed: f64 },
    Started { sandbox: &'a str, bridge: &'a str, receiver: &'a str },
    CallerAdded,
    Registered(&'a Tracked),
    Delivered(&'a Delivery),
}

impl Teller {
    pub(super) fn start() -> Self {
        Self { began: Instant::now() }
    }

    pub(super) fn tell(&self, tale: &Tale<'_>) -> io::Result<()> {
        match tale {
            Tale::Begins { speed } => line(format_args!(
                "{STRONG}engagement-bridge, all of it on this machine{STRONG:#}; Graph's time runs \
                     {speed} times faster, so that 31 s take one.\n"
            )),
            Tale::Started { sandbox, bridge, receiver } => {
                self.step("sandbox", NOTE, &format!("Graph and Entra stand-ins at {sandbox}"))?;
                self.step(
                    "bridge",
                    NOTE,
                    &format!("listening on {bridge}, database in a temporary directory"),
                )?;
                self.step("receiver", NOTE, &format!("takes callbacks at {receiver}"))
            }
            Tale::CallerAdded => self.step(
                "operator",
                NOTE,
                "adds the caller `demo` with a connection to the tenant",
            ),
            Tale::Registered(Tracked { community, id, .. }) => {
                self.step(
                    "app",
                    NOTE,
                    &format!("creates {community:?}: Graph answers 202 and where to poll"),
                )?;
                self.step("app", NOTE, &format!("registers that with a callback URL: 202, {id}"))
            }
            Tale::Delivered(delivery) => {
                let Delivery { id, outcome, client_state, resource_id, verified, .. } = delivery;
                let made = resource_id.as_deref().map(|id| format!(", resourceId {id}"));
                let what =
                    format!("is told of {client_state:?}: {outcome}{}", made.unwrap_or_default());
                let style = if verified.is_ok() { GOOD } else { BAD };
                self.step("receiver", style, &what)?;
                let verdict = match verified {
                    Ok(()) => "signature verified".to_owned(),
                    Err(error) => format!("SIGNATURE REFUSED: {error}"),
                };
                self.step("", style, &format!("{verdict} ({id})"))
            }
        }
    }

    /// Tells of a request that the bridge made, as the sandbox saw it.
    pub(super) fn tell_request(
        &self,
        request: &RecordedRequest,
        tracked: &[Tracked],
    ) -> io::Result<()> {
        let Some(operation) = request.operation.as_deref() else { return Ok(()) };
        let Some(tracked) = tracked.iter().find(|it| it.graph_id == operation) else {
            return Ok(());
        };
        let community = &tracked.community;
        let (style, answer) = match request.status {
            Some(200) => (FAINT, "200".to_owned()),
            Some(429) => {
                (CAUTION, "429, so this identity waits for as long as Graph asks".to_owned())
            }
            Some(status) => (CAUTION, status.to_string()),
            None => (CAUTION, "no answer".to_owned()),
        };
        self.step("bridge", style, &format!("polls {community:?}: {answer}"))
    }

    /// The table at the end. Whether everything is as it should be.
    pub(super) fn sum_up(
        &self,
        tracked: &[Tracked],
        record: &[RecordedRequest],
        speed: f64,
    ) -> io::Result<bool> {
        let gaps = shortest_gap_between_polls(record);
        let mut polled_too_early = false;
        let rows: Vec<_> = tracked
            .iter()
            .map(|it| {
                let polls = record.iter().filter(|request| {
                    request.method == "GET" && request.operation.as_deref() == Some(&it.graph_id)
                });
                let gap = gaps.get(&*it.graph_id).map(|gap| gap.mul_f64(speed));
                polled_too_early |= gap.is_some_and(|gap| gap < WINDOW);
                let gap =
                    gap.map_or_else(|| "-".to_owned(), |gap| format!("{:.0} s", gap.as_secs_f64()));
                let outcome = it.delivery.as_ref().map(|delivery| delivery.outcome.clone());
                let verified = it.delivery.as_ref().is_some_and(|it| it.verified.is_ok());
                let verdict = if verified { "verified" } else { "REFUSED" };
                [
                    it.community.clone(),
                    outcome.unwrap_or_default(),
                    polls.count().to_string(),
                    gap,
                    verdict.to_owned(),
                ]
            })
            .collect();
        line("")?;
        table(["COMMUNITY", "OUTCOME", "POLLS", "SHORTEST GAP*", "CALLBACK"], &rows)?;
        line(format_args!(
            "{FAINT}* in Graph's time; Microsoft asks for more than 30 s{FAINT:#}\n"
        ))?;
        let verified = tracked
            .iter()
            .filter(|it| it.delivery.as_ref().is_some_and(|delivery| delivery.verified.is_ok()))
            .count();
        let busiest = largest_window(record, WINDOW.div_f64(speed)).into_values().max();
        let busiest = busiest.unwrap_or_default();
        // The record holds what the sandbox granted to the app and the bridge together.
        let surfaces = record.iter().filter(|request| request.surface == Surface::Graph).count();
        let all_went_well = verified == tracked.len() && !polled_too_early && busiest <= BUDGET;
        let style = if all_went_well { GOOD } else { BAD };
        line(format_args!(
            "{style}{verified} of {} callbacks verified{style:#}; {surfaces} requests to Graph, at most \
             {busiest} in any 30 s of its time where {BUDGET} are granted; took {:.1} s.",
            tracked.len(),
            self.began.elapsed().as_secs_f64()
        ))?;
        Ok(all_went_well)
    }

    /// What to try next, while everything is still running.
    pub(super) fn commands(app: &App) -> io::Result<()> {
        let App { bridge, graph, callback_url, .. } = app;
        let api_key = app.api_key.expose_secret();
        line(format_args!(
            "\nTo try while it is running:\n\n  \
             export KEY={api_key}\n\n  \
             # an operation at Graph, that ends well; then registered with the bridge\n  \
             LOCATION=$(curl -s -X POST {graph}/sandbox/operations | sed 's/.*\"location\":\"\\([^\"]*\\)\".*/\\1/')\n  \
             curl -i -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' \\\n    \
             -d \"{{\\\"operation\\\":\\\"$LOCATION\\\",\\\"callbackUrl\\\":\\\"{callback_url}\\\"}}\" \\\n    \
             {bridge}/v1/operations\n\n  \
             # what became of all of them, and of their callbacks\n  \
             curl -s -H \"Authorization: Bearer $KEY\" {bridge}/v1/operations\n  \
             curl -s -H \"Authorization: Bearer $KEY\" {bridge}/v1/callbacks\n\n  \
             # what Graph saw of it\n  \
             curl -s {graph}/sandbox/record\n"
        ))
    }

    fn step(&self, who: &str, style: Style, what: &str) -> io::Result<()> {
        let at = self.began.elapsed().as_secs_f64();
        line(format_args!("  {FAINT}{at:5.2}{FAINT:#}  {style}{who:<8}{style:#}  {what}"))
    }
}
