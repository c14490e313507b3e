use std::iter::Sum;

use super::Refusal;
use crate::auth::KeyName;
use crate::proto::CloseReason;

/// Counters of a loop since it started: plain numbers, because only one thread writes them.
///
/// Asked for from another thread they arrive as a copy (see [`Handle::stats`](super::Handle)).
/// Those of several loops add up ([`Sum`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of loops that did all this.
    pub loops: usize,
    /// Of [`accepted`](Self::accepted), those of the loop that has most of them.
    pub accepted_by_busiest: u64,
    /// Connections accepted and served.
    pub accepted: u64,
    /// Of these, how many gave a right digest.
    pub authenticated: u64,
    /// Connections now.
    pub connections: usize,
    /// The most connections there ever were at once. Of several loops the sum of what each had at
    /// its own worst time, so no less than they had together at any.
    pub peak_connections: usize,
    /// Of the connections now, those that have not authenticated.
    pub unauthenticated: usize,
    /// Of these, those whose PROXY header is incomplete.
    pub awaiting_header: usize,
    /// Of the connections now, those whose stream we have ended and whose rest we read away.
    pub lingering: usize,
    /// Bytes received, digests and PROXY headers included.
    pub bytes_received: u64,
    /// Bytes that the kernel took from us, challenges included.
    pub bytes_sent: u64,
    /// Bytes of answers and pushed messages that wait now for their peers to read.
    pub backlog_bytes: u64,
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
    /// Peers refused because they may not send a PROXY header; see
    /// [`Server::trust_proxies`](super::Server::trust_proxies).
    pub refused_untrusted_proxies: u64,
    /// Errors of `accept` that concerned one client and were passed over.
    pub accept_errors: u64,
    /// Times that accepting had to rest: out of room or out of descriptors.
    pub accept_pauses: u64,
    /// Pushed messages that a connection took; see [`Handle::push`](super::Handle::push).
    pub pushed: u64,
    /// Pushed messages whose connection was gone, about to end, or too far behind.
    pub pushes_dropped: u64,
    /// Panics of the observer and of the control. Those of handlers are counted as
    /// [`CloseReason::HandlerPanicked`].
    pub observer_panics: u64,
    /// Peers asked for a sign of life.
    pub probes: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Events that came for a connection that was gone.
    pub stale_events: u64,
    /// Connections that are another loop's since a handover: those that moved there, or stayed there
    /// because their handlers cannot move. Those accepted are those that ended, those there are now, and
    /// these.
    pub elsewhere: u64,
    closed: [u64; CloseReason::ALL.len()],
    /// Right digests by key: first those of keys that were removed, then those of the ring.
    by_key: Vec<(KeyName, u64)>,
}

/// Removed keys whose counters are kept: a year of weekly rotation. Those of older ones are forgotten.
const REMOVED_KEYS: usize = 60;

impl Stats {
    pub(super) fn with_keys(names: &[KeyName]) -> Self {
        let mut stats = Self::default();
        stats.replace_keys(names);
        stats
    }

    /// Counts under these keys from now on. A key that is no longer among them keeps its counter,
    /// unless it was never used.
    pub(super) fn replace_keys(&mut self, names: &[KeyName]) {
        let counted = |stats: &Self, name| {
            stats.by_key.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
        };
        let counts: Vec<u64> = names.iter().map(|name| counted(self, name)).collect();
        self.by_key.retain(|(name, count)| *count > 0 && !names.contains(name));
        self.by_key.drain(..self.by_key.len().saturating_sub(REMOVED_KEYS));
        for (name, count) in names.iter().zip(counts) {
            if !self.by_key.iter().any(|(known, _)| known == name) {
                self.by_key.push((*name, count));
            }
        }
    }

    /// Right digests by the name of their key, each key once, those of the ring among them even if none
    /// used them. The counters of the last 60 removed keys are kept.
    pub fn authenticated_by_key(&self) -> &[(KeyName, u64)] {
        &self.by_key
    }

    /// Number of connections that ended for this reason.
    pub const fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// Number of connections that ended.
    pub fn closed_in_all(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// The reasons for which connections ended, each with how many did.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        CloseReason::ALL
            .iter()
            .map(|reason| (*reason, self.closed(*reason)))
            .filter(|(_, count)| *count > 0)
    }

    /// Ratio of the connections that the busiest of several loops accepted to their mean: 1 at best,
    /// and at worst as many as there are loops. `None` for one loop, and for none accepted.
    #[allow(clippy::cast_precision_loss)] // It is for people.
    pub fn imbalance(&self) -> Option<f64> {
        let mean = self.accepted as f64 / self.loops as f64;
        (self.loops > 1 && self.accepted > 0).then(|| self.accepted_by_busiest as f64 / mean)
    }

    fn add(&mut self, other: &Self) {
        // Taken apart, so that a new counter cannot be forgotten here.
        let Self {
            loops,
            accepted_by_busiest,
            accepted,
            authenticated,
            connections,
            peak_connections,
            unauthenticated,
            awaiting_header,
            lingering,
            bytes_received,
            bytes_sent,
            backlog_bytes,
            bytes_undelivered,
            bytes_discarded,
            shed,
            refused_suspects,
            refused_over_share,
            refused_untrusted_proxies,
            accept_errors,
            accept_pauses,
            pushed,
            pushes_dropped,
            observer_panics,
            probes,
            turns,
            stale_events,
            elsewhere,
            closed,
            by_key,
        } = other;
        self.loops += loops;
        self.accepted_by_busiest = self.accepted_by_busiest.max(*accepted_by_busiest);
        self.accepted += accepted;
        self.authenticated += authenticated;
        self.connections += connections;
        self.peak_connections += peak_connections;
        self.unauthenticated += unauthenticated;
        self.awaiting_header += awaiting_header;
        self.lingering += lingering;
        self.bytes_received += bytes_received;
        self.bytes_sent += bytes_sent;
        self.backlog_bytes += backlog_bytes;
        self.bytes_undelivered += bytes_undelivered;
        self.bytes_discarded += bytes_discarded;
        self.shed += shed;
        self.refused_suspects += refused_suspects;
        self.refused_over_share += refused_over_share;
        self.refused_untrusted_proxies += refused_untrusted_proxies;
        self.accept_errors += accept_errors;
        self.accept_pauses += accept_pauses;
        self.pushed += pushed;
        self.pushes_dropped += pushes_dropped;
        self.observer_panics += observer_panics;
        self.probes += probes;
        self.turns += turns;
        self.stale_events += stale_events;
        self.elsewhere += elsewhere;
        for (sum, count) in self.closed.iter_mut().zip(closed) {
            *sum += count;
        }
        for (name, count) in by_key {
            match self.by_key.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += count,
                None => self.by_key.push((*name, *count)),
            }
        }
    }

    /// Bytes received and bytes sent.
    pub(super) const fn bytes_moved(&self) -> (u64, u64) {
        (self.bytes_received, self.bytes_sent)
    }

    pub(super) fn count_authenticated(&mut self, key: Option<KeyName>) {
        self.authenticated += 1;
        if let Some((_, count)) = self.by_key.iter_mut().find(|(name, _)| Some(*name) == key) {
            *count += 1;
        }
    }

    pub(super) const fn count_refusal(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Suspect => self.refused_suspects += 1,
            Refusal::OverShare => self.refused_over_share += 1,
            Refusal::UntrustedProxy => self.refused_untrusted_proxies += 1,
        }
    }

    pub(super) const fn count_close(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// The counters that only grow and that stand for themselves, each with its number in a handover,
    /// which never changes.
    pub(super) fn numbered(&mut self) -> [(u16, &mut u64); 19] {
        [
            (1, &mut self.accepted),
            (2, &mut self.authenticated),
            (3, &mut self.bytes_received),
            (4, &mut self.bytes_sent),
            (5, &mut self.bytes_undelivered),
            (6, &mut self.bytes_discarded),
            (7, &mut self.shed),
            (8, &mut self.refused_suspects),
            (9, &mut self.refused_over_share),
            (10, &mut self.refused_untrusted_proxies),
            (11, &mut self.accept_errors),
            (12, &mut self.accept_pauses),
            (13, &mut self.pushed),
            (14, &mut self.pushes_dropped),
            (15, &mut self.observer_panics),
            (16, &mut self.probes),
            (17, &mut self.turns),
            (18, &mut self.stale_events),
            (19, &mut self.elsewhere),
        ]
    }

    /// The counter of connections that ended for this reason.
    pub(super) const fn closed_mut(&mut self, reason: CloseReason) -> &mut u64 {
        &mut self.closed[reason as usize]
    }

    /// Adds to the counter of a key, which need not be in the ring.
    pub(super) fn add_authenticated(&mut self, key: KeyName, count: u64) {
        match self.by_key.iter_mut().find(|(name, _)| *name == key) {
            Some((_, sum)) => *sum = sum.saturating_add(count),
            None => self.by_key.push((key, count)),
        }
    }
}

impl Sum for Stats {
    fn sum<I: Iterator<Item = Self>>(stats: I) -> Self {
        stats.fold(Self::default(), |mut sum, one| {
            sum.add(&one);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Key, Keyring, MacAlgorithm};

    #[test]
    fn loops_add_up_and_their_imbalance_is_told() {
        let one = |accepted, peak_connections| Stats {
            loops: 1,
            accepted,
            accepted_by_busiest: accepted,
            peak_connections,
            closed: [accepted; CloseReason::ALL.len()],
            ..Stats::default()
        };
        let sum: Stats = [one(10, 4), one(50, 7), one(0, 0)].into_iter().sum();
        assert_eq!((sum.loops, sum.accepted, sum.peak_connections), (3, 60, 11));
        assert_eq!(sum.closed(CloseReason::Reset), 60);
        assert_eq!(sum.imbalance(), Some(2.5));
        assert_eq!([one(10, 4)].into_iter().sum::<Stats>(), one(10, 4));
        assert_eq!(one(10, 4).imbalance(), None);
        assert_eq!([one(0, 0), one(0, 0)].into_iter().sum::<Stats>().imbalance(), None);
    }

    #[test]
    fn every_counter_of_several_loops_is_a_sum() {
        let counted = |times: u64| {
            let counter = |number: u64| number * times;
            let gauge = |number: usize| number * usize::try_from(times).unwrap();
            Stats {
                loops: gauge(1),
                accepted_by_busiest: 2,
                accepted: counter(3),
                authenticated: counter(4),
                connections: gauge(5),
                peak_connections: gauge(6),
                unauthenticated: gauge(7),
                lingering: gauge(24),
                awaiting_header: gauge(25),
                backlog_bytes: counter(25),
                bytes_received: counter(8),
                bytes_sent: counter(9),
                bytes_undelivered: counter(10),
                bytes_discarded: counter(11),
                shed: counter(12),
                refused_suspects: counter(13),
                refused_over_share: counter(14),
                refused_untrusted_proxies: counter(26),
                accept_errors: counter(15),
                accept_pauses: counter(16),
                probes: counter(23),
                turns: counter(17),
                stale_events: counter(18),
                pushed: counter(19),
                pushes_dropped: counter(20),
                observer_panics: counter(21),
                elsewhere: counter(27),
                closed: [counter(22); CloseReason::ALL.len()],
                by_key: names(&[1, 2]).into_iter().map(|name| (name, counter(24))).collect(),
            }
        };
        assert_eq!([counted(1), counted(1), counted(1)].into_iter().sum::<Stats>(), counted(3));
    }

    /// The names of keys of this one byte each.
    fn names(keys: &[u8]) -> Vec<KeyName> {
        let names =
            |byte: &u8| Keyring::single(MacAlgorithm::Md5, &Key::new([*byte; 16])).names()[0];
        keys.iter().map(names).collect()
    }

    #[test]
    fn counters_of_keys_survive_a_reload() {
        let [first, second, third] = names(&[1, 2, 3])[..] else { unreachable!() };
        let mut stats = Stats::with_keys(&[first, second]);
        for key in [second, first, second] {
            stats.count_authenticated(Some(key));
        }
        stats.count_authenticated(None);
        assert_eq!(stats.authenticated_by_key(), [(first, 1), (second, 2)]);
        stats.replace_keys(&[third, second]);
        assert_eq!(stats.authenticated_by_key(), [(first, 1), (third, 0), (second, 2)]);
        stats.count_authenticated(Some(third));
        stats.replace_keys(&[first, first]);
        assert_eq!(stats.authenticated_by_key(), [(third, 1), (second, 2), (first, 1)]);
        let other = Stats::with_keys(&[second]);
        let sum: Stats = [other, stats].into_iter().sum();
        assert_eq!(sum.authenticated_by_key(), [(second, 2), (third, 1), (first, 1)]);
        assert_eq!(sum.authenticated, 5);
        let (mut sum, fourth) = (sum, names(&[4])[0]);
        sum.add_authenticated(third, 10);
        sum.add_authenticated(fourth, 20);
        let counts = [(second, 2), (third, 11), (first, 1), (fourth, 20)];
        assert_eq!(sum.authenticated_by_key(), counts);
    }

    #[test]
    fn a_key_that_was_never_used_and_the_oldest_removed_ones_are_forgotten() {
        let mut stats = Stats::with_keys(&names(&[255]));
        stats.replace_keys(&names(&[0]));
        assert_eq!(stats.authenticated_by_key(), [(names(&[0])[0], 0)]);
        for key in 0..100 {
            stats.replace_keys(&names(&[key]));
            stats.count_authenticated(Some(names(&[key])[0]));
        }
        let kept: Vec<(KeyName, u64)> =
            names(&Vec::from_iter(39..100)).into_iter().map(|name| (name, 1)).collect();
        assert_eq!(stats.authenticated_by_key(), kept);
    }

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
