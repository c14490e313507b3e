//! The examples run, and `docs/PATTERNS.md` quotes their output.
#![cfg(all(feature = "server", feature = "socket"))]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use common::pages::{blocks, example, output, read};

/// A command on the page and its quoted output.
struct Quoted {
    name: String,
    arguments: Vec<String>,
    output: String,
}

fn quoted() -> Vec<Quoted> {
    let mut all: Vec<Quoted> = Vec::new();
    for line in blocks(&read("docs/PATTERNS.md"), "console").concat().lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let command = command.strip_prefix("cargo study ").expect("runs an example");
            let mut words = command.split(' ').filter(|word| *word != "--").map(str::to_owned);
            let name = words.next().expect("names an example");
            all.push(Quoted { name, arguments: words.collect(), output: String::new() });
        } else {
            let last = all.last_mut().expect("a block begins with a command");
            last.output += &format!("{line}\n");
        }
    }
    all
}

/// The examples that show a pattern: those with a number in their name.
fn patterns() -> BTreeSet<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    fs::read_dir(directory)
        .expect("the crate has examples")
        .map(|entry| entry.expect("a directory can be read").path())
        .map(|path| path.file_stem().expect("an entry has a name").to_string_lossy().into_owned())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
        .collect()
}

#[test]
fn the_page_quotes_what_the_programs_print() {
    thread::scope(|scope| {
        for quoted in quoted() {
            scope.spawn(move || {
                let printed = output(example(&quoted.name).args(&quoted.arguments));
                assert_eq!(printed, quoted.output, "{} {:?}", quoted.name, quoted.arguments);
            });
        }
    });
}

#[test]
fn the_page_has_every_pattern() {
    let on_the_page: BTreeSet<String> = quoted().into_iter().map(|quoted| quoted.name).collect();
    assert_eq!(on_the_page, patterns());
    assert_eq!(on_the_page.len(), 13);
}

/// `cargo study` builds the same programs, with fewer crates.
#[test]
fn every_pattern_can_be_studied() {
    let manifest = read("study/Cargo.toml");
    for name in patterns() {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "no {name} in study/");
    }
    assert!(read(".cargo/config.toml").contains("--package saltecho-study --example"));
}

/// README quotes a line of each page section, which in turn is compared with the programs.
#[test]
fn the_readme_quotes_a_line_of_each_pattern() {
    let readme = read("README.md");
    let mut named = BTreeSet::new();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |"));
    for row in rows.filter(|row| row.starts_with(|first: char| first.is_ascii_digit())) {
        let (command, line) = (row.split('`').next(), row.rsplit('`').next());
        let mut words = command.expect("a row has a command").split(" -- ");
        let name = words.next().expect("a command has a name").to_owned();
        let arguments: Vec<String> = words.map(str::to_owned).collect();
        let printed = quoted()
            .into_iter()
            .find(|quoted| quoted.name == name && quoted.arguments == arguments)
            .expect("the page has it too")
            .output;
        let line = line.expect("a row has a line");
        assert!(printed.lines().any(|printed| printed.trim() == line), "{name}: {line}");
        named.insert(name);
    }
    assert_eq!(named, patterns());
}

#[test]
fn the_page_shows_every_mistake() {
    let shown: String = quoted()
        .into_iter()
        .filter(|quoted| quoted.name == "05_readiness")
        .map(|quoted| quoted.output)
        .collect();
    assert_eq!(output(&mut example("05_readiness")), shown);
}

/// Files that the page and the programs refer to must exist.
#[test]
fn every_file_named_as_further_reading_exists() {
    let mut texts = vec![read("docs/PATTERNS.md"), read("docs/PYTHON_AND_RUST.md")];
    for name in patterns() {
        let path = format!("examples/{name}.rs");
        let main = format!("examples/{name}/main.rs");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        texts.push(read(if root.join(&path).exists() { &path } else { &main }));
    }
    let mut checked = 0;
    for span in texts.iter().flat_map(|text| text.split('`')) {
        let is_path = span.ends_with(".rs") || span.ends_with(".md") || span.ends_with('/');
        if is_path && !span.contains(char::is_whitespace) {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            let found = root.join(span).exists() || root.join("examples").join(span).exists();
            assert!(found, "no file {span}");
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} references were found");
}
