//! The new process of an upgrade: it checks, takes everything, and serves once it may.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::net::SocketType;
use rustix::net::sockopt::{socket_peercred, socket_type};
use rustix::process::{Pid, PidfdFlags, geteuid, getppid, pidfd_open};
use saltecho::proto::Handler;
use saltecho::reactor::{MioKernel, release_memory};
use saltecho::server::Server;
use saltecho::server::handover::{Decoder, Thawing, Totals};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::agreement::{Agreement, offer_all};
use super::book::Book;
use super::channel::{Broken, Channel, Message, Outgoing};
use super::checks::{OTHER_DESCRIPTORS, descriptor_limit};
use super::clock;
use super::leader::Upgrader;
use super::lines::{Step, VERSION};
use super::message::{Kind, Text};
use super::new::{Action, Event, New};
use super::offer::Serving;
use super::process::{blocked, ends_within};
use super::reason::Reason;
use crate::cli::environment::PREDECESSOR;
use crate::cli::failure::{Exit, Failure};
use crate::cli::log::{Level, Log};

/// Time in which a process whose end of the channel is closed must have ended.
const DEATH_LIMIT: Duration = Duration::from_secs(1);

/// The process that this one is to take over from.
pub(in crate::cli::serve) struct Predecessor {
    channel: Channel,
    pidfd: OwnedFd,
    pid: u32,
    signals: SignalFd,
}

/// A predecessor that has said what it serves.
pub(in crate::cli::serve) struct Following {
    predecessor: Predecessor,
    machine: New,
    offer: Text,
    /// What it serves.
    pub(in crate::cli::serve) serving: Serving,
}

/// Tells the process that started this one, if it is to take over, why it cannot. For what goes wrong
/// before there is a [`Predecessor`].
pub(in crate::cli) fn decline(text: &str) {
    if env::var_os(PREDECESSOR).is_some()
        && let Ok((mut channel, _)) = channel()
    {
        say_no(&mut channel, text, None);
    }
}

/// The channel, and the number of the process at its other end.
fn channel() -> anyhow::Result<(Channel, Pid)> {
    let stdin = rustix::stdio::stdin();
    let kind = socket_type(stdin);
    let foreign = || format!("{PREDECESSOR} is set, which only an upgrade does: remove it");
    ensure!(kind == Ok(SocketType::SEQPACKET), foreign());
    let peer = socket_peercred(stdin).with_context(foreign)?;
    // Another user's process could pass anything as a socket.
    ensure!(peer.uid == geteuid(), foreign());
    let named = env::var(PREDECESSOR).ok().and_then(|pid| pid.parse().ok());
    ensure!(named == Some(peer.pid.as_raw_nonzero().get()), foreign());
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    Ok((Channel::new(socket), peer.pid))
}

fn say_no(channel: &mut Channel, text: &str, reason: Option<Reason>) {
    let words = Text::default().with("text", text).with("version", VERSION);
    let words = match reason {
        Some(reason) => words.with("reason", reason.label()),
        None => words,
    };
    // Without an answer the other side finds the channel closed.
    let _ = channel.send_text(Kind::Error, &words);
}

impl Predecessor {
    /// The process that this one is to take over from, if it was started for that.
    ///
    /// # Errors
    /// If the variable that says so is set, and the channel is not there.
    pub(in crate::cli::serve) fn find() -> Result<Option<Self>, Failure> {
        if env::var_os(PREDECESSOR).is_none() {
            return Ok(None);
        }
        let found = channel().and_then(|(channel, pid)| {
            let pidfd =
                pidfd_open(pid, PidfdFlags::empty()).context("the old process has ended")?;
            // Its number could be another process' by now.
            ensure!(getppid() == Some(pid), "the old process has ended");
            let signals =
                SignalFd::with_flags(&blocked(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
            let signals = signals.map_err(io::Error::from)?;
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            Ok(Self { channel, pidfd, pid, signals })
        });
        found.map(Some).map_err(|error| Failure::new(Exit::Usage, error))
    }

    /// Says what this version understands, and hears what there is to take over.
    ///
    /// # Errors
    /// If the other side gives up, or says something else.
    pub(in crate::cli::serve) fn greet(mut self) -> Result<Following, Failure> {
        let hello = offer_all(Text::default())
            .with("version", VERSION)
            .with("pid", process::id())
            .with("nofile", descriptor_limit());
        let mut machine = New::begin();
        let sent = self.channel.send_text(Kind::Hello, &hello);
        sent.map_err(|error| Failure::new(Exit::Runtime, error))?;
        let (event, message) = self.next(true);
        let action = machine.handle(event);
        let (Action::Prepare, Some(message)) = (action, message) else { self.exit() };
        let offer = Text::parse(&message.payload);
        if let Err(error) = Agreement::with_old(&offer) {
            say_no(&mut self.channel, &error.to_string(), Some(Reason::Format));
            return Err(Failure::new(Exit::Runtime, error));
        }
        match Serving::read(&offer) {
            Ok(serving) => Ok(Following { predecessor: self, machine, offer, serving }),
            Err(error) => {
                say_no(&mut self.channel, &error.to_string(), None);
                Err(Failure::new(Exit::Runtime, error))
            }
        }
    }

    /// Waits for the next message. Before everything is here, a signal to end is obeyed, and others
    /// are the other process' business.
    fn next(&mut self, obeys: bool) -> (Event, Option<Message>) {
        loop {
            let (signals, pidfd) = (self.signals.as_fd(), self.pidfd.as_fd());
            let others = if obeys { vec![signals, pidfd] } else { vec![pidfd] };
            match self.channel.receive(&others, None) {
                Ok(Some(message)) => return (Event::Came(message.header.kind), Some(message)),
                Ok(None) => {
                    while let (true, Ok(Some(signal))) = (obeys, self.signals.read_signal()) {
                        if [SIGTERM, SIGINT].map(i32::unsigned_abs).contains(&signal.ssi_signo) {
                            self.exit();
                        }
                    }
                    if ends_within(self.pidfd.as_fd(), Duration::ZERO) {
                        return (Event::Closed { old_lives: false }, None);
                    }
                }
                Err(Broken::Closed) => {
                    let old_lives = !ends_within(self.pidfd.as_fd(), DEATH_LIMIT);
                    return (Event::Closed { old_lives }, None);
                }
                Err(error) => {
                    let reason =
                        matches!(error, Broken::Truncated { .. }).then_some(Reason::Truncated);
                    self.give_up(&error.to_string(), reason);
                }
            }
        }
    }

    /// Says why this process cannot take over, and ends it. The old one logs it.
    fn give_up(&mut self, text: &str, reason: Option<Reason>) -> ! {
        say_no(&mut self.channel, text, reason);
        process::exit(Exit::Runtime as i32)
    }

    /// Ends this process, which has touched nothing.
    fn exit(&self) -> ! {
        process::exit(0)
    }
}

impl Following {
    /// Says why this process cannot take over. The old one logs it.
    pub(in crate::cli::serve) fn decline(&mut self, text: &str) {
        say_no(&mut self.predecessor.channel, text, None);
    }

    /// Refuses to take over more than this process may have open.
    ///
    /// # Errors
    /// What to change.
    pub(in crate::cli::serve) fn refuse_without_descriptors(&self) -> Result<(), Failure> {
        let connections: u64 = self.offer.read("connections").unwrap_or(0);
        let limit = descriptor_limit();
        let needed = connections + OTHER_DESCRIPTORS;
        if needed > limit {
            let text = format!(
                "{connections} connections take {needed} descriptors, and the new process may have \
                 {limit}: raise the limit (LimitNOFILE=)"
            );
            return Err(Failure::with_message(Exit::Runtime, text));
        }
        Ok(())
    }

    /// Takes everything and serves. Nothing is touched before the other process says so, and after
    /// this one has said that it has everything nothing can fail.
    pub(in crate::cli::serve) fn take_over<H: Handler + Clone>(
        mut self,
        mut thawing: Vec<Thawing<MioKernel, H>>,
        upgrader: &Upgrader,
        log: &Log,
    ) -> Vec<Server<MioKernel, H>> {
        let mut decoder = Decoder::new();
        let (mut program, mut totals) = (Text::default(), Totals::default());
        let mut event = Event::Done;
        let mut message: Option<Message> = None;
        loop {
            let action = self.machine.handle(event);
            match (action, message.take()) {
                (Action::SendPrepared, _) => self.send(Kind::Prepared),
                (Action::Store, Some(message)) => match message.header.kind {
                    Kind::Records(kind) => {
                        let Message { header, payload, sockets } = message;
                        let size = header.record_size;
                        let taken = decoder.take(kind, header.count, size, &payload, sockets);
                        self.unless_failed(taken);
                    }
                    _ => program = Text::parse(&message.payload),
                },
                (Action::Restore, Some(message)) => {
                    let read = Totals::from_bytes(&message.payload);
                    totals = self.unless_failed(read.ok_or("the totals are too short"));
                    let finished = std::mem::take(&mut decoder).finish(&totals);
                    let arrived = self.unless_failed(finished);
                    let loops =
                        arrived.spread(thawing.len(), |socket: &OwnedFd| socket.try_clone());
                    let loops = self.unless_failed(loops);
                    for (thawing, arrived) in thawing.iter_mut().zip(loops) {
                        let restored = thawing.restore(arrived);
                        self.unless_failed(restored);
                    }
                    event = Event::Done;
                    continue;
                }
                (Action::SendAck, _) => {
                    let payload = totals.to_bytes();
                    let ack = Outgoing::text(Kind::Ack, &payload);
                    // One that cannot be sent means that the other side is gone.
                    let _ = self.predecessor.channel.send(&ack, Instant::now());
                }
                (Action::Serve, _) => break,
                (Action::Wait, _) => {}
                _ => self.predecessor.give_up("a message of the upgrade is out of order", None),
            }
            let obeys = action != Action::SendAck;
            (event, message) = self.predecessor.next(obeys);
            if matches!(event, Event::Closed { old_lives } if old_lives || obeys) {
                self.predecessor.exit();
            }
        }
        let freeze = frozen_since(&program);
        let taken = Text::default().with("freeze-ns", freeze.as_nanos());
        // Without the other process there is no reader for it.
        let _ = self.predecessor.channel.send_text(Kind::Taken, &taken);
        let servers: Vec<_> = thawing.into_iter().map(Thawing::commit).collect();
        self.note(upgrader, &program, &totals, freeze, log);
        release_memory();
        // Signals that came meanwhile are handled from now on. The other threads never have any.
        let _ = blocked().thread_unblock();
        servers
    }

    fn send(&mut self, kind: Kind) {
        // One that cannot be sent means that the other side is gone, which the next message tells.
        let _ = self.predecessor.channel.send_text(kind, &Text::default());
    }

    fn unless_failed<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> T {
        result.unwrap_or_else(|error| {
            let _ = self.machine.handle(Event::Failed);
            self.predecessor.give_up(&error.to_string(), None)
        })
    }

    fn note(
        &self,
        upgrader: &Upgrader,
        program: &Text,
        totals: &Totals,
        freeze: Duration,
        log: &Log,
    ) {
        let handed: u64 = program.read("handed-over").unwrap_or(totals.connections);
        let dropped = handed.saturating_sub(totals.connections);
        let mut book = Book::from_text(program);
        book.taken_over(freeze, totals.connections, dropped);
        keep_log_level(program, log);
        let id = self.offer.get("upgrade").unwrap_or_default();
        let version = self.offer.get("version").unwrap_or("unknown");
        let step = Step {
            other_pid: Some(self.predecessor.pid),
            freeze_ns: u64::try_from(freeze.as_nanos()).ok(),
            connections: Some(totals.connections),
            ..Step::new(id, "serves", book.generation)
        };
        let text = format!(
            ": version {VERSION} took over {} connections from process {} of version {version}, \
             frozen for {} ms",
            totals.connections,
            self.predecessor.pid,
            freeze.as_millis()
        );
        step.log(log, &text);
        upgrader.took_over(book);
    }
}

/// Goes on at the level of the log that was set at run time, unless the settings have changed theirs
/// since: as a reload has it.
fn keep_log_level(program: &Text, log: &Log) {
    let (_, configured) = log.levels();
    if program.read::<Level>("log-level-configured") == Ok(configured)
        && let Ok(level) = program.read("log-level")
    {
        log.set_level(level);
    }
}

/// Time since the loops of the other process stopped.
fn frozen_since(program: &Text) -> Duration {
    let at = Duration::from_nanos(program.read("frozen-at").unwrap_or(0));
    if at.is_zero() { at } else { clock().saturating_sub(at) }
}
