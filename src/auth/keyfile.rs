use data_encoding::{BASE64, Encoding, HEXLOWER_PERMISSIVE};

use super::{Key, MAX_KEYS};

/// What is wrong with the text of a key file. Lines count from 1. No secret is ever quoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Nothing but blank lines and comments.
    #[error("there is no key in it; `saltecho keygen` prints one")]
    Empty,
    /// More keys than are accepted at once.
    #[error("line {line}: more than {MAX_KEYS} keys; remove those that are no longer in use")]
    TooMany {
        /// The line of the first key too many.
        line: usize,
    },
    /// A key so short that it can be guessed.
    #[error(
        "line {line}: the key has {len} bytes, fewer than {min}; `saltecho keygen` prints a good \
         one, --allow-weak-key accepts this one",
        min = Key::MIN_LEN
    )]
    Weak {
        /// The key's line.
        line: usize,
        /// The key's length in bytes.
        len: usize,
    },
    /// What follows `hex:` or `base64:` is not that.
    #[error("line {line}: what follows `{encoding}:` is not {encoding}")]
    Encoding {
        /// The key's line.
        line: usize,
        /// `hex` or `base64`.
        encoding: &'static str,
    },
    /// UTF-16 or UTF-32, as some editors save text.
    #[error("it is UTF-16 text: save it as UTF-8")]
    Utf16,
    /// Arbitrary bytes, in which a line feed would end the key and white space would be lost.
    #[error(
        "line {line}: the key is not visible text in UTF-8; a key of other bytes is written in \
         `hex:` or `base64:`, as `(printf base64:; base64 -w0 FILE)` does"
    )]
    NotText {
        /// The key's line.
        line: usize,
    },
    /// Plain text that looks like another notation.
    #[error(
        "line {line}: the key looks like {notation}, but would be used letter by letter: `text:` \
         in front if that is meant, else `hex:` or `base64:`"
    )]
    Ambiguous {
        /// The key's line.
        line: usize,
        /// "a number in hexadecimal", for example.
        notation: &'static str,
    },
}

/// Editors put it in front of UTF-8; joined files have it in the middle.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads the text of a key file: one key a line, at most [`MAX_KEYS`].
///
/// White space around a line does not belong to the key, nor does a byte order mark before it.
/// Blank lines and lines that start with `#` are skipped. `hex:` and `base64:` (standard alphabet,
/// padded) introduce encoded bytes and `text:` the key itself, in upper or lower case. Anything else
/// is the key itself, unless it looks like another notation: a key must never be another one than
/// was meant.
///
/// # Errors
/// [`KeyFileError`] for the first line that cannot be used; `allow_weak` accepts keys shorter
/// than [`Key::MIN_LEN`], though never an empty one.
pub fn parse_key_file(text: &[u8], allow_weak: bool) -> Result<Vec<Key>, KeyFileError> {
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return Err(KeyFileError::Utf16);
    }
    let mut keys = Vec::new();
    for (index, raw) in text.split(|&byte| byte == b'\n').enumerate() {
        let (line, content) = (index + 1, raw.trim_ascii());
        let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content).trim_ascii();
        if content.is_empty() || content.starts_with(b"#") {
            continue;
        }
        if keys.len() == MAX_KEYS {
            return Err(KeyFileError::TooMany { line });
        }
        let key = parse_key(line, content)?;
        let len = key.as_bytes().len();
        if len == 0 || (key.is_weak() && !allow_weak) {
            return Err(KeyFileError::Weak { line, len });
        }
        keys.push(key);
    }
    if keys.is_empty() { Err(KeyFileError::Empty) } else { Ok(keys) }
}

fn parse_key(line: usize, content: &[u8]) -> Result<Key, KeyFileError> {
    let text = str::from_utf8(content).ok().filter(|text| !text.contains(is_invisible));
    let text = text.ok_or(KeyFileError::NotText { line })?;
    let ambiguous = |notation| Err(KeyFileError::Ambiguous { line, notation });
    if let Some((word, rest)) = split_prefix(text) {
        let is = |name| word.eq_ignore_ascii_case(name);
        let encoding = |encoding| KeyFileError::Encoding { line, encoding };
        let encoded = rest.as_bytes();
        return match () {
            () if is("hex") => decode(&HEXLOWER_PERMISSIVE, encoded).ok_or(encoding("hex")),
            () if is("base64") => decode(&BASE64, encoded).ok_or(encoding("base64")),
            () if is("text") => Ok(Key::new(rest)),
            () => ambiguous("a key in an encoding that is not known"),
        };
    }
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return ambiguous("a number in hexadecimal");
    }
    let quoted = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if quoted('"') || quoted('\'') {
        return ambiguous("a text in quotation marks");
    }
    Ok(Key::new(text))
}

fn decode(encoding: &Encoding, encoded: &[u8]) -> Option<Key> {
    encoding.decode(encoded).ok().map(Key::new)
}

/// A word before a colon, and what follows the colon. What is no word is part of a key.
fn split_prefix(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.split_once(':')?;
    let (word, rest) = (word.trim_end(), rest.trim());
    let is_word = word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    is_word.then_some((word, rest))
}

/// Whether a character would be in a key unseen: a control character, white space other than the
/// space, a soft hyphen, or a character without width.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || (character.is_whitespace() && character != ' ')
        || matches!(character, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "hex:000102030405060708090a0b0c0d0e0F";
    const BASE64_TEXT: &str = "base64:AAECAwQFBgcICQoLDA0ODw==";

    fn parse(text: &str) -> Result<Vec<Key>, KeyFileError> {
        parse_key_file(text.as_bytes(), false)
    }

    #[test]
    fn the_three_forms_of_a_key() {
        let sixteen: Vec<u8> = (0..16).collect();
        let text = format!("# keys\r\n\n  linhaifeng bang bang bang \r\n{HEX}\n{BASE64_TEXT}");
        let keys = parse(&text).unwrap();
        assert_eq!(keys, [Key::demo(), Key::new(sixteen.clone()), Key::new(sixteen)]);
    }

    #[test]
    fn one_key_in_any_spelling_is_one_key() {
        let key = [Key::new((0..16).collect::<Vec<u8>>())];
        let upper = HEX.to_uppercase().replace("HEX", "Hex");
        for text in [
            format!("\u{feff}{HEX}"),
            format!("# a\n\u{feff} {HEX} \t\r\n\r\n"),
            format!("\u{feff}# a comment\r\n{upper}"),
            HEX.replace("hex:", "HEX : "),
            BASE64_TEXT.replace("base64", "Base64"),
        ] {
            assert_eq!(parse(&text).as_deref(), Ok(&key[..]), "{text:?}");
        }
        for (text, key) in [
            ("text:0x00112233445566", "0x00112233445566"),
            ("TEXT: user:password 123", "user:password 123"),
            ("text:# this is not a comment", "# this is not a comment"),
            ("two words: a passphrase", "two words: a passphrase"),
            ("Grüße aus Öderan", "Grüße aus Öderan"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(&[Key::new(key)][..]), "{text:?}");
        }
    }

    #[test]
    fn what_could_become_another_key_is_refused() {
        let utf16 = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{feff}hex:00\n".encode_utf16().flat_map(order).collect()
        };
        for text in [utf16(u16::to_le_bytes), utf16(u16::to_be_bytes)] {
            assert_eq!(parse_key_file(&text, true).unwrap_err(), KeyFileError::Utf16);
            let refused = parse_key_file(&text[2..], true).unwrap_err();
            assert_eq!(refused, KeyFileError::NotText { line: 1 }, "without its mark");
        }
        for text in [
            &b"sixteen bytes \xff and a\nline feed in them"[..],
            b"an old Mac's\rline ends",
            b"a key\twith a tab",
            "a space that is\u{a0}none".as_bytes(),
            "marks inside\u{feff}the key".as_bytes(),
            "Gr\u{fc}\u{df}e, and a zero\u{200b} width".as_bytes(),
        ] {
            let refused = parse_key_file(text, false).unwrap_err();
            assert_eq!(refused, KeyFileError::NotText { line: 1 }, "{text:?}");
        }
        for (text, notation) in [
            ("0x000102030405060708090a0b0c0d0e0f", "a number in hexadecimal"),
            ("\"a secret in quotes\"", "a text in quotation marks"),
            ("'a secret in quotes'", "a text in quotation marks"),
            ("base64url:AAECAwQFBgcICQoLDA0ODw", "a key in an encoding that is not known"),
            ("b64:AAECAwQFBgcICQoLDA0ODw==", "a key in an encoding that is not known"),
            ("user:password with words", "a key in an encoding that is not known"),
        ] {
            let refused = parse(&format!("\n{text}\n")).unwrap_err();
            assert_eq!(refused, KeyFileError::Ambiguous { line: 2, notation }, "{text:?}");
        }
    }

    #[test]
    fn each_refusal_names_its_line() {
        let five = format!("{HEX}\n").repeat(5);
        for (text, error) in [
            ("", KeyFileError::Empty),
            ("\n# nothing\n", KeyFileError::Empty),
            (five.as_str(), KeyFileError::TooMany { line: 5 }),
            ("\nfifteen letters", KeyFileError::Weak { line: 2, len: 15 }),
            ("hex:", KeyFileError::Weak { line: 1, len: 0 }),
            ("hex:0g", KeyFileError::Encoding { line: 1, encoding: "hex" }),
            ("hex:0x00", KeyFileError::Encoding { line: 1, encoding: "hex" }),
            ("base64:_-8=", KeyFileError::Encoding { line: 1, encoding: "base64" }),
            ("text:", KeyFileError::Weak { line: 1, len: 0 }),
            ("base64:AAE", KeyFileError::Encoding { line: 1, encoding: "base64" }),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn a_weak_key_must_be_asked_for_and_an_empty_one_never_passes() {
        assert_eq!(parse_key_file(b"short", true).unwrap(), [Key::new(&b"short"[..])]);
        let empty = KeyFileError::Weak { line: 1, len: 0 };
        assert_eq!(parse_key_file(b"base64:", true).unwrap_err(), empty);
    }
}
