//! The parser of the configuration.

#[allow(dead_code)] // Only the parser and its errors are tested.
#[path = "../../../src/cli/config/file.rs"]
mod file;

use file::{Entry, Value};

/// Parses the input as a configuration. Places lie within the text, and an error is shown on few
/// lines that do not control a terminal.
pub fn configuration(input: &[u8]) {
    // Text that is not UTF-8 never reaches the parser.
    let Ok(text) = str::from_utf8(input) else { return };
    let entries = match file::parse(text) {
        Ok(entries) => entries,
        Err(fault) => {
            let error = fault.within("file", text);
            let line = error.to_string();
            assert!(line.starts_with("file:") && !line.ends_with(": "), "{line:?}");
            let shown = error.excerpt();
            assert!(matches!(shown.lines().count(), 0 | 3), "{shown:?}");
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
            return;
        }
    };
    let mut last = 0;
    for Entry { key_span, value, span, .. } in entries {
        assert!(key_span.start >= last, "in the order of their places");
        last = key_span.start;
        assert!(text.get(key_span.clone()).is_some_and(|key| !key.is_empty()));
        assert!(text.get(span.clone()).is_some());
        assert!((1..=text.lines().count()).contains(&file::line_of(text, key_span.start)));
        if let Value::List(values) = value {
            assert!(values.iter().all(|(_, span)| text.get(span.clone()).is_some()));
        }
    }
}
