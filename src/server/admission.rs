//! Admission of connections that have not authenticated, and eviction when there are too many.
//!
//! Unauthenticated connections cost their sender nothing, so their number is limited, and the limit
//! must not become a way to lock honest clients out. An honest client is done after a round trip;
//! connections that merely fill places stay. So:
//!
//! - below half of the limit every client is admitted;
//! - from there on a source that failed lately, or that already holds its share, is refused: the
//!   upper half is for sources that gave no cause. No client is dropped at random, as sshd does it,
//!   because that would refuse honest clients in proportion to the flood;
//! - a client behind a balancer is judged by its own source, once the PROXY header names it;
//! - at the limit the oldest connection makes room, if it had time enough to answer, and that counts
//!   as a failure of its source. So a flood from new sources makes them known.
//!
//! The cost per connection is amortized O(1), or a binary search for it among the unauthenticated;
//! the memory is bounded by their number and a fixed number of remembered sources.

mod suspects;

use std::collections::{HashMap, TryReserveError, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use suspects::Suspects;

use super::{ConnId, Limits};
use crate::python::Monotonic;
use crate::reactor::Refusal;

/// The origin of a connection, as far as one sender can be told from another: an IPv4 address,
/// or the /64 of an IPv6 address, within which a sender chooses freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(u64);

impl Source {
    /// The number that stands for it in a handover.
    pub(super) const fn to_number(self) -> u64 {
        self.0
    }

    pub(super) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    fn new(ip: IpAddr) -> Self {
        match ip {
            // All of ::/8 is reserved, so no IPv6 source can be taken for one of these.
            IpAddr::V4(ip) => Self(u64::from(ip.to_bits())),
            #[allow(clippy::cast_possible_truncation)] // Shifted by half of it.
            IpAddr::V6(ip) => Self((ip.to_bits() >> 64) as u64),
        }
    }
}

/// A list of networks.
#[derive(Debug, Default)]
pub(super) struct Networks(Vec<IpNet>);

impl Networks {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().copied().map(canonical).collect())
    }

    pub(super) fn list(&self) -> &[IpNet] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An IPv4 address that an IPv6 listener reports is an IPv4 address.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
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

/// The connections that have not authenticated, and what is known of their sources.
#[derive(Debug, Default)]
pub(super) struct Unauthenticated {
    /// Oldest first, and so in the order of their names. The first is present; others that have moved
    /// on stay until they come to the front or the list is tidied, so that leaving costs nothing.
    by_age: VecDeque<Arrival>,
    present: usize,
    /// Of these, those whose PROXY header is incomplete.
    awaiting_header: usize,
    /// Their number for each source that has any.
    by_source: HashMap<Source, usize>,
    suspects: Suspects,
    /// Networks whose clients are never refused for their source.
    trusted: Networks,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    id: ConnId,
    /// It has not moved on.
    present: bool,
    awaits_header: bool,
    since: Monotonic,
    source: Option<Source>,
}

impl Unauthenticated {
    pub(super) fn len(&self) -> usize {
        self.present
    }

    pub(super) fn awaiting_header(&self) -> usize {
        self.awaiting_header
    }

    /// Replaces the networks whose clients are never refused for their source.
    pub(super) fn trust(&mut self, networks: &[IpNet]) {
        self.trusted = Networks::new(networks);
    }

    /// Those networks.
    pub(super) fn trusted(&self) -> &[IpNet] {
        self.trusted.list()
    }

    /// The source of a peer, unless it is unknown or trusted.
    pub(super) fn source_of(&self, peer: Option<SocketAddr>, limits: &Limits) -> Option<Source> {
        // An IPv4 client of an IPv6 listener is an IPv4 client.
        let ip = peer?.ip().to_canonical();
        let trusted = ip.is_loopback() && limits.trust_loopback || self.trusted.contain(ip);
        (!trusted).then(|| Source::new(ip))
    }

    /// Decides whether one more from this source may come in, if need be in another's place.
    pub(super) fn admit(
        &mut self,
        source: Option<Source>,
        limits: &Limits,
        now: Monotonic,
    ) -> Result<(), Refusal> {
        match source {
            None => Ok(()),
            Some(source) => self.assess(source, self.len(), limits, now),
        }
    }

    /// Decides the same about one that came without a source, now that a PROXY header names it. From
    /// here on it counts as one of its source.
    pub(super) fn identify(
        &mut self,
        id: ConnId,
        source: Option<Source>,
        limits: &Limits,
        now: Monotonic,
    ) -> Result<(), Refusal> {
        let arrival = self.get_mut(id).expect("it is unauthenticated");
        let awaited = std::mem::take(&mut arrival.awaits_header);
        self.awaiting_header -= usize::from(awaited);
        let Some(source) = source else { return Ok(()) };
        self.assess(source, self.len() - 1, limits, now)?;
        // Without memory the source is not known, which refuses none that is honest.
        if self.by_source.try_reserve(1).is_ok() {
            self.get_mut(id).expect("it is unauthenticated").source = Some(source);
            *self.by_source.entry(source).or_default() += 1;
        }
        Ok(())
    }

    /// Decides about one from this source, beside so many other unauthenticated connections.
    fn assess(
        &mut self,
        source: Source,
        others: usize,
        limits: &Limits,
        now: Monotonic,
    ) -> Result<(), Refusal> {
        if others < limits.unauthenticated.div_ceil(2) {
            return Ok(());
        }
        if self.suspects.has(source, limits, now) {
            return Err(Refusal::Suspect);
        }
        let held = self.by_source.get(&source).copied().unwrap_or(0);
        if limits.unauthenticated_per_source.is_some_and(|share| held >= share) {
            return Err(Refusal::OverShare);
        }
        Ok(())
    }

    /// Makes room for `more` connections.
    pub(super) fn make_room(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.by_age.try_reserve(more)?;
        self.by_source.try_reserve(more)
    }

    /// Adds a new connection. Names are given in order, so it is the newest.
    pub(super) fn add(&mut self, id: ConnId, source: Option<Source>, now: Monotonic) {
        if self.by_age.len() >= 2 * self.present + TIDY_FROM {
            self.by_age.retain(|arrival| arrival.present);
            self.by_age.shrink_to(2 * self.present + TIDY_FROM);
        }
        self.by_age.push_back(Arrival {
            id,
            present: true,
            awaits_header: false,
            since: now,
            source,
        });
        self.present += 1;
        if let Some(source) = source {
            *self.by_source.entry(source).or_default() += 1;
        }
    }

    /// Adds a new connection whose source only its PROXY header will tell.
    pub(super) fn add_awaiting_header(&mut self, id: ConnId, now: Monotonic) {
        self.add(id, None, now);
        self.by_age.back_mut().expect("it was added just now").awaits_header = true;
        self.awaiting_header += 1;
    }

    /// Removes one that authenticated, or that ended in a way that says nothing about its source.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Source> {
        // Most leave in the order in which they came.
        let arrival = match self.by_age.front() {
            Some(oldest) if oldest.id == id => self.by_age.pop_front(),
            _ => self.get_mut(id).map(|arrival| {
                arrival.present = false;
                *arrival
            }),
        };
        let Arrival { source, awaits_header, .. } = arrival.expect("it is removed once");
        self.awaiting_header -= usize::from(awaits_header);
        self.present -= 1;
        self.drop_gone();
        if self.present == 0 {
            // The ring begins at its front again, and does not touch all its places in turn.
            self.by_age.clear();
            // The memory that a flood took goes with it.
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

    fn get_mut(&mut self, id: ConnId) -> Option<&mut Arrival> {
        let place = self.place(id)?;
        self.by_age.get_mut(place).filter(|arrival| arrival.present)
    }

    fn place(&self, id: ConnId) -> Option<usize> {
        let oldest = self.by_age.front()?.id;
        let age = |arrival: &Arrival| arrival.id.age_after(oldest);
        self.by_age.binary_search_by_key(&id.age_after(oldest), age).ok()
    }

    /// Takes those that have moved on from the front of the list.
    fn drop_gone(&mut self) {
        while self.by_age.front().is_some_and(|arrival| !arrival.present) {
            self.by_age.pop_front();
        }
    }

    /// Removes one that ended unauthenticated through its own fault, and suspects its source.
    pub(super) fn remove_failed(&mut self, id: ConnId, limits: &Limits, now: Monotonic) {
        if let Some(source) = self.remove(id) {
            self.suspects.add(source, limits, now);
        }
    }

    /// The time at which one of them came, and its source.
    pub(super) fn arrival(&self, id: ConnId) -> Option<(Monotonic, Option<Source>)> {
        let arrival = &self.by_age[self.place(id)?];
        Some((arrival.since, arrival.source))
    }

    /// The sources that failed lately, each with whether it is in the newer half, and when that half was
    /// begun.
    pub(super) fn suspects(&self) -> (Monotonic, impl Iterator<Item = (Source, bool)> + '_) {
        self.suspects.list()
    }

    /// Suspects these sources, as another loop did.
    pub(super) fn suspect(&mut self, since: Monotonic, sources: &[(Source, bool)]) {
        self.suspects.take_over(since, sources);
    }

    /// Forgets all of them, since they are another loop's.
    pub(super) fn clear(&mut self) {
        let trusted = std::mem::take(&mut self.trusted);
        *self = Self { trusted, ..Self::default() };
    }

    /// The oldest, and its time of arrival.
    pub(super) fn oldest(&self) -> Option<(ConnId, Monotonic)> {
        self.by_age.front().map(|arrival| (arrival.id, arrival.since))
    }

    /// Compares the counters with each other.
    ///
    /// # Panics
    /// If they disagree.
    #[allow(clippy::disallowed_methods)] // A sum has no order.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn assert_consistent(&self, is_unauthenticated: impl Fn(ConnId) -> bool) {
        let present: Vec<_> = self.by_age.iter().filter(|arrival| arrival.present).collect();
        assert_eq!(present.len(), self.present, "unauthenticated by age");
        assert!(
            self.by_age.front().is_none_or(|arrival| arrival.present),
            "the first of the list has moved on"
        );
        assert!(
            present.iter().all(|arrival| is_unauthenticated(arrival.id)),
            "one that is not unauthenticated is listed"
        );
        let awaiting = present.iter().filter(|arrival| arrival.awaits_header).count();
        assert_eq!(awaiting, self.awaiting_header, "unauthenticated without a header");
        let with_source = present.iter().filter(|arrival| arrival.source.is_some()).count();
        assert_eq!(
            with_source,
            self.by_source.values().sum::<usize>(),
            "unauthenticated by source"
        );
    }
}

/// Entries of connections that have moved on, beyond as many as are present, from which the list is
/// tidied.
const TIDY_FROM: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::reactor::{Target, Token};

    /// At most ten unauthenticated connections, three of them from one source.
    fn limits() -> Limits {
        Limits {
            unauthenticated: 10,
            unauthenticated_per_source: Some(3),
            trust_loopback: false,
            ..Limits::for_connections(100)
        }
    }

    fn id(number: u32) -> ConnId {
        match Token::from_raw((number as usize) << 32).target() {
            Target::Connection(id) => id,
            other => panic!("{number} is the token of {other:?}"),
        }
    }

    fn source(address: &str) -> Option<Source> {
        let peer = SocketAddr::new(address.parse().unwrap(), 1);
        Unauthenticated::default().source_of(Some(peer), &limits())
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
        for (address, has_source) in [("127.9.9.9", false), ("::1", false), ("10.0.0.1", true)] {
            let peer = SocketAddr::new(address.parse().unwrap(), 1);
            let source = Unauthenticated::default().source_of(Some(peer), &trusting);
            assert_eq!(source.is_some(), has_source, "{address}");
        }
        let gone = Unauthenticated::default().source_of(None, &limits());
        assert_eq!(gone, None, "a peer that is already gone");
    }

    #[test]
    fn clients_of_trusted_networks_have_no_source() {
        let mut unauthenticated = Unauthenticated::default();
        let networks = ["10.1.0.0/16", "2001:db8::/32", "::ffff:192.0.2.0/120", "::/128"];
        unauthenticated.trust(&networks.map(|network| network.parse().unwrap()));
        for (address, has_source) in [
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
            let source = unauthenticated.source_of(Some(peer), &limits());
            assert_eq!(source.is_some(), has_source, "{address}");
        }
        assert_eq!(unauthenticated.trusted().len(), 4);
        assert_eq!(unauthenticated.trusted()[0].to_string(), "10.1.0.0/16");
        unauthenticated.trust(&[]);
        assert!(unauthenticated.trusted().is_empty());
        let peer = Some(SocketAddr::from(([10, 1, 2, 3], 1)));
        assert!(unauthenticated.source_of(peer, &limits()).is_some(), "trusted no more");
    }

    #[test]
    fn the_upper_half_is_for_sources_that_gave_no_cause() {
        let (limits, mut unauthenticated) = (limits(), Unauthenticated::default());
        let [crowd, failed, clean] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(source);
        unauthenticated.add(id(0), failed, at(0));
        unauthenticated.remove_failed(id(0), &limits, at(0));
        for number in 0..5 {
            for source in [crowd, failed, clean] {
                assert_eq!(
                    unauthenticated.admit(source, &limits, at(1)),
                    Ok(()),
                    "{number} unauthenticated"
                );
            }
            unauthenticated.add(id(number), crowd, at(1));
        }
        assert_eq!(unauthenticated.admit(crowd, &limits, at(1)), Err(Refusal::OverShare));
        assert_eq!(unauthenticated.admit(failed, &limits, at(1)), Err(Refusal::Suspect));
        assert_eq!(unauthenticated.admit(clean, &limits, at(1)), Ok(()));
        assert_eq!(unauthenticated.admit(None, &limits, at(1)), Ok(()), "unknown");
        // One that authenticates frees its place and leaves no suspicion.
        for number in 0..3 {
            assert_eq!(unauthenticated.remove(id(number)), crowd);
            unauthenticated.add(id(10 + number), clean, at(1));
        }
        assert_eq!(unauthenticated.admit(crowd, &limits, at(1)), Ok(()));
    }

    #[test]
    fn less_than_half_of_an_odd_number_is_not_half() {
        let limits = Limits { unauthenticated: 3, ..limits() };
        let (mut unauthenticated, failed) = (Unauthenticated::default(), source("10.0.0.2"));
        unauthenticated.add(id(0), failed, at(0));
        unauthenticated.remove_failed(id(0), &limits, at(0));
        unauthenticated.add(id(1), None, at(1));
        assert_eq!(unauthenticated.admit(failed, &limits, at(1)), Ok(()), "one of three");
        unauthenticated.add(id(2), None, at(1));
        assert_eq!(
            unauthenticated.admit(failed, &limits, at(1)),
            Err(Refusal::Suspect),
            "two of three"
        );
    }

    #[test]
    fn one_silent_connection_does_not_keep_the_names_of_all_that_came_after() {
        let mut unauthenticated = Unauthenticated::default();
        unauthenticated.add(id(0), None, at(0));
        let mut most = 0;
        for number in 1..100_000 {
            unauthenticated.add(id(number), None, at(1));
            most = most.max(unauthenticated.by_age.len());
            unauthenticated.remove(id(number));
        }
        assert_eq!(unauthenticated.oldest(), Some((id(0), at(0))));
        // It is not tidied each time either: that would cost a step for each that is there.
        assert_eq!(most, 2 + TIDY_FROM);
    }

    #[test]
    fn room_that_was_made_is_enough_for_as_many() {
        let mut unauthenticated = Unauthenticated::default();
        unauthenticated.make_room(1000).unwrap();
        let room = (unauthenticated.by_age.capacity(), unauthenticated.by_source.capacity());
        assert!(room.0 >= 1000 && room.1 >= 1000, "{room:?}");
        for number in 0..1000 {
            let address = format!("10.0.{}.{}", number / 250, number % 250);
            unauthenticated.add(id(number), source(&address), at(0));
        }
        assert_eq!(room, (unauthenticated.by_age.capacity(), unauthenticated.by_source.capacity()));
    }

    #[test]
    fn the_names_of_a_crowd_that_is_gone_take_no_memory() {
        let mut unauthenticated = Unauthenticated::default();
        for number in 0..10_000 {
            unauthenticated.add(id(number), None, at(0));
        }
        for number in 1..9_900 {
            unauthenticated.remove(id(number));
        }
        unauthenticated.add(id(10_000), None, at(1));
        assert_eq!(unauthenticated.by_age.capacity(), 2 * 101 + TIDY_FROM);
    }
}
