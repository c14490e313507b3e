//! The memory of sources that failed lately.

use std::collections::HashSet;

use super::Source;
use crate::python::Monotonic;
use crate::server::Limits;

/// The sources that failed lately, in two halves: the older one is forgotten when the
/// newer one has been filled for [`Limits::suspicion`], or has no more room. So a suspicion lasts
/// once to twice that long, and neither needs a deadline of its own.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    newer: HashSet<Source>,
    older: HashSet<Source>,
    /// When the newer half was begun.
    since: Monotonic,
}

/// Suspects in one half; the two take at most a megabyte or two.
const SUSPECTS: usize = 32_768;

impl Suspects {
    pub(super) fn has(&mut self, source: Source, limits: &Limits, now: Monotonic) -> bool {
        self.forget(limits, now);
        self.newer.contains(&source) || self.older.contains(&source)
    }

    pub(super) fn add(&mut self, source: Source, limits: &Limits, now: Monotonic) {
        self.forget(limits, now);
        if self.newer.len() == SUSPECTS {
            self.turn_over(now);
        }
        // Without memory a source is not remembered, which harms none that is honest.
        if self.newer.try_reserve(1).is_ok() {
            self.newer.insert(source);
        }
    }

    fn forget(&mut self, limits: &Limits, now: Monotonic) {
        let age = now.since(self.since);
        if age >= limits.suspicion.saturating_mul(2) {
            *self = Self { since: now, ..Self::default() };
        } else if age >= limits.suspicion {
            self.turn_over(self.since.saturating_add(limits.suspicion));
        }
    }

    /// When the newer half was begun, and all of them, each with whether it is in that half.
    #[allow(clippy::disallowed_methods)] // They go into sets again.
    pub(super) fn list(&self) -> (Monotonic, impl Iterator<Item = (Source, bool)> + '_) {
        let Self { newer, older, since } = self;
        let newer = newer.iter().map(|source| (*source, true));
        (*since, newer.chain(older.iter().map(|source| (*source, false))))
    }

    /// Adds these, and goes on with that beginning.
    pub(super) fn take_over(&mut self, since: Monotonic, sources: &[(Source, bool)]) {
        self.since = since;
        for (source, is_newer) in sources {
            let half = if *is_newer { &mut self.newer } else { &mut self.older };
            // Without memory a source is not remembered, as always.
            if half.len() < SUSPECTS && half.try_reserve(1).is_ok() {
                half.insert(*source);
            }
        }
    }

    fn turn_over(&mut self, since: Monotonic) {
        self.older = std::mem::take(&mut self.newer);
        self.since = since;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn suspicion_passes_and_its_memory_is_bounded() {
        let mut limits = Limits::for_connections(10);
        limits.suspicion = Duration::from_secs(60);
        let at = |seconds| Monotonic::ZERO.saturating_add(Duration::from_secs(seconds));
        let mut suspects = Suspects::default();
        let [one, other] = [Source(1), Source(2)];
        suspects.add(one, &limits, at(100));
        assert!(suspects.has(one, &limits, at(159)));
        suspects.add(other, &limits, at(159));
        assert!(suspects.has(other, &limits, at(218)));
        assert!(!suspects.has(one, &limits, at(220)) && !suspects.has(other, &limits, at(400)));
        for number in 0..3 * SUSPECTS as u64 {
            suspects.add(Source(number), &limits, at(400));
        }
        assert_eq!(suspects.newer.len() + suspects.older.len(), 2 * SUSPECTS);
        assert!(suspects.has(Source(3 * SUSPECTS as u64 - 1), &limits, at(400)));
    }

    #[test]
    fn the_suspects_of_another_loop_are_taken_over_as_far_as_there_is_room() {
        let mut suspects = Suspects::default();
        let since = Monotonic::from_nanos(7);
        let too_many = 0..SUSPECTS as u64 + 1;
        let newer = too_many.clone().map(|number| (Source(number), true));
        let older = too_many.map(|number| (Source(1_000_000 + number), false));
        suspects.take_over(since, &newer.chain(older).collect::<Vec<_>>());
        assert_eq!((suspects.newer.len(), suspects.older.len()), (SUSPECTS, SUSPECTS));
        assert_eq!(suspects.since, since);
        assert!(suspects.newer.contains(&Source(0)) && suspects.older.contains(&Source(1_000_000)));
    }
}
