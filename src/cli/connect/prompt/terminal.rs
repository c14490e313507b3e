//! The terminal: keys instead of lines while the prompt has it, and as it was afterwards.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::process::{getppid, getsid};
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

/// Bracketed paste (xterm's mode 2004): the terminal marks what is pasted, so that a line end in it
/// is not taken for Enter.
const MARK_PASTES: &str = "\x1b[?2004h";
const MARK_NO_PASTES: &str = "\x1b[?2004l";

/// Stdin, which is a terminal, and what shows what is typed there.
pub(super) struct Terminal {
    input: Blocking<File>,
    /// The terminal behind stdout or stderr. Answers may go elsewhere.
    output: Option<Blocking<File>>,
    modes: Option<Modes>,
}

/// How the terminal works for us, and how it worked before.
struct Modes {
    usual: Termios,
    ours: Termios,
    entered: bool,
}

impl Terminal {
    /// The terminal, which stays as it is until [`enter`](Self::enter). One that knows no escape
    /// sequences always does, and edits its lines itself.
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

    /// Whether it makes lines of its input itself.
    pub(super) const fn is_cooked(&self) -> bool {
        self.modes.is_none()
    }

    /// Takes the terminal over, at the beginning and after each suspension.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        let Some(modes) = &mut self.modes else { return Ok(()) };
        tcsetattr(&self.input.0, OptionalActions::Now, &modes.ours)?;
        modes.entered = true;
        self.show(MARK_PASTES);
        Ok(())
    }

    /// Gives the terminal back.
    pub(super) fn leave(&mut self) {
        let Some(modes) = self.modes.as_mut().filter(|modes| modes.entered) else { return };
        modes.entered = false;
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.input.0, OptionalActions::Now, &modes.usual);
        self.show(MARK_NO_PASTES);
    }

    /// Forgets what was typed ahead: it was meant for a server, not for the shell that comes next.
    pub(super) fn forget(&self) {
        let _ = tcflush(&self.input.0, QueueSelector::IFlush);
    }

    /// Shows a part of the prompt. A terminal that is gone shows nothing, and its input ends.
    pub(super) fn show(&mut self, text: &str) {
        if let Some(output) = &mut self.output {
            let _ = output.write_all(text.as_bytes());
        }
    }

    /// What was typed: zero at its end, `None` if there was nothing after all.
    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.input.0, bytes) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // The terminal hung up, or belongs to another process group for good.
            Err(Errno::IO) => Ok(Some(0)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// How many columns it has; 80 if it does not say, as a pseudo-terminal may not.
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

/// Runs in a panic as well.
impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Modes {
    /// Each key at once, unchanged and without an echo. What is printed is treated as ever, so a
    /// line feed still begins a line.
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

/// The signals that have to do with the terminal, to be polled for.
pub(super) struct Signals(SignalDelivery<UnixStream, SignalOnly>);

/// What signals ask of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Redraw,
    Suspend,
    /// Give the terminal back and end as this signal does.
    End(i32),
}

impl Signals {
    /// Catches them, except those that were ignored when the program started: `nohup`, and shells
    /// without job control, want it so.
    pub(super) fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let caught = not_ignored(&[SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGWINCH]);
        // Without a shell to continue it a program must not stop; the kernel sees to that.
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

/// Stops until a shell continues the program. The terminal must have been given back.
pub(super) fn suspend() {
    if can_be_continued() {
        let _ = emulate_default_handler(SIGTSTP);
    }
}

/// Ends the program as a signal does by default. The terminal must have been given back.
pub(super) fn end_by(signal: i32) {
    let _ = emulate_default_handler(signal);
}

/// Whether the parent shares our session and can be the shell that has us as its job.
fn can_be_continued() -> bool {
    getppid().is_some_and(|parent| getsid(Some(parent)).ok() == getsid(None).ok())
}
