/// Why a connection ended. Every connection ends with exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer ended its stream after authentication; everything owed was handed to the kernel.
    PeerFinished,
    /// The digest was wrong.
    Rejected,
    /// The peer ended its stream before its digest was complete.
    AuthAbandoned,
    /// The digest was not complete in time.
    AuthTimeout,
    /// Nothing came from the peer for as long as one `recv` waits.
    IdleTimeout,
    /// The peer did not take an answer in the time that one `sendall` has.
    SendTimeout,
    /// The peer reset the connection, or was gone when we wrote (ECONNRESET, EPIPE).
    Reset,
    /// The kernel gave the connection up for another reason (ETIMEDOUT, EHOSTUNREACH, ...).
    TransportError,
    /// The peer answered neither what was sent to it nor six keepalive probes in a row.
    PeerVanished,
    /// The handler asked for it.
    HandlerClosed,
    /// The handler's answer was longer than [`Config::max_answer`](super::Config::max_answer).
    AnswerTooLong,
    /// The handler panicked. The socket is reset, since an answer is missing.
    HandlerPanicked,
    /// The peer did not read, and more was pushed to it than
    /// [`Config::max_answer`](super::Config::max_answer) allows to wait.
    FellBehind,
    /// The server was drained, and the connection had been given all that it was owed.
    Drained,
    /// The server was drained, and the connection was not finished when the time was up.
    DrainTimeout,
    /// The server was stopped at once.
    Stopped,
    /// The oldest of too many unauthenticated connections, given up for a new one.
    Evicted,
    /// The connection was accepted but could not be set up (no random bytes, no registration, no
    /// memory).
    SetupFailed,
    /// There was no memory for what the peer did not take at once of an answer.
    OutOfMemory,
}

impl CloseReason {
    /// Every reason, in the order in which they are reported.
    pub const ALL: [Self; 19] = [
        Self::PeerFinished,
        Self::Rejected,
        Self::AuthAbandoned,
        Self::AuthTimeout,
        Self::IdleTimeout,
        Self::SendTimeout,
        Self::Reset,
        Self::TransportError,
        Self::PeerVanished,
        Self::HandlerClosed,
        Self::AnswerTooLong,
        Self::HandlerPanicked,
        Self::FellBehind,
        Self::Drained,
        Self::DrainTimeout,
        Self::Stopped,
        Self::Evicted,
        Self::SetupFailed,
        Self::OutOfMemory,
    ];

    /// Whether it was the server's own affair and says nothing about the peer.
    pub const fn is_ours(self) -> bool {
        match self {
            Self::HandlerPanicked
            | Self::Drained
            | Self::DrainTimeout
            | Self::Stopped
            | Self::SetupFailed
            | Self::OutOfMemory => true,
            Self::PeerFinished
            | Self::Rejected
            | Self::AuthAbandoned
            | Self::AuthTimeout
            | Self::IdleTimeout
            | Self::SendTimeout
            | Self::Reset
            | Self::TransportError
            | Self::PeerVanished
            | Self::HandlerClosed
            | Self::AnswerTooLong
            | Self::FellBehind
            | Self::Evicted => false,
        }
    }

    /// The reason in a few words, for logs and summaries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerFinished => "peer finished",
            Self::Rejected => "wrong digest",
            Self::AuthAbandoned => "left before authenticating",
            Self::AuthTimeout => "authentication timed out",
            Self::IdleTimeout => "idle for too long",
            Self::SendTimeout => "stopped reading",
            Self::Reset => "reset by peer",
            Self::TransportError => "network error",
            Self::PeerVanished => "peer vanished",
            Self::HandlerClosed => "closed by the handler",
            Self::AnswerTooLong => "answer too long",
            Self::HandlerPanicked => "the handler panicked",
            Self::FellBehind => "too far behind with reading",
            Self::Drained => "drained",
            Self::DrainTimeout => "cut off by the drain timeout",
            Self::Stopped => "stopped",
            Self::Evicted => "evicted unauthenticated",
            Self::SetupFailed => "could not be set up",
            Self::OutOfMemory => "out of memory",
        }
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::CloseReason;

    #[test]
    fn the_list_is_complete_ordered_and_unambiguous() {
        for (i, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
        let mut names: Vec<&str> = CloseReason::ALL.iter().map(|reason| reason.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CloseReason::ALL.len());
    }
}
