//! W3C Trace Context: the trace that an event belongs to.

use std::collections::HashSet;

use data_encoding::HEXLOWER;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::id::CallbackId;

/// Maximum length of `tracestate`, in bytes, as every participant has to support (W3C, 3.3.1.5). A longer one
/// is left out.
const MAX_STATE: usize = 512;

/// Maximum number of its members (W3C, 3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// The flags of version 00 that are passed on: sampled, and random trace id.
const FLAGS: u8 = 0b11;

/// The trace that an event belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// `trace-id`
    id: [u8; 16],
    /// `trace-flags`
    flags: u8,
    /// `tracestate`, as it came.
    state: Option<String>,
}

/// An attempt in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span([u8; 8]);

impl Span {
    /// Its id, in hexadecimal digits.
    pub fn id(self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The span of an attempt. The log is written later and elsewhere, so the id is derived and not
    /// random.
    pub fn of(callback: CallbackId, attempt: u32) -> Self {
        let text = format!("{callback}/{attempt}");
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_ref()[..8]);
        // An id of zeroes is invalid.
        id[7] |= u8::from(id == [0; 8]);
        Self(id)
    }
}

impl Trace {
    /// Reads `traceparent` and `tracestate`; `None` if the first is invalid, as the recommendation has it.
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let (version, rest) = parent.split_at_checked(2)?;
        let parts = rest.split_at_checked(53)?;
        let fields: Vec<&str> = parts.0.strip_prefix('-')?.split('-').collect();
        // A later version may have more fields.
        let is_whole = parts.1.is_empty() || (version != "00" && parts.1.starts_with('-'));
        let &[id, span, flags] = fields.as_slice() else { return None };
        let decoded = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
        let known = decoded(version)? != [0xff] && is_whole;
        let id: [u8; 16] = decoded(id)?.try_into().ok().filter(|it| *it != [0; 16])?;
        let _: [u8; 8] = decoded(span)?.try_into().ok().filter(|it| *it != [0; 8])?;
        let flags: [u8; 1] = decoded(flags)?.try_into().ok()?;
        let state = state.map(str::trim).filter(|text| is_state(text)).map(str::to_owned);
        known.then_some(Self { id, flags: flags[0] & FLAGS, state })
    }

    /// Its id, in hexadecimal digits.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// `traceparent` of a span.
    pub fn parent(&self, span: Span) -> String {
        format!("00-{}-{}-{:02x}", self.id(), span.id(), self.flags)
    }

    /// `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// Whether this is a `tracestate` that has members (W3C, 3.3.1). An invalid one is not passed on.
fn is_state(text: &str) -> bool {
    let members: Vec<_> = text.split(',').map(|member| member.trim_matches([' ', '\t'])).collect();
    let mut keys = HashSet::new();
    text.len() <= MAX_STATE
        && members.len() <= MAX_MEMBERS
        && members.iter().any(|member| !member.is_empty())
        && members.into_iter().filter(|member| !member.is_empty()).all(|member| {
            member
                .split_once('=')
                .is_some_and(|(key, value)| is_key(key) && is_value(value) && keys.insert(key))
        })
}

/// `key` in the grammar of level 2, which includes that of level 1.
fn is_key(text: &str) -> bool {
    let rest =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    (1..=256).contains(&text.len())
        && !text.starts_with(['_', '-', '*', '/', '@'])
        && text.bytes().all(rest)
}

/// `value`: printable characters without a comma and an equals sign. The spaces after it were removed.
fn is_value(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_valid_parent_is_passed_on_with_another_span() {
        for (parent, flags) in [
            (format!("00-{ID}-00f067aa0ba902b7-01"), "01"),
            (format!("00-{ID}-00f067aa0ba902b7-00"), "00"),
            (format!("00-{ID}-00f067aa0ba902b7-ff"), "03"),
            (format!("cc-{ID}-00f067aa0ba902b7-01"), "01"),
            (format!("cc-{ID}-00f067aa0ba902b7-01-what.the.future"), "01"),
        ] {
            let trace = Trace::parse(&parent, Some("a=1,b=2")).unwrap();
            let span = Span::of(CallbackId::from_u128(1), 1);
            assert_eq!(trace.parent(span), format!("00-{ID}-{}-{flags}", span.id()), "{parent}");
            assert_eq!(trace.state(), Some("a=1,b=2"));
        }
        let spans =
            [(1, 1), (1, 2), (2, 1)].map(|(id, n)| Span::of(CallbackId::from_u128(id), n).id());
        assert!(spans[0] != spans[1] && spans[0] != spans[2] && spans[0].len() == 16, "{spans:?}");
    }

    #[test]
    fn an_invalid_parent_is_none_and_an_invalid_state_is_left_out() {
        for parent in [
            String::new(),
            "00".into(),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{ID}-00f067aa0ba902b7-1"),
            format!("00-{ID}-00f067aa0ba902b7-01-x"),
            format!("cc-{ID}-00f067aa0ba902b7-01x"),
            format!("00-{ID}-00f067aa0ba902b-701"),
            format!("00-ä{ID}-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(Trace::parse(&parent, None), None, "{parent}");
        }
        let parent = format!("00-{ID}-00f067aa0ba902b7-01");
        let members = |count| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        for state in [
            "",
            "  ",
            ",",
            "a=ä",
            "a=\nb",
            "a",
            "a=",
            "=1",
            "A=1",
            "@a=1",
            "a b=1",
            "a=1=2",
            "a=1,b=2,a=3",
            &format!("a={}", "x".repeat(257)),
            &format!("{}=1", "x".repeat(257)),
            &format!("a={0},b={0}", "x".repeat(256)),
            &members(33),
        ] {
            assert_eq!(Trace::parse(&parent, Some(state)).unwrap().state(), None, "{state:?}");
        }
        for state in ["1a@x=b c, a=1", "a=1,,b=2", &members(32), &format!("a={}", "x".repeat(256))]
        {
            assert_eq!(Trace::parse(&parent, Some(state)).unwrap().state(), Some(state));
        }
    }
}
