//! The upgrades of a service so far, which go on from process to process.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use saltecho::metrics::{TimeHistogram, Upgrades};

use super::message::Text;
use super::reason::Reason;

/// The result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The new process serves.
    Committed,
    /// The new process was ready, and no more was asked for.
    Checked,
    /// There was no attempt.
    Refused(Reason),
    /// The old process went on.
    Aborted(Reason),
}

impl Verdict {
    /// The labels in metrics: a result, and the reason if it has one.
    pub(super) const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Committed => ("committed", ""),
            Self::Checked => ("checked", ""),
            Self::Refused(reason) => ("refused", reason.label()),
            Self::Aborted(reason) => ("aborted", reason.label()),
        }
    }

    /// Every verdict that there can be, so that each has a counter from the start.
    fn all() -> impl Iterator<Item = Self> {
        let refused = Reason::REFUSALS.into_iter().map(Self::Refused);
        let aborted = Reason::ABORTS.into_iter().map(Self::Aborted);
        [Self::Committed, Self::Checked].into_iter().chain(refused).chain(aborted)
    }
}

/// Figures that go over with everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Book {
    /// Number of processes so far, this one included.
    pub(super) generation: u64,
    service_started: SystemTime,
    last_success: Option<SystemTime>,
    attempts: BTreeMap<(&'static str, &'static str), u64>,
    freezes: TimeHistogram,
    pub(super) last_freeze: Duration,
    pub(super) last_prepare: Duration,
    connections: u64,
    dropped: u64,
    /// Lines that the logs of earlier processes left out.
    pub(super) lines_suppressed: u64,
}

impl Book {
    /// That of a first process.
    pub(super) fn new() -> Self {
        Self {
            generation: 1,
            service_started: SystemTime::now(),
            last_success: None,
            attempts: Verdict::all().map(|verdict| (verdict.labels(), 0)).collect(),
            freezes: TimeHistogram::default(),
            last_freeze: Duration::ZERO,
            last_prepare: Duration::ZERO,
            connections: 0,
            dropped: 0,
            lines_suppressed: 0,
        }
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        *self.attempts.entry(verdict.labels()).or_default() += 1;
    }

    /// Counts a handover of so many connections to this process.
    pub(super) fn taken_over(&mut self, freeze: Duration, connections: u64, dropped: u64) {
        self.generation += 1;
        self.count(Verdict::Committed);
        self.last_success = Some(SystemTime::now());
        self.freezes.record(freeze);
        self.last_freeze = freeze;
        self.connections += connections;
        self.dropped += dropped;
    }

    /// The figures for a scrape.
    pub(super) fn upgrades(&self, in_progress: bool) -> Upgrades {
        let attempts = self.attempts.iter();
        Upgrades {
            attempts: attempts.map(|((result, reason), n)| (*result, *reason, *n)).collect(),
            in_progress,
            generation: self.generation,
            service_started: Some(self.service_started),
            last_success: self.last_success,
            freezes: self.freezes.clone(),
            last_freeze: self.last_freeze,
            last_prepare: self.last_prepare,
            connections: self.connections,
            dropped: self.dropped,
        }
    }

    pub(super) fn to_text(&self) -> Text {
        let attempts = self.attempts.iter().filter(|(_, count)| **count > 0);
        let attempts =
            attempts.map(|((result, reason), count)| format!("{result}/{reason}/{count}"));
        let freezes = self.freezes.buckets().map(|(_, count)| count.to_string());
        Text::default()
            .with("generation", self.generation)
            .with("service-started", nanos(self.service_started))
            .with("last-success", self.last_success.map_or(0, nanos))
            .with("attempts", attempts.collect::<Vec<_>>().join(" "))
            .with("freezes", freezes.collect::<Vec<_>>().join(" "))
            .with("freezes-sum", self.freezes.sum().as_nanos())
            .with("last-freeze", self.last_freeze.as_nanos())
            .with("last-prepare", self.last_prepare.as_nanos())
            .with("connections", self.connections)
            .with("dropped", self.dropped)
            .with("lines-suppressed", self.lines_suppressed)
    }

    /// Reads a book. What is missing or of another version is as in a new one.
    pub(super) fn from_text(text: &Text) -> Self {
        let number = |key| text.read::<u64>(key).unwrap_or(0);
        let mut book = Self::new();
        for word in text.get("attempts").unwrap_or_default().split(' ') {
            let parts: Vec<&str> = word.split('/').collect();
            let known = book.attempts.iter_mut().find(|((result, reason), _)| {
                matches!(parts[..], [a, b, _] if a == *result && b == *reason)
            });
            if let Some((_, count)) = known {
                *count = parts[2].parse().unwrap_or(0);
            }
        }
        let freezes = text.get("freezes").unwrap_or_default().split(' ');
        let sum = Duration::from_nanos(number("freezes-sum"));
        book.freezes = TimeHistogram::from_parts(freezes.filter_map(|n| n.parse().ok()), sum);
        book.generation = number("generation").max(1);
        book.service_started = time(number("service-started"));
        book.last_success = Some(number("last-success")).filter(|n| *n > 0).map(time);
        book.last_freeze = Duration::from_nanos(number("last-freeze"));
        book.last_prepare = Duration::from_nanos(number("last-prepare"));
        book.connections = number("connections");
        book.dropped = number("dropped");
        book.lines_suppressed = number("lines-suppressed");
        book
    }
}

/// Nanoseconds since the Unix epoch.
fn nanos(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn time(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_goes_over_whole() {
        let mut book = Book::new();
        book.service_started = time(1_700_000_000_123_456_789);
        for verdict in Verdict::all() {
            book.count(verdict);
        }
        book.count(Verdict::Aborted(Reason::Late));
        for millis in [1, 38, 500] {
            book.taken_over(Duration::from_millis(millis), 19_000, 1);
        }
        book.last_success = Some(time(5));
        (book.last_prepare, book.lines_suppressed) = (Duration::from_millis(7), 9);
        assert_eq!(book.freezes.count(), 3);
        let read = Book::from_text(&Text::parse(&book.to_text().to_payload()));
        assert_eq!(read, book);
        assert_eq!(read.upgrades(true).connections, 57_000);
    }

    #[test]
    fn a_book_of_another_version_is_read_as_far_as_it_goes() {
        let text = Text::default().with("generation", 3).with("attempts", "committed//2 odd/x/1 /");
        let book = Book::from_text(&text);
        assert_eq!((book.generation, book.attempts[&("committed", "")]), (3, 2));
        assert_eq!(Book::from_text(&Text::default()).generation, 1);
    }
}
