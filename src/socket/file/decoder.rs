use crate::socket::{Error, ErrorKind, Result};

/// Treatment of bytes that are not UTF-8 in a text file: the argument `errors` of `makefile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DecodeErrors {
    /// Fail with UnicodeDecodeError, also for a character cut off by the end of the stream.
    #[default]
    Strict,
    /// Replace them with U+FFFD, one for each maximal part of a character.
    Replace,
    /// Drop them.
    Ignore,
}

/// Python's incremental UTF-8 decoder, followed by its newline decoder.
///
/// A character split across two reads is joined. With universal newlines a trailing `"\r"` is held
/// back until the next character is known.
#[derive(Debug)]
pub(super) struct Decoder {
    errors: DecodeErrors,
    newlines: Newlines,
    /// Start of an incomplete character; at most three bytes.
    partial: Vec<u8>,
    pending_cr: bool,
}

/// Treatment of line endings while reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newlines {
    /// `"\r\n"` and `"\r"` become `"\n"` (newline `None`).
    Translated,
    /// All three end a line and are kept (newline `""`).
    Universal,
    /// Unchanged (a newline given).
    AsGiven,
}

impl Decoder {
    pub(super) const fn new(errors: DecodeErrors, newlines: Newlines) -> Self {
        Self { errors, newlines, partial: Vec::new(), pending_cr: false }
    }

    /// Decodes new bytes; `last` marks the end of the stream.
    ///
    /// # Errors
    /// UnicodeDecodeError in strict mode. The bytes of this call are then lost; the beginning of a
    /// character held back earlier stays.
    pub(super) fn decode(&mut self, input: &[u8], last: bool) -> Result<String> {
        let text = self.decode_utf8(input, last)?;
        Ok(match self.newlines {
            Newlines::AsGiven => text,
            Newlines::Universal => self.hold_back_cr(text, last),
            Newlines::Translated => {
                let text = self.hold_back_cr(text, last);
                if text.contains('\r') {
                    text.replace("\r\n", "\n").replace('\r', "\n")
                } else {
                    text
                }
            }
        })
    }

    /// Drops the bytes held back.
    pub(super) fn reset(&mut self) {
        self.partial.clear();
        self.pending_cr = false;
    }

    fn decode_utf8(&mut self, input: &[u8], last: bool) -> Result<String> {
        let joined = [self.partial.as_slice(), input].concat();
        let mut text = String::with_capacity(joined.len());
        let mut at = 0;
        loop {
            let rest = &joined[at..];
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    at = joined.len();
                    break;
                }
                Err(error) => error,
            };
            let (valid, bad) = rest.split_at(error.valid_up_to());
            text.push_str(std::str::from_utf8(valid).expect("valid up to here, as just reported"));
            at += valid.len();
            if !last && may_become_valid(bad, error.error_len()) {
                break;
            }
            let length = error.error_len().unwrap_or(bad.len());
            match self.errors {
                DecodeErrors::Strict => return Err(bad_bytes(at, bad, error.error_len())),
                DecodeErrors::Replace => text.push(char::REPLACEMENT_CHARACTER),
                DecodeErrors::Ignore => {}
            }
            at += length;
        }
        self.partial = joined[at..].to_vec();
        Ok(text)
    }

    fn hold_back_cr(&mut self, mut text: String, last: bool) -> String {
        if self.pending_cr && (last || !text.is_empty()) {
            text.insert(0, '\r');
            self.pending_cr = false;
        }
        if !last && text.ends_with('\r') {
            text.pop();
            self.pending_cr = true;
        }
        text
    }
}

/// Returns true if more bytes could complete the character that starts with these.
///
/// CPython also waits for the third byte of an encoded surrogate (ED A0 to ED BF) before it fails.
fn may_become_valid(bad: &[u8], error_len: Option<usize>) -> bool {
    error_len.is_none() || matches!(bad, [0xed, 0xa0..=0xbf])
}

/// CPython's text for a decoding error; positions count from the bytes held back earlier.
fn bad_bytes(at: usize, bad: &[u8], error_len: Option<usize>) -> Error {
    let length = error_len.unwrap_or(bad.len());
    let reason = match (error_len, bad[0]) {
        (None, _) => "unexpected end of data",
        (Some(1), 0x00..=0xc1 | 0xf5..=0xff) => "invalid start byte",
        (Some(_), _) => "invalid continuation byte",
    };
    let place = if length == 1 {
        format!("byte {:#04x} in position {at}", bad[0])
    } else {
        format!("bytes in position {at}-{}", at + length - 1)
    };
    let text = format!("'utf-8' codec can't decode {place}: {reason}");
    Error::raised_with(ErrorKind::UnicodeDecodeError, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(errors: DecodeErrors, bytes: &[u8]) -> Result<String> {
        Decoder::new(errors, Newlines::AsGiven).decode(bytes, true)
    }

    #[test]
    fn strict_errors_read_as_cpythons() {
        for (bytes, text) in [
            (&b"a\xff"[..], "byte 0xff in position 1: invalid start byte"),
            (b"\xc0\x80", "byte 0xc0 in position 0: invalid start byte"),
            (b"\xe4\x28", "byte 0xe4 in position 0: invalid continuation byte"),
            (b"\xe4\xbd\x28", "bytes in position 0-1: invalid continuation byte"),
            (b"\xed\xa0\x80", "byte 0xed in position 0: invalid continuation byte"),
            (b"ab\xe4\xbd", "bytes in position 2-3: unexpected end of data"),
            (b"\xf0", "byte 0xf0 in position 0: unexpected end of data"),
        ] {
            let error = decode(DecodeErrors::Strict, bytes).expect_err("not UTF-8");
            assert_eq!(error.kind(), ErrorKind::UnicodeDecodeError);
            assert_eq!(error.to_string(), format!("'utf-8' codec can't decode {text}"));
        }
    }

    #[test]
    fn replace_and_ignore_agree_with_the_standard_library() {
        for bytes in
            [&b"a\xffb"[..], b"\xe4\xbd\x28", b"\xf0\x9f\x92", b"\xed\xa0\x80", b"\xc3\x28"]
        {
            let lossy = String::from_utf8_lossy(bytes);
            assert_eq!(decode(DecodeErrors::Replace, bytes).as_deref(), Ok(&*lossy));
            let bare = lossy.replace('\u{fffd}', "");
            assert_eq!(decode(DecodeErrors::Ignore, bytes), Ok(bare));
        }
    }

    #[test]
    fn split_characters_and_line_endings_are_put_together() {
        let whole = "你好\r\na\rb\n\r".as_bytes();
        for (newlines, expected) in [
            (Newlines::AsGiven, "你好\r\na\rb\n\r"),
            (Newlines::Universal, "你好\r\na\rb\n\r"),
            (Newlines::Translated, "你好\na\nb\n\n"),
        ] {
            for cut in 0..=whole.len() {
                let mut decoder = Decoder::new(DecodeErrors::Strict, newlines);
                let mut text = decoder.decode(&whole[..cut], false).expect("valid so far");
                text += &decoder.decode(&whole[cut..], true).expect("valid");
                assert_eq!(text, expected, "{newlines:?} cut at {cut}");
            }
        }
    }
}
