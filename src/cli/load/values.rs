//! Values of the flags of `saltecho load`.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use saltecho::load::{SizeShare, Sizes, parse_with_unit};

use crate::cli::address::source_address;
use crate::cli::values::Size;

/// Parses a time that is not zero.
pub(super) fn time(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("expected a number with a unit and not zero, like 30s, 500ms or 5m"),
    }
}

/// Messages per second: `500`, `50k`, `1m`. The suffixes are decimal, unlike those of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub(super) NonZeroU64);

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected messages per second from 1 to 1000m, like 500, 50k or 1m";
        let rate = parse_with_unit(text, 1000).filter(|rate| *rate <= 1_000_000_000);
        rate.and_then(NonZeroU64::new).map(Self).ok_or(EXPECTED)
    }
}

/// The lowest and the highest rate of a sweep: `10k..200k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rates(pub(super) NonZeroU64, pub(super) NonZeroU64);

impl FromStr for Rates {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected two rates from 1 to 1000m, the lower one first, like 10k..200k";
        let (low, high) = text.split_once("..").ok_or(EXPECTED)?;
        match (low.parse(), high.parse()) {
            (Ok(Rate(low)), Ok(Rate(high))) if low < high => Ok(Self(low, high)),
            _ => Err(EXPECTED),
        }
    }
}

/// The sizes of messages: one, or several with their shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageSizes(pub(super) Sizes);

impl FromStr for MessageSizes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a number of bytes from 1 to 16m, like 1000, 1k or 32k, or \
            several with shares that add up to 100%, like 64:90%,16k:10%";
        if let Ok(Size(bytes)) = text.parse() {
            return Ok(Self(bytes.into()));
        }
        let share = |part: &str| {
            let (size, share) = part.split_once(':')?;
            let Size(bytes) = size.parse().ok()?;
            Some(SizeShare { bytes, share_ppm: parts_per_million(share.strip_suffix('%')?)? })
        };
        let shares: Option<Vec<_>> = text.split(',').map(share).collect();
        shares.and_then(|shares| Sizes::mixed(shares).ok()).map(Self).ok_or(EXPECTED)
    }
}

/// A percentage with at most four decimals, which are exact.
fn parts_per_million(percent: &str) -> Option<u32> {
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_number = |text: &str, most| {
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts = format!("{whole}{decimals:0<4}");
    (is_number(whole, 3) && is_number(decimals, 4)).then(|| parts.parse().ok()).flatten()
}

/// The number of active connections, or their share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Active {
    Number(u32),
    Percent(f64),
}

impl Active {
    /// The number of active connections out of these, at least one.
    pub(super) fn among(self, connections: u32) -> Result<u32, String> {
        match self {
            Self::Number(number) if number > connections => {
                Err(format!("--active {number} exceeds the {connections} connections of -c"))
            }
            Self::Number(number) => Ok(number),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            // At most `connections`.
            Self::Percent(percent) => {
                Ok(((f64::from(connections) * percent / 100.0).round() as u32).max(1))
            }
        }
    }
}

impl FromStr for Active {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected a number from 1 up or a percentage up to 100%, like 100, 1% or 0.5%";
        if let Some(percent) = text.strip_suffix('%') {
            let plain = percent.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let percent: f64 = percent.parse().ok().filter(|_| plain).ok_or(EXPECTED)?;
            return match percent > 0.0 && percent <= 100.0 {
                true => Ok(Self::Percent(percent)),
                false => Err(EXPECTED),
            };
        }
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number @ 1..) if plain => Ok(Self::Number(number)),
            _ => Err(EXPECTED),
        }
    }
}

/// Addresses to connect from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources(pub(super) Vec<SocketAddr>);

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(|part| {
            let range = part.split_once('-').and_then(|(first, last)| range(first, last));
            // The name of an interface may contain a hyphen too.
            range.map_or_else(|| source_address(part).map(|address| vec![address]), Ok)
        });
        parts.collect::<Result<Vec<_>, _>>().map(|parts| Self(parts.concat()))
    }
}

fn range(first: &str, last: &str) -> Option<Vec<SocketAddr>> {
    let first: Ipv4Addr = first.parse().ok()?;
    let [a, b, c, begin] = first.octets();
    let plain = last.bytes().all(|byte| byte.is_ascii_digit());
    let end: u8 = last.parse().ok().filter(|end| plain && *end >= begin)?;
    Some((begin..=end).map(|d| SocketAddr::from(([a, b, c, d], 0))).collect())
}

/// The time to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartAt(pub(super) SystemTime);

impl FromStr for StartAt {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = humantime::parse_rfc3339_weak(text).map_err(|_| {
            "expected a time in UTC, like 2026-11-25T12:00:00Z (`date -u -d '+1 minute' +%FT%TZ` \
             prints one)"
        });
        time.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_decimal() {
        for (text, rate) in [("1", 1), ("500", 500), ("50k", 50_000), ("1M", 1_000_000)] {
            assert_eq!(text.parse::<Rate>().unwrap().0.get(), rate);
        }
        for text in ["", "0", "k", "-1", "+1", "1.5k", "1001m", "99999999999999999999", "1/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_sweep_goes_from_a_rate_to_a_higher_one() {
        let Rates(low, high) = "10k..1m".parse().unwrap();
        assert_eq!((low.get(), high.get()), (10_000, 1_000_000));
        for text in ["", "10k", "..", "10k..", "..5", "5..5", "6..5", "0..5", "1..2..3", "1...2"] {
            assert!(text.parse::<Rates>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_may_have_shares() {
        for (text, expected) in [
            ("64", vec![(64, 1_000_000)]),
            ("64:90%,16k:10%", vec![(64, 900_000), (16 << 10, 100_000)]),
            ("1:99.9%,1m:0.1%", vec![(1, 999_000), (1 << 20, 1_000)]),
            ("1:33.3333%,2:66.6667%", vec![(1, 333_333), (2, 666_667)]),
        ] {
            let MessageSizes(sizes) = text.parse().unwrap();
            let shares = sizes.shares().iter().map(|share| (share.bytes, share.share_ppm));
            assert_eq!(shares.collect::<Vec<_>>(), expected, "{text}");
        }
        for text in [
            "",
            "0",
            "64:90%",
            "64:90%,16k",
            "64:90%,16k:9%",
            "64:100%,16k:0%",
            "64:90,16k:10",
            "0:90%,1:10%",
            "17m:50%,1:50%",
            "1:-1%,2:101%",
            "1:.5%,2:99.5%",
            "1:50.%,2:50%",
            "1:0.00005%,2:99.99995%",
        ] {
            assert!(text.parse::<MessageSizes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn active_connections_are_a_number_or_a_percentage() {
        for (text, connections, number) in
            [("7", 10, 7), ("100%", 10, 10), ("1%", 19_000, 190), ("0.5%", 1000, 5), ("1%", 3, 1)]
        {
            assert_eq!(text.parse::<Active>().unwrap().among(connections), Ok(number), "{text}");
        }
        assert!(Active::Number(11).among(10).unwrap_err().contains("exceeds the 10"));
        for text in ["", "0", "%", "0%", "101%", "-1%", "+1", "1e1%", "NaN%", "inf%"] {
            assert!(text.parse::<Active>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sources_are_addresses_and_ranges_of_the_last_number() {
        let parse = |text: &str| {
            text.parse::<Sources>()
                .map(|Sources(all)| all.iter().map(|one| one.ip().to_string()).collect::<Vec<_>>())
                .map(|all| all.join(" "))
        };
        assert_eq!(parse("127.0.0.2").unwrap(), "127.0.0.2");
        assert_eq!(parse("127.0.0.2-4").unwrap(), "127.0.0.2 127.0.0.3 127.0.0.4");
        assert_eq!(parse("10.0.0.1,::1,10.0.0.5-5").unwrap(), "10.0.0.1 ::1 10.0.0.5");
        let Sources(zoned) = "fe80::1%lo".parse().unwrap();
        assert_eq!(zoned[0].to_string(), "[fe80::1%1]:0");
        for text in ["", "localhost", "127.0.0.2-1", "127.0.0.2-256", "127.0.0.2-", "::1-3", ","] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_start_is_a_time_in_utc() {
        let StartAt(time) = "2026-11-25T12:00:00Z".parse().unwrap();
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds, 1_795_608_000);
        assert_eq!("2026-11-25 12:00:00".parse::<StartAt>(), Ok(StartAt(time)));
        for text in ["", "noon", "12:00:00"] {
            assert!(text.parse::<StartAt>().is_err(), "{text:?}");
        }
        assert!(time_is_refused("0s") && time_is_refused("5") && !time_is_refused("5s"));
    }

    fn time_is_refused(text: &str) -> bool {
        time(text).is_err()
    }
}
