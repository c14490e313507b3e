use std::process::ExitCode;

use saltecho::load::report::Visible;

use super::log::{ERROR, RESET};
use super::output;

/// Why the program ends without having done what it was asked: a text that names the thing and
/// the remedy, and an exit code.
#[derive(Debug)]
pub(super) struct Failure {
    kind: Kind,
    error: anyhow::Error,
}

/// The exit codes other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Something failed while the program ran.
    Runtime = 1,
    /// The command line, the environment or a file that they name is wrong; clap uses it too.
    Usage = 2,
    /// The server closed instead of answering: another key, another MAC.
    Refused = 3,
    /// There is no connection, or the server took too long.
    Unreachable = 4,
    /// Something that was claimed of a load does not hold.
    Assertion = 5,
    /// What was measured is not to be trusted.
    Unreliable = 6,
}

impl Failure {
    pub(super) fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self { kind, error: error.into() }
    }

    /// A failure of one line.
    pub(super) fn because(kind: Kind, text: String) -> Self {
        Self::new(kind, anyhow::Error::msg(text))
    }

    /// Says what it was that failed.
    pub(super) fn of(self, what: &'static str) -> Self {
        Self { error: self.error.context(what), ..self }
    }

    /// Ends the program without a word, where stderr would block for ever.
    pub(super) fn exit_silently(&self) -> ! {
        std::process::exit(self.kind as i32)
    }

    /// Prints the failure; its exit code.
    pub(super) fn report(&self) -> ExitCode {
        let text = Visible(format!("{:#}", self.error));
        output::say(&format!("saltecho: {ERROR}error:{RESET} {text}\n"));
        ExitCode::from(self.kind as u8)
    }
}

/// An error that nobody classified befell a running program.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Kind::Runtime, error)
    }
}
