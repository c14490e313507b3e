//! Handover: a running server moves to another loop, in this process or in another, with every
//! connection in whatever state it is.
//!
//! ```text
//! old                                         new
//! Server::freeze() ──▶ Frozen                 Thawing: keys, settings and memory are there
//!   Frozen::chunks() ── records, sockets ──▶  Decoder::take()
//!                       totals ────────────▶  Decoder::finish() ──▶ Arrived
//!                                             Arrived::spread(), Thawing::restore()
//!   Frozen::leave()  ── COMMIT ────────────▶  Thawing::commit() ──▶ Server
//! ```
//!
//! Until the last line the old server is intact: [`Frozen::resume`] makes it go on, and cannot fail.
//! The new one only registers what it got and touches no socket. docs/HANDOVER-FORMAT.md has the
//! format of the records.

mod arrived;
mod chunks;
mod counter;
mod decoder;
mod frozen;
mod record;
mod thaw;

pub use arrived::{Arrived, ArrivedListener, ArrivedLoop};
pub use chunks::{Chunk, Chunks};
pub(super) use counter::{CounterRecord, Counters};
pub use decoder::Decoder;
pub use frozen::{Frozen, Lent};
pub use thaw::Thawing;

use std::io;

use crate::proto::wire::Reader;

/// The format of the records that this version writes.
pub const FORMAT: u16 = 1;

/// The formats that this version reads.
pub const FORMATS: &[u16] = &[FORMAT];

/// Additions to the format that this version knows, a bit each; both sides use what both know.
pub const CAPABILITIES: u64 = 0;

/// The most sockets of one chunk. Linux passes 253 in a message, older libraries of C fewer.
pub const MAX_SOCKETS: usize = 240;

/// The most bytes of one chunk.
pub const MAX_BYTES: usize = 64 << 10;

/// The longest state of a handler that moves, in bytes.
const MAX_STATE: usize = 32 << 10;

/// The kind of a chunk's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A loop begins; all chunks up to the next of this kind are its own.
    Loop,
    /// Listeners, each with its socket.
    Listener,
    /// The listener of the admin endpoint, with its socket.
    AdminListener,
    /// Connections, each with its socket.
    Connection,
    /// Unsent bytes of connections.
    Unsent,
    /// Sources that failed to authenticate lately.
    Suspect,
    /// Counters.
    Counter,
}

impl Kind {
    /// The number that stands for it in the header of a message.
    pub const fn code(self) -> u8 {
        match self {
            Self::Loop => 1,
            Self::Listener => 2,
            Self::AdminListener => 3,
            Self::Connection => 4,
            Self::Unsent => 5,
            Self::Suspect => 6,
            Self::Counter => 7,
        }
    }

    /// Returns true if a socket goes with each record.
    pub const fn has_sockets(self) -> bool {
        match self {
            Self::Listener | Self::AdminListener | Self::Connection => true,
            Self::Loop | Self::Unsent | Self::Suspect | Self::Counter => false,
        }
    }

    /// The kind that a number stands for.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Loop),
            2 => Some(Self::Listener),
            3 => Some(Self::AdminListener),
            4 => Some(Self::Connection),
            5 => Some(Self::Unsent),
            6 => Some(Self::Suspect),
            7 => Some(Self::Counter),
            _ => None,
        }
    }
}

/// All that is sent, counted by the sender and compared by the receiver. Those of several loops add
/// up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Chunks.
    pub chunks: u64,
    /// Loops.
    pub loops: u64,
    /// Listeners, without those of admin endpoints.
    pub listeners: u64,
    /// Connections.
    pub connections: u64,
    /// Bytes of answers that are unsent.
    pub unsent: u64,
}

impl Totals {
    /// Length of the encoded totals in bytes.
    pub const LEN: usize = 40;

    /// The totals as they are sent.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let numbers = [self.chunks, self.loops, self.listeners, self.connections, self.unsent];
        let mut bytes = [0; Self::LEN];
        for (bytes, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads totals. Bytes behind them are ignored; `None` if there are too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(Self {
            chunks: reader.u64()?,
            loops: reader.u64()?,
            listeners: reader.u64()?,
            connections: reader.u64()?,
            unsent: reader.u64()?,
        })
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.loops += other.loops;
        self.listeners += other.listeners;
        self.connections += other.connections;
        self.unsent += other.unsent;
    }
}

/// The reason why what arrived is refused. Nothing has happened then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// A record that this version does not understand, or that contradicts itself or another.
    #[error("the handover's {what} is not one that this version understands")]
    Malformed {
        /// The part of a record.
        what: &'static str,
    },
    /// Something is missing, or there is more than was announced.
    #[error("the handover is incomplete: {what}")]
    Incomplete {
        /// What is missing or superfluous.
        what: &'static str,
    },
    /// The settings do not suit the connections that arrived.
    #[error("the new settings do not suit the connections: {what}")]
    Settings {
        /// The setting, and what to do.
        what: &'static str,
    },
    /// The system refused a socket, or there is no memory.
    #[error("cannot take over a socket: {0}")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn totals_are_read_as_they_were_written_and_add_up() {
        let numbers = Totals { chunks: 1, loops: 2, listeners: 3, connections: 4, unsent: 1 << 40 };
        let bytes = numbers.to_bytes();
        assert_eq!(Totals::from_bytes(&bytes), Some(numbers));
        assert_eq!(Totals::from_bytes(&bytes[1..]), None);
        let mut sum = numbers;
        sum += Totals { chunks: 10, loops: 20, listeners: 30, connections: 40, unsent: 50 };
        let (chunks, loops, listeners, connections) = (11, 22, 33, 44);
        assert_eq!(sum, Totals { chunks, loops, listeners, connections, unsent: (1 << 40) + 50 });
    }
}
