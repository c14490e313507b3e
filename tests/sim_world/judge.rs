//! Judges a server from outside: by what its observer was told and by its kernel's ledgers.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::proto::{CloseReason, Config};
use saltecho::python::Monotonic;
use saltecho::server::{Close, ConnId, Limits, Observer, Stats};
use saltecho::sim::{Deed, Ledger, SimClient, SimKernel};

use super::admission::Admission;
use super::client::{Client, Fate};
use super::handler::Heard;
use super::keepalive::Keepalive;

const CHALLENGE: u64 = 32;
const DIGEST: u64 = 16;
/// A deadline is due in the tick of the wheel that begins at or after it.
const TICK: u64 = 1 << 20;

pub struct Judge {
    config: Config,
    /// For how many turns in a row a deadline may have been due: none, if a turn may handle them
    /// all; else as many as it takes to handle every connection's on every level of the wheel.
    grace_turns: u32,
    /// Whether the last look before an authentication time-out finds a whole digest if it is
    /// there: the receive buffer holds one, and nothing arrives behind the loop's back.
    pub last_look_is_whole: bool,
    awake: Awake,
    told: Arc<Mutex<Vec<Told>>>,
    admission: Admission,
    keepalive: Keepalive,
    overdue: BTreeMap<SimClient, u32>,
    opened: u64,
    authenticated: u64,
    closes: HashMap<CloseReason, u64>,
    /// Since when it was to drain, if it is.
    pub draining: Option<Monotonic>,
    drain_timeout: Option<Duration>,
    pub reasons: BTreeMap<SimClient, CloseReason>,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Deed(Deed),
    Opened(ConnId, Option<SocketAddr>),
    Authenticated(ConnId),
    Closed(ConnId, CloseReason),
}

struct Ears(Arc<Mutex<Vec<Told>>>);

impl Observer for Ears {
    fn opened(&mut self, id: ConnId, peer: Option<SocketAddr>) {
        self.0.lock().unwrap().push(Told::Opened(id, peer));
    }

    fn authenticated(&mut self, id: ConnId) {
        self.0.lock().unwrap().push(Told::Authenticated(id));
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason) {
        self.0.lock().unwrap().push(Told::Closed(id, reason));
    }
}

impl Judge {
    pub fn new(config: &Config, limits: &Limits, late_arrivals: bool) -> Self {
        Self {
            config: config.clone(),
            grace_turns: if limits.deadlines_per_turn >= 1000 { 0 } else { 300 },
            last_look_is_whole: config.recv_size as u64 >= DIGEST && !late_arrivals,
            awake: Awake { spin: limits.spin, ..Awake::default() },
            told: Arc::default(),
            admission: Admission::new(limits),
            keepalive: Keepalive::new(config, limits),
            overdue: BTreeMap::new(),
            opened: 0,
            authenticated: 0,
            closes: HashMap::new(),
            draining: None,
            drain_timeout: limits.drain_timeout,
            reasons: BTreeMap::new(),
        }
    }

    /// Whether a client that vanishes is found out.
    pub fn finds_who_vanished(&self) -> bool {
        self.config.keepalive.is_some()
    }

    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(Ears(Arc::clone(&self.told)))
    }

    /// What the kernel tells, in one order with what the observer is told.
    pub fn witness(&self) -> impl FnMut(Deed) + Send + 'static {
        let told = Arc::clone(&self.told);
        move |deed| told.lock().unwrap().push(Told::Deed(deed))
    }

    /// Judges what a turn has done.
    pub fn after_turn(&mut self, kernel: &SimKernel, clients: &[Client], stats: &Stats) {
        let (told, now) = (std::mem::take(&mut *self.told.lock().unwrap()), kernel.last_reading());
        let mut at_the_door = None;
        for told in told {
            match told {
                Told::Deed(Deed::Accepted(client)) => {
                    at_the_door = Some(client);
                    self.admission.accepted(kernel.peer(client), now);
                }
                Told::Deed(Deed::FoundNoRandomBytes) => {
                    at_the_door = None;
                    self.admission.passed();
                }
                Told::Deed(Deed::Closed(client)) => {
                    if at_the_door == Some(client) {
                        self.admission.refused();
                    }
                }
                Told::Opened(id, peer) => {
                    self.opened += 1;
                    let client = at_the_door.take().expect("who is let in was accepted");
                    assert_eq!(peer, kernel.peer(client), "{id} is taken for somebody else");
                    self.admission.opened(id, peer, now);
                }
                Told::Authenticated(id) => {
                    self.authenticated += 1;
                    self.admission.authenticated(id);
                    let client = client_of(kernel, clients, id).expect("it is registered");
                    assert!(client.honest, "a wrong digest was taken for a right one");
                }
                Told::Closed(id, reason) => self.closed(kernel, clients, id, reason),
            }
        }
        self.admission.audit(stats);
        self.awake.judge(kernel);
        self.keepalive.audit(stats, now);
        for client in clients {
            let ledger = kernel.ledger(client.end);
            if kernel.is_served(client.end) {
                self.open(client, ledger, now);
                if client.fate == Fate::Vanished {
                    self.keepalive.still_here(client.end, kernel.heard_at(client.end), now);
                }
            }
            if ledger.shut_down_at == Some(now) && self.draining.is_none() {
                let idle = last_moved(ledger).zip(self.config.recv_timeout);
                let due = idle.map(|(moved, limit)| moved.saturating_add(limit));
                assert!(due <= ledger.shut_down_at, "{:?} was idle until {due:?}", client.end);
                assert!(due.is_some(), "{:?} was told to go for no reason", client.end);
            }
        }
    }

    fn closed(&mut self, kernel: &SimKernel, clients: &[Client], id: ConnId, reason: CloseReason) {
        *self.closes.entry(reason).or_default() += 1;
        let now = kernel.last_reading();
        self.admission.closed(id, reason, now);
        let Some(client) = client_of(kernel, clients, id) else { return };
        self.reasons.insert(client.end, reason);
        let ledger = kernel.ledger(client.end);
        let (_, how) = ledger.closed.expect("a connection that is over is closed");
        let owed = owed(client, ledger);
        if owed > 0 {
            assert_eq!(how, Close::Reset, "a part of an answer passes for the whole");
        }
        let accepted = ledger.accepted_at.expect("it was accepted");
        let due = match reason {
            CloseReason::AuthTimeout => {
                let asked = ledger.sent >= CHALLENGE && self.last_look_is_whole;
                let there = ledger.received + kernel.unread(client.end) as u64;
                assert!(
                    !asked || client.piecemeal || there < DIGEST,
                    "{id} timed out with its digest in the kernel"
                );
                accepted.saturating_add(self.config.auth_timeout.expect("there is one"))
            }
            CloseReason::SendTimeout => {
                assert!(owed > 0, "{id} was owed nothing");
                // When the `sendall` of a pushed message began is not known from outside.
                let since = ledger.received_at.filter(|_| client.pushed.is_empty());
                let limit = self.config.send_timeout.expect("there is one");
                since.unwrap_or(accepted).saturating_add(limit)
            }
            CloseReason::Rejected => {
                assert!(!client.honest, "{id} gave the right digest");
                assert_eq!(ledger.sent, CHALLENGE);
                now
            }
            CloseReason::AuthAbandoned => {
                assert!(ledger.received < DIGEST);
                now
            }
            CloseReason::PeerFinished => {
                assert_eq!(owed, 0, "{id} ended before it had everything");
                now
            }
            CloseReason::Reset | CloseReason::TransportError => {
                assert!(ledger.failed, "{id}: {reason}, and no call failed");
                now
            }
            CloseReason::PeerVanished => {
                assert_eq!(client.fate, Fate::Vanished, "{id} is there, and was given up");
                self.keepalive.least(kernel.heard_at(client.end))
            }
            CloseReason::IdleTimeout => {
                assert!(ledger.shut_down_at.is_some(), "{id} was not half-closed");
                now
            }
            CloseReason::DrainTimeout => {
                let since = self.draining.expect("only a drain has one");
                since.saturating_add(self.drain_timeout.expect("there is one"))
            }
            _ => now,
        };
        assert!(due <= now, "{id}: {reason} at {now:?}, and it was due at {due:?}");
    }

    /// When all are gone, each handler has been told of its connection's beginning and of its end.
    pub fn compare_with_handlers(&self, kernel: &SimKernel, heard: &Heard, stats: &Stats) {
        assert_eq!(heard.opened.len() as u64, stats.authenticated, "handlers that were opened");
        assert_eq!(heard.closed.len(), heard.opened.len(), "handlers that were closed");
        for (peer, reason) in &heard.closed {
            let client = kernel.client_named(peer.id()).expect("it was registered");
            assert_eq!(peer.address(), kernel.peer(client), "{client:?} is taken for another");
            assert_eq!(self.reasons.get(&client), Some(reason), "{client:?}");
        }
    }

    /// When all are gone, the counters say what the observer was told. Of a client for whom there
    /// were no random bytes it is told nothing.
    pub fn compare_with(&self, stats: &Stats) {
        let unheard_of = stats.accepted - self.opened;
        for (reason, count) in stats.closes() {
            let told = self.closes.get(&reason).copied().unwrap_or(0);
            let told = told + if reason == CloseReason::SetupFailed { unheard_of } else { 0 };
            assert_eq!(told, count, "the observer was told of {told} that ended: {reason}");
        }
        assert_eq!(self.authenticated, stats.authenticated, "told of and counted");
    }

    /// What holds for every open connection between two turns.
    fn open(&mut self, client: &Client, ledger: &Ledger, now: Monotonic) {
        let end = client.end;
        let lead = ledger.greatest_lead.unwrap_or(i64::MIN);
        assert!(lead <= -16, "{end:?}: the server read before it had answered");
        let owed = owed(client, ledger);
        let most = match client.pushed_at {
            None => self.config.recv_size,
            Some(_) => self.config.max_answer,
        };
        assert!(owed <= most as u64, "{end:?} is owed more than one answer");
        if !client.honest {
            assert!(ledger.received < DIGEST, "{end:?} gave a wrong digest and is still here");
        }
        let overdue = self.overdue.entry(end).or_default();
        match due(&self.config, client, ledger, self.draining.is_some()) {
            Some(due) if due.as_nanos().div_ceil(TICK) <= now.as_nanos() / TICK => *overdue += 1,
            _ => *overdue = 0,
        }
        assert!(*overdue <= self.grace_turns, "{end:?} outlived its deadline: {ledger:?}");
    }
}

/// Whether the loop sleeps when it should: not before its spin has passed since the last event,
/// and then soon, unless there is something to do.
#[derive(Default)]
struct Awake {
    spin: Duration,
    events: u64,
    /// The clock as the loop knew it before its last poll, and until when it is to spin.
    reading: Monotonic,
    until: Monotonic,
    /// Of the kernel's fruitless polls those that belong to the spin.
    spun: u32,
}

impl Awake {
    fn judge(&mut self, kernel: &SimKernel) {
        let spinning = self.reading < self.until;
        assert!(
            !(spinning && kernel.slept()),
            "asleep at {:?}, with {:?} to spin",
            self.reading,
            self.until
        );
        let fruitless = kernel.fruitless_polls();
        self.spun = if spinning { fruitless } else { self.spun.min(fruitless) };
        assert!(fruitless - self.spun < 200, "the loop spins without doing anything");
        self.reading = kernel.last_reading();
        if kernel.events() > self.events {
            self.events = kernel.events();
            self.until = self.reading.saturating_add(self.spin);
        }
    }
}

fn client_of<'a>(kernel: &SimKernel, clients: &'a [Client], id: ConnId) -> Option<&'a Client> {
    let end = kernel.client_named(id)?;
    clients.iter().find(|client| client.end == end)
}

/// Bytes of an answer or a message that the kernel has not taken; the answer to `n` bytes has `n`.
fn owed(client: &Client, ledger: &Ledger) -> u64 {
    match ledger.received {
        DIGEST.. if client.honest => {
            ledger.received - DIGEST + CHALLENGE + client.pushed.len() as u64 - ledger.sent
        }
        _ => 0,
    }
}

fn last_moved(ledger: &Ledger) -> Option<Monotonic> {
    ledger.received_at.max(ledger.sent_at)
}

/// When an open connection's call in progress gives up, by Python's rules.
fn due(config: &Config, client: &Client, ledger: &Ledger, draining: bool) -> Option<Monotonic> {
    let (since, limit) = if ledger.shut_down_at.is_some() {
        (ledger.shut_down_at, config.linger_timeout)
    } else if ledger.received < DIGEST {
        (ledger.accepted_at, config.auth_timeout)
    } else if owed(client, ledger) > 0 {
        // Of several messages each has its own time, which begins when the one before is sent.
        let began = ledger.received_at.max(client.pushed_at);
        let again = ledger.sent_at.filter(|_| client.pushed_at.is_some());
        (began.max(again), config.send_timeout)
    } else if draining {
        (None, None) // It is about to be half-closed, which waits for nothing.
    } else {
        (last_moved(ledger), config.recv_timeout)
    };
    Some(since?.saturating_add(limit?))
}
