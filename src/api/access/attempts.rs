//! How many wrong keys may come from one address.
//!
//! Each address has an allowance that comes back with time. Once it is spent, wrong keys are answered by
//! 429, and a key that somebody has thought of, as an operator may have, is not even looked at: so it
//! can be guessed no faster than this. What cannot be guessed (a key of ours, which has 190 bits of
//! chance in it, or a signed token) opens all the same: or one app with an old key would lock out all
//! others behind the same proxy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::operation::after;

/// In which all of the allowance comes back.
const WINDOW: Duration = Duration::from_mins(1);

/// Addresses that are told apart at a time.
const MOST: usize = 65_536;

/// Between two lines in the log about addresses that have spent theirs.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);

/// Between two looks for addresses that need not be remembered any more.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// The wrong keys of each address.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// In which one attempt comes back.
    interval: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When all of the allowance is back: the later, the less is left (GCRA, ITU-T I.371).
    sources: HashMap<Source, Timestamp>,
    swept_at: Option<Timestamp>,
    warned_at: Option<Timestamp>,
}

/// What shares an allowance.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Source {
    /// An IPv4 address, or the first 64 bits of an IPv6 one, below which anybody has all addresses.
    Block(IpAddr),
    /// All for which there is no room.
    Others,
}

impl Attempts {
    /// So many wrong keys in a minute, with as many at once.
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        Self { interval: WINDOW / per_minute.get(), known: Mutex::default() }
    }

    /// For how long nothing is left to an address; `None` where something is.
    pub(crate) fn spent(&self, from: IpAddr, now: Timestamp) -> Option<Duration> {
        let known = self.known();
        let source = known.source(from);
        let whole_at = known.sources.get(&source).copied()?;
        self.wait(whole_at, now)
    }

    /// Counts a wrong key. Whether somebody should be told that the address has spent its allowance by
    /// it; of however many, not more often than every 10 s.
    pub(crate) fn count(&self, from: IpAddr, now: Timestamp) -> bool {
        let mut known = self.known();
        known.make_room(now);
        let source = known.source(from);
        let whole_at = known.sources.entry(source).or_insert(now);
        *whole_at = after((*whole_at).max(now), self.interval);
        if self.wait(*whole_at, now).is_none() {
            return false;
        }
        let is_due = known.warned_at.is_none_or(|at| after(at, BETWEEN_WARNINGS) <= now);
        if is_due {
            known.warned_at = Some(now);
        }
        is_due
    }

    /// Until there is room for one more.
    fn wait(&self, whole_at: Timestamp, now: Timestamp) -> Option<Duration> {
        let room_at = after(whole_at, self.interval);
        let wait = Duration::try_from(room_at.duration_since(after(now, WINDOW))).ok()?;
        (!wait.is_zero()).then_some(wait)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change leaves a usable map, so a panic elsewhere does no harm.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn source(&self, from: IpAddr) -> Source {
        let block = match from {
            IpAddr::V4(_) => from,
            IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() >> 64 << 64).into(),
        };
        // Whoever comes from many addresses can make no other one forgotten.
        if self.sources.len() < MOST || self.sources.contains_key(&Source::Block(block)) {
            Source::Block(block)
        } else {
            Source::Others
        }
    }

    fn make_room(&mut self, now: Timestamp) {
        let is_due = self.swept_at.is_none_or(|at| after(at, BETWEEN_SWEEPS) <= now);
        if self.sources.len() >= MOST && is_due {
            self.sources.retain(|_, whole_at| now < *whole_at);
            self.swept_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn at(seconds: u64) -> Timestamp {
        after(NOON, Duration::from_secs(seconds))
    }

    fn attempts(per_minute: u32) -> Attempts {
        Attempts::new(per_minute.try_into().unwrap())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_allowance_is_spent_and_comes_back_one_by_one() {
        let (attempts, from) = (attempts(6), address("192.0.2.1"));
        for _ in 0..5 {
            assert!(!attempts.count(from, NOON));
            assert_eq!(attempts.spent(from, NOON), None);
        }
        assert!(attempts.count(from, NOON), "the sixth is the last");
        assert_eq!(attempts.spent(from, NOON), Some(Duration::from_secs(10)));
        assert_eq!(attempts.spent(from, at(9)), Some(Duration::from_secs(1)));
        assert_eq!(attempts.spent(from, at(10)), None);
        assert!(attempts.count(from, at(10)));
        assert_eq!(attempts.spent(from, at(10)), Some(Duration::from_secs(10)));
        assert_eq!(attempts.spent(address("192.0.2.2"), at(10)), None, "another one");
        assert_eq!(attempts.spent(from, at(80)), None);
        for _ in 0..5 {
            assert!(!attempts.count(from, at(80)), "all of it is back");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let attempts = attempts(1);
        attempts.count(address("2001:db8:1:2::1"), NOON);
        assert!(attempts.spent(address("2001:db8:1:2:ffff::9"), NOON).is_some());
        assert_eq!(attempts.spent(address("2001:db8:1:3::1"), NOON), None);
    }

    #[test]
    fn somebody_is_told_now_and_then_whoever_guesses() {
        let attempts = attempts(1);
        let told = (0..60).filter(|second| {
            let from = IpAddr::V4(u32::try_from(*second).unwrap().into());
            attempts.count(from, at(*second))
        });
        assert_eq!(told.collect::<Vec<_>>(), [0, 10, 20, 30, 40, 50]);
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let attempts = attempts(2);
        let spent = address("203.0.113.1");
        attempts.count(spent, NOON);
        attempts.count(spent, NOON);
        for number in 0..100_000_u32 {
            attempts.count(IpAddr::V4(number.into()), NOON);
        }
        assert_eq!(attempts.known().sources.len(), MOST + 1, "and all others");
        assert!(attempts.spent(spent, NOON).is_some(), "it was not pushed out");
        assert!(attempts.spent(address("198.51.100.1"), NOON).is_some(), "one of the others");
        attempts.count(address("198.51.100.1"), at(3_600_000));
        assert_eq!(attempts.known().sources.len(), 1, "what is whole again is forgotten");
    }
}
