use saltecho::load::report::Visible;

/// Makes bytes of a stranger safe to show on a terminal: control characters, which could move the
/// cursor, change titles or fake other output, and bytes that are no UTF-8 are spelt out.
///
/// Characters may be cut anywhere between two calls. A backslash is left alone, so what is shown
/// cannot be turned back into the bytes; it is for reading.
pub(super) struct Escaper {
    /// The control characters that may pass.
    harmless: &'static [char],
    /// The beginning of a character whose rest is yet to come.
    begun: Vec<u8>,
}

impl Escaper {
    /// For output that is one line of several: not even a line feed passes.
    pub(super) const fn for_line() -> Self {
        Self { harmless: &['\t'], begun: Vec::new() }
    }

    /// For output of any number of lines.
    pub(super) const fn for_text() -> Self {
        Self { harmless: &['\t', '\n'], begun: Vec::new() }
    }

    /// The next bytes, ready to show.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let mut joined = std::mem::take(&mut self.begun);
        joined.extend_from_slice(bytes);
        let mut shown = String::with_capacity(joined.len());
        let mut chunks = joined.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for character in chunk.valid().chars() {
                self.show(character, &mut shown);
            }
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_begun(invalid) {
                self.begun = invalid.to_vec();
            } else {
                spell(invalid, &mut shown);
            }
        }
        shown
    }

    /// What is left if nothing more comes.
    pub(super) fn finish(self) -> String {
        let mut shown = String::new();
        spell(&self.begun, &mut shown);
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

/// Whether these bytes, invalid by themselves, could become a character.
fn is_begun(invalid: &[u8]) -> bool {
    std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

fn spell(bytes: &[u8], shown: &mut String) {
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
    fn only_what_could_harm_a_terminal_is_spelt_out() {
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
    fn cuts_change_nothing() {
        let bytes =
            "aé世🌍\u{1b}\u{85}".bytes().chain(*b"\xf0\x9f\x41\xe4\xb8").collect::<Vec<_>>();
        for cut in 0..=bytes.len() {
            let mut escaper = Escaper::for_line();
            let shown = escaper.push(&bytes[..cut]) + &escaper.push(&bytes[cut..]);
            assert_eq!(shown + &escaper.finish(), line(&bytes), "cut at {cut}");
        }
    }
}
