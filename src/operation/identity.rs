use std::fmt;
use std::str::FromStr;

/// Names one tracked operation for as long as anyone may ask about it: `op_` and 32 hex digits.
///
/// Made from a time-ordered UUID (RFC 9562, version 7), so that newer operations sort after older
/// ones and neighbours in time are neighbours in an index.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OperationId(pub u128);

/// The text is not an identifier of the kind that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {expected}")]
pub struct InvalidId {
    pub expected: &'static str,
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op_{:032x}", self.0)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OperationId {
    type Err = InvalidId;

    /// Accepts exactly what [`fmt::Display`] prints, so that one operation has one spelling.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { expected: "`op_` and 32 lower-case hex digits" };
        let digits = text.strip_prefix("op_").ok_or(invalid)?;
        let canonical =
            digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(invalid);
        }
        u128::from_str_radix(digits, 16).map(Self).map_err(|_| invalid)
    }
}
