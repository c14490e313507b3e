//! The end of a connection: by its peer, an error, a timeout, or this side.

use std::io;

use super::{Connection, Stage};
use crate::proto::guard::guarded;
use crate::proto::handshake::saturating_u32;
use crate::proto::{CloseReason, Handler};
use crate::python::Monotonic;

impl<H: Handler> Connection<H> {
    /// Reports that `recv` returned zero bytes: the peer has ended its stream.
    pub fn handle_eof(&mut self) {
        self.end(match &self.stage {
            Stage::AwaitDigest(handshake) if handshake.may_be_health_check() => {
                CloseReason::HealthCheck
            }
            Stage::AwaitDigest(handshake) if handshake.awaits_header() => {
                CloseReason::HeaderMalformed
            }
            Stage::AwaitDigest(_) => CloseReason::AuthAbandoned,
            Stage::Mutual(mutual) if mutual.may_be_health_check() => CloseReason::HealthCheck,
            Stage::Mutual(mutual) => mutual.reason(CloseReason::AuthAbandoned),
            Stage::Echoing(_) => CloseReason::PeerFinished,
            Stage::Finishing(reason)
            | Stage::Lingering { reason, .. }
            | Stage::Closed { reason, .. } => *reason,
        });
    }

    /// Reports an error of a call, other than "would block" and "interrupted".
    pub fn handle_error(&mut self, kind: io::ErrorKind) {
        let is_reset = matches!(
            kind,
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        );
        let failed = if is_reset { CloseReason::Reset } else { CloseReason::TransportError };
        self.end(match &self.stage {
            Stage::AwaitDigest(handshake) if is_reset && handshake.may_be_health_check() => {
                CloseReason::HealthCheck
            }
            Stage::Mutual(mutual) if is_reset && mutual.may_be_health_check() => {
                CloseReason::HealthCheck
            }
            Stage::AwaitDigest(_) | Stage::Echoing(_) => failed,
            Stage::Mutual(mutual) => mutual.reason(failed),
            // All answers were sent before, so this error is not the reason for the end.
            Stage::Finishing(reason)
            | Stage::Lingering { reason, .. }
            | Stage::Closed { reason, .. } => *reason,
        });
    }

    /// Reports that a timer fired. Does nothing before the deadline of the call in progress, so an
    /// early timer costs no more than this comparison.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        if !self.call.is_late(now) {
            return;
        }
        match &self.stage {
            Stage::AwaitDigest(handshake) if handshake.awaits_header() => {
                self.end(CloseReason::HeaderTimeout);
            }
            Stage::AwaitDigest(_) => self.end(CloseReason::AuthTimeout),
            Stage::Mutual(mutual) => {
                let reason = mutual.reason(CloseReason::AuthTimeout);
                self.end(reason);
            }
            Stage::Echoing(None) => self.stage = Stage::Finishing(CloseReason::IdleTimeout),
            Stage::Echoing(Some(_)) => self.end(CloseReason::SendTimeout),
            Stage::Lingering { reason, .. } => self.end(*reason),
            Stage::Finishing(_) | Stage::Closed { .. } => {}
        }
    }

    /// Closes the connection in an orderly way, after an unfinished `sendall` and the messages
    /// pushed so far. An unauthenticated connection has no pending answer and ends at once.
    pub fn close(&mut self, reason: CloseReason) {
        match &mut self.stage {
            Stage::AwaitDigest(_) | Stage::Mutual(_) => self.end(reason),
            Stage::Echoing(None) => self.stage = Stage::Finishing(reason),
            Stage::Echoing(Some(backlog)) => {
                backlog.then_close.get_or_insert(reason);
            }
            Stage::Finishing(_) | Stage::Lingering { .. } | Stage::Closed { .. } => {}
        }
    }

    /// Closes the connection at once; [`undelivered`](Self::undelivered) counts the lost bytes. A
    /// connection that was finishing, with every answer sent, keeps its own reason.
    pub fn abort(&mut self, reason: CloseReason) {
        self.end(match &self.stage {
            Stage::AwaitDigest(_) | Stage::Mutual(_) | Stage::Echoing(_) => reason,
            Stage::Finishing(reason)
            | Stage::Lingering { reason, .. }
            | Stage::Closed { reason, .. } => *reason,
        });
    }

    /// Enters `Closed`. No other place does, and nothing leaves it.
    pub(super) fn end(&mut self, reason: CloseReason) {
        let (authenticated, undelivered) = match &self.stage {
            Stage::AwaitDigest(_) | Stage::Mutual(_) => (false, 0),
            Stage::Echoing(Some(backlog)) => (true, saturating_u32(backlog.len())),
            Stage::Echoing(None) | Stage::Finishing(_) | Stage::Lingering { .. } => (true, 0),
            Stage::Closed { .. } => return,
        };
        let panicked = authenticated && guarded(|| self.handler.closed(reason)).is_none();
        let reason = if panicked { CloseReason::HandlerPanicked } else { reason };
        self.stage = Stage::Closed { reason, authenticated, unanswered: false, undelivered };
    }

    /// Ends the connection after a panic of the handler, with an answer missing.
    pub(super) fn end_unanswered(&mut self) {
        self.end(CloseReason::HandlerPanicked);
        if let Stage::Closed { unanswered, .. } = &mut self.stage {
            *unanswered = true;
        }
    }
}
