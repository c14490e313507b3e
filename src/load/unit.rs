/// A whole number with perhaps a unit behind it, in either case: `k` is once the base and `m` its
/// square, so `50k` is 50,000 to the base of 1000. `None` if it is not such a number, or too large.
pub fn parse_with_unit(text: &str, base: u64) -> Option<u64> {
    let (digits, power) = split_unit(text);
    // A sign is no digit, though `parse` takes one.
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse::<u64>().ok()?.checked_mul(base.checked_pow(power)?)
}

/// The number without its unit, and the power of the base that the unit stands for.
pub(super) fn split_unit(text: &str) -> (&str, u32) {
    const UNITS: [(char, u32); 4] = [('k', 1), ('K', 1), ('m', 2), ('M', 2)];
    let unit = |(unit, power)| Some((text.strip_suffix(unit)?, power));
    UNITS.into_iter().find_map(unit).unwrap_or((text, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_last_letter() {
        for (text, number) in [
            ("50", Some(50)),
            ("50k", Some(50_000)),
            ("1M", Some(1_000_000)),
            ("0m", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551615k", None),
            ("", None),
            ("k", None),
            ("1mk", None),
            ("+1", None),
            ("1.5k", None),
            ("7é", None),
        ] {
            assert_eq!(parse_with_unit(text, 1000), number, "{text:?}");
        }
        assert_eq!(parse_with_unit("16m", 1024), Some(16 << 20));
        assert_eq!(split_unit("1.5k"), ("1.5", 1));
    }
}
