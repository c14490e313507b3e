//! The command line as a whole. The flags of a command are in the command's module.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::config::{self, Refusal};
use super::config_command::ConfigArgs;
use super::connect::ConnectArgs;
use super::ctl::CtlArgs;
use super::doctor::DoctorArgs;
use super::explain::ExplainArgs;
use super::generate::GenerateArgs;
use super::health::HealthArgs;
use super::keygen::KeygenArgs;
use super::lab::LabArgs;
use super::load::LoadArgs;
use super::replay::ReplayArgs;
use super::report::ReportArgs;
use super::serve::ServeArgs;

/// An authenticated echo service on one event loop, with a client and a load generator.
///
/// The server sends 32 random bytes, the client answers with their HMAC under the shared key, and
/// from then on the server sends everything back in upper case. Only the client is authenticated,
/// and nothing is encrypted.
#[derive(Debug, Parser)]
#[command(version, long_version = env!("BUILD_VERSION"), after_long_help = EXAMPLES)]
#[command(max_term_width = 100, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Cli {
    /// Parses the command line with the environment and the configuration.
    pub(super) fn parse_with_configuration() -> Result<Self, Refusal> {
        let words: Vec<OsString> = std::env::args_os().collect();
        let (matches, effective) = config::parse(&Self::command(), &words)?;
        let cli = Self::from_arg_matches(&matches);
        let mut cli =
            cli.map_err(|error| Refusal::CommandLine(error.format(&mut Self::command())))?;
        if let (Some(args), Some(effective)) = (cli.command.serve_args(), effective) {
            args.effective = effective;
        }
        Ok(cli)
    }
}

impl Command {
    /// The flags of a server, if the command has them.
    fn serve_args(&mut self) -> Option<&mut ServeArgs> {
        match self {
            Self::Serve(args) => Some(&mut **args),
            Self::Config(args) => args.serve_args(),
            _ => None,
        }
    }
}

const EXAMPLES: &str = "\
Examples (more with `saltecho COMMAND --help`):
  saltecho serve
  saltecho connect
  echo hello | saltecho connect
  saltecho load -c 100 -r 2k -d 1s
  (umask 077; saltecho keygen > new.key)

Exit codes:
  0  success
  1  failed while running, refused (ctl), or not ready (health)
  2  wrong usage or configuration
  3  authentication failed
  4  cannot connect, or timed out
  5  an assertion failed or no rate holds the objective (load), the connections do not fit
     (doctor), a call differs (replay), or an exercise failed (lab)
  6  the result is unreliable, or nothing was measured (load, report) or met (lab)

Many flags can be set by an environment variable too, which the help of the flag names. The flag
overrides the variable, and for `serve` the variable overrides the configuration (--config).";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Serve(Box<ServeArgs>),
    Connect(ConnectArgs),
    Load(Box<LoadArgs>),
    Report(ReportArgs),
    Replay(ReplayArgs),
    Explain(ExplainArgs),
    Keygen(KeygenArgs),
    Config(ConfigArgs),
    Doctor(DoctorArgs),
    Generate(GenerateArgs),
    Ctl(CtlArgs),
    Health(HealthArgs),
    Lab(LabArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
