//! docs/TESTING.md says which test looks after which failure of an upgrade: each of them is there.

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust files below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn each_test_of_the_table_of_failures_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/TESTING.md")).unwrap();
    let section = page.split("\n## Upgrades\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut files = Vec::new();
    for directory in ["tests", "src"] {
        sources(&root.join(directory), &mut files);
    }
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| ") && !line.contains("| ---")) {
        let tests = row.rsplit(" | ").next().unwrap();
        let spans = tests.split('`').skip(1).step_by(2);
        for span in spans {
            let Some((module, name)) = span.rsplit_once("::") else {
                assert!(root.join(span).exists(), "{span} is not there: {row}");
                continue;
            };
            let is_there = files.iter().any(|path| {
                path.file_stem().is_some_and(|stem| stem == module)
                    && fs::read_to_string(path).unwrap().contains(&format!("fn {name}("))
            });
            assert!(is_there, "there is no test {span}: {row}");
        }
        rows += usize::from(tests.contains('`'));
    }
    assert!(rows >= 40, "{rows} rows have tests");
}
