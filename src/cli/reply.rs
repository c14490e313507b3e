//! The --reply flag, which the server and the load generator share.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Reply {
    /// The message, with a to z in upper case
    Upper,
    /// The message as it is
    Same,
}
