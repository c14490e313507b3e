use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::load::{Mode, Outcome, Pace, Plan};

/// One generator of load and what it was told to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// How it is told from others: the name of its file, if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The program, and when it ran.
    #[serde(rename = "program")]
    pub about: About,
    /// Where it ran.
    pub machine: Machine,
    /// What it was told to do.
    #[serde(rename = "plan")]
    pub setup: Setup,
    /// How long its parts took; unknown if its log was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran: Option<Ran>,
}

/// The program that made the load, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// saltecho's version.
    pub version: String,
    /// The commit that it was built from, if that was known then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether it was built without optimisation, which makes a generator late.
    pub debug_build: bool,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// When the run began, by the wall clock.
    #[serde(with = "utc")]
    pub began: SystemTime,
}

impl About {
    /// This program, beginning now.
    pub fn now(command: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("BUILD_COMMIT").map(str::to_owned),
            debug_build: cfg!(debug_assertions),
            command,
            began: SystemTime::now(),
        }
    }

    /// The command line as one would type it.
    pub fn command_line(&self) -> String {
        let words: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        words.join(" ")
    }

    /// When the run began: `2026-11-25 04:20:00 UTC`.
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

/// A word as a shell takes it back.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,%+@[]".contains(&byte);
    match word {
        word if !word.is_empty() && word.bytes().all(is_plain) => word.to_owned(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The machine that the generator runs on; what cannot be found out is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The host's own name. It is shown where several machines are to be told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The kernel's release, as `uname -r` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The processor's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// How many processors this process may use.
    pub cpus: usize,
    /// TCP's default congestion control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion_control: Option<String>,
}

impl Machine {
    /// This machine.
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

    /// All of it but the host's name, in one line.
    pub fn line(&self) -> String {
        let mut parts = vec![format!("{} × {}", self.cpus, self.cpu.as_deref().unwrap_or("CPU"))];
        parts.extend(self.kernel.as_ref().map(|release| format!("Linux {release}")));
        parts.extend(self.congestion_control.as_ref().map(|name| format!("TCP {name}")));
        parts.join(", ")
    }
}

/// A [`Plan`] as it may be published: without the key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The server.
    pub target: SocketAddr,
    /// The addresses that connections came from; none leaves it to the system.
    pub sources: Vec<IpAddr>,
    /// The key's public name.
    pub key: String,
    /// The MAC's name.
    pub mac: String,
    /// What the connections did.
    pub mode: Mode,
    /// When messages were due.
    #[serde(rename = "rate_per_s", with = "pace")]
    pub pace: Pace,
    /// How many connections there were.
    pub connections: usize,
    /// Of these, how many sent messages.
    pub active: usize,
    /// How many messages might be under way on one connection.
    pub in_flight: usize,
    /// The length of a message.
    #[serde(rename = "size_bytes")]
    pub size: usize,
    /// Whether the answer was to be in upper case.
    pub upper: bool,
    /// Over which time connections were to be begun.
    #[serde(rename = "ramp_ns", with = "nanos")]
    pub ramp: Duration,
    /// How long the load was to be measured.
    #[serde(rename = "duration_ns", with = "nanos")]
    pub duration: Duration,
    /// How long each step might take.
    #[serde(rename = "timeout_ns", with = "nanos_or_null")]
    pub timeout: Option<Duration>,
    /// What the bytes of messages followed from.
    pub seed: u64,
    /// How long the generator polled without sleeping after each event; zero in reports that are
    /// older than the setting.
    #[serde(default, rename = "spin_ns", with = "nanos")]
    pub spin: Duration,
}

impl Setup {
    /// What may be said of a plan. `key` is the key's public name.
    pub fn of(plan: &Plan, key: String) -> Self {
        Self {
            target: plan.target,
            sources: plan.sources.iter().map(SocketAddr::ip).collect(),
            key,
            mac: plan.algorithm.to_string(),
            mode: plan.mode,
            pace: plan.pace,
            connections: plan.connections,
            active: plan.active,
            in_flight: plan.in_flight,
            size: plan.size,
            upper: plan.upper,
            ramp: plan.ramp,
            duration: plan.duration,
            timeout: plan.timeout,
            seed: plan.seed,
            spin: plan.spin,
        }
    }
}

/// How long the parts of a run took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// Until all connections stood.
    #[serde(rename = "ramp_ns", with = "nanos")]
    pub ramp: Duration,
    /// The load that was measured.
    #[serde(rename = "measured_ns", with = "nanos")]
    pub measured: Duration,
    /// Until nothing was owed any more.
    #[serde(rename = "drain_ns", with = "nanos")]
    pub drain: Duration,
    /// Whether somebody ended it before its time.
    pub stopped_early: bool,
    /// How long the generator could have run and had no processor while it measured, if the system
    /// counts it.
    #[serde(default, rename = "waited_ns", with = "nanos_or_null")]
    pub waited: Option<Duration>,
}

impl From<&Outcome> for Ran {
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

/// A duration as whole nanoseconds, up to 584 years.
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

/// A time of day as RFC 3339 has it, to the millisecond.
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
