use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::output;

/// A program at the other end of two pipes.
pub(super) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    /// The last call that was answered, for messages.
    answered: String,
    /// The number of the call that waits for its answer.
    pub(super) open_id: u64,
    show: bool,
}

/// How long a program may be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// How long it may take to end after the stop, or after it closed its stdout.
const FAREWELL: Duration = Duration::from_secs(1);

/// The longest line in bytes. The longest reasonable one sends 64 KiB in hexadecimal.
const LONGEST_LINE: u64 = 1 << 20;

/// Characters of a line that messages quote.
const QUOTED: usize = 80;

impl Program {
    pub(super) fn start(words: &[OsString], show: bool) -> Result<Self, String> {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let name = words[0].to_string_lossy();
        let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it is piped");
        // The lab sends nothing unasked, so few lines wait: a program that floods is stopped by the pipe.
        let (sender, lines) = mpsc::sync_channel(16);
        let read = move || {
            let mut stdout = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                let n = (&mut stdout).take(LONGEST_LINE).read_until(b'\n', &mut line);
                if n.unwrap_or(0) == 0 || sender.send(line).is_err() {
                    break;
                }
            }
        };
        let started = thread::Builder::new().name("lab-reader".to_owned()).spawn(read);
        started.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { child, stdin, lines, answered: "init".to_owned(), open_id: 0, show })
    }

    /// The next line as JSON.
    pub(super) fn next(&mut self) -> Result<Value, String> {
        let line = match self.lines.recv_timeout(SILENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!(
                    "the program is silent for {} s after the answer to {}; did it flush stdout?",
                    SILENCE.as_secs(),
                    self.answered
                ));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!(
                    "the program {} after the answer to {}; its stderr may say why",
                    self.ending(),
                    self.answered
                ));
            }
        };
        let text = String::from_utf8_lossy(&line);
        self.show("<-", &text);
        serde_json::from_slice(&line).map_err(|error| {
            format!(
                "this line is no JSON: {} ({error}); stdout is the wire, print to stderr",
                quote(&text)
            )
        })
    }

    /// What a program did whose stdout is closed.
    ///
    /// The kernel closes the descriptors of a process before its status can be read, so a
    /// program that has no stdout may be one that is about to end.
    fn ending(&mut self) -> String {
        let deadline = Instant::now() + FAREWELL;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return format!("ended ({status})"),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                _ => return "closed its stdout".to_owned(),
            }
        }
    }

    /// Sends a line. `what` names it in later messages.
    pub(super) fn send(&mut self, message: &Value, what: &str) -> Result<(), String> {
        what.clone_into(&mut self.answered);
        let mut line = message.to_string();
        self.show("->", &line);
        line.push('\n');
        let stdin = self.stdin.as_mut().expect("it is closed when the program is dropped");
        // A program that ended is reported by the next read.
        let _ = stdin.write_all(line.as_bytes());
        Ok(())
    }

    fn show(&self, arrow: &str, line: &str) {
        if self.show {
            output::print_error(&format!("{arrow} {}\n", line.trim_end()));
        }
    }
}

/// The beginning of a line, for a message of one line.
pub(super) fn quote(line: &str) -> String {
    let line = line.trim_end();
    match line.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}...", &line[..end]),
        None => format!("{line:?}"),
    }
}

/// Sends the stop, leaves the program a moment to end, and kills it.
impl Drop for Program {
    fn drop(&mut self) {
        let stop = json!({"id": self.open_id, "stop": "finished"});
        let _ = self.send(&stop, "stop");
        self.stdin = None;
        while self.lines.recv_timeout(FAREWELL).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
