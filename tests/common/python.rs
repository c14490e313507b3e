//! Python programs as peers, written the way the protocol's tutorial would.

use std::process::Command;

/// A Python program of `tests/python`, or nothing where there is no Python. Under CI its absence
/// is a failure, because there nobody would read the line.
pub fn python(program: &str) -> Option<Command> {
    let present = Command::new("python3").arg("--version").output();
    if !present.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "python3 is needed where CI is set");
        eprintln!("SKIPPED: there is no python3, so nothing was compared with it");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(format!("{}/tests/python/{program}", env!("CARGO_MANIFEST_DIR")));
    Some(command)
}
