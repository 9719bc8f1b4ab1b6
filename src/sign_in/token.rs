//! A JSON Web Token in its compact form (RFC 7519, RFC 7515 §3.1), read and not yet believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::Refusal;

/// Bytes of a token at the most. Entra's are between 1 and 4 KiB.
pub(super) const LONGEST: usize = 16 * 1024;

/// A token, taken apart. It has no `Debug`, for whoever holds it may use it.
pub(super) struct Token<'a> {
    pub(super) header: Header,
    pub(super) claims: Claims,
    /// Header and claims as they came: what was signed.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// What the signature is made with.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: String,
    /// Extensions that must be understood (RFC 7515 §4.1.11). We understand none.
    pub(super) crit: Option<IgnoredAny>,
}

/// What the token says, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    pub(super) ver: String,
    pub(super) aud: String,
    pub(super) iss: String,
    pub(super) tid: Option<String>,
    pub(super) oid: Option<String>,
    /// The client id of the app that asked for the token.
    pub(super) azp: Option<String>,
    /// Seconds since 1970, as the other times.
    pub(super) exp: i64,
    pub(super) nbf: Option<i64>,
    /// What a user let the app do in their name, with a space between.
    pub(super) scp: Option<String>,
    /// What an administrator let the app do in its own name.
    #[serde(default)]
    pub(super) roles: Vec<String>,
}

impl<'a> Token<'a> {
    /// Takes `text` apart. Says nothing about whether it is to be believed.
    pub(super) fn read(text: &'a str) -> Result<Self, Refusal> {
        if LONGEST < text.len() {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
        let header: Header = part(header)?;
        Ok(Self { header, claims: part(claims)?, signed: signed.as_bytes(), signature })
    }
}

fn part<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Malformed)
}
