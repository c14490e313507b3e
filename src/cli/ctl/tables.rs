//! Connections as a table for people.

use std::time::Duration;

use anyhow::{Context, Result};
use saltecho::load::report::Visible;
use serde_json::Value;

/// The head of the table of connections.
pub(super) const CONNECTIONS_HEAD: &str = "\
ID          STATE         PEER                   KEY            AGE     IDLE     RECEIVED         SENT   UNSENT
";

/// A line of the table of connections, from a line of the server's list.
pub(super) fn connection(line: &str) -> Result<String> {
    let row: Value = serde_json::from_str(line).with_context(|| {
        format!("{:?} is not a row of a list: is it another version of saltecho?", Visible(line))
    })?;
    let worker = row.get("worker").map(|worker| format!("{worker}:"));
    let worker = worker.unwrap_or_default();
    if row["missing"] == true {
        return Ok(format!("{worker} the worker does not answer\n"));
    }
    let text =
        |name: &str| row[name].as_str().map_or("-".to_owned(), |text| Visible(text).to_string());
    let number =
        |name: &str| row[name].as_u64().map_or("-".to_owned(), |number| number.to_string());
    let time = |name: &str| row[name].as_u64().map_or("-".to_owned(), short_time);
    Ok(format!(
        "{:<11} {:<13} {:<22} {:<8} {:>9} {:>8} {:>12} {:>12} {:>8}\n",
        format!("{worker}{}", number("id")),
        text("state"),
        text("peer"),
        text("key"),
        time("age_ms"),
        time("idle_ms"),
        number("received"),
        number("sent"),
        number("unsent"),
    ))
}

/// A time of at most six characters.
fn short_time(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    match seconds {
        0..10 => format!("{}.{:01}s", seconds, millis % 1000 / 100),
        10..600 => format!("{seconds}s"),
        600..36_000 => format!("{}m", seconds / 60),
        36_000..864_000 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stands_below_its_head() {
        let row = r#"{"worker":2,"id":17,"state":"echoing","unsent":0,"peer":"127.0.0.1:40000","key":"bab78a7f","listener":0,"age_ms":61000,"idle_ms":50,"received":16,"sent":32}"#;
        let line = connection(row).unwrap();
        let starts = |name: &str| CONNECTIONS_HEAD.find(name).unwrap();
        let ends = |name: &str| starts(name) + name.len();
        assert_eq!(line.find("2:17").unwrap(), starts("ID"));
        assert_eq!(line.find("echoing").unwrap(), starts("STATE"));
        assert_eq!(line.find("127.0.0.1:40000").unwrap(), starts("PEER"));
        assert_eq!(line.find("bab78a7f").unwrap(), starts("KEY"));
        assert!(line[..ends("AGE")].ends_with(" 61s"), "{line}");
        assert!(line[..ends("IDLE")].ends_with(" 0.0s"), "{line}");
        assert!(line[..ends("RECEIVED")].ends_with(" 16"), "{line}");
        assert!(line[..ends("SENT")].ends_with(" 32"), "{line}");
        assert_eq!(line.len(), CONNECTIONS_HEAD.len());
    }

    #[test]
    fn what_is_unknown_is_a_dash_and_a_missing_loop_is_named() {
        let line = connection(r#"{"id":3,"state":"await_digest","unsent":0}"#).unwrap();
        assert!(line.starts_with("3 ") && line.contains(" - "), "{line}");
        let line = connection(r#"{"worker":3,"missing":true}"#).unwrap();
        assert_eq!(line, "3: the worker does not answer\n");
        assert!(connection("<html>").is_err());
    }

    #[test]
    fn times_are_short() {
        for (millis, shown) in [
            (0, "0.0s"),
            (9_990, "9.9s"),
            (10_000, "10s"),
            (599_999, "599s"),
            (600_000, "10m"),
            (36_000_000, "10h"),
            (864_000_000, "10d"),
        ] {
            assert_eq!(short_time(millis), shown);
        }
    }
}
