//! The tokens that were handed out, known by their digests alone.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Full;

/// Tokens of one kind, and what each of them stands for.
///
/// Keeps digests, so that no Debug output, record or dump of the sandbox can hold a token.
#[derive(Debug)]
pub(super) struct Issued<T> {
    by_digest: HashMap<[u8; 32], Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    stands_for: T,
    expires_at: Timestamp,
}

/// What an access token stands for.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// Whose budget its requests spend, and who they are in the record.
    pub(super) identity: Arc<str>,
    pub(super) audience: Audience,
}

/// Whom an access token is meant for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Audience {
    Graph,
    /// The app registration with this client id, lower case.
    App(String),
}

/// What a refresh token stands for. All of it is lower case but the user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Grant {
    pub(super) tenant: String,
    pub(super) client_id: String,
    pub(super) user: Arc<str>,
}

/// Why a token is worth nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Worthless {
    Unknown,
    Expired,
}

impl<T> Issued<T> {
    /// As many tokens as are kept at a time.
    const LIMIT: usize = 200_000;

    pub(super) fn add(
        &mut self,
        token: &str,
        stands_for: T,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), Full> {
        if Self::LIMIT <= self.by_digest.len() {
            // Expired ones are kept until then, so that they can be told from unknown ones.
            self.by_digest.retain(|_, entry| now < entry.expires_at);
        }
        if Self::LIMIT <= self.by_digest.len() {
            return Err(Full { what: "tokens", limit: Self::LIMIT });
        }
        self.by_digest.insert(digest(token), Entry { stands_for, expires_at });
        Ok(())
    }

    pub(super) fn find(&self, token: &str, now: Timestamp) -> Result<&T, Worthless> {
        let entry = self.by_digest.get(&digest(token)).ok_or(Worthless::Unknown)?;
        if entry.expires_at <= now {
            return Err(Worthless::Expired);
        }
        Ok(&entry.stands_for)
    }
}

// Derived, it would ask that `T` had a default as well.
impl<T> Default for Issued<T> {
    fn default() -> Self {
        Self { by_digest: HashMap::new() }
    }
}

/// Enough of a token's digest to tell it from others: 12 hex digits.
pub(super) fn short_digest(token: &str) -> String {
    let [b0, b1, b2, b3, b4, b5, ..] = digest(token);
    format!("{b0:02x}{b1:02x}{b2:02x}{b3:02x}{b4:02x}{b5:02x}")
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn a_token_is_worth_something_until_the_millisecond_it_expires() {
        let mut issued = Issued::default();
        issued.add("secret", 7, at(1_000), at(0)).unwrap();
        assert_eq!(issued.find("secret", at(999)), Ok(&7));
        assert_eq!(issued.find("secret", at(1_000)), Err(Worthless::Expired));
        assert_eq!(issued.find("another", at(0)), Err(Worthless::Unknown));
    }

    #[test]
    fn expired_tokens_make_room_and_living_ones_do_not() {
        let mut issued = Issued::default();
        for n in 0..Issued::<()>::LIMIT {
            issued.add(&n.to_string(), (), at(if n == 0 { 1 } else { 10 }), at(0)).unwrap();
        }
        assert!(issued.add("too many", (), at(10), at(0)).is_err());
        assert!(issued.add("in its place", (), at(10), at(1)).is_ok());
        assert!(issued.add("too many", (), at(10), at(1)).is_err());
    }

    #[test]
    fn debug_output_holds_no_token() {
        let mut issued = Issued::default();
        issued.add("a-very-secret-token", (), at(1), at(0)).unwrap();
        assert!(!format!("{issued:?}").contains("secret"));
    }
}
