//! Headers that a caller wants on all of its callbacks, such as what its gateway asks for.

use secrecy::{ExposeSecret as _, SecretString};

/// A header of a caller's. Its value is a secret: it may be what opens the receiver's door.
#[derive(Clone, Debug)]
pub struct ExtraHeader {
    name: String,
    value: SecretString,
}

/// Why a header cannot be added to callbacks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidHeader {
    #[error("1 to {LONGEST_NAME} of the characters that names of headers have (RFC 9110 §5.6.2)")]
    Name,
    #[error("the bridge, or HTTP itself, says what that header is")]
    Reserved,
    #[error("1 to {LONGEST_VALUE} visible ASCII characters, with spaces between them only")]
    Value,
}

/// Bytes of a name and of a value at the most.
const LONGEST_NAME: usize = 64;
const LONGEST_VALUE: usize = 2_048;

/// What names of ours begin with, and those of the specifications that we follow.
const RESERVED_PREFIXES: [&str; 7] =
    ["webhook-", "bridge-", "content-", "ce-", "proxy-", "sec-", "http2-"];

const RESERVED: [&str; 14] = [
    "accept",
    "connection",
    "date",
    "expect",
    "host",
    "keep-alive",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

impl ExtraHeader {
    pub fn new(name: &str, value: SecretString) -> Result<Self, InvalidHeader> {
        let name = checked_name(name)?;
        let text = value.expose_secret();
        let visible = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if !(1..=LONGEST_VALUE).contains(&text.len()) || !visible || text.trim() != text {
            return Err(InvalidHeader::Value);
        }
        Ok(Self { name, value })
    }

    /// In lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn value(&self) -> &SecretString {
        &self.value
    }
}

/// The name in lower case, by which one header is the same as another.
fn checked_name(name: &str) -> Result<String, InvalidHeader> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !(1..=LONGEST_NAME).contains(&name.len()) || !name.bytes().all(token) {
        return Err(InvalidHeader::Name);
    }
    let name = name.to_ascii_lowercase();
    let is_prefixed = RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if is_prefixed || RESERVED.contains(&name.as_str()) {
        return Err(InvalidHeader::Reserved);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> Result<String, InvalidHeader> {
        ExtraHeader::new(name, SecretString::from(value)).map(|it| it.name().to_owned())
    }

    #[test]
    fn a_name_is_a_token_and_none_of_ours() {
        assert_eq!(header("X-Api-Key", "k"), Ok("x-api-key".to_owned()));
        assert_eq!(header("authorization", "Bearer k"), Ok("authorization".to_owned()));
        let longest = "n".repeat(64);
        assert_eq!(header(&longest, "k"), Ok(longest));
        for name in ["", "a b", "a:", "a\r\nb", "ä", &"n".repeat(65), ":authority"] {
            assert_eq!(header(name, "k"), Err(InvalidHeader::Name), "{name}");
        }
        for name in [
            "Webhook-Id",
            "webhook-request-origin",
            "bridge-x",
            "Content-Type",
            "content-length",
            "ce-id",
            "Proxy-Authorization",
            "HTTP2-Settings",
            "Host",
            "User-Agent",
            "transfer-encoding",
            "Connection",
            "traceparent",
            "TraceState",
        ] {
            assert_eq!(header(name, "k"), Err(InvalidHeader::Reserved), "{name}");
        }
    }

    #[test]
    fn a_value_is_one_line_and_shown_to_nobody() {
        assert!(header("x", &"v".repeat(2_048)).is_ok());
        for value in ["", " ", " v", "v ", "a\nb", "a\0", "\t", "é", &"v".repeat(2_049)] {
            assert_eq!(header("x", value), Err(InvalidHeader::Value), "{value:?}");
        }
        let header = ExtraHeader::new("x", SecretString::from("planted")).unwrap();
        assert!(!format!("{header:?}").contains("planted"));
    }
}
