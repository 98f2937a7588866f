//! The text of an event before it is parsed, and of the parser's errors.

use std::borrow::Cow;

/// Replaces lone surrogates (`\ud83d`, from a text that JavaScript has cut) by U+FFFD. Rust strings
/// cannot contain them, and a field that is not even used must not cost the callback. Names that differ
/// only in lone surrogates become equal.
pub(super) fn with_whole_characters(json: &str) -> Cow<'_, str> {
    if !json.contains("\\ud") && !json.contains("\\uD") {
        return json.into();
    }
    let unit = |at: usize| {
        let hex = json.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        hex.bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then(|| u16::from_str_radix(hex, 16).ok())?
    };
    let mut whole = String::with_capacity(json.len());
    let mut at = 0;
    while let Some(next) = json[at..].find('\\').map(|found| at + found) {
        whole.push_str(&json[at..next]);
        let length = match (unit(next), unit(next + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                whole.push_str("\\ufffd");
                at = next + 6;
                continue;
            }
            (Some(_), _) => 6,
            // The backslash and what it escapes.
            (None, _) => 1 + json[next + 1..].chars().next().map_or(0, char::len_utf8),
        };
        whole.push_str(&json[next..next + length]);
        at = next + length;
    }
    whole.push_str(&json[at..]);
    whole.into()
}

/// The message without quoted text: serde quotes a string in a wrong place, which may be a URL with a
/// password.
pub(super) fn without_text(message: &str) -> String {
    const BEGIN: &str = "string \"";
    match (message.find(BEGIN), message.rfind("\", expected")) {
        (Some(begin), Some(end)) if begin + BEGIN.len() <= end => {
            format!("{}{}", &message[..begin + "string".len()], &message[end + 1..])
        }
        _ => message.to_owned(),
    }
}
