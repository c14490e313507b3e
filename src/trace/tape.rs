//! The written side of a recorder: events in a buffer, in which nothing is left that must not be in a
//! file.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use super::encode::Encoder;
use super::guise::{Guise, Unjudged};
use super::mask::Mask;
use super::sink::{OnEnd, Sink};
use super::{Event, Fault, Header, Stream, Subject};
use crate::proto::CloseReason;
use crate::reactor::Note;

/// A stream with its number and what is written for its bytes.
#[derive(Debug)]
pub struct Recorded<S> {
    pub(super) stream: S,
    /// Zero for one that is not recorded, as of the admin endpoint.
    pub(super) number: u64,
    pub(super) guise: Guise,
    pub(super) proxied: bool,
    /// Its PROXY header named a client.
    pub(super) named: bool,
}

impl<S> Recorded<S> {
    /// One that is not recorded.
    pub(super) const fn off(stream: S) -> Self {
        Self { stream, number: 0, guise: Guise::Payload, proxied: false, named: false }
    }
}

impl<S> Deref for Recorded<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

/// What is written of a run, before it goes to its sink.
pub(super) struct Tape {
    pub(super) encoder: Encoder,
    pub(super) sink: Sink,
    pub(super) mask: Mask,
    /// For each listener, true if its connections begin with a PROXY header.
    proxied: Vec<bool>,
    /// Streams accepted so far.
    streams: u64,
    /// The clock was not read since the last poll.
    pub(super) polled: bool,
    /// A digest that was received in this call, and that the loop is about to judge.
    unjudged: Option<Unjudged>,
    /// Responses of which it is not yet known whether they were right. While there are any, nothing
    /// leaves the buffer.
    pub(super) held: usize,
    on_end: Option<Arc<Mutex<Option<OnEnd>>>>,
    /// `None` if it is no ring.
    ring: Option<Ring>,
}

/// What a recording knows of the segments that it consists of.
pub(super) struct Ring {
    /// The first lines of the recording.
    header: Header,
    run: u64,
    /// The number of the current segment, from 1.
    segment: u64,
    /// Its bytes so far.
    written: u64,
    /// Bytes from which on the next begins.
    share: u64,
}

impl Ring {
    /// Two segments, and what one turn makes them longer than this, fit into the limit.
    pub(super) const fn new(header: Header, run: u64, limit: u64, written: u64) -> Self {
        Self { header, run, segment: 1, written, share: limit / 8 * 3 }
    }
}

/// The lines of a recording that is a ring: its name, and the number of the segment.
pub(super) fn of_ring(header: Header, run: u64, segment: u64) -> Header {
    header.with("run", format!("{run:016x}")).with("segment", segment.to_string())
}

/// Bytes of a chunk before its events.
const CHUNK_HEAD: u64 = 8;

/// Bytes of turns that may be held back.
const MAX_HELD: usize = 8 << 20;

/// The common part of recordings: their disguise, their first lines, and which listeners need a header.
pub(super) fn begin(header: Header, keeps_payload: bool) -> (Mask, Header, Vec<bool>) {
    let mut mask = Mask::new(keeps_payload);
    let privacy = if keeps_payload { "payload" } else { "sanitized" };
    let header = mask.header(header).with("privacy", privacy);
    let listeners = header.get("listeners").unwrap_or_default().split(',');
    let proxied = listeners.map(|kind| kind == "proxied").collect();
    (mask, header, proxied)
}

pub(super) fn end_once(on_end: &Mutex<Option<OnEnd>>, why: &str) {
    let on_end = on_end.lock().ok().and_then(|mut on_end| on_end.take());
    if let Some(on_end) = on_end {
        on_end(why);
    }
}

impl Tape {
    pub(super) fn new(
        sink: Sink,
        mask: Mask,
        proxied: Vec<bool>,
        on_end: Option<Arc<Mutex<Option<OnEnd>>>>,
        ring: Option<Ring>,
    ) -> Self {
        Self {
            encoder: Encoder::default(),
            sink,
            mask,
            proxied,
            streams: 0,
            polled: false,
            unjudged: None,
            held: 0,
            on_end,
            ring,
        }
    }

    pub(super) fn hand_over(&mut self) -> Result<(), String> {
        self.unjudged = None;
        if self.held == 0 && (!self.encoder.out.is_empty() || self.sink.has_kept()) {
            let before = self.encoder.out.len();
            self.sink.push(&mut self.encoder.out)?;
            if let Some(ring) = &mut self.ring {
                // At worst these bytes are a chunk by themselves.
                ring.written += (before - self.encoder.out.len()) as u64 + CHUNK_HEAD;
            }
        } else if self.encoder.out.len() > MAX_HELD {
            return Err("too many handshakes were pending at once".to_owned());
        }
        Ok(())
    }

    /// Returns true if the next segment is to begin now, between two turns.
    #[inline]
    pub(super) fn wants_snapshot(&self) -> bool {
        let is_full = |ring: &Ring| ring.written + self.encoder.out.len() as u64 >= ring.share;
        self.held == 0 && self.ring.as_ref().is_some_and(is_full)
    }

    /// The first lines of the next segment, with the settings in force.
    pub(super) fn next_header(&mut self, settings: &str) -> Header {
        let Some(ring) = &mut self.ring else { return Header::new() };
        ring.segment += 1;
        let header = ring.header.clone().with("settings", settings);
        of_ring(self.mask.header(header), ring.run, ring.segment)
    }

    /// Goes on with the next segment, of which these are the first bytes.
    ///
    /// # Errors
    /// If there is no room for a snapshot.
    pub(super) fn begin_next(&mut self, segment: Vec<u8>, encoder: Encoder) -> Result<(), String> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let len = segment.len() as u64;
        if len > ring.share / 2 {
            // The share is three eighths of the limit, and a snapshot may take half of it. Rounded up to a
            // multiple of eight, so that the eighths are whole bytes.
            let need = len.saturating_mul(2).div_ceil(3).saturating_mul(8);
            return Err(format!(
                "its limit has no room for a snapshot, which now takes {len} bytes: give it {need} or more"
            ));
        }
        ring.written = len;
        self.unjudged = None;
        self.sink.begin_next(&mut self.encoder.out, segment);
        self.encoder = encoder;
        Ok(())
    }

    /// Ends the recording before its loop.
    pub(super) fn end(&mut self, why: &str) {
        // Turns that have to be held back are incomplete.
        let turns = if self.held == 0 { std::mem::take(&mut self.encoder.out) } else { Vec::new() };
        self.sink.finish(&turns, why, false);
        if let Some(on_end) = self.on_end.take() {
            end_once(&on_end, why);
        }
    }

    pub(super) fn next_stream<S>(&mut self, stream: S, proxied: bool) -> Recorded<S> {
        self.streams += 1;
        Recorded { stream, number: self.streams, guise: Guise::Payload, proxied, named: false }
    }

    pub(super) fn accepted(
        &mut self,
        subject: Subject,
        peer: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let proxied = self.is_proxied(subject);
        peer.map(|peer| match proxied {
            true => self.mask.balancer(peer),
            false => self.mask.client(peer),
        })
    }

    pub(super) fn is_proxied(&self, subject: Subject) -> bool {
        match subject {
            Subject::Listener(index) => self.proxied.get(index).copied().unwrap_or(false),
            _ => false,
        }
    }

    #[inline]
    pub(super) fn received<S>(
        &mut self,
        stream: &mut Recorded<S>,
        data: &[u8],
        result: &io::Result<usize>,
    ) {
        let (number, room) = (Stream(stream.number), data.len());
        match result {
            Ok(n) if stream.guise.is_payload() && !self.mask.keeps_payload => {
                self.encoder.recv_neutral(stream.number, room, *n);
            }
            Ok(n) => self.received_more(stream, &data[..*n], room),
            Err(error) => {
                let result = Err(Fault::from(error));
                self.encoder.event(&Event::Recv { stream: number, room, result });
            }
        }
    }

    #[inline(never)]
    fn received_more<S>(&mut self, stream: &mut Recorded<S>, bytes: &[u8], room: usize) {
        let number = Stream(stream.number);
        let event = Event::Recv { stream: number, room, result: Ok(bytes.len()) };
        self.encoder.event(&event);
        let held = stream.guise.is_held();
        let written = stream.guise.write(&mut self.mask, bytes, &mut self.encoder);
        self.unjudged = written.unjudged;
        stream.named |= written.named;
        if let Some(late) = written.late {
            self.encoder.late(stream.number, &late);
        }
        self.held += usize::from(!held && stream.guise.is_held());
    }

    /// The loop has judged the response of a mutual handshake, by what it sends.
    #[inline(never)]
    pub(super) fn judged(&mut self, guise: &mut Guise, right: bool) {
        if let Some(last) = guise.let_go() {
            self.held -= 1;
            if !right {
                self.encoder.out[last] ^= 0xff;
            }
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        match (&note, &self.unjudged) {
            (Note::Authenticated(_, Some(key)), Some(digest)) => {
                digest.is_right(key.position, &mut self.encoder.out);
            }
            (Note::Closed(_, CloseReason::Rejected), Some(digest)) => {
                digest.is_wrong(&mut self.encoder.out);
            }
            _ => {}
        }
        if matches!(note, Note::Authenticated(..) | Note::Closed(..)) {
            self.unjudged = None;
        }
        let note = match note {
            Note::Command(text) => Note::Command(self.mask.command(&text)),
            note => note,
        };
        self.encoder.event(&Event::Note(note));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Challenge, Digest, MacAlgorithm};
    use crate::proto::{ConnId, Protocol};
    use crate::reactor::RingKey;
    use crate::trace::encode::encoded;
    use crate::trace::file::end_record;
    use crate::trace::{chunk, replay_key};

    const ID: ConnId = ConnId { index: 0, generation: 1 };

    fn over(mask: Mask, ring: Option<Ring>) -> (Tape, Arc<Mutex<Vec<u8>>>) {
        let memory = Arc::default();
        let sink = Sink::Memory { chunk: Vec::new(), file: Arc::clone(&memory) };
        (Tape::new(sink, mask, vec![false], None, ring), memory)
    }

    /// A tape with so many bytes that have not been handed over.
    fn with_bytes(len: usize, ring: Option<Ring>) -> Tape {
        let (mut tape, _) = over(Mask::new(false), ring);
        tape.encoder.out = vec![0; len];
        tape
    }

    /// A ring of this limit, with 100 bytes in its first file.
    fn ring(limit: u64) -> Option<Ring> {
        Some(Ring::new(Header::new(), 1, limit, 100))
    }

    #[test]
    fn the_next_segment_begins_at_three_eighths_of_the_limit() {
        for (len, is_full) in [(199, false), (200, true)] {
            assert_eq!(with_bytes(len, ring(800)).wants_snapshot(), is_full, "{len}");
        }
        // A chunk has a head of eight bytes. Turns without an event have none.
        for (len, is_full) in [(191, false), (192, true)] {
            let mut tape = with_bytes(len, ring(800));
            for _ in 0..3 {
                tape.hand_over().unwrap();
            }
            assert_eq!(tape.wants_snapshot(), is_full, "{len}");
        }
    }

    #[test]
    fn turns_that_stay_in_the_buffer_count_once() {
        let mut tape = with_bytes(150, ring(800));
        tape.sink = Sink::without_thread();
        let busy = tape.sink.when_busy();
        busy(&mut || tape.hand_over().unwrap());
        assert_eq!(tape.encoder.out.len(), 150);
        assert!(!tape.wants_snapshot());
        tape.hand_over().unwrap();
        assert!(tape.encoder.out.is_empty() && !tape.wants_snapshot());
    }

    #[test]
    fn a_snapshot_has_half_of_a_segment_or_the_limit_that_would_do_is_named() {
        for (len, limit) in [(150, 800), (151, 808), (1_000_000, 5_333_336)] {
            let begins = |limit, len| {
                with_bytes(0, ring(limit)).begin_next(vec![0; len], Encoder::default())
            };
            assert_eq!(begins(limit, len), Ok(()), "{limit}");
            let why = format!(
                "its limit has no room for a snapshot, which now takes {len} bytes: give it {limit} or more"
            );
            assert_eq!(begins(limit - 1, len), Err(why));
        }
    }

    #[test]
    fn nothing_leaves_the_buffer_before_every_response_is_judged() {
        let most = 8 << 20;
        let mut tape = with_bytes(most, None);
        tape.held = 1;
        assert_eq!(tape.hand_over(), Ok(()));
        assert_eq!(tape.encoder.out.len(), most);
        tape.encoder.out.push(0);
        let why = "too many handshakes were pending at once";
        assert_eq!(tape.hand_over(), Err(why.to_owned()));
        tape.held = 0;
        assert_eq!(tape.hand_over(), Ok(()));
        assert!(tape.encoder.out.is_empty());
    }

    #[test]
    fn a_recording_that_ends_early_has_its_last_whole_turns_and_tells_why() {
        for (held, turns) in [(0, &[7, 7][..]), (1, &[])] {
            let (mut tape, memory) = over(Mask::new(false), None);
            let heard = Arc::new(Mutex::new(Vec::new()));
            let hears = Arc::clone(&heard);
            let on_end: OnEnd = Box::new(move |why| hears.lock().unwrap().push(why.to_owned()));
            tape.on_end = Some(Arc::new(Mutex::new(Some(on_end))));
            (tape.encoder.out, tape.held) = (vec![7, 7], held);
            tape.end("no room");
            assert_eq!(*memory.lock().unwrap(), chunk(&[turns, &end_record("no room")].concat()));
            assert_eq!(*heard.lock().unwrap(), ["no room"]);
        }
    }

    #[test]
    fn payload_that_is_not_kept_takes_a_few_bytes() {
        for (keeps_payload, expected) in [
            // Of neutral bytes: the stream, their number, and the room if it is not that of before.
            (false, &[15, 1, 5, 64, 15, 1, 5, 0][..]),
            // The stream, the room, their number, and a run of them as they are.
            (true, b"\x10\x01\x40\x05\x15hello\x10\x01\x40\x05\x15hello"),
        ] {
            let (mut tape, _) = over(Mask::new(keeps_payload), None);
            let mut stream = tape.next_stream((), false);
            let mut buffer = [0; 64];
            buffer[..5].copy_from_slice(b"hello");
            tape.received(&mut stream, &buffer, &Ok(5));
            tape.received(&mut stream, &buffer, &Ok(5));
            assert_eq!(tape.encoder.out, expected);
        }
    }

    #[test]
    fn the_peer_of_a_listener_that_requires_a_header_is_a_balancer() {
        let (mut tape, _) = over(Mask::new(false), None);
        tape.proxied = vec![false, true];
        let peer = "192.0.2.9:80".parse().ok();
        for (listener, masked) in [(0, "1.0.0.101:0"), (1, "4.0.0.101:0"), (2, "1.0.0.101:0")] {
            let subject = Subject::Listener(listener);
            assert_eq!(tape.accepted(subject, peer), masked.parse().ok());
            assert_eq!(tape.accepted(subject, None), None, "it is already gone");
        }
    }

    /// Begins a connection, which receives these bytes.
    fn receiving(mut mask: Mask, proxied: bool, bytes: &[u8]) -> (Tape, Recorded<()>) {
        mask.draw(Protocol::MAX_RANDOM);
        let guise = Guise::new(&mask, proxied);
        let (mut tape, _) = over(mask, None);
        let mut stream = Recorded { guise, ..tape.next_stream((), proxied) };
        tape.received(&mut stream, bytes, &Ok(bytes.len()));
        (tape, stream)
    }

    #[test]
    fn a_digest_is_replaced_by_one_that_is_right_under_the_same_key_or_wrong() {
        let (tape, _) = receiving(Mask::new(false), false, &[0; 16]);
        let challenge: [u8; Challenge::LEN] = std::array::from_fn(|i| tape.mask.random[i]);
        let under = |position| {
            let key = replay_key(position);
            let digest: Digest = MacAlgorithm::Md5.digest(&key, &Challenge::new(challenge));
            digest.as_bytes().to_vec()
        };
        let mut wrong = under(0);
        wrong[15] = !wrong[15];
        let key = |position| Some(RingKey { position, name: None });
        for (note, expected) in [
            (Note::Authenticated(ID, key(0)), under(0)),
            (Note::Authenticated(ID, key(3)), under(3)),
            (Note::Closed(ID, CloseReason::Rejected), wrong),
            (Note::Closed(ID, CloseReason::AuthTimeout), under(0)),
        ] {
            let (mut tape, _) = receiving(Mask::new(false), false, &[0; 16]);
            let end = tape.encoder.out.len();
            tape.note(note.clone());
            assert_eq!(tape.encoder.out[end - 16..end], expected, "{note}");
            assert_eq!(tape.encoder.out[end..], encoded(&[Event::Note(note)]));
        }
    }

    #[test]
    fn a_response_is_held_back_until_its_verdict_and_wrong_if_that_is_failure() {
        let of_frames = || {
            let mut mask = Mask::new(false);
            mask.protocol = Protocol::Multiprocessing;
            mask
        };
        let response = [&[0, 0, 0, 16][..], &[0; 16]].concat();
        for right in [true, false] {
            let (mut tape, mut stream) = receiving(of_frames(), false, &response);
            assert_eq!(tape.held, 1);
            let last = tape.encoder.out.len() - 1;
            let written = tape.encoder.out[last];
            // Nothing behind it belongs to a response.
            tape.received(&mut stream, &[0, 0, 0, 31], &Ok(4));
            assert_eq!(tape.held, 1);
            for _ in 0..2 {
                tape.judged(&mut stream.guise, right);
                assert_eq!(tape.held, 0);
                assert_eq!(tape.encoder.out[last], if right { written } else { !written });
            }
        }
    }

    /// From then on the connection's address is the client's.
    #[test]
    fn a_stream_stays_named_once_its_header_named_a_client() {
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
        let (mut tape, mut stream) = receiving(Mask::new(false), true, header);
        assert!(stream.named);
        tape.received(&mut stream, &[0; 16], &Ok(16));
        assert!(stream.named);
        let (_, stream) = receiving(Mask::new(false), true, b"PROXY UNKNOWN\r\n");
        assert!(!stream.named);
    }
}
