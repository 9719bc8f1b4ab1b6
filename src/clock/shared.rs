//! Planning time that several processes share.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::course::Course;
use super::{ASTRAY, Clock, in_millis, wall};

/// The clock of a database, by which several processes plan on one [`Course`].
///
/// Each of them notices by its own monotonic clock, which nobody sets, that the database's was set,
/// and the first to do so amends the course for all. In between two looks time goes on by that
/// clock too; so it does not matter what this machine takes the time for, and little if the
/// database is out of reach.
#[derive(Debug)]
pub struct SharedClock {
    told: Mutex<Told>,
}

/// Where the course is kept, beside the wall clock that it belongs to.
#[async_trait]
pub trait Keeper: Send + Sync {
    type Error: Send;

    /// The wall clock and the course, which is made where there is none yet.
    async fn read(&self) -> Result<Reading, Self::Error>;

    /// Says that `course` still held when the wall clock said `wall`. Says nothing if there is
    /// another one by now.
    async fn confirm(&self, course: Course, wall: Timestamp) -> Result<(), Self::Error>;

    /// Whether any other process looks at the course, as far as can be told.
    async fn is_kept_by_others(&self) -> Result<bool, Self::Error>;

    /// Puts a course in the place of another one, if that is still there.
    async fn amend(&self, from: Course, to: Course) -> Result<(), Self::Error>;
}

/// What is found at a [`Keeper`].
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub wall: Timestamp,
    pub course: Course,
    /// What the wall clock said when the course was last confirmed by somebody.
    pub confirmed_at: Option<Timestamp>,
}

impl Reading {
    fn is_confirmed_since(&self, wall: Timestamp) -> bool {
        self.confirmed_at.is_some_and(|it| wall <= it && it <= self.wall)
    }
}

/// A reading that took longer than this is not worth having: it is off by up to a half of it.
const SLOWEST_READING: Duration = Duration::from_millis(400);

/// Between two looks at the database's clock.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The same, while we do not know what to make of what we saw.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What two readings may be apart from what passed between them by our own clock.
const TOLERANCE: SignedDuration = SignedDuration::from_millis(400);

/// Over how long that is measured: so that many small steps are noticed as the large one they are.
/// With the shortest interval between two polls, it leaves those more than 30 s apart.
const MEASURED_OVER: Duration = Duration::from_secs(31);

/// How far we may be from the shared time and still act by it. Two such processes are not further
/// apart than what budgets have to spare, a second.
const OFF: SignedDuration = SignedDuration::from_millis(500);

/// For how long somebody else may be waited for who says that the course still holds.
const TO_CONFIRM: Duration = Duration::from_secs(6);

/// Our time is not the one that others share.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the time here is {by:#} off from what bridges on this database share; this ends by itself"
)]
pub struct Astray {
    pub by: SignedDuration,
}

/// For how long whoever starts waits for others to find out what to do about the clock.
const TO_DECIDE: Duration = Duration::from_secs(12);

/// No reading was quick enough to tell the time by it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the clock of the database cannot be read within {SLOWEST_READING:?}")]
pub struct TooSlow;

#[derive(Debug)]
struct Told {
    seen: Seen,
    /// An older reading on the same course.
    anchor: Seen,
    latest: Timestamp,
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    course: Course,
    wall: Timestamp,
    at: Instant,
}

/// Since when we do not know what to make of what we see.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    wall: Timestamp,
    at: Instant,
}

impl Seen {
    /// What the wall clock says, as far as is known.
    fn wall_at(&self, at: Instant) -> Timestamp {
        self.wall.checked_add(at.saturating_duration_since(self.at)).unwrap_or(Timestamp::MAX)
    }

    fn now_at(&self, at: Instant) -> Timestamp {
        self.course.at(self.wall_at(at))
    }
}

/// What is to be done about a reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// It is as expected.
    Confirm,
    /// Somebody else has amended the course, or has confirmed it when we could not.
    Adopt,
    /// Somebody else may yet do so.
    Wait,
    /// The wall clock was set.
    Amend(Course),
}

impl Told {
    fn begin(seen: Seen) -> Self {
        Self { seen, anchor: seen, latest: Timestamp::MIN, doubt: None }
    }

    fn judge(&mut self, reading: Reading, at: Instant) -> Verdict {
        let Reading { wall, course, .. } = reading;
        let seen = Seen { course, wall, at };
        if course != self.seen.course {
            *self = Self::begin(seen);
            return Verdict::Adopt;
        }
        let expected = self.anchor.now_at(at);
        let off = course.at(wall).duration_since(expected);
        if off.abs() <= TOLERANCE {
            self.seen = seen;
            self.doubt = None;
            if MEASURED_OVER <= at.saturating_duration_since(self.anchor.at) {
                self.anchor = seen;
            }
            return Verdict::Confirm;
        }
        let amend = Verdict::Amend(Course::through(in_millis(expected), wall));
        if off.is_negative() {
            return amend;
        }
        // Either it was set forward, or this machine stood still, and its monotonic clock with it.
        // It was we, if somebody else confirms the course after we began to doubt.
        let doubt = *self.doubt.get_or_insert(Doubt { wall, at });
        if reading.is_confirmed_since(doubt.wall) {
            *self = Self::begin(seen);
            return Verdict::Adopt;
        }
        if at.saturating_duration_since(doubt.at) < TO_CONFIRM { Verdict::Wait } else { amend }
    }
}

impl SharedClock {
    /// Begins on the course that is there.
    pub async fn start<K: Keeper>(keeper: &K) -> Result<Result<Self, TooSlow>, K::Error> {
        for _ in 0..10 {
            let Some((reading, at)) = quick(keeper).await? else { continue };
            let seen = Seen { course: reading.course, wall: reading.wall, at };
            let off = wall().duration_since(seen.wall_at(Instant::now()));
            if off.unsigned_abs() > ASTRAY {
                tracing::warn!(
                    off_ms = off.as_millis(),
                    "this machine's clock is off by {off:#} from the database's, which counts"
                );
            }
            return Ok(Ok(Self { told: Mutex::new(Told::begin(seen)) }));
        }
        Ok(Err(TooSlow))
    }

    /// Looks at the database's clock again, and says for how long not to do so. A reading that takes
    /// too long is left out.
    pub async fn look<K: Keeper>(&self, keeper: &K) -> Result<Duration, K::Error> {
        let Some((reading, at)) = quick(keeper).await? else { return Ok(LOOK_AGAIN_AFTER) };
        let verdict = self.told().judge(reading, at);
        match verdict {
            Verdict::Confirm => {
                keeper.confirm(reading.course, reading.wall).await?;
                return Ok(LOOK_EVERY);
            }
            Verdict::Adopt => tracing::warn!(now = %self.now(), "adopted the time of others"),
            Verdict::Wait => {}
            Verdict::Amend(course) => {
                // We follow when we find it there, as everybody does.
                keeper.amend(reading.course, course).await?;
                tracing::warn!(
                    wall = %reading.wall,
                    "the clock of the database was set: planning follows it little by little"
                );
            }
        }
        Ok(LOOK_AGAIN_AFTER)
    }

    /// Whether others are at work who keep an eye on the clock, so that we are on the right course:
    /// that they are on it is waited for. False where nobody would have noticed before we began that
    /// the clock was set.
    pub async fn is_kept_by_others<K: Keeper>(&self, keeper: &K) -> Result<bool, K::Error> {
        if !keeper.is_kept_by_others().await? {
            return Ok(false);
        }
        let first = keeper.read().await?;
        let began = Instant::now();
        while began.elapsed() < TO_DECIDE {
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            let this = keeper.read().await?;
            if this.course != first.course || this.is_confirmed_since(first.wall) {
                self.look(keeper).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether our time is the shared one, about which `read` asks the database.
    pub async fn agrees<E>(
        &self,
        read: impl Future<Output = Result<(Timestamp, Course), E>>,
    ) -> Result<Result<(), Astray>, E> {
        let earliest = self.now();
        let (wall, course) = read.await?;
        let latest = self.now();
        // What was asked may have been answered at any moment in between.
        let shared = course.at(wall);
        let by = earliest.duration_since(shared).max(shared.duration_since(latest));
        Ok(if by <= OFF { Ok(()) } else { Err(Astray { by }) })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Each field is set whole, so a panic elsewhere cannot leave half a time.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        let mut told = self.told();
        let now = told.seen.now_at(Instant::now());
        // Readings differ by some milliseconds, which must not be seen.
        told.latest = told.latest.max(now);
        in_millis(told.latest)
    }

    fn wall(&self) -> Timestamp {
        in_millis(self.told().seen.wall_at(Instant::now()))
    }
}

/// A reading, and when it was true: halfway between question and answer.
async fn quick<K: Keeper>(keeper: &K) -> Result<Option<(Reading, Instant)>, K::Error> {
    let asked = Instant::now();
    let reading = keeper.read().await?;
    let took = asked.elapsed();
    Ok((took <= SLOWEST_READING).then(|| (reading, asked + took / 2)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A database whose clock may be set, and somebody who keeps an eye on it, or nobody.
    struct Stand {
        began: Instant,
        kept: Mutex<Kept>,
    }

    struct Kept {
        set_by: SignedDuration,
        course: Course,
        confirmed_at: Option<Timestamp>,
        answers_after: Duration,
        watchers: usize,
    }

    const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    impl Stand {
        fn new() -> Self {
            let course = Course::new(NOON, SignedDuration::ZERO);
            let answers_after = Duration::from_millis(40);
            let set_by = SignedDuration::ZERO;
            let kept = Kept { set_by, course, confirmed_at: None, answers_after, watchers: 0 };
            Self { began: Instant::now(), kept: Mutex::new(kept) }
        }

        fn kept(&self) -> MutexGuard<'_, Kept> {
            self.kept.lock().unwrap()
        }

        /// What its clock would say had nobody set it.
        fn true_time(&self) -> Timestamp {
            NOON + self.began.elapsed()
        }

        fn wall(&self) -> Timestamp {
            let set_by = self.kept().set_by;
            self.true_time() + set_by
        }

        /// Looks for as long as this, as whoever attends to the clock does.
        async fn watch(&self, clock: &SharedClock, span: Duration) {
            self.kept().watchers += 1;
            let until = Instant::now() + span;
            while Instant::now() < until {
                let Ok(sleep) = clock.look(self).await;
                tokio::time::sleep(sleep).await;
            }
            self.kept().watchers -= 1;
        }
    }

    #[async_trait]
    impl Keeper for Stand {
        type Error = Infallible;

        async fn read(&self) -> Result<Reading, Infallible> {
            let half = self.kept().answers_after / 2;
            tokio::time::sleep(half).await;
            let wall = self.wall();
            tokio::time::sleep(half).await;
            let Kept { course, confirmed_at, .. } = *self.kept();
            Ok(Reading { wall, course, confirmed_at })
        }

        async fn confirm(&self, course: Course, wall: Timestamp) -> Result<(), Infallible> {
            let mut kept = self.kept();
            if kept.course == course {
                kept.confirmed_at = Some(wall);
            }
            Ok(())
        }

        async fn is_kept_by_others(&self) -> Result<bool, Infallible> {
            Ok(self.kept().watchers > 0)
        }

        async fn amend(&self, from: Course, to: Course) -> Result<(), Infallible> {
            let mut kept = self.kept();
            if kept.course == from {
                kept.course = to;
            }
            Ok(())
        }
    }

    async fn start(stand: &Stand) -> SharedClock {
        let Ok(started) = SharedClock::start(stand).await;
        started.unwrap()
    }

    async fn agrees(clock: &SharedClock, stand: &Stand) -> bool {
        let read = async {
            let Ok(Reading { wall, course, .. }) = stand.read().await;
            Ok::<_, Infallible>((wall, course))
        };
        let Ok(agrees) = clock.agrees(read).await;
        agrees.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_by_itself() {
        let stand = Stand::new();
        let clock = start(&stand).await;
        assert_eq!(clock.now(), stand.true_time(), "halfway between question and answer");
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(clock.now(), stand.true_time());
        assert_eq!(clock.wall(), stand.wall());
        assert!(agrees(&clock, &stand).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_makes_time_jump_for_nobody() {
        for set_by in [-HOUR, HOUR, SignedDuration::from_millis(600)] {
            let stand = Stand::new();
            let (one, other) = (start(&stand).await, start(&stand).await);
            tokio::join!(stand.watch(&one, 10 * SECOND), stand.watch(&other, 10 * SECOND));
            stand.kept().set_by = set_by;
            assert!(!agrees(&one, &stand).await, "a claim before anybody has noticed");
            tokio::join!(stand.watch(&one, 10 * SECOND), stand.watch(&other, 10 * SECOND));
            for clock in [&one, &other] {
                assert!(agrees(clock, &stand).await, "{set_by}");
                // 10 s by half, or a 64th more, which is 156 ms.
                let off = clock.now().duration_since(stand.true_time());
                let lawful = SignedDuration::from_secs(-6)..SignedDuration::from_millis(200);
                assert!(lawful.contains(&off), "{set_by}: {off}");
                assert_eq!(clock.wall(), stand.wall(), "what others compare with");
            }
            let apart = one.now().duration_since(other.now());
            assert_eq!(apart, SignedDuration::ZERO, "{set_by}");
            // Whoever starts now is on the same course.
            let late = start(&stand).await;
            assert_eq!(late.now(), one.now(), "{set_by}");
        }
    }

    /// Tokio's clock cannot stand still for one of two, so it is the other way about: what went by
    /// for all others, our clock did not see.
    fn stand_still(stand: &Stand, others: &SharedClock, span: SignedDuration) {
        stand.kept().set_by += span;
        let mut told = others.told();
        told.seen.wall += span;
        told.anchor.wall += span;
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_stood_still_is_set_right_by_others() {
        let stand = Stand::new();
        let (sleeper, awake) = (start(&stand).await, start(&stand).await);
        let both = async |span| {
            tokio::join!(stand.watch(&sleeper, span), stand.watch(&awake, span));
        };
        both(10 * SECOND).await;
        stand_still(&stand, &awake, HOUR);
        assert!(agrees(&awake, &stand).await && !agrees(&sleeper, &stand).await);
        both(10 * SECOND).await;
        assert_eq!(awake.now(), stand.wall(), "nobody has taken it for a clock that was set");
        assert_eq!(sleeper.now(), awake.now());
        assert!(agrees(&sleeper, &stand).await);
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_steps_are_noticed_as_one() {
        let stand = Stand::new();
        let clock = start(&stand).await;
        for _ in 0..60 {
            stand.watch(&clock, SECOND).await;
            stand.kept().set_by += SignedDuration::from_millis(100);
        }
        // 6 s by the wall clock, of which only what is let pass unnoticed may count.
        let ahead = clock.now().duration_since(stand.true_time());
        assert!(ahead < SignedDuration::from_millis(60_000 / 31 + 400), "{ahead}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_starts_knows_whether_others_keep_the_course() {
        let stand = Stand::new();
        let running = start(&stand).await;
        stand.watch(&running, 10 * SECOND).await;
        let began = Instant::now();
        let Ok(kept) = start(&stand).await.is_kept_by_others(&stand).await;
        assert!(!kept, "nobody is left");
        assert!(began.elapsed() < SECOND, "and nobody is waited for");

        for set_by in [SignedDuration::ZERO, HOUR, -HOUR] {
            let set_and_start = async {
                tokio::time::sleep(10 * SECOND).await;
                stand.kept().set_by += set_by;
                let starting = start(&stand).await;
                let Ok(kept) = starting.is_kept_by_others(&stand).await;
                (starting, kept)
            };
            let ((), (starting, kept)) =
                tokio::join!(stand.watch(&running, 30 * SECOND), set_and_start);
            assert!(kept, "{set_by}");
            assert_eq!(starting.now(), running.now(), "{set_by}");
        }

        stand.kept().watchers += 1;
        let Ok(kept) = start(&stand).await.is_kept_by_others(&stand).await;
        assert!(!kept, "somebody is there and does nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_took_too_long_counts_for_nothing() {
        let stand = Stand::new();
        let clock = start(&stand).await;
        stand.kept().set_by = -HOUR;
        stand.kept().answers_after = SLOWEST_READING + Duration::from_millis(2);
        stand.watch(&clock, 10 * SECOND).await;
        assert_eq!(clock.wall(), stand.true_time());
        let Ok(started) = SharedClock::start(&stand).await;
        assert!(started.is_err());
    }
}
