//! When to ask again.

use std::time::Duration;

use jiff::Timestamp;

use super::OperationId;

/// The operator's choices for the life of operations, passed in rather than looked up.
#[derive(Clone, Debug)]
pub struct Policy {
    pub cadence: Cadence,
    /// How long after registration a 404 may be a lack of replication.
    pub not_found_grace: Duration,
    /// How many 400s in a row end an operation as rejected.
    pub rejections_allowed: u32,
    /// How long a blocked operation waits for a credential.
    pub credential_grace: Duration,
}

/// The rhythm of polls.
#[derive(Clone, Debug)]
pub struct Cadence {
    /// Between registration and the first poll: a new operation is hardly ever done at once, and
    /// each early poll costs budget.
    pub first_poll_after: Duration,
    /// Between two polls at the least. Graph wants strictly more than 30 s.
    pub shortest: Duration,
    /// Between two polls at the most, unless Graph asks for more.
    pub longest: Duration,
    /// The longest `Retry-After` that is taken at its word.
    pub longest_asked: Duration,
    /// How long before the deadline Graph is asked for the last time.
    pub last_look: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            cadence: Cadence::default(),
            not_found_grace: Duration::from_mins(5),
            rejections_allowed: 3,
            credential_grace: Duration::from_hours(6),
        }
    }
}

impl Default for Cadence {
    fn default() -> Self {
        Self {
            first_poll_after: Duration::from_secs(5),
            shortest: Duration::from_secs(31),
            longest: Duration::from_mins(10),
            longest_asked: Duration::from_hours(1),
            last_look: Duration::from_secs(30),
        }
    }
}

/// After how many tenths of the time that a blocked operation waits its caller is reminded.
const REMINDERS: [u32; 2] = [5, 9];

/// Up to a tenth is added to every interval, so that what started together does not stay together.
const JITTER_DIVISOR: u32 = 10;

/// An interval is this fraction of the time already waited: the wait for news stays in proportion,
/// and the number of polls grows with the logarithm of the duration.
const AGE_DIVISOR: u32 = 8;

impl Cadence {
    /// How long to wait after a poll of an operation of this `age`.
    ///
    /// `troubles` in a row double the shortest interval each time. `asked` is the `Retry-After` of
    /// the answer: a floor, believed up to [`Cadence::longest_asked`].
    pub fn interval(&self, age: Duration, troubles: u32, asked: Option<Duration>) -> Duration {
        let backed_off = self.shortest.saturating_mul(2_u32.saturating_pow(troubles));
        let wanted = (age / AGE_DIVISOR).max(backed_off).min(self.longest).max(self.shortest);
        asked.map_or(wanted, |asked| asked.min(self.longest_asked).max(wanted))
    }

    /// When to poll next, given that an answer came `now`, that `earliest` and `wanted` are the
    /// bounds of the wait, and that waiting ends at `deadline`.
    ///
    /// A poll that would fall behind the deadline is brought forward to [`Cadence::last_look`]
    /// before it, where that is allowed, so that news of the last minutes is not missed. A result
    /// at or behind the deadline means that there is no poll any more.
    pub(super) fn next_poll(
        &self,
        earliest: Timestamp,
        wanted: Timestamp,
        deadline: Timestamp,
    ) -> Timestamp {
        if wanted < deadline { wanted } else { earliest.max(before(deadline, self.last_look)) }
    }
}

/// `span` with up to a tenth added: never shorter, and the same for the same `(id, attempt)`.
///
/// Hashed, not drawn: operations registered together still fan out, and a replay of the same
/// history makes the same decisions. Whole milliseconds, as everywhere.
pub fn jittered(span: Duration, id: OperationId, attempt: u32) -> Duration {
    let width = u64::try_from((span / JITTER_DIVISOR).as_millis()).unwrap_or(u64::MAX);
    let seed = id.0 ^ (id.0 >> 64) ^ u128::from(attempt).rotate_left(40);
    #[expect(clippy::cast_possible_truncation, reason = "the upper half is folded in above")]
    let fraction = mixed(seed as u64);
    // The high word of the product maps the hash evenly onto 0..=width.
    let extra = ((u128::from(fraction) * (u128::from(width) + 1)) >> 64) as u64;
    span.saturating_add(Duration::from_millis(extra))
}

/// The finalizer of `SplitMix64`: every bit of the input sways every bit of the output. Ours rather
/// than `DefaultHasher`, which may change with the compiler and with it every replay.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// When reminder `number`, counted from 0, falls due of one that waits from `since` until `until`; `None`
/// where there is none, or no time for it.
pub(super) fn reminder(since: Timestamp, until: Timestamp, number: u8) -> Option<Timestamp> {
    let tenths = REMINDERS.get(usize::from(number))?;
    // In whole milliseconds, as everywhere.
    let tenth_millis = elapsed(since, until).as_millis() / 10;
    let wait = u64::try_from(tenth_millis).unwrap_or(u64::MAX).saturating_mul(u64::from(*tenths));
    Some(after(since, Duration::from_millis(wait))).filter(|at| since < *at && *at < until)
}

/// `at + span`, or the end of time where that would be exceeded.
pub(crate) fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// `at - span`, or the beginning of time where that would be exceeded.
pub(crate) fn before(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_sub(span).unwrap_or(Timestamp::MIN)
}

/// How long it is from `earlier` to `later`; nothing where the clock went backwards.
pub(crate) fn elapsed(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_poll_that_would_fall_on_the_deadline_or_behind_is_brought_forward() {
        let cadence = Cadence::default();
        let next_poll = |wanted| cadence.next_poll(at(40), at(wanted), at(100));
        assert_eq!(next_poll(99), at(99));
        assert_eq!(next_poll(100), at(70), "the last look");
        assert_eq!(next_poll(101), at(70), "the last look");
        assert_eq!(
            cadence.next_poll(at(80), at(101), at(100)),
            at(80),
            "never before the earliest"
        );
    }

    /// Pinned: a version of ours that jittered otherwise would plan otherwise from the same history.
    #[test]
    fn jitter_is_the_same_for_ever() {
        let of = |id, attempt| jittered(Duration::from_mins(5), OperationId(id), attempt);
        let id = 0x0192_ab3c_4d5e_7f60_8a1b_2c3d_4e5f_6071;
        let spans = [of(0, 0), of(1, 0), of(1 << 70, 0), of(7, 1), of(id, 1), of(id, 0x01ff_ffff)];
        insta::assert_compact_debug_snapshot!(spans, @"[326.5s, 316.997s, 325.147s, 321.709s, 309.589s, 301.33s]");
        assert_eq!(of(1, 0), of(1 << 64, 0), "both halves count alike");
        assert_eq!(jittered(Duration::from_millis(9), OperationId(7), 1), Duration::from_millis(9));
    }
}
