//! What an operation answers, poll by poll or as time goes by, as data.

mod shape;

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};

pub use shape::InvalidScript;

/// What one operation answers to the polls it gets.
///
/// A script is one of these:
/// - a list of answers, one for each GET, of which the last repeats:
///   `[{"status":"notStarted"},{"http":503,"retryAfter":"2"},{"status":"succeeded"}]`
/// - stages, which hold from a given age of the operation on, in milliseconds of sandbox time:
///   `{"stages":[{"fromMs":0,"answer":{"status":"running"}},{"fromMs":9000,"answer":…}]}`
/// - the word for one of the ready-made scripts (see [`Script::named`]): `"fails"`
///
/// Members of an answer, all of which may be left out, as long as it says something:
///
/// | member | is |
/// |---|---|
/// | `status` | answers the operation as Graph spells it, with this status; any word, or null |
/// | `statusDetail` | its text beside the status |
/// | `http` | the HTTP status, 200 to 599; from 400 on, without a body, Graph's error body follows |
/// | `error` | the word for it in that error body, where another than the usual one is wanted |
/// | `body`, `bodyBase64` | these bytes, untouched, in place of any body of ours |
/// | `contentType` | of these bytes; `application/json` where it is left out |
/// | `missingBytes` | `Content-Length` promises so many bytes more, and the connection breaks off |
/// | `retryAfter` | the header `Retry-After`, verbatim |
/// | `headers` | more headers, by name; they replace ours |
/// | `delayMs` | how long to wait before answering, in real milliseconds, whatever the speed |
/// | `drop` | `true` closes the connection without an answer |
#[derive(Clone, Debug, PartialEq)]
pub struct Script(Plan);

/// What the token endpoint answers to the next requests, one each, before it behaves again.
///
/// A list of answers as in a [`Script`], without `status`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScript(pub(super) Vec<Answer<Fault>>);

#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// One for each GET, and then the last one again and again.
    PerPoll { first: Vec<Answer>, then: Answer },
    /// In order of time: what holds at first, and from when on what else.
    OverTime { at_first: Answer, later: Vec<Stage> },
}

#[derive(Clone, Debug, PartialEq)]
struct Stage {
    from: Duration,
    answer: Answer,
}

/// One answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer<R = Reply> {
    pub(super) reply: R,
    /// Set over those that the reply has by itself.
    pub(super) headers: HeaderMap,
    pub(super) delay: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// The operation as Graph spells it.
    Operation {
        http: StatusCode,
        status: Option<String>,
        detail: Option<String>,
    },
    Fault(Fault),
}

/// What either service can answer instead of what was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// The service's own error body from 400 on, with this word in it; before that an empty body.
    Code { http: StatusCode, error: Option<String> },
    /// These bytes, after which the connection breaks off if some are `missing`.
    Verbatim { http: StatusCode, body: Bytes, missing: u64 },
    /// The connection is closed without an answer.
    Dropped,
}

impl Script {
    /// As many answers or stages as a script may have.
    pub const LONGEST: usize = 1_000;

    /// The ready-made script that `word` stands for.
    ///
    /// - `succeeds`: `notStarted`, `running` from 3 s on, `succeeded` from 20 s on
    /// - `fails`, `skipped`: the same up to 20 s, and then that end
    /// - `slow`: `succeeded` only after 10 min
    /// - `endless`: `running` for ever
    /// - `throttled`: one 429 on the way
    /// - `unstable`: 404, 503, HTML, a broken-off answer and a lost connection on the way
    pub fn named(word: &str) -> Option<Self> {
        let per_poll = |first, then| Self(Plan::PerPoll { first, then });
        Some(match word {
            "succeeds" => Self::ending(Duration::from_secs(20), Answer::status("succeeded")),
            "fails" => Self::ending(Duration::from_secs(20), Answer::failure()),
            "skipped" => Self::ending(Duration::from_secs(20), Answer::status("skipped")),
            "slow" => Self::ending(Duration::from_mins(10), Answer::status("succeeded")),
            "endless" => per_poll(vec![Answer::status("notStarted")], Answer::status("running")),
            "throttled" => per_poll(
                vec![
                    Answer::status("notStarted"),
                    Answer::code_with_wait(StatusCode::TOO_MANY_REQUESTS),
                    Answer::status("running"),
                ],
                Answer::status("succeeded"),
            ),
            "unstable" => per_poll(
                vec![
                    Answer::code(StatusCode::NOT_FOUND),
                    Answer::code_with_wait(StatusCode::SERVICE_UNAVAILABLE),
                    Answer::html(),
                    Answer::broken_off(),
                    Answer::from(Reply::Fault(Fault::Dropped)),
                ],
                Answer::status("succeeded"),
            ),
            _ => return None,
        })
    }

    /// The script that a community's name asks for by its ending, as in `All hands #fails`; the
    /// default one where it asks for none.
    pub fn for_display_name(name: &str) -> Self {
        let word = name.rsplit_once('#').map_or("", |(_, word)| word.trim());
        Self::named(word).unwrap_or_default()
    }

    /// The answer to the poll that follows `polls` others, at this age in sandbox time.
    pub(super) fn answer(&self, polls: usize, age: Duration) -> &Answer {
        match &self.0 {
            Plan::PerPoll { first, then } => first.get(polls).unwrap_or(then),
            Plan::OverTime { at_first, later } => {
                let reached = later.iter().rev().find(|stage| stage.from <= age);
                reached.map_or(at_first, |stage| &stage.answer)
            }
        }
    }

    fn ending(from: Duration, end: Answer) -> Self {
        let running = Stage { from: Duration::from_secs(3), answer: Answer::status("running") };
        let later = vec![running, Stage { from, answer: end }];
        Self(Plan::OverTime { at_first: Answer::status("notStarted"), later })
    }
}

impl Default for Script {
    /// `succeeds`, of the ready-made ones.
    fn default() -> Self {
        Self::ending(Duration::from_secs(20), Answer::status("succeeded"))
    }
}

impl Answer {
    fn status(word: &str) -> Self {
        let status = Some(word.to_owned());
        Self::from(Reply::Operation { http: StatusCode::OK, status, detail: None })
    }

    fn failure() -> Self {
        Self::from(Reply::Operation {
            http: StatusCode::OK,
            status: Some("failed".to_owned()),
            detail: Some("The community could not be created.".to_owned()),
        })
    }

    fn code(http: StatusCode) -> Self {
        Self::from(Reply::Fault(Fault::Code { http, error: None }))
    }

    fn code_with_wait(http: StatusCode) -> Self {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("2"))]);
        Self { headers, ..Self::code(http) }
    }

    fn html() -> Self {
        let body = Bytes::from_static(b"<html><body><h1>502 Bad Gateway</h1></body></html>");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
        let fault = Fault::Verbatim { http: StatusCode::BAD_GATEWAY, body, missing: 0 };
        Self { headers, ..Self::from(Reply::Fault(fault)) }
    }

    fn broken_off() -> Self {
        let body = Bytes::from_static(b"{\"id\":\"ey");
        let fault = Fault::Verbatim { http: StatusCode::OK, body, missing: 400 };
        Self::from(Reply::Fault(fault))
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, headers: HeaderMap::new(), delay: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(script: serde_json::Value) -> Result<Script, String> {
        serde_json::from_value(script).map_err(|error| error.to_string())
    }

    fn statuses(script: &Script, at: impl IntoIterator<Item = (usize, u64)>) -> Vec<String> {
        let word =
            |(polls, seconds)| match &script.answer(polls, Duration::from_secs(seconds)).reply {
                Reply::Operation { status, .. } => status.clone().unwrap_or("null".to_owned()),
                Reply::Fault(Fault::Code { http, .. }) => http.as_u16().to_string(),
                Reply::Fault(Fault::Verbatim { .. }) => "verbatim".to_owned(),
                Reply::Fault(Fault::Dropped) => "dropped".to_owned(),
            };
        at.into_iter().map(word).collect()
    }

    #[test]
    fn each_poll_gets_the_next_answer_and_the_last_one_repeats() {
        let script = read(json!([
            {"status": "notStarted"},
            {"http": 503, "retryAfter": "2"},
            {"status": null},
            {"body": "<html>"},
            {"drop": true},
            {"status": "somethingNew"},
        ]));
        assert_eq!(
            statuses(&script.unwrap(), (0..7).map(|polls| (polls, 0))),
            ["notStarted", "503", "null", "verbatim", "dropped", "somethingNew", "somethingNew"]
        );
    }

    #[test]
    fn stages_follow_the_age_and_not_the_polls() {
        let script = read(json!({"stages": [
            {"fromMs": 0, "answer": {"status": "notStarted"}},
            {"fromMs": 2_000, "answer": {"status": "running"}},
            {"fromMs": 9_000, "answer": {"status": "failed"}},
        ]}));
        assert_eq!(
            statuses(&script.unwrap(), [(7, 0), (0, 1), (0, 2), (0, 8), (0, 9), (0, 900)]),
            ["notStarted", "notStarted", "running", "running", "failed", "failed"]
        );
    }

    #[test]
    fn a_display_name_chooses_a_script_by_its_ending() {
        assert_eq!(Script::for_display_name("All hands #fails"), Script::named("fails").unwrap());
        assert_eq!(Script::for_display_name("All#hands#skipped "), read(json!("skipped")).unwrap());
        for name in ["All hands", "fails", "All #hands", "#"] {
            assert_eq!(Script::for_display_name(name), Script::default(), "{name}");
        }
        assert_eq!(Script::named("succeeds"), Some(Script::default()));
    }

    #[test]
    fn what_a_script_cannot_mean_is_refused_with_the_reason() {
        let refusals = [
            (json!([]), "a script needs at least one answer"),
            (json!(vec![json!({"status": "running"}); 1_001]), "at most 1000"),
            (json!("nosuch"), "no ready-made script is called `nosuch`"),
            (json!(7), "a script"),
            (json!([{}]), "says nothing"),
            (json!([{"stauts": "running"}]), "unknown field `stauts`"),
            (json!([{"status": "running", "body": "x"}]), "`status` and a body"),
            (json!([{"status": "running", "http": 503}]), "`status` needs an `http` below 400"),
            (json!([{"statusDetail": "x", "http": 503}]), "`statusDetail` needs a `status`"),
            (json!([{"body": "x", "bodyBase64": "eA=="}]), "`body` and `bodyBase64`"),
            (json!([{"bodyBase64": "?"}]), "not base64"),
            (json!([{"http": 302, "error": "moved"}]), "`error` needs an `http` from 400 on"),
            (json!([{"http": 503, "contentType": "text/html"}]), "`contentType` needs a body"),
            (json!([{"http": 503, "missingBytes": 5}]), "`missingBytes` needs a body"),
            (json!([{"body": "", "missingBytes": 9_999_999}]), "`missingBytes` is at most"),
            (json!([{"http": 199}]), "`http` is 200 to 599"),
            (json!([{"drop": true, "status": "running"}]), "`drop` stands alone"),
            (json!([{"http": 503, "delayMs": 600_001}]), "`delayMs` is at most 600000"),
            (
                json!([{"http": 503, "retryAfter": "a
b"}]),
                "`retryAfter` is no header value",
            ),
            (json!([{"http": 503, "headers": {"a b": "c"}}]), "`a b` is no header"),
            (json!([{"http": 503, "headers": {"Content-Length": "3"}}]), "`Content-Length`"),
            (json!({"stages": []}), "a script needs at least one answer"),
            (json!({"stages": [{"fromMs": 1, "answer": {"status": "running"}}]}), "first stage"),
            (
                json!({"stages": [
                    {"fromMs": 0, "answer": {"status": "running"}},
                    {"fromMs": 0, "answer": {"status": "failed"}},
                ]}),
                "later than the one before",
            ),
            (json!({"stages": [{"fromMs": 0, "answer": {"status": "x"}, "to": 1}]}), "`to`"),
            (json!({"stages": [], "repeat": true}), "unknown field `repeat`"),
        ];
        for (script, reason) in refusals {
            let refusal = read(script.clone()).expect_err(&script.to_string());
            assert!(refusal.contains(reason), "{script}: {refusal}");
        }
    }

    #[test]
    fn the_token_endpoint_has_no_operation_to_answer_with() {
        let read = serde_json::from_value::<TokenScript>;
        let script = read(json!([{"http": 503, "error": "temporarily_unavailable"}])).unwrap();
        let fault = Fault::Code {
            http: StatusCode::SERVICE_UNAVAILABLE,
            error: Some("temporarily_unavailable".to_owned()),
        };
        assert_eq!(script.0[0].reply, fault);
        let refusal = read(json!([{"status": "running"}])).unwrap_err().to_string();
        assert!(refusal.contains("`status` is not for the token endpoint"), "{refusal}");
    }
}
