//! Bytes of a terminal as keys, without I/O: bytes in, keys out, whatever the pieces.

use std::collections::VecDeque;

/// What a line is made of: a character, or a byte that is not part of one. A terminal set to
/// Latin-1 sends such bytes, and the server takes them as it takes any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Char(char),
    Byte(u8),
}

/// A key, or what a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Insert(Unit),
    Enter,
    /// Ctrl-D.
    End,
    Up,
    Down,
    Move(Motion),
    /// Deletes what the motion passes over.
    Delete(Motion),
    /// Ctrl-C or Ctrl-\\, which are keys and not signals as long as the prompt has the terminal.
    Interrupt,
    /// Ctrl-Z, likewise.
    Suspend,
    ClearScreen,
}

/// A way through a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motion {
    Left,
    Right,
    WordLeft,
    WordRight,
    Start,
    End,
}

/// The part of a terminal's input that has not become keys yet.
#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: VecDeque<u8>,
    /// Between the marks of a bracketed paste nothing is a key: all of it is text.
    pasting: bool,
    /// The terminal has made lines of its input already and edits them itself.
    cooked: bool,
}

/// The bytes around a pasted text, if the terminal was asked for them (xterm's mode 2004).
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Ctrl-C and Ctrl-\.
const INTERRUPTS: [u8; 2] = [0x03, 0x1c];

/// Bytes typed ahead that are taken from the terminal; it keeps the rest.
const AHEAD: usize = 64 << 10;

/// The longest sequence that a key sends; a longer one is no key, and is dropped.
const SEQUENCE: usize = 32;

impl Keys {
    /// Keys of a terminal that sends each of them at once, or lines if it is `cooked`.
    pub(super) fn new(cooked: bool) -> Self {
        Self { cooked, ..Self::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Whether nothing is left of what was typed.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether there is room for more typing ahead.
    pub(super) fn have_room(&self) -> bool {
        self.bytes.len() < AHEAD
    }

    /// Whether Ctrl-C waits behind other keys.
    pub(super) fn have_interrupt(&self) -> bool {
        !self.cooked && self.bytes.iter().any(|byte| INTERRUPTS.contains(byte))
    }

    /// The next key; `None` until more bytes come. Bytes that mean nothing are skipped.
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

type Step = Option<(usize, Option<Key>)>;

/// A character or a byte that is not part of one; `None` while it could become either.
fn unit(bytes: &[u8]) -> Step {
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

/// A unit of a pasted text, or the mark of its end. Terminals send its line ends as Enter would.
fn pasted(bytes: &[u8]) -> Step {
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

/// The keys of readline's Emacs mode.
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

/// A sequence that begins with Escape (ECMA-48, and xterm's function keys).
fn sequence(bytes: &[u8]) -> Step {
    match *bytes.get(1)? {
        b'[' => {}
        b'O' => return Some((3, arrow(*bytes.get(2)?, false))),
        // Alt with a letter, which readline has for whole words.
        b'b' => return Some((2, Some(Key::Move(Motion::WordLeft)))),
        b'f' => return Some((2, Some(Key::Move(Motion::WordRight)))),
        b'd' => return Some((2, Some(Key::Delete(Motion::WordRight)))),
        0x7f | 0x08 => return Some((2, Some(Key::Delete(Motion::WordLeft)))),
        // Escape alone means nothing; the other may begin a sequence.
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
    // `1;5` in front of an arrow is Ctrl, `1;3` is Alt.
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
    fn any_pieces_give_the_same_keys() {
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
    fn sequences_that_are_no_keys_are_skipped() {
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
    fn a_key_that_interrupts_is_seen_behind_others() {
        let mut keys = Keys::new(false);
        keys.push(b"a\x03b\x1c\x1a");
        assert!(keys.have_interrupt());
        let expected =
            [text("a"), vec![Key::Interrupt], text("b"), vec![Key::Interrupt, Key::Suspend]];
        assert_eq!(all(&mut keys), expected.concat());
        assert!(!keys.have_interrupt());
    }

    #[test]
    fn a_terminal_that_makes_lines_has_no_other_keys() {
        let mut keys = Keys::new(true);
        keys.push(b"a\x01\x1b[A\xe9\n");
        let expected = [text("a\x01\x1b[A"), vec![BYTE, Key::Enter]].concat();
        assert_eq!(all(&mut keys), expected);
    }
}
