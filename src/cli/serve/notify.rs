//! Reports to the service manager: the protocol of sd_notify(3).

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, io, process};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr,
};
use rustix::time::{ClockId, clock_gettime};
use saltecho::server::{ServiceState, Stats};

use crate::cli::log::Log;

/// Sends datagrams to a service manager, and never waits for it.
pub(super) struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    /// States that the manager's queue had no room for, in order.
    unsent: VecDeque<String>,
    watchdog: Option<Duration>,
    state: Option<ServiceState>,
    /// The error of the last reload, if it failed.
    failure: Option<String>,
    /// What there is to say of upgrades, before the rest of the status.
    upgrade: Option<String>,
    status: String,
    status_sent: Option<Instant>,
}

/// Most states that are kept for a manager that takes none.
const MAX_UNSENT: usize = 16;
/// Time between two lines of status, or between two looks at whether there is a new one.
const PERIOD: Duration = Duration::from_secs(1);

impl Notifier {
    /// A notifier of the manager that NOTIFY_SOCKET names, if any.
    ///
    /// # Errors
    /// If the variable is neither an absolute path nor an abstract name, or there is no descriptor.
    pub(super) fn from_env() -> Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let manager = match name.as_bytes() {
            [] => return Ok(None),
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(&name),
        };
        let is_address = matches!(name.as_bytes(), [b'@' | b'/', ..]);
        ensure!(is_address, "NOTIFY_SOCKET is neither an absolute path nor @NAME: {name:?}");
        let manager = manager.with_context(|| format!("NOTIFY_SOCKET is no address: {name:?}"))?;
        let socket = UnixDatagram::unbound().context("cannot make a socket for NOTIFY_SOCKET")?;
        socket.set_nonblocking(true).context("cannot make a socket for NOTIFY_SOCKET")?;
        Ok(Some(Self {
            socket,
            manager,
            unsent: VecDeque::new(),
            watchdog: watchdog(),
            state: None,
            failure: None,
            upgrade: None,
            status: String::new(),
            status_sent: None,
        }))
    }

    /// Time between two beats: half of what the watchdog allows, and not more than it takes to keep
    /// the status current.
    pub(super) fn period(&self) -> Duration {
        let half = self.watchdog.map_or(PERIOD, |watchdog| watchdog / 2);
        half.clamp(Duration::from_millis(1), PERIOD)
    }

    /// Reports a new state of the service.
    ///
    /// # Errors
    /// If there is no such manager. One whose queue is full gets the report later.
    pub(super) fn state(&mut self, state: ServiceState) -> io::Result<()> {
        let ending = |state| !matches!(state, ServiceState::Ready | ServiceState::Reloading);
        let report = match state {
            ServiceState::Ready => format!("READY=1\nMAINPID={}", process::id()),
            // The time tells the manager that this answers its own signal.
            ServiceState::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_usec()),
            _ if self.state.is_some_and(ending) => String::new(),
            _ => "STOPPING=1".to_owned(),
        };
        self.state = Some(state);
        if !report.is_empty() {
            self.unsent.push_back(report);
        }
        self.send_states()
    }

    /// Remembers the outcome of a reload, which the status shows while it is a failure.
    pub(super) fn reloaded(&mut self, failure: Option<String>) {
        self.failure = failure;
    }

    /// Says that another process is the service from now on.
    ///
    /// # Errors
    /// Those of [`state`](Self::state).
    pub(super) fn succeeded_by(&mut self, pid: u32) -> io::Result<()> {
        self.unsent.push_back(format!("MAINPID={pid}"));
        self.send_states()
    }

    /// Remembers what there is to say of upgrades.
    pub(super) fn upgrade(&mut self, text: &str) {
        self.upgrade = Some(text.to_owned());
    }

    /// Feeds the watchdog, if there is one, though the loops have not answered.
    ///
    /// # Errors
    /// Those of [`state`](Self::state).
    pub(super) fn feed_watchdog(&self) -> io::Result<()> {
        match self.watchdog {
            Some(_) => self.send("WATCHDOG=1").map(drop),
            None => Ok(()),
        }
    }

    /// Waits until the manager has read all that was sent: it closes the end of a pipe that it gets
    /// (sd_notify_barrier(3)).
    ///
    /// # Errors
    /// If there is no such manager, or it does not read in time.
    pub(super) fn wait_until_known(&mut self, deadline: Instant) -> io::Result<()> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not read what it is sent");
        let (reader, writer) = io::pipe()?;
        loop {
            self.send_states()?;
            if self.unsent.is_empty() && self.send_barrier(writer.as_fd())? {
                break;
            }
            if Instant::now() >= deadline {
                return Err(late());
            }
            // No event tells that another process' queue has room.
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(writer);
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
        let mut polled = [PollFd::new(&reader, PollFlags::empty())];
        match poll(&mut polled, left.ok().as_ref())? {
            0 => Err(late()),
            _ => Ok(()),
        }
    }

    fn send_barrier(&self, end: BorrowedFd<'_>) -> io::Result<bool> {
        let manager = match (self.manager.as_pathname(), self.manager.as_abstract_name()) {
            (Some(path), _) => SocketAddrUnix::new(path)?,
            (None, name) => SocketAddrUnix::new_abstract_name(name.unwrap_or_default())?,
        };
        let (mut space, ends) = ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [end]);
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&ends));
        let text = [IoSlice::new(b"BARRIER=1")];
        match sendmsg_addr(&self.socket, &manager, &text, &mut beside, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// All loops are alive. Feeds the watchdog and reports the status if it has changed.
    ///
    /// # Errors
    /// Those of [`state`](Self::state).
    pub(super) fn beat(&mut self, stats: &Stats) -> io::Result<()> {
        self.send_states()?;
        let mut lines = Vec::new();
        if self.watchdog.is_some() {
            lines.push("WATCHDOG=1".to_owned());
        }
        let status = self.status_of(stats);
        let is_due = self.status_sent.is_none_or(|sent| sent.elapsed() >= PERIOD);
        let is_news = status != self.status && is_due;
        if is_news {
            lines.push(format!("STATUS={status}"));
        }
        if !lines.is_empty() && self.send(&lines.join("\n"))? && is_news {
            (self.status, self.status_sent) = (status, Some(Instant::now()));
        }
        Ok(())
    }

    fn status_of(&self, stats: &Stats) -> String {
        let state = match self.state {
            Some(ServiceState::Unready) => "not ready, soon to drain: ",
            Some(ServiceState::Draining) => "draining: ",
            _ => "",
        };
        let Stats { connections, unauthenticated, accepted, .. } = stats;
        let failure = self.failure.as_ref().map(|failure| format!("; {failure}"));
        // The text of an error may have several lines; the protocol's values have one.
        let failure = failure.unwrap_or_default().replace('\n', " ");
        let upgrade = self.upgrade.as_ref().map(|text| format!("{}; ", text.replace('\n', " ")));
        let upgrade = upgrade.unwrap_or_default();
        format!(
            "{state}{upgrade}connections {connections}, unauthenticated {unauthenticated}, accepted \
             {accepted}{failure}"
        )
    }

    fn send_states(&mut self) -> io::Result<()> {
        while let Some(report) = self.unsent.front() {
            if !self.send(report)? {
                let surplus = self.unsent.len().saturating_sub(MAX_UNSENT);
                self.unsent.drain(..surplus);
                break;
            }
            self.unsent.pop_front();
        }
        Ok(())
    }

    /// Sends a datagram; false if the manager's queue has no room.
    fn send(&self, text: &str) -> io::Result<bool> {
        match self.socket.send_to_addr(text.as_bytes(), &self.manager) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The service manager. Shared with the loop that is the last to answer, and with upgrades.
#[derive(Clone)]
pub(super) struct Manager {
    log: Log,
    notifier: Arc<Mutex<Option<Notifier>>>,
}

impl Manager {
    /// The manager that the environment names, if any.
    ///
    /// # Errors
    /// Those of [`Notifier::from_env`].
    pub(super) fn from_env(log: &Log) -> Result<Option<Self>> {
        Ok(Notifier::from_env()?.map(|notifier| Self {
            log: log.clone(),
            notifier: Arc::new(Mutex::new(Some(notifier))),
        }))
    }

    /// Says that the process of this number is the service from now on.
    pub(super) fn succeeded_by(&self, pid: u32) {
        self.notify(|notifier| notifier.succeeded_by(pid));
    }

    /// Shows this of upgrades in the status.
    pub(super) fn upgrade(&self, text: &str) {
        self.notify(|notifier| {
            notifier.upgrade(text);
            Ok(())
        });
    }

    /// Says that the service is alive, before a pause.
    pub(super) fn feed_watchdog(&self) {
        self.notify(|notifier| notifier.feed_watchdog());
    }

    /// Waits until the manager has read everything.
    pub(super) fn wait_until_known(&self, deadline: Instant) {
        self.notify(|notifier| notifier.wait_until_known(deadline));
    }

    /// Time between two beats, unless there is no manager any more.
    pub(super) fn period(&self) -> Option<Duration> {
        let notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
        notifier.as_ref().map(Notifier::period)
    }

    /// Reports to the manager, unless that has failed before.
    pub(super) fn notify(&self, report: impl FnOnce(&mut Notifier) -> io::Result<()>) {
        let mut notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = notifier.as_mut().map(report) {
            self.log.warn(format_args!(
                "cannot report to the service manager, and will not again: NOTIFY_SOCKET: {error}"
            ));
            *notifier = None;
        }
    }
}

/// The time after which the manager takes a silent service for stuck, if it watches this process.
fn watchdog() -> Option<Duration> {
    if env::var("WATCHDOG_PID").is_ok_and(|pid| pid != process::id().to_string()) {
        return None;
    }
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(micros)).filter(|time| !time.is_zero())
}

/// Microseconds of CLOCK_MONOTONIC.
fn monotonic_usec() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}
