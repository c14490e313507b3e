//! `saltecho explain`: the story of a recording.

mod html;

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use saltecho::trace::{Event, Narrator, Perfetto};

use super::failure::{Exit, Failure};
use super::output::{Output, Outputs};
use super::replay::{early_end, open, unreadable};

/// Tell a recording of `saltecho serve --record` in plain words: one line for each call of the loop, with
/// the rule that it follows and its source file.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Only the connection with this number in logs
    #[arg(long, value_name = "ID")]
    connection: Option<u32>,

    /// Only what happened at this time of the loop's clock or later (90s)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    from: Option<Duration>,

    /// Only what happened before this time of the loop's clock (95s)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    to: Option<Duration>,

    /// Write a Chrome trace to this file instead, for ui.perfetto.dev: drag it there. The data stays in
    /// the browser
    #[arg(long, value_name = "OUT")]
    perfetto: Option<PathBuf>,

    /// Write a page for a browser to this file instead, to step through the run. It is one file, and
    /// needs no network. It has the last 5000 steps of the part that --from and --to choose
    #[arg(long, value_name = "OUT", conflicts_with_all = ["perfetto", "connection"])]
    html: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  saltecho explain run.rec | less
  saltecho explain run.rec --connection 17
  saltecho explain run.rec --from 90s --to 95s --perfetto run.json
  saltecho explain run.rec --from 90s --html run.html";

pub(super) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    if let Some(html) = &args.html {
        return html::write(args, html);
    }
    let mut reader = open(&args.file)?;
    let files = [args.file.as_path()];
    let outputs = Outputs::open([("--perfetto", args.perfetto.as_ref())], &files, false);
    let mut outputs = outputs.map_err(|error| Failure::new(Exit::Usage, error))?;
    let mut trace = args.perfetto.is_some().then(Perfetto::new);
    let mut narrator = Narrator::new();
    let mut text = String::new();
    let range = args.range();
    let (mut is_empty, mut shows_end) = (true, false);
    loop {
        let step = reader.next_step().map_err(|error| unreadable(&args.file, &error))?;
        let Some(step) = step else { break };
        let in_range = range.contains(&u128::from(step.at.as_nanos()));
        let stream = narrator.stream_of(&step.event);
        let id = stream.and_then(|stream| narrator.connection(stream));
        let line = narrator.line(&step);
        let id = id.or_else(|| stream.and_then(|stream| narrator.connection(stream)));
        let is_asked = args.connection.is_none_or(|number| {
            id.is_some_and(|id| id.number() == number)
                || matches!(&step.event, Event::Ready(saltecho::trace::Subject::Connection(id), _)
                    if id.number() == number)
        });
        // A recording that begins with a snapshot says so, whichever connection is asked for.
        let is_begin = matches!(step.event, Event::Snapshot { .. });
        let is_shown = in_range && (is_asked || is_begin);
        is_empty &= !is_shown || is_begin;
        shows_end = in_range;
        if let Some(trace) = &mut trace {
            // Turns are the frame of everything else.
            let frame = matches!(step.event, Event::Poll(_) | Event::Clock(_));
            trace.step(&step, is_shown || in_range && frame);
        } else if is_shown {
            text.push_str(&line);
            text.push('\n');
            if text.len() > 1 << 16 {
                write(&mut outputs.report, &text)?;
                text.clear();
            }
        }
    }
    if is_empty {
        return Err(args.nothing_shown());
    }
    if let Some(trace) = trace {
        let (json, left_out) = trace.finish();
        let [file] = &mut outputs.named;
        if let Some(file) = file {
            file.put(&json)?;
        }
        if left_out > 0 {
            text = format!(
                "the trace is full: {left_out} later events are left out; choose a part with --from \
                 and --to\n"
            );
        }
    }
    if let Some(fault) = early_end(&reader).filter(|_| shows_end) {
        text.push_str(&format!("the recording {fault}\n"));
    }
    write(&mut outputs.report, &text)
}

impl ExplainArgs {
    /// The part of the run that is asked for, in nanoseconds of the loop's clock.
    fn range(&self) -> Range<u128> {
        let nanos = |time: Option<Duration>| time.map(|time| time.as_nanos());
        nanos(self.from).unwrap_or(0)..nanos(self.to).unwrap_or(u128::MAX)
    }

    /// The failure of flags that choose nothing.
    fn nothing_shown(&self) -> Failure {
        let what = match self.connection {
            None => "no step".to_owned(),
            Some(number) => format!("no step of connection #{number}"),
        };
        let text = format!("{}: {what} is between --from and --to", self.file.display());
        Failure::with_message(Exit::Usage, text)
    }
}

fn write(output: &mut Output, text: &str) -> Result<(), Failure> {
    output.write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(())
}
