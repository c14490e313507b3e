//! A synthetic load run without socket or clock, the same every time.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use saltecho::auth::{Key, MacAlgorithm};
use saltecho::load::report::{
    Collector, Generator, HistogramLog, Machine, PlanInfo, ProgramInfo, Report,
};
use saltecho::load::{
    ErrorKind, Interval, Mode, Outcome, Pace, Phase, Plan, Record, Series, StateCounts,
};

/// The properties of the run.
#[derive(Clone)]
pub struct Script {
    pub plan: Plan,
    pub began: SystemTime,
    pub seconds: u64,
    /// The second in which the server stalls, and for how many milliseconds.
    pub stall: Option<(u64, u64)>,
    /// The generator's own delay in nanoseconds.
    pub lateness: u64,
    /// The time it waited for a CPU.
    pub waited: Option<Duration>,
    pub errors: Vec<(ErrorKind, u64)>,
    /// Makes two runs differ.
    pub salt: u64,
}

impl Script {
    pub fn new(mode: Mode) -> Self {
        let target = "127.0.0.1:9999".parse().unwrap();
        let mut plan = Plan::new(target, Key::demo(), MacAlgorithm::Md5);
        plan.mode = mode;
        Self {
            plan,
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            seconds: 15,
            stall: Some((6, 90)),
            lateness: 2_000,
            waited: Some(Duration::from_millis(2)),
            errors: Vec::new(),
            salt: 0,
        }
    }

    pub fn generator(&self) -> Generator {
        let command =
            ["saltecho", "load", "127.0.0.1:9999", "-r", "1000", "--html", "<out> & 'it'.html"];
        let mut program = ProgramInfo::now(command.map(str::to_owned).to_vec());
        program.began = self.began;
        program.debug_build = false;
        program.commit = Some("0123456789ab".to_owned());
        Generator {
            name: String::new(),
            program,
            machine: Machine {
                host: Some("loader".to_owned()),
                kernel: Some("6.12.0".to_owned()),
                cpu: Some("A Processor".to_owned()),
                cpus: 2,
                congestion_control: Some("cubic".to_owned()),
            },
            plan: PlanInfo::new(&self.plan, "bab78a7f (the demo key)".to_owned()),
            run: None,
        }
    }

    /// Its intervals: one second of ramp-up, the measured seconds, and a short drain.
    pub fn intervals(&self) -> Vec<Interval> {
        let mut intervals = vec![self.ramp()];
        intervals.extend((0..self.seconds).map(|second| self.measure(second)));
        let mut drain = self.interval(Phase::Drain, 1 + self.seconds, Record::new(), 0);
        drain.length = Duration::from_millis(3);
        intervals.push(drain);
        intervals
    }

    fn states(&self, busy: usize) -> StateCounts {
        let mut states = StateCounts::default();
        (states.quiet, states.busy) = (self.plan.connections - busy, busy);
        states
    }

    /// A second of the run, at whose end so many connections are busy.
    fn interval(&self, phase: Phase, start: u64, record: Record, busy: usize) -> Interval {
        let mut interval = Interval::default();
        interval.start = Duration::from_secs(start);
        interval.length = Duration::from_secs(1);
        (interval.phase, interval.record) = (phase, record);
        interval.states = self.states(busy);
        interval
    }

    fn ramp(&self) -> Interval {
        let mut record = Record::new();
        let connections = self.plan.connections as u64;
        for number in 0..connections {
            record.note(Series::Connect, nanos(40_000 + self.noise(number, 20_000)));
            record.note(Series::Auth, nanos(150_000 + self.noise(number, 90_000)));
        }
        record.counts.connected = connections;
        record.counts.authenticated = connections;
        record.counts.bytes_sent = connections * 17;
        record.counts.bytes_received = connections * 33;
        for &(kind, number) in &self.errors {
            record.counts.errors.add(kind, number);
        }
        self.interval(Phase::Ramp, 0, record, 0)
    }

    fn measure(&self, second: u64) -> Interval {
        let mut record = Record::new();
        let rate = match self.plan.pace {
            Pace::Open(rate) => rate.get(),
            Pace::Closed => 1_500,
        };
        let stall = self.stall.filter(|(at, _)| *at == second).map_or(0, |(_, millis)| millis);
        if let Some(series) = self.plan.mode.main_series() {
            for number in 0..rate {
                let due_ms = number * 1000 / rate;
                let service = 80_000 + self.noise(second * rate + number, 60_000);
                // A message due during the stall waits until its end.
                let waits = stall.saturating_sub(due_ms) * 1_000_000;
                record.note(series, nanos(service + waits));
                record.note(
                    Series::Service,
                    nanos(if due_ms == 0 { service + waits } else { service }),
                );
                record.note(Series::Lateness, nanos(self.lateness + self.noise(number, 500)));
            }
            let counts = &mut record.counts;
            (counts.due, counts.sent, counts.answered) = (rate, rate, rate);
            counts.bytes_sent = rate * self.plan.size.mean() as u64;
            counts.bytes_received = counts.bytes_sent;
        }
        record.measured = record.counts.clone();
        let busy = if stall > 0 { self.plan.connections } else { 3 };
        let mut interval = self.interval(Phase::Measure, 1 + second, record, busy);
        interval.left = Some(Duration::from_secs(self.seconds - second - 1));
        interval
    }

    /// Numbers of about `scale` with a long tail, by a mixing function of `splitmix64`.
    fn noise(&self, number: u64, scale: u64) -> u64 {
        let mut z = (number ^ self.salt << 40).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // The leading zeros of a random word are distributed geometrically; the rest smooths them.
        (u64::from(z.leading_zeros()) * 1024 + (z & 1023)) * scale / 1477
    }

    pub fn outcome(&self, intervals: &[Interval]) -> Outcome {
        let mut outcome = Outcome::default();
        intervals.iter().for_each(|interval| outcome.record.merge(&interval.record));
        outcome.ramp = Duration::from_secs(1);
        outcome.measured = Duration::from_secs(self.seconds);
        outcome.drain = Duration::from_millis(3);
        outcome.states = self.states(3);
        outcome
    }

    /// Feeds the whole run to a collector; `with` adds sinks.
    pub fn run(&self, with: impl FnOnce(&mut Collector)) -> Report {
        let mut collector = Collector::new(self.generator());
        with(&mut collector);
        let intervals = self.intervals();
        intervals.iter().for_each(|interval| collector.take(interval));
        let (report, failures) = collector.finish(self.outcome(&intervals), self.waited);
        assert!(failures.is_empty(), "{failures:?}");
        report
    }

    /// The run's histogram log and its report.
    pub fn log(&self) -> (Vec<u8>, Report) {
        let bytes = Shared::default();
        let report = self.run(|collector| {
            let log = HistogramLog::new(bytes.clone(), &self.generator()).unwrap();
            collector.add_sink("log", log);
        });
        let bytes = bytes.0.lock().unwrap().clone();
        (bytes, report)
    }

    pub fn report(&self) -> Report {
        self.run(|_| {})
    }
}

/// A buffer shared between its writer and the test.
#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}
