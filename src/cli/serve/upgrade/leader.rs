//! The old process of an upgrade: it starts the new one, hands over, and lets go, or goes on.

mod attempt;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;
use saltecho::metrics::Upgrades;
use saltecho::proto::Handler;
use saltecho::reactor::MioKernel;
use saltecho::server::handover::Frozen;
use saltecho::server::{Handle, Outcome, Parking, Server};

use self::attempt::{Attempt, Failed};
use super::book::{Book, Verdict};
use super::checks::refuse_impossible;
use super::lines::{Step, VERSION};
use super::offer::Serving;
use super::process::{Heir, Origin};
use super::reason::Reason;
use crate::cli::log::Log;
use crate::cli::serve::notify::Manager;

/// Time in which the loops must come to the end of their turns.
const PARK_LIMIT: Duration = Duration::from_millis(500);

/// What a server needs to be upgraded. Clones share it.
#[derive(Clone)]
pub(in crate::cli::serve) struct Upgrader(Arc<Shared>);

struct Shared {
    log: Log,
    origin: std::io::Result<Origin>,
    freeze_max: Duration,
    parking: Parking,
    manager: Option<Manager>,
    book: Mutex<Book>,
    /// Known once the listeners are open.
    serving: Mutex<Option<Serving>>,
    busy: AtomicBool,
    /// The number of the next wish.
    number: AtomicU64,
    draining: AtomicBool,
    recorded: AtomicBool,
    cancel: Cancel,
    /// An attempt whose loops are about to stop, for the thread on which they do.
    parked: Mutex<Option<Attempt>>,
    /// The process that has taken over.
    successor: Mutex<Option<Heir>>,
}

/// Ends an attempt from another thread.
struct Cancel {
    asked: AtomicBool,
    /// Readable since then.
    event: OwnedFd,
}

impl Cancel {
    fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asked: AtomicBool::new(false), event })
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        // It fails only if it is readable already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    fn reset(&self) {
        self.asked.store(false, Ordering::SeqCst);
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}

/// A wish for an upgrade.
struct Asked {
    /// Its name in the log.
    id: String,
    check: bool,
    outcome: Option<Outcome>,
}

/// The servers after a handover.
pub(in crate::cli::serve) enum Handed<H> {
    /// The new process serves. These finish what could not be handed over.
    Over(Vec<Server<MioKernel, H>>),
    /// It failed, and these go on.
    Back(Vec<Server<MioKernel, H>>),
}

impl Upgrader {
    /// # Errors
    /// If there is no descriptor for it.
    pub(in crate::cli::serve) fn new(
        log: &Log,
        workers: usize,
        freeze_max: Duration,
        manager: Option<Manager>,
    ) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            log: log.clone(),
            origin: Origin::of_this_process(),
            freeze_max,
            parking: Parking::new(workers),
            manager,
            book: Mutex::new(Book::new()),
            serving: Mutex::new(None),
            busy: AtomicBool::new(false),
            number: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            recorded: AtomicBool::new(false),
            cancel: Cancel::new()?,
            parked: Mutex::new(None),
            successor: Mutex::new(None),
        })))
    }

    pub(in crate::cli::serve) fn parking(&self) -> &Parking {
        &self.0.parking
    }

    /// What it serves, from now on.
    pub(in crate::cli::serve) fn set_serving(&self, serving: Serving) {
        *lock(&self.0.serving) = Some(serving);
    }

    /// Goes on with the figures of the process before.
    pub(super) fn took_over(&self, book: Book) {
        let (generation, freeze) = (book.generation, book.last_freeze.as_millis());
        *lock(&self.0.book) = book;
        self.status(&format!(
            "generation {generation}, version {VERSION}, last freeze {freeze} ms"
        ));
    }

    /// The figures for a scrape.
    pub(in crate::cli::serve) fn upgrades(&self) -> Upgrades {
        lock(&self.0.book).upgrades(self.0.busy.load(Ordering::Relaxed))
    }

    /// Lines that the logs of earlier processes left out.
    pub(in crate::cli::serve) fn lines_suppressed_before(&self) -> u64 {
        lock(&self.0.book).lines_suppressed
    }

    /// Begins an upgrade, or a check of one. It returns at once. `by` says who asked.
    pub(in crate::cli::serve) fn ask(
        &self,
        by: &str,
        check: bool,
        outcome: Option<Outcome>,
        server: &Handle,
    ) {
        let generation = lock(&self.0.book).generation;
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let asked = Asked { id, check, outcome };
        let what = if check { " as a check only" } else { "" };
        Step::new(&asked.id, "requested", generation).log(&self.0.log, &format!(" by {by}{what}"));
        if self.0.draining.load(Ordering::SeqCst) {
            let text = "the server drains, and its listeners are closing: start a new one";
            return self.refuse(asked, Reason::Draining, text);
        }
        if self.0.recorded.load(Ordering::SeqCst) {
            let text = "the server is recorded, and a recording ends with its process: restart it";
            return self.refuse(asked, Reason::Recorded, text);
        }
        if self.0.busy.swap(true, Ordering::SeqCst) {
            let text = "another upgrade is in progress: wait for its result";
            return self.refuse(asked, Reason::Busy, text);
        }
        self.0.cancel.reset();
        let (upgrader, server) = (self.clone(), server.clone());
        let slot = Arc::new(Mutex::new(Some(asked)));
        let theirs = Arc::clone(&slot);
        let thread = std::thread::Builder::new().name("upgrade".to_owned()).spawn(move || {
            let asked = lock(&theirs).take().expect("the thread was started, so it is here");
            upgrader.prepare(asked, &server);
        });
        if let Err(error) = thread {
            let asked = lock(&slot).take().expect("no thread took it");
            self.refuse(asked, Reason::Memory, &format!("cannot start a thread: {error}"));
            self.finish();
        }
    }

    /// Refuses all upgrades: the server is recorded.
    pub(in crate::cli::serve) fn refuse_recorded(&self) {
        self.0.recorded.store(true, Ordering::SeqCst);
    }

    /// Gives up the upgrade in progress, if there is one, and refuses others: a drain begins.
    pub(in crate::cli::serve) fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.cancel.ask();
    }

    /// Passes a signal on to the process that has taken over; false if there is none.
    pub(in crate::cli::serve) fn forward(&self, signal: i32) -> bool {
        let successor = lock(&self.0.successor);
        let Some(heir) = successor.as_ref() else { return false };
        if let Some(signal) = Signal::from_named_raw(signal) {
            heir.signal(signal);
        }
        true
    }

    /// Returns true once another process serves.
    pub(in crate::cli::serve) fn has_left(&self) -> bool {
        lock(&self.0.successor).is_some()
    }

    fn refuse(&self, asked: Asked, reason: Reason, text: &str) {
        let verdict = Verdict::Refused(reason);
        let generation = self.count(verdict);
        let step =
            Step { reason: Some(reason.label()), ..Step::new(&asked.id, "refused", generation) };
        step.log(&self.0.log, &format!(": {text}; version {VERSION} goes on"));
        self.status(&format!("upgrade refused: {text}"));
        if let Some(outcome) = asked.outcome {
            outcome.set(Err(format!("refused ({}): {text}", reason.label())));
        }
    }

    /// Everything up to the end of the last turn, on a thread of its own.
    fn prepare(&self, asked: Asked, server: &Handle) {
        let connections = server.stats().map_or(0, |stats| stats.connections);
        let origin = match &self.0.origin {
            Ok(origin) => origin,
            Err(error) => {
                let text = format!("the path of the program is not known: {error}");
                self.refuse(asked, Reason::NoProgram, &text);
                return self.finish();
            }
        };
        let possible = refuse_impossible(origin.program(), connections, self.0.freeze_max);
        if let Err((reason, text)) = possible {
            self.refuse(asked, reason, &text);
            return self.finish();
        }
        let mut attempt = match self.start(origin, asked, connections) {
            Some(attempt) => attempt,
            None => return self.finish(),
        };
        if let Err(failed) = attempt.prepare(self) {
            return self.give_up(attempt, failed);
        }
        if attempt.asked.check {
            return self.checked(attempt);
        }
        attempt.begin_freeze();
        *lock(&self.0.parked) = Some(attempt);
        if !self.0.parking.park(server, PARK_LIMIT)
            && let Some(mut attempt) = lock(&self.0.parked).take()
        {
            let failed = attempt.not_parked();
            self.give_up(attempt, failed);
        }
    }

    fn checked(&self, mut attempt: Attempt) {
        attempt.end(false);
        self.count(Verdict::Checked);
        attempt
            .step("checked")
            .log(&self.0.log, ": the new process is ready; nothing was handed over");
        let text = attempt.summary("checked");
        attempt.asked.set(Ok(text));
        self.finish();
    }

    /// Ends an attempt: the new process is killed first, so that this one may go on.
    fn give_up(&self, mut attempt: Attempt, failed: Failed) {
        let frozen = attempt.frozen();
        let Failed { reason, text } = failed;
        let ending = attempt.end(matches!(reason, Reason::Died | Reason::Declined));
        let generation = self.count(Verdict::Aborted(reason));
        let mut text = format!("{text} ({}: {ending})", reason.label());
        if let Some(frozen) = frozen {
            text.push_str(&format!("; frozen for {} ms", frozen.as_millis()));
        }
        let step = Step { reason: Some(reason.label()), ..attempt.step("given up") };
        step.log(&self.0.log, &format!(": {text}; version {VERSION} goes on"));
        self.status(&format!("upgrade given up: {text}"));
        attempt.asked.set(Err(format!("given up: {text}; generation {generation} goes on")));
        self.finish();
    }

    /// Lets the next upgrade begin.
    fn finish(&self) {
        self.0.busy.store(false, Ordering::SeqCst);
    }

    /// Counts the result of an attempt; returns the generation of this process.
    fn count(&self, verdict: Verdict) -> u64 {
        let mut book = lock(&self.0.book);
        book.count(verdict);
        book.generation
    }

    /// Starts the new process. `None` if that failed, which has been reported.
    fn start(&self, origin: &Origin, asked: Asked, connections: usize) -> Option<Attempt> {
        let generation = lock(&self.0.book).generation;
        let started = Attempt::start(origin, asked, connections, generation, &self.0.log);
        let (mut asked, error) = match started {
            Ok(attempt) => return Some(attempt),
            Err(refused) => *refused,
        };
        self.count(Verdict::Aborted(Reason::Spawn));
        let program = origin.program().display();
        let text = format!("cannot start {program}: {error}; version {VERSION} goes on");
        let step = Step::new(&asked.id, "given up", generation);
        let step = Step { reason: Some(Reason::Spawn.label()), ..step };
        step.log(&self.0.log, &format!(": {text}"));
        self.status(&format!("upgrade given up: {text}"));
        asked.set(Err(format!("given up: {text}")));
        None
    }

    /// Hands everything over to the new process that is ready, on the thread of the first loop.
    pub(in crate::cli::serve) fn hand_over<H: Handler + Clone>(
        &self,
        servers: Vec<Server<MioKernel, H>>,
    ) -> Handed<H> {
        let Some(mut attempt) = lock(&self.0.parked).take() else { return Handed::Back(servers) };
        let mut frozen = Vec::with_capacity(servers.len());
        let mut unfrozen = Vec::new();
        for server in servers {
            match server.freeze() {
                Ok(one) => frozen.push(one),
                Err(server) => unfrozen.push(*server),
            }
        }
        let handed = match unfrozen.is_empty() {
            true => attempt.hand_over(self, &frozen),
            false => Err(attempt.cancelled()),
        };
        match handed {
            Ok(()) => {
                self.left(attempt);
                Handed::Over(frozen.into_iter().map(Frozen::leave).collect())
            }
            Err(failed) => {
                if let (true, Some(manager)) = (attempt.has_announced(), &self.0.manager) {
                    manager.succeeded_by(std::process::id());
                }
                self.give_up(attempt, failed);
                let resumed = frozen.into_iter().map(Frozen::resume);
                Handed::Back(resumed.chain(unfrozen).collect())
            }
        }
    }

    /// The new process serves.
    fn left(&self, mut attempt: Attempt) {
        let text = format!(" by process {}", attempt.successor.pid());
        attempt.step("taken over").log(&self.0.log, &text);
        let summary = attempt.summary("upgraded");
        attempt.asked.set(Ok(summary));
        *lock(&self.0.successor) = Some(attempt.into_heir());
    }

    /// Waits until the service manager knows of the new process, without which it would take the end
    /// of this one for the end of the service.
    pub(in crate::cli::serve) fn wait_for_manager(&self) {
        if let Some(manager) = &self.0.manager {
            manager.wait_until_known(Instant::now() + Duration::from_secs(10));
        }
    }

    fn status(&self, text: &str) {
        if let Some(manager) = &self.0.manager {
            manager.upgrade(text);
        }
    }
}

impl Asked {
    fn set(&mut self, result: Result<String, String>) {
        if let Some(outcome) = self.outcome.take() {
            outcome.set(result);
        }
    }
}

/// What a lock protects is whole after each step, so a panic meanwhile does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsFd for Cancel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.event.as_fd()
    }
}
