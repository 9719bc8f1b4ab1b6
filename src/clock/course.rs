//! The course of planning time beside a wall clock that may be set.

use jiff::{SignedDuration, Timestamp};

/// How planning time runs beside the wall clock of a database, for all who share that. Pure.
///
/// As long as nobody sets the wall clock, the two are the same. Once somebody has, planning time goes
/// on from where it was, and comes back to the wall clock little by little: a 64th faster than it
/// where it has to catch up, at half its speed where it has to wait, as [`Steady`](super::Steady)
/// does for one process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Course {
    /// By the wall clock: when planning time was `ahead` of it.
    since: Timestamp,
    ahead: SignedDuration,
}

impl Course {
    /// Planning time was `ahead` of the wall clock, in whole milliseconds, when that said `since`.
    pub fn new(since: Timestamp, ahead: SignedDuration) -> Self {
        Self { since, ahead }
    }

    /// Goes on from `now` by planning time, where the wall clock says `wall`.
    pub fn through(now: Timestamp, wall: Timestamp) -> Self {
        Self { since: wall, ahead: now.duration_since(wall) }
    }

    pub fn since(&self) -> Timestamp {
        self.since
    }

    pub fn ahead(&self) -> SignedDuration {
        self.ahead
    }

    /// The planning time at which the wall clock says `wall`.
    pub fn at(&self, wall: Timestamp) -> Timestamp {
        // None, where the wall clock was set again and nobody has said so yet.
        let passed = wall.duration_since(self.since).max(SignedDuration::ZERO);
        let ahead = if self.ahead.is_negative() {
            self.ahead.saturating_add(passed / 64).min(SignedDuration::ZERO)
        } else {
            self.ahead.saturating_sub(passed / 2).max(SignedDuration::ZERO)
        };
        let edge = if ahead.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
        wall.checked_add(ahead).unwrap_or(edge)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    const HOUR: i64 = 3_600_000;

    proptest! {
        #[test]
        fn a_course_goes_on_from_where_it_was_and_at_a_lawful_speed(
            now in 0..HOUR,
            wall in 0..HOUR,
            times in prop::collection::vec(0..HOUR, 1..20),
        ) {
            let course = Course::through(at(now), at(wall));
            prop_assert_eq!(course.at(at(wall)), at(now));
            let (mut before, mut told) = (wall, at(now));
            for passed in times {
                let this = before + passed;
                let went = course.at(at(this)).duration_since(told);
                let passed = SignedDuration::from_millis(passed);
                prop_assert!(passed / 2 <= went, "half as fast at the least");
                prop_assert!(went <= passed + passed / 64, "hardly faster than real time");
                (before, told) = (this, course.at(at(this)));
            }
        }

        #[test]
        fn a_course_comes_back_to_the_wall_clock(now in 0..HOUR, wall in 0..HOUR) {
            let course = Course::through(at(now), at(wall));
            let after_all = at(wall + 64 * HOUR);
            prop_assert_eq!(course.at(after_all), after_all);
        }

        #[test]
        fn a_course_is_kept_by_its_two_numbers(now: i32, wall: i32, later: i32) {
            let course = Course::through(at(now.into()), at(wall.into()));
            let kept = Course::new(course.since(), course.ahead());
            prop_assert_eq!(kept.at(at(later.into())), course.at(at(later.into())));
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_back_again_takes_the_course_with_it() {
        let course = Course::through(at(HOUR), at(2 * HOUR));
        assert_eq!(course.at(at(HOUR)), at(0));
    }

    #[test]
    fn no_wall_clock_is_too_far_away() {
        for edge in [Timestamp::MIN, Timestamp::MAX] {
            for other in [Timestamp::MIN, at(0), Timestamp::MAX] {
                Course::through(edge, other).at(edge);
            }
        }
    }
}
