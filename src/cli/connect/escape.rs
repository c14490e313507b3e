//! Escaping of untrusted output.

use saltecho::load::report::Visible;

/// Makes untrusted bytes safe to show on a terminal: escapes invalid UTF-8 and control characters,
/// which could move the cursor, change the title or fake other output.
///
/// A character may be split between two calls. Backslashes are not escaped, so the output is for
/// reading and cannot be decoded again.
pub(super) struct Escaper {
    /// Control characters that are left as they are.
    harmless: &'static [char],
    /// The first bytes of an incomplete character.
    incomplete: Vec<u8>,
}

impl Escaper {
    /// For a single line: a line feed is escaped too.
    pub(super) const fn for_line() -> Self {
        Self { harmless: &['\t'], incomplete: Vec::new() }
    }

    /// For any number of lines.
    pub(super) const fn for_text() -> Self {
        Self { harmless: &['\t', '\n'], incomplete: Vec::new() }
    }

    /// Escapes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let mut joined = std::mem::take(&mut self.incomplete);
        joined.extend_from_slice(bytes);
        let mut shown = String::with_capacity(joined.len());
        let mut chunks = joined.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for character in chunk.valid().chars() {
                self.show(character, &mut shown);
            }
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(invalid) {
                self.incomplete = invalid.to_vec();
            } else {
                escape(invalid, &mut shown);
            }
        }
        shown
    }

    /// Escapes an incomplete character at the end.
    pub(super) fn finish(self) -> String {
        let mut shown = String::new();
        escape(&self.incomplete, &mut shown);
        shown
    }

    fn show(&self, character: char, shown: &mut String) {
        if !character.is_control() || self.harmless.contains(&character) {
            shown.push(character);
        } else {
            shown.push_str(&Visible(character).to_string());
        }
    }
}

/// Returns whether these invalid bytes could be the beginning of a character.
fn is_incomplete(invalid: &[u8]) -> bool {
    std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

fn escape(bytes: &[u8], shown: &mut String) {
    for byte in bytes {
        shown.push_str(&format!("\\x{byte:02x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::Escaper;

    fn line(bytes: &[u8]) -> String {
        let mut escaper = Escaper::for_line();
        let shown = escaper.push(bytes);
        shown + &escaper.finish()
    }

    #[test]
    fn only_what_could_harm_a_terminal_is_escaped() {
        for (bytes, shown) in [
            (&b"PLAIN\ttext \\"[..], "PLAIN\ttext \\"),
            ("Grüße, 世界 🌍".as_bytes(), "Grüße, 世界 🌍"),
            (b"\x1b[31mred\x07\x7f", "\\x1b[31mred\\x07\\x7f"),
            (b"a\r\nb\0", "a\\r\\nb\\x00"),
            ("\u{9b}2J".as_bytes(), "\\u{9b}2J"),
            (b"\xff\xfe ok \xe4", "\\xff\\xfe ok \\xe4"),
        ] {
            assert_eq!(line(bytes), shown);
        }
        assert_eq!(Escaper::for_text().push(b"a\n\tb\r"), "a\n\tb\\r");
    }

    #[test]
    fn splits_change_nothing() {
        let bytes =
            "aé世🌍\u{1b}\u{85}".bytes().chain(*b"\xf0\x9f\x41\xe4\xb8").collect::<Vec<_>>();
        for cut in 0..=bytes.len() {
            let mut escaper = Escaper::for_line();
            let shown = escaper.push(&bytes[..cut]) + &escaper.push(&bytes[cut..]);
            assert_eq!(shown + &escaper.finish(), line(&bytes), "cut at {cut}");
        }
    }
}
