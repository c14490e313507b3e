//! What stands in a recording for the bytes of one connection.
//!
//! The server's challenge is replaced, so a client's answer to it is made anew with a public key; if it
//! turns out to be wrong, so is the one in its place. Everything is cut into the same pieces.

use super::encode::Encoder;
use super::header::HeaderGuise;
use super::mask::Mask;
use super::replay_key;
use crate::auth::{Challenge, Digest, MacAlgorithm, Response};
use crate::proto::{FrameReader, Piece, Protocol, Sensitive};

/// The part of a connection's conversation that the next bytes belong to.
#[derive(Debug, Default)]
pub(super) enum Guise {
    /// Payload, of which only the length counts.
    #[default]
    Payload,
    /// Payload within frames, whose headers are kept.
    Frames(FrameReader),
    /// What comes before.
    Handshake(Box<Handshake>),
}

#[derive(Debug)]
pub(super) enum Handshake {
    /// A balancer's header, then the rest.
    Header(HeaderGuise, [u8; Protocol::MAX_RANDOM]),
    Digest {
        challenge: [u8; Challenge::LEN],
        received: usize,
        /// What was written for them.
        written: [u8; Digest::MAX_LEN],
    },
    Mutual(Mutual),
}

/// A digest whose last byte has just been written, before the loop has judged it.
#[derive(Clone, Debug)]
pub(super) struct Unjudged {
    /// The place of its last byte.
    pub(super) last: usize,
    /// The challenge, if the whole digest is there in one piece.
    pub(super) whole: Option<([u8; Challenge::LEN], MacAlgorithm)>,
}

impl Unjudged {
    /// Corrects the digest now that the loop has found it right under this key.
    pub(super) fn is_right(&self, key: u8, out: &mut [u8]) {
        let Some((challenge, algorithm)) = &self.whole else { return };
        let key = replay_key(key.into());
        let digest = algorithm.digest(&key, &Challenge::new(*challenge));
        let digest = digest.as_bytes();
        out[self.last + 1 - digest.len()..=self.last].copy_from_slice(digest);
    }

    /// The same now that it was wrong.
    pub(super) fn is_wrong(&self, out: &mut [u8]) {
        out[self.last] ^= 0xff;
    }
}

impl Guise {
    /// The guise of a connection that begins with these random bytes.
    pub(super) fn new(mask: &Mask, proxied: bool) -> Self {
        // The protocol has no more.
        let mut random = mask.random;
        random[mask.protocol.random_len()..].fill(0);
        match (mask.protocol, proxied) {
            (Protocol::Plain, _) => Self::Payload,
            (_, true) => {
                Self::Handshake(Box::new(Handshake::Header(HeaderGuise::default(), random)))
            }
            (_, false) => Self::Handshake(Box::new(Handshake::new(mask, random))),
        }
    }

    pub(super) const fn is_payload(&self) -> bool {
        matches!(self, Self::Payload)
    }

    /// True while it is not known whether a response is right.
    pub(super) fn is_held(&self) -> bool {
        let Self::Handshake(handshake) = self else { return false };
        matches!(&**handshake, Handshake::Mutual(Mutual { unjudged: Some(_), .. }))
    }

    /// The place of the last byte of such a response, about which something is known now.
    pub(super) fn let_go(&mut self) -> Option<usize> {
        let Self::Handshake(handshake) = self else { return None };
        match &mut **handshake {
            Handshake::Mutual(mutual) => mutual.unjudged.take(),
            Handshake::Header(..) | Handshake::Digest { .. } => None,
        }
    }

    /// What stands for bytes that nothing has been written for yet, at the end of the connection.
    pub(super) fn unfinished(&mut self) -> Option<Vec<u8>> {
        let Self::Handshake(handshake) = self else { return None };
        match &mut **handshake {
            Handshake::Header(header, _) => header.unfinished(),
            Handshake::Digest { .. } | Handshake::Mutual(_) => None,
        }
    }

    /// What stands in a snapshot for bytes of the handshake; `None` if that is nothing particular.
    pub(super) fn stand_in(&self, what: Sensitive, real: &[u8]) -> Option<Vec<u8>> {
        let Self::Handshake(handshake) = self else { return None };
        match (&**handshake, what) {
            (Handshake::Header(_, random), Sensitive::Challenge) => {
                Some(random[..Challenge::LEN].to_vec())
            }
            (Handshake::Header(_, random), Sensitive::MoreRandom) => {
                Some(random[Challenge::LEN..].to_vec())
            }
            (Handshake::Digest { challenge, .. }, Sensitive::Challenge) => Some(challenge.to_vec()),
            (Handshake::Digest { written, .. }, Sensitive::Digest) => {
                Some(written.get(..real.len())?.to_vec())
            }
            (Handshake::Mutual(mutual), Sensitive::Challenge) => Some(mutual.challenge.clone()),
            (Handshake::Mutual(mutual), Sensitive::Frame) => Some(mutual.frame_of(real)),
            _ => None,
        }
    }

    /// Writes what stands for the bytes of one `recv`.
    pub(super) fn write(&mut self, mask: &mut Mask, bytes: &[u8], to: &mut Encoder) -> Written {
        let (mut at, mut written) = (0, Written::default());
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self {
                Self::Payload => {
                    payload(mask, rest, to);
                    break;
                }
                Self::Frames(reader) => match reader.read(rest) {
                    Piece::Header { len, .. } => {
                        to.literal(&rest[..len]);
                        at += len;
                    }
                    Piece::Payload { len, .. } => {
                        payload(mask, &rest[..len], to);
                        at += len;
                    }
                },
                Self::Handshake(handshake) => {
                    let (taken, next) = handshake.write(mask, rest, to, at > 0, &mut written);
                    at += taken;
                    if let Some(next) = next {
                        *self = next;
                    }
                }
            }
        }
        written
    }
}

/// What became known by the bytes of one `recv`.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// A digest that is now complete.
    pub(super) unjudged: Option<Unjudged>,
    /// What stands for all earlier bytes for which there was nothing yet.
    pub(super) late: Option<Vec<u8>>,
    /// A PROXY header that named a client.
    pub(super) named: bool,
}

fn payload(mask: &Mask, bytes: &[u8], to: &mut Encoder) {
    match mask.keeps_payload {
        true => {
            to.literal(bytes);
        }
        false => to.neutral(bytes.len()),
    }
}

impl Handshake {
    fn new(mask: &Mask, random: [u8; Protocol::MAX_RANDOM]) -> Self {
        match mask.protocol {
            Protocol::Multiprocessing => Self::Mutual(Mutual::new(mask.algorithm, random)),
            Protocol::Tutorial | Protocol::Plain => {
                let challenge = std::array::from_fn(|i| random[i]);
                Self::Digest { challenge, received: 0, written: [0; Digest::MAX_LEN] }
            }
        }
    }

    /// Writes what stands for the first of these bytes. Returns their number, and what follows once the
    /// handshake is over. `early` bytes came before the challenge was sent.
    fn write(
        &mut self,
        mask: &mut Mask,
        bytes: &[u8],
        to: &mut Encoder,
        early: bool,
        Written { unjudged, late, named }: &mut Written,
    ) -> (usize, Option<Guise>) {
        match self {
            Self::Header(header, random) => {
                let (taken, complete, earlier) = header.write(mask, bytes, to);
                *named |= header.named;
                if let Some(earlier) = earlier {
                    *late = Some(earlier);
                }
                if complete {
                    *self = Self::new(mask, *random);
                }
                (taken, None)
            }
            Self::Digest { challenge, received, written } => {
                let digest = mask.algorithm.digest(&replay_key(0), &Challenge::new(*challenge));
                let digest = digest.as_bytes();
                // A whole digest that comes before the challenge is a guess, and there is nothing behind a
                // wrong one.
                if *received >= digest.len() || early && bytes.len() >= digest.len() {
                    *received = Digest::MAX_LEN;
                    to.literal(&vec![0; bytes.len()]);
                    return (bytes.len(), None);
                }
                let taken = bytes.len().min(digest.len() - *received);
                let now = *received..*received + taken;
                let at = to.literal(&digest[now.clone()]);
                written[now.clone()].copy_from_slice(&digest[now]);
                let whole = (*received == 0).then_some((*challenge, mask.algorithm));
                *received += taken;
                let complete = *received == digest.len();
                if complete {
                    *unjudged = Some(Unjudged { last: at + taken - 1, whole });
                }
                (taken, complete.then_some(Guise::Payload))
            }
            Self::Mutual(mutual) => mutual.write(bytes, to),
        }
    }
}

/// The handshake of Python's multiprocessing, as the server receives it: a response, a challenge, a
/// verdict.
#[derive(Debug)]
pub(super) struct Mutual {
    reader: FrameReader,
    frame: Frame,
    /// Length of the current frame, and the part of it that has come.
    len: usize,
    at: usize,
    challenge: Vec<u8>,
    algorithm: MacAlgorithm,
    response: Option<Response>,
    /// Bytes of a challenge are kept as long as they name a hash.
    in_tag: bool,
    /// The place of the last byte of a response of which nothing is known yet.
    pub(super) unjudged: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Response,
    Challenge,
    Verdict,
    Nothing,
}

impl Mutual {
    fn new(algorithm: MacAlgorithm, random: [u8; Protocol::MAX_RANDOM]) -> Self {
        let challenge = match algorithm {
            MacAlgorithm::Md5 => random[..20].to_vec(),
            MacAlgorithm::Sha256 => [&b"{sha256}"[..], &random].concat(),
        };
        Self {
            reader: FrameReader::new(),
            frame: Frame::Response,
            len: 0,
            at: 0,
            challenge,
            algorithm,
            response: None,
            in_tag: true,
            unjudged: None,
        }
    }

    fn write(&mut self, bytes: &[u8], to: &mut Encoder) -> (usize, Option<Guise>) {
        let (taken, whole) = match self.reader.read(bytes) {
            Piece::Header { len, payload } => {
                to.literal(&bytes[..len]);
                if let Some(payload) = payload {
                    self.begin(usize::try_from(payload).unwrap_or(usize::MAX));
                }
                (len, payload == Some(0))
            }
            Piece::Payload { len, is_last } => {
                let stand_in: Vec<u8> =
                    bytes[..len].iter().map(|byte| self.stand_in(*byte)).collect();
                let at = to.literal(&stand_in);
                if is_last && self.frame == Frame::Response {
                    self.unjudged = Some(at + len - 1);
                }
                (len, is_last)
            }
        };
        if whole {
            self.frame = match self.frame {
                Frame::Response => Frame::Challenge,
                Frame::Challenge => Frame::Verdict,
                Frame::Verdict => return (taken, Some(Guise::Frames(FrameReader::new()))),
                Frame::Nothing => Frame::Nothing,
            };
        }
        (taken, None)
    }

    /// What stands for the part of the current frame that was received.
    fn frame_of(&self, real: &[u8]) -> Vec<u8> {
        let (mut at, mut in_tag) = (0, true);
        real.iter().map(|byte| self.byte_for(*byte, &mut at, &mut in_tag)).collect()
    }

    fn begin(&mut self, len: usize) {
        (self.len, self.at, self.in_tag) = (len, 0, true);
        let key = replay_key(0);
        match self.frame {
            Frame::Response => {
                self.response = self.algorithm.response_of_len(&key, &self.challenge, len);
            }
            // Longer than any message: the handshake has failed.
            _ if len > 256 => self.frame = Frame::Nothing,
            _ => {}
        }
    }

    /// The byte that stands for the next one of a frame.
    fn stand_in(&mut self, byte: u8) -> u8 {
        let (mut at, mut in_tag) = (self.at, self.in_tag);
        let stand_in = self.byte_for(byte, &mut at, &mut in_tag);
        (self.at, self.in_tag) = (at, in_tag);
        stand_in
    }

    /// The same at a place of its own.
    fn byte_for(&self, byte: u8, place: &mut usize, is_in_tag: &mut bool) -> u8 {
        const PREFIX: &[u8] = b"#CHALLENGE#";
        const WELCOME: &[u8] = b"#WELCOME#";
        const LONGEST_TAG: usize = 10;
        let at = *place;
        *place += 1;
        let neutral = b'x';
        match self.frame {
            Frame::Response => {
                let response = self.response.as_ref().map(Response::as_bytes);
                response.and_then(|response| response.get(at)).copied().unwrap_or(neutral)
            }
            Frame::Challenge => match PREFIX.get(at) {
                Some(expected) => {
                    if byte == *expected {
                        byte
                    } else {
                        neutral
                    }
                }
                None => {
                    let place = at - PREFIX.len();
                    let in_tag = *is_in_tag && place < LONGEST_TAG && (place > 0 || byte == b'{');
                    *is_in_tag = in_tag && byte != b'}';
                    if in_tag { byte } else { neutral }
                }
            },
            Frame::Verdict if WELCOME.get(at) == Some(&byte) => byte,
            Frame::Verdict | Frame::Nothing => neutral,
        }
    }
}

#[cfg(test)]
mod tests;
