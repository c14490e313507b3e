use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::python::saturating_nanos;

/// The timed intervals, each with a histogram in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Series {
    /// From `connect()` until the connection is established.
    Connect,
    /// From then until the first answer. The protocol does not confirm authentication, so a first
    /// message, the probe, is sent right behind the digest; its answer is the confirmation.
    Auth,
    /// An echo, from when it was due (open model) or sent (closed) until the last byte of its
    /// answer.
    Echo,
    /// A whole cycle of connecting, authenticating and one echo, from when it was due (open model)
    /// or started (closed).
    Cycle,
    /// The same echo or cycle from when it was actually sent or started. It leaves out the time that a
    /// message waited to be sent, which users would notice.
    Service,
    /// Delay added by the generator itself: from when a message could be sent until it was, or from
    /// when an answer was announced until it was read.
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

/// The kind of a failure: of a connection, counted once, or of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No listener (ECONNREFUSED).
    Refused,
    /// The connection was not established in time.
    ConnectTimeout,
    /// No challenge, or no answer to the probe, in time.
    AuthTimeout,
    /// No answer to an echo in time, or no end of stream from the peer after ours.
    EchoTimeout,
    /// Closed silently after the digest: the server has another key or another MAC.
    Rejected,
    /// The stream ended while an answer was pending.
    Closed,
    /// Reset by the peer (ECONNRESET, EPIPE).
    Reset,
    /// A byte of an answer was wrong, or not expected at all.
    Mismatch,
    /// A message whose connection ended before it was answered.
    Unanswered,
    /// A message that was due during the measurement and not answered when the run ended. It counts
    /// in the percentiles with the time that it had waited by then, a lower bound.
    Late,
    /// Any other system error: no route, no more ports, no more descriptors.
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
    /// The number of one kind.
    pub const fn of(&self, kind: ErrorKind) -> u64 {
        self.0[kind as usize]
    }

    /// The number of all kinds.
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

/// Counts of what was done. *Messages* are echoes of the measurement, or cycles; probes do not
/// count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Connections established.
    pub connected: u64,
    /// Connections whose probe was answered.
    pub authenticated: u64,
    /// Messages that were due. In the closed model a message is due when it is sent; with idle
    /// connections, one for each connection left at the end.
    pub due: u64,
    /// Messages sent, or cycles started.
    pub sent: u64,
    /// Messages answered, with every byte verified.
    pub answered: u64,
    /// Bytes sent, digests and probes included.
    pub bytes_sent: u64,
    /// Bytes received, challenges and probes included.
    pub bytes_received: u64,
    /// Failures by kind.
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

/// Number of connections in each state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StateCounts {
    /// Not started.
    pub waiting: usize,
    /// `connect()` is in progress.
    pub connecting: usize,
    /// Connected; the probe is not answered.
    pub authenticating: usize,
    /// Authenticated, with no message in flight.
    pub quiet: usize,
    /// Authenticated, with a message in flight.
    pub busy: usize,
    /// Closed, for any reason.
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

/// The histograms and counts of an interval, or of a whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    series: [Histogram<u64>; Series::ALL.len()],
    /// Counts of everything.
    pub counts: Counts,
    /// The part of them that falls into the measurement. Rates are computed from these: answers that
    /// come later would make a slow server look fast.
    pub measured: Counts,
}

impl Record {
    /// Maximum time that is recorded exactly: an hour.
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

    /// The histogram of one series, to add to.
    pub const fn series_mut(&mut self, series: Series) -> &mut Histogram<u64> {
        &mut self.series[series as usize]
    }

    /// Records a time, cut off at [`Record::LONGEST`].
    pub fn note(&mut self, series: Series, time: Duration) {
        self.series[series as usize].saturating_record(saturating_nanos(time).max(1));
    }

    /// Records `number` messages that were not answered when the run ended, with the time that they had
    /// waited by then.
    pub(super) fn note_late(&mut self, series: Series, time: Duration, number: u64) {
        let nanos = saturating_nanos(time);
        self.series[series as usize].saturating_record_n(nanos.max(1), number);
        self.counts.errors.add(ErrorKind::Late, number);
    }

    /// The shortest time, in nanoseconds, that falls into the same bucket.
    pub(super) fn least_like(&self, series: Series, time: Duration) -> u64 {
        self.series[series as usize].lowest_equivalent(saturating_nanos(time.min(Self::LONGEST)))
    }

    /// Adds another record. Histograms are added up: percentiles cannot be merged otherwise.
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

/// A histogram with the common bounds: 1 ns to an hour, three digits.
pub fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, saturating_nanos(Record::LONGEST), 3)
        .expect("the bounds are sound")
}

/// The phase of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connections are established and authenticated.
    #[default]
    Ramp,
    /// The load is measured.
    Measure,
    /// Each idle connection shows with one echo that it still works.
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

/// The record of one interval of a run, usually a second.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Interval {
    /// Its start, counted from the start of the run.
    pub start: Duration,
    /// Its duration.
    pub length: Duration,
    /// The phase that it belongs to.
    pub phase: Phase,
    /// Its histograms and counts.
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
    /// Histograms and counts of the whole run.
    pub record: Record,
    /// Duration of the ramp-up.
    pub ramp: Duration,
    /// Duration of the measurement.
    pub measured: Duration,
    /// Time spent waiting for pending answers, the proof of idle connections included.
    pub drain: Duration,
    /// True if the run was stopped early.
    pub stopped: bool,
    /// The states of the connections when the measurement ended.
    pub states: StateCounts,
    /// The first failure of the kind [`ErrorKind::Other`].
    pub first_other: Option<io::Error>,
}
