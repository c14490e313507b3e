//! Python programs as peers, written as in the protocol's tutorial.

use std::process::Command;

use super::needs::{PYTHON, Tool};

/// A program of `tests/python`; `None` without Python.
#[track_caller]
pub fn python(program: &str) -> Option<Command> {
    python_by(&PYTHON, program)
}

/// The same with a Python that has more packages.
#[track_caller]
pub fn python_by(tool: &Tool, program: &str) -> Option<Command> {
    let mut command = tool.find()?;
    command.arg(format!("{}/tests/python/{program}", env!("CARGO_MANIFEST_DIR")));
    Some(command)
}
