//! How an app proves to Entra that it is the app: by a secret, by a statement that it signs with the
//! key of its certificate, or by a token of an issuer that Entra was told to trust.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::refusal::Refusal;
use crate::sandbox::{Full, NotUploaded};

/// By which an assertion proves who the client is (RFC 7523 §2.2).
pub(super) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Entra forgives clocks this much.
const LEEWAY: Duration = Duration::from_mins(5);

/// No statement may be good for longer.
const LONGEST: Duration = Duration::from_hours(24);

/// What apps may prove themselves by, besides secrets.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Trust {
    by_app: HashMap<App, Trusted>,
    /// The statements that were seen, oldest first.
    seen: VecDeque<Seen>,
}

/// An app registration: tenant and client id, both lower case.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(in crate::sandbox) struct App {
    pub(in crate::sandbox) tenant: String,
    pub(in crate::sandbox) client_id: String,
}

#[derive(Debug, Default)]
struct Trusted {
    certificates: Vec<Uploaded>,
    /// SHA-256 of the one token that its federated issuer stands by at present.
    federated: Option<[u8; 32]>,
}

/// A certificate in an app registration.
#[derive(Debug)]
struct Uploaded {
    /// Its SHA-256 in base64url, as a header names it.
    thumbprint: String,
    /// `RSAPublicKey` of RFC 8017.
    public_key: Vec<u8>,
}

/// A statement that was taken, by digests.
#[derive(Debug)]
struct Seen {
    name: [u8; 32],
    text: [u8; 32],
    end: Timestamp,
}

/// The header of a statement (RFC 7515 §4.1).
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(rename = "x5t#S256")]
    thumbprint: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    aud: String,
    iss: String,
    sub: String,
    jti: String,
    exp: Date,
    nbf: Option<Date>,
}

/// Seconds since 1970-01-01T00:00:00Z, which may have a fraction (RFC 7519 §2): msal sends one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "f64")]
struct Date(i64);

impl TryFrom<f64> for Date {
    type Error = jiff::Error;

    fn try_from(seconds: f64) -> Result<Self, jiff::Error> {
        jiff::SignedDuration::try_from_secs_f64(seconds).map(|since| Self(since.as_secs()))
    }
}

impl App {
    pub(in crate::sandbox) fn new(tenant: &str, client_id: &str) -> Self {
        Self { tenant: tenant.to_ascii_lowercase(), client_id: client_id.to_ascii_lowercase() }
    }
}

impl Trust {
    const APPS: usize = 10_000;
    const CERTIFICATES: usize = 10;
    const SEEN: usize = 100_000;

    /// Lets an app sign by the key of this certificate (DER), beside those that it has.
    pub(in crate::sandbox) fn certificate(
        &mut self,
        app: App,
        der: &[u8],
    ) -> Result<(), NotUploaded> {
        let certificate = Certificate::from_der(der).map_err(|_| NotUploaded::NotACertificate)?;
        let key = certificate.tbs_certificate.subject_public_key_info.subject_public_key;
        let uploaded = Uploaded {
            thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(der)),
            public_key: key.raw_bytes().to_vec(),
        };
        let trusted = self.of(app)?;
        trusted.certificates.push(uploaded);
        let surplus = trusted.certificates.len().saturating_sub(Self::CERTIFICATES);
        trusted.certificates.drain(..surplus);
        Ok(())
    }

    /// Lets an app prove itself by this token of another issuer, and by none before it.
    pub(in crate::sandbox) fn federated(&mut self, app: App, token: &str) -> Result<(), Full> {
        self.of(app)?.federated = Some(Sha256::digest(token).into());
        Ok(())
    }

    fn of(&mut self, app: App) -> Result<&mut Trusted, Full> {
        if Self::APPS <= self.by_app.len() && !self.by_app.contains_key(&app) {
            return Err(Full { what: "app registrations", limit: Self::APPS });
        }
        Ok(self.by_app.entry(app).or_default())
    }

    /// Whether `assertion` says, at `now`, that who asks `endpoint` is `app`.
    pub(super) fn prove(
        &mut self,
        app: &App,
        assertion: &str,
        endpoint: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let trusted = self.by_app.get(app);
        let is_federated = |it: &Trusted| it.federated == Some(Sha256::digest(assertion).into());
        if trusted.is_some_and(is_federated) {
            return Ok(());
        }
        let (message, signature) = assertion.rsplit_once('.').ok_or(Refusal::MalformedAssertion)?;
        let (header, claims) = message.split_once('.').ok_or(Refusal::MalformedAssertion)?;
        let header: Header = part(header).ok_or(Refusal::MalformedAssertion)?;
        let claims: Claims = part(claims).ok_or(Refusal::MalformedAssertion)?;
        // A statement without the name of a certificate is a token of another issuer's.
        let thumbprint = header.thumbprint.ok_or(Refusal::NotFederated)?;
        let uploaded = trusted
            // msal pads it, against RFC 7515, and Entra does not mind.
            .and_then(|it| {
                let thumbprint = thumbprint.trim_end_matches('=');
                it.certificates.iter().find(|it| it.thumbprint == thumbprint)
            })
            .ok_or(Refusal::UnknownCertificate)?;
        let signature =
            URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::MalformedAssertion)?;
        let key = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &uploaded.public_key);
        if header.alg != "PS256" || key.verify(message.as_bytes(), &signature).is_err() {
            return Err(Refusal::BadSignature);
        }
        claims.check(app, endpoint, now)?;
        self.note(assertion, &claims, now)
    }

    /// Takes no two statements of one name. The same one again is taken: msal sends each for as long as it
    /// lasts, and Entra takes it.
    fn note(&mut self, assertion: &str, claims: &Claims, now: Timestamp) -> Result<(), Refusal> {
        let end = Timestamp::from_second(claims.exp.0).unwrap_or(now);
        let end = end.checked_add(LEEWAY).unwrap_or(Timestamp::MAX);
        while self.seen.front().is_some_and(|it| it.end < now) || self.seen.len() >= Self::SEEN {
            self.seen.pop_front();
        }
        // By its `jti`, for who changes anything else needs another signature but not another name.
        let name = [claims.iss.as_bytes(), b"\0", claims.jti.as_bytes()].concat();
        let name = <[u8; 32]>::from(Sha256::digest(name));
        let text = <[u8; 32]>::from(Sha256::digest(assertion));
        let of_that_name = self.seen.iter().find(|it| it.name == name);
        if of_that_name.is_some_and(|it| it.text == text) {
            return Ok(());
        }
        if claims.jti.is_empty() || of_that_name.is_some() {
            tracing::debug!("an assertion of {} bytes was used before", assertion.len());
            return Err(Refusal::ReusedAssertion);
        }
        self.seen.push_back(Seen { name, text, end });
        Ok(())
    }
}

impl Claims {
    fn check(&self, app: &App, endpoint: &str, now: Timestamp) -> Result<(), Refusal> {
        if !self.aud.eq_ignore_ascii_case(endpoint) {
            return Err(Refusal::AssertionAudience);
        }
        let is_app = |name: &str| name.eq_ignore_ascii_case(&app.client_id);
        if !is_app(&self.iss) || !is_app(&self.sub) {
            return Err(Refusal::AssertionIssuer);
        }
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let (now, leeway) = (now.as_second(), seconds(LEEWAY));
        let is_over = self.exp.0.saturating_add(leeway) <= now;
        let is_early = self.nbf.is_some_and(|nbf| now.saturating_add(leeway) < nbf.0);
        let is_long = now.saturating_add(seconds(LONGEST)) < self.exp.0;
        if is_over || is_early || is_long {
            return Err(Refusal::AssertionTime);
        }
        Ok(())
    }
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}
