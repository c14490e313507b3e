//! What this machine allows, looked at before the first connection, so that a load that cannot be
//! made is refused with the line to change instead of failing in its middle.

use std::io::IsTerminal;
use std::net::{IpAddr, UdpSocket};

use saltecho::load::{Mode, Pace, Plan};

use super::live::is_dumb;
use crate::cli::machine::Machine;

/// What the machine allows, as far as it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Descriptors that this process may have.
    pub(super) descriptors: u64,
    /// Ports that connections from one address to one server can have.
    pub(super) ports: u64,
    /// Whether a port can be used again a second after its connection ended, instead of 60.
    pub(super) reuses_ports: bool,
    /// The memory that TCP may take in the whole machine, in bytes.
    pub(super) tcp_memory: Option<u64>,
}

/// Descriptors that are not for connections: the standard streams, epoll, its waker, files.
const RESERVED: u64 = 16;
/// How long the side that closed first keeps a port (TCP_TIMEWAIT_LEN).
const TIME_WAIT: u64 = 60;

impl Limits {
    /// Looks, and raises the soft limit on descriptors to the hard one.
    pub(super) fn examine(target: IpAddr) -> Self {
        let machine = Machine::this();
        Self {
            descriptors: rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024),
            ports: machine.ports_per_source(),
            // 2 is for loopback alone, and the default.
            reuses_ports: match machine.tw_reuse {
                Some(1) => true,
                Some(2) => target.is_loopback(),
                _ => false,
            },
            tcp_memory: machine.tcp_memory,
        }
    }

    /// Why the plan cannot be carried out, and what would help.
    pub(super) fn object_to(&self, plan: &Plan) -> Option<String> {
        self.too_few_descriptors(plan)
            .or_else(|| self.too_few_ports(plan))
            .or_else(|| self.too_little_memory(plan))
    }

    fn too_few_descriptors(&self, plan: &Plan) -> Option<String> {
        let needed = plan.connections as u64 + RESERVED;
        (needed > self.descriptors).then(|| {
            format!(
                "{} connections need {needed} descriptors, and this process may have {}: raise the \
                 hard limit (`ulimit -Hn`, LimitNOFILE=), or share the load among several \
                 processes and merge what they write with --hlog (`saltecho report`)",
                plan.connections, self.descriptors
            )
        })
    }

    /// Connections need a port each, and a cycle's port is not free again when the cycle is over.
    fn too_few_ports(&self, plan: &Plan) -> Option<String> {
        let wait = if self.reuses_ports { 1 } else { TIME_WAIT };
        let waiting = match (plan.mode, plan.pace) {
            (Mode::Connect, Pace::Open(rate)) => {
                rate.get().saturating_mul(wait.min(plan.duration.as_secs().max(1)))
            }
            _ => 0,
        };
        let needed = waiting.saturating_add(plan.connections as u64);
        let sources = plan.sources.len().max(1) as u64;
        let enough = needed.div_ceil(self.ports);
        (enough > sources).then(|| {
            let what = match waiting {
                0 => format!("{} connections", plan.connections),
                _ => format!("{} cycles a second, whose ports rest for {wait} s,", waiting / wait),
            };
            let remedy = match plan.target.ip().is_loopback() && enough < 250 {
                true => format!("connect from more with --source 127.0.0.2-{}", enough + 1),
                false => "connect from more addresses of this machine with --source".to_owned(),
            };
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
        // Messages under way lie in buffers of either end; on loopback both are ours.
        let ends = if plan.target.ip().is_loopback() { 2 } else { 1 };
        let needed = [plan.active, plan.in_flight, plan.size]
            .into_iter()
            .fold(ends, |product: u64, factor| product.saturating_mul(factor as u64));
        // The kernel buffers no more than that for one connection (tcp_wmem, by default).
        let needed = needed.min(plan.active as u64 * ends * (4 << 20));
        (needed > allowed).then(|| {
            format!(
                "{} connections with {} x {} bytes under way need up to {} MiB of TCP memory, and \
                 the machine allows {} MiB: fewer or shorter messages (--active, --in-flight, -s), \
                 or a higher third number in net.ipv4.tcp_mem",
                plan.active,
                plan.in_flight,
                plan.size,
                needed >> 20,
                allowed >> 20
            )
        })
    }
}

/// Why one of the sources cannot be connected from.
pub(super) fn object_to_sources(plan: &Plan) -> Option<String> {
    plan.sources.iter().find_map(|source| {
        let address = source.ip();
        if source.is_ipv4() != plan.target.is_ipv4() {
            return Some(format!("--source {address} and {} are of different kinds", plan.target));
        }
        let error = UdpSocket::bind(source).err()?;
        Some(format!(
            "--source {address} is not an address of this machine ({error}); `ip address` lists \
             them, and a link-local one needs its interface: fe80::1%eth0"
        ))
    })
}

/// Why there can be no full-screen view. It is refused rather than replaced by lines: nothing is
/// lost before the first connection, and a script that asks for it by mistake should learn so.
pub(super) fn object_to_tui(quiet: bool) -> Option<String> {
    // clap's own conflict would take SALTECHO_QUIET=0 for quiet.
    if quiet {
        return Some("--tui cannot be used with --quiet (SALTECHO_QUIET)".to_owned());
    }
    if !cfg!(feature = "tui") {
        let build = "cargo build --release --features tui";
        return Some(format!(
            "this saltecho was built without --tui; `{build}` builds one with it"
        ));
    }
    (is_dumb() || !std::io::stderr().is_terminal())
        .then(|| "--tui needs a terminal on stderr that can be drawn on".to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use saltecho::auth::{Key, MacAlgorithm};

    use super::*;

    const MACHINE: Limits = Limits {
        descriptors: 20_000,
        ports: 28_232,
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
    fn objects(machine: Limits, plan: &Plan, words: &[&str]) {
        let objection = machine.object_to(plan).expect("it cannot be carried out");
        for word in words {
            assert!(objection.contains(word), "no {word:?} in {objection:?}");
        }
    }

    #[test]
    fn what_can_be_carried_out_is_not_objected_to() {
        let here = Limits::examine(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(here.object_to(&plan(|_| ())), None, "{here:?}");
        assert_eq!(MACHINE.object_to(&plan(|plan| plan.connections = 19_984)), None);
        let local = plan(|plan| plan.sources = vec![SocketAddr::from(([127, 0, 0, 2], 0))]);
        assert_eq!(object_to_sources(&local), None);
    }

    #[test]
    fn each_objection_names_the_line_to_change() {
        let many = plan(|plan| plan.connections = 19_985);
        objects(MACHINE, &many, &["20001 descriptors", "20000", "LimitNOFILE", "--hlog"]);
        let more = plan(|plan| plan.connections = 60_000);
        let roomy = Limits { descriptors: 1 << 20, ..MACHINE };
        objects(roomy, &more, &["60000 ports", "28232", "--source 127.0.0.2-4"]);
        let remote = plan(|plan| {
            plan.connections = 60_000;
            plan.target = "192.0.2.1:1".parse().unwrap();
        });
        objects(roomy, &remote, &["more addresses of this machine", "ip_local_port_range"]);
        let cycles = plan(|plan| {
            plan.mode = Mode::Connect;
            plan.pace = Pace::Open(NonZeroU64::new(1000).unwrap());
            plan.duration = Duration::from_secs(90);
        });
        assert_eq!(MACHINE.object_to(&cycles), None, "its ports can be used again");
        let strict = Limits { reuses_ports: false, ..MACHINE };
        objects(strict, &cycles, &["1000 cycles a second", "60 s", "60050 ports", "127.0.0.2-4"]);
        let large = plan(|plan| {
            plan.active = 1000;
            plan.in_flight = 4;
            plan.size = 1 << 20;
        });
        objects(MACHINE, &large, &["8000 MiB", "2048 MiB", "--in-flight", "tcp_mem"]);
    }

    #[test]
    fn foreign_sources_are_named() {
        let foreign = plan(|plan| plan.sources = vec![SocketAddr::from(([192, 0, 2, 77], 0))]);
        assert!(object_to_sources(&foreign).unwrap().contains("192.0.2.77 is not an address"));
        let mixed = plan(|plan| plan.sources = vec!["[::1]:0".parse().unwrap()]);
        assert!(object_to_sources(&mixed).unwrap().contains("different kinds"));
    }
}
