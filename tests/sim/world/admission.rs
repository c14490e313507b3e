//! Checks which clients were admitted, refused or evicted, with an independent implementation of
//! the rules in docs/TESTING.md.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use saltecho::proto::CloseReason;
use saltecho::python::Monotonic;
use saltecho::server::{ConnId, Limits, Refusal, Stats};

/// The source of a client, as far as senders can be distinguished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Address(Ipv4Addr),
    /// The first half of an IPv6 address.
    Network([u16; 4]),
}

pub struct Admission {
    limits: Limits,
    /// Unauthenticated connections, oldest first.
    unauthenticated: VecDeque<Unauthenticated>,
    /// The last failure of each source.
    failed: BTreeMap<Source, Monotonic>,
    /// The accepted client that is neither admitted nor refused yet.
    pending: Option<Candidate>,
    /// The connection whose header has just named a client, about which nothing is decided yet.
    identified: Option<(ConnId, Candidate)>,
    accepted: u64,
    /// Balancers refused because they are not named.
    untrusted: u64,
    /// All refusals, and those of them with only one possible reason.
    refused: u64,
    certain_suspects: u64,
    certainly_over_share: u64,
}

#[derive(Clone, Copy, Debug)]
struct Unauthenticated {
    id: ConnId,
    since: Monotonic,
    source: Option<Source>,
}

/// The facts that decide about a client at the moment it is accepted.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    source: Option<Source>,
    /// The number of unauthenticated connections.
    taken: usize,
    /// The state of suspicion against its source, which lasts between one and two times the limit.
    suspect: Suspicion,
    over_share: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    None,
    Fading,
    Fresh,
}

impl Admission {
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            unauthenticated: VecDeque::new(),
            failed: BTreeMap::new(),
            pending: None,
            identified: None,
            accepted: 0,
            untrusted: 0,
            refused: 0,
            certain_suspects: 0,
            certainly_over_share: 0,
        }
    }

    pub fn accepted(&mut self, peer: Option<SocketAddr>, now: Monotonic) {
        assert!(self.pending.is_none(), "two clients are accepted at once");
        self.accepted += 1;
        let taken = self.unauthenticated.len();
        self.pending = Some(self.candidate(peer, taken, now));
    }

    /// A connection of a balancer was accepted: its address decides nothing.
    pub fn accepted_proxied(&mut self) {
        self.accepted += 1;
    }

    pub fn proxy_refused(&mut self) {
        self.untrusted += 1;
    }

    /// A balancer's connection waits for its header.
    pub fn opened_proxied(&mut self, id: ConnId, now: Monotonic) {
        self.unauthenticated.push_back(Unauthenticated { id, since: now, source: None });
    }

    /// A header names this client.
    pub fn identified(&mut self, id: ConnId, client: Option<SocketAddr>, now: Monotonic) {
        let others = self.unauthenticated.len() - 1;
        self.identified = Some((id, self.candidate(client, others, now)));
    }

    /// The client that was identified last was not refused.
    pub fn decide(&mut self) {
        let Some((id, candidate)) = self.identified.take() else { return };
        self.check_admitted(&candidate);
        let known = self.unauthenticated.iter_mut().find(|connection| connection.id == id);
        known.expect("it is unauthenticated").source = candidate.source;
    }

    fn candidate(&self, peer: Option<SocketAddr>, taken: usize, now: Monotonic) -> Candidate {
        let source = peer.and_then(|peer| source(peer.ip(), self.limits.trust_loopback));
        let failed = source.and_then(|source| self.failed.get(&source));
        let suspect = match failed.map(|at| now.since(*at)) {
            Some(age) if age < self.limits.suspicion => Suspicion::Fresh,
            Some(age) if age < self.limits.suspicion * 2 => Suspicion::Fading,
            Some(_) | None => Suspicion::None,
        };
        let held =
            self.unauthenticated.iter().filter(|connection| connection.source == source).count();
        let share = self.limits.unauthenticated_per_source.filter(|_| source.is_some());
        let over_share = share.is_some_and(|share| held >= share);
        Candidate { source, taken, suspect, over_share }
    }

    /// The accepted client was admitted.
    pub fn admitted(&mut self) {
        let candidate = self.pending.take().expect("it was accepted before");
        self.check_admitted(&candidate);
    }

    fn check_admitted(&self, candidate: &Candidate) {
        let scarce = self.is_scarce(candidate);
        assert!(
            !scarce || candidate.suspect != Suspicion::Fresh,
            "a suspect is admitted: {candidate:?}"
        );
        assert!(!scarce || !candidate.over_share, "admitted beyond its share: {candidate:?}");
    }

    /// The accepted client was refused for its source.
    pub fn refused(&mut self, why: Refusal) {
        let candidate = self.pending.take().expect("it was accepted before");
        match (candidate.suspect, candidate.over_share) {
            (Suspicion::None, _) => assert_eq!(why, Refusal::OverShare, "{candidate:?}"),
            (Suspicion::Fading, true) => {}
            (_, _) => assert_eq!(why, Refusal::Suspect, "{candidate:?}"),
        }
        self.check_refused(candidate);
    }

    fn check_refused(&mut self, candidate: Candidate) {
        assert!(candidate.source.is_some(), "refused though its source is trusted: {candidate:?}");
        assert!(
            self.is_scarce(&candidate),
            "refused while half of the places are free: {candidate:?}"
        );
        self.refused += 1;
        match (candidate.suspect, candidate.over_share) {
            (Suspicion::None, false) => panic!("refused without a cause: {candidate:?}"),
            (Suspicion::None, true) => self.certainly_over_share += 1,
            (Suspicion::Fresh, _) | (Suspicion::Fading, false) => self.certain_suspects += 1,
            (Suspicion::Fading, true) => {}
        }
    }

    /// True if at least half of the places are taken.
    fn is_scarce(&self, candidate: &Candidate) -> bool {
        2 * candidate.taken >= self.limits.unauthenticated
    }

    pub fn opened(&mut self, id: ConnId, peer: Option<SocketAddr>, now: Monotonic) {
        self.admitted();
        let source = peer.and_then(|peer| source(peer.ip(), self.limits.trust_loopback));
        self.unauthenticated.push_back(Unauthenticated { id, since: now, source });
    }

    pub fn authenticated(&mut self, id: ConnId) {
        self.remove(id).expect("it was unauthenticated");
    }

    pub fn closed(&mut self, id: ConnId, reason: CloseReason, now: Monotonic) {
        if let Some((_, candidate)) =
            self.identified.take_if(|(last, _)| *last == id && reason == CloseReason::Refused)
        {
            self.check_refused(candidate);
        } else {
            assert_ne!(reason, CloseReason::Refused, "{id} had been admitted");
            self.decide();
        }
        let connection = self.remove(id);
        if reason == CloseReason::Evicted {
            let (place, connection) =
                connection.expect("only unauthenticated connections are evicted");
            assert_eq!(place, 0, "{id} was evicted and {place} connections are older");
            let age = now.since(connection.since);
            assert!(age >= self.limits.eviction_age, "{id} was evicted too young");
        }
        let ours = matches!(
            reason,
            CloseReason::Drained
                | CloseReason::DrainTimeout
                | CloseReason::Stopped
                | CloseReason::Killed
                | CloseReason::SetupFailed
                | CloseReason::Refused
        );
        if let Some((_, Unauthenticated { source: Some(source), .. })) =
            connection.filter(|_| !ours)
        {
            self.failed.insert(source, now);
        }
    }

    fn remove(&mut self, id: ConnId) -> Option<(usize, Unauthenticated)> {
        let place = self.unauthenticated.iter().position(|connection| connection.id == id)?;
        Some((place, self.unauthenticated.remove(place).expect("it was found")))
    }

    /// Compares the server's counters with the observations.
    pub fn audit(&self, stats: &Stats) {
        let (suspects, over_share) = (stats.refused_suspects, stats.refused_over_share);
        assert!(self.pending.is_none(), "a client was neither admitted nor refused");
        let refused_later = stats.closed(CloseReason::Refused);
        let refused = suspects + over_share - refused_later + self.untrusted;
        assert_eq!(self.untrusted, stats.refused_untrusted_proxies, "untrusted proxies");
        assert_eq!(self.accepted, stats.accepted + refused, "accepted");
        assert_eq!(self.refused, suspects + over_share, "refused");
        assert!(self.certain_suspects <= suspects, "suspects");
        assert!(self.certainly_over_share <= over_share, "over their share");
        assert_eq!(self.unauthenticated.len(), stats.unauthenticated, "unauthenticated");
    }
}

fn source(ip: IpAddr, trust_loopback: bool) -> Option<Source> {
    match ip {
        _ if ip.is_loopback() && trust_loopback => None,
        IpAddr::V4(ip) => Some(Source::Address(ip)),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => source(IpAddr::V4(ip), trust_loopback),
            None => {
                let [a, b, c, d, ..] = ip.segments();
                Some(Source::Network([a, b, c, d]))
            }
        },
    }
}
