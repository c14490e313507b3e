//! The command line: what all commands share, and which commands there are.

use clap::{Parser, Subcommand};

use super::connect::ConnectArgs;
use super::doctor::DoctorArgs;
use super::generate::GenerateArgs;
use super::keygen::KeygenArgs;
use super::load::LoadArgs;
use super::report::ReportArgs;
use super::serve::ServeArgs;

/// An authenticated echo service on one event loop, and its client.
///
/// The server sends 32 random bytes, the client answers with their HMAC under the shared key, and
/// from then on everything comes back in upper case. Only the client proves itself, and nothing is
/// encrypted.
#[derive(Debug, Parser)]
#[command(version, long_version = env!("BUILD_VERSION"), after_long_help = EXAMPLES)]
#[command(max_term_width = 100, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples (those of a command: saltecho COMMAND --help):
  saltecho serve
  saltecho connect
  echo hello | saltecho connect
  saltecho load -c 100 -r 2k -d 1s
  (umask 077; saltecho keygen > new.key)

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration,
3 authentication refused, 4 cannot connect or timed out; of `load` also 5 an assertion does not
hold, of `doctor` 5 the connections do not fit, and of `load` and `report` 6 the result is
unreliable or nothing was measured.

Where the help of a flag names an environment variable, as for all of `serve`, `connect` and
`keygen`, the flag overrides it.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Serve(ServeArgs),
    Connect(ConnectArgs),
    Load(LoadArgs),
    Report(ReportArgs),
    Keygen(KeygenArgs),
    Doctor(DoctorArgs),
    Generate(GenerateArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
