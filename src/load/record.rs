use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::python::saturating_nanos;

/// What is timed: one histogram each, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Series {
    /// From `connect()` until the connection stands.
    Connect,
    /// From then until the first answer. The protocol has no word for "accepted", so a first
    /// message, the probe, is sent right behind the digest, and its answer is the proof.
    Auth,
    /// An echo, from when it was due (open model) or sent (closed) until the last byte of its
    /// answer.
    Echo,
    /// A whole cycle of connecting, authenticating and one echo, from when it was due (open model)
    /// or begun (closed).
    Cycle,
    /// The same echo or cycle from when it was really sent or begun. It leaves out the time that
    /// the load waited for its turn, as users do not.
    Service,
    /// What the generator itself added: how long after it was possible a message was sent, or how
    /// long an answer had been announced before it was looked at.
    Lateness,
}

impl Series {
    /// Every series, in the order in which they are reported.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Auth, Self::Echo, Self::Cycle, Self::Service, Self::Lateness];

    /// The name in reports, and the tag in interval logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Auth => "auth",
            Self::Echo => "echo",
            Self::Cycle => "cycle",
            Self::Service => "service",
            Self::Lateness => "lateness",
        }
    }

    /// The series of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|series| series.as_str() == name)
    }
}

/// How something failed: a connection, once, or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No listener (ECONNREFUSED).
    Refused,
    /// The connection did not stand in time.
    ConnectTimeout,
    /// There was no challenge, or no answer to the probe, in time.
    AuthTimeout,
    /// An echo was not answered in time, or the end of our stream not by one of the peer's.
    EchoTimeout,
    /// Closed without a word after the digest: another key, another MAC.
    Rejected,
    /// The stream ended while something was owed.
    Closed,
    /// Reset by the peer (ECONNRESET, EPIPE).
    Reset,
    /// An echoed byte was not the one that was due, or one came that was not due.
    Mismatch,
    /// A message whose connection had ended before it was answered.
    Unanswered,
    /// A message that was due during the measurement and not answered when the run ended. It counts
    /// in the percentiles with the time that it had waited by then, a lower bound.
    Late,
    /// Anything else that the system said: no route, no more ports, no more descriptors.
    Other,
}

impl ErrorKind {
    /// Every kind, in the order in which they are reported.
    pub const ALL: [Self; 11] = [
        Self::Refused,
        Self::ConnectTimeout,
        Self::AuthTimeout,
        Self::EchoTimeout,
        Self::Rejected,
        Self::Closed,
        Self::Reset,
        Self::Mismatch,
        Self::Unanswered,
        Self::Late,
        Self::Other,
    ];

    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::AuthTimeout => "auth_timeout",
            Self::EchoTimeout => "echo_timeout",
            Self::Rejected => "rejected",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Mismatch => "mismatch",
            Self::Unanswered => "unanswered",
            Self::Late => "late",
            Self::Other => "other",
        }
    }
}

/// Failures by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors([u64; ErrorKind::ALL.len()]);

impl Errors {
    /// How many there were of one kind.
    pub const fn of(&self, kind: ErrorKind) -> u64 {
        self.0[kind as usize]
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |total, number| total.saturating_add(*number))
    }

    /// The kinds that occurred, each with its number.
    pub fn occurred(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        ErrorKind::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|(_, n)| *n > 0)
    }

    /// Counts `n` more of a kind.
    pub const fn add(&mut self, kind: ErrorKind, n: u64) {
        self.0[kind as usize] += n;
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = mine.saturating_add(*theirs);
        }
    }
}

/// What was done, in numbers. *Messages* are echoes of the measurement, or cycles; probes are
/// none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that stood.
    pub connected: u64,
    /// Connections whose probe was answered.
    pub authenticated: u64,
    /// Messages that were due. In the closed model a message is due when it is sent; of idle
    /// connections each that is left in the end owes one.
    pub due: u64,
    /// Messages sent, or cycles begun.
    pub sent: u64,
    /// Messages answered, every byte of them verified.
    pub answered: u64,
    /// Bytes sent, digests and probes included.
    pub bytes_sent: u64,
    /// Bytes received, challenges and probes included.
    pub bytes_received: u64,
    /// What failed.
    #[serde(with = "super::errors")]
    pub errors: Errors,
}

impl Counts {
    /// Adds those of another part of the same run, or of another generator.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.connected, other.connected),
            (&mut self.authenticated, other.authenticated),
            (&mut self.due, other.due),
            (&mut self.sent, other.sent),
            (&mut self.answered, other.answered),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.bytes_received, other.bytes_received),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.errors.merge(&other.errors);
    }
}

/// Where the connections stand at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StateCounts {
    /// Not begun: their turn has not come.
    pub waiting: usize,
    /// `connect()` is under way.
    pub connecting: usize,
    /// Connected; the probe is not answered.
    pub authenticating: usize,
    /// Authenticated, with no message under way.
    pub quiet: usize,
    /// Authenticated, with a message under way.
    pub busy: usize,
    /// Over, in whatever way.
    pub ended: usize,
}

impl StateCounts {
    /// The fields by name, in the order of a connection's life.
    pub const fn by_name(&self) -> [(&'static str, usize); 6] {
        [
            ("waiting", self.waiting),
            ("connecting", self.connecting),
            ("authenticating", self.authenticating),
            ("quiet", self.quiet),
            ("busy", self.busy),
            ("ended", self.ended),
        ]
    }
}

/// The histograms and numbers of a stretch of time, or of a whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    series: [Histogram<u64>; Series::ALL.len()],
    /// What was done.
    pub counts: Counts,
    /// Of that, what was done while the load was measured. Rates are of this: what is answered
    /// after the end would make a slow server look fast.
    pub measured: Counts,
}

impl Record {
    /// The longest time that is told from a longer one: an hour.
    pub const LONGEST: Duration = Duration::from_secs(3600);

    /// An empty record.
    pub fn new() -> Self {
        Self {
            series: std::array::from_fn(|_| empty_histogram()),
            counts: Counts::default(),
            measured: Counts::default(),
        }
    }

    /// The histogram of one series, in nanoseconds to three digits.
    pub const fn series(&self, series: Series) -> &Histogram<u64> {
        &self.series[series as usize]
    }

    /// The same, to be added to.
    pub const fn series_mut(&mut self, series: Series) -> &mut Histogram<u64> {
        &mut self.series[series as usize]
    }

    /// Counts one time. More than [`Record::LONGEST`] counts as that.
    pub fn note(&mut self, series: Series, time: Duration) {
        self.series[series as usize].saturating_record(saturating_nanos(time).max(1));
    }

    /// Counts so many messages that were not answered when the run ended, and how long they had
    /// waited by then.
    pub(super) fn note_late(&mut self, series: Series, time: Duration, number: u64) {
        let nanos = saturating_nanos(time);
        self.series[series as usize].saturating_record_n(nanos.max(1), number);
        self.counts.errors.add(ErrorKind::Late, number);
    }

    /// The shortest time in nanoseconds that is recorded as this one is.
    pub(super) fn least_like(&self, series: Series, time: Duration) -> u64 {
        self.series[series as usize].lowest_equivalent(saturating_nanos(time.min(Self::LONGEST)))
    }

    /// Adds another record: histograms are added up, which is the only right way to merge
    /// percentiles.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.series.iter_mut().zip(&other.series) {
            mine.add(theirs).expect("all have the same bounds");
        }
        self.counts.merge(&other.counts);
        self.measured.merge(&other.measured);
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

/// A histogram with the bounds that all of them have: 1 ns to an hour, three digits.
pub fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, saturating_nanos(Record::LONGEST), 3)
        .expect("the bounds are sound")
}

/// The phase of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connections are made and authenticated.
    #[default]
    Ramp,
    /// The load is measured.
    Measure,
    /// Idle connections show that they are there, by one echo each.
    Prove,
    /// Nothing new is due; pending answers are awaited.
    Drain,
}

impl Phase {
    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ramp => "ramp",
            Self::Measure => "measure",
            Self::Prove => "prove",
            Self::Drain => "drain",
        }
    }
}

/// What happened in one stretch of a run, a second as a rule.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Interval {
    /// Its beginning, from the beginning of the run.
    pub start: Duration,
    /// Its length.
    pub length: Duration,
    /// The phase that it belongs to.
    pub phase: Phase,
    /// What was recorded in it.
    pub record: Record,
    /// The states of the connections at its end.
    pub states: StateCounts,
    /// Time left in this phase, if that is known.
    pub left: Option<Duration>,
}

/// The result of a run.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// All of it.
    pub record: Record,
    /// Time that connecting took.
    pub ramp: Duration,
    /// Time for which the load was measured.
    pub measured: Duration,
    /// Time for which pending answers were awaited, the proof of idle connections included.
    pub drain: Duration,
    /// Whether the run was ended early.
    pub stopped: bool,
    /// The states of the connections when the measurement ended.
    pub states: StateCounts,
    /// The first failure of the kind [`ErrorKind::Other`].
    pub first_other: Option<io::Error>,
}
