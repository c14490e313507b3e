//! Counters, which never fall across a handover. Gauges are counted anew from the connections.

use std::time::Duration;

use crate::auth::{KeyId, KeyName};
use crate::proto::wire::{Reader, put_number};
use crate::proto::{CloseReason, Disguise, Handler};
use crate::reactor::Kernel;
use crate::server::lag::Figures;
use crate::server::{Server, Stats};

/// One counter: its group, its number in the group, and for a key's its identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CounterRecord {
    group: u16,
    number: u16,
    key: [u8; 4],
    value: u64,
}

/// [`Stats::numbered`].
const NUMBERED: u16 = 1;
/// Ends, by [`CloseReason::code`].
const CLOSED: u16 = 2;
/// Right digests, by key.
const KEYS: u16 = 3;
/// Buckets of the histogram of turns, and behind them the sum.
const TURN: u16 = 4;
/// The same of waits in the run queue.
const QUEUE_WAIT: u16 = 5;
/// What else a loop counts.
const LOOP: u16 = 6;

/// Numbers of keys.
const NAMED: u16 = 1;
const WEAK: u16 = 2;

/// Numbers of what else a loop counts.
const EVENTS: u16 = 1;
const ASLEEP: u16 = 2;
const PEAK: u16 = 3;

/// A counter beyond this is refused. Petabytes are below it, and the sum over all loops fits.
const MAX: u64 = 1 << 56;

/// The counters of a loop that has arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) stats: Stats,
    pub(crate) figures: Figures,
    pub(crate) events: u64,
}

impl CounterRecord {
    pub(super) const LEN: usize = 16;

    /// Every counter of a loop of which so many connections stay.
    pub(super) fn all_of<K: Kernel, H: Handler + Clone>(
        server: &Server<K, H>,
        staying: u64,
    ) -> impl Iterator<Item = Self> {
        let counter = |group, number, value| Self { group, number, key: [0; 4], value };
        let mut stats = server.stats.clone();
        stats.elsewhere += staying;
        let keys: Vec<Self> = stats
            .authenticated_by_key()
            .iter()
            .map(|(name, value)| {
                let number = if name.id().is_some() { NAMED } else { WEAK };
                let key = name.id().map_or([0; 4], KeyId::to_bytes);
                Self { group: KEYS, number, key, value: *value }
            })
            .collect();
        let closed: Vec<Self> = stats
            .closes()
            .map(|(reason, value)| counter(CLOSED, reason.code().into(), value))
            .collect();
        let numbered = stats.numbered().map(|(number, value)| counter(NUMBERED, number, *value));
        let buckets = |group, numbers: Vec<u64>| {
            (0..).zip(numbers).map(move |(number, value)| counter(group, number, value))
        };
        let lag = &server.lag;
        let asleep = u64::try_from(lag.asleep.as_nanos()).unwrap_or(u64::MAX);
        let others = [
            (EVENTS, server.reactor.events()),
            (ASLEEP, asleep),
            (PEAK, stats.peak_connections as u64),
        ];
        let all = numbered.into_iter().chain(closed).chain(keys);
        let all = all.chain(buckets(TURN, lag.turn.numbers().collect()));
        let all = all.chain(buckets(QUEUE_WAIT, lag.queue_wait.numbers().collect()));
        all.chain(others.map(|(number, value)| counter(LOOP, number, value)))
    }

    /// Every counter of a loop that is not zero, for a snapshot.
    pub(crate) fn to_park<K: Kernel, H: Handler + Clone>(server: &Server<K, H>) -> Vec<Self> {
        Self::all_of(server, 0).filter(|one| one.value > 0).collect()
    }

    /// Writes them.
    pub(crate) fn park(counters: &[Self], disguise: &mut dyn Disguise, out: &mut Vec<u8>) {
        put_number(out, counters.len() as u64);
        for counter in counters {
            let key = match (counter.group, counter.number) {
                (KEYS, NAMED) => disguise.key(KeyId::from_bytes(counter.key)).to_bytes(),
                _ => counter.key,
            };
            Self { key, ..*counter }.write(out);
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.group.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.key);
        out.extend(self.value.to_le_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (group, number) = (reader.u16()?, reader.u16()?);
        Some(Self { group, number, key: reader.array()?, value: reader.u64()? })
    }
}

impl Counters {
    /// Reads what [`CounterRecord::park`] wrote.
    pub(crate) fn unpark(reader: &mut Reader<'_>) -> Option<Self> {
        let mut counters = Self::default();
        for _ in 0..reader.number()? {
            let counter = CounterRecord::read(reader)?;
            counters.add(counter)?;
        }
        Some(counters)
    }

    /// Adds a counter. `None` if there is none of that number.
    pub(super) fn add(&mut self, counter: CounterRecord) -> Option<()> {
        let CounterRecord { group, number, key, value } = counter;
        let may_be_large = matches!(group, TURN | QUEUE_WAIT);
        if group != KEYS && key != [0; 4] || value > MAX && !may_be_large {
            return None;
        }
        let Self { stats, figures, events } = self;
        let sum = match (group, number) {
            (NUMBERED, _) => {
                let found = stats.numbered().into_iter().find(|(one, _)| *one == number)?;
                found.1
            }
            (CLOSED, _) => stats.closed_mut(CloseReason::from_code(number.try_into().ok()?)?),
            (KEYS, NAMED) => {
                let name = KeyName::from_id(Some(KeyId::from_bytes(key)));
                stats.add_authenticated(name, value);
                return Some(());
            }
            (KEYS, WEAK) if key == [0; 4] => {
                stats.add_authenticated(KeyName::from_id(None), value);
                return Some(());
            }
            (TURN, _) => figures.turn.number_mut(number.into())?,
            (QUEUE_WAIT, _) => figures.queue_wait.number_mut(number.into())?,
            (LOOP, EVENTS) => events,
            (LOOP, ASLEEP) => {
                figures.asleep = figures.asleep.saturating_add(Duration::from_nanos(value));
                return Some(());
            }
            (LOOP, PEAK) => {
                let value = usize::try_from(value).ok()?;
                stats.peak_connections = stats.peak_connections.saturating_add(value);
                return Some(());
            }
            _ => return None,
        };
        *sum = sum.saturating_add(value);
        Some(())
    }

    /// Returns true if so many connections agree with the counters.
    pub(crate) fn agree_with(&self, connections: usize) -> bool {
        let Stats { accepted, elsewhere, .. } = self.stats;
        let ended = self.stats.closes().try_fold(0_u64, |sum, (_, count)| sum.checked_add(count));
        let all =
            ended.and_then(|ended| ended.checked_add(elsewhere)?.checked_add(connections as u64));
        all == Some(accepted)
    }

    /// Adds those of another loop.
    pub(super) fn merge(&mut self, other: Self) {
        let Self { stats, figures, events } = other;
        self.stats = [std::mem::take(&mut self.stats), stats].into_iter().sum();
        self.figures.asleep = self.figures.asleep.saturating_add(figures.asleep);
        for (sum, number) in [
            (&mut self.figures.turn, &figures.turn),
            (&mut self.figures.queue_wait, &figures.queue_wait),
        ] {
            for (place, number) in number.numbers().enumerate() {
                if let Some(sum) = sum.number_mut(place) {
                    *sum = sum.saturating_add(number);
                }
            }
        }
        self.events = self.events.saturating_add(events);
    }

    /// Counts connections that go to another loop.
    pub(super) fn count_moved(&mut self, connections: i64) {
        self.stats.accepted = self.stats.accepted.saturating_add_signed(connections);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Keyring;
    use crate::proto::{Config, Undisguised, Upper};
    use crate::server::Limits;
    use crate::sim::{Faults, SimKernel};

    struct OtherKeys;

    impl Disguise for OtherKeys {
        fn key(&mut self, _real: KeyId) -> KeyId {
            KeyId::from_bytes([9; 4])
        }
    }

    fn added(group: u16, number: u16, key: [u8; 4], value: u64) -> Option<Counters> {
        let mut counters = Counters::default();
        counters.add(CounterRecord { group, number, key, value }).map(|()| counters)
    }

    #[test]
    fn a_counter_that_cannot_be_is_refused() {
        let (none, key) = ([0; 4], [1, 2, 3, 4]);
        assert_eq!(added(LOOP, EVENTS, none, MAX).unwrap().events, MAX);
        assert!(added(LOOP, EVENTS, none, MAX + 1).is_none(), "more than there can be");
        assert!(added(LOOP, EVENTS, key, 1).is_none(), "a key that nothing belongs to");
        assert!(added(LOOP, 99, none, 1).is_none(), "no such counter");
        // Times are sums of nanoseconds.
        assert!(
            added(TURN, 0, none, MAX + 1).is_some()
                && added(QUEUE_WAIT, 0, none, MAX + 1).is_some()
        );
        for (number, key, id) in [(NAMED, key, Some(key)), (WEAK, none, None)] {
            let stats = added(KEYS, number, key, 5).expect("a key").stats;
            let [(name, 5)] = stats.authenticated_by_key() else { panic!("one key") };
            assert_eq!(name.id().map(KeyId::to_bytes), id);
        }
        assert!(added(KEYS, WEAK, key, 5).is_none(), "a weak key has no identifier");
    }

    #[test]
    fn only_what_names_a_key_is_disguised() {
        let record = |number, key| CounterRecord { group: KEYS, number, key, value: 1 };
        let parked = |disguise: &mut dyn Disguise, number, key| {
            let mut out = Vec::new();
            CounterRecord::park(&[record(number, key)], disguise, &mut out);
            CounterRecord::read(&mut Reader::new(&out[1..])).expect("behind their number").key
        };
        assert_eq!(parked(&mut Undisguised, NAMED, [1; 4]), [1; 4]);
        assert_eq!(parked(&mut OtherKeys, NAMED, [1; 4]), [9; 4]);
        assert_eq!(parked(&mut OtherKeys, WEAK, [0; 4]), [0; 4]);
    }

    #[test]
    fn every_accepted_connection_is_somewhere() {
        let mut counters = Counters::default();
        (counters.stats.accepted, counters.stats.elsewhere) = (4, 1);
        *counters.stats.closed_mut(CloseReason::Reset) = 1;
        assert!(counters.agree_with(2));
        assert!(!counters.agree_with(1) && !counters.agree_with(3));
    }

    #[test]
    fn a_snapshot_has_the_counters_that_are_not_zero() {
        let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(1));
        let kernel = SimKernel::new(1, Faults::none());
        let mut server = Server::with_kernel(kernel, vec![()], config, limits, Upper).unwrap();
        assert_eq!(CounterRecord::to_park(&server), []);
        server.stats.count_close(CloseReason::Reset);
        let number = CloseReason::Reset.code().into();
        let reset = CounterRecord { group: CLOSED, number, key: [0; 4], value: 1 };
        assert_eq!(CounterRecord::to_park(&server), [reset]);
    }
}
