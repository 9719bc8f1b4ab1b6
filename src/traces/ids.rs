//! Ids of traces and spans, hashed rather than drawn, so that nobody need remember them.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::operation::OperationId;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TraceId(pub(super) [u8; 16]);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SpanId(pub(super) [u8; 8]);

impl TraceId {
    /// The operation's own: 32 hex digits of `op_…`.
    pub(super) fn of(operation: OperationId) -> Self {
        Self(operation.0.to_be_bytes())
    }

    /// Whether it is in this part of all traces, by its last eight bytes, which are drawn by chance.
    pub(super) fn is_within(self, ratio: f64) -> bool {
        let [.., a, b, c, d] = self.0;
        f64::from(u32::from_be_bytes([a, b, c, d])) < ratio * 4_294_967_296.0
    }
}

impl SpanId {
    pub(super) fn of_registration(operation: OperationId) -> Self {
        Self::hashed(operation, |digest| digest)
    }

    /// Of what was done at this time; done again by somebody else, it is another span.
    pub(super) fn of(operation: OperationId, name: &str, number: u32, began: Timestamp) -> Self {
        Self::hashed(operation, |digest| {
            let at = began.as_millisecond().to_be_bytes();
            digest.chain_update(name).chain_update(number.to_be_bytes()).chain_update(at)
        })
    }

    fn hashed(operation: OperationId, more: impl FnOnce(Sha256) -> Sha256) -> Self {
        let digest = Sha256::new_with_prefix(operation.0.to_be_bytes());
        let digest = more(digest).finalize();
        let mut id = [0; 8];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(id)
    }
}

/// The trace, the span and whether they are recorded, of a `traceparent` that has been found in order.
pub(super) fn read_parent(parent: &str) -> Option<(TraceId, SpanId, bool)> {
    let mut fields = parent.split('-').skip(1);
    let trace = u128::from_str_radix(fields.next()?, 16).ok()?;
    let span = u64::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some((TraceId(trace.to_be_bytes()), SpanId(span.to_be_bytes()), flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATION: OperationId = OperationId(0x019a_2b3c_4d5e_6f70_8192_a3b4_c5d6_e7f8);

    #[test]
    fn a_trace_is_found_by_its_operation() {
        let hex = u128::from_be_bytes(TraceId::of(OPERATION).0);
        assert_eq!(format!("op_{hex:032x}"), OPERATION.to_string());
    }

    #[test]
    fn whoever_began_the_trace_says_whether_it_is_recorded() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, span, is_sampled) = read_parent(parent).unwrap();
        assert_eq!(trace.0[..2], [0x0a, 0xf7]);
        assert_eq!(span.0, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(is_sampled);
        assert!(!read_parent(&parent.replace("-01", "-02")).unwrap().2);
    }

    #[test]
    fn a_ratio_takes_that_part_and_the_same_everywhere() {
        let within = |ratio: f64| {
            let ids = (0..1_000_u128).map(|number| TraceId((number * 0x9E37_79B9).to_be_bytes()));
            ids.filter(|id| id.is_within(ratio)).count()
        };
        assert_eq!((within(0.0), within(1.0)), (0, 1_000));
        assert!((80..120).contains(&within(0.1)), "{}", within(0.1));
    }

    #[test]
    fn what_is_done_twice_is_two_spans() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let poll = SpanId::of(OPERATION, "poll", 1, at(1));
        for other in [
            SpanId::of(OPERATION, "poll", 2, at(1)),
            SpanId::of(OPERATION, "poll", 1, at(2)),
            SpanId::of(OPERATION, "attempt", 1, at(1)),
            SpanId::of_registration(OPERATION),
        ] {
            assert_ne!(poll, other);
        }
    }
}
