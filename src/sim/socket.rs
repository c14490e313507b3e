use std::net::SocketAddr;
use std::time::Duration;

use super::pipe::Direction;
use crate::python::Monotonic;
use crate::reactor::{Close, Liveness, Ready, Token};

/// One connection: two directions, and what epoll knows of the server's end.
#[derive(Debug)]
pub(super) struct Socket {
    /// The client's address, if it is known.
    pub(super) peer: Option<SocketAddr>,
    pub(super) to_server: Direction,
    pub(super) to_client: Direction,
    pub(super) server_end: End,
    /// The client came to the admin endpoint.
    pub(super) is_admin: bool,
    pub(super) token: Option<Token>,
    /// An edge waits to be fetched.
    pub(super) edge: bool,
    /// Bytes or the end are in flight to the server, and the network knows of them.
    pub(super) under_way: bool,
    /// A `send` found no room since writability was last announced.
    pub(super) no_space: bool,
    pub(super) failure: Option<Failure>,
    /// A reset has arrived at the client's end, and whether a call has yet to report it.
    pub(super) client_reset: Option<bool>,
    /// The answer to a probe since the client vanished, if it has.
    pub(super) vanished: Option<Answer>,
    /// When anything last came from the client, and the probes since then that it did not answer.
    pub(super) heard_at: Duration,
    unanswered: u32,
    pub(super) ledger: Ledger,
}

/// The answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Acknowledgement,
    Reset,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Queued,
    Open,
    Closed,
}

/// The pending error of the server's end (SO_ERROR): one call reports it, and no other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) errno: i32,
    pub(super) reported: bool,
}

/// A server's calls for one connection, as its kernel saw them, for an independent judge of the loop.
/// The times are those that the loop had last read from the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The name under which it was registered.
    pub name: Option<Token>,
    /// When it was accepted.
    pub accepted_at: Option<Monotonic>,
    /// Calls of recv(2) and send(2), without those that a signal interrupted.
    pub calls: u64,
    /// Bytes that the server received before it ended its stream.
    pub received: u64,
    /// Bytes that the kernel took from the server.
    pub sent: u64,
    /// When it first sent one, and how many it had received by then.
    pub spoke: Option<(Monotonic, u64)>,
    /// When it last received one of these.
    pub received_at: Option<Monotonic>,
    /// When it last sent one.
    pub sent_at: Option<Monotonic>,
    /// When it ended its stream before closing.
    pub shut_down_at: Option<Monotonic>,
    /// When and how it closed.
    pub closed: Option<(Monotonic, Close)>,
    /// True if a call of the server's failed for good.
    pub failed: bool,
    /// Keepalive probes that the server sent.
    pub probes: u32,
    /// True if the network disconnected it.
    pub disconnected: bool,
    /// The greatest lead of bytes received over bytes sent with which it asked for more, before
    /// it ended its stream.
    pub greatest_lead: Option<i64>,
}

impl Ledger {
    pub(super) fn count_received(&mut self, n: usize, now: Monotonic) {
        if self.shut_down_at.is_none() {
            self.received += n as u64;
            self.received_at = Some(now);
        }
    }

    /// The server asks for more.
    pub(super) fn count_request(&mut self) {
        if self.shut_down_at.is_none() {
            let lead = self.received.cast_signed() - self.sent.cast_signed();
            self.greatest_lead = self.greatest_lead.max(Some(lead));
        }
    }
}

impl Socket {
    pub(super) fn new(
        peer: Option<SocketAddr>,
        to_server: Direction,
        to_client: Direction,
    ) -> Self {
        Self {
            peer,
            to_server,
            to_client,
            server_end: End::Queued,
            is_admin: false,
            token: None,
            edge: false,
            under_way: false,
            no_space: false,
            failure: None,
            client_reset: None,
            vanished: None,
            heard_at: Duration::ZERO,
            unanswered: 0,
            ledger: Ledger::default(),
        }
    }

    /// The state that an edge carries, as epoll computes it when the event is fetched.
    pub(super) fn readiness(&self) -> Ready {
        let mut ready = Ready::NONE;
        let failed = self.failure.is_some();
        // epoll calls an urgent byte alone urgent and not readable; mio calls it both.
        if failed || self.to_server.is_readable() || self.to_server.has_urgent() {
            ready.insert(Ready::READABLE);
        }
        if failed || self.to_client.has_room_again() {
            ready.insert(Ready::WRITABLE);
        }
        if failed || self.to_server.has_end() {
            ready.insert(Ready::CLOSED);
        }
        if self.to_server.has_urgent() {
            ready.insert(Ready::PRIORITY);
        }
        ready
    }

    /// Something came from the client. After a close nothing counts: bytes that were under way may
    /// arrive in the turn in which their sender was given up.
    pub(super) fn heard(&mut self, clock: Duration) {
        if self.server_end != End::Closed {
            (self.heard_at, self.unanswered) = (clock, 0);
        }
    }

    /// Delivers sent bytes to a present client, which acknowledges them.
    pub(super) fn deliver(&mut self, clock: Duration) {
        if self.vanished.is_none() && self.to_client.arrive(usize::MAX) {
            self.heard(clock);
        }
    }

    /// Returns what the server's kernel knows of the client. Unacknowledged bytes were repeated after
    /// 200 ms, and then each time after twice as long.
    pub(super) fn liveness_at(&self, clock: Duration) -> Liveness {
        let silent_for = clock.saturating_sub(self.heard_at);
        let owes = self.to_client.is_under_way() || self.to_client.has_no_window();
        let repetitions = match self.vanished.is_some() && owes {
            true => (silent_for.as_millis() / 200 + 1).ilog2(),
            false => 0,
        };
        let unanswered = self.unanswered.max(repetitions);
        Liveness { silent_for, unanswered, owes_acknowledgement: owes }
    }

    pub(super) fn be_probed(&mut self, lost: bool, clock: Duration) -> Answer {
        const MOST_LOST: u32 = 5;
        let lost = lost && self.unanswered < MOST_LOST;
        let answer = match self.vanished {
            _ if self.failure.is_some() || lost => Answer::None,
            Some(answer) => answer,
            None => Answer::Acknowledgement,
        };
        match answer {
            Answer::None => self.unanswered += 1,
            Answer::Acknowledgement => self.heard(clock),
            Answer::Reset => self.fail(libc::ECONNRESET),
        }
        answer
    }

    /// Returns true if what a client sends now is lost: then the server's kernel answers it with a
    /// reset, unless one has come, which this send reports.
    pub(super) fn is_sent_in_vain(&mut self) -> bool {
        let in_vain = self.server_end == End::Closed || self.failure.is_some();
        match &mut self.client_reset {
            Some(unreported) => *unreported = false,
            None if in_vain && !self.to_server.is_ended() => self.reset_client(),
            None => {}
        }
        in_vain
    }

    /// The pending error, which is thereby reported.
    pub(super) fn take_error(&mut self) -> Option<i32> {
        let failure = self.failure.as_mut().filter(|failure| !failure.reported)?;
        failure.reported = true;
        self.ledger.failed = true;
        Some(failure.errno)
    }

    /// The connection fails for the server: what has arrived can be read, the rest is lost.
    pub(super) fn fail(&mut self, errno: i32) {
        self.failure.get_or_insert(Failure { errno, reported: false });
        self.to_server.cut_off();
    }

    /// The connection fails for the client: what has arrived can be read, the rest is lost. An
    /// end that has arrived stays an end: Linux looks at SOCK_DONE before it looks at the error.
    pub(super) fn reset_client(&mut self) {
        self.client_reset.get_or_insert(true);
        self.to_client.cut_off();
    }
}
