use std::fmt::{Error, Write as _};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Snapshot, TimeHistogram, Worker};
use crate::proto::CloseReason;

/// The format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [`openmetrics`].
    OpenMetrics,
    /// [`prometheus_text`].
    PrometheusText,
}

impl Format {
    /// The format that a reader asks for with the `Accept` headers of its request (RFC 9110, section
    /// 12.5.1): OpenMetrics if it names that type and prefers no version of `text/plain`, else the
    /// older text, which every reader understands.
    pub fn accepted<'a>(headers: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut openmetrics, mut text) = (0, 0);
        for range in headers.into_iter().flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.filter_map(quality).next().unwrap_or(1000);
            if name.eq_ignore_ascii_case("application/openmetrics-text") {
                openmetrics = weight.max(openmetrics);
            } else if name.eq_ignore_ascii_case("text/plain") {
                text = weight.max(text);
            }
        }
        if openmetrics > 0 && openmetrics >= text {
            Self::OpenMetrics
        } else {
            Self::PrometheusText
        }
    }

    /// The content type of an answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The body of an answer.
    pub fn render(self, snapshot: Snapshot) -> String {
        match self {
            Self::OpenMetrics => openmetrics(snapshot),
            Self::PrometheusText => prometheus_text(snapshot),
        }
    }
}

/// The weight of a media range in thousandths, if this is its parameter `q`. One that is no number
/// is worth nothing.
fn quality(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value: f64 = value.trim().parse().unwrap_or(0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is at most 1000.
    Some((value.clamp(0.0, 1.0) * 1000.0) as u32)
}

/// A scrape in the OpenMetrics text format 1.0, which Prometheus asks for with
/// `Accept: application/openmetrics-text`.
pub fn openmetrics(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(snapshot)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes every text");
    text
}

/// The same in Prometheus' older text format 0.0.4, for readers that do not ask for OpenMetrics,
/// such as `promtool check metrics`. There the name of a counter ends in `_total` in its
/// description too, an info is a gauge, and there are no units.
pub fn prometheus_text(snapshot: Snapshot) -> String {
    let mut text = String::new();
    let mut help = "";
    for line in openmetrics(snapshot).lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(split) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            let help = split(help).map_or("", |(_, help)| help);
            writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}")
                .expect("a String takes every text");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn split(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ')
}

/// Prometheus asks a collector, which has to own what it tells.
#[derive(Debug)]
struct Scrape(Snapshot);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.connections(&mut page)?;
        self.ends(&mut page)?;
        self.bytes(&mut page)?;
        self.upgrades(&mut page)?;
        self.loops(&mut page)
    }
}

impl Scrape {
    fn process(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let labels = [("version", self.0.version), ("commit", self.0.commit.unwrap_or("unknown"))];
        page.info("saltecho_build", "Version and commit of the program.", &labels)?;
        let Some(process) = &self.0.process else { return Ok(()) };
        let started = process.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        page.seconds_gauge(
            "process_start_time",
            "Start of the process, in seconds since the Unix epoch.",
            started,
        )?;
        page.seconds("process_cpu", "Processor time of the process.", process.cpu)?;
        page.bytes_gauge("process_resident_memory", "Resident memory.", process.resident)?;
        let descriptors = process.descriptors.unwrap_or(self.0.descriptors);
        page.gauge("process_open_fds", "Open descriptors.", descriptors)?;
        page.gauge(
            "process_max_fds",
            "The most descriptors that may be open.",
            process.descriptors_limit,
        )
    }

    fn connections(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let Snapshot { connections, refused, .. } = &self.0;
        page.gauge("saltecho_ready", "1 while new connections are accepted.", self.0.ready.into())?;
        let states = [
            ("await_header", connections.await_header),
            ("await_digest", connections.await_digest),
            ("echoing", connections.echoing),
            ("lingering", connections.lingering),
        ];
        page.gauges("saltecho_connections", "Connections now, by state.", "state", states)?;
        page.gauge(
            "saltecho_connections_limit",
            "The most connections at once.",
            self.0.connections_limit,
        )?;
        page.counter("saltecho_accepted", "Connections accepted and served.", self.0.accepted)?;
        let reasons = [
            ("no_room", refused.no_room),
            ("suspect", refused.suspect),
            ("over_share", refused.over_share),
            ("untrusted_proxy", refused.untrusted_proxy),
        ];
        page.counters("saltecho_refused", "Clients turned away, by reason.", "reason", reasons)?;
        page.counter(
            "saltecho_accept_errors",
            "Errors of accept that concerned one client.",
            self.0.accept_errors,
        )?;
        page.counter(
            "saltecho_accept_pauses",
            "Times that accepting had to rest, out of places or descriptors.",
            self.0.accept_pauses,
        )
    }

    fn ends(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let of = |reason: CloseReason| self.0.closed[reason as usize];
        let right = self.0.authenticated.iter().map(|(key, count)| ("accepted", &**key, *count));
        let wrong = [
            ("rejected", "", of(CloseReason::Rejected)),
            ("handshake_failed", "", of(CloseReason::HandshakeFailed)),
            ("abandoned", "", of(CloseReason::AuthAbandoned)),
            ("timed_out", "", of(CloseReason::AuthTimeout)),
        ];
        let rows = right.chain(wrong);
        page.family(
            "saltecho_authentications",
            "Authentications that ended, by result and, if accepted, the id of the key.",
            MetricType::Counter,
            rows.map(|(result, key, count)| ([("result", result), ("key", key)], count)),
        )?;
        let closed = CloseReason::ALL.iter().map(|reason| (reason.label(), of(*reason)));
        page.counters("saltecho_closed", "Connections that ended, by reason.", "reason", closed)?;
        page.counter(
            "saltecho_log_lines_suppressed",
            "Log lines that were left out.",
            self.0.log_lines_suppressed,
        )
    }

    fn bytes(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let snapshot = &self.0;
        for (name, help, count) in [
            ("saltecho_received", "Bytes received, digests included.", snapshot.bytes_received),
            ("saltecho_sent", "Bytes sent, challenges included.", snapshot.bytes_sent),
            (
                "saltecho_undelivered",
                "Bytes of answers that were lost with their connection.",
                snapshot.bytes_undelivered,
            ),
            (
                "saltecho_discarded",
                "Bytes read after our stream had ended, and not answered.",
                snapshot.bytes_discarded,
            ),
        ] {
            page.bytes(name, help, count)?;
        }
        page.bytes_gauge(
            "saltecho_backlog",
            "Bytes of answers that wait for their peers to read.",
            snapshot.backlog_bytes,
        )?;
        page.gauge("saltecho_deadlines", "Deadlines that are armed.", snapshot.deadlines)
    }

    fn upgrades(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let Some(upgrades) = &self.0.upgrades else { return Ok(()) };
        let since = |time: Option<SystemTime>| {
            time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
        };
        page.family(
            "saltecho_upgrades",
            "Attempts to hand over to a new process, by result and reason.",
            MetricType::Counter,
            upgrades.attempts.iter().map(|(result, reason, count)| {
                ([("result", *result), ("reason", *reason)], *count)
            }),
        )?;
        page.gauge(
            "saltecho_upgrade_in_progress",
            "1 while a handover is tried.",
            upgrades.in_progress.into(),
        )?;
        page.gauge(
            "saltecho_upgrade_generation",
            "Number of processes so far, of which each took over from the one before.",
            upgrades.generation,
        )?;
        if let Some(started) = since(upgrades.service_started) {
            page.seconds_gauge(
                "saltecho_service_start_time",
                "Start of the first of these processes, in seconds since the Unix epoch.",
                started,
            )?;
        }
        if let Some(success) = since(upgrades.last_success) {
            page.seconds_gauge(
                "saltecho_upgrade_last_success_timestamp",
                "Time of the last handover, in seconds since the Unix epoch.",
                success,
            )?;
        }
        page.histogram(
            "saltecho_upgrade_freeze",
            "Time of a handover in which no process served.",
            &upgrades.freezes,
        )?;
        page.seconds_gauge(
            "saltecho_upgrade_last_freeze",
            "The same of the last handover.",
            upgrades.last_freeze,
        )?;
        page.seconds_gauge(
            "saltecho_upgrade_prepare",
            "Time in which the new process got ready, the last time.",
            upgrades.last_prepare,
        )?;
        page.counter(
            "saltecho_upgrade_connections",
            "Connections that were handed over.",
            upgrades.connections,
        )?;
        page.counter(
            "saltecho_upgrade_connections_dropped",
            "Connections that could not be handed over.",
            upgrades.dropped,
        )
    }

    fn loops(&self, page: &mut Page<'_>) -> Result<(), Error> {
        page.gauge(
            "saltecho_workers_missing",
            "Loops that did not answer in time; their figures are older.",
            self.0.workers_missing,
        )?;
        let workers = self.0.workers.iter();
        let numbers: Vec<String> = workers.map(|worker| worker.number.to_string()).collect();
        let each = || numbers.iter().map(String::as_str).zip(&self.0.workers);
        let counts = |of: fn(&Worker) -> u64| each().map(move |(number, it)| (number, of(it)));
        page.counters(
            "saltecho_turns",
            "Turns of the loop.",
            "worker",
            counts(|worker| worker.turns),
        )?;
        page.counters(
            "saltecho_events",
            "Events that polls reported.",
            "worker",
            counts(|worker| worker.events),
        )?;
        page.counters(
            "saltecho_stale_events",
            "Events for connections that were gone.",
            "worker",
            counts(|worker| worker.stale_events),
        )?;
        page.seconds_by(
            "saltecho_asleep",
            "Time that the loop waited for events.",
            each().map(|(number, worker)| (number, worker.asleep)),
        )?;
        page.histograms(
            "saltecho_turn_duration",
            "Time of a turn of the loop without its poll.",
            each().map(|(number, worker)| (number, &worker.turn)),
        )?;
        page.histograms(
            "saltecho_queue_wait",
            "Time from when a connection could go on to when it did.",
            each().map(|(number, worker)| (number, &worker.queue_wait)),
        )
    }
}

/// One metric after the other, each with its description.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn bytes(&mut self, name: &str, help: &str, count: u64) -> Result<(), Error> {
        let unit = Some(&Unit::Bytes);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    fn bytes_gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let unit = Some(&Unit::Bytes);
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn seconds(&mut self, name: &str, help: &str, time: Duration) -> Result<(), Error> {
        let unit = Some(&Unit::Seconds);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&time.as_secs_f64(), None)
    }

    fn seconds_gauge(&mut self, name: &str, help: &str, time: Duration) -> Result<(), Error> {
        let unit = Some(&Unit::Seconds);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        metric.encode_gauge(&time.as_secs_f64())
    }

    fn counters<'b>(
        &mut self,
        name: &str,
        help: &str,
        label: &'b str,
        rows: impl IntoIterator<Item = (&'b str, u64)>,
    ) -> Result<(), Error> {
        let rows = rows.into_iter().map(|(value, count)| ([(label, value)], count));
        self.family(name, help, MetricType::Counter, rows)
    }

    fn gauges<'b>(
        &mut self,
        name: &str,
        help: &str,
        label: &'b str,
        rows: impl IntoIterator<Item = (&'b str, u64)>,
    ) -> Result<(), Error> {
        let rows = rows.into_iter().map(|(value, count)| ([(label, value)], count));
        self.family(name, help, MetricType::Gauge, rows)
    }

    fn family<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl Iterator<Item = (S, u64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            let mut row = metric.encode_family(&labels)?;
            match kind {
                MetricType::Gauge => row.encode_gauge(&value)?,
                _ => row.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn seconds_by<'b>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (&'b str, Duration)>,
    ) -> Result<(), Error> {
        let unit = Some(&Unit::Seconds);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (worker, time) in rows {
            let labels = [("worker", worker)];
            let mut row = metric.encode_family(&labels)?;
            row.encode_counter::<NoLabelSet, _, f64>(&time.as_secs_f64(), None)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, times: &TimeHistogram) -> Result<(), Error> {
        let unit = Some(&Unit::Seconds);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        let (sum, count) = (times.sum().as_secs_f64(), times.count());
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets(times), None)
    }

    fn histograms<'b>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (&'b str, &'b TimeHistogram)>,
    ) -> Result<(), Error> {
        let unit = Some(&Unit::Seconds);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (worker, times) in rows {
            let buckets = buckets(times);
            let labels = [("worker", worker)];
            let mut row = metric.encode_family(&labels)?;
            let (sum, count) = (times.sum().as_secs_f64(), times.count());
            row.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// The buckets of a histogram, as the encoder takes them.
fn buckets(times: &TimeHistogram) -> Vec<(f64, u64)> {
    let bound = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |it| it.as_secs_f64());
    times.buckets().map(|(at, count)| (bound(at), count)).collect()
}
