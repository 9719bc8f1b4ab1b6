use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// How long the value of a `Retry-After` header asks us to wait from `now`.
///
/// Takes whole seconds, seconds with a fraction (Graph sends `2.128`) and the three date forms of
/// RFC 9110 §5.6.7. A date in the past and a negative number ask for nothing; a number beyond all
/// bounds asks for as long as can be expressed, and the policies bound it. Anything else is `None`.
/// Fractions are rounded up to the millisecond, so that we are never early.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return seconds(value);
    }
    let asked = httpdate::parse_http_date(value).ok()?;
    let since_epoch =
        Duration::from_millis(u64::try_from(now.as_millisecond()).unwrap_or_default());
    Some(asked.duration_since(SystemTime::UNIX_EPOCH + since_epoch).unwrap_or_default())
}

fn seconds(value: &str) -> Option<Duration> {
    let (negative, digits) = match value.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    if negative {
        return Some(Duration::ZERO);
    }
    // Digits alone can only fail to parse by being too many.
    let whole = whole.parse::<u64>().unwrap_or(u64::MAX);
    let shown: String = fraction.chars().chain("000".chars()).take(3).collect();
    let finer = fraction.bytes().skip(3).any(|digit| digit != b'0');
    let millis = shown.parse::<u64>().unwrap_or_default() + u64::from(finer);
    Some(Duration::from_secs(whole).saturating_add(Duration::from_millis(millis)))
}
