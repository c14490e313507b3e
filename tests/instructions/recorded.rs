//! The counts in `benches/instructions.json`, and the tolerance of the comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Instructions per operation, by scenario.
pub(crate) type Counts = BTreeMap<String, u64>;

/// With the recorded compiler and target: 2 %. The counts repeat nearly exactly; the tolerance is
/// for glibc, which chooses its memcpy by processor.
const SAME: f64 = 0.02;
/// With another compiler or target the same source becomes different code; only a change of the
/// work itself is to be found: a factor of two.
const OTHER: f64 = 1.0;

/// The file.
#[derive(Debug)]
pub(crate) struct Recorded {
    compiler: String,
    pub(crate) counts: Counts,
}

impl Recorded {
    /// Counts of this build.
    pub(crate) fn here(counts: Counts) -> Self {
        Self { compiler: compiler(), counts }
    }

    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string(path()).expect("the file is in the repository");
        let file: Value = serde_json::from_str(&text).expect("it is JSON");
        let counts = file["instructions"].as_object().expect("it has counts");
        let count = |(name, count): (&String, &Value)| {
            (name.clone(), count.as_u64().expect("counts are whole numbers"))
        };
        Self {
            compiler: file["compiler"].as_str().expect("it names the compiler").to_owned(),
            counts: counts.iter().map(count).collect(),
        }
    }

    pub(crate) fn write(&self) {
        let file = serde_json::json!({ "compiler": self.compiler, "instructions": self.counts });
        let text = serde_json::to_string_pretty(&file).expect("names and numbers");
        std::fs::write(path(), text + "\n").expect("the repository can be written to");
        println!("recorded in {}", path().display());
    }

    /// The allowed difference as a fraction.
    pub(crate) fn tolerance(&self) -> f64 {
        if self.is_of_another_compiler() { OTHER } else { SAME }
    }

    pub(crate) fn is_of_another_compiler(&self) -> bool {
        self.compiler != compiler()
    }

    /// The recorded compiler and this build's.
    pub(crate) fn compilers(&self) -> String {
        format!("recorded with {}, and this is {}", self.compiler, compiler())
    }

    /// Both counts of each scenario.
    pub(crate) fn table(&self, counts: &Counts) -> String {
        let line = |(name, count): (&String, &u64)| {
            let before = self.counts.get(name).copied().unwrap_or(0);
            let change = (*count as f64 / before as f64 - 1.0) * 100.0;
            format!("{name:<44} {before:>10} {count:>10} {change:>+8.2} %\n")
        };
        counts.iter().map(line).collect()
    }
}

/// Scenarios further from their record than `tolerance`, as a factor either way, and those that
/// only one side has.
pub(crate) fn differences(recorded: &Counts, counts: &Counts, tolerance: f64) -> Vec<String> {
    let mut different = Vec::new();
    for (name, count) in counts {
        match recorded.get(name) {
            Some(before) => {
                let factor = (*count).max(*before) as f64 / (*count).min(*before) as f64;
                if factor > 1.0 + tolerance {
                    different.push(format!("{name} ({before} -> {count})"));
                }
            }
            None => different.push(format!("{name} (not recorded)")),
        }
    }
    let gone = recorded.keys().filter(|name| !counts.contains_key(*name));
    different.extend(gone.map(|name| format!("{name} (not counted)")));
    different
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json")
}

/// The compiler and its target. Cargo passes neither to a test, so this runs the compiler.
fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc can be started");
    let text = String::from_utf8(output.stdout).expect("rustc speaks UTF-8");
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?");
    format!("rustc {}, {}", field("release: "), field("host: "))
}

#[test]
fn a_difference_of_two_per_cent_is_tolerated_and_more_is_not() {
    let counts = |count| Counts::from([("echo".to_owned(), count)]);
    for (count, same) in [(1000, true), (1020, true), (981, true), (1021, false), (980, false)] {
        assert_eq!(differences(&counts(1000), &counts(count), SAME).is_empty(), same, "{count}");
    }
    for (count, same) in [(2000, true), (500, true), (2001, false), (499, false)] {
        assert_eq!(differences(&counts(1000), &counts(count), OTHER).is_empty(), same, "{count}");
    }
}

#[test]
fn a_missing_record_or_scenario_is_a_difference() {
    let (some, none) = (Counts::from([("echo".to_owned(), 1)]), Counts::new());
    assert_eq!(differences(&none, &some, SAME), ["echo (not recorded)"]);
    assert_eq!(differences(&some, &none, SAME), ["echo (not counted)"]);
}
