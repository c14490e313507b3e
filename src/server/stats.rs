use crate::proto::CloseReason;

/// What a loop has done since it started: plain counters, because only one thread writes them.
///
/// Asked for from another thread they arrive as a copy (see [`Handle::stats`](super::Handle)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted and served.
    pub accepted: u64,
    /// Of these, how many gave a right digest.
    pub authenticated: u64,
    /// Connections now.
    pub connections: usize,
    /// The most connections there ever were at once.
    pub peak_connections: usize,
    /// Of the connections now, those that have not authenticated.
    pub unauthenticated: usize,
    /// Bytes received, digests included.
    pub bytes_received: u64,
    /// Bytes that the kernel took from us, challenges included.
    pub bytes_sent: u64,
    /// Bytes of answers that had not been handed to the kernel when their connection ended.
    pub bytes_undelivered: u64,
    /// Bytes that were read and not answered, because we had already ended our stream: what a
    /// peer sent during a drain, or after its time was up.
    pub bytes_discarded: u64,
    /// Clients turned away because there was no room.
    pub shed: u64,
    /// Clients refused because their source had failed to authenticate lately.
    pub refused_suspects: u64,
    /// Clients refused because their source had its share of unauthenticated connections.
    pub refused_over_share: u64,
    /// Errors of `accept` that concerned one client and were passed over.
    pub accept_errors: u64,
    /// How often accepting had to rest: out of room or out of descriptors.
    pub accept_pauses: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Events that came for a connection that was gone.
    pub stale_events: u64,
    closed: [u64; CloseReason::ALL.len()],
}

impl Stats {
    /// How many connections ended for this reason.
    pub const fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// How many connections ended.
    pub fn closed_in_all(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// The reasons for which connections ended, each with how many did.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        CloseReason::ALL
            .into_iter()
            .map(|reason| (reason, self.closed(reason)))
            .filter(|(_, count)| *count > 0)
    }

    pub(super) const fn count_close(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_lists_each_reason_that_occurred() {
        let mut stats = Stats::default();
        assert_eq!(stats.closes().next(), None);
        for reason in [CloseReason::Stopped, CloseReason::PeerFinished, CloseReason::Stopped] {
            stats.count_close(reason);
        }
        let closes: Vec<_> = stats.closes().collect();
        assert_eq!(closes, [(CloseReason::PeerFinished, 1), (CloseReason::Stopped, 2)]);
        assert_eq!((stats.closed(CloseReason::Reset), stats.closed_in_all()), (0, 3));
    }
}
