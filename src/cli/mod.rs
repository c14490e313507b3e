//! The program: flags, printing, exit codes. The only place of the crate that prints or exits.
//!
//! Results go to stdout, talk goes to stderr. Whoever closes either of them early is not told so.

mod args;
mod connect;
mod doctor;
mod escape;
mod failure;
mod generate;
mod judge;
mod keyfile;
mod keygen;
mod load;
mod log;
mod logs;
mod machine;
mod peer;
mod pipe;
mod prompt;
mod report;
mod serve;
mod signals;
mod values;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};

/// Runs the program that the command line asks for.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Connect(args) => connect::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Report(args) => logs::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Generate(args) => generate::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints clap's answer: help and version are results, anything else is an error.
fn explain(answer: &clap::Error) -> ExitCode {
    let text = answer.render();
    // A reader that has left has read enough.
    let _ = match (answer.use_stderr(), answer.kind()) {
        (false, _) => write!(anstream::stdout(), "{}", text.ansi()),
        (true, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) => {
            write!(anstream::stderr(), "{}", text.ansi())
        }
        (true, _) => write!(anstream::stderr(), "saltecho: {}", text.ansi()),
    };
    u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}
