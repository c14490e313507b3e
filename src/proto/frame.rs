#[cfg(doc)]
use super::CloseReason;
use super::{Answer, Handler, Identity, Peer, Upper};
use crate::python::upper;

/// Reader of the frames of `multiprocessing.connection`: a length in 4 bytes, signed and
/// big-endian, then that many bytes. The length -1 means that the length proper follows in 8 bytes,
/// unsigned. Keeps nothing of what it reads but a length, so frames may be as long as they like.
///
/// ```
/// use saltecho::proto::{FrameReader, Piece};
///
/// let mut reader = FrameReader::new();
/// assert_eq!(reader.read(b"\0\0"), Piece::Header { len: 2, payload: None });
/// assert_eq!(reader.read(b"\0\x05hel"), Piece::Header { len: 2, payload: Some(5) });
/// assert_eq!(reader.read(b"hel"), Piece::Payload { len: 3, is_last: false });
/// assert_eq!(reader.read(b"lo\0\0\0"), Piece::Payload { len: 2, is_last: true });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameReader {
    /// The missing bytes of the payload, or the bytes of the length so far.
    number: u64,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Of the length in 4 bytes; so many are here.
    Length(u8),
    /// Of the length in 8 bytes; so many are here.
    LongLength(u8),
    Payload,
}

const LENGTH: u8 = 1;
const LONG_LENGTH: u8 = 2;
const PAYLOAD: u8 = 3;

impl Default for Part {
    fn default() -> Self {
        Self::Length(0)
    }
}

/// The beginning of the bytes given to a [`FrameReader`], up to where something else begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of a header.
    Header {
        /// The number of these bytes.
        len: usize,
        /// The length of the payload, if the header is complete.
        payload: Option<u64>,
    },
    /// Bytes of a payload.
    Payload {
        /// The number of these bytes.
        len: usize,
        /// True if they end the frame.
        is_last: bool,
    },
}

impl FrameReader {
    /// Creates a reader at the start of a frame.
    pub const fn new() -> Self {
        Self { number: 0, part: Part::Length(0) }
    }

    /// Returns true between two frames, where a stream may end.
    pub fn is_between_frames(&self) -> bool {
        self.part == Part::Length(0)
    }

    /// Writes its place in the stream: what it knows of a length, or the missing bytes of a payload.
    pub(super) fn park(&self, out: &mut Vec<u8>) {
        let (part, here) = match self.part {
            Part::Length(here) => (LENGTH, here),
            Part::LongLength(here) => (LONG_LENGTH, here),
            Part::Payload => (PAYLOAD, 0),
        };
        out.extend([part, here]);
        out.extend(self.number.to_le_bytes());
    }

    /// Reads what [`park`](Self::park) wrote; the bytes behind it are the caller's. `None` for a place at
    /// which no stream can be.
    pub(super) fn unpark(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[part, here, ref number @ ..], rest) = bytes.split_first_chunk::<10>()?;
        let number = u64::from_le_bytes(*number);
        // So many bits are known of it.
        let is_known = number.checked_shr(8 * u32::from(here)).unwrap_or(0) == 0;
        let part = match part {
            LENGTH if here < 4 && is_known => Part::Length(here),
            LONG_LENGTH if here < 8 && is_known => Part::LongLength(here),
            PAYLOAD if here == 0 && number > 0 => Part::Payload,
            _ => return None,
        };
        Some((Self { number, part }, rest))
    }

    /// The missing bytes of the payload that is being read.
    #[cfg(feature = "server")]
    pub(super) fn payload_left(&self) -> Option<u64> {
        (self.part == Part::Payload).then_some(self.number)
    }

    /// Reads the first piece of `data`, which must not be empty. Call it again with the bytes
    /// behind the piece.
    pub fn read(&mut self, data: &[u8]) -> Piece {
        let (here, whole) = match self.part {
            Part::Payload => {
                let len =
                    usize::try_from(self.number).map_or(data.len(), |left| left.min(data.len()));
                self.number -= len as u64;
                let is_last = self.number == 0;
                if is_last {
                    *self = Self::new();
                }
                return Piece::Payload { len, is_last };
            }
            Part::Length(here) => (here, 4),
            Part::LongLength(here) => (here, 8),
        };
        let missing = usize::from(whole - here);
        let taken = &data[..data.len().min(missing)];
        self.number = taken.iter().fold(self.number, |number, byte| number << 8 | u64::from(*byte));
        let len = taken.len();
        if len < missing {
            let here = here + u8::try_from(len).expect("less than 8");
            self.part = match self.part {
                Part::LongLength(_) => Part::LongLength(here),
                Part::Length(_) | Part::Payload => Part::Length(here),
            };
            return Piece::Header { len, payload: None };
        }
        if whole == 4 {
            // Signed, by CPython: -1 announces 8 more bytes, and less than that reads as empty.
            match self.number {
                0xffff_ffff => {
                    *self = Self { number: 0, part: Part::LongLength(0) };
                    return Piece::Header { len, payload: None };
                }
                0x8000_0000.. => self.number = 0,
                _ => {}
            }
        }
        let payload = Some(self.number);
        *self = match self.number {
            0 => Self::new(),
            number => Self { number, part: Part::Payload },
        };
        Piece::Header { len, payload }
    }
}

/// The header of a frame with a payload of this many bytes: 4 bytes, or 12 from 2 GiB on.
///
/// ```
/// assert_eq!(saltecho::proto::frame_header(5).as_ref(), b"\0\0\0\x05");
/// assert_eq!(saltecho::proto::frame_header(1 << 31).as_ref(), b"\xff\xff\xff\xff\0\0\0\0\x80\0\0\0");
/// ```
pub fn frame_header(payload: u64) -> FrameHeader {
    let mut bytes = [0; 12];
    let (short, len) = i32::try_from(payload).map_or((-1, 12), |short| (short, 4));
    bytes[..4].copy_from_slice(&short.to_be_bytes());
    bytes[4..].copy_from_slice(&payload.to_be_bytes());
    FrameHeader { bytes, len }
}

/// The bytes of a frame's header.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeader {
    bytes: [u8; 12],
    len: usize,
}

impl AsRef<[u8]> for FrameHeader {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A change of a message that keeps its length and goes from byte to byte, so that a part of a
/// message can be answered before the rest is there.
pub trait Transform {
    /// Changes the next bytes of a message where they lie.
    fn transform(&mut self, payload: &mut [u8]);

    /// Writes its state for another loop, as [`Handler::save`] does. Returns false if it cannot move,
    /// which is the default.
    #[allow(unused_variables)]
    fn save(&self, state: &mut Vec<u8>) -> bool {
        false
    }

    /// Goes on from what [`save`](Self::save) wrote. Returns false if it does not understand it.
    #[allow(unused_variables)]
    fn restore(&mut self, state: &[u8]) -> bool {
        false
    }
}

impl Transform for Upper {
    fn transform(&mut self, payload: &mut [u8]) {
        upper(payload);
    }

    fn save(&self, _state: &mut Vec<u8>) -> bool {
        true
    }

    fn restore(&mut self, state: &[u8]) -> bool {
        state.is_empty()
    }
}

impl Transform for Identity {
    fn transform(&mut self, _payload: &mut [u8]) {}

    fn save(&self, _state: &mut Vec<u8>) -> bool {
        true
    }

    fn restore(&mut self, state: &[u8]) -> bool {
        state.is_empty()
    }
}

/// Handler of a stream of frames (see [`FrameReader`]): returns each with its header unchanged and
/// its payload transformed, in place, however long it is. A piece is answered when it comes.
///
/// A frame longer than the limit closes the connection with [`CloseReason::MessageTooLong`] behind
/// its header, after the answers to all frames before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framed<T> {
    transform: T,
    reader: FrameReader,
    max_message: u64,
}

impl<T: Transform> Framed<T> {
    /// Creates a handler of frames of up to `max_message` bytes; `None` for any length.
    pub fn new(transform: T, max_message: Option<u64>) -> Self {
        let max_message = max_message.unwrap_or(u64::MAX);
        Self { transform, reader: FrameReader::new(), max_message }
    }
}

impl<T: Transform> Handler for Framed<T> {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        let mut at = 0;
        while at < data.len() {
            match self.reader.read(&data[at..]) {
                Piece::Header { len, payload } => {
                    at += len;
                    if payload.is_some_and(|payload| payload > self.max_message) {
                        return Answer::MessageTooLong { answered: at };
                    }
                }
                Piece::Payload { len, .. } => {
                    self.transform.transform(&mut data[at..at + len]);
                    at += len;
                }
            }
        }
        Answer::InPlace
    }

    fn save(&self, state: &mut Vec<u8>) -> bool {
        self.reader.park(state);
        self.transform.save(state)
    }

    fn restore(&mut self, _peer: &Peer, state: &[u8]) -> bool {
        let Some((reader, state)) = FrameReader::unpark(state) else { return false };
        self.reader = reader;
        self.transform.restore(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(part: u8, here: u8, number: u64) -> Vec<u8> {
        [&[part, here], &number.to_le_bytes()[..], b"rest"].concat()
    }

    #[test]
    fn a_place_at_which_no_stream_can_be_is_refused() {
        let places = [
            (LENGTH, 0, 0),
            (LENGTH, 1, 0xff),
            (LENGTH, 3, 0xff_ffff),
            (LONG_LENGTH, 0, 0),
            (LONG_LENGTH, 7, (1 << 56) - 1),
            (PAYLOAD, 0, 1),
            (PAYLOAD, 0, u64::MAX),
        ];
        for (part, here, number) in places {
            let bytes = parked(part, here, number);
            let (reader, rest) = FrameReader::unpark(&bytes).expect("a place");
            let mut again = Vec::new();
            reader.park(&mut again);
            again.extend(rest);
            assert_eq!(again, bytes);
            assert_eq!(FrameReader::unpark(&bytes[..9]).map(|_| ()), None, "cut off");
        }
        let others = [
            (LENGTH, 0, 1),
            (LENGTH, 3, 1 << 24),
            (LENGTH, 4, 0),
            (LONG_LENGTH, 0, 1),
            (LONG_LENGTH, 7, 1 << 56),
            (LONG_LENGTH, 8, 0),
            (PAYLOAD, 0, 0),
            (PAYLOAD, 1, 1),
            (PAYLOAD, 255, 0),
            (PAYLOAD + 1, 0, 0),
        ];
        for (part, here, number) in others {
            assert!(
                FrameReader::unpark(&parked(part, here, number)).is_none(),
                "{part} {here} {number}"
            );
        }
    }

    #[test]
    fn a_reader_knows_whether_a_frame_has_begun() {
        let mut reader = FrameReader::new();
        assert!(reader.is_between_frames());
        for byte in *b"\0\0\0\x02" {
            let _ = reader.read(&[byte]);
            assert!(!reader.is_between_frames());
        }
        let _ = reader.read(b"ab");
        assert!(reader.is_between_frames());
    }
}
