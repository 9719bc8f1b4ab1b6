//! Encrypts what must not be read from a stolen database: tokens, signing secrets, client secrets.
//!
//! A sealed value is `key id (8) ‖ nonce (24) ‖ XChaCha20-Poly1305 ciphertext and tag`. The nonce
//! is random, which its 192 bits allow without counting. The associated data is the value's place
//! (table, row, column), so that a sealed value copied into another row does not open there.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;

/// The key that everything is sealed under: 32 random bytes, as text in standard base64.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

/// Names a key without telling it: the first 8 bytes of a SHA-256 over it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct KeyId([u8; KEY_ID_BYTES]);

/// Seals and opens.
#[derive(Clone)]
pub struct Vault {
    cipher: XChaCha20Poly1305,
    key_id: KeyId,
}

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("a master key is 32 bytes in base64 (44 characters)")]
    MalformedKey,
    #[error("sealed under master key {sealed_under}, but the key given is {given}")]
    OtherKey { sealed_under: KeyId, given: KeyId },
    #[error("not sealed for this place, or changed since")]
    Broken,
    #[error("the operating system has no random numbers")]
    NoRandomness(#[source] getrandom::Error),
}

impl MasterKey {
    /// A new key.
    pub fn generate() -> Result<Self, VaultError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut()).map_err(VaultError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The key as text, to be kept in a file that only its owner can read.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_ref()))
    }

    pub fn id(&self) -> KeyId {
        let digest = Sha256::new()
            .chain_update(b"engagement-bridge master key id")
            .chain_update(self.0.as_ref())
            .finalize();
        let mut id = [0; KEY_ID_BYTES];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        KeyId(id)
    }
}

impl Vault {
    pub fn new(key: &MasterKey) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&(*key.0).into()), key_id: key.id() }
    }

    /// Seals `secret` for `place`, which must be the same when it is opened.
    pub fn seal(&self, place: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(VaultError::NoRandomness)?;
        let payload = Payload { msg: secret, aad: place.as_bytes() };
        let ciphertext =
            self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::Broken)?;
        Ok([&self.key_id.0[..], &nonce, &ciphertext].concat())
    }

    /// Opens what was sealed for `place`.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (key_id, rest) = sealed.split_first_chunk().ok_or(VaultError::Broken)?;
        let sealed_under = KeyId(*key_id);
        if sealed_under != self.key_id {
            return Err(VaultError::OtherKey { sealed_under, given: self.key_id });
        }
        let (nonce, ciphertext) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::Broken)?;
        let payload = Payload { msg: ciphertext, aad: place.as_bytes() };
        let opened = self.cipher.decrypt(&XNonce::from(*nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| VaultError::Broken)
    }
}

impl FromStr for MasterKey {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).unwrap_or_default());
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes.as_slice());
        bytes.map(|bytes| Self(Zeroizing::new(bytes))).map_err(|_| VaultError::MalformedKey)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.key_id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_in_its_place_alone() {
        let vault = Vault::new(&MasterKey::generate().unwrap());
        let sealed = vault.seal("connections/contoso", b"secret").unwrap();
        assert_eq!(vault.open("connections/contoso", &sealed).unwrap().as_slice(), b"secret");
        assert!(matches!(vault.open("connections/fabrikam", &sealed), Err(VaultError::Broken)));
    }

    #[test]
    fn another_key_is_told_apart_from_a_changed_value() {
        let (ours, theirs) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let mut sealed = Vault::new(&ours).seal("place", b"secret").unwrap();
        let refused = Vault::new(&theirs).open("place", &sealed);
        assert!(matches!(refused, Err(VaultError::OtherKey { .. })));

        for position in KEY_ID_BYTES..sealed.len() {
            sealed[position] ^= 1;
            let broken = Vault::new(&ours).open("place", &sealed);
            assert!(matches!(broken, Err(VaultError::Broken)), "byte {position}");
            sealed[position] ^= 1;
        }
        assert!(Vault::new(&ours).open("place", &sealed[..20]).is_err());
    }

    #[test]
    fn a_key_survives_being_written_down_and_shows_itself_to_nobody() {
        let key = MasterKey::generate().unwrap();
        let again: MasterKey = format!("{}\n", *key.expose()).parse().unwrap();
        assert_eq!(key.id(), again.id());
        assert!(!format!("{key:?}").contains(key.expose().as_str()));
        assert!("c2hvcnQ=".parse::<MasterKey>().is_err());
    }
}
