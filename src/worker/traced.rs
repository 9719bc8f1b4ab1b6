//! What is told of the worker's steps to whoever traces them.

use std::time::Duration;

use jiff::Timestamp;

use super::Worker;
use super::counting::{attempt_outcome, failure, poll_outcome};
use crate::callback::CallbackId;
use crate::courier::{FixedHeaders, Receipt};
use crate::operation::{Answer, Event};
use crate::store::{Message, Tracked};
use crate::traces::{Act, Attribute};

impl Worker {
    /// Graph was asked.
    pub(super) fn trace_poll(
        &self,
        tracked: &Tracked,
        began: Timestamp,
        took: Duration,
        event: Event,
    ) {
        let parent = tracked.trace.as_ref().map(|trace| (trace.parent(), trace.state()));
        let Some(trace) = self.tracer.trace(tracked.operation.id, parent) else { return };
        let outcome = poll_outcome(event);
        let is_well = matches!(
            event,
            Event::Polled(
                Answer::StillRunning { .. } | Answer::Undecided { .. } | Answer::Finished(_)
            )
        );
        let number = tracked.operation.polls.saturating_add(1);
        trace.went_on(Act {
            name: "poll",
            number,
            began,
            took,
            failure: (!is_well).then_some(outcome),
            attributes: vec![
                ("engagement_bridge.caller", Attribute::text(tracked.caller.as_str())),
                ("engagement_bridge.poll.number", Attribute::Number(number.into())),
                ("engagement_bridge.outcome", Attribute::text(outcome)),
            ],
        });
    }

    /// A receiver was told, or could not be.
    pub(super) fn trace_attempt(&self, traced: &Traced, began: Timestamp, receipt: &Receipt) {
        let (mut parent, mut state) = (None, None);
        for (name, value) in traced.headers.iter() {
            match name {
                "traceparent" => parent = Some(value),
                "tracestate" => state = Some(value),
                _ => {}
            }
        }
        let parent = parent.map(|parent| (parent, state));
        let Some(trace) = self.tracer.trace(traced.id.operation, parent) else { return };
        let mut attributes = vec![
            ("engagement_bridge.callback.id", Attribute::text(traced.id.to_string())),
            ("engagement_bridge.attempt.number", Attribute::Number(traced.number.into())),
            ("engagement_bridge.outcome", Attribute::text(attempt_outcome(receipt.reply))),
        ];
        // Never more of the URL: keys are found in paths and queries.
        let host =
            url::Url::parse(&traced.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        attributes.extend(host.map(|host| ("server.address", Attribute::Text(host))));
        let status = receipt.status.map(|status| Attribute::Number(status.into()));
        attributes.extend(status.map(|status| ("http.response.status_code", status)));
        trace.went_on(Act {
            name: "attempt",
            number: traced.number,
            began,
            took: receipt.took,
            failure: failure(receipt),
            attributes,
        });
    }
}

/// What of a message its attempt is traced by.
pub(super) struct Traced {
    id: CallbackId,
    /// Of the attempt.
    number: u32,
    url: String,
    headers: FixedHeaders,
}

impl Traced {
    pub(super) fn of(message: &Message) -> Self {
        Self {
            id: message.callback.id,
            number: message.callback.attempts.saturating_add(1),
            url: message.url.clone(),
            headers: message.headers.clone(),
        }
    }
}
