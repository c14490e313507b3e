//! Escaping of untrusted text.

use std::fmt::{self, Display, Write};

/// Untrusted text, escaped for a terminal.
///
/// Control characters could move the cursor, change the title or fake other output, and characters
/// that override the direction of text could change its meaning. All of them are escaped: `\n`,
/// `\x1b`, `\u{202e}`.
#[derive(Clone, Copy, Debug)]
pub struct Visible<T>(pub T);

impl<T: Display> Display for Visible<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaped(f), "{}", self.0)
    }
}

struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match character {
            '\n' | '\r' | '\t' => write!(self.0, "{}", character.escape_default()),
            character if character.is_ascii_control() => {
                write!(self.0, "\\x{:02x}", u32::from(character))
            }
            character if misleads(character) => write!(self.0, "{}", character.escape_unicode()),
            character => self.0.write_char(character),
        })
    }
}

/// Returns whether a character has an effect instead of being shown.
pub(super) fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::Visible;

    #[test]
    fn control_characters_are_escaped() {
        for (text, shown) in [
            ("Grüße, 世界 \\ 🌍", "Grüße, 世界 \\ 🌍"),
            ("\x1b]0;title\x07\x1b[2J\x7f\0", "\\x1b]0;title\\x07\\x1b[2J\\x7f\\x00"),
            ("a\r\n\tb", "a\\r\\n\\tb"),
            ("\u{9b}2J \u{202e}gpj.exe", "\\u{9b}2J \\u{202e}gpj.exe"),
        ] {
            assert_eq!(Visible(text).to_string(), shown);
        }
        assert_eq!(format!("{}: {}", Visible('\x1b'), Visible(7)), "\\x1b: 7");
    }
}
