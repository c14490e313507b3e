use hmac::{KeyInit, SimpleHmac};
use md5::Md5;
use sha2::{Sha256, Sha384};
use sha3::{Sha3_256, Sha3_384};
use subtle::ConstantTimeEq;

use super::{Key, Keyring, MacAlgorithm, first_match};

/// Hash functions that a message of `multiprocessing.connection` may name, in the order of
/// CPython's `_ALLOWED_DIGESTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Md5,
    Sha256,
    Sha384,
    Sha3_256,
    Sha3_384,
}

impl Hash {
    const ALL: [Self; 5] = [Self::Md5, Self::Sha256, Self::Sha384, Self::Sha3_256, Self::Sha3_384];

    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Md5 => b"{md5}",
            Self::Sha256 => b"{sha256}",
            Self::Sha384 => b"{sha384}",
            Self::Sha3_256 => b"{sha3_256}",
            Self::Sha3_384 => b"{sha3_384}",
        }
    }

    /// The hash whose tag a message begins with.
    fn named_by(message: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| message.starts_with(hash.tag()))
    }

    /// The answer to a challenge that names the hash.
    fn response(self, key: &Key, challenge: &[u8]) -> Response {
        let mut response = Response::default();
        response.push(self.tag());
        response.push(self.mac(key, challenge).as_bytes());
        response
    }

    fn mac(self, key: &Key, message: &[u8]) -> Response {
        match self {
            Self::Md5 => mac::<SimpleHmac<Md5>>(key, message),
            Self::Sha256 => mac::<SimpleHmac<Sha256>>(key, message),
            Self::Sha384 => mac::<SimpleHmac<Sha384>>(key, message),
            Self::Sha3_256 => mac::<SimpleHmac<Sha3_256>>(key, message),
            Self::Sha3_384 => mac::<SimpleHmac<Sha3_384>>(key, message),
        }
    }
}

fn mac<M: hmac::Mac + KeyInit>(key: &Key, message: &[u8]) -> Response {
    let mac =
        <M as KeyInit>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    let mut response = Response::default();
    response.push(&mac.chain_update(message).finalize().into_bytes());
    response
}

/// The answer to a challenge of `multiprocessing.connection`: an HMAC, behind the name of its hash
/// unless it is the bare HMAC-MD5 of Python up to 3.11.
#[derive(Clone)]
pub struct Response {
    bytes: [u8; Self::MAX_LEN],
    len: usize,
}

impl Response {
    /// Length of the longest response in bytes: `{sha3_384}` and 48 bytes.
    pub const MAX_LEN: usize = 58;

    /// The bytes sent over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Default for Response {
    fn default() -> Self {
        Self { bytes: [0; Self::MAX_LEN], len: 0 }
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Response(..)")
    }
}

/// Length of the challenges of Python up to 3.11. Longer ones name a hash.
const BARE_CHALLENGE: usize = 20;
/// Lengths of a message that names no hash, by CPython's `_LEGACY_LENGTHS`.
const BARE: [usize; 2] = [16, BARE_CHALLENGE];

impl MacAlgorithm {
    /// Computes the response to a challenge of `multiprocessing.connection`, by the rules of its
    /// `answer_challenge`: those of Python up to 3.11 for [`MacAlgorithm::Md5`], those since 3.12
    /// for [`MacAlgorithm::Sha256`]. `None` if Python would refuse to answer: the challenge is too
    /// short, or names no known hash. Up to 3.11 it answers any.
    #[must_use]
    pub fn respond(self, key: &Key, challenge: &[u8]) -> Option<Response> {
        if self == Self::Md5 || challenge.len() == BARE_CHALLENGE {
            return Some(Hash::Md5.mac(key, challenge));
        }
        let hash = Hash::named_by(challenge).filter(|_| challenge.len() > BARE_CHALLENGE)?;
        Some(hash.response(key, challenge))
    }

    /// A response that [`Keyring::verify_response`] accepts, in the form that has this length; `None` if
    /// none has.
    #[cfg(feature = "server")]
    pub(crate) fn response_of_len(
        self,
        key: &Key,
        challenge: &[u8],
        len: usize,
    ) -> Option<Response> {
        let bare = Hash::Md5.mac(key, challenge);
        let tagged = Hash::ALL.into_iter().filter(|_| self != Self::Md5);
        std::iter::once(bare)
            .chain(tagged.map(|hash| hash.response(key, challenge)))
            .find(|response| response.as_bytes().len() == len)
    }
}

impl Keyring {
    /// The key at this position.
    pub(crate) fn secret(&self, position: usize) -> &Key {
        &self.secrets[position]
    }

    /// The position of a key in the ring; `None` if it is not there.
    pub(crate) fn position_of(&self, key: &Key) -> Option<u8> {
        (0u8..).zip(&self.secrets).find(|(_, one)| *one == key).map(|(position, _)| position)
    }

    /// The position of the key under which this is a response to a challenge of
    /// `multiprocessing.connection`, by the rules of its `_verify_challenge`; `None` without one.
    ///
    /// Since 3.12 the hash is the responder's choice. Every key is checked, in constant time and
    /// without an early exit, as in [`find`](Self::find).
    #[must_use]
    pub fn verify_response(&self, challenge: &[u8], response: &[u8]) -> Option<usize> {
        let (hash, mac) = if self.algorithm == MacAlgorithm::Md5 || BARE.contains(&response.len()) {
            (Hash::Md5, response)
        } else {
            let hash = Hash::named_by(response)?;
            (hash, &response[hash.tag().len()..])
        };
        let is_match = |key| hash.mac(key, challenge).as_bytes().ct_eq(mac);
        first_match(self.secrets.iter().map(is_match)).map(usize::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The challenge of the tests below: 40 bytes, as since Python 3.12.
    fn challenge(tag: &[u8]) -> Vec<u8> {
        [tag, &(0..40).collect::<Vec<u8>>()].concat()
    }

    #[test]
    fn each_hash_names_itself_and_is_verified() {
        let keys: Vec<Key> = (0..=4u8).map(|i| Key::new(vec![i; 16])).collect();
        let ring = Keyring::new(MacAlgorithm::Sha256, &keys[..4]).unwrap();
        for hash in Hash::ALL {
            let challenge = challenge(hash.tag());
            for (index, key) in keys.iter().enumerate() {
                let response =
                    MacAlgorithm::Sha256.respond(key, &challenge).expect("the hash is known");
                assert!(response.as_bytes().starts_with(hash.tag()));
                let found = ring.verify_response(&challenge, response.as_bytes());
                assert_eq!(found, (index < 4).then_some(index), "{hash:?} of key {index}");
                for bit in 0..response.as_bytes().len() * 8 {
                    let mut bad = response.as_bytes().to_vec();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(ring.verify_response(&challenge, &bad), None, "bit {bit}");
                }
                let short = &response.as_bytes()[..response.as_bytes().len() - 1];
                assert_eq!(ring.verify_response(&challenge, short), None);
            }
        }
    }

    #[test]
    fn what_python_refuses_to_answer_is_not_answered() {
        let (old, new, key) = (MacAlgorithm::Md5, MacAlgorithm::Sha256, Key::demo());
        let unknown = b"{sha1}................";
        for refused in [&b""[..], b"{sha256}", &[b'x'; 40], unknown, b"{sha256}..........."] {
            assert!(new.respond(&key, refused).is_none(), "{}", refused.escape_ascii());
        }
        for any in [&b""[..], b"{sha256}", &[b'x'; 245]] {
            assert_eq!(old.respond(&key, any).unwrap().as_bytes().len(), 16);
        }
    }

    #[test]
    fn the_old_form_verifies_a_bare_hmac_md5_only() {
        let old = Keyring::single(MacAlgorithm::Md5, &Key::demo());
        let new = Keyring::single(MacAlgorithm::Sha256, &Key::demo());
        let message = challenge(b"{sha256}");
        let [bare, tagged] = [MacAlgorithm::Md5, MacAlgorithm::Sha256]
            .map(|algorithm| algorithm.respond(&Key::demo(), &message).unwrap());
        assert_eq!(old.verify_response(&message, bare.as_bytes()), Some(0));
        assert_eq!(new.verify_response(&message, bare.as_bytes()), Some(0));
        assert_eq!(old.verify_response(&message, tagged.as_bytes()), None);
        assert_eq!(format!("{bare:?}"), "Response(..)");
    }
}
