//! Asks Microsoft Entra for an access token, once (RFC 6749 §4.4, client credentials).

use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use super::Connection;
use super::transport::{Received, Transport, causes};
use super::wire::legible;
use crate::clock::Clock;
use crate::lane;
use crate::operation::{Hindrance, Refusal};

/// A token, fresh from the token endpoint.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) secret: SecretString,
    /// From when it was asked for; never zero.
    pub(super) lives_for: Duration,
}

/// What a request to the token endpoint consists of.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) endpoint: Url,
    pub(super) scope: &'a str,
    pub(super) connection: &'a Connection,
}

/// At most this much of an answer is read. Tokens are a few KiB.
const BODY_LIMIT: usize = 64 * 1_024;

const MOST_NUMBERS: usize = 8;

/// No token is believed to live longer than this.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

impl Request<'_> {
    /// Makes the request, until `until` at the latest, and leaves one line in the log.
    pub(super) async fn send(
        self,
        transport: &Transport,
        clock: &dyn Clock,
        until: Instant,
    ) -> Result<Granted, Hindrance> {
        let Connection { name, tenant, client_id, client_secret } = self.connection;
        let started = Instant::now();
        let answer = transport
            .exchange(until, BODY_LIMIT, |client| {
                client.post(self.endpoint).form(&[
                    ("grant_type", "client_credentials"),
                    ("client_id", client_id.as_str()),
                    ("client_secret", client_secret.expose_secret()),
                    ("scope", self.scope),
                ])
            })
            .await;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);

        let received = match answer {
            Ok(received) => received,
            Err(no_answer) => {
                let error = causes(&no_answer);
                tracing::warn!(%tenant, client_id, took_ms, error, "no token for connection `{name}`");
                return Err(Hindrance::Trouble { retry_after: None });
            }
        };
        let status = received.status.as_u16();
        let Reading { grant, complaint } = read(&received, clock.wall());
        match &grant {
            Ok(granted) => {
                let lives_for_s = granted.lives_for.as_secs();
                tracing::debug!(
                    %tenant, client_id, status, took_ms, lives_for_s,
                    "fetched a token for connection `{name}`"
                );
            }
            Err(hindrance) => tracing::warn!(
                %tenant,
                client_id,
                status,
                took_ms,
                error = complaint.error.as_deref(),
                aadsts = ?complaint.numbers,
                trace_id = complaint.trace_id.as_deref(),
                correlation_id = complaint.correlation_id.as_deref(),
                hindrance = ?hindrance,
                "no token for connection `{name}`"
            ),
        }
        grant
    }
}

/// What an answer of the token endpoint says.
struct Reading {
    grant: Result<Granted, Hindrance>,
    complaint: Complaint,
}

/// What the token endpoint says went wrong, for the log alone. Its description is left out: it is
/// prose, and may quote what was asked.
#[derive(Debug, Default, Eq, PartialEq)]
struct Complaint {
    error: Option<String>,
    /// What follows `AADSTS` in the documentation of Microsoft Entra.
    numbers: Vec<u64>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
}

/// RFC 6749 §5.1, with the number that some answers of Entra give as a string.
#[derive(Deserialize)]
struct GrantBody {
    access_token: String,
    token_type: String,
    expires_in: Seconds,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

fn read(received: &Received, now: Timestamp) -> Reading {
    let retry_after = received.header(&RETRY_AFTER).and_then(|value| lane::retry_after(value, now));
    let trouble = Hindrance::Trouble { retry_after };
    let status = received.status;
    let body = received.body.as_deref().unwrap_or_default();
    if status == StatusCode::OK {
        return Reading { grant: granted(body).ok_or(trouble), complaint: Complaint::default() };
    }
    let complaint = complained(body);
    let about_the_moment =
        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    let hindrance = match complaint.error.as_deref() {
        Some(error) if status.is_client_error() && !about_the_moment => refused(error, trouble),
        // A refusal that is not in the words of OAuth is not Entra's: a proxy, a wrong address.
        _ => trouble,
    };
    Reading { grant: Err(hindrance), complaint }
}

fn refused(error: &str, trouble: Hindrance) -> Hindrance {
    match error {
        "temporarily_unavailable" | "server_error" => trouble,
        "invalid_grant" | "interaction_required" | "consent_required" | "login_required" => {
            Hindrance::Refused(Refusal::GrantRefused)
        }
        // `invalid_client`, `unauthorized_client`, `invalid_scope`, `invalid_resource`,
        // `invalid_request`, and what is yet to be invented.
        _ => Hindrance::Refused(Refusal::ClientRefused),
    }
}

/// The token in `body`, where it is one that can be used.
fn granted(body: &[u8]) -> Option<Granted> {
    let GrantBody { access_token, token_type, expires_in } = serde_json::from_slice(body).ok()?;
    let seconds = match expires_in {
        Seconds::Number(seconds) => seconds,
        Seconds::Text(text) => text.parse().ok()?,
    };
    let usable = token_type.eq_ignore_ascii_case("Bearer")
        && !access_token.is_empty()
        && access_token.bytes().all(|byte| byte.is_ascii_graphic());
    let lives_for = Duration::from_secs(seconds).min(LONGEST_LIFE);
    (usable && !lives_for.is_zero()).then(|| Granted { secret: access_token.into(), lives_for })
}

/// The error object of RFC 6749 §5.2 in `body`, with what Entra adds to it.
fn complained(body: &[u8]) -> Complaint {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Complaint::default() };
    let word = |name: &str| body.get(name)?.as_str().map(legible);
    let numbers = body.get("error_codes").and_then(Value::as_array).into_iter().flatten();
    Complaint {
        error: word("error"),
        numbers: numbers.filter_map(Value::as_u64).take(MOST_NUMBERS).collect(),
        trace_id: word("trace_id"),
        correlation_id: word("correlation_id"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn reading(status: u16, body: &str) -> Reading {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        let body = Ok(Bytes::copy_from_slice(body.as_bytes()));
        read(&Received { status: StatusCode::from_u16(status).unwrap(), headers, body }, NOW)
    }

    fn hindrance(status: u16, body: &str) -> Hindrance {
        reading(status, body).grant.unwrap_err()
    }

    const TROUBLE: Hindrance = Hindrance::Trouble { retry_after: Some(Duration::from_secs(7)) };

    #[test]
    fn a_grant_holds_a_token_and_how_long_it_lives() {
        for (expires_in, lives_for) in [
            ("3599", Duration::from_secs(3_599)),
            (r#""3599""#, Duration::from_secs(3_599)),
            ("1", Duration::from_secs(1)),
            ("99999999999", LONGEST_LIFE),
        ] {
            let body = format!(
                r#"{{"token_type":"bearer","expires_in":{expires_in},"ext_expires_in":0,"access_token":"eyJ.a-_~"}}"#
            );
            let granted = reading(200, &body).grant.unwrap();
            assert_eq!(granted.lives_for, lives_for, "{expires_in}");
            assert_eq!(granted.secret.expose_secret(), "eyJ.a-_~");
        }
    }

    #[test]
    fn a_grant_that_cannot_be_used_is_trouble() {
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"token_type":"Bearer","expires_in":3599}"#,
            r#"{"token_type":"Bearer","access_token":"a"}"#,
            r#"{"token_type":"Bearer","expires_in":0,"access_token":"a"}"#,
            r#"{"token_type":"Bearer","expires_in":-1,"access_token":"a"}"#,
            r#"{"token_type":"Bearer","expires_in":"soon","access_token":"a"}"#,
            r#"{"token_type":"Bearer","expires_in":3599,"access_token":""}"#,
            r#"{"token_type":"Bearer","expires_in":3599,"access_token":"a\r\nx: y"}"#,
            r#"{"token_type":"pop","expires_in":3599,"access_token":"a"}"#,
            r#"{"error":"invalid_client"}"#,
        ] {
            assert_eq!(hindrance(200, body), TROUBLE, "{body}");
        }
    }

    #[test]
    fn an_error_is_judged_by_its_oauth_word_and_nothing_else() {
        let grant = Hindrance::Refused(Refusal::GrantRefused);
        let client = Hindrance::Refused(Refusal::ClientRefused);
        for (error, expected) in [
            ("temporarily_unavailable", TROUBLE),
            ("server_error", TROUBLE),
            ("invalid_grant", grant),
            ("interaction_required", grant),
            ("consent_required", grant),
            ("login_required", grant),
            ("invalid_client", client),
            ("unauthorized_client", client),
            ("invalid_scope", client),
            ("invalid_resource", client),
            ("invalid_request", client),
            ("unsupported_grant_type", client),
            ("invented_tomorrow", client),
        ] {
            let body = format!(
                r#"{{"error":"{error}","error_description":"AADSTS50196: invalid_client"}}"#
            );
            for status in [400, 401, 403] {
                assert_eq!(hindrance(status, &body), expected, "{status} {error}");
            }
            for status in [408, 429, 500, 503, 504, 302] {
                assert_eq!(hindrance(status, &body), TROUBLE, "{status} {error}");
            }
        }
        for body in ["", "<html>", "[]", r#"{"error":{"code":"x"}}"#, r#"{"error":null}"#] {
            assert_eq!(hindrance(400, body), TROUBLE, "{body}");
        }
    }

    #[test]
    fn the_log_gets_the_numbers_of_entra_and_not_its_prose() {
        let body = r#"{"error":"invalid_client","error_codes":[7000215,"x",1],"trace_id":"t\n",
            "correlation_id":"c","error_description":"AADSTS7000215: hunter2"}"#;
        let complaint = reading(401, body).complaint;
        let expected = Complaint {
            error: Some("invalid_client".to_owned()),
            numbers: vec![7_000_215, 1],
            trace_id: Some("t".to_owned()),
            correlation_id: Some("c".to_owned()),
        };
        assert_eq!(complaint, expected);
    }
}
