use std::io;
use std::time::Duration;

use super::case::{Case, Met};
use super::code::Code;
use super::log::count;
use super::rules::Rules;
use super::world::{Client, byte};
use crate::reactor::Ready;
use crate::sim::{Outlook, Seen, SimKernel};

/// A judge that sees nothing of a loop but its calls.
pub(super) struct Judge {
    pub(super) rules: Rules,
    pub(super) met: Met,
    /// The connections by the numbers of their clients.
    pub(super) conns: Vec<Option<Conn>>,
    /// The error of the last `accept`, if it was another than "would block".
    pub(super) accept_error: Option<i32>,
    /// What a sleep with a timeout left undone.
    pub(super) strike: Option<Strike>,
    /// Calls in a row that gained nothing.
    pub(super) barren: u32,
    /// Calls so far.
    pub(super) calls: u32,
}

/// Something that a loop left undone while it slept, and the end of that sleep. It is a fault if it is
/// still there then.
pub(super) struct Strike {
    pub(super) code: Code,
    pub(super) client: usize,
    pub(super) until: Duration,
}

/// A connection as its calls show it.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) registered: bool,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Bytes received since the last poll.
    pub(super) in_turn: u64,
    /// `recv` returned zero.
    pub(super) at_end: bool,
    /// A call failed for good.
    pub(super) failed: bool,
    pub(super) shut: bool,
    /// The step of the close.
    pub(super) closed: Option<usize>,
    /// The error of the last call: "would block", interrupted, or any other.
    error: Option<io::ErrorKind>,
    /// The last `send` took less than it was offered, or nothing.
    pub(super) short: bool,
    /// When bytes last came from it, or when it was accepted.
    pub(super) active_at: Duration,
}

/// A fault that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: Code,
    /// The step from which on nothing could save the run; the last one if it is `None`.
    pub(super) step: Option<usize>,
    /// What the kernel knew at that step.
    pub(super) note: String,
}

impl Fault {
    pub(super) const fn new(code: Code, note: String) -> Self {
        Self { code, step: None, note }
    }
}

/// Calls in a row without a gain that make a spin, and calls of one run.
const MOST_BARREN: u32 = 1000;
const MOST_CALLS: u32 = 200_000;

impl Judge {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            met: Met::default(),
            conns: Vec::new(),
            accept_error: None,
            strike: None,
            barren: 0,
            calls: 0,
        }
    }

    /// A call begins.
    pub(super) fn call(&mut self) -> Result<(), Fault> {
        (self.calls, self.barren) = (self.calls + 1, self.barren + 1);
        let calls = if self.barren > MOST_BARREN {
            MOST_BARREN
        } else if self.calls > MOST_CALLS {
            MOST_CALLS
        } else {
            return Ok(());
        };
        Err(Fault::new(Code::Spins, format!("{calls} calls, and nothing gained")))
    }

    pub(super) const fn gain(&mut self) {
        self.barren = 0;
    }

    pub(super) fn accepted(&mut self, client: usize, clock: Duration) {
        if self.conns.len() <= client {
            self.conns.resize(client + 1, None);
        }
        self.conns[client] = Some(Conn {
            registered: false,
            received: 0,
            sent: 0,
            in_turn: 0,
            at_end: false,
            failed: false,
            shut: false,
            closed: None,
            error: None,
            short: false,
            active_at: clock,
        });
        self.accept_error = None;
        self.gain();
    }

    /// An `accept` that returned no client.
    pub(super) fn refused(&mut self, error: &io::Error) {
        self.strike = None;
        let would_block = error.kind() == io::ErrorKind::WouldBlock;
        self.accept_error = error.raw_os_error().filter(|_| !would_block);
        if would_block {
            self.met.count(Case::WouldBlock);
        } else if self.is_short_of_descriptors() {
            self.met.count(Case::NoDescriptor);
        }
    }

    pub(super) fn is_short_of_descriptors(&self) -> bool {
        const SHORT: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        self.accept_error.is_some_and(|errno| SHORT.contains(&errno))
    }

    /// The connection of a client; the kernel has handed out its stream.
    pub(super) fn conn(&mut self, client: usize) -> &mut Conn {
        self.conns[client].as_mut().expect("a client with a stream was accepted")
    }

    pub(super) fn open(&self) -> impl Iterator<Item = (usize, &Conn)> {
        let conns = self.conns.iter().enumerate();
        conns
            .filter_map(|(index, conn)| Some((index, conn.as_ref()?)))
            .filter(|(_, conn)| conn.closed.is_none())
    }

    /// A poll begins a turn.
    pub(super) fn turn(&mut self) {
        for conn in self.conns.iter_mut().flatten() {
            conn.in_turn = 0;
        }
    }

    pub(super) fn received(
        &mut self,
        client: usize,
        room: usize,
        result: &io::Result<usize>,
        outlook: Outlook,
        clock: Duration,
    ) -> Result<(), Fault> {
        let name = client + 1;
        let Rules { message, max_held, share, quota, .. } = self.rules;
        let conn = self.conns[client].as_mut().expect("a client with a stream was accepted");
        conn.error = result.as_ref().err().map(io::Error::kind);
        match result {
            Ok(0) if room > 0 => {
                conn.at_end = true;
                self.met.count(Case::End);
                if self.rules.answer(conn.received) > conn.sent {
                    self.met.count(Case::HalfClose);
                }
            }
            Ok(n) => {
                let moved = conn.received > 0;
                // What comes after our end gets no answer.
                let counts = !conn.shut || quota.is_some();
                conn.received += if counts { *n as u64 } else { 0 };
                conn.in_turn += *n as u64;
                conn.active_at = clock;
                let whole = message.is_none_or(|message| conn.received.is_multiple_of(message));
                let of_quota = quota.is_some_and(|quota| conn.received > quota);
                for (case, met) in [
                    (Case::Remainder, *n == room && outlook.unread > 0),
                    (
                        Case::UrgentMark,
                        outlook.readiness.has(Ready::PRIORITY) && outlook.unread > 0,
                    ),
                    (Case::EndBehindData, outlook.end && outlook.unread == 0),
                    (Case::Piece, !whole),
                    (Case::MovedDeadline, moved && self.rules.idle.is_some()),
                    (Case::UnreadQuota, of_quota),
                ] {
                    if met {
                        self.met.count(case);
                    }
                }
                let (held, in_turn) = (conn.received - conn.sent, conn.in_turn);
                self.gain();
                if let Some(most) = max_held.filter(|most| held > *most) {
                    let note = format!(
                        "{held} bytes of c{name} are held, and {most} are allowed; c{name} does not read"
                    );
                    return Err(Fault::new(Code::OverLimit, note));
                }
                if let Some(share) = share.filter(|share| in_turn > *share) {
                    self.met.count(Case::Flood);
                    let note = format!(
                        "{in_turn} bytes of c{name} in one turn, and its share is {share}; \
                         the others wait"
                    );
                    return Err(Fault::new(Code::HeldTheLoop, note));
                }
                if share.is_some_and(|share| in_turn + room as u64 > share) && outlook.unread > 0 {
                    self.met.count(Case::Flood);
                }
            }
            Err(error) => self.failed_call(client, error),
        }
        Ok(())
    }

    /// A `send` was offered this and took the first `n` bytes.
    pub(super) fn sent(
        &mut self,
        client: usize,
        data: &[u8],
        result: &io::Result<usize>,
    ) -> Result<(), Fault> {
        let n = match result {
            Ok(n) => *n,
            Err(error) => {
                self.conn(client).error = Some(error.kind());
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.met.count(Case::NoRoom);
                    self.conn(client).short = true;
                }
                self.failed_call(client, error);
                return Ok(());
            }
        };
        self.gain();
        self.check_bytes(client, &data[..n])?;
        let rules = self.rules;
        let conn = self.conn(client);
        let answer = rules.answer(conn.received);
        (conn.error, conn.short) = (None, n < data.len());
        conn.sent += n as u64;
        let (sent, received) = (conn.sent, conn.received);
        self.met.count(Case::Answer);
        if n < data.len() {
            self.met.count(Case::ShortSend);
        }
        if sent > answer {
            let (code, note) = match self.rules.quota {
                Some(quota) if sent > quota => {
                    (Code::WrongBytes, format!("{sent} bytes are sent, and {quota} are to be"))
                }
                _ => {
                    let note = format!("of {received} bytes received, {answer} are whole messages");
                    (Code::PartOfMessage, note)
                }
            };
            return Err(Fault::new(code, note));
        }
        Ok(())
    }

    /// Compares bytes that were sent to a client with those that it is owed.
    fn check_bytes(&self, client: usize, bytes: &[u8]) -> Result<(), Fault> {
        let conn = self.conns[client].as_ref().expect("a client with a stream was accepted");
        let is_at = |other: usize, place: u64, received: u64| {
            place + bytes.len() as u64 <= received
                && bytes.iter().zip(place..).all(|(sent, place)| *sent == byte(other, place))
        };
        if is_at(client, conn.sent, conn.received) {
            return Ok(());
        }
        let name = client + 1;
        let places = || 0..conn.received;
        if let Some(place) = places().rev().find(|place| is_at(client, *place, conn.received)) {
            let next = conn.sent;
            return Err(match place < next {
                true => Fault::new(
                    Code::Repeated,
                    format!("byte {place} of c{name} again, and byte {next} is next"),
                ),
                false => Fault::new(
                    Code::LostRest,
                    format!("bytes {next} to {} of c{name} are left out", place - 1),
                ),
            });
        }
        for (other, conn) in self.conns.iter().enumerate() {
            let received = conn.as_ref().map_or(0, |conn| conn.received);
            if other != client && (0..received).any(|place| is_at(other, place, received)) {
                let note = format!("c{name} gets the bytes of c{}", other + 1);
                return Err(Fault::new(Code::AnotherClient, note));
            }
        }
        let (next, received) = (conn.sent, conn.received);
        let note = format!("byte {next} of c{name}'s {received} is next, and these are others");
        Err(Fault::new(Code::WrongBytes, note))
    }

    fn failed_call(&mut self, client: usize, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.met.count(Case::WouldBlock),
            io::ErrorKind::Interrupted => self.met.count(Case::Interrupted),
            _ => {
                self.met.count(Case::Reset);
                self.conn(client).failed = true;
            }
        }
    }

    /// A close at this step, of a connection that looked like this before.
    pub(super) fn closed(
        &mut self,
        client: usize,
        step: usize,
        clock: Duration,
        outlook: Outlook,
    ) -> Result<(), Fault> {
        let (name, rules) = (client + 1, self.rules);
        let conn = self.conn(client);
        conn.closed = Some(step);
        let unsent = rules.answer(conn.received) - conn.sent;
        let (received, error) = (conn.received, conn.error);
        // If the end is next, a close does no harm: the next recv would return it.
        let at_end = conn.at_end || outlook.end && outlook.unread == 0;
        let (failed, active_at) = (conn.failed, conn.active_at);
        self.strike = None;
        self.gain();
        if failed || outlook.failure.is_some() {
            return Ok(());
        }
        if at_end && unsent > 0 {
            let note = format!(
                "{unsent} of {} of the answer to c{name} not sent",
                count(received, "byte")
            );
            return Err(Fault::new(Code::ClosedUnanswered, note));
        }
        let is_served = rules.quota.is_some_and(|quota| self.conn(client).sent >= quota);
        if at_end || is_served {
            return Ok(()); // If it becomes a reset, the client sees that.
        }
        if let Some(idle) = rules.idle {
            if self.conn(client).shut {
                return Ok(()); // Its time was up at the shutdown.
            }
            self.time_out(client, clock, active_at + idle)?;
            if !outlook.input_under_way {
                return Ok(());
            }
        }
        let unread = outlook.unread;
        Err(match (unread, error) {
            (_, Some(io::ErrorKind::Interrupted)) => {
                let note = format!("a signal interrupted the call; c{name} has done nothing");
                Fault::new(Code::ClosedWithoutCause, note)
            }
            (0, Some(io::ErrorKind::WouldBlock)) => {
                let note = format!("WouldBlock is \"not yet\"; c{name} has done nothing");
                Fault::new(Code::ClosedWithoutCause, note)
            }
            (0, _) => Fault::new(Code::ClosedWithoutCause, format!("c{name} has done nothing")),
            _ => {
                let note = format!("{} of c{name} unread", count(unread, "byte"));
                Fault::new(Code::ClosedUnread, note)
            }
        })
    }

    /// Our stream to a client ends at this time.
    pub(super) fn shut_down(&mut self, client: usize, clock: Duration) -> Result<(), Fault> {
        let (name, rules) = (client + 1, self.rules);
        let conn = self.conn(client);
        conn.shut = true;
        let unsent = rules.answer(conn.received) - conn.sent;
        let is_served = rules.quota.is_some_and(|quota| conn.sent >= quota);
        if conn.failed || (conn.at_end || is_served) && unsent == 0 {
            return Ok(());
        }
        let due = rules.idle.map(|idle| conn.active_at + idle);
        match due.filter(|_| unsent == 0) {
            Some(due) => self.time_out(client, clock, due),
            None if unsent > 0 => {
                let note = format!("{} of the answer to c{name} not sent", count(unsent, "byte"));
                Err(Fault::new(Code::ClosedUnanswered, note))
            }
            None => {
                let note = format!("c{name} has done nothing, and gets no answers any more");
                Err(Fault::new(Code::ClosedWithoutCause, note))
            }
        }
    }

    fn time_out(&mut self, client: usize, clock: Duration, due: Duration) -> Result<(), Fault> {
        self.met.count(Case::TimeOut);
        match due.saturating_sub(clock).as_millis() {
            0 if clock >= due => Ok(()),
            early => {
                let note = format!("c{} had {early} ms left", client + 1);
                Err(Fault::new(Code::TooEarly, note))
            }
        }
    }

    /// A client was turned away.
    pub(super) fn shed(&mut self) -> Result<(), Fault> {
        self.gain();
        match self.accept_error {
            Some(_) => Ok(()),
            None => {
                let note = "a client was turned away although there was a descriptor for it";
                Err(Fault::new(Code::ClosedWithoutCause, note.to_owned()))
            }
        }
    }

    /// What clients have seen: a reset in the place of the end of an answer is the loop's fault, if it
    /// closed a connection that was well.
    pub(super) fn check_clients(
        &self,
        kernel: &SimKernel,
        clients: &[Client],
    ) -> Result<(), Fault> {
        if self.rules.idle.is_some() {
            return Ok(()); // A client that has timed out may still have something to say.
        }
        for (index, client) in clients.iter().enumerate() {
            let Some(Some(conn)) = self.conns.get(index) else { continue };
            let failed = conn.failed || client.reset || kernel.ledger(client.end).disconnected;
            let reset = client.seen == Some(Seen::Reset) && !failed;
            if let Some(step) = conn.closed.filter(|_| reset) {
                let name = index + 1;
                let note = match conn.sent - client.got {
                    0 => format!("c{name} reads a reset in the place of the end"),
                    lost => format!("a reset destroys {lost} bytes that c{name} has not read"),
                };
                return Err(Fault { code: Code::ResetOvertakes, step: Some(step), note });
            }
        }
        Ok(())
    }

    /// Everything that has to be over at the end of a run.
    pub(super) fn check_end(&self) -> Result<(), Fault> {
        match self.open().next() {
            Some((client, _)) => {
                let note = format!("c{} is still connected at the end", client + 1);
                Err(Fault::new(Code::KeptEnded, note))
            }
            None => Ok(()),
        }
    }
}
