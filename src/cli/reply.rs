//! The flag that a server and a load generator share: how messages are answered.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Reply {
    /// What was sent, with a to z in upper case
    Upper,
    /// What was sent
    Same,
}
