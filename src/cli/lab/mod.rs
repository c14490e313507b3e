//! `saltecho lab`: judges event loops that are programs of their own, in any language.

mod program;
mod wire;

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Args, Subcommand};
use saltecho::lab::{Code, Exercise, LabKernel, Verdict, WireFault, grade_in};
use saltecho::load::report::command_line;

use super::failure::{Exit, Failure};
use super::load::{ERASE, is_dumb};
use super::output;

/// Judge an event loop that is a program of its own, in any language.
///
/// The program asks a simulated kernel for everything by lines of JSON on its stdout, and reads the
/// answers on its stdin. The kernel has clients, and a judge that says what went wrong.
#[derive(Args, Debug)]
#[command(after_long_help = LAB_EXAMPLES, arg_required_else_help = true)]
pub(super) struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    Run(RunArgs),
    /// Explain the code of a verdict
    Explain {
        /// The code, like L02; without it all are listed
        code: Option<Code>,
    },
    /// List the exercises
    List,
}

/// Run a program through an exercise, once with each seed.
#[derive(Args, Debug)]
#[command(after_long_help = LAB_EXAMPLES)]
struct RunArgs {
    /// Number or name of the exercise; without it all are run, up to the first that fails
    #[arg(value_name = "EXERCISE", value_parser = Exercise::find)]
    exercise: Option<&'static Exercise>,

    /// Run the seeds from 0 to N-1
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,

    /// Run one seed only, which a verdict named
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    seed: Option<u64>,

    /// Print every line that is sent and received, to stderr
    #[arg(long)]
    show_wire: bool,

    /// Write the run that failed to FILE, as a page for a browser to step through
    #[arg(long, value_name = "FILE")]
    html: Option<std::path::PathBuf>,

    /// The program and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<std::ffi::OsString>,
}

const LAB_EXAMPLES: &str = "\
Examples:
  saltecho lab list
  saltecho lab run -- python3 lab/python/echo.py
  saltecho lab run drain --seed 41 --show-wire -- ./mine
  saltecho lab run drain --html drain.html -- ./mine
  saltecho lab explain L02

docs/LAB.md has the protocol, lab/README.md the exercises.
Exit codes: 0 passed, 1 the program does not keep to the protocol, 5 failed, 6 unknown.";

/// Simpler scripts that are tried for one that fails. Each starts the program.
const ATTEMPTS: u32 = 80;

pub(super) fn run(args: &LabArgs) -> Result<(), Failure> {
    match &args.command {
        LabCommand::Run(args) => judge(args),
        LabCommand::Explain { code: Some(code) } => Ok(output::print(&code.explanation())?),
        LabCommand::Explain { code: None } => Ok(output::print(&Code::list())?),
        LabCommand::List => {
            let line = |exercise: &Exercise| {
                let Exercise { title, minutes, .. } = exercise;
                format!("{:<16} {minutes:>3} min  {title}\n", exercise.to_string())
            };
            Ok(output::print(&Exercise::all().iter().map(line).collect::<String>())?)
        }
    }
}

fn judge(args: &RunArgs) -> Result<(), Failure> {
    let exercises = match args.exercise {
        Some(exercise) => std::slice::from_ref(exercise),
        None => Exercise::all(),
    };
    let seeds = args.seed.map_or(0..args.seeds, |seed| seed..seed.saturating_add(1));
    for exercise in exercises {
        let mut progress = Progress::new(args.show_wire);
        let event_loop = |kernel: &mut LabKernel| {
            progress.step(exercise);
            let fault = |text| io::Error::other(WireFault(text));
            let program = program::Program::start(&args.program, args.show_wire);
            wire::drive(kernel, exercise, &mut program.map_err(fault)?).map_err(fault)
        };
        let verdict = grade_in(exercise, seeds.clone(), ATTEMPTS, event_loop);
        drop(progress);
        output::print(&verdict.to_string())?;
        let (exit, what) = match &verdict {
            Verdict::Pass { .. } => continue,
            Verdict::Fail(failure) => {
                let (number, origin) = (exercise.number, failure.origin);
                let words = args.program.iter().map(|word| word.to_string_lossy());
                let program = command_line(words.collect::<Vec<_>>().iter().map(AsRef::as_ref));
                output::print(&format!("  explain:  saltecho lab explain {}\n", failure.code))?;
                output::print(&format!("  read:     {}/README.md\n", exercise.directory()))?;
                match &args.html {
                    Some(path) => write_page(path, &failure.page().to_html())?,
                    None => output::print(
                        "  watch:    add --html FILE, a page of this run for a browser\n",
                    )?,
                }
                let again = format!("saltecho lab run {number} --{origin} -- {program}");
                output::print(&format!("  again:    {again}\n"))?;
                (Exit::Assertion, "the loop failed")
            }
            Verdict::Unknown { .. } => (Exit::Unreliable, "the runs prove nothing"),
            Verdict::Unsteady { .. } => (Exit::Assertion, "the loop failed, and not every time,"),
            Verdict::Error { .. } => (Exit::Runtime, "the program did not keep to the protocol"),
        };
        return Err(Failure::with_message(exit, format!("{what} in exercise {exercise}")));
    }
    Ok(())
}

/// The number of runs so far, on a terminal that can erase it again.
struct Progress {
    runs: u64,
    shown: bool,
}

impl Progress {
    fn new(busy: bool) -> Self {
        Self { runs: 0, shown: !busy && io::stderr().is_terminal() && !is_dumb() }
    }

    fn step(&mut self, exercise: &Exercise) {
        self.runs += 1;
        if self.shown {
            // Ignores errors: the reader of stderr may have left.
            let _ = write!(io::stderr(), "{ERASE}{exercise}: run {}", self.runs);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "{ERASE}");
        }
    }
}

fn write_page(path: &Path, page: &str) -> Result<(), Failure> {
    let written = std::fs::write(path, page);
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(output::print(&format!("  watch:    {}\n", path.display()))?)
}
