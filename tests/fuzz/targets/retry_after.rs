//! A `Retry-After` is read as it is meant, or not at all.

#![no_main]

use std::time::Duration;

use engagement_bridge::lane::retry_after;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// By floating point, which is how nobody should count time, and good enough to doubt by.
fn about(value: &str) -> Option<f64> {
    value.parse::<f64>().ok().filter(|seconds| *seconds < 1e9)
}

fuzz_target!(|value: &str| {
    let asked = retry_after(value, NOW);
    assert_eq!(retry_after(&format!(" {value}\t"), NOW), asked);
    let later = NOW + Duration::from_hours(1);
    let asked_later = retry_after(value, later);
    assert_eq!(asked_later.is_some(), asked.is_some());
    let Some(asked) = asked else {
        assert!(value.trim().parse::<u64>().is_err() || value.trim().starts_with('+'), "{value}");
        return;
    };

    let value = value.trim();
    if let Some(seconds) = about(value) {
        assert_eq!(asked_later, Some(asked), "a number is counted from whenever it came");
        let seconds = seconds.max(0.0);
        assert!(seconds - 1e-6 <= asked.as_secs_f64(), "{value}: {asked:?} is early");
        assert!(asked.as_secs_f64() <= seconds + 0.001 + 1e-6, "{value}: {asked:?} is late");
    } else if value.contains("GMT") || value.contains(':') {
        let passed = asked.saturating_sub(Duration::from_hours(1));
        assert_eq!(asked_later, Some(passed), "a date does not move");
    }
});
