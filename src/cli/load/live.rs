//! What is said while a load is made: a line a second, unless it is a whole screen.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use saltecho::load::report::Nanos;
use saltecho::load::{Interval, Mode, Part};

/// Shows how a load goes, and gives the terminal back when it is dropped.
pub(super) trait Live: Send {
    /// Shows what has happened in another interval.
    fn show(&mut self, interval: &Interval);
}

/// A line for each interval on stderr: one that is rewritten on a terminal, line by line elsewhere.
pub(super) struct Lines {
    mode: Mode,
    is_terminal: bool,
}

impl Lines {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, is_terminal: std::io::stderr().is_terminal() }
    }
}

impl Live for Lines {
    fn show(&mut self, interval: &Interval) {
        let text = line(self.mode, interval);
        // Whoever closed stderr does not want to know.
        let _ = match self.is_terminal {
            true => write!(anstream::stderr(), "\r\x1b[K{text}"),
            false => writeln!(anstream::stderr(), "{text}"),
        };
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(anstream::stderr(), "\r\x1b[K");
        }
    }
}

/// Within 100 columns unless the numbers are extraordinary.
fn line(mode: Mode, interval: &Interval) -> String {
    let (counts, standing) = (&interval.record.counts, interval.standing);
    let end = (interval.start + interval.length).as_secs_f64();
    let mut line = format!("{end:6.1}s {:<7}", interval.part.as_str());
    let seconds = interval.length.as_secs_f64().max(1e-9);
    let main = mode.main_series().map(|series| interval.record.series(series));
    if let Some(times) = main.filter(|_| interval.part != Part::Ramp) {
        #[allow(clippy::cast_precision_loss)] // A count of one second.
        let rate = counts.answered as f64 / seconds;
        let _ = write!(line, " {rate:>9.0}/s");
        if !times.is_empty() {
            let [p50, p99, max] =
                [times.value_at_quantile(0.5), times.value_at_quantile(0.99), times.max()]
                    .map(Nanos);
            let _ = write!(line, "  p50 {p50}  p99 {p99}  max {max}");
        }
    }
    let _ = write!(line, "  errors {}  connections", counts.errors.total());
    for (name, number) in standing.by_name().into_iter().filter(|(_, number)| *number > 0) {
        let _ = write!(line, " {number} {name}");
    }
    if let Some(left) = interval.left {
        let _ = write!(line, "  {:.0}s left", left.as_secs_f64());
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use saltecho::load::{ErrorKind, Record, Series, Standing};

    use super::*;

    #[test]
    fn a_line_says_how_it_goes() {
        let mut record = Record::new();
        record.note(Series::Echo, Duration::from_micros(1500));
        record.counts.answered = 2000;
        record.counts.errors.add(ErrorKind::Reset, 3);
        let interval = Interval {
            start: Duration::from_secs(4),
            length: Duration::from_secs(2),
            part: Part::Measure,
            record,
            standing: Standing { busy: 7, ended: 3, ..Standing::default() },
            left: Some(Duration::from_secs(9)),
        };
        assert_eq!(
            line(Mode::Echo, &interval),
            "   6.0s measure      1000/s  p50 1.50 ms  p99 1.50 ms  max 1.50 ms  errors 3  \
             connections 7 busy 3 ended  9s left"
        );
        assert_eq!(
            line(Mode::Idle, &interval),
            "   6.0s measure  errors 3  connections 7 busy 3 ended  9s left"
        );
    }
}
