use super::Server;
use crate::metrics::{Connections, Refusals, Snapshot, Worker};
use crate::proto::{CloseReason, Handler};
use crate::reactor::Kernel;

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// All that a scrape of the metrics shows of this loop and its process. Its cost does not depend
    /// on the number of connections.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { process: self.reactor.kernel.process(), ..self.figures() }
    }

    /// The same without the process, for a loop beside the one that is asked.
    pub(super) fn figures(&self) -> Snapshot {
        let stats = self.stats();
        let by_key = stats.authenticated_by_key();
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("BUILD_COMMIT"),
            ready: self.is_ready(),
            process: None,
            descriptors: (stats.connections + self.acceptor.listeners.len() + OWN_DESCRIPTORS)
                as u64,
            connections: Connections {
                await_header: stats.awaiting_header as u64,
                await_digest: (stats.unauthenticated - stats.awaiting_header) as u64,
                echoing: (stats.connections - stats.unauthenticated - stats.lingering) as u64,
                lingering: stats.lingering as u64,
            },
            connections_limit: self.limits.connections as u64,
            accepted: stats.accepted,
            refused: Refusals {
                no_room: stats.shed,
                suspect: stats.refused_suspects,
                over_share: stats.refused_over_share,
                untrusted_proxy: stats.refused_untrusted_proxies,
            },
            accept_errors: stats.accept_errors,
            accept_pauses: stats.accept_pauses,
            authenticated: by_key.iter().map(|(key, count)| (key.to_string(), *count)).collect(),
            closed: std::array::from_fn(|index| stats.closed(CloseReason::ALL[index])),
            bytes_received: stats.bytes_received,
            bytes_sent: stats.bytes_sent,
            bytes_undelivered: stats.bytes_undelivered,
            bytes_discarded: stats.bytes_discarded,
            backlog_bytes: stats.backlog_bytes,
            deadlines: self.reactor.armed() as u64,
            log_lines_suppressed: 0,
            workers_missing: 0,
            upgrades: None,
            workers: vec![Worker {
                number: 1,
                turns: stats.turns,
                events: self.reactor.events(),
                stale_events: stats.stale_events,
                asleep: self.lag.asleep,
                turn: self.lag.turn.clone(),
                queue_wait: self.lag.queue_wait.clone(),
            }],
        }
    }
}

/// Descriptors of a loop beside its sockets: epoll, its waker, the spare one.
const OWN_DESCRIPTORS: usize = super::Limits::DESCRIPTORS_OF_A_WORKER;
