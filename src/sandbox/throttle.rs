//! The budget of each identity at Graph: 10 requests in any 30 s.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// What Viva Engage grants per user and app.
pub(super) const REQUESTS: usize = 10;
/// In any stretch of this length, before the sandbox's speed is taken into account.
pub(super) const WINDOW: Duration = Duration::from_secs(30);

/// Sliding windows, exact to the millisecond.
///
/// What counts is what was let through: a refused request does not lengthen the wait. Microsoft
/// does not say how it counts those, and this way `Retry-After` can be exact.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    admitted: HashMap<Arc<str>, VecDeque<Timestamp>>,
}

impl Throttle {
    /// Windows kept before those in which nothing counts any more are cleared away.
    const LIMIT: usize = 100_000;

    /// Lets a request of `identity` through, or says how long to wait until there is room.
    pub(super) fn admit(
        &mut self,
        identity: &Arc<str>,
        window: Duration,
        now: Timestamp,
    ) -> Result<(), Duration> {
        if Self::LIMIT <= self.admitted.len() && !self.admitted.contains_key(identity) {
            self.admitted
                .retain(|_, times| times.back().is_some_and(|at| counts(*at, window, now)));
        }
        let times = self.admitted.entry(Arc::clone(identity)).or_default();
        while times.front().is_some_and(|at| !counts(*at, window, now)) {
            times.pop_front();
        }
        if let Some(oldest) = times.front().filter(|_| REQUESTS <= times.len()) {
            return Err(window.saturating_sub(age(*oldest, now)));
        }
        times.push_back(now);
        Ok(())
    }
}

/// Whether a request admitted `at` that time still weighs on the budget.
fn counts(at: Timestamp, window: Duration, now: Timestamp) -> bool {
    age(at, now) < window
}

fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn ten_are_let_through_and_the_eleventh_is_told_when_the_first_has_left_the_window() {
        let mut throttle = Throttle::default();
        let alice: Arc<str> = "alice".into();
        for n in 0..10 {
            assert_eq!(throttle.admit(&alice, WINDOW, at(n * 100)), Ok(()));
        }
        let wait = throttle.admit(&alice, WINDOW, at(1_000));
        assert_eq!(wait, Err(Duration::from_secs(29)));
        assert_eq!(throttle.admit(&alice, WINDOW, at(29_999)), Err(Duration::from_millis(1)));
        assert_eq!(throttle.admit(&alice, WINDOW, at(30_000)), Ok(()));
        assert_eq!(throttle.admit(&alice, WINDOW, at(30_000)), Err(Duration::from_millis(100)));
    }

    #[test]
    fn one_identity_does_not_spend_the_budget_of_another() {
        let mut throttle = Throttle::default();
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        for _ in 0..10 {
            throttle.admit(&alice, WINDOW, at(0)).unwrap();
        }
        assert!(throttle.admit(&alice, WINDOW, at(0)).is_err());
        assert_eq!(throttle.admit(&bob, WINDOW, at(0)), Ok(()));
    }

    #[test]
    fn windows_in_which_nothing_counts_any_more_are_cleared_away() {
        let mut throttle = Throttle::default();
        for n in 0..Throttle::LIMIT {
            let identity: Arc<str> = n.to_string().into();
            throttle.admit(&identity, WINDOW, at(0)).unwrap();
        }
        throttle.admit(&"one more".into(), WINDOW, at(30_000)).unwrap();
        assert_eq!(throttle.admitted.len(), 1);
    }
}
