//! Standard Webhooks 1.0.0: HMAC-SHA256 (`v1`) over `{id}.{timestamp}.{body}`, and Ed25519 (`v1a`)
//! over the same beside it, where a caller asks for that. Pure.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

mod ed25519;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use zeroize::Zeroizing;

pub use ed25519::{InvalidKey, PublicKey, SigningKey};

/// How far a callback's timestamp may be from the receiver's clock; as in all official libraries.
pub const TOLERANCE: Duration = Duration::from_mins(5);

const PREFIX: &str = "whsec_";

/// What entries of `webhook-signature` begin with: HMAC's, and Ed25519's.
const HMAC: &str = "v1,";
const ED25519: &str = "v1a,";

/// Bytes of a secret that we make. A multiple of three, so that its base64 needs no padding, which
/// some libraries are particular about.
const NEW_SECRET: usize = 24;

/// What a caller's callbacks are signed with: 24 to 64 bytes, as text `whsec_` and base64.
#[derive(Clone)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

/// What signs a callback.
#[derive(Clone, Debug, Default)]
pub struct Signers {
    /// Live secrets, newest first.
    pub secrets: Vec<SigningSecret>,
    /// Live keys, newest first; none unless the caller has asked for them.
    pub keys: Vec<SigningKey>,
}

/// The text is not a signing secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidSecret {
    #[error("a signing secret begins with `whsec_`")]
    Prefix,
    #[error("what follows `whsec_` is not standard base64 with its padding")]
    Base64,
    #[error("a signing secret has 24 to 64 bytes, this one has {0}")]
    Length(usize),
}

/// Why a message is not to be trusted, for whoever sets up a receiver.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VerifyError {
    #[error("the header {0} is missing")]
    Missing(&'static str),
    #[error("webhook-timestamp is not a number of seconds since 1970")]
    Timestamp,
    #[error("the message is {0} s old, more than the 300 s that are allowed: is the clock right?")]
    TooOld(i64),
    #[error("the message is {0} s ahead of the clock, more than the 300 s that are allowed")]
    TooNew(i64),
    #[error("webhook-signature has no entry that begins with `{0}`")]
    NoSignature(&'static str),
    #[error(
        "no signature matches: the secret or key is another one, or id, timestamp or body were \
         changed on the way (the exact bytes count, so verify before parsing)"
    )]
    Mismatch,
}

/// The three headers of a signed message, as they came.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignedHeaders<'a> {
    pub id: Option<&'a str>,
    pub timestamp: Option<&'a str>,
    pub signature: Option<&'a str>,
}

/// The value of `webhook-signature`: an entry for each secret, in their order, with exactly one
/// space between, which the official libraries insist upon.
pub fn sign(secrets: &[SigningSecret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let entry = |secret: &SigningSecret| {
        let code = mac(secret, id, timestamp.to_string().as_bytes(), body).finalize().into_bytes();
        format!("{HMAC}{}", STANDARD.encode(code))
    };
    secrets.iter().map(entry).collect::<Vec<_>>().join(" ")
}

impl Signers {
    /// One secret, and nothing else.
    pub fn only(secret: SigningSecret) -> Self {
        Self { secrets: vec![secret], keys: Vec::new() }
    }

    /// The same with an entry for each key behind those of the secrets: libraries that know HMAC
    /// alone pass over what they do not know, but some of them stumble over it where it comes first.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut signature = sign(&self.secrets, id, timestamp, body);
        if !self.keys.is_empty() {
            let content = content(id, &timestamp.to_string(), body);
            for key in &self.keys {
                let space = if signature.is_empty() { "" } else { " " };
                signature += space;
                signature += ED25519;
                signature += &STANDARD.encode(key.sign(&content));
            }
        }
        signature
    }
}

/// Checks a message as its receiver would, in constant time where it matters.
pub fn verify(
    secret: &SigningSecret,
    headers: SignedHeaders<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), VerifyError> {
    verify_with(HMAC, headers, now, |id, timestamp, code| {
        mac(secret, id, timestamp.as_bytes(), body).verify_slice(code).is_ok()
    })
}

/// Checks a message by the public half of a key that may have signed it.
pub fn verify_by_key(
    key: &PublicKey,
    headers: SignedHeaders<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), VerifyError> {
    verify_with(ED25519, headers, now, |id, timestamp, code| {
        key.verifies(&content(id, timestamp, body), code)
    })
}

/// Checks a message by those of its signatures that begin with `kind`; one that `matches` is enough.
fn verify_with(
    kind: &'static str,
    headers: SignedHeaders<'_>,
    now: Timestamp,
    matches: impl Fn(&str, &str, &[u8]) -> bool,
) -> Result<(), VerifyError> {
    let id = headers.id.ok_or(VerifyError::Missing("webhook-id"))?;
    let timestamp = headers.timestamp.ok_or(VerifyError::Missing("webhook-timestamp"))?;
    let signature = headers.signature.ok_or(VerifyError::Missing("webhook-signature"))?;
    let sent_at: i64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    let age = now.as_second().saturating_sub(sent_at);
    let tolerance = i64::try_from(TOLERANCE.as_secs()).unwrap_or(i64::MAX);
    if age > tolerance {
        return Err(VerifyError::TooOld(age));
    }
    if age < -tolerance {
        return Err(VerifyError::TooNew(age.saturating_neg()));
    }
    let mut entries = signature.split(' ').filter_map(|entry| entry.strip_prefix(kind)).peekable();
    if entries.peek().is_none() {
        return Err(VerifyError::NoSignature(kind));
    }
    // The header's text is what was signed, so the time is not written anew from the number.
    let matches = |entry| matches(id, timestamp, &STANDARD.decode(entry).unwrap_or_default());
    if entries.any(matches) { Ok(()) } else { Err(VerifyError::Mismatch) }
}

/// What is signed.
fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

fn mac(secret: &SigningSecret, id: &str, timestamp: &[u8], body: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "an HMAC takes keys of any length (RFC 2104 §2)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("a key of any length will do");
    for part in [id.as_bytes(), b".", timestamp, b".", body] {
        mac.update(part);
    }
    mac
}

impl SigningSecret {
    /// A new secret of 24 random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new(vec![0; NEW_SECRET]);
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The secret as text, to be shown once to its caller, or to be sealed.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", STANDARD.encode(&*self.0)))
    }
}

impl FromStr for SigningSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret::Prefix)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| InvalidSecret::Base64)?);
        if !(24..=64).contains(&bytes.len()) {
            return Err(InvalidSecret::Length(bytes.len()));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A secret, an id, a time, a body, and the signature that all official libraries compute.
    const VECTORS: [(&str, &str, i64, &str, &str); 2] = [
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
    ];

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn headers<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> SignedHeaders<'a> {
        SignedHeaders { id: Some(id), timestamp: Some(timestamp), signature: Some(signature) }
    }

    #[test]
    fn the_vectors_of_the_specification_hold() {
        for (secret, id, timestamp, body, signature) in VECTORS {
            let secret: SigningSecret = secret.parse().unwrap();
            assert_eq!(sign(&[secret], id, timestamp, body.as_bytes()), signature);
        }
    }

    #[test]
    fn during_a_rotation_either_secret_verifies() {
        let [(newer, id, timestamp, body, first), (older, ..)] = VECTORS;
        let [newer, older] = [newer, older].map(|text| text.parse::<SigningSecret>().unwrap());
        let signature = sign(&[newer.clone(), older.clone()], id, timestamp, body.as_bytes());
        assert!(signature.starts_with(&format!("{first} v1,")), "{signature}");
        assert_eq!(signature.matches(' ').count(), 1);
        let text = timestamp.to_string();
        for secret in [newer, older] {
            let headers = headers(id, &text, &signature);
            assert_eq!(verify(&secret, headers, body.as_bytes(), at(timestamp)), Ok(()));
        }
    }

    /// Vector C: a key, its public half, and what it signs the message of vector B with.
    const KEY: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const BY_KEY: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    #[test]
    fn a_key_signs_behind_the_secrets_as_the_vector_says() {
        let (secret, id, timestamp, body, by_secret) = VECTORS[1];
        let key: SigningKey = KEY.parse().unwrap();
        assert_eq!(key.public().to_string(), PUBLIC);
        let signers = Signers { secrets: vec![secret.parse().unwrap()], keys: vec![key.clone()] };
        let signature = signers.sign(id, timestamp, body.as_bytes());
        assert_eq!(signature, format!("{by_secret} {BY_KEY}"));

        let (text, public) = (timestamp.to_string(), PUBLIC.parse::<PublicKey>().unwrap());
        let good = headers(id, &text, &signature);
        let check =
            |headers, body: &str| verify_by_key(&public, headers, body.as_bytes(), at(timestamp));
        assert_eq!(check(good, body), Ok(()));
        assert_eq!(verify(&signers.secrets[0], good, body.as_bytes(), at(timestamp)), Ok(()));
        assert_eq!(check(good, "{}"), Err(VerifyError::Mismatch));
        assert_eq!(check(headers("msg_1", &text, &signature), body), Err(VerifyError::Mismatch));
        assert_eq!(
            check(headers(id, &text, by_secret), body),
            Err(VerifyError::NoSignature("v1a,"))
        );
        let other = SigningKey::generate().unwrap();
        let by_other = Signers { keys: vec![other, key], ..Signers::default() };
        let signature = by_other.sign(id, timestamp, body.as_bytes());
        assert_eq!(check(headers(id, &text, &signature), body), Ok(()), "either will do");
    }

    #[test]
    fn each_fault_is_told_apart() {
        let (secret, id, timestamp, body, signature) = VECTORS[0];
        let secret: SigningSecret = secret.parse().unwrap();
        let text = timestamp.to_string();
        let good = headers(id, &text, signature);
        let check = |headers, now| verify(&secret, headers, body.as_bytes(), at(now));
        assert_eq!(check(good, timestamp + 300), Ok(()));
        assert_eq!(check(good, timestamp - 300), Ok(()));
        assert_eq!(check(good, timestamp + 301), Err(VerifyError::TooOld(301)));
        assert_eq!(check(good, timestamp - 301), Err(VerifyError::TooNew(301)));
        let missing = SignedHeaders { id: None, ..good };
        assert_eq!(check(missing, timestamp), Err(VerifyError::Missing("webhook-id")));
        let odd = SignedHeaders { timestamp: Some("soon"), ..good };
        assert_eq!(check(odd, timestamp), Err(VerifyError::Timestamp));
        let unsigned = SignedHeaders { signature: Some("v1a,abc"), ..good };
        assert_eq!(check(unsigned, timestamp), Err(VerifyError::NoSignature("v1,")));
        let other = SignedHeaders { signature: Some(VECTORS[1].4), ..good };
        assert_eq!(check(other, timestamp), Err(VerifyError::Mismatch));
    }

    #[test]
    fn a_secret_is_read_strictly_and_shows_itself_to_nobody() {
        let parse = |text: &str| text.parse::<SigningSecret>().map(drop);
        assert_eq!(parse("C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), Err(InvalidSecret::Prefix));
        assert_eq!(parse("whsec_not base64"), Err(InvalidSecret::Base64));
        assert_eq!(parse("whsec_c2hvcnQ="), Err(InvalidSecret::Length(5)));
        let secret = SigningSecret::generate().unwrap();
        let text = secret.expose();
        assert_eq!(text.len(), 38);
        assert_eq!(*text.parse::<SigningSecret>().unwrap().expose(), *text);
        assert!(!format!("{secret:?}").contains(&text[6..]));
    }

    proptest! {
        #[test]
        fn what_was_signed_verifies_and_nothing_else_does(
            id in "msg_[a-z0-9]{1,20}",
            timestamp in 1_000_000_000_i64..2_000_000_000,
            body in prop::collection::vec(any::<u8>(), 0..200),
            flip in any::<(usize, u8)>(),
        ) {
            let secret: SigningSecret = VECTORS[0].0.parse().unwrap();
            let text = timestamp.to_string();
            let signature = sign(std::slice::from_ref(&secret), &id, timestamp, &body);
            let check = |id: &str, signature: &str, body: &[u8]| {
                verify(&secret, headers(id, &text, signature), body, at(timestamp))
            };
            prop_assert_eq!(check(&id, &signature, &body), Ok(()));

            let (place, bit) = (flip.0, 1 << (flip.1 % 8));
            let mut changed = body.clone();
            changed.push(0);
            prop_assert_eq!(check(&id, &signature, &changed), Err(VerifyError::Mismatch));
            if !body.is_empty() {
                let mut changed = body.clone();
                changed[place % body.len()] ^= bit;
                prop_assert_eq!(check(&id, &signature, &changed), Err(VerifyError::Mismatch));
            }
            let mut code = STANDARD.decode(&signature[3..]).unwrap();
            let length = code.len();
            code[place % length] ^= bit;
            let forged = format!("v1,{}", STANDARD.encode(code));
            prop_assert_eq!(check(&id, &forged, &body), Err(VerifyError::Mismatch));
            prop_assert_eq!(check(&format!("{id}x"), &signature, &body), Err(VerifyError::Mismatch));
        }
    }
}
