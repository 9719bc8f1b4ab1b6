//! The keys that a tenant signs with, as it publishes them (RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Keys for RS256.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// A public key. Keys that are too short are refused where they are used.
#[derive(Clone, Debug)]
pub(super) struct Key {
    kid: String,
    /// Whose tokens it may sign; anybody's, where it does not say. `{tenantid}` in it stands for any
    /// tenant.
    pub(super) issuer: Option<String>,
    /// Big-endian, without zeros before it; the same holds for the exponent.
    pub(super) modulus: Vec<u8>,
    pub(super) exponent: Vec<u8>,
}

/// What was published is no set of keys that anything can be verified with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnusableKeys {
    #[error("what the tenant publishes as its keys is not a JSON Web Key Set")]
    NotKeys,
    #[error("the tenant publishes no RSA key for signatures")]
    NoneUsable,
    #[error("the tenant publishes more than {MOST} keys")]
    TooMany,
}

/// Keys of one tenant at the most. Entra publishes fewer than ten.
const MOST: usize = 128;

#[derive(Deserialize)]
struct Published<'a> {
    /// Each is read by itself: one that we cannot use spoils none of the others.
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct PublishedKey {
    kid: String,
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    issuer: Option<String>,
    n: String,
    e: String,
}

impl KeySet {
    /// Reads a set as it was published, of which only keys for RS256 are kept.
    pub fn read(bytes: &[u8]) -> Result<Self, UnusableKeys> {
        let Published { keys } =
            serde_json::from_slice(bytes).map_err(|_| UnusableKeys::NotKeys)?;
        if MOST < keys.len() {
            return Err(UnusableKeys::TooMany);
        }
        let keys: Vec<Key> = keys.into_iter().filter_map(key).collect();
        if keys.is_empty() { Err(UnusableKeys::NoneUsable) } else { Ok(Self { keys }) }
    }

    /// Those keys that are called `kid`.
    pub(super) fn named(&self, kid: &str) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.kid == kid)
    }

    pub(super) fn has(&self, kid: &str) -> bool {
        self.named(kid).next().is_some()
    }

    /// How many there are; never none.
    pub(super) fn count(&self) -> usize {
        self.keys.len()
    }
}

fn key(text: &RawValue) -> Option<Key> {
    let key: PublishedKey = serde_json::from_str(text.get()).ok()?;
    let for_signatures = key.purpose.is_none_or(|purpose| purpose == "sig");
    let for_rs256 = key.kty == "RSA" && key.alg.is_none_or(|alg| alg == "RS256");
    if !for_signatures || !for_rs256 || key.kid.is_empty() {
        return None;
    }
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.get(zeros..).filter(|rest| !rest.is_empty()).map(<[u8]>::to_vec)
    };
    let (modulus, exponent) = (number(&key.n)?, number(&key.e)?);
    Some(Key { kid: key.kid, issuer: key.issuer, modulus, exponent })
}
