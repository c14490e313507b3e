//! The prompt: a line goes out, its answer comes back.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};
use saltecho::client::{Client, ClientError, Step};

use super::escape::Escaper;
use super::failure::{Failure, Kind};
use super::peer::{Peer, bytes};

pub(super) fn run(mut client: Client, peer: &Peer<'_>) -> Result<(), Failure> {
    client.look_for_refusal(peer.grace(&client)).map_err(|error| peer.explain(&error))?;
    talk(format_args!("connected to {}; `quit` or ctrl-D ends", peer.address));
    // The prompt belongs on the terminal also where the answers go to a file. What is typed is
    // remembered for this session only: it may be nobody else's business.
    let config = Config::builder().behavior(Behavior::PreferTerm).build();
    let mut editor = DefaultEditor::with_config(config).context("cannot use the terminal")?;
    loop {
        let line = match editor.readline(">>> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) => {
                talk(format_args!("`quit` or ctrl-D ends"));
                continue;
            }
            Err(error) => return Err(error).context("cannot read a line").map_err(Failure::from),
        };
        match line.trim() {
            "" => continue,
            "quit" => return Ok(()),
            // What cannot be remembered can still be sent.
            _ => drop(editor.add_history_entry(&line)),
        }
        let mut answer = Vec::new();
        let outcome = client.exchange(line.as_bytes(), &mut answer);
        if !answer.is_empty() && !show(&answer)? {
            return Ok(());
        }
        outcome.map_err(|error| explain(&error, &answer, line.len(), peer))?;
    }
}

/// Prints an answer; false if nobody reads it any more.
fn show(answer: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let shown = if out.is_terminal() {
        let mut escaper = Escaper::for_line();
        let shown = escaper.push(answer);
        (shown + &escaper.finish()).into_bytes()
    } else {
        answer.to_vec()
    };
    let written = out.write_all(&shown).and_then(|()| out.write_all(b"\n"));
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout").map_err(Failure::from),
    }
}

/// An answer that came in part must not pass for the whole.
fn explain(error: &ClientError, answer: &[u8], expected: usize, peer: &Peer<'_>) -> Failure {
    let (came, address) = (answer.len(), peer.address);
    let so_far = format!("only {came} of the answer's {} came", bytes(expected as u64));
    match error {
        // The rest may still come, and would pass for the answer to the next line: no next line.
        ClientError::TimedOut(Step::Exchanging) if came > 0 => Failure::because(
            Kind::Unreachable,
            format!("{so_far} from {address} in time; --timeout allows more"),
        ),
        ClientError::Closed(Step::Exchanging) if came > 0 => Failure::because(
            Kind::Runtime,
            format!("{so_far} from {address} before it closed the connection"),
        ),
        _ => peer.explain(error),
    }
}

/// Says something that is no answer.
fn talk(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr(), "saltecho: {text}");
}
