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
        if self.held == 0 && !self.encoder.out.is_empty() {
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
            let need = len.saturating_mul(16).div_ceil(3);
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
