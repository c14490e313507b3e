use std::time::Duration;

use crate::python::Monotonic;

/// A time since the beginning, in seconds.
pub(super) fn seconds(at: Monotonic) -> String {
    format!("{:.3}", Duration::from_nanos(at.as_nanos()).as_secs_f64())
}

/// A length of time in the unit that suits it, to the millisecond.
pub(super) fn span(time: Duration) -> String {
    let ms = (time.as_nanos() + 500_000) / 1_000_000;
    match ms {
        0 => "less than 1 ms".to_owned(),
        1..1000 => format!("{ms} ms"),
        ms if ms % 1000 == 0 => format!("{} s", grouped(ms / 1000)),
        ms => format!("{}.{:03} s", grouped(ms / 1000), ms % 1000),
    }
}

/// A number with its thousands set apart.
pub(super) fn grouped(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes.
pub(super) fn bytes(n: usize) -> String {
    match n {
        1 => "1 byte".to_owned(),
        n => format!("{} bytes", grouped(n as u64)),
    }
}

/// Control characters and those that change the direction of text become escapes.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\'' | '"' | '\\' => shown.push(char),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}
