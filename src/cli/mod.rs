//! The program: flags, printing, exit codes. Only this module prints or exits.
//!
//! Each command has a module; the others are shared. Results go to stdout, everything else to
//! stderr. A result that cannot be written is an error, unless its reader has left (EPIPE).

mod address;
mod args;
mod blocking;
mod config;
mod config_command;
mod connect;
mod ctl;
mod doctor;
mod environment;
mod explain;
mod failure;
mod generate;
mod health;
mod http;
mod keyfile;
mod keygen;
mod lab;
mod load;
mod log;
mod machine;
mod output;
mod protocol;
mod replay;
mod reply;
mod report;
mod serve;
mod signals;
mod values;

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;

use anyhow::Context;
use clap::CommandFactory;
use clap::error::ErrorKind;
use saltecho::load::report::Visible;

use args::{Cli, Command};
use config::Refusal;
use failure::Failure;

/// Stack size of [`on_own_stack`]: parsing a command line takes over 64 KiB in an unoptimized build,
/// and unpacking a histogram takes that in any build.
const STACK: usize = 2 << 20;

/// Runs the command that the command line names.
pub(crate) fn main() -> ExitCode {
    signals::outlive_file_size_limit();
    let parse = || (environment::warnings(&Cli::command()), Cli::parse_with_configuration());
    let (warnings, parsed) = match on_own_stack(parse) {
        Ok(parsed) => parsed,
        Err(failure) => return failure.report(),
    };
    // A server has a log for them.
    if !matches!(&parsed, Ok(Cli { command: Command::Serve(_) })) {
        environment::print(&warnings);
    }
    let outcome = match parsed {
        Ok(cli) => execute(cli.command, &warnings),
        Err(Refusal::CommandLine(answer)) if answer.use_stderr() => {
            serve::decline(&answer.to_string());
            return print_usage_error(&answer);
        }
        Err(Refusal::CommandLine(answer)) => print_help(&answer),
        Err(Refusal::Configuration(failure)) => {
            serve::decline(&failure.text());
            Err(failure)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Runs `work` on a stack that does not depend on `ulimit -s`. Event loops stay on the main thread,
/// where a tracer looks for them.
fn on_own_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.context("cannot start a thread")?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn execute(command: Command, warnings: &[String]) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(&args, warnings),
        Command::Connect(args) => connect::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Report(args) => on_own_stack(|| report::run(&args))?,
        Command::Replay(args) => replay::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Config(args) => config_command::run(&args, &Cli::command()),
        Command::Doctor(args) => doctor::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Generate(args) => generate::run(&args, Cli::command()),
    }
}

/// Prints help or the version.
fn print_help(answer: &clap::Error) -> Result<(), Failure> {
    let text = answer.render();
    let text = if output::has_colors() { text.ansi().to_string() } else { text.to_string() };
    Ok(output::print(&text)?)
}

/// Prints an error in the command line.
fn print_usage_error(answer: &clap::Error) -> ExitCode {
    let before = match answer.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "",
        _ => "saltecho: ",
    };
    output::print_error(&format!(
        "{before}{}",
        visible_but_styles(&answer.render().ansi().to_string())
    ));
    u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Escapes the control characters that come from arguments, but not the styles around them.
fn visible_but_styles(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        for (number, part) in line.split("\x1b[").enumerate() {
            let style = part.find('m').filter(|end| {
                part[..*end].bytes().all(|byte| byte.is_ascii_digit() || byte == b';')
            });
            let rest = match (number, style) {
                (0, _) => part,
                (_, Some(end)) => {
                    shown.push_str("\x1b[");
                    shown.push_str(&part[..=end]);
                    &part[end + 1..]
                }
                (_, None) => {
                    shown.push_str("\\x1b[");
                    part
                }
            };
            let line = rest.strip_suffix('\n');
            shown.push_str(&Visible(line.unwrap_or(rest)).to_string());
            shown.push_str(if line.is_some() { "\n" } else { "" });
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::visible_but_styles;

    #[test]
    fn styles_pass_and_other_control_characters_do_not() {
        let text = "\x1b[1m\x1b[31merror:\x1b[0m '\x1b[2J\x07\x1b'\n  tip\n";
        let shown = "\x1b[1m\x1b[31merror:\x1b[0m '\\x1b[2J\\x07\\x1b'\n  tip\n";
        assert_eq!(visible_but_styles(text), shown);
    }
}
