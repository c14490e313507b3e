//! Limits of this machine, read from proc(5) and sysfs. `saltecho doctor` evaluates them, and so does
//! the load generator before its first connection.

use std::fs;
use std::path::Path;

use rlimit::Resource;

/// Limits and their current use. `None` is a limit that this system does not have or report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// Descriptors of this process: RLIMIT_NOFILE, soft and hard.
    pub(super) descriptors: (u64, u64),
    /// Maximum hard limit on descriptors (`fs.nr_open`).
    pub(super) nr_open: Option<u64>,
    /// Open files of all processes (`fs.file-max`).
    pub(super) open_files: Option<Shared>,
    /// Descriptors registered with epoll, of all processes of one user.
    pub(super) epoll_watches: Option<u64>,
    /// Available memory in bytes: of the machine, or less in a control group.
    pub(super) memory: Option<u64>,
    /// Connections that the firewall tracks, including those that have just ended.
    pub(super) tracked: Option<Shared>,
    /// Maximum memory for the buffers of all TCP sockets, in bytes (`tcp_mem`).
    pub(super) tcp_memory: Option<u64>,
    /// The longest accept queue that listen(2) grants (`net.core.somaxconn`).
    pub(super) somaxconn: Option<u64>,
    /// Packets that may be queued for one CPU; loopback drops more.
    pub(super) netdev_backlog: Option<u64>,
    /// The range of ports that connect(2) chooses from, inclusive.
    pub(super) ports: Option<(u64, u64)>,
    /// Reuse of a port a second after its connection ended: 1 always, 2 on loopback.
    pub(super) tw_reuse: Option<u64>,
}

/// A limit that several users share, and its current use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) limit: u64,
    pub(super) used: u64,
}

impl Machine {
    /// Size of Linux's default port range, 32768 to 60999.
    const DEFAULT_PORTS: u64 = 28_232;

    /// Reads the limits of this machine and this process.
    pub(super) fn this() -> Self {
        let descriptors = Resource::NOFILE.get().unwrap_or((1024, 1024));
        Self { descriptors, ..Self::read(Path::new("/")) }
    }

    /// Reads the files under `root`; the limit on descriptors, which is in none of them, is zero.
    fn read(root: &Path) -> Self {
        let numbers = |path: &str| {
            let text = fs::read_to_string(root.join("proc/sys").join(path)).ok()?;
            text.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>().ok()
        };
        let number = |path: &str| numbers(path)?.first().copied();
        let shared = |limit: Option<u64>, used: Option<u64>| {
            limit.map(|limit| Shared { limit, used: used.unwrap_or(0) })
        };
        let page = rustix::param::page_size() as u64;
        Self {
            descriptors: (0, 0),
            nr_open: number("fs/nr_open"),
            open_files: shared(number("fs/file-max"), number("fs/file-nr")),
            epoll_watches: number("fs/epoll/max_user_watches"),
            memory: memory(root),
            tracked: shared(
                number("net/netfilter/nf_conntrack_max"),
                number("net/netfilter/nf_conntrack_count"),
            ),
            tcp_memory: numbers("net/ipv4/tcp_mem").and_then(|pages| Some(pages.get(2)? * page)),
            somaxconn: number("net/core/somaxconn"),
            netdev_backlog: number("net/core/netdev_max_backlog"),
            ports: match numbers("net/ipv4/ip_local_port_range").as_deref() {
                Some([low, high]) if low <= high => Some((*low, *high)),
                _ => None,
            },
            tw_reuse: number("net/ipv4/tcp_tw_reuse"),
        }
    }

    /// Number of connections from one source address to one server.
    pub(super) fn ports_per_source(&self) -> u64 {
        self.ports.map_or(Self::DEFAULT_PORTS, |(low, high)| high - low + 1)
    }

    /// Number of them that connect(2) makes without a long search: it tries the ports of one parity
    /// first, and once these are taken it walks all of them each time before it tries the others.
    pub(super) fn quick_ports_per_source(&self) -> u64 {
        (self.ports_per_source() / 2).max(1)
    }
}

/// Available memory: of the machine, or what its control groups (version 2) leave.
fn memory(root: &Path) -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let meminfo = read(&root.join("proc/meminfo"))?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let mut available = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    // The limits of all ancestors of a group apply.
    for group in Path::new(group.unwrap_or_default()).ancestors() {
        let group = root.join("sys/fs/cgroup").join(group);
        let bytes = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
        if let (Some(limit), Some(used)) = (bytes("memory.max"), bytes("memory.current")) {
            available = available.min(limit.saturating_sub(used));
        }
    }
    Some(available)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn limits_are_read_as_proc_writes_them() {
        let root = tree(&[
            ("proc/sys/fs/nr_open", "1048576\n"),
            ("proc/sys/fs/file-max", "9223372036854775807\n"),
            ("proc/sys/fs/file-nr", "1952\t0\t9223372036854775807\n"),
            ("proc/sys/fs/epoll/max_user_watches", "5491556\n"),
            ("proc/sys/net/ipv4/tcp_mem", "1\t2\t300\n"),
            ("proc/sys/net/core/somaxconn", "4096\n"),
            ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "12\n"),
            ("proc/meminfo", "MemTotal:  24684100 kB\nMemAvailable:   22394528 kB\n"),
        ]);
        let machine = Machine::read(root.path());
        let expected = Machine {
            descriptors: (0, 0),
            nr_open: Some(1_048_576),
            open_files: Some(Shared { limit: i64::MAX as u64, used: 1952 }),
            epoll_watches: Some(5_491_556),
            memory: Some(22_394_528 * 1024),
            tracked: Some(Shared { limit: 262_144, used: 12 }),
            tcp_memory: Some(300 * rustix::param::page_size() as u64),
            somaxconn: Some(4096),
            netdev_backlog: Some(1000),
            ports: Some((32_768, 60_999)),
            tw_reuse: Some(2),
        };
        assert_eq!(machine, expected);
        assert_eq!(
            (machine.ports_per_source(), machine.quick_ports_per_source()),
            (28_232, 14_116)
        );
    }

    #[test]
    fn unknown_limits_are_absent() {
        let nothing = Machine::read(tree(&[]).path());
        assert_eq!(nothing, Machine::default());
        assert_eq!(nothing.ports_per_source(), 28_232);
        let odd = tree(&[("proc/sys/net/ipv4/tcp_mem", "1 2"), ("proc/sys/fs/nr_open", "many")]);
        assert_eq!(Machine::read(odd.path()), Machine::default());
    }

    #[test]
    fn memory_is_what_every_control_group_leaves() {
        let files = [
            ("proc/meminfo", "MemAvailable: 1000 kB\n"),
            ("proc/self/cgroup", "4:memory:/old\n0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "900000\n"),
            ("sys/fs/cgroup/a/memory.current", "500000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "1\n"),
        ];
        assert_eq!(Machine::read(tree(&files).path()).memory, Some(400_000));
        assert_eq!(Machine::read(tree(&files[..1]).path()).memory, Some(1_024_000));
        // In a container the group is the root of the visible tree.
        let container = [files[0], ("proc/self/cgroup", "0::/\n")];
        let limits =
            [("sys/fs/cgroup/memory.max", "5000"), ("sys/fs/cgroup/memory.current", "6000")];
        let container = tree(&[container, limits].concat());
        assert_eq!(Machine::read(container.path()).memory, Some(0));
    }

    #[test]
    fn this_machine_has_limits() {
        let here = Machine::this();
        assert!(here.descriptors.0 > 0 && here.descriptors.0 <= here.descriptors.1, "{here:?}");
        assert!(here.memory.is_some_and(|bytes| bytes > 0), "{here:?}");
    }
}
