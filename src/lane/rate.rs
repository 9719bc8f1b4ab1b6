use std::num::NonZeroU32;
use std::time::Duration;

/// How many attempts a receiver takes in any minute.
///
/// It is kept by slots alone. Of so many as there are, each is busy for a fixed part of a minute after
/// its step is over, so that it has its turn so often in a minute and no more. An attempt arrives
/// somewhere between its claim and its end, so the rate holds at the receiver, wherever that is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rate(NonZeroU32);

/// A minute of a receiver's, by a clock that may run a 64th faster (see `clock::Steady`).
const MINUTE_MS: u32 = 61_000;

impl Rate {
    pub fn per_minute(attempts: NonZeroU32) -> Self {
        Self(attempts)
    }

    /// Attempts in a minute.
    pub fn attempts(self) -> u32 {
        self.0.get()
    }

    /// How many of `most` slots are of use: each has a turn a minute at the least.
    pub(super) fn slots(self, most: u32) -> u32 {
        most.clamp(1, self.attempts())
    }

    /// How long each of `most` slots stays busy after its step.
    pub(super) fn apart(self, most: u32) -> Duration {
        let turns = self.attempts() / self.slots(most);
        Duration::from_millis(MINUTE_MS.div_ceil(turns).into())
    }
}
