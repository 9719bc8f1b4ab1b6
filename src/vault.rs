//! Encrypts what must not be read from a stolen database: tokens, signing secrets, client secrets.
//!
//! A sealed value is `key id (8) ‖ nonce (24) ‖ XChaCha20-Poly1305 ciphertext and tag`. The nonce
//! is random, which its 192 bits allow without counting. The associated data is the value's place
//! (table, row, column), so that a sealed value copied into another row does not open there.
//!
//! Several master keys can be given: the first seals, and each opens what was sealed under it. So a key
//! can be changed while all of it is in use: see the README for the steps.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;

/// Master keys that can be given. A change of keys needs two, and one that was broken off three.
const MOST_KEYS: usize = 16;

/// A key that things are sealed under: 32 random bytes, as text in standard base64.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

/// The keys that are given: the first seals, each of them opens. As text, with commas or white space
/// between them, such as one to a line.
#[derive(Clone, Debug)]
pub struct MasterKeys {
    first: MasterKey,
    others: Vec<MasterKey>,
}

/// Names a key without telling it: the first 8 bytes of a SHA-256 over it.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId([u8; KEY_ID_BYTES]);

/// Seals under the first of its keys, and opens what is sealed under any.
#[derive(Clone)]
pub struct Vault {
    first: Lock,
    others: Arc<[Lock]>,
}

/// One key, ready to be used.
#[derive(Clone)]
struct Lock {
    key: KeyId,
    cipher: XChaCha20Poly1305,
}

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("a master key is 32 bytes in base64 (44 characters)")]
    MalformedKey,
    #[error("number {number} of the {of} master keys is not 32 bytes in base64 (44 characters)")]
    MalformedKeyOf { number: usize, of: usize },
    #[error("there are {given} master keys, of {MOST_KEYS} at the most")]
    TooManyKeys { given: usize },
    #[error("master key {0} is given twice")]
    GivenTwice(KeyId),
    #[error("sealed under master key {sealed_under}, which is not among those given ({given})")]
    OtherKey { sealed_under: KeyId, given: KeyIds },
    #[error("not the id of a master key")]
    NoKeyId,
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

impl MasterKeys {
    /// The one that seals.
    pub fn first(&self) -> &MasterKey {
        &self.first
    }
}

impl From<MasterKey> for MasterKeys {
    fn from(first: MasterKey) -> Self {
        Self { first, others: Vec::new() }
    }
}

impl KeyId {
    /// Under which key a value is sealed; `None` where it is too short to be one.
    pub fn of(sealed: &[u8]) -> Option<Self> {
        sealed.first_chunk().copied().map(Self)
    }

    /// What every value begins with that is sealed under this key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Lock {
    fn of(key: &MasterKey) -> Self {
        Self { key: key.id(), cipher: XChaCha20Poly1305::new(&(*key.0).into()) }
    }
}

impl Vault {
    /// With one key.
    pub fn new(key: &MasterKey) -> Self {
        Self { first: Lock::of(key), others: Arc::default() }
    }

    /// With the keys that are given.
    pub fn with(keys: &MasterKeys) -> Self {
        Self { first: Lock::of(&keys.first), others: keys.others.iter().map(Lock::of).collect() }
    }

    /// The keys that open, that which seals first.
    pub fn keys(&self) -> KeyIds {
        KeyIds(self.locks().map(|lock| lock.key).collect())
    }

    /// The key that seals.
    pub fn first_key(&self) -> KeyId {
        self.first.key
    }

    fn locks(&self) -> impl Iterator<Item = &Lock> {
        std::iter::once(&self.first).chain(self.others.iter())
    }

    /// Seals `secret` for `place`, which must be the same when it is opened.
    pub fn seal(&self, place: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(VaultError::NoRandomness)?;
        let payload = Payload { msg: secret, aad: place.as_bytes() };
        let Lock { key, cipher } = &self.first;
        let ciphertext =
            cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::Broken)?;
        Ok([key.as_bytes(), &nonce, &ciphertext].concat())
    }

    /// Opens what was sealed for `place`.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (key_id, rest) = sealed.split_first_chunk().ok_or(VaultError::Broken)?;
        let sealed_under = KeyId(*key_id);
        let other_key = || VaultError::OtherKey { sealed_under, given: self.keys() };
        let lock = self.locks().find(|lock| lock.key == sealed_under).ok_or_else(other_key)?;
        let (nonce, ciphertext) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::Broken)?;
        let payload = Payload { msg: ciphertext, aad: place.as_bytes() };
        let opened = lock.cipher.decrypt(&XNonce::from(*nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| VaultError::Broken)
    }

    /// The same secret, sealed for the same place under the first key.
    pub fn reseal(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let opened = self.open(place, sealed)?;
        self.seal(place, &opened)
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

impl FromStr for MasterKeys {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let is_between = |c: char| c == ',' || c.is_whitespace();
        let texts: Vec<&str> = text.split(is_between).filter(|text| !text.is_empty()).collect();
        if texts.len() > MOST_KEYS {
            return Err(VaultError::TooManyKeys { given: texts.len() });
        }
        let mut keys: Vec<MasterKey> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let key = text.parse::<MasterKey>().map_err(|error| match texts.len() {
                1 => error,
                of => VaultError::MalformedKeyOf { number: index + 1, of },
            })?;
            if keys.iter().any(|other| other.id() == key.id()) {
                return Err(VaultError::GivenTwice(key.id()));
            }
            keys.push(key);
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(VaultError::MalformedKey)?;
        Ok(Self { first, others: keys.collect() })
    }
}

/// The names of several keys, in their order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyIds(Vec<KeyId>);

impl KeyIds {
    /// Each of them, that which seals first.
    pub fn iter(&self) -> impl Iterator<Item = KeyId> {
        self.0.iter().copied()
    }

    pub fn contains(&self, key: KeyId) -> bool {
        self.0.contains(&key)
    }
}

impl fmt::Display for KeyIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { ", " };
            write!(f, "{between}{key}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.keys())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for KeyId {
    type Err = VaultError;

    /// As it is displayed: 16 digits in hex.
    fn from_str(text: &str) -> Result<Self, VaultError> {
        let digits = text.len() == 2 * KEY_ID_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(|number| Self(number.to_be_bytes())).ok_or(VaultError::NoKeyId)
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
    fn the_first_key_seals_and_each_opens_what_is_sealed_under_it() {
        let [old, new] = [(); 2].map(|()| MasterKey::generate().unwrap());
        let by_the_old = Vault::new(&old).seal("place", b"secret").unwrap();
        let text = format!("{}\n{}\n", *new.expose(), *old.expose());
        let both = Vault::with(&text.parse().unwrap());
        assert_eq!(both.open("place", &by_the_old).unwrap().as_slice(), b"secret");
        let resealed = both.reseal("place", &by_the_old).unwrap();
        assert_eq!(KeyId::of(&resealed), Some(new.id()));
        assert_eq!(Vault::new(&new).open("place", &resealed).unwrap().as_slice(), b"secret");
        assert!(both.reseal("elsewhere", &by_the_old).is_err(), "the place is kept to");
    }

    #[test]
    fn keys_are_read_with_commas_or_lines_between_and_what_is_wrong_with_them_is_said() {
        let [one, two] = [(); 2].map(|()| MasterKey::generate().unwrap());
        let (first, second) = (one.expose(), two.expose());
        for text in [
            format!("{},{}", *first, *second),
            format!("{}\r\n{}\n", *first, *second),
            format!(" {} , {},", *first, *second),
        ] {
            let keys: MasterKeys = text.parse().unwrap();
            let read: Vec<_> = Vault::with(&keys).keys().iter().collect();
            assert_eq!(read, [one.id(), two.id()]);
        }
        let refused = |text: String| text.parse::<MasterKeys>().unwrap_err().to_string();
        let broken = refused(format!("{},{}", *first, &second[1..]));
        assert!(broken.starts_with("number 2 of the 2 master keys"), "{broken}");
        assert!(!broken.contains(&second[1..]));
        assert!(refused(format!("{0},{0}", *first)).contains("given twice"));
        assert!(refused(vec![first.as_str(); 17].join("\n")).starts_with("there are 17"));
        assert!(refused(String::new()).starts_with("a master key is"));
    }

    #[test]
    fn a_key_survives_being_written_down_and_shows_itself_to_nobody() {
        let key = MasterKey::generate().unwrap();
        let again: MasterKey = format!("{}\n", *key.expose()).parse().unwrap();
        assert_eq!(key.id(), again.id());
        assert_eq!(key.id().to_string().parse::<KeyId>().unwrap(), key.id());
        assert!("+123456789abcdef".parse::<KeyId>().is_err());
        assert!(!format!("{key:?}").contains(key.expose().as_str()));
        assert!("c2hvcnQ=".parse::<MasterKey>().is_err());
    }
}
