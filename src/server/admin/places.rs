//! The places of the endpoint: clients that come, and idle ones that make room for them.

use std::time::Duration;

use super::{Admin, PLACES, Place};
use crate::proto::Handler;
use crate::proto::http::Exchange;
use crate::python::Monotonic;
use crate::reactor::{Close, Kernel, Ready, Token};
use crate::server::Server;
use crate::server::accept::{AcceptError, classify};

/// Time for which a client that has sent no request yet keeps its place while others wait: 1 s.
/// One that has been answered gives it up at once, as HTTP allows (RFC 9112, section 9.5).
const GRACE: Duration = Duration::from_secs(1);

/// Pause of accepting after an error: 100 ms.
const RETRY: Duration = Duration::from_millis(100);

impl<K: Kernel> Admin<K> {
    /// The place to give up for a client that waits: of those without a request the one that has
    /// been idle for longest. With none, the time from which there may be one.
    fn place_to_give_up(&self, now: Monotonic) -> Result<usize, Option<Monotonic>> {
        let places = self.places.iter().enumerate();
        let idle = places.filter_map(|(index, place)| {
            let place = place.as_ref().filter(|place| place.exchange.is_idle())?;
            let grace = if place.has_asked { Duration::ZERO } else { GRACE };
            Some((index, place.since, place.since.saturating_add(grace)))
        });
        let may = idle.clone().filter(|(_, _, from)| *from <= now);
        match may.min_by_key(|(_, since, _)| *since) {
            Some((index, ..)) => Ok(index),
            None => Err(idle.map(|(_, _, from)| from).min()),
        }
    }
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Closes an exchange. One that waits for a place, or for the descriptor, can have it now: before
    /// the service takes it.
    pub(super) fn leave_place(&mut self, admin: &mut Admin<K>, index: usize) {
        if let Some(place) = admin.places[index].take() {
            place.close(&mut self.reactor.kernel);
            admin.waiting = true;
            admin.accept_at = Some(Monotonic::ZERO);
        }
    }

    pub(super) fn accept_admin_clients(&mut self, admin: &mut Admin<K>, now: Monotonic) {
        // Each takes a place, or gives one up for the next.
        for _ in 0..PLACES {
            if !admin.waiting || admin.accept_at.is_some_and(|time| time > now) {
                return;
            }
            let index = match self.place_for_another(admin, now) {
                Ok(index) => index,
                Err(time) => return admin.accept_at = time,
            };
            let Some(listener) = &mut admin.listener else { return admin.waiting = false };
            match self.reactor.kernel.accept_admin(listener) {
                Ok(stream) => {
                    self.leave_place(admin, index);
                    self.enter_place(admin, index, stream, now);
                }
                Err(error) => match classify(&error) {
                    AcceptError::Drained => admin.waiting = false,
                    AcceptError::Client => {}
                    // An endpoint that cannot be reached is no reason to end the service.
                    AcceptError::Exhausted | AcceptError::Fatal => {
                        match admin.place_to_give_up(now) {
                            Ok(idle) => self.leave_place(admin, idle),
                            Err(_) => return admin.accept_at = Some(now.saturating_add(RETRY)),
                        }
                    }
                },
            }
        }
        admin.accept_at = Some(now);
    }

    /// The place for a client that may be waiting: a free one, or that of an idle client. If there
    /// is none, the time from which there may be one.
    fn place_for_another(
        &mut self,
        admin: &mut Admin<K>,
        now: Monotonic,
    ) -> Result<usize, Option<Monotonic>> {
        if let Some(index) = admin.places.iter().position(Option::is_none) {
            return Ok(index);
        }
        loop {
            let index = admin.place_to_give_up(now)?;
            let place = admin.places[index].as_mut().expect("it is occupied");
            // Its request may have come since the last event.
            place.ready.insert(Ready::READABLE);
            self.advance(&admin.fleet, place, now);
            if place.exchange.is_closed() {
                self.leave_place(admin, index);
                return Ok(index);
            }
            if place.exchange.is_idle() {
                return Ok(index);
            }
        }
    }

    fn enter_place(
        &mut self,
        admin: &mut Admin<K>,
        index: usize,
        mut stream: K::Stream,
        now: Monotonic,
    ) {
        let number = u8::try_from(index + 1).expect("there are few places");
        if self.reactor.kernel.register(&mut stream, Token::admin(number)).is_err() {
            return self.reactor.kernel.close(stream, Close::Orderly);
        }
        admin.places[index] = Some(Place {
            stream,
            exchange: Exchange::new(now),
            // Its request has most likely come with it.
            ready: Ready::READABLE.union(Ready::WRITABLE),
            job: None,
            since: now,
            has_asked: false,
        });
        self.serve_place(admin, index, now);
    }
}
