use crate::python::upper;
use crate::random::SplitMix;

/// The bytes that connections send: one unending stream, of which each connection begins at a
/// place of its own and cuts its messages. Several messages are therefore one slice, one `send`,
/// and every received byte is known from its place alone.
///
/// All values of a byte occur. The stream repeats after a prime number of bytes, so an answer that
/// is shifted, doubled or another connection's does not pass for the right one.
pub(super) struct Pattern {
    sent: Box<[u8]>,
    expected: Box<[u8]>,
}

/// A place in the stream of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start(usize);

impl Pattern {
    /// The largest prime below 2^13: with what is cut from it the stream stays in a cache.
    const PERIOD: usize = 8191;
    /// The longest slice that can be had at once.
    pub(super) const MAX_SLICE: usize = 64 << 10;

    pub(super) fn new(seed: u64, is_upper: bool) -> Self {
        let mut random = SplitMix::new(seed);
        let period: Vec<u8> =
            (0..Self::PERIOD).map(|_| random.next_u64().to_le_bytes()[0]).collect();
        let repeated = period.iter().copied().cycle().take(Self::PERIOD + Self::MAX_SLICE);
        let sent: Box<[u8]> = repeated.collect();
        let mut expected = sent.clone();
        if is_upper {
            upper(&mut expected);
        }
        Self { sent, expected }
    }

    /// Where the connection of this number begins.
    pub(super) fn start(seed: u64, number: u64) -> Start {
        let mut random = SplitMix::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Start(random.below(Self::PERIOD))
    }

    /// At most `len` bytes to send, from this position of a connection's stream.
    pub(super) fn to_send(&self, start: Start, position: u64, len: u64) -> &[u8] {
        Self::slice(&self.sent, start, position, len)
    }

    /// Returns true if these bytes are the answer to those at this position.
    pub(super) fn is_answer(&self, start: Start, mut position: u64, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let expected = Self::slice(&self.expected, start, position, data.len() as u64);
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
        let pattern = Pattern::new(7, true);
        let (start, len) = (Pattern::start(7, 3), 3 * Pattern::MAX_SLICE as u64 + 5);
        let mut answer = Vec::new();
        while (answer.len() as u64) < len {
            let position = answer.len() as u64;
            answer.extend_from_slice(pattern.to_send(start, position, len - position));
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
        let pattern = Pattern::new(7, false);
        let start = Pattern::start(7, 0);
        let message = pattern.to_send(start, 0, 1000).to_vec();
        assert!(message.iter().any(u8::is_ascii_lowercase));
        assert!(pattern.is_answer(start, 0, &message));
    }
}
