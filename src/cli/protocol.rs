//! The --protocol flag, on which both sides have to agree.

use clap::{Args, ValueEnum};
use saltecho::proto::Protocol;

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct ProtocolArgs {
    /// Handshake and framing; must be the same on both sides
    #[arg(long = "protocol", value_enum, value_name = "NAME", default_value_t = Name::Tutorial)]
    #[arg(env = "SALTECHO_PROTOCOL", hide_env_values = true)]
    name: Name,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    /// The client authenticates itself, then bytes in both directions
    Tutorial,
    /// Python's multiprocessing.connection: both sides authenticate themselves, then frames
    Multiprocessing,
    /// No authentication: bytes in both directions, as in RFC 862 with --reply same
    Plain,
}

impl ProtocolArgs {
    pub(super) const fn get(self) -> Protocol {
        match self.name {
            Name::Tutorial => Protocol::Tutorial,
            Name::Multiprocessing => Protocol::Multiprocessing,
            Name::Plain => Protocol::Plain,
        }
    }
}
