//! Code blocks of documentation pages, and the programs that the pages show.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The time limit of each program.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Reads a file by its path from the crate's root.
pub fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced code blocks of a page in this language, in order.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.strip_prefix("```") == Some(language) {
            let block = lines.by_ref().take_while(|line| *line != "```");
            blocks.push(block.map(|line| format!("{line}\n")).collect());
        }
    }
    blocks
}

/// The example of this name, which cargo builds next to the tests.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test knows its own path");
    let path =
        test.parent().expect("a file lies in a directory").with_file_name("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples` first", path.display());
    Command::new(path)
}

/// Runs a program, which must succeed, and returns its output.
pub fn output(command: &mut Command) -> String {
    let child = command.stdout(Stdio::piped()).spawn().expect("the program can be started");
    finish(child, &format!("{command:?}"))
}

/// Waits for a program, which must succeed, and returns its output.
pub fn finish(mut child: Child, name: &str) -> String {
    let mut stdout = child.stdout.take().expect("its output was asked for");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let outcome = stdout.read_to_string(&mut text).map(|_| text);
        // After the limit the receiver is gone.
        let _ = sender.send(outcome);
    });
    let Ok(outcome) = receiver.recv_timeout(LIMIT) else {
        child.kill().and_then(|()| child.wait()).expect("a child can be killed");
        panic!("{name} did not end within {LIMIT:?}");
    };
    let status = child.wait().expect("a child can be waited for");
    assert!(status.success(), "{name}: {status}");
    outcome.unwrap_or_else(|error| panic!("{name}: {error}"))
}
