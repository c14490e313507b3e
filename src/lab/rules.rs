use std::time::Duration;

/// What a loop is asked to do, beyond the echo. Each exercise has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Maximum length of a receive buffer in bytes.
    pub recv_max: usize,
    /// Length of a message in bytes, if answers are to begin only when a message is complete.
    pub message: Option<u64>,
    /// Maximum number of bytes of one client that the loop may hold, received and not yet sent.
    pub max_held: Option<u64>,
    /// Maximum number of bytes that may be received from one client between two polls.
    pub share: Option<u64>,
    /// Time without a byte from a client after which the loop closes its connection.
    pub idle: Option<Duration>,
    /// Number of bytes that are answered, after which the loop ends the connection.
    pub quota: Option<u64>,
}

impl Rules {
    /// An echo with buffers of 256 bytes.
    pub const ECHO: Self =
        Self { recv_max: 256, message: None, max_held: None, share: None, idle: None, quota: None };

    /// Bytes of an answer to so many bytes received.
    pub(super) fn answer(&self, received: u64) -> u64 {
        let whole = self.message.map_or(received, |message| received - received % message);
        self.quota.map_or(whole, |quota| whole.min(quota))
    }
}
