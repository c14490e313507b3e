//! The counts in `benches/instructions.json`, and the tolerance of the comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Instructions per operation, by scenario.
pub(crate) type Counts = BTreeMap<String, Instructions>;

/// Instructions of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instructions {
    /// Those of the project's own code and what it calls. These are compared.
    pub(crate) loop_and_core: u64,
    /// Those of the kernel that stands in for the system; none where there is none.
    pub(crate) simulated_kernel: u64,
}

const LOOP_AND_CORE: &str = "loop and core";
const SIMULATED_KERNEL: &str = "simulated kernel";

impl Instructions {
    fn to_json(self) -> Value {
        let Self { loop_and_core, simulated_kernel } = self;
        serde_json::json!({ LOOP_AND_CORE: loop_and_core, SIMULATED_KERNEL: simulated_kernel })
    }

    fn from_json(value: &Value) -> Self {
        let count = |name: &str| value[name].as_u64().expect("counts are whole numbers");
        Self { loop_and_core: count(LOOP_AND_CORE), simulated_kernel: count(SIMULATED_KERNEL) }
    }
}

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
        let count =
            |(name, count): (&String, &Value)| (name.clone(), Instructions::from_json(count));
        Self {
            compiler: file["compiler"].as_str().expect("it names the compiler").to_owned(),
            counts: counts.iter().map(count).collect(),
        }
    }

    pub(crate) fn write(&self) {
        let counts: serde_json::Map<_, _> =
            self.counts.iter().map(|(name, count)| (name.clone(), count.to_json())).collect();
        let file = serde_json::json!({ "compiler": self.compiler, "instructions": counts });
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

    /// The recorded count of each scenario and this one, and the simulated kernel's.
    pub(crate) fn table(&self, counts: &Counts) -> String {
        let line = |(name, count): (&String, &Instructions)| {
            let Instructions { loop_and_core, simulated_kernel } = count;
            let before = self.counts.get(name).map_or(0, |before| before.loop_and_core);
            let change = (*loop_and_core as f64 / before as f64 - 1.0) * 100.0;
            format!(
                "{name:<44} {before:>10} {loop_and_core:>10} {change:>+8.2} % {simulated_kernel:>9}\n"
            )
        };
        let head = ["scenario", "recorded", LOOP_AND_CORE, "change", SIMULATED_KERNEL];
        format!("{}\n{}", head.join(", "), counts.iter().map(line).collect::<String>())
    }
}

/// Scenarios further from their record than `tolerance`, as a factor either way, and those that
/// only one side has. The simulated kernel may change as it likes.
pub(crate) fn differences(recorded: &Counts, counts: &Counts, tolerance: f64) -> Vec<String> {
    let mut different = Vec::new();
    for (name, Instructions { loop_and_core: count, .. }) in counts {
        match recorded.get(name) {
            Some(Instructions { loop_and_core: before, .. }) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(loop_and_core: u64, simulated_kernel: u64) -> Counts {
        Counts::from([("echo".to_owned(), Instructions { loop_and_core, simulated_kernel })])
    }

    #[test]
    fn a_difference_of_two_per_cent_is_tolerated_and_more_is_not() {
        let is_same = |recorded, count, tolerance| {
            // The simulated kernel is not compared.
            differences(&counts(recorded, 1), &counts(count, 9), tolerance).is_empty()
        };
        for (count, same) in [(1000, true), (1020, true), (981, true), (1021, false), (980, false)]
        {
            assert_eq!(is_same(1000, count, SAME), same, "{count}");
        }
        for (count, same) in [(2000, true), (500, true), (2001, false), (499, false)] {
            assert_eq!(is_same(1000, count, OTHER), same, "{count}");
        }
    }

    #[test]
    fn a_missing_record_or_scenario_is_a_difference() {
        let (some, none) = (counts(1, 0), Counts::new());
        assert_eq!(differences(&none, &some, SAME), ["echo (not recorded)"]);
        assert_eq!(differences(&some, &none, SAME), ["echo (not counted)"]);
    }

    #[test]
    fn a_count_is_read_as_it_was_written() {
        let count = Instructions { loop_and_core: 300, simulated_kernel: 45 };
        assert_eq!(Instructions::from_json(&count.to_json()), count);
    }
}
