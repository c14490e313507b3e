//! The line being typed and the history, without I/O.

use unicode_width::UnicodeWidthChar;

use super::keys::{Key, Motion, Unit};

/// Precedes each line.
pub(super) const PROMPT: &str = ">>> ";

/// Maximum number of lines in the history. It lasts for the session only: lines may be confidential.
const REMEMBERED: usize = 1000;

/// The line being typed, its cursor, and the history.
#[derive(Debug, Default)]
pub(super) struct Line {
    units: Vec<Unit>,
    /// From 0 to the number of units.
    cursor: usize,
    /// Lines sent before, oldest first.
    history: Vec<Vec<Unit>>,
    /// Index of the recalled line, and the line that was being typed before.
    recalled: Option<(usize, Vec<Unit>)>,
}

impl Line {
    pub(super) const fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Applies an editing key.
    pub(super) fn apply(&mut self, key: Key) {
        match key {
            Key::Insert(unit) => {
                self.units.insert(self.cursor, unit);
                self.cursor += 1;
            }
            Key::Move(motion) => self.cursor = self.target(motion),
            Key::Delete(motion) => {
                let target = self.target(motion);
                self.units.drain(target.min(self.cursor)..target.max(self.cursor));
                self.cursor = target.min(self.cursor);
            }
            Key::Up => self.recall(|number| number.checked_sub(1)),
            Key::Down => self.recall(|number| Some(number + 1)),
            Key::Enter | Key::End | Key::Interrupt | Key::Suspend | Key::ClearScreen => {}
        }
    }

    /// Discards the line.
    pub(super) fn clear(&mut self) {
        (self.units, self.cursor, self.recalled) = (Vec::new(), 0, None);
    }

    /// Takes the bytes of the line, which is empty afterwards.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.recalled = None;
        self.cursor = 0;
        let units = std::mem::take(&mut self.units);
        let mut bytes = Vec::with_capacity(units.len());
        for unit in &units {
            match unit {
                Unit::Char(char) => {
                    bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Unit::Byte(byte) => bytes.push(*byte),
            }
        }
        if !bytes.trim_ascii().is_empty() && self.history.last() != Some(&units) {
            self.history.push(units);
            let surplus = self.history.len().saturating_sub(REMEMBERED);
            self.history.drain(..surplus);
        }
        bytes
    }

    /// The whole line with its prompt.
    pub(super) fn shown(&self) -> String {
        let line: String = self.units.iter().map(|unit| shown(*unit)).collect();
        format!("{PROMPT}{line}")
    }

    /// The part around the cursor that fits into one row of `columns`, and the cursor's column.
    pub(super) fn window(&self, columns: usize) -> (String, usize) {
        // The last column stays empty: terminals treat a cursor there differently.
        let room = columns.saturating_sub(PROMPT.len() + 1).max(1);
        let (mut begin, mut end, mut used) = (self.cursor, self.cursor, 0);
        while begin > 0 && used + width(self.units[begin - 1]) <= room {
            begin -= 1;
            used += width(self.units[begin]);
        }
        let column = PROMPT.len() + used;
        while end < self.units.len() && used + width(self.units[end]) <= room {
            used += width(self.units[end]);
            end += 1;
        }
        let line: String = self.units[begin..end].iter().map(|unit| shown(*unit)).collect();
        (format!("{PROMPT}{line}"), column)
    }

    fn target(&self, motion: Motion) -> usize {
        let (cursor, end) = (self.cursor, self.units.len());
        let is_space = |unit: &Unit| matches!(unit, Unit::Char(char) if char.is_whitespace());
        match motion {
            Motion::Left => cursor.saturating_sub(1),
            Motion::Right => (cursor + 1).min(end),
            Motion::Start => 0,
            Motion::End => end,
            Motion::WordLeft => {
                let before = &self.units[..cursor];
                let word = before.iter().rposition(|unit| !is_space(unit)).unwrap_or(0);
                before[..word].iter().rposition(is_space).map_or(0, |space| space + 1)
            }
            Motion::WordRight => {
                let behind = &self.units[cursor..];
                let word = behind.iter().position(|unit| !is_space(unit)).unwrap_or(behind.len());
                let length = behind[word..].iter().position(is_space);
                cursor + word + length.unwrap_or(behind.len() - word)
            }
        }
    }

    fn recall(&mut self, step: impl Fn(usize) -> Option<usize>) {
        let now = self.recalled.as_ref().map_or(self.history.len(), |(number, _)| *number);
        let Some(next) = step(now).filter(|next| *next <= self.history.len()) else { return };
        let (_, typed) = self.recalled.take().unwrap_or_else(|| (now, self.units.clone()));
        if next == self.history.len() {
            self.units = typed;
        } else {
            self.units = self.history[next].clone();
            self.recalled = Some((next, typed));
        }
        self.cursor = self.units.len();
    }
}

/// Escapes control characters and bytes that are not characters.
fn shown(unit: Unit) -> String {
    match unit {
        Unit::Char(char) if !char.is_control() => char.to_string(),
        Unit::Char(char) => char.escape_default().to_string(),
        Unit::Byte(byte) => format!("\\x{byte:02x}"),
    }
}

fn width(unit: Unit) -> usize {
    match unit {
        Unit::Char(char) => char.width().unwrap_or_else(|| shown(unit).len()),
        Unit::Byte(_) => shown(unit).len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &mut Line, text: &str) {
        text.chars().for_each(|char| line.apply(Key::Insert(Unit::Char(char))));
    }

    fn text(line: &mut Line) -> String {
        String::from_utf8(line.take()).unwrap()
    }

    #[test]
    fn keys_edit_where_the_cursor_is() {
        for (keys, expected) in [
            (&[][..], "one two  three"),
            (&[Key::Delete(Motion::Left)], "one two  thre"),
            (&[Key::Delete(Motion::WordLeft)], "one two  "),
            (&[Key::Delete(Motion::WordLeft), Key::Delete(Motion::WordLeft)], "one "),
            (&[Key::Delete(Motion::Start)], ""),
            (&[Key::Move(Motion::Start), Key::Delete(Motion::Right)], "ne two  three"),
            (&[Key::Move(Motion::Start), Key::Delete(Motion::WordRight)], " two  three"),
            (&[Key::Move(Motion::WordLeft), Key::Delete(Motion::Start)], "three"),
            (
                &[Key::Move(Motion::Start), Key::Move(Motion::WordRight), Key::Delete(Motion::End)],
                "one",
            ),
            (
                &[Key::Move(Motion::Right), Key::Move(Motion::End), Key::Delete(Motion::Right)],
                "one two  three",
            ),
        ] {
            let mut line = Line::default();
            typed(&mut line, "one two  three");
            keys.iter().for_each(|key| line.apply(*key));
            assert_eq!(text(&mut line), expected, "{keys:?}");
        }
        let mut line = Line::default();
        typed(&mut line, "ac");
        line.apply(Key::Move(Motion::Left));
        typed(&mut line, "b");
        assert_eq!(text(&mut line), "abc");
    }

    #[test]
    fn history_recalls_lines_and_the_one_being_typed() {
        let mut line = Line::default();
        for sent in ["one", "two", "two", "  "] {
            typed(&mut line, sent);
            line.take();
        }
        typed(&mut line, "typed");
        for (key, expected) in [
            (Key::Down, ">>> typed"),
            (Key::Up, ">>> two"),
            (Key::Up, ">>> one"),
            (Key::Up, ">>> one"),
            (Key::Down, ">>> two"),
            (Key::Down, ">>> typed"),
        ] {
            line.apply(key);
            assert_eq!(line.shown(), expected);
        }
    }

    #[test]
    fn invalid_utf8_is_kept() {
        let mut line = Line::default();
        typed(&mut line, "é\u{1b}");
        line.apply(Key::Insert(Unit::Byte(0xe9)));
        assert_eq!(line.shown(), ">>> é\\u{1b}\\xe9");
        assert_eq!(line.take(), "é\u{1b}".bytes().chain([0xe9]).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_line_scrolls_with_the_cursor() {
        let mut line = Line::default();
        typed(&mut line, "0123456789世界");
        assert_eq!(line.window(80), (">>> 0123456789世界".to_owned(), 18));
        assert_eq!(line.window(13), (">>> 6789世界".to_owned(), 12));
        line.apply(Key::Move(Motion::Left));
        assert_eq!(line.window(12), (">>> 56789世".to_owned(), 11));
        line.apply(Key::Move(Motion::Start));
        assert_eq!(line.window(12), (">>> 0123456".to_owned(), 4));
        assert_eq!(line.window(0), (">>> 0".to_owned(), 4));
        line.apply(Key::Move(Motion::End));
        // There is no room for even one of these characters, only for the cursor.
        assert_eq!(line.window(0), (">>> ".to_owned(), 4));
    }
}
