//! One attempt of an upgrade, in the old process: messages and deadlines around [`Old`].

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use saltecho::proto::Handler;
use saltecho::reactor::MioKernel;
use saltecho::server::handover::{Frozen, Totals};

use super::super::agreement::Agreement;
use super::super::book::Book;
use super::super::channel::{Broken, Channel, Message, Outgoing, Sent};
use super::super::checks::freeze_limit;
use super::super::clock;
use super::super::lines::{Step, VERSION};
use super::super::message::{Kind, Text};
use super::super::old::{Action, Event, Old};
use super::super::process::{Heir, Origin, Successor, ending};
use super::super::reason::Reason;
use super::{Asked, Upgrader, lock};
use crate::cli::log::Log;

/// Time in which the new process must be ready, from its start.
const PREPARE_LIMIT: Duration = Duration::from_secs(10);
/// Time in which it must say that it has read COMMIT.
const TAKE_LIMIT: Duration = Duration::from_secs(1);
/// Time in which a process that has closed the channel may end by itself, for its exit code.
const ENDING_LIMIT: Duration = Duration::from_secs(1);
/// The same while clients wait.
const FROZEN_ENDING_LIMIT: Duration = Duration::from_millis(100);
/// Time in which a killed process must end.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// An attempt, whose new process runs.
pub(super) struct Attempt {
    pub(super) asked: Asked,
    pub(super) successor: Successor,
    channel: Channel,
    machine: Old,
    generation: u64,
    connections: usize,
    log: Log,
    started: Instant,
    frozen_at: Option<Instant>,
    /// What the new process says of itself.
    hello: Text,
    /// The words for what went wrong.
    why: Option<String>,
    announced: bool,
    taken: Text,
    /// What was sent.
    totals: Totals,
}

/// Why the old process goes on.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) reason: Reason,
    pub(super) text: String,
}

impl Attempt {
    /// Starts the new process.
    pub(super) fn start(
        origin: &Origin,
        asked: Asked,
        connections: usize,
        generation: u64,
        log: &Log,
    ) -> Result<Self, Box<(Asked, std::io::Error)>> {
        let started =
            Channel::pair().and_then(|(channel, theirs)| Ok((channel, origin.start(theirs)?)));
        let (channel, successor) = match started {
            Ok(started) => started,
            Err(error) => return Err(Box::new((asked, error))),
        };
        let attempt = Self {
            asked,
            successor,
            channel,
            machine: Old::begin(),
            generation,
            connections,
            log: log.clone(),
            started: Instant::now(),
            frozen_at: None,
            hello: Text::default(),
            why: None,
            announced: false,
            taken: Text::default(),
            totals: Totals::default(),
        };
        attempt.note("started", &format!(": {}", origin.program().display()));
        Ok(attempt)
    }

    pub(super) fn step(&self, step: &'static str) -> Step<'_> {
        let frozen = self.frozen().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Step {
            other_pid: Some(self.successor.pid()),
            freeze_ns: frozen,
            connections: Some(self.connections as u64),
            ..Step::new(&self.asked.id, step, self.generation)
        }
    }

    fn note(&self, step: &'static str, text: &str) {
        let text = format!(" (process {}){text}", self.successor.pid());
        self.step(step).log(&self.log, &text);
    }

    /// Lets the new process check its settings and take memory.
    pub(super) fn prepare(&mut self, upgrader: &Upgrader) -> Result<(), Failed> {
        let deadline = self.started + PREPARE_LIMIT;
        loop {
            let event = self.next(upgrader, deadline);
            match self.decide(event)? {
                Action::Offer => self.offer(upgrader)?,
                Action::Park => {
                    let took = self.started.elapsed();
                    lock(&upgrader.0.book).last_prepare = took;
                    self.note("prepared", &format!(" within {} ms", took.as_millis()));
                    upgrader.status("upgrading: prepared");
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Waits for something to happen.
    fn next(&mut self, upgrader: &Upgrader, deadline: Instant) -> Event {
        // A cancelled upgrade must not get in the way of a drain, even if the other side floods the channel.
        if upgrader.0.cancel.is_asked() {
            return Event::Failed(Reason::Cancelled);
        }
        let others = [self.successor.as_fd(), upgrader.0.cancel.as_fd()];
        match self.channel.receive(&others, Some(deadline)) {
            Ok(Some(message)) => self.came(&message),
            Ok(None) if upgrader.0.cancel.is_asked() => Event::Failed(Reason::Cancelled),
            Ok(None) if Instant::now() >= deadline => Event::Late,
            Ok(None) => Event::Ended,
            Err(error) => self.broken(&error),
        }
    }

    fn came(&mut self, message: &Message) -> Event {
        match message.header.kind {
            Kind::Hello => self.hello = Text::parse(&message.payload),
            Kind::Ack if Totals::from_bytes(&message.payload) != Some(self.totals) => {
                self.why = Some("the new process acknowledged something else".to_owned());
                return Event::Failed(Reason::Channel);
            }
            Kind::Taken => self.taken = Text::parse(&message.payload),
            Kind::Error => {
                let text = Text::parse(&message.payload);
                self.why = text.get("text").map(str::to_owned);
                let reason = text.get("reason").and_then(Reason::of_new);
                if let Some(reason) = reason {
                    return Event::Failed(reason);
                }
            }
            _ => {}
        }
        Event::Came(message.header.kind)
    }

    fn broken(&mut self, error: &Broken) -> Event {
        if matches!(error, Broken::Closed) {
            return Event::Ended;
        }
        self.why = Some(error.to_string());
        match error {
            Broken::Truncated { .. } => Event::Failed(Reason::Truncated),
            Broken::InFlight => Event::Late,
            _ => Event::Failed(Reason::Channel),
        }
    }

    /// What follows from an event, unless it is the end of the attempt.
    fn decide(&mut self, event: Event) -> Result<Action, Failed> {
        match self.machine.handle(event) {
            Some(Action::GiveUp(reason)) => Err(self.failed(reason)),
            Some(action) => Ok(action),
            None => Err(self.failed(Reason::Channel)),
        }
    }

    fn failed(&mut self, reason: Reason) -> Failed {
        let text = match (self.why.take(), reason) {
            (Some(why), _) => why,
            (None, Reason::Died) => "the new process ended".to_owned(),
            (None, Reason::Late) => "the new process was not ready in time".to_owned(),
            (None, Reason::NotParked) => "a loop did not stop in time".to_owned(),
            (None, Reason::Cancelled) => "a drain began".to_owned(),
            (None, _) => "the new process said something unexpected".to_owned(),
        };
        Failed { reason, text }
    }

    fn offer(&mut self, upgrader: &Upgrader) -> Result<(), Failed> {
        let agreed = match Agreement::with_new(&self.hello) {
            Ok(agreed) => agreed,
            Err(error) => {
                self.why = Some(error.to_string());
                return self.decide(Event::Failed(Reason::Format)).map(drop);
            }
        };
        let text = agreed
            .add_to(Text::default())
            .with("upgrade", &self.asked.id)
            .with("version", VERSION)
            .with("generation", self.generation)
            .with("connections", self.connections);
        let text = match &*lock(&upgrader.0.serving) {
            Some(serving) => serving.add_to(text),
            None => text,
        };
        self.note("format agreed", &format!(": {}", agreed.format));
        self.send_text(Kind::Offer, &text)
    }

    fn send_text(&mut self, kind: Kind, text: &Text) -> Result<(), Failed> {
        let Err(error) = self.channel.send_text(kind, text) else { return Ok(()) };
        // The last words of a process that has ended, if there are any.
        let event = match (&error, self.channel.receive(&[], Some(Instant::now()))) {
            (Broken::Closed, Ok(Some(message))) => self.came(&message),
            _ => self.broken(&error),
        };
        self.decide(event).map(drop)
    }

    pub(super) fn begin_freeze(&mut self) {
        self.frozen_at = Some(Instant::now());
    }

    pub(super) fn frozen(&self) -> Option<Duration> {
        self.frozen_at.map(|at| at.elapsed())
    }

    pub(super) fn not_parked(&mut self) -> Failed {
        let _ = self.machine.handle(Event::Late);
        self.failed(Reason::NotParked)
    }

    pub(super) fn cancelled(&mut self) -> Failed {
        let _ = self.machine.handle(Event::Failed(Reason::Cancelled));
        self.failed(Reason::Cancelled)
    }

    /// Sends everything, and lets go once the new process has it.
    pub(super) fn hand_over<H: Handler + Clone>(
        &mut self,
        upgrader: &Upgrader,
        frozen: &[Frozen<MioKernel, H>],
    ) -> Result<(), Failed> {
        if let Some(manager) = &upgrader.0.manager {
            manager.feed_watchdog();
        }
        let deadline = Instant::now() + freeze_limit(self.connections, upgrader.0.freeze_max);
        self.decide(Event::Parked)?;
        self.note("frozen", "");
        let mut totals = Totals::default();
        // Nothing can be acknowledged before the end.
        self.totals = Totals { chunks: u64::MAX, ..totals };
        for one in frozen {
            let mut chunks = one.chunks();
            for chunk in &mut chunks {
                let sockets: Vec<BorrowedFd<'_>> = chunk.sockets.iter().map(AsFd::as_fd).collect();
                self.send(
                    upgrader,
                    &Outgoing {
                        kind: Kind::Records(chunk.kind.code()),
                        count: chunk.count,
                        record_size: chunk.record_size,
                        payload: &chunk.payload,
                        sockets: &sockets,
                    },
                    deadline,
                )?;
            }
            totals += chunks.totals();
        }
        self.totals = totals;
        self.connections = usize::try_from(totals.connections).unwrap_or(usize::MAX);
        let book = self.program(&lock(&upgrader.0.book));
        self.send(upgrader, &Outgoing::text(Kind::Program, &book.to_payload()), deadline)?;
        self.send(upgrader, &Outgoing::text(Kind::End, &totals.to_bytes()), deadline)?;
        let (listeners, loops) = (totals.listeners, totals.loops);
        self.note(
            "sent",
            &format!(
                ": {} connections, {listeners} listeners of {loops} loops, {} unsent bytes",
                totals.connections, totals.unsent
            ),
        );
        self.decide(Event::SentAll)?;
        self.await_ack(upgrader, deadline)?;
        self.note("acknowledged", "");
        self.commit(upgrader)
    }

    /// The state of the program, of which the records know nothing.
    fn program(&self, book: &Book) -> Text {
        let mut book = book.clone();
        book.lines_suppressed += self.log.suppressed();
        let ago = self.frozen().unwrap_or_default();
        let (level, configured) = self.log.levels();
        book.to_text()
            .with("log-level", level.name())
            .with("log-level-configured", configured.name())
            .with("frozen-at", clock().saturating_sub(ago).as_nanos())
            .with("handed-over", self.connections)
    }

    fn send(
        &mut self,
        upgrader: &Upgrader,
        message: &Outgoing<'_>,
        deadline: Instant,
    ) -> Result<(), Failed> {
        loop {
            match self.channel.send(message, deadline) {
                Ok(Sent::Yes) => return Ok(()),
                // The other side has nothing to say now, unless it gives up.
                Ok(Sent::No) => {
                    let event = self.next(upgrader, Instant::now().min(deadline));
                    if event != Event::Late || Instant::now() >= deadline {
                        self.decide(event)?;
                    }
                }
                Err(Broken::Closed) => {
                    // Its last words, if there are any.
                    let event = self.next(upgrader, Instant::now());
                    self.decide(event)?;
                }
                Err(error) => {
                    let event = self.broken(&error);
                    self.decide(event)?;
                }
            }
        }
    }

    fn await_ack(&mut self, upgrader: &Upgrader, deadline: Instant) -> Result<(), Failed> {
        loop {
            let event = self.next(upgrader, deadline);
            if self.decide(event)? == Action::Commit {
                return Ok(());
            }
        }
    }

    /// From here on no socket is touched, unless the new process turns out to have touched none.
    fn commit(&mut self, upgrader: &Upgrader) -> Result<(), Failed> {
        if let Some(manager) = &upgrader.0.manager {
            manager.succeeded_by(self.successor.pid());
            self.announced = true;
        }
        self.send_text(Kind::Commit, &Text::default())?;
        self.note("committed", "");
        let deadline = Instant::now() + TAKE_LIMIT;
        loop {
            // It is too late for a drain to change anything.
            let others = [self.successor.as_fd()];
            let event = match self.channel.receive(&others, Some(deadline)) {
                Ok(Some(message)) => self.came(&message),
                Ok(None) if Instant::now() >= deadline => Event::Late,
                Ok(None) => Event::Ended,
                Err(error) => self.broken(&error),
            };
            match self.decide(event)? {
                Action::Leave => return Ok(()),
                Action::Halt if self.halt()? => return Ok(()),
                _ => {}
            }
        }
    }

    /// Stops the new process, and looks whether it has taken over: nothing can happen in between.
    fn halt(&mut self) -> Result<bool, Failed> {
        let stopped = self.successor.halt();
        let event = match self.channel.receive(&[], Some(Instant::now())) {
            Ok(Some(message)) => self.came(&message),
            Ok(None) if stopped => Event::Halted,
            Ok(None) => Event::Ended,
            Err(error) => self.broken(&error),
        };
        let action = self.decide(event)?;
        self.successor.resume();
        Ok(action == Action::Leave)
    }

    /// Ends the new process, and says how it ended: by itself, if it was about to.
    pub(super) fn end(&mut self, was_ending: bool) -> String {
        if was_ending {
            let is_frozen = self.frozen_at.is_some();
            self.successor.wait(if is_frozen { FROZEN_ENDING_LIMIT } else { ENDING_LIMIT });
        }
        ending(self.successor.kill(REAP_LIMIT))
    }

    /// Returns true if the new process was reported to the service manager.
    pub(super) const fn has_announced(&self) -> bool {
        self.announced
    }

    pub(super) fn into_heir(self) -> Heir {
        self.successor.into_heir()
    }

    /// The result in one line.
    pub(super) fn summary(&self, done: &str) -> String {
        let (old, new) = (std::process::id(), self.successor.pid());
        let version = self.hello.get("version").unwrap_or("unknown");
        let generation = self.generation + u64::from(self.frozen_at.is_some());
        let mut text = format!(
            "{done}: process {old} -> {new}, version {VERSION} -> {version}, generation {generation}, {} \
             connections",
            self.connections
        );
        if let Ok(nanos) = self.taken.read::<u64>("freeze-ns") {
            text.push_str(&format!(", frozen for {} ms", nanos / 1_000_000));
        }
        text
    }
}
