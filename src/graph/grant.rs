//! Asks Microsoft Entra for an access token, once: who proves itself how, times what it has to show.
//!
//! Ours rather than `azure_identity`'s or `oauth2`'s, which were looked at. `azure_identity` keeps the
//! OAuth word of a failure in a message for people, signs by certificate through OpenSSL alone, has a
//! pipeline that retries by itself, and logs what it likes; one poll is one request here, within one
//! deadline, and nothing of it may be logged. `oauth2` has neither assertions as client proof nor
//! on-behalf-of, and so would be told by hand all that makes up these requests. What is left for a
//! library is a form of five fields.

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
use super::assertion::{self, NoAssertion};
use super::connection::Proof;
use super::transport::{NoAnswer, Received, Transport, causes};
use super::wire::legible;
use crate::clock::Clock;
use crate::lane;
use crate::operation::{Hindrance, Refusal};

/// What came of a request that was granted.
#[derive(Debug)]
pub struct Granted {
    /// The access token.
    pub secret: SecretString,
    /// From when it was asked for; never zero.
    pub lives_for: Duration,
    /// What the next one is asked for with, in place of the one that was used. Never for an app.
    pub refresh_token: Option<SecretString>,
}

/// By what right a token is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Grant<'a> {
    /// The app's own (RFC 6749 §4.4, `client_credentials`).
    ClientCredentials,
    /// That of a user who has sent the app this token ("on behalf of", by RFC 7523 §2.1).
    OnBehalfOf { assertion: &'a SecretString },
    /// That of a user, by what came with an earlier token (RFC 6749 §6).
    Refresh { refresh_token: &'a SecretString },
}

/// What a request to the token endpoint consists of.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) endpoint: Url,
    pub(super) scope: &'a str,
    /// Who asks. A managed identity has an endpoint of its own, and is refused here.
    pub(super) client: &'a Connection,
    pub(super) grant: Grant<'a>,
}

/// Why there is no token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotGranted {
    /// What it means for the poll that wanted one.
    pub hindrance: Hindrance,
    pub complaint: Box<Complaint>,
}

/// What the token endpoint says went wrong. Its description is left out: it is prose, and may quote
/// what was asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Complaint {
    /// The word of OAuth, by which failures are told apart; `None` where the answer is not in these
    /// words, or there was none.
    pub error: Option<String>,
    /// What follows `AADSTS` in the documentation of Microsoft Entra: for people, never to act on.
    pub numbers: Vec<u64>,
    pub trace_id: Option<String>,
    pub correlation_id: Option<String>,
    /// What the user has to be asked for, as JSON, where a conditional access policy wants it.
    pub claims: Option<String>,
}

/// At most this much of an answer is read. Tokens are a few KiB.
pub(super) const BODY_LIMIT: usize = 64 * 1_024;

const MOST_NUMBERS: usize = 8;

/// A claims challenge is a few hundred bytes; a longer one is none.
const LONGEST_CLAIMS: usize = 4_096;

/// No token is believed to live longer than this.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// By which an assertion proves who the client is (RFC 7523 §2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

impl Request<'_> {
    /// Makes the request, until `until` at the latest, and leaves one line in the log.
    pub(super) async fn send(
        self,
        transport: &Transport,
        clock: &dyn Clock,
        until: Instant,
    ) -> Result<Granted, NotGranted> {
        let started = Instant::now();
        let form = match self.form(clock.wall(), until).await {
            Ok(form) => form,
            Err(no_assertion) => {
                return Err(note_no_assertion(self.client, &no_assertion));
            }
        };
        let fields: Vec<(&str, &str)> =
            form.iter().map(|(name, value)| (*name, value.expose_secret())).collect();
        let answer = transport
            .exchange(until, BODY_LIMIT, |client| client.post(self.endpoint).form(&fields))
            .await;
        conclude(self.client, &answer, clock.wall(), started)
    }

    /// The fields, any of which may be secret.
    async fn form(
        &self,
        now: Timestamp,
        until: Instant,
    ) -> Result<Vec<(&'static str, SecretString)>, NoAssertion> {
        let plain = |text: &str| SecretString::from(text);
        let mut form =
            vec![("client_id", plain(&self.client.client_id)), ("scope", plain(self.scope))];
        match self.grant {
            Grant::ClientCredentials => form.push(("grant_type", plain("client_credentials"))),
            Grant::OnBehalfOf { assertion } => form.extend([
                ("grant_type", plain("urn:ietf:params:oauth:grant-type:jwt-bearer")),
                ("requested_token_use", plain("on_behalf_of")),
                ("assertion", assertion.clone()),
            ]),
            Grant::Refresh { refresh_token } => form.extend([
                ("grant_type", plain("refresh_token")),
                ("refresh_token", refresh_token.clone()),
            ]),
        }
        let assertion = match &self.client.proof {
            Proof::Secret(secret) => {
                form.push(("client_secret", secret.clone()));
                return Ok(form);
            }
            Proof::Certificate(certificate) => {
                let client_id = &self.client.client_id;
                assertion::signed(certificate, client_id, &self.endpoint, now)?
            }
            Proof::FederatedToken { file } => assertion::of_file(file, until).await?,
            Proof::ManagedIdentity(_) | Proof::OnBehalfOf(_) | Proof::Withdrawn => {
                return Err(NoAssertion::NotAnApp);
            }
        };
        form.extend([
            ("client_assertion_type", plain(JWT_BEARER)),
            ("client_assertion", assertion),
        ]);
        Ok(form)
    }
}

/// What came of a request, which is told in one line of the log.
pub(super) fn conclude(
    client: &Connection,
    answer: &Result<Received, NoAnswer>,
    now: Timestamp,
    started: Instant,
) -> Result<Granted, NotGranted> {
    let Connection { name, tenant, client_id, proof } = client;
    let proof = proof.kind().as_str();
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let received = match answer {
        Ok(received) => received,
        Err(no_answer) => {
            let error = causes(no_answer);
            tracing::warn!(
                %tenant, client_id, proof, took_ms, error, "no token for connection `{name}`"
            );
            let hindrance = Hindrance::Trouble { retry_after: None };
            return Err(NotGranted { hindrance, complaint: Box::default() });
        }
    };
    let status = received.status.as_u16();
    let read = read(received, now);
    match &read {
        Ok(granted) => {
            let lives_for_s = granted.lives_for.as_secs();
            tracing::debug!(
                %tenant, client_id, proof, status, took_ms, lives_for_s,
                "fetched a token for connection `{name}`"
            );
        }
        Err(NotGranted { hindrance, complaint }) => tracing::warn!(
            %tenant,
            client_id,
            proof,
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
    read
}

/// An app that cannot say who it is: mostly something on this machine that its operator must see to,
/// while all that the operation can do is wait.
fn note_no_assertion(client: &Connection, no_assertion: &NoAssertion) -> NotGranted {
    let Connection { name, tenant, client_id, .. } = client;
    let error = causes(no_assertion);
    tracing::error!(%tenant, client_id, error, "connection `{name}` cannot prove who it is");
    let hindrance = Hindrance::Trouble { retry_after: None };
    NotGranted { hindrance, complaint: Box::default() }
}

/// RFC 6749 §5.1, with the numbers that some answers of Entra and of Azure give as strings.
#[derive(Deserialize)]
struct GrantBody {
    access_token: SecretString,
    token_type: String,
    expires_in: Option<Seconds>,
    /// Since 1970: what a managed identity of an App Service has instead.
    expires_on: Option<Seconds>,
    refresh_token: Option<SecretString>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn read(self) -> Option<u64> {
        match self {
            Self::Number(seconds) => Some(seconds),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

fn read(received: &Received, now: Timestamp) -> Result<Granted, NotGranted> {
    let retry_after = received.header(&RETRY_AFTER).and_then(|value| lane::retry_after(value, now));
    let trouble = Hindrance::Trouble { retry_after };
    let status = received.status;
    let body = received.body.as_deref().unwrap_or_default();
    if status == StatusCode::OK {
        let complaint = Box::default();
        return granted(body, now).ok_or(NotGranted { hindrance: trouble, complaint });
    }
    let complaint = Box::new(complained(body));
    let about_the_moment =
        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    let hindrance = match complaint.error.as_deref() {
        Some(error) if status.is_client_error() && !about_the_moment => refused(error, trouble),
        // A refusal that is not in the words of OAuth is not Entra's: a proxy, a wrong address.
        _ => trouble,
    };
    Err(NotGranted { hindrance, complaint })
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
fn granted(body: &[u8], now: Timestamp) -> Option<Granted> {
    let body: GrantBody = serde_json::from_slice(body).ok()?;
    let seconds = match (body.expires_in, body.expires_on) {
        (Some(seconds), _) => seconds.read()?,
        (None, Some(end)) => end.read()?.saturating_sub(u64::try_from(now.as_second()).ok()?),
        (None, None) => return None,
    };
    let fits_a_header = |token: &SecretString| {
        let token = token.expose_secret();
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let usable =
        body.token_type.eq_ignore_ascii_case("Bearer") && fits_a_header(&body.access_token);
    let lives_for = Duration::from_secs(seconds).min(LONGEST_LIFE);
    (usable && !lives_for.is_zero()).then(|| Granted {
        secret: body.access_token,
        lives_for,
        refresh_token: body.refresh_token.filter(|token| !token.expose_secret().is_empty()),
    })
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
        claims: body
            .get("claims")
            .and_then(Value::as_str)
            .filter(|claims| claims.len() <= LONGEST_CLAIMS)
            .map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn reading(status: u16, body: &str) -> Result<Granted, NotGranted> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        let body = Ok(Bytes::copy_from_slice(body.as_bytes()));
        read(&Received { status: StatusCode::from_u16(status).unwrap(), headers, body }, NOW)
    }

    fn hindrance(status: u16, body: &str) -> Hindrance {
        reading(status, body).unwrap_err().hindrance
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
            let granted = reading(200, &body).unwrap();
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
            "correlation_id":"c","claims":"{\"access_token\":{}}","error_description":"AADSTS7000215: hunter2"}"#;
        let complaint = *reading(401, body).unwrap_err().complaint;
        let expected = Complaint {
            error: Some("invalid_client".to_owned()),
            numbers: vec![7_000_215, 1],
            trace_id: Some("t".to_owned()),
            correlation_id: Some("c".to_owned()),
            claims: Some(r#"{"access_token":{}}"#.to_owned()),
        };
        assert_eq!(complaint, expected);
    }
}
