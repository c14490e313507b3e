//! `saltecho load --tui`: how a load goes on a whole terminal, drawn on stderr for each interval.
//!
//! Nothing is read from the terminal, and keys stay what they were, so ctrl-C is the signal that it
//! always is. Only what would spoil the picture is switched off: the echo of keys, and the key that
//! would suspend the program and leave the shell on this screen.

mod view;

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::crossterm::{execute, queue};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use saltecho::load::{Interval, Plan};

use super::live::Live;
use view::View;

/// The settings that a terminal had which is ours for the moment.
static TAKEN: Mutex<Option<Termios>> = Mutex::new(None);
/// What a special character is set to that no key shall have (`_POSIX_VDISABLE`).
const NO_KEY: u8 = 0;

/// The view and the terminal that it is on, which is given back when this is dropped, when the
/// program panics, and by [`give_back`].
pub(super) struct Screen {
    view: View,
    terminal: Terminal<CrosstermBackend<Frames>>,
    area: Rect,
}

impl Screen {
    /// Takes the terminal on stderr.
    pub(super) fn new(plan: &Plan) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        let area = area();
        let mut screen = Self { view: View::new(plan), terminal: terminal(area)?, area };
        take()?;
        screen.draw()?;
        Ok(screen)
    }

    fn draw(&mut self) -> io::Result<()> {
        let area = area();
        if self.area != area {
            // A new one believes the terminal to be empty, and asks it nothing.
            (self.terminal, self.area) = (terminal(area)?, area);
            queue!(self.terminal.backend_mut(), Clear(ClearType::All))?;
        }
        self.terminal.draw(|frame| self.view.draw(frame))?;
        Ok(())
    }
}

impl Live for Screen {
    fn show(&mut self, interval: &Interval) {
        self.view.take(interval);
        // Whoever closed stderr does not want to know.
        let _ = self.draw();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn taken() -> MutexGuard<'static, Option<Termios>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take() -> io::Result<()> {
    let mut taken = taken();
    let before = tcgetattr(io::stderr())?;
    let mut ours = before.clone();
    ours.local_modes.remove(LocalModes::ECHO);
    ours.special_codes[SpecialCodeIndex::VSUSP] = NO_KEY;
    tcsetattr(io::stderr(), OptionalActions::Now, &ours)?;
    *taken = Some(before);
    execute!(io::stderr(), EnterAlternateScreen, Hide)
}

/// Gives the terminal back as it was, if it is ours. Keys that were pressed meanwhile were meant
/// for us and not for the shell.
pub(super) fn give_back() {
    let Some(before) = taken().take() else { return };
    // Whoever closed stderr does not want to know.
    let _ = execute!(io::stderr(), Show, LeaveAlternateScreen);
    let _ = tcsetattr(io::stderr(), OptionalActions::Flush, &before);
}

/// The whole terminal; of the usual size if it does not know its own.
fn area() -> Rect {
    match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Rect::new(0, 0, size.ws_col, size.ws_row),
        _ => Rect::new(0, 0, 80, 24),
    }
}

fn terminal(area: Rect) -> io::Result<Terminal<CrosstermBackend<Frames>>> {
    // Of stderr, not of whatever terminal a library would look for.
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    Terminal::with_options(CrosstermBackend::new(Frames(Vec::new())), options)
}

/// Gathers what is drawn and writes it in one go, unless the terminal was given back meanwhile by
/// another thread.
struct Frames(Vec<u8>);

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.0);
        match *taken() {
            Some(_) => io::stderr().write_all(&frame),
            None => Ok(()),
        }
    }
}
