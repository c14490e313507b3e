//! Judges a server from outside: by its calls and its notes, and by its kernel's ledgers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::proto::{CloseReason, Config};
use saltecho::python::Monotonic;
use saltecho::reactor::Close;
use saltecho::server::{ConnId, Limits, Note, Record, Refusal, Stats};
use saltecho::sim::{Ledger, SimClient, SimKernel};
use saltecho::trace::{Event, Subject};

use super::admission::Admission;
use super::awake::Awake;
use super::client::{Client, Fate};
use super::facts::{CHALLENGE, DIGEST, client_of, is_named, last_moved, undelivered};
use super::handler::Calls;
use super::keepalive::Keepalive;
use super::records::Records;

/// A deadline is due in the tick of the wheel that begins at or after it.
const TICK: u64 = 1 << 20;

pub struct Judge {
    config: Config,
    /// The number of turns a deadline may be overdue: none if a turn may handle all deadlines;
    /// otherwise enough to handle those of every connection on every level of the wheel.
    grace_turns: u32,
    /// True if the last look before an authentication timeout finds a whole digest that is there:
    /// the receive buffer holds one, and no data arrives late.
    pub last_look_is_whole: bool,
    awake: Awake,
    reports: Arc<Mutex<Vec<Report>>>,
    admission: Admission,
    keepalive: Keepalive,
    pub records: Records,
    overdue: BTreeMap<SimClient, u32>,
    opened: u64,
    authenticated: u64,
    closes: HashMap<CloseReason, u64>,
    /// Whether headers are required, and if so, whether only from the balancers of 192.0.2.0/24.
    headers: Option<bool>,
    /// The turn in which the header of a client was complete.
    named_at: BTreeMap<SimClient, Monotonic>,
    setup_failed: u64,
    /// The start of the drain.
    pub draining: Option<Monotonic>,
    drain_timeout: Option<Duration>,
    pub reasons: BTreeMap<SimClient, CloseReason>,
    /// The numbers of connections that administrators asked to kill.
    pub kills: BTreeSet<u32>,
}

/// What the judge sees, in one order.
#[derive(Clone, Debug)]
enum Report {
    /// A call of the loop with its answer, or a note that it made.
    Kernel(Event),
    /// The same note as the server's observer hears it.
    Heard(Note, Option<Record>),
}

impl Judge {
    pub fn new(config: &Config, limits: &Limits, late_arrivals: bool) -> Self {
        Self {
            config: config.clone(),
            grace_turns: if limits.deadlines_per_turn >= 1000 { 0 } else { 300 },
            last_look_is_whole: config.recv_size as u64 >= DIGEST && !late_arrivals,
            awake: Awake::new(limits.spin),
            reports: Arc::default(),
            admission: Admission::new(limits),
            keepalive: Keepalive::new(config, limits),
            records: Records::new(&config.keyring),
            overdue: BTreeMap::new(),
            opened: 0,
            authenticated: 0,
            closes: HashMap::new(),
            headers: None,
            named_at: BTreeMap::new(),
            setup_failed: 0,
            draining: None,
            drain_timeout: limits.drain_timeout,
            reasons: BTreeMap::new(),
            kills: BTreeSet::new(),
        }
    }

    /// Expects a header in front of each connection.
    pub fn expect_headers(&mut self, named_only: bool) {
        self.headers = Some(named_only);
    }

    /// True if only some balancers may send headers.
    pub fn names_balancers(&self) -> bool {
        self.headers == Some(true)
    }

    /// Another loop goes on, or the same one after a failed attempt. It may be awake for a while.
    pub fn handed_over(&mut self, kernel: &mut SimKernel) {
        self.awake.begin_anew(kernel);
    }

    /// True if vanished clients are detected.
    pub fn detects_vanished(&self) -> bool {
        self.config.keepalive.is_some()
    }

    /// Records the notes that a server's observer hears.
    pub fn observer(&self) -> impl FnMut(&Note, Option<&Record>) + Send + 'static {
        let reports = Arc::clone(&self.reports);
        move |note, record| {
            reports.lock().unwrap().push(Report::Heard(note.clone(), record.cloned()));
        }
    }

    /// Records the kernel's events, in one order with the notes that the observer hears.
    pub fn witness(&self) -> impl FnMut(&Event) + Send + 'static {
        let reports = Arc::clone(&self.reports);
        move |event| {
            let is_judged = match event {
                Event::Accept(..) | Event::Close(..) | Event::FillRandom(..) => true,
                Event::Note(note) => !note.is_input() && !matches!(note, Note::Due(_)),
                _ => false,
            };
            if is_judged {
                reports.lock().unwrap().push(Report::Kernel(event.clone()));
            }
        }
    }

    /// Judges the effects of a turn.
    pub fn after_turn(&mut self, kernel: &SimKernel, clients: &[Client], stats: &Stats) {
        let (reports, now) =
            (std::mem::take(&mut *self.reports.lock().unwrap()), kernel.last_reading());
        for client in clients.iter().filter(|client| client.header.is_some()) {
            if !client.awaits_header(kernel.ledger(client.end)) {
                self.named_at.entry(client.end).or_insert(now);
            }
        }
        let mut pending = None;
        let mut noted = None;
        for report in reports {
            match report {
                Report::Kernel(Event::Note(note)) => {
                    let missed = noted.replace(note);
                    assert_eq!(missed, None, "the observer did not hear of it");
                }
                Report::Kernel(call) => self.judge_call(kernel, &call, &mut pending),
                Report::Heard(note, record) => {
                    let noted = noted.take().expect("the kernel heard it first");
                    assert_eq!(note, noted, "kernel and observer hear the same");
                    self.judge_note(kernel, clients, &note, record.as_ref(), &mut pending);
                }
            }
        }
        assert_eq!(noted, None, "the observer did not hear of it");
        self.admission.decide();
        self.admission.audit(stats);
        self.awake.judge(kernel);
        self.keepalive.audit(stats, now);
        for client in clients {
            let ledger = kernel.ledger(client.end);
            if kernel.is_served(client.end) {
                self.check_open(client, ledger, now);
                if client.fate == Fate::Vanished {
                    self.keepalive.check_vanished(client.end, kernel.heard_at(client.end), now);
                }
            }
            if ledger.shut_down_at == Some(now) && self.draining.is_none() {
                let idle = last_moved(ledger).zip(self.config.idle_timeout);
                let due = idle.map(|(moved, limit)| moved.saturating_add(limit));
                assert!(due <= ledger.shut_down_at, "{:?} was idle until {due:?}", client.end);
                assert!(due.is_some(), "{:?} was half-closed without a reason", client.end);
            }
        }
    }

    /// Judges a call. The pending client was accepted, and nothing is known of it yet.
    fn judge_call(&mut self, kernel: &SimKernel, call: &Event, pending: &mut Option<SimClient>) {
        match *call {
            Event::Accept(Subject::Listener(_), Ok((stream, _))) => {
                self.admission.decide();
                let client = SimClient::of(stream);
                *pending = Some(client);
                match self.headers {
                    None => self.admission.accepted(kernel.peer(client), kernel.last_reading()),
                    Some(_) => self.admission.accepted_proxied(),
                }
            }
            Event::FillRandom(_, Err(_)) => {
                *pending = None;
                if self.headers.is_none() {
                    self.admission.admitted();
                }
            }
            Event::Close(stream, _) if *pending == Some(SimClient::of(stream)) => {
                panic!("{stream} was closed without a word");
            }
            _ => {}
        }
    }

    fn judge_note(
        &mut self,
        kernel: &SimKernel,
        clients: &[Client],
        note: &Note,
        record: Option<&Record>,
        pending: &mut Option<SimClient>,
    ) {
        let now = kernel.last_reading();
        match *note {
            Note::Refused(peer, why) => {
                let client = pending.take().expect("it was accepted before");
                assert_eq!(peer, kernel.peer(client), "another client was refused");
                match why {
                    Refusal::UntrustedProxy => {
                        assert!(self.headers == Some(true) && !is_named(peer), "{peer:?} is named");
                        self.admission.proxy_refused();
                    }
                    _ => self.admission.refused(why),
                }
            }
            Note::Proxied(id, ref named) => {
                self.admission.decide();
                let named = named.as_ref().expect("only recordings have none");
                let named = named.endpoints.map(|endpoints| endpoints.source);
                let client = client_of(kernel, clients, id).expect("it is registered");
                let header = client.header.as_ref().expect("it sent one");
                assert!(header.is_complete(kernel.ledger(client.end)), "{id} has no header");
                assert_eq!(named, header.client(), "{id} has the header of another client");
                self.records.proxied(id, named);
                self.admission.identified(id, named, now);
            }
            Note::Opened(id, peer) => {
                self.opened += 1;
                self.records.opened(id);
                let client = pending.take().expect("it was accepted before");
                assert_eq!(peer, kernel.peer(client), "{id} has the address of another client");
                match self.headers {
                    None => self.admission.opened(id, peer, now),
                    Some(named_only) => {
                        assert!(!named_only || is_named(peer), "{peer:?} is not named");
                        self.admission.opened_proxied(id, now);
                    }
                }
            }
            Note::Authenticated(id, key) => {
                let name = key.map(|key| key.name.expect("only recordings have none"));
                self.records.authenticated(id, name);
                self.authenticated += 1;
                self.admission.decide();
                self.admission.authenticated(id);
                let client = client_of(kernel, clients, id).expect("it is registered");
                assert!(client.honest, "a wrong digest was accepted");
            }
            Note::SetupFailed(..) => self.setup_failed += 1,
            Note::Closed(id, reason) => {
                self.records.closed(kernel, id, record);
                self.check_closed(kernel, clients, id, reason);
            }
            _ => {}
        }
    }

    fn check_closed(
        &mut self,
        kernel: &SimKernel,
        clients: &[Client],
        id: ConnId,
        reason: CloseReason,
    ) {
        *self.closes.entry(reason).or_default() += 1;
        let now = kernel.last_reading();
        self.admission.closed(id, reason, now);
        let Some(client) = client_of(kernel, clients, id) else { return };
        self.reasons.insert(client.end, reason);
        let ledger = kernel.ledger(client.end);
        let (_, how) = ledger.closed.expect("a connection that is over is closed");
        let undelivered = undelivered(client, ledger);
        if undelivered > 0 {
            assert_eq!(how, Close::Reset, "a partial answer ends in order");
        }
        let accepted = ledger.accepted_at.expect("it was accepted");
        let left = matches!(client.fate, Fate::Finished | Fate::Gone);
        let due = match reason {
            CloseReason::AuthTimeout => {
                // What is there before the last of the challenge has left does not answer it.
                let asked = ledger.sent >= CHALLENGE
                    && ledger.sent_at < Some(now)
                    && self.last_look_is_whole;
                let there = client.received(ledger) + kernel.unread(client.end) as u64;
                assert!(
                    !asked || client.at_once < DIGEST || there < DIGEST,
                    "{id} timed out with its digest in the kernel"
                );
                assert!(!client.awaits_header(ledger), "{id} has no header yet");
                let since = self.asked_at(client, ledger).expect("it was to be sent a challenge");
                since.saturating_add(self.config.auth_timeout.expect("there is one"))
            }
            CloseReason::HeaderTimeout => {
                let header = client.header.as_ref().expect("it was to send one");
                let at_once = client.at_once.min(self.config.recv_size as u64);
                let whole = at_once >= header.len() && self.last_look_is_whole;
                let there = ledger.received + kernel.unread(client.end) as u64;
                assert!(
                    !whole || there < header.len(),
                    "{id} timed out with its header in the kernel"
                );
                assert!(client.awaits_header(ledger), "{id} has sent its header");
                accepted.saturating_add(self.config.header_timeout.expect("there is one"))
            }
            CloseReason::HeaderMissing => {
                let header = client.header.as_ref().expect("it was to send one");
                assert!(header.is_wrong_for(reason) && ledger.sent == 0, "{id}");
                now
            }
            CloseReason::HeaderMalformed => {
                let header = client.header.as_ref().expect("it was to send one");
                let cut_off = left && client.awaits_header(ledger);
                assert!(header.is_wrong_for(reason) || cut_off, "{id} has a right header");
                assert_eq!(ledger.sent, 0, "{id}");
                now
            }
            CloseReason::Refused => {
                assert!(self.headers.is_some() && ledger.sent == 0, "{id} was sent a challenge");
                now
            }
            CloseReason::HealthCheck => {
                let header = client.header.as_ref().expect("it was to send one");
                let own = header.is_complete(ledger) && header.client().is_none();
                assert!(own || ledger.received == 0, "{id} is a client's");
                let judged = ledger.sent >= CHALLENGE && client.received(ledger) >= DIGEST;
                assert!(!judged, "{id} gave a digest");
                assert!(left || ledger.failed, "{id} did not leave");
                now
            }
            CloseReason::SendTimeout => {
                assert!(undelivered > 0, "{id} had nothing pending");
                // The start of a pushed message's `sendall` is not known from outside.
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
                assert!(client.received(ledger) < DIGEST && !client.awaits_header(ledger));
                let named = client.header.as_ref().is_none_or(|header| header.client().is_some());
                assert!(named, "{id} is the balancer's own: it checks the server's health");
                now
            }
            CloseReason::PeerFinished => {
                assert_eq!(undelivered, 0, "{id} ended before it had everything");
                now
            }
            CloseReason::Reset | CloseReason::TransportError => {
                assert!(ledger.failed, "{id}: {reason}, and no call failed");
                now
            }
            CloseReason::PeerVanished => {
                assert_eq!(client.fate, Fate::Vanished, "{id} is present, and was given up");
                self.keepalive.least(kernel.heard_at(client.end))
            }
            CloseReason::IdleTimeout => {
                assert!(ledger.shut_down_at.is_some(), "{id} was not half-closed");
                now
            }
            CloseReason::Killed => {
                let number = id.to_string()[1..].parse().unwrap();
                assert!(self.kills.contains(&number), "{id} was killed, and none asked for that");
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

    /// Checks at the end that each handler was called for the start and the end of its connection.
    pub fn compare_with_handlers(
        &self,
        kernel: &SimKernel,
        clients: &[Client],
        calls: &Calls,
        stats: &Stats,
    ) {
        assert_eq!(calls.opened.len() as u64, stats.authenticated, "opened handlers");
        assert_eq!(calls.closed.len(), calls.opened.len(), "closed handlers");
        for (peer, reason) in &calls.closed {
            let client = kernel.client_named(peer.id()).expect("it was registered");
            let named = clients.iter().find(|known| known.end == client);
            let named = named.and_then(|known| known.header.as_ref()?.client());
            let expected = named.or(kernel.peer(client));
            assert_eq!(peer.address(), expected, "{client:?} has the address of another");
            assert_eq!(self.reasons.get(&client), Some(reason), "{client:?}");
        }
    }

    /// Checks at the end that the counters equal the notes. There is none of the end of a client for which
    /// there were no random bytes.
    pub fn compare_counters(&self, stats: &Stats) {
        let unreported = stats.accepted - self.opened;
        for (reason, count) in stats.closes() {
            let reported = self.closes.get(&reason).copied().unwrap_or(0);
            let reported =
                reported + if reason == CloseReason::SetupFailed { unreported } else { 0 };
            assert_eq!(reported, count, "the observer saw {reported} of them close: {reason}");
        }
        assert_eq!(self.authenticated, stats.authenticated, "reported and counted");
        let by_key = stats.authenticated_by_key().iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(self.authenticated, by_key, "reported and counted by key");
        let setup_failed = stats.closed(CloseReason::SetupFailed);
        assert_eq!(self.setup_failed, setup_failed, "reported and counted failures of setup");
    }

    /// Checks an open connection between two turns.
    fn check_open(&mut self, client: &Client, ledger: &Ledger, now: Monotonic) {
        let end = client.end;
        let lead = ledger.greatest_lead.unwrap_or(i64::MIN);
        match &client.header {
            None => assert!(lead <= -16, "{end:?}: the server read before it had answered"),
            // All but its last byte may be there when more is asked for.
            Some(header) => {
                assert!(lead < header.len().cast_signed() || header.is_silent(), "{end:?}: {lead}");
                assert!(!header.is_refuted(ledger), "{end:?} sent no header and is connected");
                let spoke = ledger.spoke.is_none_or(|(_, received)| received >= header.len());
                assert!(spoke, "{end:?} was sent something before its header was complete");
            }
        }
        let undelivered = undelivered(client, ledger);
        let most = match client.pushed_at {
            None => self.config.recv_size,
            Some(_) => self.config.max_answer,
        };
        assert!(undelivered <= most as u64, "{end:?} has more than one answer pending");
        if !client.honest {
            let early = ledger.sent < CHALLENGE;
            assert!(
                early || client.received(ledger) < DIGEST,
                "{end:?} gave a wrong digest and is still connected"
            );
        }
        let due = self.due(client, ledger);
        let overdue = self.overdue.entry(end).or_default();
        match due {
            Some(due) if due.as_nanos().div_ceil(TICK) <= now.as_nanos() / TICK => *overdue += 1,
            _ => *overdue = 0,
        }
        assert!(*overdue <= self.grace_turns, "{end:?} outlived its deadline: {ledger:?}");
    }

    /// The beginning of the time to authenticate: a client is accepted, or its header is complete.
    fn asked_at(&self, client: &Client, ledger: &Ledger) -> Option<Monotonic> {
        match client.header {
            None => ledger.accepted_at,
            Some(_) => self.named_at.get(&client.end).copied(),
        }
    }

    /// The deadline of an open connection's current call by Python's rules.
    fn due(&self, client: &Client, ledger: &Ledger) -> Option<Monotonic> {
        let config = &self.config;
        let (since, limit) = if ledger.shut_down_at.is_some() {
            (ledger.shut_down_at, config.linger_timeout)
        } else if client.awaits_header(ledger) {
            (ledger.accepted_at, config.header_timeout)
        } else if client.received(ledger) < DIGEST {
            (self.asked_at(client, ledger), config.auth_timeout)
        } else if undelivered(client, ledger) > 0 {
            // Each of several messages has its own timeout, which starts when the one before is sent.
            let began = ledger.received_at.max(client.pushed_at);
            let again = ledger.sent_at.filter(|_| client.pushed_at.is_some());
            (began.max(again), config.send_timeout)
        } else if self.draining.is_some() {
            (None, None) // It will be half-closed at once.
        } else {
            (last_moved(ledger), config.idle_timeout)
        };
        Some(since?.saturating_add(limit?))
    }
}
