//! Human-readable times, counts and errors.

use std::{fmt::Write as _, time::Duration};

use reqwest::StatusCode;
use serde::Serialize;

use crate::{
    clock::Timestamp,
    outbox::{ErrorKind, Failure},
};

/// A duration in its largest unit, rounded: `4 m`, `2 h`.
pub(super) fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let secs = duration.as_secs();
    // Round first, so that 59.5 minutes are shown as 1 h and not as 60 m.
    let rounded = |size: u64| (secs + size / 2) / size * size;
    let at = UNITS.iter().position(|(size, _)| secs >= *size).unwrap_or(3);
    let bigger = at.checked_sub(1).filter(|bigger| rounded(UNITS[at].0) >= UNITS[*bigger].0);
    let (size, unit) = UNITS[bigger.unwrap_or(at)];
    format!("{} {unit}", rounded(size) / size)
}

/// `2 h ago` or `in 4 m`; within a second, `now`.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let (before, after) = (now.since(at), at.since(now));
    if before.as_secs() == 0 && after.is_zero() {
        "now".into()
    } else if after.is_zero() {
        format!("{} ago", duration(before))
    } else {
        // Rounded up, so that the time shown is never too early.
        format!("in {}", duration(after + Duration::from_millis(999)))
    }
}

/// `2026-01-31 08:00:00 UTC`.
pub(super) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} UTC", text.split('.').next().unwrap_or_default().replace('T', " "))
}

/// Untrusted text as one line without control characters: nothing in it moves the cursor, changes
/// colours or reverses the writing direction.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).collect()
}

fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A value as JSON on one line, with control characters escaped.
pub(super) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let plain = serde_json::to_string(value)?;
    if !plain.contains(is_harmful) {
        return Ok(plain);
    }
    let mut safe = String::with_capacity(plain.len());
    for c in plain.chars() {
        if is_harmful(c) {
            // All of these are in the Basic Multilingual Plane, so four hex digits suffice.
            let written = write!(safe, "\\u{:04x}", u32::from(c));
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        } else {
            safe.push(c);
        }
    }
    Ok(safe)
}

/// An error on one line: `503 Service Unavailable`, `timeout: no response within 30s`.
pub(super) fn failure(failure: &Failure) -> String {
    let status = failure.status.and_then(|status| StatusCode::from_u16(status).ok());
    match (failure.kind, status) {
        (ErrorKind::Status, Some(status)) => {
            format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
        }
        (kind, _) => format!("{}: {}", kind.as_str(), one_line(&failure.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_has_no_control_characters() {
        assert_eq!(one_line("a\x1b[2J\r\nb\u{9b}31m\u{202e}c\u{2028}d"), "a [2J  b 31m c d");
        assert_eq!(one_line("größer 文"), "größer 文");
        let text = "a\u{9b}31m\u{202e}b\x7fc\"";
        let safe = json(&text).unwrap();
        assert!(safe.is_ascii() && !safe.contains('\x7f'), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
    }

    #[test]
    fn times_are_shown_in_human_readable_form() {
        let now = Timestamp::from_millis(1_456_252_458_230);
        let shown = |secs| relative(now.after(Duration::from_secs(secs)), now);
        assert_eq!([shown(0), shown(1), shown(59)], ["now", "in 1 s", "in 59 s"]);
        assert_eq!([shown(3599), shown(3569), shown(86_399)], ["in 1 h", "in 59 m", "in 1 d"]);
        assert_eq!([shown(60), shown(7300), shown(2_591_990)], ["in 1 m", "in 2 h", "in 30 d"]);
        assert_eq!(relative(now.before(Duration::from_secs(200)), now), "3 m ago");
        assert_eq!(relative(now.after(Duration::from_millis(1)), now), "in 1 s");
        assert_eq!(moment(now), "2016-02-23 18:34:18 UTC");
    }
}
