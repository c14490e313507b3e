//! Values of flags. A refusal says what would be accepted.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use saltecho::load::parse_with_unit;

/// A time limit: `5s`, `500ms`, `1m 30s`, or `off` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<Duration>);

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(time) if time.is_zero() => {
                Err("zero would time out at once; use `off` for no limit")
            }
            Ok(time) => Ok(Self(Some(time))),
            Err(_) => Err("expected a number with a unit, like 5s, 500ms or 2m, or `off`"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // humantime has no space in `2days`.
            Some(time) => write_words(f, &humantime::format_duration(time).to_string()),
            None => f.write_str("off"),
        }
    }
}

/// Separates units that are words from their numbers: `2 days 3h`.
fn write_words(f: &mut fmt::Formatter<'_>, time: &str) -> fmt::Result {
    for (index, part) in time.split(' ').enumerate() {
        let space = if index == 0 { "" } else { " " };
        let unit = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        match part.split_at(unit) {
            (number, word) if word.len() > 2 => write!(f, "{space}{number} {word}")?,
            _ => write!(f, "{space}{part}")?,
        }
    }
    Ok(())
}

/// Time to poll without sleeping: `50us`, or `off` or `0` to sleep at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spin(pub(super) Duration);

impl FromStr for Spin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" | "0" => Ok(Self(Duration::ZERO)),
            _ => humantime::parse_duration(text).map(Self).map_err(
                |_| "expected a number with a unit, like 50us or 1ms, or `off` to sleep at once",
            ),
        }
    }
}

impl fmt::Display for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Limit(Some(self.0).filter(|time| !time.is_zero())).fmt(f)
    }
}

/// Parses the most that a freeze may take.
pub(super) fn freeze_max(text: &str) -> Result<Limit, &'static str> {
    const EXPECTED: &str = "expected a time from 1s to 10m, like 5s";
    let limit: Limit = text.parse().map_err(|_| EXPECTED)?;
    let possible = Duration::from_secs(1)..=Duration::from_secs(600);
    match limit.0 {
        Some(time) if possible.contains(&time) => Ok(limit),
        _ => Err(EXPECTED),
    }
}

/// Parses a keepalive period: one that the kernel can count and a loop can pace.
pub(super) fn keepalive(text: &str) -> Result<Limit, &'static str> {
    const EXPECTED: &str = "expected a time from 1s to 3h, like 60s or 5m, or `off`";
    let limit: Limit = text.parse().map_err(|_| EXPECTED)?;
    let possible = Duration::from_secs(1)..=Duration::from_secs(3 * 3600);
    match limit.0.is_none_or(|period| possible.contains(&period)) {
        true => Ok(limit),
        false => Err(EXPECTED),
    }
}

/// A number of bytes from 1 to 16 MiB: `1000`, `1k`, `32k`, `1m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

impl Size {
    /// The longest answer that a server buffers for one connection. What one `recv` returns is
    /// answered as a whole, so it cannot be longer.
    const MAX: usize = 16 << 20;
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a number of bytes from 1 to 16m, like 1000, 1k or 32k";
        let size = parse_with_unit(text, 1024).and_then(|size| usize::try_from(size).ok());
        size.filter(|size| (1..=Self::MAX).contains(size)).map(Self).ok_or(EXPECTED)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size % (1 << 20) == 0 => write!(f, "{}m", size >> 20),
            size if size % (1 << 10) == 0 => write!(f, "{}k", size >> 10),
            size => write!(f, "{size}"),
        }
    }
}

/// The length of the longest message in bytes, from 0 up: `1000`, `1k`, `16m`; `off` for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MaxMessage(pub(super) Option<u64>);

impl FromStr for MaxMessage {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a number of bytes, like 1000, 64k or 16m, or `off`";
        match text {
            "off" => Ok(Self(None)),
            _ => parse_with_unit(text, 1024).map(|size| Self(Some(size))).ok_or(EXPECTED),
        }
    }
}

impl fmt::Display for MaxMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(usize::try_from) {
            None => f.write_str("off"),
            Some(Ok(size @ 1..)) => Size(size).fmt(f),
            Some(_) => write!(f, "{}", self.0.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_message_may_be_any() {
        for (text, expected) in
            [("off", None), ("0", Some(0)), ("64k", Some(65_536)), ("1m", Some(1 << 20))]
        {
            let parsed: MaxMessage = text.parse().unwrap();
            assert_eq!((parsed, parsed.to_string().as_str()), (MaxMessage(expected), text));
        }
        for wrong in ["", "-1", "1 MB", "none"] {
            assert!(wrong.parse::<MaxMessage>().unwrap_err().contains("`off`"), "{wrong}");
        }
    }

    #[test]
    fn limits_are_durations_or_off() {
        for (text, limit, shown) in [
            ("off", None, "off"),
            ("5s", Some(5_000), "5s"),
            ("500ms", Some(500), "500ms"),
            ("1.5s", Some(1_500), "1s 500ms"),
            ("1m 30s", Some(90_000), "1m 30s"),
            ("25h", Some(90_000_000), "1 day 1h"),
            ("100years", Some(3_155_760_000_000), "100 years"),
        ] {
            let parsed: Limit = text.parse().unwrap();
            assert_eq!(parsed, Limit(limit.map(Duration::from_millis)));
            assert_eq!(parsed.to_string(), shown);
        }
        for text in ["", "5", "0s", "-1s", "5 parsecs", "OFF", "99999999999999999999s"] {
            assert!(text.parse::<Limit>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_spin_may_be_zero() {
        for (text, micros, shown) in
            [("off", 0, "off"), ("0", 0, "off"), ("0s", 0, "off"), ("50us", 50, "50us")]
        {
            let parsed: Spin = text.parse().unwrap();
            assert_eq!(parsed, Spin(Duration::from_micros(micros)));
            assert_eq!(parsed.to_string(), shown);
        }
        for text in ["", "50", "-1us", "on"] {
            assert!(text.parse::<Spin>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn keepalive_periods_are_1s_to_3h_or_off() {
        for (text, seconds) in
            [("off", None), ("1s", Some(1)), ("60s", Some(60)), ("3h", Some(10_800))]
        {
            assert_eq!(keepalive(text), Ok(Limit(seconds.map(Duration::from_secs))), "{text:?}");
        }
        for text in ["", "0s", "999ms", "10801s", "60", "never"] {
            assert!(keepalive(text).unwrap_err().contains("from 1s to 3h"), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_kibibytes_or_mebibytes() {
        for (text, size, shown) in [
            ("1", 1, "1"),
            ("1000", 1000, "1000"),
            ("1k", 1024, "1k"),
            ("32K", 32 << 10, "32k"),
            ("16m", 16 << 20, "16m"),
            ("16777216", 16 << 20, "16m"),
        ] {
            let parsed: Size = text.parse().unwrap();
            assert_eq!((parsed, parsed.to_string().as_str()), (Size(size), shown));
        }
        for text in ["", "k", "0", "0k", "+1", "-1", "1.5k", "17m", "1kb", "1g", "é"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
        assert!(format!("{}k", usize::MAX).parse::<Size>().is_err());
    }
}
