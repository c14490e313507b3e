//! `saltecho load --tui`: a full-screen dashboard on stderr, drawn for each interval.
//!
//! Nothing is read from the terminal, and Ctrl-C sends its signal as always. Only two things are
//! switched off: the echo of keys, and the key that would suspend the program and leave the shell on
//! this screen.

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

/// The settings of the terminal before the dashboard, while it is shown.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
/// Disables a special character (`_POSIX_VDISABLE`).
const NO_KEY: u8 = 0;

/// The dashboard and its terminal, which is restored when this is dropped, when the program panics,
/// and by [`restore`].
pub(super) struct Screen {
    view: View,
    terminal: Terminal<CrosstermBackend<Frames>>,
    area: Rect,
}

impl Screen {
    /// Switches the terminal on stderr to the dashboard.
    pub(super) fn new(plan: &Plan) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
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
            // A new `Terminal` assumes an empty screen, without a query.
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
        // Ignores errors: stderr may be closed.
        let _ = self.draw();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn saved() -> MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take() -> io::Result<()> {
    let mut saved = saved();
    let before = tcgetattr(io::stderr())?;
    let mut ours = before.clone();
    ours.local_modes.remove(LocalModes::ECHO);
    ours.special_codes[SpecialCodeIndex::VSUSP] = NO_KEY;
    tcsetattr(io::stderr(), OptionalActions::Now, &ours)?;
    *saved = Some(before);
    execute!(io::stderr(), EnterAlternateScreen, Hide)
}

/// Restores the terminal, if the dashboard is shown. Discards keys pressed meanwhile, which were not
/// meant for the shell.
pub(super) fn restore() {
    let Some(before) = saved().take() else { return };
    // Ignores errors: stderr may be closed.
    let _ = execute!(io::stderr(), Show, LeaveAlternateScreen);
    let _ = tcsetattr(io::stderr(), OptionalActions::Flush, &before);
}

/// The size of the terminal; 80 x 24 if unknown.
fn area() -> Rect {
    match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Rect::new(0, 0, size.ws_col, size.ws_row),
        _ => Rect::new(0, 0, 80, 24),
    }
}

fn terminal(area: Rect) -> io::Result<Terminal<CrosstermBackend<Frames>>> {
    // The size of stderr; the library would look for another terminal.
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    Terminal::with_options(CrosstermBackend::new(Frames(Vec::new())), options)
}

/// Buffers what is drawn and writes it at once, unless another thread has restored the terminal.
struct Frames(Vec<u8>);

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.0);
        match *saved() {
            Some(_) => io::stderr().write_all(&frame),
            None => Ok(()),
        }
    }
}
