use std::time::Duration;

/// Limits of one loop: how much of the machine it takes, and how much of it one peer takes. Limits
/// of one connection are in [`Config`](crate::proto::Config).
///
/// ```
/// let mut limits = saltecho::server::Limits::for_process();
/// limits.spin = std::time::Duration::from_micros(50);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once. By default as many as the process may have descriptors, less
    /// [`Limits::RESERVED_DESCRIPTORS`]. Beyond it clients wait in the kernel's queue, and some
    /// are turned away (see [`Limits::shed_per_retry`]).
    pub connections: usize,
    /// Of these, how many may not have authenticated yet. By default a quarter, at least 256: a
    /// reconnecting crowd of 20,000 a second over 100 ms of round trip needs 2,000. Beyond it the
    /// oldest makes room, if it had [`Limits::eviction_age`] to answer.
    pub unauthenticated: usize,
    /// The age from which an unauthenticated connection may be evicted: 1 s, ten times what an
    /// honest client needs over a slow line.
    pub eviction_age: Duration,
    /// Of the unauthenticated, how many may come from one source (an IPv4 address, an IPv6 /64)
    /// once half of the places are taken. By default an eighth of them: a crowd behind one address
    /// that reconnects is a few hundred, and eight senders are needed to fill all places.
    pub unauthenticated_per_source: Option<usize>,
    /// Time for which a source whose connection failed to authenticate is refused while half of the
    /// places or more are taken: 60 s, and at most twice that. It is refused nothing otherwise, so
    /// that a client with a wrong key, or a probe, is not punished on a quiet day.
    pub suspicion: Duration,
    /// True if clients on this machine are never refused for where they come from. True by
    /// default: all of them would be one source. [`Server::trust`](super::Server::trust) names
    /// others of which that is true, like a balancer.
    pub trust_loopback: bool,
    /// Connections accepted in one turn: 64, so that a storm of them delays an echo by less than
    /// a millisecond.
    pub accepts_per_turn: usize,
    /// Pause of accepting when it cannot go on: 100 ms, or until a connection ends.
    pub accept_retry: Duration,
    /// Clients turned away at each such retry, 5 (that is 50 a second): in a protocol where the
    /// server speaks first, a client that is not served would otherwise wait in silence.
    pub shed_per_retry: usize,
    /// Bytes moved for one connection in one turn, each call counting as 4 KiB at least: 1 MiB, so
    /// that a greedy peer costs a quiet one a fifth of a millisecond. With 64 KiB long streams
    /// cost a fifth more CPU: each waits for all others before it goes on.
    pub bytes_per_turn: usize,
    /// Bytes of pushed messages that may wait for the loop to take them, each message counting as
    /// 64 at least: 1 MiB, which is about a millisecond of its time. Beyond it
    /// [`Handle::push`](super::Handle::push) fails.
    pub mailbox_bytes: usize,
    /// Time for which a loop that is to drain still accepts and serves as before, so that balancers can
    /// notice ([`Server::is_ready`](super::Server::is_ready)) and send new clients elsewhere: zero.
    /// Less than [`Limits::drain_timeout`].
    pub drain_delay: Duration,
    /// Time limit for a whole drain, with [`Limits::drain_delay`], before the last connections
    /// are cut off, if not for ever: 25 s, just under the 30 s that service managers grant.
    pub drain_timeout: Option<Duration>,
    /// Peers asked for a sign of life in one second (see
    /// [`Config::keepalive`](crate::proto::Config::keepalive)): 2,000, which is 8 in a tick of the
    /// kernel's clock, and a queue between two interfaces holds 1,000 packets. A crowd of more than
    /// 60,000 is therefore probed over a longer time, and one of more than 240,000 less often.
    pub probes_per_second: usize,
    /// Deadlines handled in one turn, and connections that a drain begins to finish in one: 1024.
    pub deadlines_per_turn: usize,
    /// Events taken from one poll at first; doubled up to 4,096 whenever they were not enough.
    pub events_per_poll: usize,
    /// Time for which the loop polls without sleeping after an event: zero by default, so it always
    /// sleeps. A sleep costs an answer some ten microseconds; a spin costs a core while any client
    /// talks, and nothing while none does.
    pub spin: Duration,
    /// `listen(backlog)`: 4096, which the kernel cuts to `net.core.somaxconn`. A short queue makes
    /// clients hang that believe they are connected and wait for a challenge.
    pub backlog: u32,
}

impl Limits {
    /// Descriptors that are not for connections where there are many: listeners, the poll itself,
    /// logs, the spare one.
    pub const RESERVED_DESCRIPTORS: usize = 64;
    /// The minimum of them for one loop at one address: the standard streams, epoll, its waker, a
    /// listener, the spare one, and a few for the rest of the program.
    pub const LEAST_RESERVED_DESCRIPTORS: usize = 16;
    /// Descriptors of each further loop of the same process, beside its listeners: epoll, its
    /// waker, the spare one.
    pub const DESCRIPTORS_OF_A_WORKER: usize = 3;

    /// Descriptors of an admin endpoint: its listener, its clients, and one in reserve.
    pub const DESCRIPTORS_OF_ADMIN: usize = super::admin::DESCRIPTORS;

    /// The defaults for this process, whose soft limit on descriptors is raised to the hard one.
    pub fn for_process() -> Self {
        Self::for_workers(1, 1, 0)
    }

    /// The defaults for all the loops of this process together, each with a listener at each of
    /// so many addresses, and so many other descriptors that are in use from the start.
    pub fn for_workers(workers: usize, addresses: usize, others: usize) -> Self {
        let least = Self::least_reserved(workers, addresses).saturating_add(others);
        let others = least - Self::LEAST_RESERVED_DESCRIPTORS;
        Self::for_descriptors(descriptor_limit().saturating_sub(others))
    }

    /// The defaults for a process that may have this many descriptors. With too few for one
    /// connection there are none.
    pub fn for_descriptors(descriptors: usize) -> Self {
        let reserved =
            (descriptors / 4).clamp(Self::LEAST_RESERVED_DESCRIPTORS, Self::RESERVED_DESCRIPTORS);
        Self::for_connections(descriptors.saturating_sub(reserved))
    }

    /// The descriptors that so many loops at so many addresses cannot do without.
    pub(super) const fn least_reserved(workers: usize, addresses: usize) -> usize {
        let listeners = workers.saturating_mul(addresses).saturating_sub(1);
        let others = workers.saturating_sub(1).saturating_mul(Self::DESCRIPTORS_OF_A_WORKER);
        Self::LEAST_RESERVED_DESCRIPTORS.saturating_add(listeners).saturating_add(others)
    }

    /// What one of several loops may take if these limits are for all of them: its part of the
    /// connections, and everything else as it is. The parts of all of them make the whole.
    #[must_use]
    pub const fn part(self, index: usize, of: usize) -> Self {
        Self {
            connections: (self.connections + index) / of,
            unauthenticated: (self.unauthenticated + index) / of,
            unauthenticated_per_source: match self.unauthenticated_per_source {
                Some(share) => Some(share.div_ceil(of)),
                None => None,
            },
            probes_per_second: self.probes_per_second.div_ceil(of),
            ..self
        }
    }

    /// The default share of one source in so many unauthenticated connections.
    pub const fn share_of(unauthenticated: usize) -> usize {
        unauthenticated.div_ceil(8)
    }

    /// The defaults for at most this many connections.
    pub fn for_connections(connections: usize) -> Self {
        let unauthenticated = (connections / 4).max(256).min(connections);
        Self {
            connections,
            unauthenticated,
            eviction_age: Duration::from_secs(1),
            unauthenticated_per_source: Some(Self::share_of(unauthenticated)),
            suspicion: Duration::from_secs(60),
            trust_loopback: true,
            accepts_per_turn: 64,
            accept_retry: Duration::from_millis(100),
            shed_per_retry: 5,
            bytes_per_turn: 1 << 20,
            mailbox_bytes: 1 << 20,
            drain_delay: Duration::ZERO,
            drain_timeout: Some(Duration::from_secs(25)),
            probes_per_second: 2000,
            deadlines_per_turn: 1024,
            events_per_poll: 1024,
            spin: Duration::ZERO,
            backlog: 4096,
        }
    }
}

/// Number of descriptors that this process may have, now that it has asked for as many as it may.
pub(super) fn descriptor_limit() -> usize {
    // Never lowers the limit; if it cannot be raised, the current one stands.
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Limits, descriptor_limit};

    #[test]
    fn connections_follow_from_descriptors() {
        for (descriptors, connections, unauthenticated) in
            [(20_000, 19_936, 4_984), (1_024, 960, 256), (100, 75, 75), (48, 32, 32), (17, 1, 1)]
        {
            let limits = Limits::for_descriptors(descriptors);
            assert_eq!(
                (limits.connections, limits.unauthenticated),
                (connections, unauthenticated)
            );
        }
    }

    #[test]
    fn too_few_descriptors_are_no_connections() {
        for descriptors in [0, 1, Limits::LEAST_RESERVED_DESCRIPTORS] {
            assert_eq!(Limits::for_descriptors(descriptors).connections, 0);
        }
    }

    #[test]
    fn each_listener_and_each_further_loop_takes_its_descriptors() {
        for (workers, addresses, needed) in [(1, 1, 16), (1, 3, 18), (2, 1, 20), (4, 5, 44)] {
            assert_eq!(Limits::least_reserved(workers, addresses), needed);
        }
    }

    #[test]
    fn parts_make_the_whole() {
        let whole = Limits::for_connections(1003);
        assert_eq!(whole.part(0, 1), whole);
        for of in 1..10 {
            let parts: Vec<Limits> = (0..of).map(|index| whole.part(index, of)).collect();
            let sum = |field: fn(&Limits) -> usize| parts.iter().map(field).sum::<usize>();
            assert_eq!(sum(|part| part.connections), 1003);
            assert_eq!(sum(|part| part.unauthenticated), 256);
            assert!(parts.iter().all(|part| part.unauthenticated <= part.connections));
            let share = Some(32_usize.div_ceil(of));
            assert!(parts.iter().all(|part| part.unauthenticated_per_source == share));
            // Each has some, so together they may have some more.
            let probes = whole.probes_per_second.div_ceil(of);
            assert!(parts.iter().all(|part| part.probes_per_second == probes));
            assert!(parts.iter().all(|part| part.bytes_per_turn == whole.bytes_per_turn));
        }
    }

    #[test]
    fn the_loops_of_a_process_share_its_descriptors() {
        let limit = descriptor_limit();
        assert_eq!(Limits::for_process(), Limits::for_descriptors(limit));
        // Three more loops with 3 each, 19 more listeners, and the 10 others.
        let others = 3 * 3 + 19 + 10;
        assert_eq!(Limits::for_workers(4, 5, 10), Limits::for_descriptors(limit - others));
    }

    #[test]
    fn a_mebibyte_may_move_in_a_turn_and_wait_in_the_mailbox() {
        let limits = Limits::for_connections(1);
        assert_eq!((limits.bytes_per_turn, limits.mailbox_bytes), (1_048_576, 1_048_576));
    }
}
