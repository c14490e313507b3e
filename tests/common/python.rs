//! Python programs as peers, written the way the protocol's tutorial would.

use std::process::Command;

use super::needs::{PYTHON, Tool};

/// A Python program of `tests/python`, or nothing where there is no Python.
#[track_caller]
pub fn python(program: &str) -> Option<Command> {
    python_by(&PYTHON, program)
}

/// The same, by a Python that has more.
#[track_caller]
pub fn python_by(tool: &Tool, program: &str) -> Option<Command> {
    let mut command = tool.find()?;
    command.arg(format!("{}/tests/python/{program}", env!("CARGO_MANIFEST_DIR")));
    Some(command)
}
