//! What was asked, by whom and when, and what follows from it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use http::request::Parts;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tokens::short_digest;

/// One request that reached the sandbox, and how it was answered.
///
/// Holds no token, no secret, no query and no body.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedRequest {
    /// When its head had arrived, in milliseconds since 1970 (UTC), by the sandbox's clock.
    pub at_ms: i64,
    pub surface: Surface,
    /// Upper case, as in `GET`.
    pub method: String,
    /// Without the query. At most 1,024 characters.
    pub path: String,
    /// The id that it asks about, where it is a request for an operation.
    pub operation: Option<String>,
    /// Whom it authenticated as; `None` where it was refused for that.
    pub identity: Option<String>,
    /// The first 12 hex digits of the SHA-256 of its bearer token, which tell two tokens apart.
    pub token_digest: Option<String>,
    /// Those of [`RECORDED_HEADERS`] that were sent, by their lower-case names. At most 256
    /// characters of each.
    pub headers: BTreeMap<String, String>,
    /// `None` where a script dropped the connection instead of answering.
    pub status: Option<u16>,
    /// Whether it was refused because the identity's budget was spent. A 429 by a script is not.
    pub throttled: bool,
}

/// Which of Microsoft's services a request was meant for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Surface {
    /// Microsoft Graph, and whatever leads nowhere else.
    Graph,
    /// The token endpoint, and what tenants publish.
    Entra,
}

/// The headers that are worth a look afterwards.
pub const RECORDED_HEADERS: [&str; 5] =
    ["accept", "client-request-id", "host", "prefer", "user-agent"];

/// The shortest time between two polls in a row, for each operation that was polled twice or more.
///
/// Every GET of an operation is a poll, whatever came of it.
pub fn shortest_gap_between_polls(record: &[RecordedRequest]) -> BTreeMap<&str, Duration> {
    let mut polls: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for request in record.iter().filter(|request| request.method == "GET") {
        if let Some(operation) = &request.operation {
            polls.entry(operation).or_default().push(request.at_ms);
        }
    }
    polls
        .into_iter()
        .filter_map(|(operation, mut times)| {
            times.sort_unstable();
            let shortest = times.windows(2).map(|pair| pair[0].abs_diff(pair[1])).min()?;
            Some((operation, Duration::from_millis(shortest)))
        })
        .collect()
}

/// The most requests that each identity made of Graph in any stretch of time of length `window`.
///
/// A stretch holds its beginning and not its end, so two requests exactly `window` apart never
/// count together. Requests that were throttled count: they were made.
pub fn largest_window(record: &[RecordedRequest], window: Duration) -> BTreeMap<&str, usize> {
    let mut requests: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for request in record.iter().filter(|request| request.surface == Surface::Graph) {
        if let Some(identity) = &request.identity {
            requests.entry(identity).or_default().push(request.at_ms);
        }
    }
    let largest = |mut times: Vec<i64>| {
        times.sort_unstable();
        let mut first = 0;
        let mut largest = 0;
        for (last, time) in times.iter().enumerate() {
            while window <= Duration::from_millis(times[first].abs_diff(*time)) && first < last {
                first += 1;
            }
            largest = largest.max(last + 1 - first);
        }
        largest
    };
    requests.into_iter().map(|(identity, times)| (identity, largest(times))).collect()
}

/// The requests of late: the newest [`Record::LIMIT`] of them.
#[derive(Debug, Default)]
pub(super) struct Record {
    requests: VecDeque<RecordedRequest>,
    forgotten: u64,
}

impl Record {
    /// Bounds the record to a few hundred megabytes.
    pub(super) const LIMIT: usize = 250_000;

    pub(super) fn push(&mut self, request: RecordedRequest) {
        self.push_within(Self::LIMIT, request);
    }

    /// Oldest first, by the order in which they were answered.
    pub(super) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.iter().cloned().collect()
    }

    /// How many requests made room for newer ones.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn push_within(&mut self, limit: usize, request: RecordedRequest) {
        if limit <= self.requests.len() {
            self.requests.pop_front();
            self.forgotten += 1;
        }
        self.requests.push_back(request);
    }
}

impl RecordedRequest {
    /// What can be seen of a request before anyone has judged it.
    pub(super) fn arrived(
        head: &Parts,
        bearer: Option<&str>,
        surface: Surface,
        now: Timestamp,
    ) -> Self {
        let header = |name: &&str| {
            let value = String::from_utf8_lossy(head.headers.get(*name)?.as_bytes()).into_owned();
            Some(((*name).to_owned(), shortened(&value, 256)))
        };
        Self {
            at_ms: now.as_millisecond(),
            surface,
            method: shortened(head.method.as_str(), 32),
            path: shortened(head.uri.path(), 1_024),
            operation: None,
            identity: None,
            token_digest: bearer.map(short_digest),
            headers: RECORDED_HEADERS.iter().filter_map(header).collect(),
            status: None,
            throttled: false,
        }
    }
}

fn shortened(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(operation: &str, identity: &str, at_ms: i64) -> RecordedRequest {
        RecordedRequest {
            at_ms,
            surface: Surface::Graph,
            method: "GET".to_owned(),
            path: format!("/v1.0/employeeExperience/engagementAsyncOperations/{operation}"),
            operation: Some(operation.to_owned()),
            identity: Some(identity.to_owned()),
            token_digest: None,
            headers: BTreeMap::new(),
            status: Some(200),
            throttled: false,
        }
    }

    #[test]
    fn the_shortest_gap_is_found_per_operation_and_in_any_order_of_entries() {
        let record = [
            poll("a", "x", 62_000),
            poll("b", "x", 1_500),
            poll("a", "y", 0),
            poll("a", "x", 31_000),
            poll("b", "x", 1_000),
            poll("once", "x", 1_001),
        ];
        let gaps = shortest_gap_between_polls(&record);
        assert_eq!(
            gaps,
            BTreeMap::from([("a", Duration::from_secs(31)), ("b", Duration::from_millis(500)),])
        );
    }

    #[test]
    fn a_refused_poll_is_a_poll_and_a_request_without_an_operation_is_none() {
        let refused =
            RecordedRequest { status: Some(401), identity: None, ..poll("a", "x", 31_000) };
        let creation = RecordedRequest {
            method: "POST".to_owned(),
            operation: None,
            ..poll("a", "x", 30_999)
        };
        let record = [poll("a", "x", 0), creation, refused];
        let gaps = shortest_gap_between_polls(&record);
        assert_eq!(gaps, BTreeMap::from([("a", Duration::from_secs(31))]));
    }

    #[test]
    fn the_largest_window_slides_and_excludes_its_end() {
        let times = [0, 1_000, 29_999, 30_000, 30_001, 60_000];
        let record: Vec<_> = times.iter().rev().map(|at| poll("a", "x", *at)).collect();
        // From 1,000 to 30,001 there are four; 0 and 30,000 never share a window.
        let window = Duration::from_secs(30);
        assert_eq!(largest_window(&record, window), BTreeMap::from([("x", 4)]));
        assert_eq!(largest_window(&record, window * 10), BTreeMap::from([("x", 6)]));
        assert_eq!(largest_window(&record, Duration::ZERO), BTreeMap::from([("x", 1)]));
    }

    #[test]
    fn windows_are_counted_per_identity_and_over_graph_alone() {
        let token_request =
            RecordedRequest { surface: Surface::Entra, operation: None, ..poll("a", "x", 3) };
        let anonymous = RecordedRequest { identity: None, ..poll("a", "x", 4) };
        let throttled = RecordedRequest { status: Some(429), throttled: true, ..poll("c", "x", 5) };
        let record = [poll("a", "x", 1), poll("b", "y", 2), token_request, anonymous, throttled];
        let windows = largest_window(&record, Duration::from_secs(30));
        assert_eq!(windows, BTreeMap::from([("x", 2), ("y", 1)]));
    }

    #[test]
    fn the_record_drops_its_oldest_entries_and_counts_them() {
        let mut record = Record::default();
        for at in 0..5 {
            record.push_within(3, poll("a", "x", at));
        }
        let times: Vec<_> = record.requests().iter().map(|request| request.at_ms).collect();
        assert_eq!(times, [2, 3, 4]);
        assert_eq!(record.forgotten(), 2);
    }
}
