//! Who may wait for authentication, and who makes room.
//!
//! A connection that has not authenticated is a *stranger*. Strangers cost their sender nothing,
//! so how many there may be is limited, and the limit must not become a way to lock honest
//! clients out. An honest one is done after a round trip; those who merely fill places stay. So:
//!
//! - below half of the limit everybody is admitted;
//! - from there on a source that failed lately, or that already holds its share, is refused: the
//!   upper half is for those who gave no cause. Nobody is dropped by lot, as sshd does it, for
//!   that would refuse honest clients in proportion to the flood;
//! - at the limit the oldest stranger makes room, if it had time enough to answer, and that counts
//!   as a failure of its source. So a flood from sources that are new makes them known.
//!
//! Whatever a connection costs here is O(1), amortised, or a binary search for it among the
//! strangers; and all of it is bounded by their number and a fixed number of remembered sources.

use std::collections::{HashMap, HashSet, TryReserveError, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use super::{ConnId, Limits};
use crate::python::Monotonic;

/// Where a connection comes from, as far as one sender can be told from another: an IPv4 address,
/// or the /64 of an IPv6 address, within which a sender chooses freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(u64);

impl Source {
    fn of(ip: IpAddr) -> Self {
        match ip {
            // All of ::/8 is reserved, so no IPv6 source can be taken for one of these.
            IpAddr::V4(ip) => Self(u64::from(ip.to_bits())),
            #[allow(clippy::cast_possible_truncation)] // Shifted by half of it.
            IpAddr::V6(ip) => Self((ip.to_bits() >> 64) as u64),
        }
    }
}

/// A network whose IPv6 addresses stand for IPv4 ones (::ffff:a.b.c.d) as the network of these:
/// that is how addresses are compared.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let address = mapped.addr().to_ipv4_mapped().filter(|_| mapped.prefix_len() >= 96);
    let shorter = address.and_then(|address| Ipv4Net::new(address, mapped.prefix_len() - 96).ok());
    shorter.map_or(network, IpNet::V4)
}

/// Why a client was closed before it was given a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its source failed lately.
    Suspect,
    /// Its source has as many strangers as it may.
    Share,
}

/// The connections that have not authenticated, and what is known of their sources.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Oldest first, and so in the order of their names. Those that have moved on stay until they
    /// come to the front or the list is tidied, so that nobody pays for leaving.
    by_age: VecDeque<Stranger>,
    present: usize,
    /// Strangers of each source that has any.
    by_source: HashMap<Source, usize>,
    suspects: Suspects,
    /// Networks that are not judged.
    trusted: Vec<IpNet>,
}

#[derive(Clone, Copy, Debug)]
struct Stranger {
    id: ConnId,
    /// It has not moved on.
    present: bool,
    since: Monotonic,
    source: Option<Source>,
}

impl Strangers {
    pub(super) fn len(&self) -> usize {
        self.present
    }

    /// Judges clients from these networks no more, and from others again.
    pub(super) fn trust(&mut self, networks: &[IpNet]) {
        self.trusted = networks.iter().copied().map(canonical).collect();
    }

    /// The source of a peer, unless it is unknown or is not to be judged.
    pub(super) fn source_of(&self, peer: Option<SocketAddr>, limits: &Limits) -> Option<Source> {
        // An IPv4 client of an IPv6 listener is an IPv4 client.
        let ip = peer?.ip().to_canonical();
        let trusted = ip.is_loopback() && limits.trust_loopback
            || self.trusted.iter().any(|network| network.contains(&ip));
        (!trusted).then(|| Source::of(ip))
    }

    /// Whether one more from this source may come in, if need be in another's place.
    pub(super) fn judge(
        &mut self,
        source: Option<Source>,
        limits: &Limits,
        now: Monotonic,
    ) -> Result<(), Refusal> {
        let half = limits.unauthenticated.div_ceil(2);
        let Some(source) = source.filter(|_| self.len() >= half) else { return Ok(()) };
        if self.suspects.has(source, limits, now) {
            return Err(Refusal::Suspect);
        }
        let held = self.by_source.get(&source).copied().unwrap_or(0);
        if limits.unauthenticated_per_source.is_some_and(|share| held >= share) {
            return Err(Refusal::Share);
        }
        Ok(())
    }

    /// Makes room for so many more.
    pub(super) fn make_room(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.by_age.try_reserve(more)?;
        self.by_source.try_reserve(more)
    }

    /// One more has come. Names are given in order, so it is newer than all who are here.
    pub(super) fn add(&mut self, id: ConnId, source: Option<Source>, now: Monotonic) {
        if self.by_age.len() >= 2 * self.present + TIDY_FROM {
            self.by_age.retain(|stranger| stranger.present);
            self.by_age.shrink_to(2 * self.present + TIDY_FROM);
        }
        self.by_age.push_back(Stranger { id, present: true, since: now, source });
        self.present += 1;
        if let Some(source) = source {
            *self.by_source.entry(source).or_default() += 1;
        }
    }

    /// It has authenticated, or it ended in a way that says nothing about its source.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Source> {
        let stranger = self.get_mut(id).expect("a stranger is removed once");
        stranger.present = false;
        let source = stranger.source;
        self.present -= 1;
        if self.present == 0 {
            self.by_age.clear();
            // Of a flood nothing is left, not even the room that it took.
            self.by_age.shrink_to(TIDY_FROM);
        }
        let source = source?;
        let held = self.by_source.get_mut(&source).expect("it was counted when it came");
        *held -= 1;
        if *held == 0 {
            self.by_source.remove(&source);
        }
        Some(source)
    }

    fn get_mut(&mut self, id: ConnId) -> Option<&mut Stranger> {
        let oldest = self.by_age.front()?.id;
        let place = self
            .by_age
            .binary_search_by_key(&id.age_after(oldest), |stranger| stranger.id.age_after(oldest));
        self.by_age.get_mut(place.ok()?).filter(|stranger| stranger.present)
    }

    /// It ended without having authenticated, and that was not our doing.
    pub(super) fn remove_failed(&mut self, id: ConnId, limits: &Limits, now: Monotonic) {
        if let Some(source) = self.remove(id) {
            self.suspects.add(source, limits, now);
        }
    }

    /// The oldest, and when it came.
    pub(super) fn oldest(&mut self) -> Option<(ConnId, Monotonic)> {
        while let Some(stranger) = self.by_age.front() {
            if stranger.present {
                return Some((stranger.id, stranger.since));
            }
            self.by_age.pop_front();
        }
        None
    }

    /// Holds the books against each other.
    ///
    /// # Panics
    /// If they disagree.
    pub(super) fn assert_consistent(&self, is_stranger: impl Fn(ConnId) -> bool) {
        let present: Vec<_> = self.by_age.iter().filter(|stranger| stranger.present).collect();
        assert_eq!(present.len(), self.present, "strangers by age");
        assert!(
            present.iter().all(|stranger| is_stranger(stranger.id)),
            "one who is none is listed"
        );
        let with_source = present.iter().filter(|stranger| stranger.source.is_some()).count();
        assert_eq!(with_source, self.by_source.values().sum::<usize>(), "strangers by source");
    }
}

/// Entries of those who have left, beyond as many as there are strangers, that are not worth the
/// tidying.
const TIDY_FROM: usize = 1024;

/// The sources that failed lately, in two halves: what is in the older one is forgotten when the
/// newer one has been filled for [`Limits::suspicion`], or has no more room. So a suspicion lasts
/// once to twice that long, and neither needs a deadline of its own.
#[derive(Debug, Default)]
struct Suspects {
    newer: HashSet<Source>,
    older: HashSet<Source>,
    /// When the newer half was begun.
    since: Monotonic,
}

/// Suspects in one half; the two take a megabyte or two at the most.
const SUSPECTS: usize = 32_768;

impl Suspects {
    fn has(&mut self, source: Source, limits: &Limits, now: Monotonic) -> bool {
        self.forget(limits, now);
        self.newer.contains(&source) || self.older.contains(&source)
    }

    fn add(&mut self, source: Source, limits: &Limits, now: Monotonic) {
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

    fn turn_over(&mut self, since: Monotonic) {
        self.older = std::mem::take(&mut self.newer);
        self.since = since;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::{Target, Token};

    /// Ten strangers at most, of them three from one source.
    fn limits() -> Limits {
        Limits {
            unauthenticated: 10,
            unauthenticated_per_source: Some(3),
            trust_loopback: false,
            ..Limits::for_connections(100)
        }
    }

    fn id(number: u32) -> ConnId {
        match Token((number as usize) << 32).target() {
            Target::Connection(id) => id,
            other => panic!("{number} is the token of {other:?}"),
        }
    }

    fn source(address: &str) -> Option<Source> {
        let peer = SocketAddr::new(address.parse().unwrap(), 1);
        Strangers::default().source_of(Some(peer), &limits())
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::ZERO.saturating_add(Duration::from_secs(seconds))
    }

    #[test]
    fn sources_are_what_one_sender_cannot_choose_freely() {
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        let trusting = Limits { trust_loopback: true, ..limits() };
        for (address, judged) in [("127.9.9.9", false), ("::1", false), ("10.0.0.1", true)] {
            let peer = SocketAddr::new(address.parse().unwrap(), 1);
            let source = Strangers::default().source_of(Some(peer), &trusting);
            assert_eq!(source.is_some(), judged, "{address}");
        }
        let gone = Strangers::default().source_of(None, &limits());
        assert_eq!(gone, None, "a peer that is already gone");
    }

    #[test]
    fn clients_of_trusted_networks_are_not_judged() {
        let mut strangers = Strangers::default();
        let networks = ["10.1.0.0/16", "2001:db8::/32", "::ffff:192.0.2.0/120", "::/128"];
        strangers.trust(&networks.map(|network| network.parse().unwrap()));
        for (address, judged) in [
            ("10.1.2.3", false),
            ("::ffff:10.1.2.3", false),
            ("10.2.0.1", true),
            ("2001:db8:ffff::1", false),
            ("2001:db9::1", true),
            ("192.0.2.255", false),
            ("192.0.3.0", true),
            ("::2", true),
        ] {
            let peer = SocketAddr::new(address.parse().unwrap(), 1);
            let source = strangers.source_of(Some(peer), &limits());
            assert_eq!(source.is_some(), judged, "{address}");
        }
        strangers.trust(&[]);
        let peer = Some(SocketAddr::from(([10, 1, 2, 3], 1)));
        assert!(strangers.source_of(peer, &limits()).is_some(), "trusted no more");
    }

    #[test]
    fn the_upper_half_is_for_those_who_gave_no_cause() {
        let (limits, mut strangers) = (limits(), Strangers::default());
        let [crowd, failed, clean] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(source);
        strangers.add(id(0), failed, at(0));
        strangers.remove_failed(id(0), &limits, at(0));
        for number in 0..5 {
            for source in [crowd, failed, clean] {
                assert_eq!(strangers.judge(source, &limits, at(1)), Ok(()), "{number} strangers");
            }
            strangers.add(id(number), crowd, at(1));
        }
        assert_eq!(strangers.judge(crowd, &limits, at(1)), Err(Refusal::Share));
        assert_eq!(strangers.judge(failed, &limits, at(1)), Err(Refusal::Suspect));
        assert_eq!(strangers.judge(clean, &limits, at(1)), Ok(()));
        assert_eq!(strangers.judge(None, &limits, at(1)), Ok(()), "not to be judged");
        // Whoever authenticates leaves a place behind, and no bad name.
        for number in 0..3 {
            assert_eq!(strangers.remove(id(number)), crowd);
            strangers.add(id(10 + number), clean, at(1));
        }
        assert_eq!(strangers.judge(crowd, &limits, at(1)), Ok(()));
    }

    #[test]
    fn less_than_half_of_an_odd_number_is_not_half() {
        let limits = Limits { unauthenticated: 3, ..limits() };
        let (mut strangers, failed) = (Strangers::default(), source("10.0.0.2"));
        strangers.add(id(0), failed, at(0));
        strangers.remove_failed(id(0), &limits, at(0));
        strangers.add(id(1), None, at(1));
        assert_eq!(strangers.judge(failed, &limits, at(1)), Ok(()), "one of three");
        strangers.add(id(2), None, at(1));
        assert_eq!(strangers.judge(failed, &limits, at(1)), Err(Refusal::Suspect), "two of three");
    }

    #[test]
    fn suspicion_passes_and_its_memory_is_bounded() {
        let (limits, mut suspects) = (limits(), Suspects::default());
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
    fn one_silent_stranger_does_not_keep_the_names_of_all_who_came_after() {
        let mut strangers = Strangers::default();
        strangers.add(id(0), None, at(0));
        for number in 1..100_000 {
            strangers.add(id(number), None, at(1));
            strangers.remove(id(number));
        }
        assert_eq!(strangers.oldest(), Some((id(0), at(0))));
        assert!(strangers.by_age.len() <= 2 + TIDY_FROM, "{}", strangers.by_age.len());
    }
}
