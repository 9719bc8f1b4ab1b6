use std::fmt;

/// The trace that a registration was part of (W3C Trace Context), passed on as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trace {
    parent: String,
    state: Option<String>,
}

/// Bytes of a `tracestate` at the most: as many as everybody has to pass on (§3.3.1.5).
const LONGEST_STATE: usize = 512;

impl Trace {
    /// The trace that these headers name; `None` where `parent` is not a `traceparent` of version 00.
    /// A `state` that is too long, or cannot stand in a header, is left out, which may be done.
    ///
    /// <https://www.w3.org/TR/trace-context/#traceparent-header-field-values>
    pub fn read(parent: &str, state: Option<&str>) -> Option<Self> {
        let fields: Vec<&str> = parent.split('-').collect();
        let [version, trace, span, flags] = fields[..] else { return None };
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|b| b != b'0');
        if version != "00" || !is_id(trace, 32) || !is_id(span, 16) || !is_hex(flags, 2) {
            return None;
        }
        let may_stand = |text: &&str| {
            (1..=LONGEST_STATE).contains(&text.len())
                && text.trim() == *text
                && text.bytes().all(|b| matches!(b, b' '..=b'~'))
        };
        let state = state.filter(may_stand).map(str::to_owned);
        Some(Self { parent: parent.to_owned(), state })
    }

    /// The value of `traceparent`.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The value of `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_is_taken_as_it_is_or_not_at_all() {
        let trace = Trace::read(PARENT, Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")).unwrap();
        assert_eq!(trace.parent(), PARENT);
        assert_eq!(trace.state(), Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"));
        for parent in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT.replace("00-0a", "01-0a"),
            &PARENT.replace("00-0a", "ff-0a"),
            &PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &PARENT[..54],
            &format!("{PARENT}-00"),
            &format!(" {PARENT}"),
            &PARENT.replace("-01", "-0g"),
        ] {
            assert_eq!(Trace::read(parent, None), None, "{parent}");
        }
    }

    #[test]
    fn a_state_that_cannot_stand_in_a_header_is_left_out() {
        for state in ["", " a=b", "a=b\nx: y", "a=\u{e9}", &"a".repeat(513)] {
            assert_eq!(Trace::read(PARENT, Some(state)).unwrap().state(), None, "{state:?}");
        }
        assert!(Trace::read(PARENT, Some(&"a".repeat(512))).unwrap().state().is_some());
    }
}
