//! Untrusted text in HTML: markup is escaped, and characters that reverse the text direction are replaced.
//!
//! Values of forms must stay unchanged. For them, templates use askama's escaper, under the name `xml`.

use std::fmt::{self, Write};

use askama::filters::{Escaper, Html};

/// The escaper of the templates, by `askama.toml`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Escaper for Plain {
    fn write_escaped_str<W: Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        for part in string.split_inclusive(turns) {
            let plain = part.trim_end_matches(turns);
            Html.write_escaped_str(&mut dest, plain)?;
            if plain.len() < part.len() {
                dest.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// Whether a character changes the direction of those after it.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bidi_controls_are_replaced_and_markup_is_escaped() {
        let escaped = |text: &str| {
            let mut html = String::new();
            Plain.write_escaped_str(&mut html, text).unwrap();
            html
        };
        assert_eq!(escaped("a\u{202e}b<\u{2066}\u{2069}"), "a\u{fffd}b&#60;\u{fffd}\u{fffd}");
        assert_eq!(escaped("\u{202e}"), "\u{fffd}");
        assert_eq!(escaped("ä \u{5d0} \"&'"), "ä \u{5d0} &#34;&#38;&#39;");
        assert_eq!(escaped(""), "");
    }
}
