//! Parsers of flag values, checked against the promises of their formats.

use std::fmt::{Debug, Display};
use std::time::Duration;

#[allow(dead_code)] // Only parsing and printing are tested.
#[path = "../../../src/cli/values.rs"]
mod values;

#[allow(dead_code)] // As above.
#[path = "../../../src/cli/address.rs"]
mod address;

use address::{ServerAddress, listen_address};
use values::{Limit, Size, Spin};

/// Every kind of value, with a condition that holds for each accepted one.
const VALUES: [fn(&str); 5] = [
    |text| hold(text, str::parse::<Limit>, |limit| limit.0 != Some(Duration::ZERO)),
    |text| hold(text, str::parse::<Spin>, |_| true),
    |text| hold(text, str::parse::<Size>, |size| (1..=16 << 20).contains(&size.0)),
    |text| hold(text, listen_address, |_| true),
    |text| hold(text, str::parse::<ServerAddress>, |server| !server.host.is_empty()),
];

/// Reads the input as each kind of value.
pub fn command_line_values(input: &[u8]) {
    // Text that is not UTF-8 never reaches a parser.
    if let Ok(text) = str::from_utf8(input) {
        VALUES.iter().for_each(|holds| holds(text));
    }
}

/// A rejected value has a reason on one line; an accepted one survives printing and parsing.
fn hold<T, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>, is_right: impl Fn(&T) -> bool)
where
    T: Debug + Display + PartialEq,
    E: Display,
{
    let value = match parse(text) {
        Ok(value) => value,
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty() && !error.contains('\n'), "{text:?} is refused: {error:?}");
            return;
        }
    };
    assert!(is_right(&value), "{text:?} is taken for {value:?}");
    let shown = value.to_string();
    let again = parse(&shown).unwrap_or_else(|error| panic!("{text:?}, {shown:?}: {error}"));
    assert_eq!(again, value, "{text:?} is shown as {shown:?}");
    assert_eq!(again.to_string(), shown, "{text:?}");
}
