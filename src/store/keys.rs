//! API keys: what is kept of them, and what they may do.

use std::fmt;

use jiff::Timestamp;

use super::CallerName;

/// The SHA-256 of an API key. Keys have 190 bits of chance in them, so a plain digest does.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct KeyDigest(pub [u8; 32]);

/// One thing that a key may be for. None includes another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// Hands operations in and sees to them: registers, renews, cancels, sends again.
    Register,
    /// Looks at everything of the caller's.
    Read,
    /// Changes what belongs to the caller: keys, secrets, connections, settings.
    Manage,
}

/// What a key is for: some of the scopes, and never none.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Scopes(u8);

/// An API key, by its digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiKey {
    /// Names the key where it is listed and revoked.
    pub id: String,
    pub digest: KeyDigest,
    /// What the caller calls it, if anything.
    pub label: Option<String>,
    pub scopes: Scopes,
    pub created_at: Timestamp,
    /// It opens nothing from then on.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, late by some minutes at the most.
    pub last_used_at: Option<Timestamp>,
}

/// Whose a key is, and what it is good for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyHolder {
    pub caller: CallerName,
    /// Of the key.
    pub id: String,
    pub scopes: Scopes,
    /// Whoever asks judges by it: a store tells of keys that have expired as well.
    pub expires_at: Option<Timestamp>,
}

/// What came of adding a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyAdded {
    Added,
    NoSuchCaller,
    /// The caller has as many as it may have; nothing was changed.
    TooMany,
}

/// That a key was used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyUse {
    pub caller: CallerName,
    /// Of the key.
    pub id: String,
    pub at: Timestamp,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Register, Self::Read, Self::Manage];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Scopes {
    /// Everything that a caller may do.
    pub const ALL: Self = Self(0b111);

    /// `None` where there are none.
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Option<Self> {
        let bits = scopes.into_iter().fold(0, |bits, scope| bits | scope.bit());
        (bits != 0).then_some(Self(bits))
    }

    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether these are at least those.
    pub fn include(self, those: Self) -> bool {
        self.0 & those.0 == those.0
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    /// Reads exactly what [`fmt::Display`] prints.
    pub(super) fn read(text: &str) -> Option<Self> {
        let words: Option<Vec<Scope>> = text.split(' ').map(Scope::from_word).collect();
        Self::of(words?).filter(|scopes| scopes.to_string() == text)
    }
}

/// Words with one space between them, as OAuth spells scopes (RFC 6749 §3.3).
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        self.iter().try_for_each(|scope| {
            write!(f, "{between}{}", scope.as_str())?;
            between = " ";
            Ok(())
        })
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

impl ApiKey {
    /// What is to be known of the caller to whom it belongs.
    pub(super) fn holder(&self, caller: &CallerName) -> KeyHolder {
        KeyHolder {
            caller: caller.clone(),
            id: self.id.clone(),
            scopes: self.scopes,
            expires_at: self.expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written_and_in_no_other_way() {
        for bits in 1..8 {
            let scopes = Scopes(bits);
            assert_eq!(Scopes::read(&scopes.to_string()), Some(scopes));
            assert_eq!(Scopes::of(scopes.iter()), Some(scopes));
        }
        assert_eq!(Scopes::ALL.to_string(), "register read manage");
        for text in ["", " ", "read register", "read read", "read ", "all", "READ"] {
            assert_eq!(Scopes::read(text), None, "{text:?}");
        }
        assert_eq!(Scopes::of([]), None);
    }

    #[test]
    fn no_scope_includes_another() {
        for scope in Scope::ALL {
            let alone = Scopes::of([scope]).unwrap();
            for other in Scope::ALL {
                assert_eq!(alone.has(other), scope == other);
            }
            assert!(Scopes::ALL.include(alone) && !alone.include(Scopes::ALL));
        }
    }
}
