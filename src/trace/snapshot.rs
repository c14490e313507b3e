//! Snapshots in recordings: how a recorder takes one, what stands in it for what must not be in a file,
//! and how a replay compares one with its own loop.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::encode::Encoder;
use super::file::write_chunk;
use super::guise::Guise;
use super::header::anonymous;
use super::mask::Mask;
use super::tape::{Recorded, Tape};
use super::{Event, Stream, replay_key};
use crate::auth::KeyId;
use crate::proto::{Disguise, Sensitive};
use crate::reactor::{Parts, Presence, SnapshotTaker, WritePresence};

/// A snapshot as a recording has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Turns before it.
    pub(crate) turns: u64,
    /// The loop's own part.
    pub(crate) parts: Parts,
    pub(crate) connections: Vec<SnapshotConnection>,
}

/// A connection of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotConnection {
    pub(crate) stream: Stream,
    pub(crate) presence: Presence,
    pub(crate) parts: Parts,
}

/// Identifiers of the keys in the ring, with those that stand for them: to make one takes a hash, and there
/// are many connections.
struct StandInKeys {
    keys: Vec<(KeyId, KeyId)>,
    /// That of a key which is no longer in the ring.
    removed: KeyId,
}

impl StandInKeys {
    fn new(keys: &[KeyId]) -> Self {
        let stand_in = |position| replay_key(position).id();
        let keys = keys.iter().enumerate().map(|(position, key)| (*key, stand_in(position)));
        Self { keys: keys.collect(), removed: stand_in(crate::auth::MAX_KEYS) }
    }

    fn of(&self, key: KeyId) -> KeyId {
        let known = self.keys.iter().find(|(known, _)| *known == key);
        known.map_or(self.removed, |(_, stand_in)| *stand_in)
    }
}

/// Bytes of a chunk of a snapshot.
const CHUNK: usize = 1 << 20;

/// Takes a snapshot as the beginning of the next segment.
pub(super) struct Taker<'a> {
    tape: &'a mut Tape,
    turns: u64,
    keys: StandInKeys,
    parts: Parts,
    /// A segment begins anew with what depends on earlier events.
    encoder: Encoder,
    /// The segment's first bytes.
    out: Vec<u8>,
}

impl<'a> Taker<'a> {
    pub(super) fn new(tape: &'a mut Tape) -> Self {
        let (keys, parts) = (StandInKeys::new(&[]), Parts::default());
        let (encoder, out) = (Encoder::default(), Vec::new());
        Self { tape, turns: 0, keys, parts, encoder, out }
    }

    /// The bytes of the segment so far, and the encoder for its turns.
    pub(super) fn finish(mut self) -> (Vec<u8>, Encoder) {
        self.end_chunk(1);
        (self.out, self.encoder)
    }

    fn end_chunk(&mut self, least: usize) {
        if self.encoder.out.len() >= least {
            write_chunk(&mut self.out, &self.encoder.out).expect("memory takes all");
            self.encoder.out.clear();
        }
    }

    fn clear_parts(&mut self) {
        self.parts.state.clear();
        self.parts.figures.clear();
    }
}

impl<S> SnapshotTaker<Recorded<S>> for Taker<'_> {
    fn begin(&mut self, turns: u64, settings: &str, keys: &[KeyId]) {
        (self.turns, self.keys) = (turns, StandInKeys::new(keys));
        self.out = self.tape.next_header(settings).to_bytes();
    }

    fn server(&mut self, connections: usize, write: &mut dyn FnMut(&mut dyn Disguise, &mut Parts)) {
        self.clear_parts();
        let mut stand_in = StandIn { mask: &mut self.tape.mask, keys: &self.keys, of: None };
        write(&mut stand_in, &mut self.parts);
        let (turns, connections) = (self.turns, connections as u64);
        let at = self.tape.encoder.last_reading();
        self.encoder.event(&Event::Snapshot { turns, at, connections });
        self.encoder.parts(&self.parts);
    }

    fn connection(
        &mut self,
        stream: &Recorded<S>,
        write: &mut WritePresence<'_>,
    ) -> Result<(), String> {
        if stream.number == 0 {
            return Err("a connection that came from another loop is not recorded".to_owned());
        }
        self.clear_parts();
        let is_balancer = stream.proxied && !stream.named;
        let of = Some((&stream.guise, is_balancer));
        let mut stand_in = StandIn { mask: &mut self.tape.mask, keys: &self.keys, of };
        let presence = write(&mut stand_in, &mut self.parts)?;
        self.encoder.event(&Event::Present(Stream(stream.number), presence));
        self.encoder.parts(&self.parts);
        self.end_chunk(CHUNK);
        Ok(())
    }
}

/// What stands for what a snapshot must not have: the same as in the events before and after it.
struct StandIn<'a> {
    mask: &'a mut Mask,
    keys: &'a StandInKeys,
    /// The connection, and true if its address is that of a balancer.
    of: Option<(&'a Guise, bool)>,
}

impl Disguise for StandIn<'_> {
    fn bytes<'a>(&mut self, what: Sensitive, real: &'a [u8]) -> Cow<'a, [u8]> {
        let known = match self.of {
            Some((guise, _)) => guise.stand_in(what, real),
            None => None,
        };
        // Anything else has no part in what a loop does.
        known.filter(|known| known.len() == real.len()).unwrap_or_else(|| blank(what, real)).into()
    }

    fn payload<'a>(&self, real: &'a [u8]) -> &'a [u8] {
        if self.mask.keeps_payload { real } else { &[] }
    }

    fn address(&mut self, real: SocketAddr) -> SocketAddr {
        match self.of {
            Some((_, true)) => self.mask.balancer(real),
            _ => self.mask.client(real),
        }
    }

    fn destination(&mut self, real: SocketAddr) -> SocketAddr {
        nowhere(real)
    }

    fn source(&mut self, real: u64) -> u64 {
        self.mask.source(real)
    }

    fn key(&mut self, real: KeyId) -> KeyId {
        self.keys.of(real)
    }
}

/// Bytes of which only the length counts, or the kind of a header.
fn blank(what: Sensitive, real: &[u8]) -> Vec<u8> {
    match what {
        Sensitive::Header if !real.is_empty() => anonymous(real),
        // Digests of a recording are made with this key.
        Sensitive::ProvedKey if !real.is_empty() => replay_key(0).id().to_bytes().to_vec(),
        _ => vec![0; real.len()],
    }
}

fn nowhere(real: SocketAddr) -> SocketAddr {
    let ip = match real.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

/// Writes a snapshot of a loop that replays a recording, to be compared with the recorded one.
pub(super) struct OfReplay;

impl Disguise for OfReplay {
    fn bytes<'a>(&mut self, what: Sensitive, real: &'a [u8]) -> Cow<'a, [u8]> {
        match what {
            Sensitive::Unsent | Sensitive::UniqueId | Sensitive::Header => blank(what, real).into(),
            _ => real.into(),
        }
    }

    /// A line of a PROXY header has digits in places where there is nothing to tell.
    fn address(&mut self, real: SocketAddr) -> SocketAddr {
        let ip = match real.ip() {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none() && !v6.is_loopback() => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::from(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            ip => ip,
        };
        SocketAddr::new(ip, 0)
    }

    fn destination(&mut self, real: SocketAddr) -> SocketAddr {
        nowhere(real)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Key, MAX_KEYS};
    use crate::proto::{ConnId, State};
    use crate::reactor::Ready;
    use crate::trace::chunk;
    use crate::trace::sink::Sink;

    #[test]
    fn a_key_has_that_of_its_position_and_a_removed_one_has_one_beyond_all() {
        let [one, two, removed] = ["one", "two", "removed"].map(|key| Key::new(key).id());
        let keys = StandInKeys::new(&[one, two]);
        assert_eq!(keys.of(one), replay_key(0).id());
        assert_eq!(keys.of(two), replay_key(1).id());
        assert_eq!(keys.of(removed), replay_key(MAX_KEYS).id());
    }

    /// Until its header has named a client, the peer of a connection is its balancer.
    #[test]
    fn connections_are_written_into_one_chunk_with_addresses_of_their_kinds() {
        let file = std::sync::Arc::default();
        let sink = Sink::Memory { chunk: Vec::new(), file };
        let mut tape = Tape::new(sink, Mask::new(false), vec![], None, None);
        let mut taker = Taker::new(&mut tape);
        let mut expected = Encoder::default();
        for (number, proxied, named, masked) in [
            (1, true, false, [4, 0, 0, 11]),
            (2, true, true, [1, 0, 0, 11]),
            (3, false, false, [1, 0, 0, 11]),
        ] {
            let id = ConnId { index: 0, generation: 7 };
            let presence = Presence { id, ready: Ready::NONE, state: State::Echoing, unsent: 0 };
            let stream = Recorded { stream: (), number, guise: Guise::Payload, proxied, named };
            let mut write = |disguise: &mut dyn Disguise, parts: &mut Parts| {
                let real = SocketAddr::from(([10, 1, 1, 1], 4711));
                assert_eq!(disguise.address(real), SocketAddr::from((masked, 0)));
                parts.state.push(9);
                Ok(presence)
            };
            taker.connection(&stream, &mut write).unwrap();
            expected.event(&Event::Present(Stream(number), presence));
            expected.parts(&Parts { state: vec![9], figures: vec![] });
        }
        assert_eq!(taker.finish().0, chunk(&expected.out));
    }

    #[test]
    fn bytes_without_a_part_in_the_run_are_blank_in_both_snapshots() {
        let header = b"PROXY TCP4 192.0.2.1 ";
        let unknown = b"PROXY UNKNOWN xxxxxxx";
        let replayed = |what, real| OfReplay.bytes(what, real).into_owned();
        for what in [Sensitive::Unsent, Sensitive::UniqueId] {
            assert_eq!(blank(what, b"abc"), [0; 3]);
            assert_eq!(replayed(what, b"abc"), [0; 3]);
        }
        assert_eq!(blank(Sensitive::Header, header), unknown);
        assert_eq!(replayed(Sensitive::Header, header), unknown);
        // A replay has these from its recording.
        for what in [Sensitive::Challenge, Sensitive::Digest, Sensitive::ProvedKey] {
            assert_eq!(replayed(what, b"abcd"), b"abcd");
        }
        assert_eq!(blank(Sensitive::ProvedKey, b"abcd"), replay_key(0).id().to_bytes());
        assert_eq!(blank(Sensitive::ProvedKey, b""), b"");
    }

    #[test]
    fn addresses_of_a_replay_have_nothing_that_no_recording_has() {
        for (real, compared) in [
            ("1.0.0.101", "1.0.0.101"),
            ("::ffff:1.0.0.101", "::ffff:1.0.0.101"),
            ("::1", "::1"),
            ("2001:5::1111:1111:1111:1111", "2001:5::"),
        ] {
            let [real, compared] = [real, compared].map(|ip| ip.parse::<IpAddr>().unwrap());
            let expected = SocketAddr::new(compared, 0);
            assert_eq!(OfReplay.address(SocketAddr::new(real, 11_111)), expected);
        }
    }
}
