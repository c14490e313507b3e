//! The parts of a machine that connections need, and the number of connections that each allows.

use saltecho::server::Limits;
use serde::Serialize;

use crate::cli::machine::{Machine, Shared};

/// Memory of an idle authenticated connection in the server, in bytes; see docs/RESULTS.md.
const SERVER_BYTES: u64 = 48;
/// Memory of one end of a connection in the kernel: socket 2,368, inode 832, file and directory
/// entry 384, epoll entry 192.
const KERNEL_BYTES: u64 = 3_776;
/// The accept queue that `saltecho serve` asks for by default.
const BACKLOG: u64 = 4096;

/// A part that limits the number of connections.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) name: &'static str,
    /// The limits that were found.
    pub(super) found: String,
    /// Number of connections that it allows.
    pub(super) connections: u64,
    /// Setting that allows the required number; absent if it fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// A limit that slows connections down or refuses some of them, but does not bound their number.
#[derive(Debug, Serialize)]
pub(super) struct Advice {
    pub(super) name: &'static str,
    pub(super) found: String,
    pub(super) advice: String,
}

/// All parts with a known limit, with remedies if `wanted` connections do not fit.
pub(super) fn parts(machine: &Machine, wanted: Option<u64>) -> Vec<Part> {
    let part = |name, found, connections, remedy: &dyn Fn(u64) -> String| Part {
        name,
        found,
        connections,
        remedy: wanted.filter(|wanted| *wanted > connections).map(remedy),
    };
    let mut parts = vec![part(
        "descriptors",
        descriptors_found(machine),
        connections_for(machine.descriptors.1),
        &|wanted| raise_descriptors(machine, wanted),
    )];
    if let Some(files) = machine.open_files {
        parts.push(part("open files", of_all("fs.file-max", files), left(files), &|wanted| {
            let needed = files.used.saturating_add(needed_for(wanted));
            format!("sysctl -w fs.file-max={needed}")
        }));
    }
    if let Some(watches) = machine.epoll_watches {
        let found = format!("fs.epoll.max_user_watches {watches}");
        parts.push(part("epoll watches", found, connections_for(watches), &|wanted| {
            format!("sysctl -w fs.epoll.max_user_watches={}", needed_for(wanted))
        }));
    }
    if let Some(memory) = machine.memory {
        let each = SERVER_BYTES + KERNEL_BYTES;
        let found = format!(
            "{} MiB available; a connection takes {SERVER_BYTES} B in the server and {KERNEL_BYTES} \
             B in the kernel, not counting buffers",
            memory >> 20
        );
        parts.push(part("memory", found, memory / each, &|wanted| {
            let mib = (wanted.saturating_mul(each) - memory).div_ceil(1 << 20);
            format!(
                "{mib} MiB more free memory for the server and its kernel (and MemoryMax=, if set)"
            )
        }));
    }
    if let Some(tracked) = machine.tracked {
        let found = of_all("net.netfilter.nf_conntrack_max", tracked);
        let room = tracked.limit.saturating_sub(tracked.used);
        parts.push(part("connection tracking", found, room, &|wanted| {
            let needed = tracked.used.saturating_add(wanted);
            format!(
                "sysctl -w net.netfilter.nf_conntrack_max={needed}, or a rule that does not track \
                 the server's port"
            )
        }));
    }
    parts
}

/// Limits to know about, even if the connections fit.
pub(super) fn advice(machine: &Machine, wanted: Option<u64>) -> Vec<Advice> {
    let mut all = vec![ports_advice(machine, wanted)];
    if let Some(queue) = machine.somaxconn.filter(|queue| *queue < BACKLOG) {
        all.push(Advice {
            name: "accept queue",
            found: format!("net.core.somaxconn {queue}"),
            advice: format!(
                "caps the accept queue of {BACKLOG}: clients that arrive while it is full wait a \
                 second or more; sysctl -w net.core.somaxconn={BACKLOG}"
            ),
        });
    }
    if let Some(backlog) = machine.netdev_backlog {
        all.push(Advice {
            name: "bursts",
            found: format!("net.core.netdev_max_backlog {backlog}"),
            advice: "maximum packets queued for one CPU, on loopback and between containers; more \
                     are dropped and sent again later, so spread connecting over some seconds or \
                     raise it"
                .to_owned(),
        });
    }
    if let Some(bytes) = machine.tcp_memory {
        let pages = bytes / rustix::param::page_size() as u64;
        all.push(Advice {
            name: "buffers",
            found: format!("net.ipv4.tcp_mem {pages} pages, {} MiB", bytes >> 20),
            advice: format!(
                "at most {pages} connections can have data waiting in the kernel, a page each; idle \
                 ones need none; the third number of net.ipv4.tcp_mem raises it"
            ),
        });
    }
    all
}

/// Ports limit clients, load balancers and load generators, not the server.
fn ports_advice(machine: &Machine, wanted: Option<u64>) -> Advice {
    let (all, quick) = (machine.ports_per_source(), machine.quick_ports_per_source());
    let (low, high) = machine.ports.unwrap_or((32_768, 60_999));
    let sources = match wanted.map(|wanted| wanted.div_ceil(quick)) {
        Some(sources @ 2..) => format!("; plan {sources} source addresses"),
        _ => String::new(),
    };
    Advice {
        name: "ports of clients",
        found: format!("net.ipv4.ip_local_port_range {low} {high}"),
        advice: format!(
            "one client address has {all} ports to one server, and connect() is slow beyond {quick} \
             of them, because it walks all taken ports each time{sources} (a load generator has \
             --source, HAProxy `source`)"
        ),
    }
}

/// Number of connections that a process with this many descriptors can serve.
fn connections_for(descriptors: u64) -> u64 {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    Limits::for_descriptors(descriptors).connections as u64
}

/// Number of descriptors that this many connections need.
fn needed_for(connections: u64) -> u64 {
    connections.saturating_add(Limits::RESERVED_DESCRIPTORS as u64)
}

fn descriptors_found(machine: &Machine) -> String {
    let (soft, hard) = machine.descriptors;
    let nr_open = machine.nr_open.map(|most| format!(", fs.nr_open {most}"));
    let [soft, hard] = [soft, hard].map(|limit| match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    });
    format!("hard limit {hard}, soft {soft} (raised at start){}", nr_open.unwrap_or_default())
}

fn raise_descriptors(machine: &Machine, wanted: u64) -> String {
    let needed = needed_for(wanted);
    let first = match machine.nr_open {
        Some(most) if most < needed => format!("sysctl -w fs.nr_open={needed}, then "),
        _ => String::new(),
    };
    format!(
        "{first}LimitNOFILE={needed} in the systemd unit, `ulimit -n {needed}` in a root shell, or \
         `--ulimit nofile={needed}` for a container"
    )
}

fn left(shared: Shared) -> u64 {
    let left = shared.limit.saturating_sub(shared.used);
    left.saturating_sub(Limits::RESERVED_DESCRIPTORS as u64)
}

fn of_all(name: &str, Shared { limit, used }: Shared) -> String {
    format!("{name} {limit}, {used} in use")
}
