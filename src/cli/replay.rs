//! `saltecho replay`: this build's loop against a recording.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use saltecho::proto::{ConnId, Framed, Handler, Identity, Protocol, Upper};
use saltecho::server::{Replay, Replayed};
use saltecho::trace::{Difference, Ending, Header, Narrator, ReadError, Reader, ReplayKernel};

use super::failure::{Exit, Failure};
use super::output;
use super::reply::Reply;

/// Replay a recording of `saltecho serve --record` with the loop of this build.
///
/// The loop gets the recorded answers to its calls, and each call is compared with the recorded one. The
/// result is "identical", or the first call that differs. No socket is opened.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ReplayArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Stop at the end of this turn, and print the state of the loop
    #[arg(long, value_name = "TURN")]
    at: Option<u64>,

    /// Print the state of this connection, by its number in logs: at the end, or with --at then
    #[arg(long, value_name = "ID")]
    connection: Option<u32>,

    /// Replay a recording of another commit too
    #[arg(long)]
    anyway: bool,
}

const EXAMPLES: &str = "\
Examples:
  saltecho serve --record run.rec
  saltecho replay run.rec
  saltecho replay run.rec --at 5113 --connection 17

Exit code 5 means that this build makes other calls than the recorded one, or panics.";

/// A recording that is read.
pub(super) type Input = Reader<BufReader<File>>;

pub(super) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let reader = open(&args.file)?;
    let header = reader.header().clone();
    let build = option_env!("BUILD_COMMIT").unwrap_or("unknown");
    let recorded = header.get("commit").unwrap_or("unknown").to_owned();
    if recorded != build && !args.anyway {
        let text = format!(
            "{} was recorded by commit {recorded}, and this build is {build}: the two may differ on \
             purpose. Replay it with that build, or with --anyway",
            args.file.display()
        );
        return Err(Failure::with_message(Exit::Usage, text));
    }
    replay_with(&header, Command { args, reader })
}

/// Something to do with a recording, for any handler.
pub(super) trait WithHandler {
    /// Its result.
    type Output;

    /// Does it with the recorded handler.
    fn with<H: Handler + Clone + 'static>(self, handler: H) -> Self::Output;
}

/// Does something with the handler that a recording's header names.
pub(super) fn replay_with<W: WithHandler>(header: &Header, what: W) -> W::Output {
    let framed = header.get("max-message").and_then(|limit| limit.parse().ok());
    match (protocol(header), header.get("reply")) {
        (Some(Protocol::Multiprocessing), Some("same")) => what.with(Framed::new(Identity, framed)),
        (Some(Protocol::Multiprocessing), _) => what.with(Framed::new(Upper, framed)),
        (_, Some("same")) => what.with(Identity),
        _ => what.with(Upper),
    }
}

/// The command itself.
struct Command<'a> {
    args: &'a ReplayArgs,
    reader: Input,
}

impl WithHandler for Command<'_> {
    type Output = Result<(), Failure>;

    fn with<H: Handler + Clone + 'static>(self, handler: H) -> Self::Output {
        replay(self.args, self.reader, handler)
    }
}

/// The lines of a recording's header that name the handler.
pub(super) fn with_handler(header: Header, reply: Reply, max_message: Option<u64>) -> Header {
    let header = header.with(
        "reply",
        match reply {
            Reply::Upper => "upper",
            Reply::Same => "same",
        },
    );
    match max_message {
        Some(limit) => header.with("max-message", limit.to_string()),
        None => header,
    }
}

fn protocol(header: &Header) -> Option<Protocol> {
    let settings = header.get("settings")?;
    let word = settings.split_whitespace().find_map(|pair| pair.strip_prefix("protocol="))?;
    (word == "multiprocessing").then_some(Protocol::Multiprocessing)
}

/// Opens a recording, with the second of its segments if there is one.
pub(super) fn open(path: &Path) -> Result<Input, Failure> {
    let buffered = |file| BufReader::with_capacity(1 << 20, file);
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let file = file.map_err(|error| Failure::new(Exit::Usage, error))?;
    let mut reader = Reader::new(buffered(file)).map_err(|error| unreadable(path, &error))?;
    if reader.header().segment().is_some()
        && let Ok(next) = File::open(next_segment(path))
    {
        // Another recording's is left out.
        let _ = reader.follow(buffered(next));
    }
    Ok(reader)
}

/// The name of the file in which a recording goes on.
pub(super) fn next_segment(path: &Path) -> PathBuf {
    with_suffix(path, ".next")
}

/// The path with more behind it.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// The failure of a recording that cannot be read.
pub(super) fn unreadable(path: &Path, error: &ReadError) -> Failure {
    Failure::with_message(Exit::Usage, format!("{}: {error}", path.display()))
}

fn replay<H: Handler + Clone>(args: &ReplayArgs, reader: Input, handler: H) -> Result<(), Failure> {
    let usage = |text| Failure::with_message(Exit::Usage, text);
    let begun = Instant::now();
    let mut replay = Replay::new(reader, handler).map_err(usage)?;
    let gone = replay.reader().turn();
    if let Some(at) = args.at.filter(|at| *at < gone) {
        return Err(usage(format!(
            "turn {at} is gone: the recording begins with a snapshot after turn {gone}"
        )));
    }
    let outcome = loop {
        if args.at.is_some_and(|turn| replay.server().stats().turns >= turn) {
            return output::print(&state(&replay, args)).map_err(Failure::from);
        }
        match replay.turn() {
            Replayed::Turn => {}
            outcome => break outcome,
        }
    };
    let (turns, calls) = (replay.reader().turn(), replay.reader().step());
    let seconds = begun.elapsed().as_secs_f64();
    match outcome {
        Replayed::End | Replayed::Failed(_) => {
            if let Some(at) = args.at {
                return Err(usage(format!(
                    "there is no turn {at}: the recording's last one is {turns}"
                )));
            }
            let (turns, end) = (turns - gone, early_end(replay.reader()));
            let mut text =
                format!("identical, {turns} turns, {calls} calls, replayed in {seconds:.1} s\n");
            if gone > 0 {
                let _ = writeln!(
                    text,
                    "it begins with a snapshot after turn {gone}; what was before is gone"
                );
            }
            if let Some(end) = end {
                let _ = writeln!(text, "the recording {end}");
            }
            if args.connection.is_some() {
                text.push_str(&state(&replay, args));
            }
            output::print(&text).map_err(Failure::from)
        }
        Replayed::Different(difference) => {
            let text = different(args, &replay, &difference)?;
            output::print(&text)?;
            Err(Failure::with_message(
                Exit::Assertion,
                format!("this build differs from the recorded one in turn {}", difference.turn),
            ))
        }
        Replayed::Panicked(message) => Err(Failure::with_message(
            Exit::Assertion,
            format!("the loop panicked in turn {turns}, after {calls} calls: {message}"),
        )),
        Replayed::Unreadable(error) => Err(unreadable(&args.file, &error)),
        other => Err(usage(format!("{other:?}"))),
    }
}

/// How a recording ended that has been read to its end, if not with its loop.
pub(super) fn early_end(reader: &Input) -> Option<String> {
    match reader.ending() {
        Some(Ending::Complete) | None => None,
        Some(Ending::Stopped(why)) => {
            Some(format!("ended early, after turn {}: {why}", reader.turn()))
        }
        Some(Ending::Cut) => Some(format!(
            "is cut off after turn {}: the process was killed, or the file is not whole",
            reader.turn()
        )),
    }
}

/// The report of a difference: both calls, the state on both sides, and the steps before.
fn different<H: Handler + Clone>(
    args: &ReplayArgs,
    replay: &Replay<ReplayKernel<BufReader<File>>, H>,
    difference: &Difference,
) -> Result<String, Failure> {
    const STEPS: usize = 5;
    let mut reader = open(&args.file)?;
    let (mut narrator, mut last) = (Narrator::new(), std::collections::VecDeque::new());
    while reader.step() < difference.step {
        let step = reader.next_step().map_err(|error| unreadable(&args.file, &error))?;
        let Some(step) = step else { break };
        if last.len() == STEPS {
            last.pop_front();
        }
        last.push_back(narrator.line(&step));
    }
    let mut text = format!("{difference}\n");
    if let Some(stream) = difference.stream.or_else(|| narrator.stream_of(&difference.recorded)) {
        if let Some(state) = narrator.state(stream) {
            let _ = writeln!(text, "recorded   {state}");
        }
        let own = replay.connection_of(stream);
        if let Some(state) = own.and_then(|id| replay.server().describe(id)) {
            let _ = writeln!(text, "this build {state}");
        }
    }
    let _ = writeln!(text, "this build: {}", replay.server().describe_loop());
    let _ = writeln!(text, "the last steps, which were the same:");
    for line in last {
        let _ = writeln!(text, "{line}");
    }
    Ok(text)
}

/// The state of the loop, or of one connection.
fn state<H: Handler + Clone>(
    replay: &Replay<ReplayKernel<BufReader<File>>, H>,
    args: &ReplayArgs,
) -> String {
    let server = replay.server();
    let mut text = format!("{}\n", server.describe_loop());
    let wanted = |id: &ConnId| args.connection.is_none_or(|number| id.number() == number);
    let ids: Vec<ConnId> = server.connections().filter(wanted).collect();
    if let (Some(number), true) = (args.connection, ids.is_empty()) {
        let _ = writeln!(text, "connection #{number} is not there");
    }
    for state in ids.into_iter().filter_map(|id| server.describe(id)) {
        let _ = writeln!(text, "{state}");
    }
    text
}
