//! What tests share: plain values to start from, PostgreSQL, and ways that can be cut.

pub(crate) mod certificates;
pub(crate) mod postgres;
pub(crate) mod relay;

use std::time::Duration;

use bytes::Bytes;
use engagement_bridge::courier::Format;
use engagement_bridge::graph::{AccessToken, ApiVersion, Connection, Credential, Proof, Reference};
use engagement_bridge::operation::{self, OperationId};
use engagement_bridge::store::{ApiKey, CallerName, KeyDigest, Registration, Scopes};
use jiff::Timestamp;
use secrecy::SecretString;

/// When every story begins.
pub(crate) const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// Vector A of the Standard Webhooks libraries.
pub(crate) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn after(span: u64) -> Timestamp {
    NOON + seconds(span)
}

pub(crate) fn caller(name: &str) -> CallerName {
    name.parse().unwrap()
}

pub(crate) fn api_key(id: &str) -> ApiKey {
    let mut digest = [0; 32];
    digest.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
    ApiKey {
        id: id.to_owned(),
        digest: KeyDigest(digest),
        label: None,
        scopes: Scopes::ALL,
        created_at: NOON,
        expires_at: None,
        last_used_at: None,
    }
}

pub(crate) fn connection(name: &str) -> Connection {
    Connection {
        name: name.to_owned(),
        tenant: format!("{name}.example"),
        client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
        proof: Proof::Secret(SecretString::from("client-secret")),
    }
}

pub(crate) fn token(secret: &str, expires_at: Timestamp) -> Credential {
    Credential::Token(AccessToken { secret: SecretString::from(secret), expires_at })
}

/// The `n`-th operation of the caller `contoso`, registered at noon, first polled five seconds
/// later or a little after, on the lane of the connection `contoso`.
pub(crate) fn registration(n: u32) -> Registration {
    let operation = operation::register(
        &operation::Policy::default(),
        OperationId(u128::from(n)),
        NOON,
        NOON + Duration::from_hours(24),
    );
    Registration {
        operation,
        caller: caller("contoso"),
        reference: Reference { version: ApiVersion::V1, id: format!("graph-{n}") },
        credential: Credential::Connection(connection("contoso").into()),
        callback_url: "https://app.example.com/hooks".to_owned(),
        callback_origin: "https://app.example.com:443".to_owned(),
        client_state: None,
        callback_secret: None,
        format: Format::Envelope,
        trace: None,
        idempotency: None,
        live_limit: 1_000_000,
        is_agreed: true,
    }
}

/// The same, by a token of its own, so that its polls share a lane with no other's.
pub(crate) fn on_its_own_lane(n: u32) -> Registration {
    let credential = token(&format!("token {n}"), after(100_000));
    Registration { credential, ..registration(n) }
}

pub(crate) fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
