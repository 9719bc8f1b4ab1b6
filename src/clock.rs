//! What time it is. The only place that reads the clock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

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

/// The clock of another machine, which several processes share, smoothed by [`Steady`].
///
/// In between two readings the time goes on by our own monotonic clock, which nobody sets; so it
/// does not matter what this machine takes the time for, and little if the other is out of reach.
#[derive(Debug)]
pub struct SharedClock {
    told: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    steady: Steady,
    at: Instant,
    /// What the other machine's clock said, and when that was.
    read: (Timestamp, Instant),
}

/// A reading that took longer than this is not worth having: it is off by up to a half of it.
const SLOWEST_READING: Duration = Duration::from_millis(500);

/// No reading was quick enough to tell the time by it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the clock of the database cannot be read within {SLOWEST_READING:?}")]
pub struct TooSlow;

impl SharedClock {
    /// Begins at what `read` says, tried some times if that takes too long.
    pub async fn start<E, R>(read: impl Fn() -> R) -> Result<Result<Self, TooSlow>, E>
    where
        R: Future<Output = Result<Timestamp, E>>,
    {
        for _ in 0..5 {
            if let Some(read) = quick(read()).await? {
                let (steady, at) = (Steady::begin(read.0), read.1);
                let told = Shared { steady, at, read };
                let off = wall().duration_since(told.read_at(Instant::now()));
                if off.unsigned_abs() > ASTRAY {
                    tracing::warn!(
                        off_ms = off.as_millis(),
                        "this machine's clock is off by {off:#} from the database's, which counts"
                    );
                }
                return Ok(Ok(Self { told: Mutex::new(told) }));
            }
        }
        Ok(Err(TooSlow))
    }

    /// Reads the other machine's clock again, to be called every few seconds. A reading that takes
    /// too long is left out.
    pub async fn follow<E>(
        &self,
        read: impl Future<Output = Result<Timestamp, E>>,
    ) -> Result<(), E> {
        if let Some(read) = quick(read).await? {
            self.told().read = read;
        }
        Ok(())
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Each field is set whole, so a panic elsewhere cannot leave half a time.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// What the other machine's clock says, as far as is known.
    fn read_at(&self, at: Instant) -> Timestamp {
        let (read, when) = self.read;
        read.checked_add(at.saturating_duration_since(when)).unwrap_or(Timestamp::MAX)
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        let mut told = self.told();
        let at = Instant::now();
        let elapsed = at.saturating_duration_since(told.at);
        told.at = at;
        let wall = told.read_at(at);
        in_millis(told.steady.follow(elapsed, wall))
    }

    fn wall(&self) -> Timestamp {
        in_millis(self.told().read_at(Instant::now()))
    }
}

/// A reading and when it was true, halfway between question and answer.
async fn quick<E>(
    read: impl Future<Output = Result<Timestamp, E>>,
) -> Result<Option<(Timestamp, Instant)>, E> {
    let asked = Instant::now();
    let time = read.await?;
    let took = asked.elapsed();
    Ok((took <= SLOWEST_READING).then(|| (time, asked + took / 2)))
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
    use std::convert::Infallible;

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

    /// A database that answers with this time after this long.
    async fn answering(time: Timestamp, takes: Duration) -> Result<Timestamp, Infallible> {
        tokio::time::sleep(takes).await;
        Ok(time)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_shared_clock_goes_on_by_itself_and_follows_no_jump_at_once() {
        let noon = Timestamp::constant(1_800_000_000, 0);
        let take = Duration::from_millis(40);
        let Ok(started) = SharedClock::start(|| answering(noon, take)).await;
        let clock = started.unwrap();
        assert_eq!(clock.now(), noon + take / 2, "halfway between question and answer");
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(clock.now(), noon + 10 * SECOND + take / 2);

        let jumped = noon + 3_600 * SECOND;
        let Ok(()) = clock.follow(answering(jumped, take)).await;
        assert_eq!(clock.wall(), jumped + take / 2, "what others compare with is believed at once");
        let planned = clock.now();
        tokio::time::advance(64 * SECOND).await;
        assert_eq!(clock.now(), planned + 65 * SECOND, "what is planned by runs a little faster");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_took_too_long_counts_for_nothing() {
        let noon = Timestamp::constant(1_800_000_000, 0);
        let slow = SLOWEST_READING + Duration::from_millis(1);
        let Ok(started) = SharedClock::start(|| answering(noon, slow)).await;
        assert!(started.is_err());

        let Ok(started) = SharedClock::start(|| answering(noon, SLOWEST_READING)).await;
        let clock = started.unwrap();
        let before = clock.wall();
        let Ok(()) = clock.follow(answering(noon + 3_600 * SECOND, slow)).await;
        assert_eq!(clock.wall(), before + slow);
    }
}
