//! Checks docs/SEMANTICS.md: each name in its last column exists, and no scenario or test is left
//! out.
#![allow(clippy::disallowed_methods)] // What is listed is sorted.

use std::collections::HashSet;

use serde_json::Value as Json;

const TABLE: &str = include_str!("../../docs/SEMANTICS.md");
const SCENARIOS: &str = include_str!("../data/scenarios.json");
const TEST_FILES: [(&str, &str); 5] = [
    ("socket_calls", include_str!("socket_calls.rs")),
    ("socket_edges", include_str!("socket_edges.rs")),
    ("socket_messages", include_str!("socket_messages.rs")),
    ("socket_sendfile", include_str!("socket_sendfile.rs")),
    ("sendall_law", include_str!("sendall_law.rs")),
];

#[test]
fn every_row_names_an_existing_scenario_or_test() {
    let scenarios = scenario_names();
    let tests = test_names();
    let mut rows = 0;
    for row in rows_of_the_table() {
        rows += 1;
        let names = names_in(row);
        assert!(!names.is_empty(), "nothing shows this: {row}");
        for name in names {
            let exists = scenarios.contains(name) || tests.contains(name);
            assert!(exists, "neither a scenario nor a test: {name} in {row}");
        }
    }
    assert!(rows > 100, "the table was found: {rows} rows");
}

#[test]
fn every_scenario_and_every_test_is_named_by_a_row() {
    let named: HashSet<&str> = rows_of_the_table().flat_map(names_in).collect();
    let scenarios = scenario_names();
    let tests = test_names();
    let mut missing: Vec<&str> = scenarios.iter().map(String::as_str).collect();
    missing.extend(tests.iter().map(String::as_str));
    missing.retain(|name| !named.contains(name));
    missing.sort_unstable();
    assert!(missing.is_empty(), "no row names {missing:?}");
}

/// The rows of all tables of the socket object, without headings and rules.
fn rows_of_the_table() -> impl Iterator<Item = &'static str> {
    let (sockets, _) = TABLE.split_once("## multiprocessing.connection").expect("it comes last");
    sockets.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| call |")
    })
}

/// The names between backticks in the last column.
fn names_in(row: &str) -> Vec<&str> {
    let column = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
    column.split('`').skip(1).step_by(2).collect()
}

fn scenario_names() -> HashSet<String> {
    let file: Json = serde_json::from_str(SCENARIOS).expect("the scenarios are JSON");
    let scenarios = file["scenarios"].as_array().expect("a list");
    scenarios.iter().map(|s| s["name"].as_str().expect("a name").to_owned()).collect()
}

/// The test functions of the files that the table may name.
fn test_names() -> HashSet<String> {
    let mut names = HashSet::new();
    for (file, source) in TEST_FILES {
        let mut lines = source.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            if line == "#[test]" {
                let next = lines.peek().and_then(|next| next.strip_prefix("fn "));
                let name = next.and_then(|next| next.split('(').next()).expect("a function");
                names.insert(format!("{file}::{name}"));
            }
        }
    }
    names
}
