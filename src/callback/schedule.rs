use std::time::Duration;

/// The operator's choices for the life of callbacks, passed in rather than looked up.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Before each attempt, how long to wait after the one before. As many attempts as entries.
    pub schedule: Vec<Duration>,
    /// How long a callback may be owed, waiting in a paused lane included.
    pub longest_owed: Duration,
    /// The longest `Retry-After` that is taken at its word.
    pub longest_asked: Duration,
}

impl Default for Policy {
    /// The schedule that Standard Webhooks 1.0.0 recommends: ten attempts over 75 h 35 min 5 s.
    fn default() -> Self {
        Self {
            schedule: [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]
                .map(Duration::from_secs)
                .to_vec(),
            // A day over the schedule with its jitter, for waiting in a paused lane.
            longest_owed: Duration::from_hours(5 * 24),
            longest_asked: Duration::from_hours(24),
        }
    }
}

impl Policy {
    /// How long to wait before the attempt that follows `tries` attempts; `None` once all are made.
    pub fn wait_before(&self, tries: u32) -> Option<Duration> {
        self.schedule.get(usize::try_from(tries).unwrap_or(usize::MAX)).copied()
    }
}
