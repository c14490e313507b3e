//! The text of a configuration: its keys and values, each with its place, and errors that show it.

use std::fmt;
use std::ops::Range;

use saltecho::load::report::Visible;
use toml::de::{DeTable, DeValue};

/// A place in the text, in bytes.
pub(super) type Span = Range<usize>;

/// A key and its value, as written.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Value,
    pub(super) span: Span,
}

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// An integer, in decimal digits.
    Number(String),
    Switch(bool),
    List(Vec<(Value, Span)>),
    /// A value that no key has, by the name of its type.
    Other(&'static str),
}

/// What is wrong with a text, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) span: Span,
    pub(super) message: String,
}

/// A fault with the file and the line that it is in. Its `Display` is one line.
#[derive(Debug)]
pub(super) struct FileError {
    file: String,
    line: usize,
    column: usize,
    message: String,
    excerpt: String,
}

/// Reads the entries in the order of their places.
///
/// # Errors
/// If the text is not TOML. Tables are no error here: no key has one.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Fault> {
    let table = DeTable::parse(text).map_err(|error| Fault {
        span: error.span().unwrap_or(0..0),
        message: error.message().to_owned(),
    })?;
    let mut entries: Vec<Entry> = table
        .into_inner()
        .into_iter()
        .map(|(key, value)| Entry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            span: value.span(),
            value: Value::new(value.into_inner()),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Ok(entries)
}

/// The line of a place, from 1.
pub(super) fn line_of(text: &str, place: usize) -> usize {
    1 + text.bytes().take(place).filter(|byte| *byte == b'\n').count()
}

impl Value {
    fn new(value: DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.into_owned()),
            DeValue::Integer(number) => {
                let decimal = i64::from_str_radix(number.as_str(), number.radix());
                // Its flag says that a number which fits nowhere is too large.
                Self::Number(decimal.map_or_else(|_| number.to_string(), |n| n.to_string()))
            }
            DeValue::Boolean(on) => Self::Switch(on),
            DeValue::Array(values) => {
                let places = values.into_iter().map(|value| {
                    let span = value.span();
                    (Self::new(value.into_inner()), span)
                });
                Self::List(places.collect())
            }
            DeValue::Float(_) => Self::Other("a fraction"),
            DeValue::Datetime(_) => Self::Other("a date or time"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    /// The name of its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Switch(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Other(kind) => kind,
        }
    }
}

impl Fault {
    pub(super) fn new(span: &Span, message: String) -> Self {
        Self { span: span.clone(), message }
    }

    /// Adds the file of this name, which has this text.
    pub(super) fn within(self, file: &str, text: &str) -> FileError {
        let Self { span, message } = self;
        let start = floor_char(text, span.start);
        let before = &text[..start];
        let line = line_of(text, start);
        let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
        let whole = text[begin..].lines().next().unwrap_or_default();
        let column = before[begin..].chars().count() + 1;
        let end = floor_char(text, span.end).clamp(start, begin + whole.len().max(start - begin));
        let marked = text[start..end].lines().next().unwrap_or_default();
        let excerpt = excerpt(line, whole, &before[begin..], marked);
        FileError { file: file.to_owned(), line, column, message, excerpt }
    }
}

/// The nearest place at or before this one that does not divide a character.
fn floor_char(text: &str, place: usize) -> usize {
    let place = place.min(text.len());
    (0..=place).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

/// The most characters of a line to show: more would wrap, and the mark below would miss its place.
const WIDTH: usize = 100;

/// Shows a line and a mark below the part of it that follows `before`.
fn excerpt(number: usize, line: &str, before: &str, marked: &str) -> String {
    let width = |text: &str| Visible(text).to_string().chars().count();
    let (indent, length) = (width(before), width(marked).max(1));
    let shown = Visible(line).to_string();
    if indent >= WIDTH {
        return String::new();
    }
    let rest = if shown.chars().count() > WIDTH { "..." } else { "" };
    let shown: String = shown.chars().take(WIDTH).collect();
    let number = number.to_string();
    let margin = " ".repeat(number.len());
    let mark = "^".repeat(length.min(WIDTH - indent));
    format!("{margin} |\n{number} | {shown}{rest}\n{margin} | {}{mark}\n", " ".repeat(indent))
}

impl FileError {
    /// The line of the file with a mark below what is wrong; empty if it is too long to be shown.
    pub(super) fn excerpt(&self) -> &str {
        &self.excerpt
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl std::error::Error for FileError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let error = parse(text).expect_err(text).within("f", text);
        format!("{error}\n{}", error.excerpt())
    }

    #[test]
    fn an_error_shows_its_line_and_marks_the_place() {
        assert_eq!(
            shown("# a comment\na = 1\nb = = 2\n"),
            "f:3:5: extra `=`, expected nothing\n  |\n3 | b = = 2\n  |     ^\n"
        );
        assert_eq!(shown("a = 1\na = 2\n"), "f:2:1: duplicate key\n  |\n2 | a = 2\n  | ^\n");
    }

    #[test]
    fn a_mark_stays_below_its_place() {
        let text = "a = [\t'grüße\u{1b}', 12 ] # x\n";
        let place = text.find("12").unwrap();
        let error = Fault::new(&(place..place + 2), "wrong".to_owned()).within("f", text);
        let lines: Vec<&str> = error.excerpt().lines().collect();
        assert_eq!(lines[1], "1 | a = [\\t'grüße\\x1b', 12 ] # x");
        let column = |line: &str, part| line.find(part).map(|at| line[..at].chars().count());
        assert_eq!(column(lines[1], "12"), column(lines[2], "^^"));
    }

    #[test]
    fn places_beyond_the_text_or_within_a_character_are_shown_too() {
        for text in ["", "\n", "é", "a\r\nb", "x = \"\"\"\n\n"] {
            for start in 0..text.len() + 2 {
                for end in 0..text.len() + 2 {
                    let error = Fault { span: start..end, message: String::new() };
                    let error = error.within("f", text);
                    assert!(error.excerpt().ends_with("^\n"), "{text:?} {start}..{end}");
                }
            }
        }
        let long = format!("a = '{}' 1", "x".repeat(10_000));
        let fault = |at: usize| Fault::new(&(at..at + 1), "wrong".to_owned()).within("f", &long);
        assert!(fault(4).excerpt().lines().all(|line| line.len() < WIDTH + 10));
        assert_eq!(fault(10_007).excerpt(), "", "a mark would be in the wrong place");
        assert_eq!(fault(10_007).to_string(), "f:1:10008: wrong");
    }

    #[test]
    fn entries_come_in_the_order_of_the_file_with_their_places() {
        let text = "\u{feff}b = 0x1_0 # sixteen\r\na = ['x', true]\n";
        let entries = parse(text).unwrap();
        let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["b", "a"]);
        assert_eq!(entries[0].value, Value::Number("16".to_owned()));
        assert_eq!(&text[entries[0].span.clone()], "0x1_0");
        assert_eq!(line_of(text, entries[1].key_span.start), 2);
        let Value::List(values) = &entries[1].value else { panic!("{entries:?}") };
        assert_eq!(values[0].0, Value::Text("x".to_owned()));
        assert_eq!(&text[values[1].1.clone()], "true");
    }
}
