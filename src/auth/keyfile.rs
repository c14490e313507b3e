use data_encoding::{BASE64, Encoding, HEXLOWER_PERMISSIVE};

use super::{Key, MAX_KEYS};

/// Error in the text of a key file. Lines count from 1. The message never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Only blank lines and comments.
    #[error("it contains no key; `saltecho keygen` prints one")]
    Empty,
    /// More than [`MAX_KEYS`] keys.
    #[error("line {line}: more than {MAX_KEYS} keys; remove those no longer in use")]
    TooMany {
        /// Line of the first excess key.
        line: usize,
    },
    /// A key short enough to be guessed.
    #[error(
        "line {line}: the key has {len} bytes, fewer than {min}; `saltecho keygen` prints a good \
         one, --allow-weak-key accepts this one",
        min = Key::MIN_LEN
    )]
    Weak {
        /// Line of the key.
        line: usize,
        /// Length of the key in bytes.
        len: usize,
    },
    /// Invalid text after `hex:` or `base64:`.
    #[error("line {line}: the text after `{encoding}:` is not valid {encoding}")]
    Encoding {
        /// Line of the key.
        line: usize,
        /// `hex` or `base64`.
        encoding: &'static str,
    },
    /// UTF-16 or UTF-32, the format of some editors.
    #[error("it is UTF-16 text: save it as UTF-8")]
    Utf16,
    /// Arbitrary bytes: a line feed in them would end the key, and white space would be lost.
    #[error(
        "line {line}: the key is not visible UTF-8 text; write a key of other bytes as `hex:` or \
         `base64:`, for example with `(printf base64:; base64 -w0 FILE)`"
    )]
    NotText {
        /// Line of the key.
        line: usize,
    },
    /// Plain text that looks like another notation.
    #[error(
        "line {line}: the key looks like {notation}, but would be used letter by letter; put \
         `text:` before it if you mean that, otherwise `hex:` or `base64:`"
    )]
    Ambiguous {
        /// Line of the key.
        line: usize,
        /// For example "a hexadecimal number".
        notation: &'static str,
    },
}

/// Some editors write it before UTF-8 text; concatenated files also have it inside.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Parses the text of a key file: one key per line, at most [`MAX_KEYS`].
///
/// White space around a line and a byte order mark before it are not part of the key. Blank lines
/// and lines that start with `#` are skipped. The prefixes `hex:` and `base64:` (standard alphabet,
/// padded) mark encoded bytes, `text:` marks plain text; their case does not matter. Any other line
/// is the key itself, unless it looks like another notation: a silent misreading would be a
/// different key.
///
/// ```
/// use saltecho::auth::{Key, parse_key_file};
///
/// let text = b"# in use since May\nhex:000102030405060708090a0b0c0d0e0f\n";
/// assert_eq!(parse_key_file(text, false)?, [Key::new((0..16).collect::<Vec<u8>>())]);
/// # Ok::<(), saltecho::auth::KeyFileError>(())
/// ```
///
/// # Errors
/// [`KeyFileError`] for the first unusable line. `allow_weak` accepts keys shorter than
/// [`Key::MIN_LEN`], but never an empty one.
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
            () => ambiguous("a key in an unknown encoding"),
        };
    }
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return ambiguous("a hexadecimal number");
    }
    let quoted = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if quoted('"') || quoted('\'') {
        return ambiguous("text in quotation marks");
    }
    Ok(Key::new(text))
}

fn decode(encoding: &Encoding, encoded: &[u8]) -> Option<Key> {
    encoding.decode(encoded).ok().map(Key::new)
}

/// Splits a word before a colon from the text after it; `None` if no word comes first.
fn split_prefix(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.split_once(':')?;
    let (word, rest) = (word.trim_end(), rest.trim());
    let is_word = word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    is_word.then_some((word, rest))
}

/// Returns true for a character that an editor does not show: a control character, white space
/// other than the space, a soft hyphen, or a character of zero width.
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
    fn every_notation_of_a_key_gives_the_same_key() {
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
            ("\"quotes\" at the start", "\"quotes\" at the start"),
            ("the end in 'quotes'", "the end in 'quotes'"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(&[Key::new(key)][..]), "{text:?}");
        }
        assert_eq!(
            parse_key_file(b"'", true).as_deref(),
            Ok(&[Key::new("'")][..]),
            "one quotation mark"
        );
    }

    #[test]
    fn ambiguous_keys_are_refused() {
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
            ("0x000102030405060708090a0b0c0d0e0f", "a hexadecimal number"),
            ("\"a secret in quotes\"", "text in quotation marks"),
            ("'a secret in quotes'", "text in quotation marks"),
            ("base64url:AAECAwQFBgcICQoLDA0ODw", "a key in an unknown encoding"),
            ("b64:AAECAwQFBgcICQoLDA0ODw==", "a key in an unknown encoding"),
            ("user:password with words", "a key in an unknown encoding"),
        ] {
            let refused = parse(&format!("\n{text}\n")).unwrap_err();
            assert_eq!(refused, KeyFileError::Ambiguous { line: 2, notation }, "{text:?}");
        }
    }

    #[test]
    fn each_error_names_its_line() {
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
    fn a_weak_key_needs_permission_and_an_empty_one_is_always_refused() {
        assert_eq!(parse_key_file(b"short", true).unwrap(), [Key::new(&b"short"[..])]);
        let empty = KeyFileError::Weak { line: 1, len: 0 };
        assert_eq!(parse_key_file(b"base64:", true).unwrap_err(), empty);
    }
}
