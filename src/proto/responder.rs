use zeroize::Zeroizing;

use crate::auth::{Challenge, Digest, Key, MacAlgorithm};

/// The client's half of the handshake without I/O: collects the 32 bytes of the challenge, in
/// pieces of any size, and computes the digest. The exchange after it is the caller's.
///
/// ```
/// use saltecho::auth::{Key, MacAlgorithm};
/// use saltecho::proto::Responder;
///
/// let mut responder = Responder::new();
/// assert_eq!(responder.handle_recv(&[1; 20]), 20);
/// assert!(responder.digest(MacAlgorithm::Md5, &Key::demo()).is_none());
/// assert_eq!(responder.handle_recv(b"twelve more bytes"), 12);
/// let digest = responder.digest(MacAlgorithm::Md5, &Key::demo()).expect("a whole challenge");
/// assert_eq!(digest.as_bytes().len(), 16);
/// ```
pub struct Responder {
    challenge: Zeroizing<[u8; Challenge::LEN]>,
    received: usize,
}

impl Responder {
    /// Creates a responder that has received nothing yet.
    pub fn new() -> Self {
        Self { challenge: Zeroizing::new([0; Challenge::LEN]), received: 0 }
    }

    /// Number of missing bytes of the challenge.
    pub const fn missing(&self) -> usize {
        Challenge::LEN - self.received
    }

    /// Takes the bytes of `data` that belong to the challenge; returns their number.
    #[must_use = "the bytes after these are not part of the challenge"]
    pub fn handle_recv(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.missing());
        self.challenge[self.received..self.received + taken].copy_from_slice(&data[..taken]);
        self.received += taken;
        taken
    }

    /// The digest to send; `None` while the challenge is incomplete.
    pub fn digest(&self, algorithm: MacAlgorithm, key: &Key) -> Option<Digest> {
        let complete = self.missing() == 0;
        complete.then(|| algorithm.digest(key, &Challenge::new(*self.challenge)))
    }
}

impl Default for Responder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Responder {{ received: {} }}", self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_debug_text_has_nothing_of_the_challenge() {
        assert_eq!(format!("{:?}", Responder::new()), "Responder { received: 0 }");
    }

    #[test]
    fn a_challenge_is_gathered_from_any_pieces_and_nothing_behind_it_is_taken() {
        let bytes: Vec<u8> = (0..40).collect();
        let challenge = Challenge::new(std::array::from_fn(|i| bytes[i]));
        let expected = MacAlgorithm::Md5.digest(&Key::demo(), &challenge);
        for first in 0..=bytes.len() {
            let mut responder = Responder::new();
            let taken = responder.handle_recv(&bytes[..first]);
            assert_eq!(taken, first.min(32));
            let digest = responder.digest(MacAlgorithm::Md5, &Key::demo());
            assert_eq!(digest.is_some(), first >= 32, "after {first} bytes");
            assert_eq!(responder.handle_recv(&bytes[taken..]), 32 - taken);
            let digest = responder.digest(MacAlgorithm::Md5, &Key::demo()).unwrap();
            assert_eq!(digest.as_bytes(), expected.as_bytes());
        }
    }
}
