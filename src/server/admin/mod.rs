//! The admin endpoint: HTTP for those who watch a loop, served by the loop itself.
//!
//! It has [`PLACES`] places and a listener of its own, so it answers when the service has no place
//! left, while accepting pauses and while the server drains. In a turn each of its exchanges produces
//! at most one slice of an answer and moves at most two slices of bytes, whatever was asked for. Its
//! few deadlines are found by a scan, and a server without an endpoint pays one comparison a turn.

mod errand;
mod job;
mod places;
mod query;
mod routes;
mod rows;
#[cfg(feature = "metrics")]
mod scrape;

use std::sync::Arc;

use job::Job;
use routes::Route;
use rows::{Rows, Search};

pub(super) use errand::Errand;

use super::control::Outcome;
use super::{Handle, Server};
use crate::proto::Handler;
use crate::proto::http::{Body, Exchange, Progress, Response, SLICE, Status, Wants};
use crate::python::Monotonic;
use crate::reactor::{Adopt, Close, Kernel, Ready, Token, transfer};

/// Exchanges at once.
pub(super) const PLACES: usize = 8;

/// Descriptors of an endpoint: its places, its listener, the one in reserve, and that of a client for
/// which an idle one has yet to make room.
pub(super) const DESCRIPTORS: usize = PLACES + 3;

/// Cost of a call at least, in bytes, as in the service's share.
const CALL_COST: usize = 1024;

/// An admin endpoint: its listener and its exchanges.
pub(super) struct Admin<K: Kernel> {
    /// Absent once it is another loop's.
    listener: Option<K::AdminListener>,
    fleet: Fleet,
    /// Clients may wait to be accepted.
    waiting: bool,
    /// When accepting goes on, while clients wait for a place or after an error.
    accept_at: Option<Monotonic>,
    places: [Option<Place<K::Stream>>; PLACES],
    /// When it has to go on without an event.
    next: Option<Monotonic>,
    /// An event came since it went on.
    had_events: bool,
}

/// One exchange with its socket.
struct Place<S> {
    stream: S,
    exchange: Exchange,
    ready: Ready,
    /// The answer in progress, if it takes more than one turn.
    job: Option<Job>,
    /// When its last answer was sent, or when it was accepted.
    since: Monotonic,
    has_asked: bool,
}

/// All the loops, the endpoint's own among them.
struct Fleet {
    all: Handle,
    /// The number of the endpoint's own.
    home: u32,
    /// The service was handed over to other loops than these.
    has_left: bool,
}

impl Fleet {
    fn len(&self) -> usize {
        self.all.loops()
    }

    fn is_home(&self, worker: usize) -> bool {
        self.all.server(worker) == Some(self.home)
    }

    fn send(&self, worker: usize, errand: Arc<Errand>) {
        self.all.visit(worker, errand);
    }
}

impl<K: Kernel> Admin<K> {
    /// Registers the listener. Clients may have queued before, so the first turn looks at it.
    pub(super) fn new(
        kernel: &mut K,
        mut listener: K::AdminListener,
        all: Handle,
        home: u32,
    ) -> std::io::Result<Self> {
        kernel.register_admin_listener(&mut listener, Token::admin(0))?;
        Ok(Self {
            listener: Some(listener),
            fleet: Fleet { all, home, has_left: false },
            waiting: true,
            accept_at: Some(Monotonic::ZERO),
            places: std::array::from_fn(|_| None),
            next: Some(Monotonic::ZERO),
            had_events: false,
        })
    }

    pub(super) const fn listener(&self) -> Option<&K::AdminListener> {
        self.listener.as_ref()
    }

    /// Gives its listener to the loops that serve from now on. Answers in progress go on; what is asked
    /// here after that is answered with where to ask.
    pub(super) fn leave(&mut self) -> Option<K::AdminListener> {
        self.fleet.has_left = true;
        let listener = self.listener.take();
        // A request may have come since the last turn, and no event tells.
        self.suspect_all();
        listener
    }

    /// The file of its listener goes with it from now on.
    pub(super) fn own_file(&mut self, kernel: &mut K)
    where
        K: Adopt,
    {
        if let Some(listener) = &mut self.listener {
            kernel.own_file(listener);
        }
    }

    /// Looks at every socket, whatever events there were.
    pub(super) fn suspect_all(&mut self) {
        self.waiting = self.listener.is_some();
        self.accept_at = self.accept_at.or(Some(Monotonic::ZERO));
        (self.had_events, self.next) = (true, Some(Monotonic::ZERO));
        for place in self.places.iter_mut().flatten() {
            place.ready.insert(Ready::UNKNOWN);
        }
    }

    /// Returns true if a request has begun that is not answered yet, and its listener is another loop's:
    /// only here can the client still get an answer.
    pub(super) fn owes_last_answer(&self) -> bool {
        let mut places = self.places.iter().flatten();
        self.fleet.has_left && places.any(|place| !place.exchange.is_idle())
    }

    /// An event came for the listener, which is number 0, or for a place.
    pub(super) fn handle_event(&mut self, number: usize, ready: Ready) {
        self.had_events = true;
        match number.checked_sub(1) {
            None => {
                self.waiting = true;
                // A pause after an error lasts; a wait for a place ends with an event anyway.
                self.accept_at = self.accept_at.or(Some(Monotonic::ZERO));
            }
            Some(index) => {
                if let Some(Some(place)) = self.places.get_mut(index) {
                    place.ready.insert(ready);
                }
            }
        }
    }

    /// Another thread wants attention, perhaps a loop that has done its part of an answer.
    pub(super) const fn handle_wake(&mut self) {
        self.had_events = true;
    }

    /// When it has to go on, if no event comes before.
    pub(super) fn next(&self) -> Monotonic {
        self.next.unwrap_or(Monotonic::NEVER)
    }

    fn is_due(&self, now: Monotonic) -> bool {
        self.had_events || self.next.is_some_and(|next| next <= now)
    }

    /// Closes the listener and every exchange, at the end of the loop.
    pub(super) fn close(mut self, kernel: &mut K) {
        for place in self.places.iter_mut().filter_map(Option::take) {
            place.close(kernel);
        }
    }

    fn next_time(&self, now: Monotonic) -> Option<Monotonic> {
        let places = self.places.iter().flatten().filter_map(|place| {
            let waits_until = place.job.as_ref().and_then(Job::waits_until);
            match place.can_go_on() {
                true => Some(waits_until.unwrap_or(now)),
                false => place.exchange.poll_timeout(),
            }
        });
        places.chain(self.accept_at.filter(|_| self.waiting)).min()
    }
}

impl<S> Place<S> {
    fn close<K: Kernel<Stream = S>>(mut self, kernel: &mut K) {
        self.exchange.abort();
        let how = match self.exchange.is_cut_short() {
            true => Close::Reset,
            false => Close::Orderly,
        };
        kernel.close(self.stream, how);
    }

    /// Returns whether it can go on without an event, if only to see whether another loop has answered.
    fn can_go_on(&self) -> bool {
        match self.exchange.wants() {
            Wants::Recv { .. } => self.ready.has(Ready::READABLE),
            Wants::Send => self.ready.has(Ready::WRITABLE),
            Wants::Answer | Wants::Slice | Wants::Shutdown => true,
            Wants::Nothing => false,
        }
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Serves the admin endpoint, if there is one and it has anything to do.
    pub(super) fn serve_admin(&mut self) {
        if self.admin.as_ref().is_some_and(|admin| admin.is_due(self.reactor.now())) {
            self.admin_turn();
        }
    }

    #[inline(never)]
    fn admin_turn(&mut self) {
        // Taken out meanwhile: an answer may need all of the server.
        let Some(mut admin) = self.admin.take() else { return };
        let now = self.reactor.now();
        admin.had_events = false;
        self.lag.time_this_turn();
        for index in 0..PLACES {
            self.serve_place(&mut admin, index, now);
        }
        self.accept_admin_clients(&mut admin, now);
        admin.next = admin.next_time(now);
        self.admin = Some(admin);
    }

    fn serve_place(&mut self, admin: &mut Admin<K>, index: usize, now: Monotonic) {
        let Some(place) = &mut admin.places[index] else { return };
        let is_late = place.exchange.poll_timeout().is_some_and(|deadline| deadline <= now);
        if is_late {
            // The process may have been stopped while bytes arrived in time: look before judging.
            place.ready.insert(Ready::READABLE.union(Ready::WRITABLE));
        }
        self.advance(&admin.fleet, place, now);
        if is_late {
            place.exchange.handle_timeout(now);
            self.advance(&admin.fleet, place, now);
        }
        if place.exchange.is_closed() {
            self.leave_place(admin, index);
        }
    }

    /// Does what an exchange wants, within its share of a turn: one slice of an answer, and about as
    /// many bytes moved.
    fn advance(&mut self, fleet: &Fleet, place: &mut Place<K::Stream>, now: Monotonic) {
        let (mut share, mut may_produce) = (2 * SLICE, true);
        while share > 0 {
            let kernel = &mut self.reactor.kernel;
            let Place { stream, exchange, ready, .. } = place;
            let moved = match exchange.wants() {
                Wants::Recv { limit } if ready.has(Ready::READABLE) => {
                    let limit = limit.min(self.scratch.len());
                    let buffer = &mut self.scratch[..limit];
                    match transfer::recv(kernel, stream, ready, buffer) {
                        Ok(None) => 0,
                        Ok(Some(0)) => {
                            exchange.handle_eof();
                            0
                        }
                        Ok(Some(n)) => {
                            exchange.handle_recv(&buffer[..n], now);
                            n
                        }
                        Err(_) => {
                            exchange.abort();
                            0
                        }
                    }
                }
                Wants::Send if ready.has(Ready::WRITABLE) => {
                    let chunk = exchange.chunk();
                    let chunk = &chunk[..chunk.len().min(share)];
                    match transfer::send(kernel, stream, ready, chunk) {
                        Ok(n) => {
                            exchange.handle_sent(n, now);
                            place.since = now;
                            n
                        }
                        Err(_) => {
                            exchange.abort();
                            0
                        }
                    }
                }
                Wants::Answer if may_produce => {
                    may_produce = self.answer(fleet, place, now);
                    0
                }
                Wants::Slice if may_produce => {
                    may_produce = false;
                    let mut filling = Filling { server: self, fleet, job: &mut place.job, now };
                    place.exchange.fill(&mut filling, now);
                    0
                }
                Wants::Shutdown => {
                    // A failure means that the peer is gone, which the next recv reports.
                    let _ = kernel.shutdown(stream);
                    exchange.handle_shutdown(now);
                    0
                }
                Wants::Recv { .. }
                | Wants::Send
                | Wants::Answer
                | Wants::Slice
                | Wants::Nothing => return,
            };
            share = share.saturating_sub(moved.max(CALL_COST));
        }
    }

    /// Answers the request, or does a part of what is needed for that. True if all of the work is yet
    /// to come.
    fn answer(&mut self, fleet: &Fleet, place: &mut Place<K::Stream>, now: Monotonic) -> bool {
        place.has_asked = true;
        let mut response = None;
        if place.job.is_none() {
            let request = place.exchange.request().expect("an answer is wanted");
            response = match Route::new(&request, fleet.len()) {
                Ok(route) if fleet.has_left => {
                    // The next connection leads to the loops that serve.
                    place.exchange.close();
                    Some(routes::elsewhere(&route))
                }
                Ok(route) => self.follow(route, fleet, &mut place.job),
                Err(refusal) => Some(refusal),
            };
        }
        if response.is_none()
            && let Some(job) = &mut place.job
            // It finds one connection, so there is nothing to append.
            && job.advance(self, fleet, &mut Vec::new(), now) == Progress::Done
        {
            response = Some(job.outcome());
        }
        let Some(response) = response else { return false };
        place.exchange.respond(response, now);
        // A list goes on when its head is sent, unless only the head was asked for.
        let has_more = place.exchange.has_more();
        if !has_more {
            place.job = None;
        }
        has_more
    }

    /// The answer to a request that is understood, if it can be given at once.
    fn follow(&mut self, route: Route, fleet: &Fleet, job: &mut Option<Job>) -> Option<Response> {
        match route {
            Route::Live => Some(routes::live()),
            Route::Ready => Some(routes::ready(self.is_ready())),
            Route::Version => Some(routes::version()),
            #[cfg(feature = "metrics")]
            Route::Metrics(format) => {
                *job = Some(Job::scrape(scrape::Scrape::new(format)));
                None
            }
            Route::Connections(query) => {
                *job = Some(Job::rows(Rows::new(query), fleet.len()));
                Some(Response::streamed("application/x-ndjson"))
            }
            Route::Kill { worker, number } => {
                *job = Some(Job::kill(Search::new(number), worker));
                None
            }
            Route::Drain => {
                fleet.all.drain();
                Some(routes::draining())
            }
            Route::Upgrade { check } => {
                let (outcome, expected) = Outcome::new(self.reactor.kernel.waker());
                *job = Some(Job::outcome_of(expected));
                self.control(|control, all| control.upgrade(check, outcome, all));
                None
            }
            // Nothing is wrong with the request, but with what it asks to be read.
            Route::Reload => Some(routes::outcome(self.reload(), Status::UnprocessableContent)),
            Route::Log(level) => {
                let outcome = self.control(|control, _| control.set_log_level(&level));
                let none = || Err("this program has no log".to_owned());
                Some(routes::outcome(outcome.unwrap_or_else(none), Status::BadRequest))
            }
        }
    }
}

/// A streamed answer that reads from the server.
struct Filling<'a, K: Kernel, H> {
    server: &'a mut Server<K, H>,
    fleet: &'a Fleet,
    job: &'a mut Option<Job>,
    now: Monotonic,
}

impl<K: Kernel, H: Handler + Clone> Body for Filling<'_, K, H> {
    fn fill(&mut self, out: &mut Vec<u8>, _max: usize) -> Progress {
        let Some(job) = self.job else { return Progress::Done };
        let progress = job.advance(self.server, self.fleet, out, self.now);
        if progress == Progress::Done {
            *self.job = None;
        }
        progress
    }
}

#[cfg(any(test, feature = "testing"))]
impl<K: Kernel> Admin<K> {
    /// Checks that it goes on when it can.
    ///
    /// # Panics
    /// If an exchange could go on, or is due, and it would sleep.
    pub(super) fn assert_consistent(&self, now: Monotonic) {
        let due = self.next_time(now);
        let wakes = due.is_none_or(|due| self.next.is_some_and(|next| next <= due.max(now)));
        assert!(wakes, "the admin endpoint is due at {due:?}, and wakes at {:?}", self.next);
        let closed = self.places.iter().flatten().any(|place| place.exchange.is_closed());
        assert!(!closed, "an exchange is over and still here");
    }
}
