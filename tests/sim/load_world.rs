//! A network with one server for a load generator, under a virtual clock: its latencies are known
//! to the nanosecond.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use saltecho::load::Dial;
use saltecho::python::{Monotonic, upper};
use saltecho::reactor::{Close, Kernel, Liveness, Ready, Token, Wake};

const CHALLENGE: [u8; 32] = [7; 32];
/// The length of the client's digest.
pub(crate) const DIGEST: usize = 16;

/// The behavior of the server, and delays of the generator.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The time from `connect()` until the connection is established; the challenge arrives with
    /// it.
    pub(crate) connecting: Duration,
    /// The time from a message until its answer.
    pub(crate) service: Duration,
    /// Start and end of a time without answers.
    pub(crate) stall: Option<(Duration, Duration)>,
    /// The fate of a connection after it has sent this many bytes, digest included.
    pub(crate) fate: Option<(usize, Fate)>,
    /// The fate strikes every connection whose number is divisible by this.
    pub(crate) every: usize,
    /// True if these connections cannot be registered (ENOSPC).
    pub(crate) is_unregistered: bool,
    /// Interval and duration of pauses in which the generator does not run.
    pub(crate) preempted: Option<(Duration, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Refused,
    /// Connecting never ends.
    Unreachable,
    /// The server sends nothing, not even a challenge.
    Mute,
    /// The stream ends.
    Ends,
    Resets,
    /// No further answers.
    FallsSilent,
    /// One later bit is wrong.
    Lies,
    /// The server sends an extra byte.
    Chatters,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            connecting: Duration::from_micros(100),
            service: Duration::from_millis(1),
            stall: None,
            fate: None,
            every: 1,
            is_unregistered: false,
            preempted: None,
        }
    }
}

/// Both ends of a connection, as the client sees them.
struct Line {
    token: Option<Token>,
    established_at: Option<Duration>,
    failure: Option<i32>,
    received: usize,
    /// Future answers with their times.
    answers: VecDeque<(Duration, Vec<u8>)>,
    ends_at: Option<Duration>,
    fate: Option<(usize, Fate)>,
    /// True once the client knows that it is established.
    established: bool,
    /// True if readability was reported and the client has not read since.
    announced: bool,
    closed: bool,
}

/// The start time and source of each connection.
pub(crate) type Dials = Rc<RefCell<Vec<(Duration, Option<SocketAddr>)>>>;

/// One poll of the generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poll {
    pub(crate) began: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) ended: Duration,
    /// True if it reported an event.
    pub(crate) reported: bool,
}

pub(crate) struct World {
    clock: Duration,
    script: Script,
    pub(crate) dials: Dials,
    pub(crate) polls: Rc<RefCell<Vec<Poll>>>,
    lines: Vec<Line>,
    /// The largest number of connections with a pending answer at the same time.
    pub(crate) crowd: Rc<Cell<usize>>,
    preempted_at: Duration,
    woken: Arc<AtomicBool>,
}

pub(crate) struct Stream(usize);

impl World {
    pub(crate) fn new(script: Script) -> Self {
        Self {
            clock: Duration::from_secs(1),
            script,
            dials: Rc::default(),
            polls: Rc::default(),
            lines: Vec::new(),
            crowd: Rc::default(),
            preempted_at: Duration::from_secs(1),
            woken: Arc::default(),
        }
    }

    /// The arrival time of an answer without a fate.
    fn answered_at(&self) -> Duration {
        let usual = self.clock + self.script.service;
        match self.script.stall {
            Some((begin, end)) if usual >= begin && usual < end => end,
            _ => usual,
        }
    }

    fn next_event(&self) -> Option<Duration> {
        self.lines.iter().filter_map(Line::next_event).min()
    }
}

impl Line {
    fn next_event(&self) -> Option<Duration> {
        if self.announced || self.closed {
            return None;
        }
        let established = self.established_at?;
        if !self.established {
            return Some(established);
        }
        let data = self.answers.front().map(|(at, _)| *at);
        data.into_iter().chain(self.ends_at).chain(self.failure.map(|_| established)).min()
    }
}

impl Kernel for World {
    type Listener = ();
    type Stream = Stream;
    type AdminListener = ();

    fn now(&mut self) -> Monotonic {
        Monotonic::ZERO.saturating_add(self.clock)
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        self.woken.swap(false, Ordering::Relaxed);
        let event = self.next_event();
        let until = timeout.map(|timeout| self.clock + timeout);
        let wakes = event.into_iter().chain(until).min().expect("the generator sleeps for ever");
        // A turn takes time, too; one without an event takes longer than in reality, which saves
        // the test some million turns.
        let is_idle = event.is_none_or(|at| at > self.clock);
        let turn = Duration::from_nanos(if is_idle { 40_000 } else { 200 });
        let began = self.clock;
        self.clock = self.clock.max(wakes) + turn;
        let clock = self.clock;
        let reported = event.is_some_and(|at| at <= clock);
        self.polls.borrow_mut().push(Poll { began, timeout, ended: clock, reported });
        for line in
            self.lines.iter_mut().filter(|line| line.next_event().is_some_and(|at| at <= clock))
        {
            (line.announced, line.established) = (true, true);
            let token = line.token.expect("a line is registered when it is dialed");
            on_event(token, Ready::READABLE.union(Ready::WRITABLE));
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        struct Waker(Arc<AtomicBool>);
        impl Wake for Waker {
            fn wake(&self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        Arc::new(Waker(Arc::clone(&self.woken)))
    }

    fn register_listener(&mut self, (): &mut (), _token: Token) -> io::Result<()> {
        unreachable!("a load generator does not listen")
    }

    fn register(&mut self, stream: &mut Stream, token: Token) -> io::Result<()> {
        if self.script.is_unregistered && stream.0.is_multiple_of(self.script.every) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.lines[stream.0].token = Some(token);
        Ok(())
    }

    fn accept(&mut self, (): &mut ()) -> io::Result<(Stream, Option<SocketAddr>)> {
        unreachable!("a load generator does not listen")
    }

    fn register_admin_listener(&mut self, _listener: &mut (), _token: Token) -> io::Result<()> {
        Ok(())
    }

    fn accept_admin(&mut self, _listener: &mut ()) -> io::Result<Stream> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn shed(&mut self, (): &mut ()) -> io::Result<()> {
        unreachable!("a load generator does not listen")
    }

    fn recv(&mut self, stream: &mut Stream, data: &mut [u8]) -> io::Result<usize> {
        if let Some((every, length)) = self.script.preempted
            && self.clock >= self.preempted_at + every
        {
            self.clock += length;
            self.preempted_at = self.clock;
        }
        let (clock, line) = (self.clock, &mut self.lines[stream.0]);
        line.announced = false;
        if let Some((at, bytes)) = line.answers.front_mut()
            && *at <= clock
        {
            let n = bytes.len().min(data.len());
            data[..n].copy_from_slice(&bytes[..n]);
            bytes.drain(..n);
            if bytes.is_empty() {
                line.answers.pop_front();
            }
            return Ok(n);
        }
        if let Some(errno) = line.failure.take() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        match line.ends_at {
            Some(at) if at <= clock => Ok(0),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn send(&mut self, stream: &mut Stream, data: &[u8]) -> io::Result<usize> {
        let (at, lines) = (self.answered_at(), &mut self.lines);
        let line = &mut lines[stream.0];
        let before = line.received;
        line.received += data.len();
        // The digest itself is not answered.
        let digest = DIGEST.saturating_sub(before).min(data.len());
        let mut answer = data[digest..].to_vec();
        upper(&mut answer);
        match line.fate {
            Some((after, fate)) if line.received > after => match fate {
                Fate::Ends => line.ends_at = Some(at),
                Fate::Resets => line.failure = Some(libc::ECONNRESET),
                Fate::Lies => {
                    *answer.last_mut().expect("something is answered") ^= 1;
                    line.answers.push_back((at, answer));
                }
                Fate::Chatters => {
                    answer.push(b'!');
                    line.answers.push_back((at, answer));
                }
                Fate::FallsSilent | Fate::Mute | Fate::Refused | Fate::Unreachable => {}
            },
            _ if answer.is_empty() => {}
            _ => line.answers.push_back((at, answer)),
        }
        let crowd = lines.iter().filter(|line| !line.answers.is_empty()).count();
        self.crowd.set(self.crowd.get().max(crowd));
        Ok(data.len())
    }

    fn shutdown(&mut self, stream: &mut Stream) -> io::Result<()> {
        self.lines[stream.0].ends_at = Some(self.clock + self.script.connecting);
        Ok(())
    }

    fn close(&mut self, stream: Stream, _how: Close) {
        self.lines[stream.0].closed = true;
    }

    fn liveness(&mut self, _stream: &mut Stream) -> io::Result<Liveness> {
        unreachable!("a load generator asks no peer")
    }

    fn probe(&mut self, _stream: &mut Stream) {
        unreachable!("a load generator asks no peer")
    }

    fn random_below(&mut self, _limit: u64) -> u64 {
        0
    }

    fn fill_random(&mut self, _bytes: &mut [u8]) -> io::Result<()> {
        unreachable!("a load generator draws its bytes from its seed")
    }
}

impl Dial for World {
    fn dial(&mut self, _target: SocketAddr, source: Option<SocketAddr>) -> io::Result<Stream> {
        let number = self.lines.len();
        self.dials.borrow_mut().push((self.clock, source));
        let fate = self.script.fate.filter(|_| number.is_multiple_of(self.script.every));
        let established_at = self.clock + self.script.connecting;
        let mut line = Line {
            token: None,
            established_at: Some(established_at),
            failure: None,
            received: 0,
            answers: VecDeque::from([(established_at, CHALLENGE.to_vec())]),
            ends_at: None,
            fate,
            established: false,
            announced: false,
            closed: false,
        };
        match fate {
            Some((_, Fate::Refused)) => line.failure = Some(libc::ECONNREFUSED),
            Some((_, Fate::Unreachable)) => line.established_at = None,
            Some((_, Fate::Mute)) => line.answers.clear(),
            _ => {}
        }
        self.lines.push(line);
        Ok(Stream(number))
    }

    fn is_connected(&mut self, stream: &mut Stream) -> io::Result<bool> {
        let (clock, line) = (self.clock, &mut self.lines[stream.0]);
        match line.failure.take() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(line.established_at.is_some_and(|at| at <= clock)),
        }
    }
}
