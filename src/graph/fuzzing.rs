//! The reading of an answer, for the fuzz targets in `tests/fuzz`: they are a package of their own,
//! to which nothing private is open, and only in their build is this compiled.

use jiff::Timestamp;

use super::wire;
use crate::operation::{Answer, Renewal};

/// What was read of an answer.
#[derive(Debug)]
pub struct Read {
    pub answer: Answer,
    pub operation: Option<String>,
    pub code: Option<String>,
    pub request_id: Option<String>,
}

pub fn read(
    status: u16,
    retry_after: Option<&str>,
    body: Option<&[u8]>,
    renewal: Renewal,
    now: Timestamp,
) -> Read {
    let answered = wire::Answered { status, retry_after, body };
    let wire::Reading { answer, operation, fault } = wire::read(answered, renewal, now);
    let wire::Fault { code, request_id } = fault.unwrap_or_default();
    Read { answer, operation, code, request_id }
}
