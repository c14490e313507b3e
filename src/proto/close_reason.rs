/// Reason for the end of a connection. Every connection has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its stream after authentication; every answer was handed to the kernel.
    PeerFinished,
    /// The digest was wrong.
    Rejected,
    /// The client broke off the handshake of
    /// [`Protocol::Multiprocessing`](super::Protocol::Multiprocessing): it did not accept the
    /// server's digest, or sent something else than a handshake.
    HandshakeFailed,
    /// The peer ended its stream before its digest was complete.
    AuthAbandoned,
    /// The digest was not complete within [`Config::auth_timeout`](super::Config::auth_timeout).
    AuthTimeout,
    /// The peer sent nothing for [`Config::idle_timeout`](super::Config::idle_timeout).
    IdleTimeout,
    /// The peer did not read an answer within
    /// [`Config::send_timeout`](super::Config::send_timeout).
    SendTimeout,
    /// The peer reset the connection, or was gone when the server wrote (ECONNRESET, EPIPE).
    Reset,
    /// Another network error (ETIMEDOUT, EHOSTUNREACH, ...).
    TransportError,
    /// The peer acknowledged neither data nor six keepalive probes in a row.
    PeerVanished,
    /// The handler returned [`Answer::Close`](super::Answer::Close).
    HandlerClosed,
    /// The handler's answer was longer than [`Config::max_answer`](super::Config::max_answer).
    AnswerTooLong,
    /// The peer announced a message longer than the handler accepts
    /// ([`Answer::MessageTooLong`](super::Answer::MessageTooLong)).
    MessageTooLong,
    /// The handler panicked. The socket is reset, since an answer is missing.
    HandlerPanicked,
    /// The peer did not read, and more than [`Config::max_answer`](super::Config::max_answer) bytes
    /// were waiting for it after a push.
    FellBehind,
    /// The server was drained; every pending answer was handed to the kernel first.
    Drained,
    /// The server was drained, and the drain timeout passed before the connection had finished.
    DrainTimeout,
    /// The server was stopped at once.
    Stopped,
    /// Killed by an administrator.
    Killed,
    /// The oldest unauthenticated connection, closed to make room for a new one.
    Evicted,
    /// Setup after accept failed: no random bytes, no memory, or the poller refused the
    /// registration.
    SetupFailed,
    /// No memory for the part of an answer that the kernel did not take at once.
    OutOfMemory,
    /// The first bytes, on a listener that requires a PROXY header, were none: the peer is not a
    /// balancer, or one that does not send the header.
    HeaderMissing,
    /// The PROXY header was malformed, longer than 536 bytes, or cut off by the end of the stream.
    HeaderMalformed,
    /// The PROXY header was not complete within
    /// [`Config::header_timeout`](super::Config::header_timeout).
    HeaderTimeout,
    /// The client that the PROXY header names was refused: its source failed lately, or had its
    /// share of unauthenticated connections.
    Refused,
    /// A balancer's check of the server's health: the peer left without a byte of a PROXY header, or
    /// before authenticating on a connection of the balancer's own (LOCAL, UNKNOWN).
    HealthCheck,
}

impl CloseReason {
    /// Every reason, in the order of reports.
    pub const ALL: &'static [Self] = &[
        Self::PeerFinished,
        Self::Rejected,
        Self::HandshakeFailed,
        Self::AuthAbandoned,
        Self::AuthTimeout,
        Self::IdleTimeout,
        Self::SendTimeout,
        Self::Reset,
        Self::TransportError,
        Self::PeerVanished,
        Self::HandlerClosed,
        Self::AnswerTooLong,
        Self::MessageTooLong,
        Self::HandlerPanicked,
        Self::FellBehind,
        Self::Drained,
        Self::DrainTimeout,
        Self::Stopped,
        Self::Killed,
        Self::Evicted,
        Self::SetupFailed,
        Self::OutOfMemory,
        Self::HeaderMissing,
        Self::HeaderMalformed,
        Self::HeaderTimeout,
        Self::Refused,
        Self::HealthCheck,
    ];

    /// The number that stands for it in a handover (docs/HANDOVER-FORMAT.md). It never changes, and 0
    /// is no reason's.
    #[cfg(feature = "server")]
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::PeerFinished => 1,
            Self::Rejected => 2,
            Self::HandshakeFailed => 3,
            Self::AuthAbandoned => 4,
            Self::AuthTimeout => 5,
            Self::IdleTimeout => 6,
            Self::SendTimeout => 7,
            Self::Reset => 8,
            Self::TransportError => 9,
            Self::PeerVanished => 10,
            Self::HandlerClosed => 11,
            Self::AnswerTooLong => 12,
            Self::MessageTooLong => 13,
            Self::HandlerPanicked => 14,
            Self::FellBehind => 15,
            Self::Drained => 16,
            Self::DrainTimeout => 17,
            Self::Stopped => 18,
            Self::Killed => 19,
            Self::Evicted => 20,
            Self::SetupFailed => 21,
            Self::OutOfMemory => 22,
            Self::HeaderMissing => 23,
            Self::HeaderMalformed => 24,
            Self::HeaderTimeout => 25,
            Self::Refused => 26,
            Self::HealthCheck => 27,
        }
    }

    /// The reason that a number stands for.
    #[cfg(feature = "server")]
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }

    /// Returns true for a cause on the server's side, which says nothing about the peer.
    pub const fn is_local(self) -> bool {
        match self {
            Self::HandlerPanicked
            | Self::Drained
            | Self::DrainTimeout
            | Self::Stopped
            | Self::Killed
            | Self::SetupFailed
            | Self::OutOfMemory
            | Self::Refused => true,
            Self::PeerFinished
            | Self::Rejected
            | Self::HandshakeFailed
            | Self::AuthAbandoned
            | Self::AuthTimeout
            | Self::IdleTimeout
            | Self::SendTimeout
            | Self::Reset
            | Self::TransportError
            | Self::PeerVanished
            | Self::HandlerClosed
            | Self::AnswerTooLong
            | Self::MessageTooLong
            | Self::FellBehind
            | Self::Evicted
            | Self::HeaderMissing
            | Self::HeaderMalformed
            | Self::HeaderTimeout
            | Self::HealthCheck => false,
        }
    }

    /// The reason in the labels of metrics and the fields of logs: its name in the source, in snake
    /// case.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerFinished => "peer_finished",
            Self::Rejected => "rejected",
            Self::HandshakeFailed => "handshake_failed",
            Self::AuthAbandoned => "auth_abandoned",
            Self::HeaderMissing => "header_missing",
            Self::HeaderMalformed => "header_malformed",
            Self::HeaderTimeout => "header_timeout",
            Self::Refused => "refused",
            Self::HealthCheck => "health_check",
            Self::AuthTimeout => "auth_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::SendTimeout => "send_timeout",
            Self::Reset => "reset",
            Self::TransportError => "transport_error",
            Self::PeerVanished => "peer_vanished",
            Self::HandlerClosed => "handler_closed",
            Self::AnswerTooLong => "answer_too_long",
            Self::MessageTooLong => "message_too_long",
            Self::HandlerPanicked => "handler_panicked",
            Self::FellBehind => "fell_behind",
            Self::Drained => "drained",
            Self::DrainTimeout => "drain_timeout",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Evicted => "evicted",
            Self::SetupFailed => "setup_failed",
            Self::OutOfMemory => "out_of_memory",
        }
    }

    /// A short text for logs and summaries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerFinished => "peer finished",
            Self::Rejected => "wrong digest",
            Self::HandshakeFailed => "handshake failed",
            Self::AuthAbandoned => "left before authenticating",
            Self::AuthTimeout => "authentication timed out",
            Self::IdleTimeout => "idle for too long",
            Self::SendTimeout => "stopped reading",
            Self::Reset => "reset by peer",
            Self::TransportError => "network error",
            Self::PeerVanished => "peer vanished",
            Self::HandlerClosed => "closed by the handler",
            Self::AnswerTooLong => "answer too long",
            Self::MessageTooLong => "message too long",
            Self::HandlerPanicked => "handler panicked",
            Self::FellBehind => "fell too far behind",
            Self::Drained => "drained",
            Self::DrainTimeout => "cut off by the drain timeout",
            Self::Stopped => "stopped",
            Self::Killed => "killed by an administrator",
            Self::Evicted => "evicted before authenticating",
            Self::SetupFailed => "setup failed",
            Self::OutOfMemory => "out of memory",
            Self::HeaderMissing => "no PROXY header",
            Self::HeaderMalformed => "malformed PROXY header",
            Self::HeaderTimeout => "PROXY header timed out",
            Self::Refused => "refused for its source",
            Self::HealthCheck => "health check",
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

    #[test]
    fn a_label_is_the_name_in_the_source_and_a_text_is_for_people() {
        for reason in CloseReason::ALL {
            let in_snake_case: String = format!("{reason:?}")
                .chars()
                .map(|c| if c.is_uppercase() { format!("_{}", c.to_lowercase()) } else { c.into() })
                .collect();
            assert_eq!(in_snake_case.trim_start_matches('_'), reason.label());
            assert_eq!(reason.to_string(), reason.as_str());
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn each_number_stands_for_one_reason() {
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!((CloseReason::from_code(0), CloseReason::from_code(255)), (None, None));
    }
}
