//! Graph's answers, as Graph spells them, and what they mean. Pure.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::lane;
use crate::operation::{Answer, Refusal, Renewal, Verdict};

/// What matters of an answer that Graph gave to one poll.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered<'a> {
    pub(super) status: u16,
    /// The value of `Retry-After`.
    pub(super) retry_after: Option<&'a str>,
    /// `None` where it could not be read to its end, or was larger than we read.
    pub(super) body: Option<&'a [u8]>,
}

/// What an answer says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Reading {
    pub(super) answer: Answer,
    /// The body's own id, where the body is an `engagementAsyncOperation`.
    pub(super) operation: Option<String>,
    /// What Graph says went wrong, for the log alone.
    pub(super) fault: Option<Fault>,
}

/// The part of Graph's error object that is worth a line in the log.
///
/// Its message is left out: it is prose, and may quote what was asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) code: Option<String>,
    pub(super) request_id: Option<String>,
}

/// Reads the answer that arrived `now` to a poll whose credential allows such a `renewal`.
///
/// The id of the operation that was asked for is no part of this: it named the address, over a
/// connection that proved itself to be Graph's. Ids are opaque, so nothing says that Graph spells
/// one in the body as it did in the URL, and to distrust another spelling would be to poll until
/// the deadline what has long ended. The client logs a difference.
pub(super) fn read(answered: Answered<'_>, renewal: Renewal, now: Timestamp) -> Reading {
    let retry_after = answered.retry_after.and_then(|value| lane::retry_after(value, now));
    let trouble = Answer::Trouble { retry_after };
    if answered.status == 200 {
        let operation = answered.body.and_then(operation);
        let answer = match &operation {
            Some(operation) => match operation.verdict() {
                Some(verdict) => Answer::Finished(verdict),
                None if operation.says("running") => Answer::StillRunning { retry_after },
                None => Answer::Undecided { retry_after },
            },
            None => trouble,
        };
        let fault = if operation.is_none() { answered.body.and_then(fault) } else { None };
        return Reading { answer, operation: operation.map(|operation| operation.id), fault };
    }
    let answer = match answered.status {
        401 => Answer::CredentialRefused { refusal: Refusal::Unauthorized, renewal },
        403 => Answer::CredentialRefused { refusal: Refusal::Forbidden, renewal },
        404 => Answer::Missing,
        410 => Answer::Gone,
        429 => Answer::Throttled { retry_after },
        // Request timeout, locked, too early: about the moment, not about the request.
        408 | 423 | 425 => trouble,
        // A redirect is never followed, so to us it is one more way to say no.
        300..=499 => Answer::Rejected,
        _ => trouble,
    };
    Reading { answer, operation: None, fault: answered.body.and_then(fault) }
}

/// `text` without what would spoil a line of the log, and no longer than is of use in one.
pub(super) fn legible(text: &str) -> String {
    const LONGEST: usize = 256;
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(LONGEST).collect()
}

/// What we read of an `engagementAsyncOperation`; the caller gets all of it, as it came.
#[derive(Deserialize)]
struct Operation {
    id: String,
    /// `null`, absent, and words that are yet to be invented all mean that the end is not known.
    #[serde(default)]
    status: Value,
}

impl Operation {
    fn verdict(&self) -> Option<Verdict> {
        [
            ("succeeded", Verdict::Succeeded),
            ("failed", Verdict::Failed),
            ("skipped", Verdict::Skipped),
        ]
        .into_iter()
        .find_map(|(known, verdict)| self.says(known).then_some(verdict))
    }

    fn says(&self, known: &str) -> bool {
        self.status.as_str().is_some_and(|word| known.eq_ignore_ascii_case(word))
    }
}

/// The operation in `body`; `None` for HTML, broken JSON and any other object.
///
/// An error object has no id. An object with both is an operation that has learned to say why it
/// failed, as the long-running operations of Graph's other services do.
fn operation(body: &[u8]) -> Option<Operation> {
    // Strings that serde_json skips are not checked, and the whole body goes into a callback.
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str::<Operation>(text).ok().filter(|operation| !operation.id.is_empty())
}

/// The error object in `body`, in any of the casings that Graph's services use.
fn fault(body: &[u8]) -> Option<Fault> {
    // Read as a tree, a large body would take many times its size.
    const LONGEST: usize = 64 * 1_024;
    if LONGEST < body.len() {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = member(&body, "error")?;
    let inner = member(error, "innerError");
    let code = |object| word(member(object, "code")?);
    Some(Fault {
        code: code(error).or_else(|| inner.and_then(code)),
        request_id: inner.and_then(|inner| word(member(inner, "request-id")?)),
    })
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object
        .as_object()?
        .iter()
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}

fn word(value: &Value) -> Option<String> {
    value.as_str().map(legible).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const V1: &str = include_str!("../../tests/data/graph/succeeded.v1.json");
    const BETA: &str = include_str!("../../tests/data/graph/succeeded.beta.json");
    const THROTTLED: &str = include_str!("../../tests/data/graph/throttled.429.json");

    fn read_with(status: u16, retry_after: Option<&str>, body: &[u8]) -> Reading {
        read(Answered { status, retry_after, body: Some(body) }, Renewal::Possible, NOW)
    }

    fn answer(status: u16, body: &str) -> Answer {
        read_with(status, None, body.as_bytes()).answer
    }

    const TROUBLE: Answer = Answer::Trouble { retry_after: None };
    const STILL_RUNNING: Answer = Answer::StillRunning { retry_after: None };
    const UNDECIDED: Answer = Answer::Undecided { retry_after: None };

    #[test]
    fn the_samples_of_microsoft_have_succeeded() {
        for sample in [V1, BETA] {
            let reading = read_with(200, None, sample.as_bytes());
            assert_eq!(reading.answer, Answer::Finished(Verdict::Succeeded));
            assert_eq!(reading.fault, None);
            assert!(reading.operation.unwrap().starts_with("eyJfdHlwZSI6IkxvbmdSdW5uaW5n"));
        }
    }

    #[test]
    fn the_status_is_read_without_case_and_only_three_words_are_final() {
        for (status, expected) in [
            (r#""succeeded""#, Answer::Finished(Verdict::Succeeded)),
            (r#""Succeeded""#, Answer::Finished(Verdict::Succeeded)),
            (r#""failed""#, Answer::Finished(Verdict::Failed)),
            (r#""FAILED""#, Answer::Finished(Verdict::Failed)),
            (r#""skipped""#, Answer::Finished(Verdict::Skipped)),
            (r#""running""#, STILL_RUNNING),
            (r#""Running""#, STILL_RUNNING),
            (r#""notStarted""#, UNDECIDED),
            (r#""unknownFutureValue""#, UNDECIDED),
            (r#""cancelled""#, UNDECIDED),
            (r#""succeeded ""#, UNDECIDED),
            (r#""""#, UNDECIDED),
            ("null", UNDECIDED),
            ("3", UNDECIDED),
            (r#"{"value":"succeeded"}"#, UNDECIDED),
        ] {
            assert_eq!(
                answer(200, &format!(r#"{{"id":"a","status":{status}}}"#)),
                expected,
                "{status}"
            );
        }
        assert_eq!(answer(200, r#"{"id":"a"}"#), UNDECIDED);
        assert_eq!(answer(200, r#"{"id":"a","Status":"succeeded"}"#), UNDECIDED);
    }

    #[test]
    fn a_200_that_is_no_operation_is_trouble_at_graph() {
        for body in [
            "",
            "null",
            "[]",
            "\"succeeded\"",
            "<!DOCTYPE html><html><body>Service unavailable</body></html>",
            r#"{"id":"a","status":"succ"#,
            r#"{"id":"a","status":"succeeded"} trailing"#,
            r#"{"status":"succeeded"}"#,
            r#"{"id":null,"status":"succeeded"}"#,
            r#"{"id":"","status":"succeeded"}"#,
            r#"{"id":7,"status":"succeeded"}"#,
            r#"{"id":"a","status":"running","status":"succeeded"}"#,
            r#"{"error":{"code":"UnknownError","message":""}}"#,
            r#"{"value":[{"id":"a","status":"succeeded"}]}"#,
        ] {
            let reading = read_with(200, None, body.as_bytes());
            assert_eq!(reading.answer, TROUBLE, "{body}");
            assert_eq!(reading.operation, None, "{body}");
        }
        let not_utf8 =
            [br#"{"id":"a","status":"succeeded","statusDetail":""#, &[0xff][..], br#""}"#].concat();
        assert_eq!(read_with(200, None, &not_utf8).answer, TROUBLE);
        let unread = Answered { status: 200, retry_after: Some("7"), body: None };
        let retry_after = Some(Duration::from_secs(7));
        assert_eq!(read(unread, Renewal::Possible, NOW).answer, Answer::Trouble { retry_after });
    }

    #[test]
    fn what_is_unknown_in_an_operation_does_not_make_it_another_thing() {
        for extra in [
            r#""n":1e999"#,
            r#""error":{"code":"CommunityNameTaken"}"#,
            r#""error":null"#,
            r#""@odata.context":"x","nested":{"status":"running","id":"b"}"#,
            r#""lone":"\ud800""#,
        ] {
            let reading = read_with(
                200,
                None,
                format!(r#"{{{extra},"id":"a","status":"failed"}}"#).as_bytes(),
            );
            assert_eq!(reading.answer, Answer::Finished(Verdict::Failed), "{extra}");
            assert_eq!(reading.operation.as_deref(), Some("a"));
        }
    }

    #[test]
    fn every_status_has_its_meaning() {
        use Answer::{CredentialRefused, Gone, Missing, Rejected, Throttled};
        let renewal = Renewal::Possible;
        for (statuses, expected) in [
            (
                &[400, 402, 405, 406, 409, 412, 413, 414, 415, 422, 426, 428, 431, 451, 499][..],
                Rejected,
            ),
            (&[300, 301, 302, 303, 304, 307, 308], Rejected),
            (&[401], CredentialRefused { refusal: Refusal::Unauthorized, renewal }),
            (&[403], CredentialRefused { refusal: Refusal::Forbidden, renewal }),
            (&[404], Missing),
            (&[410], Gone),
            (&[429], Throttled { retry_after: None }),
            (&[408, 423, 425], TROUBLE),
            (&[500, 501, 502, 503, 504, 507, 509, 511, 599, 600, 999], TROUBLE),
            (&[100, 201, 202, 203, 204, 206], TROUBLE),
        ] {
            for &status in statuses {
                // The body of anything but a 200 decides nothing.
                for body in [V1, "", "<html>", r#"{"error":{"code":"ItemNotFound"}}"#] {
                    assert_eq!(answer(status, body), expected, "{status} {body}");
                }
            }
        }
    }

    #[test]
    fn only_the_credential_says_whether_it_can_be_renewed() {
        for renewal in [Renewal::Possible, Renewal::Impossible] {
            let answered = Answered { status: 401, retry_after: None, body: None };
            let refusal = Refusal::Unauthorized;
            let expected = Answer::CredentialRefused { refusal, renewal };
            assert_eq!(read(answered, renewal, NOW).answer, expected);
        }
    }

    #[test]
    fn graph_is_taken_at_its_word_on_when_to_come_back() {
        let running = br#"{"id":"a","status":"running"}"#;
        let retry_after = Some(Duration::from_millis(2_128));
        assert_eq!(
            read_with(200, Some("2.128"), running).answer,
            Answer::StillRunning { retry_after }
        );
        assert_eq!(read_with(429, Some("2.128"), b"").answer, Answer::Throttled { retry_after });
        assert_eq!(read_with(503, Some("2.128"), b"").answer, Answer::Trouble { retry_after });
        assert_eq!(
            read_with(200, Some("2.128"), b"<html>").answer,
            Answer::Trouble { retry_after }
        );
        let date = "Thu, 01 Jan 1970 00:02:00 GMT";
        let retry_after = Some(Duration::from_mins(2));
        assert_eq!(read_with(429, Some(date), b"").answer, Answer::Throttled { retry_after });
        assert_eq!(
            read_with(429, Some("soon"), b"").answer,
            Answer::Throttled { retry_after: None }
        );
    }

    #[test]
    fn the_log_gets_the_code_and_the_request_of_an_error_and_no_more() {
        let fault = |status, body: &str| read_with(status, None, body.as_bytes()).fault;
        assert_eq!(
            fault(429, THROTTLED),
            Some(Fault {
                code: Some("TooManyRequests".to_owned()),
                request_id: Some("94fb3b52-452a-4535-a601-69e0a90e3aa2".to_owned()),
            })
        );
        let lower = r#"{"error":{"code":"","innererror":{"code":"x","request-id":"r\nx"}}}"#;
        let expected = Fault { code: Some("x".to_owned()), request_id: Some("rx".to_owned()) };
        assert_eq!(fault(500, lower), Some(expected.clone()));
        assert_eq!(fault(200, lower), Some(expected));
        assert_eq!(fault(500, r#"{"error":"unauthorized"}"#), Some(Fault::default()));
        assert_eq!(fault(500, "<html>"), None);
        let long = format!(r#"{{"error":{{"code":"{}"}}}}"#, "é".repeat(9) + &"x".repeat(5_000));
        assert_eq!(fault(500, &long).unwrap().code.unwrap().len(), 256);
    }
}
