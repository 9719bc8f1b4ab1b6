//! How a callback is written down: which of its parts go into the body, and which into headers.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What a callback's body looks like.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Format {
    /// `{"type", "timestamp", "data", "tracking"}`, as Standard Webhooks suggests.
    #[default]
    Envelope,
    /// The operation as Graph sent it, byte for byte, and all else in headers.
    Operation,
    /// An event of CloudEvents 1.0 in its structured form.
    CloudEvents,
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Envelope, Self::Operation, Self::CloudEvents];

    /// The word for it in the API and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Operation => "operation",
            Self::CloudEvents => "cloudEvents",
        }
    }

    /// The format that [`Format::as_str`] spells as `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == word)
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Envelope | Self::Operation => "application/json",
            Self::CloudEvents => "application/cloudevents+json",
        }
    }
}

/// What an attempt carries besides what proves who sent it: the same in every one of them, one
/// `name: value` to a line, in visible ASCII.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FixedHeaders(String);

/// What the HTTP binding of CloudEvents encodes in headers (§3.1.3.2), besides all that is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

impl FixedHeaders {
    /// Adds a header whose value may be any text.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        let encoded = utf8_percent_encode(value, ENCODED);
        self.0.extend([name, ": "].into_iter().chain(encoded).chain(["\n"]));
    }

    /// Adds a header whose value is known to be visible ASCII, spaces included.
    pub(super) fn add_plain(&mut self, name: &str, value: &str) {
        self.0.extend([name, ": ", value, "\n"]);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| line.split_once(": "))
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As it was stored.
impl From<String> for FixedHeaders {
    fn from(text: String) -> Self {
        Self(text)
    }
}
