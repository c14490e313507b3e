//! One complete loop, which passes every exercise, and the mistakes that it can be set to make.
//!
//! Each [`Mistake`] is one line or two away from the cure, which is the same loop without it. The
//! grader's own test runs them all: each has to fail with the code that is stated for it. The stories
//! tell the pairs step by step.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::time::Duration;

use saltecho::lab::Rules;
use saltecho::python::Monotonic;
use saltecho::reactor::{Close, Kernel, Ready, Token};

pub use crate::mistakes::Mistake;

/// A connection of the loop.
struct Conn<S> {
    stream: S,
    /// Bytes of an unfinished message.
    piece: Vec<u8>,
    unsent: Vec<u8>,
    /// Bytes that were put into answers.
    answered: u64,
    ended: bool,
    shut: bool,
    /// A mistaken loop closes once this bit is set and nothing is left to read.
    hung_up: bool,
    /// A mistaken loop waits for this bit before it sends.
    writable: bool,
    /// A mistaken loop reads no more once this is set.
    deaf: bool,
    queued: bool,
    active_at: Monotonic,
}

/// How a connection goes on after its turn.
enum Next {
    /// An event will tell.
    Wait,
    /// In the next turn.
    Again,
    /// Not at all.
    Close(Close),
}

/// The loop and its state.
struct Model<'a, K: Kernel> {
    kernel: &'a mut K,
    listener: &'a mut K::Listener,
    rules: &'a Rules,
    mistake: Option<Mistake>,
    conns: BTreeMap<usize, Conn<K::Stream>>,
    next_token: usize,
    queue: VecDeque<usize>,
    /// Clients may wait to be accepted; not before this time.
    door: Option<Monotonic>,
    now: Monotonic,
    /// Answers that a mistaken loop keeps under the token's number.
    left_behind: HashMap<usize, Vec<u8>>,
}

/// How long accepting rests when there is no descriptor.
const REST: Duration = Duration::from_millis(100);

/// Serves every client by the rules, with at most one mistake.
///
/// # Errors
/// Those of `poll` and of registering the listener; with a mistake, more.
pub fn serve<K: Kernel>(
    kernel: &mut K,
    listener: &mut K::Listener,
    rules: &Rules,
    mistake: Option<Mistake>,
) -> io::Result<()> {
    kernel.register_listener(listener, Token::listener(0))?;
    let mut model = Model {
        now: kernel.now(),
        kernel,
        listener,
        rules,
        mistake,
        conns: BTreeMap::new(),
        next_token: 0,
        queue: VecDeque::new(),
        door: None,
        left_behind: HashMap::new(),
    };
    loop {
        model.turn()?;
    }
}

impl<K: Kernel> Model<'_, K> {
    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Polls, and does what there is to do.
    fn turn(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        if self.makes(Mistake::StaleClock) {
            self.now = self.kernel.now();
        }
        let timeout = self.timeout();
        self.kernel.poll(timeout, |token, ready| events.push((token, ready)))?;
        if !self.makes(Mistake::StaleClock) {
            self.now = self.kernel.now();
        }
        for (token, ready) in events {
            self.note_event(token, ready);
        }
        for _ in 0..self.queue.len() {
            let Some(token) = self.queue.pop_front() else { break };
            self.go_on(token)?;
        }
        self.close_silent();
        if self.door.is_some_and(|time| time <= self.now) {
            self.accept()?;
        }
        Ok(())
    }

    /// Zero with work in hand, else the time until something is due.
    fn timeout(&self) -> Option<Duration> {
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let forgets = self.makes(Mistake::NoDeadline);
        let idle = self.rules.idle.filter(|_| !forgets).and_then(|idle| {
            let oldest = self.conns.values().map(|conn| conn.active_at).min()?;
            Some(oldest.saturating_add(idle))
        });
        let due = idle.into_iter().chain(self.door).min()?;
        Some(due.since(self.now))
    }

    fn note_event(&mut self, token: Token, ready: Ready) {
        if token == Token::listener(0) {
            self.door = Some(self.now);
            return;
        }
        let token = token.as_raw();
        if self.makes(Mistake::ExpectTheToken) {
            assert!(self.conns.contains_key(&token), "an event for a connection that is gone");
        }
        let mistake = self.mistake;
        let Some(conn) = self.conns.get_mut(&token) else { return };
        conn.writable |= ready.has(Ready::WRITABLE);
        let hung_up = ready.has(Ready::CLOSED);
        conn.hung_up |= hung_up && mistake == Some(Mistake::ReuseTokens);
        if hung_up && conn.unsent.is_empty() && mistake == Some(Mistake::CloseAtHangUp) {
            self.close(token, Close::Orderly);
        } else if !conn.queued {
            conn.queued = true;
            self.queue.push_back(token);
        }
    }

    fn go_on(&mut self, token: usize) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(&token) else { return Ok(()) };
        conn.queued = false;
        match self.pump(token) {
            Ok(Next::Wait) => {}
            Ok(Next::Again) => {
                let conn = self.conns.get_mut(&token).expect("it is there after its turn");
                conn.queued = true;
                self.queue.push_back(token);
            }
            Ok(Next::Close(how)) => self.close(token, how),
            Err(error) if self.makes(Mistake::OneErrorEndsAll) => return Err(error),
            Err(_) => self.close(token, Close::Reset),
        }
        Ok(())
    }

    /// Sends and receives in turns, within the share of a turn.
    fn pump(&mut self, token: usize) -> io::Result<Next> {
        let mut share = self.rules.share.unwrap_or(u64::MAX);
        loop {
            if !self.flush(token)? {
                return Ok(Next::Wait);
            }
            if let Some(next) = self.after_flush(token)? {
                return Ok(next);
            }
            let room = self.rules.recv_max as u64;
            if share < room && !self.makes(Mistake::NoShare) {
                return Ok(if self.makes(Mistake::ForgetTheRest) {
                    Next::Wait
                } else {
                    Next::Again
                });
            }
            share = share.saturating_sub(room);
            if let Some(next) = self.receive(token)? {
                return Ok(next);
            }
        }
    }

    /// Sends what there is. False: there is no room, and nothing is to be read meanwhile.
    fn flush(&mut self, token: usize) -> io::Result<bool> {
        let mistake = self.mistake;
        let conn = self.conns.get_mut(&token).expect("it has a turn");
        let waits = mistake == Some(Mistake::WaitForWritable) && !conn.writable;
        while !conn.unsent.is_empty() && !waits && mistake != Some(Mistake::NoAnswer) {
            match self.kernel.send(&mut conn.stream, &conn.unsent) {
                Ok(n) if n < conn.unsent.len() && mistake == Some(Mistake::DropTheRest) => {
                    conn.unsent.clear();
                }
                Ok(n) if n < conn.unsent.len() && mistake == Some(Mistake::SendAgain) => {}
                Ok(n) => drop(conn.unsent.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    conn.writable = false;
                    conn.deaf = mistake == Some(Mistake::StayDeaf);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if mistake == Some(Mistake::WaitForWritable) {
            conn.writable = false;
        }
        let reads_ahead = [Some(Mistake::ReadAlways), Some(Mistake::CloseAtTheEnd)];
        Ok(conn.unsent.is_empty() || reads_ahead.contains(&mistake) && !conn.ended)
    }

    /// What follows once everything is sent, unless it is the next `recv`.
    fn after_flush(&mut self, token: usize) -> io::Result<Option<Next>> {
        let is_served =
            |conn: &Conn<_>| self.rules.quota.is_some_and(|quota| conn.answered >= quota);
        let conn = self.conns.get_mut(&token).expect("it has a turn");
        if conn.ended && self.mistake != Some(Mistake::IgnoreTheEnd) {
            return Ok(Some(Next::Close(Close::Orderly)));
        }
        if is_served(conn) && !conn.shut && self.mistake != Some(Mistake::NoShutdown) {
            conn.shut = true;
            if self.mistake == Some(Mistake::CloseWithoutShutdown) {
                return Ok(Some(Next::Close(Close::Orderly)));
            }
            // A client that is gone says so in the next call.
            let _ = self.kernel.shutdown(&mut conn.stream);
            if self.mistake == Some(Mistake::CloseAfterShutdown) {
                return Ok(Some(Next::Close(Close::Orderly)));
            }
        }
        if conn.deaf || is_served(conn) && self.mistake == Some(Mistake::NoDrain) {
            return Ok(Some(Next::Wait));
        }
        Ok(None)
    }

    /// Receives once.
    fn receive(&mut self, token: usize) -> io::Result<Option<Next>> {
        let length = match self.makes(Mistake::LargeBuffer) {
            true => 65_536,
            false => self.rules.recv_max,
        };
        let mut buffer = vec![b'?'; length];
        let conn = self.conns.get_mut(&token).expect("it has a turn");
        match self.kernel.recv(&mut conn.stream, &mut buffer) {
            Ok(0) => {
                conn.ended = true;
                if self.makes(Mistake::IgnoreTheEnd) {
                    return Ok(Some(Next::Wait));
                }
                Ok(self.makes(Mistake::CloseAtTheEnd).then_some(Next::Close(Close::Orderly)))
            }
            Ok(n) => {
                if self.mistake != Some(Mistake::FixedDeadline) {
                    conn.active_at = self.now;
                }
                let taken = if self.mistake == Some(Mistake::WholeBuffer) { length } else { n };
                self.answer(token, &buffer[..taken]);
                let stops = self.makes(Mistake::ReadOnce)
                    || self.makes(Mistake::StopAtShortRead) && n < length;
                if stops { self.flush(token).map(|_| Some(Next::Wait)) } else { Ok(None) }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let gives_up = conn.hung_up || self.mistake == Some(Mistake::CloseAtWouldBlock);
                Ok(Some(if gives_up { Next::Close(Close::Orderly) } else { Next::Wait }))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                if self.makes(Mistake::InterruptedEnds) { Err(error) } else { Ok(None) }
            }
            Err(error) => Err(error),
        }
    }

    /// Puts bytes into the answer, in whole messages and up to the quota.
    fn answer(&mut self, token: usize, bytes: &[u8]) {
        let conn = self.conns.get_mut(&token).expect("it has a turn");
        conn.piece.extend_from_slice(bytes);
        let message = match self.mistake {
            Some(Mistake::AnswerPieces) => 1,
            _ => self.rules.message.map_or(1, |message| usize::try_from(message).unwrap_or(1)),
        };
        let whole = conn.piece.len() - conn.piece.len() % message;
        let left = self.rules.quota.map_or(u64::MAX, |quota| quota - conn.answered);
        let n = whole.min(usize::try_from(left).unwrap_or(usize::MAX));
        conn.unsent.extend_from_slice(&conn.piece[..n]);
        conn.answered += n as u64;
        conn.piece.drain(..whole);
    }

    /// Closes the connections whose time is up.
    fn close_silent(&mut self) {
        let Some(idle) = self.rules.idle.filter(|_| !self.makes(Mistake::NoDeadline)) else {
            return;
        };
        let is_due = |conn: &Conn<_>| conn.active_at.saturating_add(idle) <= self.now;
        let due: Vec<_> =
            self.conns.iter().filter(|(_, conn)| is_due(conn)).map(|(token, _)| *token).collect();
        for token in due {
            self.close(token, Close::Orderly);
        }
    }

    fn close(&mut self, token: usize, how: Close) {
        let conn = self.conns.remove(&token).expect("it is closed once");
        if self.makes(Mistake::KeepTheBuffer) {
            self.left_behind.insert(token, conn.unsent);
        }
        self.kernel.close(conn.stream, how);
    }

    /// Accepts until "would block", or rests.
    fn accept(&mut self) -> io::Result<()> {
        self.door = None;
        loop {
            match self.kernel.accept(self.listener) {
                Ok((stream, _)) => self.enter(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ if self.makes(Mistake::OneErrorEndsAll) => return Err(error),
                    _ if self.makes(Mistake::GiveUpAccepting) => return Ok(()),
                    _ if self.makes(Mistake::RetryAtOnce) => {
                        self.door = Some(self.now);
                        return Ok(());
                    }
                    _ => {
                        self.door = Some(self.now.saturating_add(REST));
                        return Ok(());
                    }
                },
            }
            if self.makes(Mistake::AcceptOnce) {
                return Ok(());
            }
        }
    }

    fn enter(&mut self, mut stream: K::Stream) {
        let reuses = self.makes(Mistake::ReuseTokens) || self.makes(Mistake::KeepTheBuffer);
        let token = match reuses {
            true => (0..).find(|token| !self.conns.contains_key(token)).unwrap_or_default(),
            false => self.next_token,
        };
        self.next_token += 1;
        if !self.makes(Mistake::NeverRegister)
            && self.kernel.register(&mut stream, Token::from_raw(token)).is_err()
        {
            return self.kernel.close(stream, Close::Orderly);
        }
        let conn = Conn {
            stream,
            piece: Vec::new(),
            unsent: self.left_behind.remove(&token).unwrap_or_default(),
            answered: 0,
            ended: false,
            shut: false,
            hung_up: false,
            writable: false,
            deaf: false,
            queued: false,
            active_at: self.now,
        };
        self.conns.insert(token, conn);
    }
}
