//! What time it is. The only place that reads the clock.

mod course;
mod shared;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

pub use self::course::Course;
pub use self::shared::{Astray, Keeper, LOOK_EVERY, Reading, SharedClock, TooSlow};

/// Tells the time, in whole milliseconds, which is what every store keeps.
pub trait Clock: Send + Sync {
    /// The time to plan by.
    fn now(&self) -> Timestamp;

    /// The time that others compare with their own clocks, as in a signature. Never to plan by.
    fn wall(&self) -> Timestamp {
        self.now()
    }
}

/// The clock of this machine, which somebody may set at any time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        in_millis(wall())
    }
}

/// The clock of this machine, smoothed by [`Steady`], for as long as this process lives.
#[derive(Debug)]
pub struct SteadyClock {
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    steady: Steady,
    at: Instant,
    is_astray: bool,
}

/// From here on the operator is told that the machine's clock was set.
const ASTRAY: Duration = Duration::from_secs(1);

impl SteadyClock {
    /// Begins at what the machine's clock says.
    pub fn start() -> Self {
        let steady = Steady::begin(wall());
        Self { told: Mutex::new(Told { steady, at: Instant::now(), is_astray: false }) }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        // Each field is set whole, so a panic elsewhere cannot leave half a time.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, wall) = (Instant::now(), wall());
        let elapsed = at.duration_since(told.at);
        told.at = at;
        let now = told.steady.follow(elapsed, wall);
        let off = wall.duration_since(now);
        let is_astray = off.unsigned_abs() > ASTRAY;
        if is_astray && !told.is_astray {
            tracing::warn!(
                off_ms = off.as_millis(),
                "the machine's clock was set by {off:#}: planning follows it little by little"
            );
        }
        told.is_astray = is_astray;
        in_millis(now)
    }

    fn wall(&self) -> Timestamp {
        SystemClock.now()
    }
}

/// Time that follows a wall clock but never jumps with it. Pure.
///
/// Were a wall clock that is set forward believed at once, every operation would be polled at once,
/// within 30 s of its last poll; set back, it would leave everything waiting for as long. So this
/// time runs at most a 64th faster than real time, which is less than what the shortest interval of
/// polls has over 30 s, and at least half as fast.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    now: Timestamp,
}

impl Steady {
    pub fn begin(wall: Timestamp) -> Self {
        Self { now: wall }
    }

    /// What time it is, `elapsed` after this was last asked, where the wall clock says `wall`.
    pub fn follow(&mut self, elapsed: Duration, wall: Timestamp) -> Timestamp {
        let ahead_by = |span: Duration| self.now.checked_add(span).unwrap_or(Timestamp::MAX);
        self.now = wall.clamp(ahead_by(elapsed / 2), ahead_by(elapsed + elapsed / 64));
        self.now
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn wall() -> Timestamp {
    Timestamp::now()
}

fn in_millis(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(nanoseconds: i64) -> Timestamp {
        Timestamp::from_nanosecond(nanoseconds.into()).unwrap()
    }

    proptest! {
        #[test]
        fn however_the_wall_clock_is_set_time_is_steady(
            history in prop::collection::vec((0_u64..10_000_000_000, any::<i64>()), 1..50),
        ) {
            let mut steady = Steady::begin(at(0));
            let (mut before, mut passed) = (at(0), Duration::ZERO);
            for (elapsed, wall) in history {
                let elapsed = Duration::from_nanos(elapsed);
                passed += elapsed;
                let now = steady.follow(elapsed, at(wall));
                let went = Duration::try_from(now.duration_since(before)).unwrap();
                prop_assert!(elapsed / 2 <= went, "half as fast at the least");
                prop_assert!(went <= elapsed + elapsed / 64, "hardly faster than real time");
                before = now;
            }
            // What matters in the end: 31 s by this clock are more than 30 s.
            let shown = Duration::try_from(before.duration_since(at(0))).unwrap();
            prop_assert!(shown.mul_f64(30.0 / 31.0) <= passed);
        }
    }

    #[test]
    fn a_wall_clock_that_nobody_sets_is_followed_exactly() {
        let mut steady = Steady::begin(at(0));
        for nanoseconds in [1, 2, 1_000_000_007, 3_600_000_000_000] {
            let elapsed = nanoseconds - steady.now.as_nanosecond();
            let elapsed = Duration::from_nanos(u64::try_from(elapsed).unwrap());
            let nanoseconds = i64::try_from(nanoseconds).unwrap();
            assert_eq!(steady.follow(elapsed, at(nanoseconds)), at(nanoseconds));
        }
    }

    #[test]
    fn a_wall_clock_that_was_set_is_caught_up_with_or_waited_for() {
        let minute = Duration::from_mins(1);
        for set_by in [-600_i64, 600] {
            let mut steady = Steady::begin(at(0));
            let mut wall = at(set_by * 1_000_000_000);
            let mut minutes = 0;
            loop {
                wall += minute;
                minutes += 1;
                if steady.follow(minute, wall) == wall {
                    break;
                }
                assert!(minutes < 1_000, "never caught up with");
            }
            assert_eq!(minutes, if set_by < 0 { 20 } else { 640 });
        }
    }
}
