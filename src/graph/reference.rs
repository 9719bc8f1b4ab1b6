//! What a caller may write to say which operation is meant.
//!
//! Read character by character, not by a URL parser: one that follows the WHATWG standard repairs
//! what it reads (backslashes become slashes, `..` and tabs disappear), and a text that needs
//! repair is not one that Graph sent.

use std::borrow::Cow;
use std::str::FromStr;

use super::GraphRoot;

/// Where an operation lives at Graph: all that we keep of the URL that a caller handed in.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Reference {
    pub version: ApiVersion,
    /// `[A-Za-z0-9_-]{1,512}`, opaque.
    pub id: String,
}

/// The version of Graph's API that an operation was started through.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ApiVersion {
    V1,
    Beta,
}

/// Why a text does not refer to an operation.
///
/// The messages are for the caller, and repeat nothing of the text: it may hold a secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidReference {
    #[error("it is empty; give the value of the `Operation-Location` header, or the id")]
    Empty,
    #[error("it is {bytes} bytes long, and at most {LONGEST} are read")]
    TooLong { bytes: usize },
    #[error(
        "the character at byte {at} is a space, a backslash, a control or a non-ASCII character; \
         give the value of the `Operation-Location` header as Graph sent it"
    )]
    StrayCharacter { at: usize },
    #[error(
        "it is neither an absolute URL, nor a path that starts with `/`, nor an id of letters, \
         digits, `-` and `_`"
    )]
    Unrecognised,
    #[error("the URL must start with `{expected}://`")]
    Scheme { expected: String },
    #[error("the URL holds a user name or password; remove all that stands before the `@`")]
    UserInfo,
    #[error("the URL leads to another host than `{expected}`, the only one that is polled")]
    Host { expected: String },
    #[error("the URL leads to another port of `{host}` than the one that is polled")]
    Port { host: String },
    #[error("the URL has a query; remove all from the `?` on")]
    Query,
    #[error("the URL has a fragment; remove all from the `#` on")]
    Fragment,
    #[error("the path holds a `.` or `..` segment")]
    Traversal,
    #[error("the path holds an empty segment: `//`, or a `/` at its end")]
    EmptySegment,
    #[error("the path percent-encodes other characters than quotes and parentheses")]
    Encoding,
    #[error("the path must start with `/v1.0/` or `/beta/`")]
    Version,
    #[error(
        "the path does not lead to an operation; expected \
         `/employeeExperience/engagementAsyncOperations('{{id}}')` after the version"
    )]
    Path,
    #[error("the path leads to all operations; the id of one is missing")]
    MissingId,
    #[error("the id must be 1 to {LONGEST_ID} letters, digits, `-` and `_`")]
    Id,
}

/// In bytes: room for the longest id with its quotes encoded, whatever the root.
const LONGEST: usize = 2_048;

const LONGEST_ID: usize = 512;

/// What Graph calls the collection today, and what older answers of it say.
const COLLECTIONS: [&str; 2] = ["engagementAsyncOperations", "engagementOperations"];

impl Reference {
    /// Reads the value of `Operation-Location` or `Location`, absolute or host-relative, or an id.
    ///
    /// Takes `…/engagementAsyncOperations('{id}')` and `…/engagementAsyncOperations/{id}` of both
    /// versions; a bare id is taken for one of v1.0. As Graph does, compares path segments without
    /// case. An absolute URL must lead to `root`: no token would go elsewhere in any case, but an
    /// operation of another cloud would be polled in vain.
    pub fn parse(text: &str, root: &GraphRoot) -> Result<Self, InvalidReference> {
        if text.is_empty() {
            return Err(InvalidReference::Empty);
        }
        if LONGEST < text.len() {
            return Err(InvalidReference::TooLong { bytes: text.len() });
        }
        if let Some(at) = text.bytes().position(|b| !b.is_ascii_graphic() || b == b'\\') {
            return Err(InvalidReference::StrayCharacter { at });
        }

        if text.starts_with('/') {
            return from_path(text);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return from_path(path_under(root, scheme, rest)?);
        }
        if !text.bytes().all(is_id_byte) {
            return Err(InvalidReference::Unrecognised);
        }
        Ok(Self { version: ApiVersion::V1, id: checked_id(text)? })
    }

    /// The path at Graph, in the form that is polled.
    pub fn path(&self) -> String {
        let (version, id) = (self.version.as_str(), &self.id);
        format!("/{version}/employeeExperience/engagementAsyncOperations/{id}")
    }
}

impl InvalidReference {
    /// A word for the reason that stays the same, for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong { .. } => "tooLong",
            Self::StrayCharacter { .. } => "strayCharacter",
            Self::Unrecognised => "unrecognised",
            Self::Scheme { .. } => "otherScheme",
            Self::UserInfo => "userInfo",
            Self::Host { .. } => "otherHost",
            Self::Port { .. } => "otherPort",
            Self::Query => "query",
            Self::Fragment => "fragment",
            Self::Traversal => "traversal",
            Self::EmptySegment => "emptySegment",
            Self::Encoding => "encoding",
            Self::Version => "version",
            Self::Path => "otherPath",
            Self::MissingId => "missingId",
            Self::Id => "malformedId",
        }
    }
}

impl ApiVersion {
    /// The word for it in Graph's URLs, in the API and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1.0",
            Self::Beta => "beta",
        }
    }
}

impl FromStr for ApiVersion {
    type Err = InvalidReference;

    /// Reads what [`ApiVersion::as_str`] says, in any case.
    fn from_str(word: &str) -> Result<Self, InvalidReference> {
        [Self::V1, Self::Beta]
            .into_iter()
            .find(|version| version.as_str().eq_ignore_ascii_case(word))
            .ok_or(InvalidReference::Version)
    }
}

/// What follows `scheme://host:port` in a URL that leads to `root`.
fn path_under<'a>(
    root: &GraphRoot,
    scheme: &str,
    rest: &'a str,
) -> Result<&'a str, InvalidReference> {
    if !scheme.eq_ignore_ascii_case(root.scheme()) {
        return Err(InvalidReference::Scheme { expected: root.scheme().to_owned() });
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(InvalidReference::UserInfo);
    }
    // The colons within the brackets of an IPv6 address separate no port.
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let port_at = authority[host_end..].find(':').map(|colon| host_end + colon);
    let (host, port) = authority.split_at(port_at.unwrap_or(authority.len()));
    if !host.eq_ignore_ascii_case(root.host()) {
        return Err(InvalidReference::Host { expected: root.host().to_owned() });
    }
    let same_port = match port.strip_prefix(':') {
        None => root.has_default_port(),
        Some(port) => port == root.port().to_string(),
    };
    if !same_port {
        return Err(InvalidReference::Port { host: root.host().to_owned() });
    }
    Ok(path)
}

fn from_path(path: &str) -> Result<Reference, InvalidReference> {
    match path.find(['?', '#']).map(|at| path.as_bytes()[at]) {
        Some(b'?') => return Err(InvalidReference::Query),
        Some(_) => return Err(InvalidReference::Fragment),
        None => {}
    }
    let path = unquoted(path)?;
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return Err(InvalidReference::Traversal);
    }
    if segments.contains(&"") {
        return Err(InvalidReference::EmptySegment);
    }

    let [version, experience, operation @ ..] = segments.as_slice() else {
        return Err(InvalidReference::Path);
    };
    let version = version.parse()?;
    if !experience.eq_ignore_ascii_case("employeeExperience") {
        return Err(InvalidReference::Path);
    }
    let (collection, id) = match *operation {
        [collection, id] => (collection, Some(id)),
        [operation] => match operation.split_once('(') {
            Some((collection, key)) => (collection, Some(in_quotes(key)?)),
            None => (operation, None),
        },
        _ => return Err(InvalidReference::Path),
    };
    if !COLLECTIONS.iter().any(|name| name.eq_ignore_ascii_case(collection)) {
        return Err(InvalidReference::Path);
    }
    let id = checked_id(id.ok_or(InvalidReference::MissingId)?)?;
    Ok(Reference { version, id })
}

/// `path` with its encoded quotes and parentheses decoded, which are all that may be encoded.
fn unquoted(path: &str) -> Result<Cow<'_, str>, InvalidReference> {
    let mut parts = path.split('%');
    let Some(first) = parts.next().filter(|first| first.len() < path.len()) else {
        return Ok(Cow::Borrowed(path));
    };
    let mut decoded = first.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).ok_or(InvalidReference::Encoding)?;
        decoded.push(match code {
            "27" => '\'',
            "28" => '(',
            "29" => ')',
            "2e" | "2E" => return Err(InvalidReference::Traversal),
            _ => return Err(InvalidReference::Encoding),
        });
        decoded.push_str(rest);
    }
    Ok(Cow::Owned(decoded))
}

/// The id in `'{id}')`, which is what follows the opening parenthesis of a key.
fn in_quotes(key: &str) -> Result<&str, InvalidReference> {
    key.strip_prefix('\'').and_then(|key| key.strip_suffix("')")).ok_or(InvalidReference::Path)
}

fn checked_id(id: &str) -> Result<String, InvalidReference> {
    let is_id = (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(is_id_byte);
    if is_id { Ok(id.to_owned()) } else { Err(InvalidReference::Id) }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

#[cfg(test)]
mod tests;
