use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

use super::{Key, MAX_KEYS};

/// What is wrong with the text of a key file. Lines count from 1. No secret is ever quoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
}

/// Reads the text of a key file: one key a line, at most [`MAX_KEYS`].
///
/// White space around a line does not belong to the key. Blank lines and lines that start with
/// `#` are skipped. `hex:` and `base64:` (standard alphabet, padded) introduce encoded bytes;
/// anything else is the key itself, byte for byte.
///
/// # Errors
/// [`KeyFileError`] for the first line that cannot be used; `allow_weak` accepts keys shorter
/// than [`Key::MIN_LEN`], though never an empty one.
pub fn parse_key_file(text: &[u8], allow_weak: bool) -> Result<Vec<Key>, KeyFileError> {
    let mut keys = Vec::new();
    for (index, raw) in text.split(|&byte| byte == b'\n').enumerate() {
        let (line, content) = (index + 1, raw.trim_ascii());
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
    for (prefix, encoding, decoder) in
        [("hex:", "hex", &HEXLOWER_PERMISSIVE), ("base64:", "base64", &BASE64)]
    {
        if let Some(encoded) = content.strip_prefix(prefix.as_bytes()) {
            let decoded = decoder.decode(encoded.trim_ascii());
            return decoded.map(Key::new).map_err(|_| KeyFileError::Encoding { line, encoding });
        }
    }
    Ok(Key::new(content))
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
    fn each_refusal_names_its_line() {
        let five = format!("{HEX}\n").repeat(5);
        for (text, error) in [
            ("", KeyFileError::Empty),
            ("\n# nothing\n", KeyFileError::Empty),
            (five.as_str(), KeyFileError::TooMany { line: 5 }),
            ("\nfifteen letters", KeyFileError::Weak { line: 2, len: 15 }),
            ("hex:", KeyFileError::Weak { line: 1, len: 0 }),
            ("hex:0g", KeyFileError::Encoding { line: 1, encoding: "hex" }),
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
