use crate::proto::frame_header;
use crate::python::upper;
use crate::random::SplitMix;

/// The bytes that connections send: one unending stream, of which each connection begins at a
/// place of its own and cuts its messages. Several messages are therefore one slice, one `send`,
/// and every received byte is known from its place alone.
///
/// All values of a byte occur. The stream repeats after a prime number of bytes, so an answer that
/// is shifted, doubled or another connection's does not pass for the right one.
///
/// Where messages are frames, the headers take the place of what the stream would have there.
pub(super) struct Pattern {
    sent: Box<[u8]>,
    expected: Box<[u8]>,
    frames: Option<Frames>,
}

/// Frames of one length.
struct Frames {
    header: Vec<u8>,
    /// Bytes of a frame, with its header.
    len: u64,
}

impl Frames {
    fn new(payload: u64) -> Self {
        let header = frame_header(payload).as_ref().to_vec();
        Self { len: payload + header.len() as u64, header }
    }

    /// What is left of the header at this position of a stream; empty in a payload.
    fn header_at(&self, position: u64) -> &[u8] {
        let at = usize::try_from(position % self.len).unwrap_or(usize::MAX);
        self.header.get(at..).unwrap_or_default()
    }

    /// What is left of the payload at this position, which is in one.
    const fn payload_at(&self, position: u64) -> u64 {
        self.len - position % self.len
    }
}

/// A place in the stream of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start(usize);

impl Start {
    pub(super) const fn as_u64(self) -> u64 {
        self.0 as u64
    }
}

impl Pattern {
    /// The largest prime below 2^13: with what is cut from it the stream stays in a cache.
    const PERIOD: usize = 8191;
    /// The longest slice that can be had at once.
    pub(super) const MAX_SLICE: usize = 64 << 10;

    /// The messages are frames with a payload of this length if one is given.
    pub(super) fn new(seed: u64, is_upper: bool, frames: Option<u64>) -> Self {
        let mut random = SplitMix::new(seed);
        let period: Vec<u8> =
            (0..Self::PERIOD).map(|_| random.next_u64().to_le_bytes()[0]).collect();
        let repeated = period.iter().copied().cycle().take(Self::PERIOD + Self::MAX_SLICE);
        let sent: Box<[u8]> = repeated.collect();
        let mut expected = sent.clone();
        if is_upper {
            upper(&mut expected);
        }
        Self { sent, expected, frames: frames.map(Frames::new) }
    }

    /// Where the connection of this number begins.
    pub(super) fn start(seed: u64, number: u64) -> Start {
        let mut random = SplitMix::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Start(random.below(Self::PERIOD))
    }

    /// The bytes of a header.
    pub(super) fn header_len(&self) -> u64 {
        self.frames.as_ref().map_or(0, |frames| frames.header.len() as u64)
    }

    /// At most `len` bytes to send, from this position of a connection's stream. Frames are put
    /// together in the buffer.
    pub(super) fn to_send<'a>(
        &'a self,
        start: Start,
        position: u64,
        len: u64,
        buffer: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let bytes = Self::slice(&self.sent, start, position, len);
        let Some(frames) = &self.frames else { return bytes };
        buffer.clear();
        buffer.extend_from_slice(bytes);
        let mut at = 0;
        while at < buffer.len() {
            let here = position + at as u64;
            let header = frames.header_at(here);
            let end = buffer.len().min(at + header.len());
            buffer[at..end].copy_from_slice(&header[..end - at]);
            let payload = frames.payload_at(here + header.len() as u64);
            at = usize::try_from(payload).map_or(buffer.len(), |payload| end + payload);
        }
        buffer
    }

    /// Returns true if these bytes are the answer to those at this position.
    pub(super) fn is_answer(&self, start: Start, mut position: u64, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let expected = match &self.frames {
                None => Self::slice(&self.expected, start, position, data.len() as u64),
                Some(frames) => match frames.header_at(position) {
                    [] => {
                        let len = frames.payload_at(position).min(data.len() as u64);
                        Self::slice(&self.expected, start, position, len)
                    }
                    header => &header[..header.len().min(data.len())],
                },
            };
            let (part, rest) = data.split_at(expected.len());
            if part != expected {
                return false;
            }
            position += part.len() as u64;
            data = rest;
        }
        true
    }

    #[allow(clippy::cast_possible_truncation)] // Both are cut to less than 2^17.
    fn slice(bytes: &[u8], start: Start, position: u64, len: u64) -> &[u8] {
        let begin = (start.0 as u64 + position) % Self::PERIOD as u64;
        let end = begin + len.min(Self::MAX_SLICE as u64);
        &bytes[begin as usize..end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_right_bytes_at_the_right_place() {
        let pattern = Pattern::new(7, true, None);
        let (start, len) = (Pattern::start(7, 3), 3 * Pattern::MAX_SLICE as u64 + 5);
        let mut answer = Vec::new();
        while (answer.len() as u64) < len {
            let position = answer.len() as u64;
            answer.extend_from_slice(pattern.to_send(
                start,
                position,
                len - position,
                &mut Vec::new(),
            ));
        }
        assert!(!pattern.is_answer(start, 0, &answer), "lower case came back");
        upper(&mut answer);
        assert!(pattern.is_answer(start, 0, &answer));
        assert!(pattern.is_answer(start, 100, &answer[100..]));
        for shift in [1, 64, 4096] {
            assert!(!pattern.is_answer(start, 0, &answer[shift..shift + 64]), "shifted by {shift}");
        }
        answer[70_000] ^= 1;
        assert!(!pattern.is_answer(start, 0, &answer), "one bit");
        assert!(pattern.is_answer(start, 0, b""));
    }

    #[test]
    fn the_same_may_be_asked_for() {
        let pattern = Pattern::new(7, false, None);
        let start = Pattern::start(7, 0);
        let message = pattern.to_send(start, 0, 1000, &mut Vec::new()).to_vec();
        assert!(message.iter().any(u8::is_ascii_lowercase));
        assert!(pattern.is_answer(start, 0, &message));
    }

    #[test]
    fn frames_are_those_of_their_protocol_wherever_they_are_cut() {
        let pattern = Pattern::new(7, true, Some(5));
        let start = Pattern::start(7, 3);
        let mut whole = Vec::new();
        for position in (0..90).step_by(7) {
            let mut buffer = Vec::new();
            let part = pattern.to_send(start, position, 7, &mut buffer);
            whole.extend_from_slice(part);
        }
        let mut answer = whole.clone();
        for frame in answer.chunks_mut(9) {
            let (header, payload) = frame.split_at_mut(frame.len().min(4));
            assert_eq!(header, &b"\0\0\0\x05"[..header.len()]);
            upper(payload);
        }
        for from in 0..20 {
            for to in from..answer.len() {
                assert!(pattern.is_answer(start, from as u64, &answer[from..to]));
            }
        }
        let mut wrong = answer.clone();
        wrong[9 * 4] = 1;
        assert!(!pattern.is_answer(start, 0, &wrong), "a header");
        wrong.clone_from(&answer);
        wrong[9 * 4 + 6] ^= 1;
        assert!(!pattern.is_answer(start, 0, &wrong), "a payload");
        let large = Pattern::new(7, true, Some(1 << 20));
        let mut buffer = Vec::new();
        let part = large.to_send(start, 0, u64::MAX, &mut buffer);
        assert_eq!((part.len(), &part[..4]), (Pattern::MAX_SLICE, &b"\0\x10\0\0"[..]));
    }
}
