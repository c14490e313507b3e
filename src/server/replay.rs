//! A loop of this build against the answers of a recording.

use std::any::Any;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::accept::Listening;
use super::reconfigure::Reconfiguration;
use super::{ConnId, Control, IpNet, Server};
use crate::proto::Handler;
use crate::reactor::Kernel;
#[cfg(feature = "page")]
use crate::trace::page::Fact;
use crate::trace::readiness::names;
use crate::trace::{
    Difference, Header, ReadError, Reader, ReplayKernel, Replays, Stop, StopSign, Stream,
};

/// A recording that is being replayed.
///
/// The handler has to be the recorded one as far as the lengths of its answers depend on what it is
/// given: without its payload a recording has neutral bytes.
pub struct Replay<K: Kernel, H> {
    server: Server<K, H>,
    sign: StopSign,
}

/// What became of a turn.
#[derive(Debug)]
#[non_exhaustive]
pub enum Replayed {
    /// It was as recorded, and there may be more.
    Turn,
    /// The recording has ended, or its loop has.
    End,
    /// It differed.
    Different(Difference),
    /// The loop panicked, with this message.
    Panicked(String),
    /// The loop ended with an error.
    Failed(io::Error),
    /// The recording cannot be read on, or has something that this build does not know.
    Unreadable(ReadError),
}

/// Signals were handled by the recorded program: the commands that it gave are in the recording.
struct NoControl;

impl Control for NoControl {}

impl<R: Read, H: Handler + Clone> Replay<ReplayKernel<R>, H> {
    /// Prepares the loop that a recording describes.
    ///
    /// # Errors
    /// The setting that this build does not know, or the call of the loop's start that differs.
    pub fn new(reader: Reader<R>, handler: H) -> Result<Self, String> {
        let header = reader.header().clone();
        let (mut kernel, sign) = ReplayKernel::new(reader);
        if header.segment().is_none_or(|segment| segment <= 1) {
            return Self::over(kernel, sign, &header, handler);
        }
        let unreadable = |error: ReadError| error.to_string();
        let cut = "the recording is cut off in the snapshot that it begins with";
        let snapshot = kernel.begin_with_snapshot().map_err(unreadable)?.ok_or(cut)?;
        let mut headers = kernel.headers(&snapshot).map_err(unreadable)?;
        let Reconfiguration { config, limits, trusted, proxies } = settings(&header)?;
        let server = Server::with_kernel(kernel, Vec::new(), config, limits, handler);
        let mut server = server.map_err(|error| error.to_string())?;
        for listener in 0..kinds(&header).count() {
            server.acceptor.add(Listening::arrived(listener, false));
        }
        prepare(&mut server, &header, &trusted, &proxies);
        server
            .restore(&snapshot, &mut headers)
            .ok_or("the recording begins with a snapshot that this build does not understand")?;
        server.reactor.kernel.set_late(headers);
        Ok(Self { server, sign })
    }

    /// The recording.
    pub const fn reader(&self) -> &Reader<R> {
        self.server.reactor.kernel.reader()
    }
}

impl<K: Replays, H: Handler + Clone> Replay<K, H>
where
    K::Listener: From<usize>,
{
    /// The same over a kernel that stands above one that replays, such as a recorder.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn over(kernel: K, sign: StopSign, header: &Header, handler: H) -> Result<Self, String> {
        if header.segment().is_some_and(|segment| segment > 1) {
            return Err("a recording that begins with a snapshot is replayed by itself".to_owned());
        }
        let Reconfiguration { config, limits, trusted, proxies } = settings(header)?;
        let listeners = (0..kinds(header).count()).map(K::Listener::from).collect();
        let start = || Server::with_kernel(kernel, listeners, config, limits, handler);
        let mut server = match catch_unwind(AssertUnwindSafe(start)) {
            Ok(server) => server.map_err(|error| error.to_string())?,
            Err(_) => {
                return Err(match sign.take() {
                    Some(Stop::Different(difference)) => difference.to_string(),
                    Some(Stop::Unreadable(error)) => error.to_string(),
                    Some(Stop::End) | None => "the recording ends before its first turn".to_owned(),
                });
            }
        };
        prepare(&mut server, header, &trusted, &proxies);
        Ok(Self { server, sign })
    }

    /// Replays one turn. After any other outcome than [`Replayed::Turn`] there is none.
    pub fn turn(&mut self) -> Replayed {
        match self.server.reactor.kernel.goes_on() {
            Ok(true) => {}
            Ok(false) => return Replayed::End,
            Err(error) => return Replayed::Unreadable(error),
        }
        match catch_unwind(AssertUnwindSafe(|| self.server.turn())) {
            // If the loop has ended here and did not there, its next call differs.
            Ok(Ok(_)) => Replayed::Turn,
            Ok(Err(error)) => Replayed::Failed(error),
            Err(panic) => match self.sign.take() {
                Some(Stop::End) => Replayed::End,
                Some(Stop::Different(difference)) => Replayed::Different(difference),
                Some(Stop::Unreadable(error)) => Replayed::Unreadable(error),
                None => Replayed::Panicked(text_of(&*panic)),
            },
        }
    }

    /// The loop as it stands.
    pub const fn server(&self) -> &Server<K, H> {
        &self.server
    }
}

fn settings(header: &Header) -> Result<Reconfiguration, String> {
    let words = header.get("settings").ok_or("the recording has no settings")?;
    words.parse().map_err(|word| {
        format!("the recording has a setting that this build does not know: {word}")
    })
}

/// The kinds of the listeners.
fn kinds(header: &Header) -> impl Iterator<Item = &str> {
    header.get("listeners").unwrap_or_default().split(',')
}

/// Gives a server what a recording tells of it beside its settings.
fn prepare<K: Kernel, H: Handler + Clone>(
    server: &mut Server<K, H>,
    header: &Header,
    trusted: &[IpNet],
    proxies: &[IpNet],
) {
    server.trust(trusted);
    server.trust_proxies(proxies);
    for (index, kind) in kinds(header).enumerate() {
        if kind == "proxied" {
            server.require_proxy(index);
        }
    }
    server.keep_records(true);
    if header.get("control") == Some("yes") {
        let all = server.handle();
        server.set_control(Box::new(NoControl), all);
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// The state of a connection in words; `None` if it is gone.
    pub fn describe(&self, id: ConnId) -> Option<String> {
        let slot = self.reactor.slots.get(id)?;
        let (connection, now) = (&slot.connection, self.reactor.now());
        let mut text = format!("connection {id}: state {:?}", connection.state());
        let ready = names(slot.ready).join(", ");
        let ready = if ready.is_empty() { "no" } else { &ready };
        let _ = write!(text, "\n  believed ready: {ready}");
        let _ = write!(text, "\n  wants: {:?}", connection.wants(&self.config));
        let _ = write!(text, "\n  unsent: {} bytes", connection.unsent());
        let queued = if slot.queued { "yes" } else { "no" };
        let _ = write!(text, "\n  in the run queue: {queued}");
        let deadline = connection.poll_timeout().map_or("none".to_owned(), |deadline| {
            format!(
                "in {:?}",
                Duration::from_nanos(deadline.as_nanos().saturating_sub(now.as_nanos()))
            )
        });
        let _ = write!(text, "\n  deadline: {deadline}");
        let _ = write!(text, "\n  alarm set: {}", if slot.is_armed() { "yes" } else { "no" });
        let half_closed = if slot.half_closed { "ended" } else { "open" };
        let _ = write!(text, "\n  stream to the peer: {half_closed}");
        if let Some(record) = self.record(id) {
            let (received, sent) = (record.bytes_received, record.bytes_sent);
            let _ = write!(text, "\n  received {received} bytes, sent {sent}");
        }
        Some(text)
    }

    /// The connections that are there, in the order of their slots.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> + '_ {
        let slots = &self.reactor.slots;
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let id = slots.id_from(next?);
            next = id.map(|id| id.index + 1);
            id
        })
    }

    /// The state of the loop in a few words.
    pub fn describe_loop(&self) -> String {
        let stats = self.stats();
        format!(
            "turn {}, {} connections, {} of them unauthenticated, {} in the run queue, {:?}",
            stats.turns,
            stats.connections,
            stats.unauthenticated,
            self.reactor.queued(),
            self.lifecycle
        )
    }
}

impl<H: Handler + Clone, R: Read> Replay<ReplayKernel<R>, H> {
    /// The connection of a stream at a difference, as this build has it.
    pub fn connection_of(&self, stream: Stream) -> Option<ConnId> {
        let slots = &self.server.reactor.slots;
        self.server
            .connections()
            .find(|id| slots.get(*id).is_some_and(|slot| slot.stream == stream))
    }
}

#[cfg(feature = "page")]
impl<H: Handler + Clone, R: Read> Replay<ReplayKernel<R>, H> {
    /// What the loop keeps of each connection and its calls do not show, for a page.
    pub fn views(&self) -> Vec<(Stream, Fact)> {
        let reactor = &self.server.reactor;
        let mut views = Vec::new();
        for id in self.server.connections() {
            let Some(slot) = reactor.slots.get(id) else { continue };
            let connection = &slot.connection;
            views.extend([
                (slot.stream, Fact::Stage(connection.state().name())),
                (slot.stream, Fact::Held(connection.unsent())),
                (slot.stream, Fact::Deadline(connection.poll_timeout())),
                (slot.stream, Fact::Place(reactor.place(id))),
            ]);
        }
        views
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Keyring;
    use crate::proto::{Config, Protocol, Upper};
    use crate::server::{Limits, recording_header};
    use crate::sim::{Faults, SimKernel};
    use crate::trace::{RecordOptions, Recorder};

    #[test]
    fn a_loop_and_its_connections_are_described_in_words() {
        let (mut config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(4));
        (config.protocol, config.send_timeout) = (Protocol::Plain, None);
        let kernel = SimKernel::new(1, Faults::none());
        let mut server = Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap();
        server.keep_records(true);
        let client = server.kernel_mut().connect(100, 40, 100);
        server.kernel_mut().client_send(client, &[b'a'; 100]);
        (0..3).for_each(|_| server.turn().map(drop).unwrap());
        let id = server.connections().next().expect("it was accepted");
        let described = server.describe(id).expect("it is open");
        let expected = "connection #1: state Echoing
  believed ready: no
  wants: Send
  unsent: 60 bytes
  in the run queue: no
  deadline: none
  alarm set: yes
  stream to the peer: open
  received 100 bytes, sent 40";
        assert_eq!(described, expected);
        let expected =
            "turn 3, 1 connections, 0 of them unauthenticated, 0 in the run queue, Running";
        assert_eq!(server.describe_loop(), expected);
        assert_eq!(server.describe(ConnId { index: 1, ..id }), None, "there is none");
    }

    /// A control that is called once a second.
    struct Ticking;

    impl Control for Ticking {
        fn period(&self) -> Option<Duration> {
            Some(Duration::from_secs(1))
        }
    }

    #[test]
    fn a_replay_wakes_for_ticks_if_the_recorded_loop_did() {
        for control in ["yes", "no"] {
            let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(4));
            let header = recording_header(&config, &limits, &[], &[], &[false]);
            let header = header.with("control", control);
            let options = RecordOptions { header, ..RecordOptions::default() };
            let (kernel, file) = Recorder::to_memory(SimKernel::new(1, Faults::none()), options);
            let listeners = vec![().into()];
            let mut server = Server::with_kernel(kernel, listeners, config, limits, Upper).unwrap();
            if control == "yes" {
                let all = server.handle();
                server.set_control(Box::new(Ticking), all);
            }
            (0..4).for_each(|_| server.turn().map(drop).unwrap());
            drop(server);
            let bytes = file.lock().unwrap().clone();
            let mut replay = Replay::new(Reader::new(&bytes[..]).unwrap(), Upper).unwrap();
            let mut turns = std::iter::repeat_with(|| replay.turn());
            let end = turns.find(|turn| !matches!(turn, Replayed::Turn));
            assert!(matches!(end, Some(Replayed::End)), "control: {control}, {end:?}");
            assert_eq!(replay.server().stats().turns, 4);
        }
    }

    #[test]
    fn the_words_of_a_panic_are_passed_on() {
        let said: [(Box<dyn Any + Send>, &str); 3] = [
            (Box::new("short".to_owned()), "short"),
            (Box::new("fixed"), "fixed"),
            (Box::new(7), "no message"),
        ];
        for (panic, text) in said {
            assert_eq!(text_of(&*panic), text);
        }
    }
}
