use jiff::Timestamp;

use super::problem::{Kind, Problem};

/// A number that sorts by time. The 74 random bits of a UUID version 7 keep it unique.
pub(super) fn fresh(now: Timestamp) -> Result<u128, Problem> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(|error| {
        tracing::error!(error = %error, "the operating system has no random numbers");
        Problem::new(Kind::Internal)
    })?;
    let millis = u64::try_from(now.as_millisecond()).unwrap_or_default();
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128())
}
