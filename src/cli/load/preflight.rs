//! Checks before the first connection whether this machine allows the load. If not, the error names
//! the setting to change, instead of a failure in the middle of the run.

use std::io::IsTerminal;
use std::net::{IpAddr, UdpSocket};

use saltecho::load::{Mode, Pace, Plan};

use super::live::is_dumb;
use crate::cli::machine::Machine;

/// Limits of this machine, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineLimits {
    /// Maximum number of descriptors of this process.
    pub(super) descriptors: u64,
    /// Number of ports for connections from one address to one server.
    pub(super) ports: u64,
    /// Number of them that are found without a long search.
    pub(super) quick_ports: u64,
    /// True if a port can be reused one second after its connection ended, instead of 60.
    pub(super) reuses_ports: bool,
    /// Maximum memory for TCP on the whole machine, in bytes.
    pub(super) tcp_memory: Option<u64>,
}

/// Descriptors for other purposes than connections: the standard streams, epoll, its waker, files.
const RESERVED: u64 = 16;
/// Seconds that the side that closed first keeps a port (TCP_TIMEWAIT_LEN).
const TIME_WAIT: u64 = 60;

impl MachineLimits {
    /// Reads the limits, and raises the soft limit on descriptors to the hard one.
    pub(super) fn examine(target: IpAddr) -> Self {
        let machine = Machine::this();
        Self {
            descriptors: rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024),
            ports: machine.ports_per_source(),
            quick_ports: machine.quick_ports_per_source(),
            // 2, the default, applies to loopback only.
            reuses_ports: match machine.tw_reuse {
                Some(1) => true,
                Some(2) => target.is_loopback(),
                _ => false,
            },
            tcp_memory: machine.tcp_memory,
        }
    }

    /// Returns why the plan is impossible here and how to change that, or `None`.
    pub(super) fn check(&self, plan: &Plan) -> Option<String> {
        self.too_few_descriptors(plan)
            .or_else(|| self.too_few_ports(plan))
            .or_else(|| self.too_little_memory(plan))
    }

    fn too_few_descriptors(&self, plan: &Plan) -> Option<String> {
        let needed = plan.connections as u64 + RESERVED;
        (needed > self.descriptors).then(|| {
            format!(
                "{} connections need {needed} descriptors, but the limit is {}: raise the hard limit \
                 (`ulimit -Hn`, LimitNOFILE=), or split the load among several processes with \
                 --hlog and merge their logs with `saltecho report`",
                plan.connections, self.descriptors
            )
        })
    }

    /// Returns why the plan is slower here than it could be and how to change that, or `None`.
    pub(super) fn advise(&self, plan: &Plan) -> Option<String> {
        let Ports { needed, what } = self.ports_of(plan);
        let sources = plan.sources.len().max(1) as u64;
        let enough = needed.div_ceil(self.quick_ports);
        (enough > sources).then(|| {
            format!(
                "{what} to one server need {needed} ports, and beyond {} of one source address \
                 connect() is slow, since it walks all that are taken each time: {}",
                self.quick_ports,
                more_sources(plan, enough)
            )
        })
    }

    /// Each connection needs a port, and the port of a cycle is not free at once when it ends.
    fn ports_of(&self, plan: &Plan) -> Ports {
        let wait = if self.reuses_ports { 1 } else { TIME_WAIT };
        let waiting = match (plan.mode, plan.pace) {
            (Mode::Connect, Pace::Open(rate)) => {
                rate.get().saturating_mul(wait.min(plan.duration.as_secs().max(1)))
            }
            _ => 0,
        };
        let what = match waiting {
            0 => format!("{} connections", plan.connections),
            _ => {
                format!("{} cycles per second, each with its port for {wait} s,", waiting / wait)
            }
        };
        Ports { needed: waiting.saturating_add(plan.connections as u64), what }
    }

    fn too_few_ports(&self, plan: &Plan) -> Option<String> {
        let Ports { needed, what } = self.ports_of(plan);
        let sources = plan.sources.len().max(1) as u64;
        (needed.div_ceil(self.ports) > sources).then(|| {
            // As many as connect fast.
            let remedy = more_sources(plan, needed.div_ceil(self.quick_ports));
            format!(
                "{what} to one server need {needed} ports, and {sources} source address{} {} \
                 {}: {remedy}, or widen the range (sysctl -w net.ipv4.ip_local_port_range='1024 \
                 65535')",
                if sources == 1 { "" } else { "es" },
                if sources == 1 { "has" } else { "have" },
                sources * self.ports,
            )
        })
    }

    fn too_little_memory(&self, plan: &Plan) -> Option<String> {
        let allowed = self.tcp_memory?;
        // Messages in flight are in the buffers of both ends; on loopback both are on this machine.
        let ends = if plan.target.ip().is_loopback() { 2 } else { 1 };
        let size = plan.size.largest();
        let needed = [plan.active, plan.in_flight, size]
            .into_iter()
            .fold(ends, |product: u64, factor| product.saturating_mul(factor as u64));
        // The kernel buffers at most 4 MiB for one connection (default of tcp_wmem).
        let needed = needed.min(plan.active as u64 * ends * (4 << 20));
        (needed > allowed).then(|| {
            format!(
                "{} connections with {} x {} bytes in flight need up to {} MiB of TCP memory, but \
                 the limit of this machine is {} MiB: send fewer or shorter messages (--active, \
                 --in-flight, -s), or raise the third number in net.ipv4.tcp_mem",
                plan.active,
                plan.in_flight,
                size,
                needed >> 20,
                allowed >> 20
            )
        })
    }
}

/// The ports that a plan takes, and in words what takes them.
struct Ports {
    needed: u64,
    what: String,
}

/// How to connect from `enough` source addresses.
fn more_sources(plan: &Plan, enough: u64) -> String {
    match plan.target.ip().is_loopback() && enough < 250 {
        true => format!("connect from more with --source 127.0.0.2-{}", enough + 1),
        false => format!("connect from {enough} local addresses with --source"),
    }
}

/// Returns why one of the sources cannot be used, or `None`.
pub(super) fn check_sources(plan: &Plan) -> Option<String> {
    plan.sources.iter().find_map(|source| {
        let address = source.ip();
        if source.is_ipv4() != plan.target.is_ipv4() {
            return Some(format!(
                "--source {address} and {} are of different address families",
                plan.target
            ));
        }
        let error = UdpSocket::bind(source).err()?;
        Some(format!(
            "--source {address} is not a local address ({error}); `ip address` lists them, and a \
             link-local one needs its interface: fe80::1%eth0"
        ))
    })
}

/// Returns why there can be no dashboard, or `None`. This is an error rather than a fallback to
/// lines: nothing is lost before the first connection, and a mistake in a script gets noticed.
pub(super) fn check_tui(quiet: bool) -> Option<String> {
    // A conflict declared with clap would take SALTECHO_QUIET=0 for quiet.
    if quiet {
        return Some("--tui cannot be used with --quiet (SALTECHO_QUIET)".to_owned());
    }
    if !cfg!(feature = "tui") {
        let build = "cargo build --release --features tui";
        return Some(format!("this saltecho was built without --tui; `{build}` includes it"));
    }
    (is_dumb() || !std::io::stderr().is_terminal())
        .then(|| "--tui needs a terminal on stderr, and TERM must not be dumb".to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use saltecho::auth::{Key, MacAlgorithm};

    use super::*;

    const MACHINE: MachineLimits = MachineLimits {
        descriptors: 20_000,
        ports: 28_232,
        quick_ports: 14_116,
        reuses_ports: true,
        tcp_memory: Some(2 << 30),
    };

    fn plan(adjust: impl FnOnce(&mut Plan)) -> Plan {
        let target = "127.0.0.1:9999".parse().unwrap();
        let mut plan = Plan::new(target, Key::demo(), MacAlgorithm::Md5);
        adjust(&mut plan);
        plan
    }

    #[track_caller]
    fn assert_refused(machine: MachineLimits, plan: &Plan, words: &[&str]) {
        let error = machine.check(plan).expect("the plan is impossible");
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error:?}");
        }
    }

    #[test]
    fn a_possible_plan_passes() {
        let here = MachineLimits::examine(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(here.check(&plan(|_| ())), None, "{here:?}");
        assert_eq!(MACHINE.check(&plan(|plan| plan.connections = 19_984)), None);
        let local = plan(|plan| plan.sources = vec![SocketAddr::from(([127, 0, 0, 2], 0))]);
        assert_eq!(check_sources(&local), None);
    }

    #[test]
    fn each_error_names_the_setting_to_change() {
        let many = plan(|plan| plan.connections = 19_985);
        assert_refused(MACHINE, &many, &["20001 descriptors", "20000", "LimitNOFILE", "--hlog"]);
        let more = plan(|plan| plan.connections = 60_000);
        let roomy = MachineLimits { descriptors: 1 << 20, ..MACHINE };
        assert_refused(roomy, &more, &["60000 ports", "28232", "--source 127.0.0.2-6"]);
        let remote = plan(|plan| {
            plan.connections = 60_000;
            plan.target = "192.0.2.1:1".parse().unwrap();
        });
        assert_refused(roomy, &remote, &["5 local addresses", "ip_local_port_range"]);
        let cycles = plan(|plan| {
            plan.mode = Mode::Connect;
            plan.pace = Pace::Open(NonZeroU64::new(1000).unwrap());
            plan.duration = Duration::from_secs(90);
        });
        assert_eq!(MACHINE.check(&cycles), None, "its ports can be reused");
        let strict = MachineLimits { reuses_ports: false, ..MACHINE };
        assert_refused(
            strict,
            &cycles,
            &["1000 cycles per second", "60 s", "60050 ports", "127.0.0.2-6"],
        );
        let large = plan(|plan| {
            plan.active = 1000;
            plan.in_flight = 4;
            plan.size = (1 << 20).into();
        });
        assert_refused(MACHINE, &large, &["8000 MiB", "2048 MiB", "--in-flight", "tcp_mem"]);
    }

    #[test]
    fn more_connections_than_quick_ports_are_possible_and_get_advice() {
        let sources =
            |count: u8| (2..count + 2).map(|last| ([127, 0, 0, last], 0).into()).collect();
        for (connections, count, enough) in [
            (14_116, 1, None),
            (14_117, 1, Some("--source 127.0.0.2-3")),
            (19_000, 2, None),
            (1_000_000, 70, Some("--source 127.0.0.2-72")),
            (1_000_000, 71, None),
        ] {
            let machine = MachineLimits { descriptors: 1 << 21, ..MACHINE };
            let plan = plan(|plan| {
                plan.connections = connections;
                plan.sources = sources(count);
            });
            assert_eq!(machine.check(&plan), None, "{connections} from {count}");
            let advice = machine.advise(&plan);
            assert_eq!(advice.is_some(), enough.is_some(), "{connections} from {count}");
            if let (Some(advice), Some(enough)) = (advice, enough) {
                assert!(advice.contains("beyond 14116") && advice.contains(enough), "{advice}");
            }
        }
    }

    #[test]
    fn unusable_sources_are_named() {
        let foreign = plan(|plan| plan.sources = vec![SocketAddr::from(([192, 0, 2, 77], 0))]);
        assert!(check_sources(&foreign).unwrap().contains("192.0.2.77 is not a local address"));
        let mixed = plan(|plan| plan.sources = vec!["[::1]:0".parse().unwrap()]);
        assert!(check_sources(&mixed).unwrap().contains("different address families"));
    }
}
