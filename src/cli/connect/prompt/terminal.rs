//! The terminal: in raw mode while the prompt uses it, and restored afterwards.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::unistd::{getppid, getsid};
use rustix::io::Errno;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, tcflush,
    tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::blocking::Blocking;
use crate::cli::signals::not_ignored;

/// Bracketed paste (xterm's mode 2004): the terminal marks pasted text, so that a line end in it is
/// not taken for Enter.
const MARK_PASTES: &str = "\x1b[?2004h";
const MARK_NO_PASTES: &str = "\x1b[?2004l";

/// The terminal on stdin, and the output that shows the prompt.
pub(super) struct Terminal {
    input: Blocking<File>,
    /// The terminal on stdout or stderr, or /dev/tty. Answers may go elsewhere.
    output: Option<Blocking<File>>,
    modes: Option<Modes>,
}

/// The modes of the terminal: raw, and as they were before.
struct Modes {
    usual: Termios,
    ours: Termios,
    entered: bool,
}

impl Terminal {
    /// Opens the terminal, which stays unchanged until [`enter`](Self::enter). One without escape
    /// sequences (TERM=dumb) stays in canonical mode for ever.
    pub(super) fn open() -> io::Result<Self> {
        let input = Blocking::duplicate(io::stdin())?;
        let output = match (io::stdout().is_terminal(), io::stderr().is_terminal()) {
            (true, _) => Some(Blocking::duplicate(io::stdout())?),
            (false, true) => Some(Blocking::duplicate(io::stderr())?),
            (false, false) => File::options().write(true).open("/dev/tty").ok().map(Blocking),
        };
        let kind = std::env::var_os("TERM").filter(|kind| !kind.is_empty() && kind != "dumb");
        let modes = match (kind, &output) {
            (Some(_), Some(_)) => Some(Modes::new(tcgetattr(&input.0)?)),
            _ => None,
        };
        Ok(Self { input, output, modes })
    }

    /// Returns whether it edits lines itself (canonical mode).
    pub(super) const fn is_cooked(&self) -> bool {
        self.modes.is_none()
    }

    /// Switches to raw mode, at the start and after each suspension.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        let Some(modes) = &mut self.modes else { return Ok(()) };
        tcsetattr(&self.input.0, OptionalActions::Now, &modes.ours)?;
        modes.entered = true;
        self.show(MARK_PASTES);
        Ok(())
    }

    /// Restores the terminal.
    pub(super) fn leave(&mut self) {
        let Some(modes) = self.modes.as_mut().filter(|modes| modes.entered) else { return };
        modes.entered = false;
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.input.0, OptionalActions::Now, &modes.usual);
        self.show(MARK_NO_PASTES);
    }

    /// Discards input typed ahead: it was meant for a server, not for the shell that comes next.
    pub(super) fn forget(&self) {
        let _ = tcflush(&self.input.0, QueueSelector::IFlush);
    }

    /// Prints a part of the prompt. If the terminal is gone, its input ends, so errors are ignored.
    pub(super) fn show(&mut self, text: &str) {
        if let Some(output) = &mut self.output {
            let _ = output.write_all(text.as_bytes());
        }
    }

    /// Reads input: zero bytes at its end, `None` if there was none after all.
    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.input.0, bytes) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // The terminal hung up, or belongs to another process group permanently.
            Err(Errno::IO) => Ok(Some(0)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Its number of columns; 80 if unknown, as on some pseudo-terminals.
    pub(super) fn columns(&self) -> usize {
        let output = self.output.as_ref().map_or(&self.input, |output| output);
        let columns = tcgetwinsize(&output.0).map_or(0, |size| size.ws_col);
        if columns == 0 { 80 } else { columns.into() }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.input.0.as_fd()
    }
}

/// Runs during a panic too.
impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Modes {
    /// Raw input: each key at once, unchanged and without echo. Output is processed as before, so a
    /// line feed still starts a line.
    fn new(usual: Termios) -> Self {
        let mut ours = usual.clone();
        ours.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        ours.input_modes -= InputModes::ICRNL
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ISTRIP
            | InputModes::IXON;
        ours.special_codes[SpecialCodeIndex::VMIN] = 1;
        ours.special_codes[SpecialCodeIndex::VTIME] = 0;
        Self { usual, ours, entered: false }
    }
}

/// Signals that concern the terminal, as a descriptor to poll.
pub(super) struct Signals(SignalDelivery<UnixStream, SignalOnly>);

/// A request by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Redraw,
    Suspend,
    /// Restore the terminal and end as this signal does by default.
    End(i32),
}

impl Signals {
    /// Catches the signals, except those that were ignored when the program started, as `nohup` and
    /// shells without job control do.
    pub(super) fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let caught = not_ignored(&[SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGWINCH]);
        // Without a shell to continue it the program must not stop; the kernel ensures that.
        let caught = caught.iter().filter(|signal| **signal != SIGTSTP || can_be_continued());
        Ok(Self(SignalDelivery::with_pipe(read, write, SignalOnly, caught)?))
    }

    pub(super) fn requests(&mut self) -> impl Iterator<Item = Request> {
        self.0.pending().map(|signal| match signal {
            SIGWINCH | SIGCONT => Request::Redraw,
            SIGTSTP => Request::Suspend,
            signal => Request::End(signal),
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}

/// Stops until a shell continues the program. The terminal must have been restored.
pub(super) fn suspend() {
    if can_be_continued() {
        let _ = emulate_default_handler(SIGTSTP);
    }
}

/// Ends the program as a signal does by default. The terminal must have been restored.
pub(super) fn end_by(signal: i32) {
    let _ = emulate_default_handler(signal);
}

/// Returns whether the parent is in our session, and so can be a shell that controls this job.
///
/// A parent or a session outside this PID namespace, as a container's can be, has the number 0.
fn can_be_continued() -> bool {
    let parent = getppid();
    parent.as_raw() != 0 && getsid(Some(parent)).ok() == getsid(None).ok()
}
