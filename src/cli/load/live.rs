//! Live progress of a load: one line per second.

use std::io::{IsTerminal, Write};

use rustix::termios::tcgetwinsize;
use saltecho::load::report::Nanos;
use saltecho::load::{Interval, Mode, Phase};

/// Shows the progress of a load, and restores the terminal when dropped.
pub(super) trait Live: Send {
    /// Shows another interval.
    fn show(&mut self, interval: &Interval);
}

/// Writes a line per interval to stderr; on a terminal each line replaces the last.
pub(super) struct Lines {
    mode: Mode,
    is_terminal: bool,
}

/// Erases the current line. It is not a color, so NO_COLOR does not matter.
pub(in crate::cli) const ERASE: &str = "\r\x1b[K";
/// Assumed width of a terminal that does not tell.
const WIDTH: usize = 80;

impl Lines {
    /// `None` on a terminal that cannot erase a line.
    pub(super) fn new(mode: Mode) -> Option<Self> {
        let is_terminal = std::io::stderr().is_terminal();
        (!is_terminal || !is_dumb()).then_some(Self { mode, is_terminal })
    }
}

/// Returns whether the terminal does not support control sequences.
pub(in crate::cli) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

impl Live for Lines {
    fn show(&mut self, interval: &Interval) {
        // Ignores errors: the reader of stderr may have left.
        let _ = match self.is_terminal {
            // The last column stays empty: some terminals wrap after it.
            true => {
                let text = line(self.mode, interval, width() - 1);
                write!(std::io::stderr(), "{ERASE}{text}")
            }
            false => writeln!(std::io::stderr(), "{}", line(self.mode, interval, usize::MAX)),
        };
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "{ERASE}");
        }
    }
}

/// The current width; windows may be resized.
fn width() -> usize {
    match tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => WIDTH,
    }
}

/// Formats an interval in at most `width` columns. If there is not enough room, parts are left out in
/// the order of their ranks, the highest first; rank 0 always stays.
fn line(mode: Mode, interval: &Interval, width: usize) -> String {
    let (counts, states) = (&interval.record.counts, interval.states);
    let end = (interval.start + interval.length).as_secs_f64();
    let mut parts = vec![(0, format!("{end:6.1}s {:<7}", interval.phase.as_str()))];
    let seconds = interval.length.as_secs_f64().max(1e-9);
    let main = mode.main_series().map(|series| interval.record.series(series));
    if let Some(times) = main.filter(|_| interval.phase != Phase::Ramp) {
        #[allow(clippy::cast_precision_loss)] // A count of one second.
        let rate = counts.answered as f64 / seconds;
        parts.push((1, format!(" {rate:>9.0}/s")));
        if !times.is_empty() {
            for (rank, name, nanos) in [
                (5, "p50", times.value_at_quantile(0.5)),
                (3, "p99", times.value_at_quantile(0.99)),
                (6, "max", times.max()),
            ] {
                parts.push((rank, format!("  {name} {}", Nanos(nanos))));
            }
        }
    }
    parts.push((2, format!("  errors {}", counts.errors.total())));
    let mut connections = "  connections".to_owned();
    for (name, number) in states.by_name().into_iter().filter(|(_, number)| *number > 0) {
        connections.push_str(&format!(" {number} {name}"));
    }
    parts.push((if interval.phase == Phase::Ramp { 1 } else { 7 }, connections));
    if let Some(left) = interval.left {
        parts.push((4, format!("  {:.0}s left", left.as_secs_f64())));
    }
    let length = |parts: &[(u8, String)]| -> usize {
        parts.iter().map(|(_, text)| text.chars().count()).sum()
    };
    while length(&parts) > width && parts.len() > 1 {
        let last = (0..parts.len()).max_by_key(|index| parts[*index].0);
        parts.remove(last.expect("there are two"));
    }
    let line: String = parts.into_iter().map(|(_, text)| text).collect();
    line.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use saltecho::load::{ErrorKind, Record, Series};

    use super::*;

    fn interval() -> Interval {
        let mut record = Record::new();
        record.note(Series::Echo, Duration::from_micros(1500));
        record.counts.answered = 2000;
        record.counts.errors.add(ErrorKind::Reset, 3);
        let mut interval = Interval::default();
        interval.start = Duration::from_secs(4);
        interval.length = Duration::from_secs(2);
        (interval.phase, interval.record) = (Phase::Measure, record);
        (interval.states.busy, interval.states.ended) = (7, 3);
        interval.left = Some(Duration::from_secs(9));
        interval
    }

    #[test]
    fn a_line_shows_all_parts() {
        assert_eq!(
            line(Mode::Echo, &interval(), usize::MAX),
            "   6.0s measure      1000/s  p50 1.50 ms  p99 1.50 ms  max 1.50 ms  errors 3  \
             connections 7 busy 3 ended  9s left"
        );
        assert_eq!(
            line(Mode::Idle, &interval(), usize::MAX),
            "   6.0s measure  errors 3  connections 7 busy 3 ended  9s left"
        );
    }

    #[test]
    fn a_narrow_terminal_shows_the_most_important_parts() {
        for (width, shown) in [
            (79, "   6.0s measure      1000/s  p50 1.50 ms  p99 1.50 ms  errors 3  9s left"),
            (60, "   6.0s measure      1000/s  p99 1.50 ms  errors 3  9s left"),
            (39, "   6.0s measure      1000/s  errors 3"),
            (10, "   6.0s me"),
            (0, ""),
        ] {
            assert_eq!(line(Mode::Echo, &interval(), width), shown, "{width} columns");
        }
    }
}
