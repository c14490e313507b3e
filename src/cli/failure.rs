use std::process::ExitCode;

use saltecho::load::report::Visible;

use super::log::{ERROR, RESET};
use super::output;

/// An error that ends the program: a message that names the cause and the remedy, and an exit
/// code.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    error: anyhow::Error,
    /// Lines that show the place of the error in a file.
    excerpt: String,
}

/// The exit codes other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Something failed at run time.
    Runtime = 1,
    /// The command line, the environment or a file that they name is wrong; clap uses this code too.
    Usage = 2,
    /// Authentication failed: another key or another MAC.
    NotAuthenticated = 3,
    /// There is no connection, or a time limit passed.
    Unreachable = 4,
    /// An assertion about a load failed.
    Assertion = 5,
    /// The result of a load is unreliable, or there is none.
    Unreliable = 6,
}

impl Failure {
    pub(super) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), excerpt: String::new() }
    }

    /// A failure with this message.
    pub(super) fn with_message(exit: Exit, text: String) -> Self {
        Self::new(exit, anyhow::Error::msg(text))
    }

    /// Adds whole lines to be shown below the message.
    pub(super) fn with_excerpt(self, excerpt: String) -> Self {
        Self { excerpt, ..self }
    }

    /// Adds what it was that failed.
    pub(super) fn context(self, what: &'static str) -> Self {
        Self { error: self.error.context(what), ..self }
    }

    /// The failure as one line.
    pub(super) fn text(&self) -> String {
        format!("{:#}", self.error)
    }

    /// The error without its exit code.
    pub(super) fn into_error(self) -> anyhow::Error {
        self.error
    }

    pub(super) const fn exit_code(&self) -> u8 {
        self.exit as u8
    }

    /// Ends the program without printing the failure, which its log has.
    pub(super) fn exit_silently(&self) -> ! {
        std::process::exit(self.exit as i32)
    }

    /// Prints the failure and returns its exit code.
    pub(super) fn report(&self) -> ExitCode {
        let text = Visible(self.text());
        let excerpt = &self.excerpt;
        output::print_error(&format!("saltecho: {ERROR}error:{RESET} {text}\n{excerpt}"));
        ExitCode::from(self.exit_code())
    }
}

/// Errors without a class are run-time errors.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Runtime, error)
    }
}
