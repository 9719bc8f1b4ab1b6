//! The shape of the keys that we make: `ebk_` (an API key) or `eba_` (the admin key), 32 characters
//! drawn by chance, and 6 that are a checksum of all before them.
//!
//! The prefix tells what has leaked to whoever finds it, in a log or by a scanner (`eb[ka]_[0-9A-Za-z]{38}`).
//! The checksum tells a key from what merely looks like one without asking anybody: it is the CRC-32
//! of IEEE 802.3, in digits of base 62 (`0-9A-Za-z`), the most significant first. Letters and digits
//! only, so that a double click takes all of it. It proves nothing: anybody can make one that fits.

use secrecy::SecretString;

/// What every API key begins with.
pub(crate) const API_KEY: &str = "ebk_";

/// What an admin key that we made begins with.
pub(crate) const ADMIN_KEY: &str = "eba_";

/// Characters that are drawn: 190 bits of chance.
const DRAWN: usize = 32;

/// Characters of the checksum.
const CHECKSUM: usize = 6;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What something that came as a bearer looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// A key of ours, as far as its form goes: there are too many of them to be guessed.
    Whole,
    /// It begins like one, and is mistyped or cut short.
    Broken,
    /// A JSON Web Token in its compact form: three parts with dots between.
    Token,
    /// Anything else, such as a key that an operator has thought of.
    Other,
}

impl Shape {
    pub(super) fn of(text: &str) -> Self {
        if text.starts_with(API_KEY) || text.starts_with(ADMIN_KEY) {
            return if is_whole(text) { Self::Whole } else { Self::Broken };
        }
        if text.bytes().filter(|byte| *byte == b'.').count() == 2 {
            Self::Token
        } else {
            Self::Other
        }
    }
}

/// A new key that begins with `prefix`.
pub(super) fn draw(prefix: &str) -> Result<SecretString, getrandom::Error> {
    // As long as it will be, so that no part of it is left behind elsewhere in memory.
    let mut text = String::with_capacity(prefix.len() + DRAWN + CHECKSUM);
    text.push_str(prefix);
    while text.len() < prefix.len() + DRAWN {
        let mut byte = [0];
        getrandom::fill(&mut byte)?;
        // The largest multiple of 62 that a byte holds; else the first digits would come more often.
        if byte[0] < 248 {
            text.push(digit(u32::from(byte[0])));
        }
    }
    let sum = checksum(&text);
    text.extend(sum);
    Ok(SecretString::from(text))
}

fn is_whole(text: &str) -> bool {
    let Some((body, sum)) = text.split_at_checked(text.len().saturating_sub(CHECKSUM)) else {
        return false;
    };
    text.len() == API_KEY.len() + DRAWN + CHECKSUM
        && text[API_KEY.len()..].bytes().all(|byte| byte.is_ascii_alphanumeric())
        && checksum(body).into_iter().eq(sum.chars())
}

fn checksum(body: &str) -> [char; CHECKSUM] {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut sum = ['0'; CHECKSUM];
    for place in sum.iter_mut().rev() {
        *place = digit(rest);
        rest /= 62;
    }
    sum
}

/// The last digit of a number, to base 62.
fn digit(number: u32) -> char {
    char::from(DIGITS[number as usize % DIGITS.len()])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_key_is_as_long_as_any_other_and_holds_letters_and_digits_only() {
        let mut drawn = BTreeSet::new();
        for prefix in [API_KEY, ADMIN_KEY] {
            for _ in 0..200 {
                let key = draw(prefix).unwrap();
                let key = key.expose_secret();
                assert_eq!(key.len(), 42);
                assert!(
                    key.strip_prefix(prefix).unwrap().bytes().all(|it| it.is_ascii_alphanumeric())
                );
                assert_eq!(Shape::of(key), Shape::Whole);
                drawn.insert(key.to_owned());
            }
        }
        assert_eq!(drawn.len(), 400, "two are the same");
        let digits: BTreeSet<_> = drawn.iter().flat_map(|key| key[4..36].chars()).collect();
        assert_eq!(digits.len(), 62, "some never come");
    }

    #[test]
    fn the_checksum_is_the_one_that_the_readme_tells() {
        // By Python: zlib.crc32(b"ebk_" + b"0" * 32), written to base 62.
        let key = format!("ebk_{}3WF97K", "0".repeat(32));
        assert_eq!(Shape::of(&key), Shape::Whole, "{key}");
    }

    #[test]
    fn every_slip_of_one_character_is_seen() {
        let key = draw(API_KEY).unwrap();
        let key = key.expose_secret();
        for place in 0..key.len() {
            for other in ['0', 'A', 'z'] {
                let mut slip: Vec<char> = key.chars().collect();
                if std::mem::replace(&mut slip[place], other) == other {
                    continue;
                }
                let slip: String = slip.into_iter().collect();
                assert_ne!(Shape::of(&slip), Shape::Whole, "{place}");
            }
            let mut swapped: Vec<char> = key.chars().collect();
            if place + 1 < key.len() && swapped[place] != swapped[place + 1] {
                swapped.swap(place, place + 1);
                let swapped: String = swapped.into_iter().collect();
                assert_ne!(Shape::of(&swapped), Shape::Whole, "{place} and the next");
            }
            assert_ne!(Shape::of(&key[..place]), Shape::Whole);
        }
    }

    #[test]
    fn what_is_no_key_is_told_by_its_form() {
        for (text, shape) in [
            ("", Shape::Other),
            ("correct horse battery", Shape::Other),
            ("a.b", Shape::Other),
            ("a.b.c", Shape::Token),
            ("eyJ0.eyJ1.c2ln", Shape::Token),
            ("a.b.c.d", Shape::Other),
            ("ebk_", Shape::Broken),
            ("eba_", Shape::Broken),
            ("ebk_ü", Shape::Broken),
            ("ebk_üüüüüüüüüüüüüüüüüüü", Shape::Broken),
            ("EBK_", Shape::Other),
        ] {
            assert_eq!(Shape::of(text), shape, "{text:?}");
        }
    }
}
