//! A load generator in a report: its program, machine, plan and run.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::load::{Mode, Outcome, Pace, Plan, SizeShare};
use crate::proto::Protocol;

/// A load generator and its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// The name of its log file, if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Program and start time.
    pub program: ProgramInfo,
    /// Machine that it ran on.
    pub machine: Machine,
    /// Settings of the load.
    pub plan: PlanInfo,
    /// Durations of the run; unknown if the log was cut off.
    #[serde(default, alias = "ran", skip_serializing_if = "Option::is_none")]
    pub run: Option<RunInfo>,
}

/// The program that generated the load, and its start time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramInfo {
    /// Version of saltecho.
    pub version: String,
    /// Commit that it was built from, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// True if it was built without optimization, which makes a generator late.
    pub debug_build: bool,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// Start of the run, by the wall clock.
    #[serde(with = "utc")]
    pub began: SystemTime,
}

impl ProgramInfo {
    /// Describes this program, with the current time as start.
    pub fn now(command: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("BUILD_COMMIT").map(str::to_owned),
            debug_build: cfg!(debug_assertions),
            command,
            began: SystemTime::now(),
        }
    }

    /// The command line, quoted for a shell.
    pub fn command_line(&self) -> String {
        command_line(self.command.iter().map(String::as_str))
    }

    /// Start of the run: `2026-11-25 04:20:00 UTC`.
    pub fn began_utc(&self) -> String {
        let time = humantime::format_rfc3339_seconds(self.began).to_string();
        time.replace('T', " ").replace('Z', " UTC")
    }

    /// Name, version and commit.
    pub fn program(&self) -> String {
        let commit = self.commit.as_deref().map(|commit| format!(", commit {commit}"));
        let debug = if self.debug_build { ", debug build" } else { "" };
        format!("saltecho {}{}{debug}", self.version, commit.unwrap_or_default())
    }
}

/// Words as one line for a shell, quoted where they need it.
pub fn command_line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,%+@[]".contains(&byte);
    match word {
        word if !word.is_empty() && word.bytes().all(is_plain) => word.to_owned(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The machine of a generator; unknown values are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Host name, which reports show to distinguish several machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Release of the kernel, as in `uname -r`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Model name of the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Number of CPUs that the process may use.
    pub cpus: usize,
    /// TCP's default congestion control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion_control: Option<String>,
}

impl Machine {
    /// Describes this machine.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        Self {
            host: read("/proc/sys/kernel/hostname"),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: model
                .and_then(|line| line.split_once(':'))
                .map(|(_, name)| name.trim().to_owned()),
            cpus: available_parallelism().map_or(1, usize::from),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }

    /// Everything but the host name, in one line.
    pub fn line(&self) -> String {
        let mut parts = vec![format!("{} × {}", self.cpus, self.cpu.as_deref().unwrap_or("CPU"))];
        parts.extend(self.kernel.as_ref().map(|release| format!("Linux {release}")));
        parts.extend(self.congestion_control.as_ref().map(|name| format!("TCP {name}")));
        parts.join(", ")
    }
}

/// A [`Plan`] without the key, fit for publication.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanInfo {
    /// Address of the server.
    pub target: SocketAddr,
    /// Source addresses; if empty, the system chose one.
    pub sources: Vec<IpAddr>,
    /// Name of the protocol; the tutorial's in reports that are older than the setting.
    #[serde(default = "tutorial")]
    pub protocol: String,
    /// Public name of the key.
    pub key: String,
    /// Name of the MAC.
    pub mac: String,
    /// Behavior of the connections.
    pub mode: Mode,
    /// Rate of messages; none in the closed model.
    #[serde(rename = "rate_per_s", with = "pace")]
    pub pace: Pace,
    /// Number of connections.
    pub connections: usize,
    /// Number of connections that sent messages.
    pub active: usize,
    /// Maximum number of unanswered messages per connection.
    pub in_flight: usize,
    /// Size of a message in bytes; the mean if there are several.
    #[serde(rename = "size_bytes")]
    pub size: usize,
    /// The sizes with their shares, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<SizeShare>,
    /// True if answers were expected in upper case.
    pub upper: bool,
    /// Time over which connecting was spread.
    #[serde(rename = "ramp_ns", with = "nanos")]
    pub ramp: Duration,
    /// Planned duration of the measurement.
    #[serde(rename = "duration_ns", with = "nanos")]
    pub duration: Duration,
    /// Time limit for each connect, authentication and echo.
    #[serde(rename = "timeout_ns", with = "nanos_or_null")]
    pub timeout: Option<Duration>,
    /// Pause between an answer and the next message of a connection; zero in reports that are older than
    /// the setting.
    #[serde(default, rename = "think_ns", with = "nanos")]
    pub think: Duration,
    /// Seed for the message contents.
    pub seed: u64,
    /// Time to poll without sleeping after each event; zero in reports that are older than the
    /// setting.
    #[serde(default, rename = "spin_ns", with = "nanos")]
    pub spin: Duration,
}

fn tutorial() -> String {
    Protocol::Tutorial.to_string()
}

impl PlanInfo {
    /// Describes a plan. `key` is the public name of the key.
    pub fn new(plan: &Plan, key: String) -> Self {
        Self {
            target: plan.target,
            sources: plan.sources.iter().map(SocketAddr::ip).collect(),
            protocol: plan.protocol.to_string(),
            key,
            mac: plan.algorithm.to_string(),
            mode: plan.mode,
            pace: plan.pace,
            connections: plan.connections,
            active: plan.active,
            in_flight: plan.in_flight,
            size: plan.size.mean(),
            sizes: match plan.size.is_mixed() {
                true => plan.size.shares().to_vec(),
                false => Vec::new(),
            },
            upper: plan.upper,
            ramp: plan.ramp,
            duration: plan.duration,
            timeout: plan.timeout,
            think: plan.think,
            seed: plan.seed,
            spin: plan.spin,
        }
    }
}

/// Durations of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Time until all connections were authenticated.
    #[serde(rename = "ramp_ns", with = "nanos")]
    pub ramp: Duration,
    /// Duration of the measurement.
    #[serde(rename = "measured_ns", with = "nanos")]
    pub measured: Duration,
    /// Time until no answer was pending any more.
    #[serde(rename = "drain_ns", with = "nanos")]
    pub drain: Duration,
    /// True if the run was stopped early.
    pub stopped_early: bool,
    /// Time that the generator was ready to run and waited for a CPU during the measurement, if the
    /// system counts it.
    #[serde(default, rename = "waited_ns", with = "nanos_or_null")]
    pub waited: Option<Duration>,
}

impl From<&Outcome> for RunInfo {
    fn from(outcome: &Outcome) -> Self {
        Self {
            ramp: outcome.ramp,
            measured: outcome.measured,
            drain: outcome.drain,
            stopped_early: outcome.stopped,
            waited: None,
        }
    }
}

/// A duration in whole nanoseconds, up to 584 years.
pub(super) mod nanos {
    use super::{Deserialize, Duration};
    use crate::python::saturating_nanos;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(saturating_nanos(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_nanos)
    }
}

mod nanos_or_null {
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::nanos::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<u64>::deserialize(from).map(|time| time.map(Duration::from_nanos))
    }
}

/// A time in RFC 3339 format, in milliseconds.
mod utc {
    use super::{Deserialize, SystemTime};
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_millis(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A rate, or null in the closed model.
mod pace {
    use super::{Deserialize, NonZeroU64, Pace};
    use serde::{Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(pace: &Pace, to: S) -> Result<S::Ok, S::Error> {
        match pace {
            Pace::Open(rate) => Some(*rate),
            Pace::Closed => None,
        }
        .serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Pace, D::Error> {
        let rate = Option::<NonZeroU64>::deserialize(from)?;
        Ok(rate.map_or(Pace::Closed, Pace::Open))
    }
}
