//! Decoding of terminal input into keys, without I/O. Bytes may arrive in any pieces.

use std::collections::VecDeque;

/// An element of a line: a character, or a byte that is not part of one. A terminal set to Latin-1
/// sends such bytes, and the server accepts them like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Char(char),
    Byte(u8),
}

/// A key, by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Insert(Unit),
    Enter,
    /// Ctrl-D.
    End,
    Up,
    Down,
    Move(Motion),
    /// Deletes everything that the motion passes.
    Delete(Motion),
    /// Ctrl-C or Ctrl-\\, which are keys and not signals while the prompt controls the terminal.
    Interrupt,
    /// Ctrl-Z, a key for the same reason.
    Suspend,
    ClearScreen,
}

/// A movement within a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motion {
    Left,
    Right,
    WordLeft,
    WordRight,
    Start,
    End,
}

/// Terminal input that is not decoded yet.
#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: VecDeque<u8>,
    /// True if it is within a bracketed paste, where everything is text.
    pasting: bool,
    /// True if the terminal edits lines itself and sends whole ones (canonical mode).
    cooked: bool,
}

/// The marks around pasted text, if the terminal was asked for them (xterm's mode 2004).
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Ctrl-C and Ctrl-\.
const INTERRUPTS: [u8; 2] = [0x03, 0x1c];

/// Maximum number of bytes typed ahead to take from the terminal, which keeps the rest.
const AHEAD: usize = 64 << 10;

/// The longest escape sequence of a key; a longer one is dropped.
const SEQUENCE: usize = 32;

impl Keys {
    /// Decodes the input of a terminal in raw mode, or in canonical mode if `cooked`.
    pub(super) fn new(cooked: bool) -> Self {
        Self { cooked, ..Self::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Returns whether all input is decoded.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns whether more input can be taken.
    pub(super) fn have_room(&self) -> bool {
        self.bytes.len() < AHEAD
    }

    /// Returns whether there is a Ctrl-C, perhaps after other keys.
    pub(super) fn have_interrupt(&self) -> bool {
        !self.cooked && self.bytes.iter().any(|byte| INTERRUPTS.contains(byte))
    }

    /// The next key, or `None` if more bytes are needed. Skips bytes without a meaning.
    pub(super) fn next(&mut self) -> Option<Key> {
        while !self.bytes.is_empty() {
            let bytes = self.bytes.make_contiguous();
            let (length, key) = match (self.cooked, self.pasting) {
                (true, _) if bytes[0] == b'\n' => (1, Some(Key::Enter)),
                (true, _) => unit(bytes)?,
                (false, true) => match pasted(bytes)? {
                    (length, None) => {
                        self.pasting = false;
                        (length, None)
                    }
                    text => text,
                },
                (false, false) if bytes.starts_with(PASTE_BEGINS) => {
                    self.pasting = true;
                    (PASTE_BEGINS.len(), None)
                }
                (false, false) if bytes[0] == 0x1b => sequence(bytes)?,
                (false, false) if bytes[0] < 0x20 || bytes[0] == 0x7f => (1, control(bytes[0])),
                (false, false) => unit(bytes)?,
            };
            self.bytes.drain(..length);
            if key.is_some() {
                return key;
            }
        }
        None
    }
}

/// The number of decoded bytes and their key, if they have one; `None` if more bytes are needed.
type Decoded = Option<(usize, Option<Key>)>;

/// Decodes a character, or a byte that is not part of one.
fn unit(bytes: &[u8]) -> Decoded {
    let (length, unit) = match str::from_utf8(&bytes[..bytes.len().min(4)]) {
        Ok(text) => first(text),
        Err(error) if error.valid_up_to() > 0 => {
            first(str::from_utf8(&bytes[..error.valid_up_to()]).expect("it was checked"))
        }
        Err(error) => (error.error_len().map(|_| 1)?, Unit::Byte(bytes[0])),
    };
    Some((length, Some(Key::Insert(unit))))
}

fn first(text: &str) -> (usize, Unit) {
    let first = text.chars().next().expect("the text is not empty");
    (first.len_utf8(), Unit::Char(first))
}

/// Decodes a unit of pasted text, or the mark of its end. Terminals send line ends as Enter does.
fn pasted(bytes: &[u8]) -> Decoded {
    let line_end = Some(Key::Insert(Unit::Char('\n')));
    match bytes {
        _ if bytes.starts_with(PASTE_ENDS) => Some((PASTE_ENDS.len(), None)),
        _ if PASTE_ENDS.starts_with(bytes) => None,
        [b'\r', b'\n', ..] => Some((2, line_end)),
        [b'\r'] => None,
        [b'\r', ..] => Some((1, line_end)),
        _ => unit(bytes),
    }
}

/// Decodes a control character as in readline's Emacs mode.
fn control(byte: u8) -> Option<Key> {
    Some(match byte {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Insert(Unit::Char('\t')),
        0x7f => Key::Delete(Motion::Left),
        _ => match byte + b'@' {
            b'A' => Key::Move(Motion::Start),
            b'B' => Key::Move(Motion::Left),
            b'C' | b'\\' => Key::Interrupt,
            b'D' => Key::End,
            b'E' => Key::Move(Motion::End),
            b'F' => Key::Move(Motion::Right),
            b'H' => Key::Delete(Motion::Left),
            b'K' => Key::Delete(Motion::End),
            b'L' => Key::ClearScreen,
            b'N' => Key::Down,
            b'P' => Key::Up,
            b'U' => Key::Delete(Motion::Start),
            b'W' => Key::Delete(Motion::WordLeft),
            b'Z' => Key::Suspend,
            _ => return None,
        },
    })
}

/// Decodes a sequence that starts with Escape (ECMA-48, and xterm's function keys).
fn sequence(bytes: &[u8]) -> Decoded {
    match *bytes.get(1)? {
        b'[' => {}
        b'O' => return Some((3, arrow(*bytes.get(2)?, false))),
        // Alt and a letter, readline's keys for words.
        b'b' => return Some((2, Some(Key::Move(Motion::WordLeft)))),
        b'f' => return Some((2, Some(Key::Move(Motion::WordRight)))),
        b'd' => return Some((2, Some(Key::Delete(Motion::WordRight)))),
        0x7f | 0x08 => return Some((2, Some(Key::Delete(Motion::WordLeft)))),
        // The first Escape means nothing; the second may start a sequence.
        0x1b => return Some((1, None)),
        _ => return Some((2, None)),
    }
    // The Linux console's function keys have a second bracket.
    if bytes.get(2) == Some(&b'[') {
        return bytes.get(3).map(|_| (4, None));
    }
    let Some(end) = bytes[2..].iter().position(|byte| matches!(byte, 0x40..=0x7e)) else {
        return (bytes.len() > SEQUENCE).then_some((bytes.len(), None));
    };
    let (parameters, last) = (&bytes[2..2 + end], bytes[2 + end]);
    // `1;5` before an arrow is Ctrl, `1;3` is Alt.
    let by_word = matches!(parameters, [b'1', b';', b'5' | b'3']);
    let key = match (parameters, last) {
        ([b'1' | b'7'], b'~') => Some(Key::Move(Motion::Start)),
        ([b'4' | b'8'], b'~') => Some(Key::Move(Motion::End)),
        ([b'3'], b'~') => Some(Key::Delete(Motion::Right)),
        _ => arrow(last, by_word),
    };
    Some((3 + end, key))
}

fn arrow(last: u8, by_word: bool) -> Option<Key> {
    Some(match (last, by_word) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', false) => Key::Move(Motion::Right),
        (b'C', true) => Key::Move(Motion::WordRight),
        (b'D', false) => Key::Move(Motion::Left),
        (b'D', true) => Key::Move(Motion::WordLeft),
        (b'F', _) => Key::Move(Motion::End),
        (b'H', _) => Key::Move(Motion::Start),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(keys: &mut Keys) -> Vec<Key> {
        std::iter::from_fn(|| keys.next()).collect()
    }

    fn text(text: &str) -> Vec<Key> {
        text.chars().map(|char| Key::Insert(Unit::Char(char))).collect()
    }

    const BYTE: Key = Key::Insert(Unit::Byte(0xe9));

    #[test]
    fn any_split_gives_the_same_keys() {
        let input =
            "a\x1b[A\x1bOH\x1b[1;5Dü世\u{1f600}\x1b[3~\x1b\x1b[B\x1b[200~x\r\ny\rz\x1b[201~\r\x17"
                .bytes()
                .chain(*b"\xe9 \xe4\xb8\r\x04")
                .collect::<Vec<_>>();
        let expected = [
            text("a"),
            vec![Key::Up, Key::Move(Motion::Start), Key::Move(Motion::WordLeft)],
            text("ü世\u{1f600}"),
            vec![Key::Delete(Motion::Right), Key::Down],
            text("x\ny\nz"),
            vec![Key::Enter, Key::Delete(Motion::WordLeft), BYTE],
            text(" "),
            vec![Key::Insert(Unit::Byte(0xe4)), Key::Insert(Unit::Byte(0xb8))],
            vec![Key::Enter, Key::End],
        ]
        .concat();
        for cut in 0..=input.len() {
            let mut keys = Keys::new(false);
            keys.push(&input[..cut]);
            let mut seen = all(&mut keys);
            keys.push(&input[cut..]);
            seen.extend(all(&mut keys));
            assert_eq!(seen, expected, "cut at {cut}");
        }
    }

    #[test]
    fn unknown_sequences_are_skipped() {
        for sequence in ["\x1b[15~", "\x1b[[A", "\x1bx", "\x1b[Z", "\x1b[?1;2c", "\x00", "\x1bOP"] {
            let mut keys = Keys::new(false);
            keys.push(sequence.as_bytes());
            keys.push(b"!");
            assert_eq!(all(&mut keys), text("!"), "{sequence:?}");
        }
        let mut keys = Keys::new(false);
        keys.push(&[&b"\x1b["[..], &[b'1'; 2 * SEQUENCE]].concat());
        assert_eq!(all(&mut keys), []);
        keys.push(b"!");
        assert_eq!(all(&mut keys), text("!"));
    }

    #[test]
    fn an_interrupt_is_found_after_other_keys() {
        let mut keys = Keys::new(false);
        keys.push(b"a\x03b\x1c\x1a");
        assert!(keys.have_interrupt());
        let expected =
            [text("a"), vec![Key::Interrupt], text("b"), vec![Key::Interrupt, Key::Suspend]];
        assert_eq!(all(&mut keys), expected.concat());
        assert!(!keys.have_interrupt());
    }

    #[test]
    fn a_terminal_in_canonical_mode_has_no_editing_keys() {
        let mut keys = Keys::new(true);
        keys.push(b"a\x01\x1b[A\xe9\n");
        let expected = [text("a\x01\x1b[A"), vec![BYTE, Key::Enter]].concat();
        assert_eq!(all(&mut keys), expected);
    }
}
