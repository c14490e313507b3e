//! Formats of the figures in reports and assertions.

use std::fmt;
use std::time::Duration;

use crate::python::saturating_nanos;

/// Nanoseconds, formatted with three digits and a suitable unit: `87.3 µs`, `1.20 s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nanos(pub u64);

impl From<Duration> for Nanos {
    fn from(time: Duration) -> Self {
        Self(saturating_nanos(time))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 3] = [("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
        // A value that rounds up to 1000 of a unit is written as 1 of the next.
        let unit = UNITS.into_iter().rev().find(|(_, size)| self.0 >= size - size / 2000);
        let text = match unit {
            Some((unit, size)) => format!("{} {unit}", three_digits(self.0, size)),
            None => format!("{} ns", self.0),
        };
        f.pad(&text)
    }
}

/// Formats `number / unit` with three digits, or with all digits before the decimal point if these are
/// more.
fn three_digits(number: u64, unit: u64) -> String {
    let (number, unit) = (u128::from(number), u128::from(unit));
    for (decimals, limit) in [(2, 10), (1, 100)] {
        let scale = 10_u128.pow(decimals);
        let scaled = (number * scale + unit / 2) / unit;
        if scaled < limit * scale {
            let width = decimals as usize;
            return format!("{}.{:0width$}", scaled / scale, scaled % scale);
        }
    }
    ((number + unit / 2) / unit).to_string()
}

/// A number with its thousands separated: `1,234,567`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped(pub u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// Bytes, formatted with three digits and a decimal unit: `64.0 kB`, `1.20 GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];
        let unit = UNITS.into_iter().rev().find(|(_, size)| self.0 >= size - size / 2000);
        let text = match unit {
            Some((unit, size)) => format!("{} {unit}", three_digits(self.0, size)),
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (nanos, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (9_994, "9.99 µs"),
            (9_995, "10.0 µs"),
            (99_949, "99.9 µs"),
            (99_950, "100 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1.00 s"),
            (3_600_000_000_000, "3600 s"),
            (u64::MAX, "18446744074 s"),
        ] {
            assert_eq!(Nanos(nanos).to_string(), text, "{nanos}");
        }
        assert_eq!(format!("{:>9}|", Nanos(1_500)), "  1.50 µs|");
    }

    #[test]
    fn numbers_and_bytes_are_grouped_and_scaled() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")]
        {
            assert_eq!(Grouped(number).to_string(), text);
        }
        for (bytes, text) in [(999, "999 B"), (64_000, "64.0 kB"), (1_200_000_000, "1.20 GB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
