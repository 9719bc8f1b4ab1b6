//! Keys whose public half anybody may have, who then can verify a callback and not make one.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

const PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";

/// Bytes of a seed, and of a public key (RFC 8032 §5.1.5).
const HALF: usize = 32;

/// A private key: as text `whsk_`, and base64 of its seed and of its public half.
#[derive(Clone)]
pub struct SigningKey {
    seed: Zeroizing<[u8; HALF]>,
    public: PublicKey,
}

/// The public half of a key: as text `whpk_`, and base64 of its 32 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublicKey([u8; HALF]);

/// The text is not a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected `{prefix}` and standard base64 of {bytes} bytes")]
pub struct InvalidKey {
    prefix: &'static str,
    bytes: usize,
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; HALF]);
        getrandom::fill(seed.as_mut())?;
        let mut public = [0; HALF];
        public.copy_from_slice(pair(&seed).public_key().as_ref());
        Ok(Self { seed, public: PublicKey(public) })
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The key as text, to be sealed.
    pub fn expose(&self) -> Zeroizing<String> {
        let both = Zeroizing::new([&self.seed[..], &self.public.0].concat());
        Zeroizing::new(format!("{PREFIX}{}", STANDARD.encode(&*both)))
    }

    pub(super) fn sign(&self, content: &[u8]) -> [u8; 64] {
        let mut code = [0; 64];
        code.copy_from_slice(pair(&self.seed).sign(content).as_ref());
        code
    }
}

/// Takes tens of microseconds, so it is left until something is to be signed.
fn pair(seed: &[u8; HALF]) -> Ed25519KeyPair {
    #[expect(clippy::expect_used, reason = "any 32 bytes are a seed (RFC 8032 §5.1.5)")]
    Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes will do")
}

impl PublicKey {
    pub(super) fn verifies(&self, content: &[u8], code: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(content, code).is_ok()
    }
}

/// The bytes behind `prefix`, if there are so many.
fn read<const N: usize>(
    text: &str,
    prefix: &'static str,
) -> Result<Zeroizing<[u8; N]>, InvalidKey> {
    let invalid = InvalidKey { prefix, bytes: N };
    let encoded = text.strip_prefix(prefix).ok_or(invalid)?;
    let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| invalid)?);
    let bytes = <[u8; N]>::try_from(bytes.as_slice());
    bytes.map(Zeroizing::new).map_err(|_| invalid)
}

impl FromStr for SigningKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let both = read::<{ 2 * HALF }>(text, PREFIX)?;
        let (mut seed, mut public) = (Zeroizing::new([0; HALF]), [0; HALF]);
        seed.copy_from_slice(&both[..HALF]);
        public.copy_from_slice(&both[HALF..]);
        Ok(Self { seed, public: PublicKey(public) })
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Ok(Self(*read(text, PUBLIC_PREFIX)?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_being_written_down_and_shows_its_public_half_alone() {
        let key = SigningKey::generate().unwrap();
        let text = key.expose();
        let again: SigningKey = text.parse().unwrap();
        assert_eq!((again.public(), &*again.seed), (key.public(), &*key.seed));
        let public = key.public().to_string();
        assert_eq!(public.parse::<PublicKey>(), Ok(key.public()));
        let shown = format!("{key:?}");
        assert!(shown.contains(&public) && !shown.contains(&text[5..40]), "{shown}");
        assert!(key.public().verifies(b"x", &again.sign(b"x")));
        assert!(!key.public().verifies(b"y", &again.sign(b"x")));
    }

    #[test]
    fn a_key_is_read_strictly() {
        for text in ["", "whpk_", "whpk_c2hvcnQ=", "whsk_c2hvcnQ=", "whpk_not base64"] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
            assert!(text.parse::<SigningKey>().is_err(), "{text}");
        }
        let error = "whsec_".parse::<PublicKey>().unwrap_err().to_string();
        assert_eq!(error, "expected `whpk_` and standard base64 of 32 bytes");
    }
}
