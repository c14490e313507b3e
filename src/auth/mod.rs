//! Authentication: keys, the challenge, the digest that answers it, and its verification.
//!
//! The server sends a [`Challenge`], 32 random bytes; the client proves that it holds the key with
//! a [`Digest`], the HMAC (RFC 2104) of the challenge. Only the client proves anything, and nothing
//! is encrypted: this keeps out clients without the key, but does not protect the data exchanged
//! afterwards.
//!
//! The module draws no random numbers and performs no I/O.

mod key;
mod keyfile;
mod tagged;
mod wiped;

use hmac::block_api::HmacCore;
use hmac::digest::Output;
use hmac::digest::block_api::{Buffer, FixedOutputCore, UpdateCore};
use hmac::{EagerHash, KeyInit};
use md5::Md5;
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use wiped::Wiped;
use zeroize::Zeroize;

pub use key::{Key, KeyId, KeyName};
pub use keyfile::{KeyFileError, parse_key_file};
pub use tagged::Response;

/// Maximum number of keys in a ring: enough for rotation, few enough to check every one.
pub const MAX_KEYS: usize = 4;

/// Hash function of the HMAC. Both sides are configured with the same one. Nothing is negotiated: a
/// verifier that accepts either of two is only as strong as the weaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MacAlgorithm {
    /// HMAC-MD5 as in the tutorial: 16 bytes. Collisions of MD5 do not break it (RFC 6151), but new
    /// protocols should not use it.
    #[default]
    Md5,
    /// HMAC-SHA-256: 32 bytes.
    Sha256,
}

impl MacAlgorithm {
    /// The length of a digest in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 => 32,
        }
    }

    /// The name on the command line and in recordings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
        }
    }

    /// The algorithm with this [name](Self::as_str); `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Md5, Self::Sha256].into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Computes the answer to `challenge` of a client that holds `key`.
    #[must_use]
    pub fn digest(self, key: &Key, challenge: &Challenge) -> Digest {
        Keyed::new(self, key).tag(challenge.as_bytes())
    }
}

impl std::fmt::Display for MacAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Md5 => "HMAC-MD5",
            Self::Sha256 => "HMAC-SHA-256",
        })
    }
}

/// 32 random bytes for one authentication. They must be unpredictable and used only once.
#[derive(Clone)]
pub struct Challenge(Wiped<{ Self::LEN }>);

impl Challenge {
    /// Length in bytes, the same for every [`MacAlgorithm`].
    pub const LEN: usize = 32;

    /// Creates a challenge from bytes of a cryptographic random source.
    pub fn new(random: [u8; Self::LEN]) -> Self {
        Self(Wiped::new(random))
    }

    /// The bytes sent over the wire.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenge(..)")
    }
}

/// The answer to a challenge: 16 or 32 bytes, depending on the [`MacAlgorithm`].
#[derive(Clone)]
pub struct Digest {
    bytes: Wiped<{ Self::MAX_LEN }>,
    len: usize,
}

impl Digest {
    /// Length of the longest digest in bytes.
    pub const MAX_LEN: usize = 32;

    /// The bytes sent over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// The keys that a server accepts, each with its prepared hash state.
///
/// Cloning a prepared state for each check halves the cost of a verification.
///
/// ```
/// use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
///
/// // Two keys during a rotation: the new one first, the old one until all clients have changed.
/// let (new, old) = (Key::new(*b"sixteen bytes or more"), Key::new(*b"the previous secret"));
/// let ring = Keyring::new(MacAlgorithm::Sha256, &[new, old.clone()])?;
///
/// let challenge = Challenge::new([7; 32]); // In service: from the system's random source.
/// let digest = MacAlgorithm::Sha256.digest(&old, &challenge);
/// assert!(ring.verify(&challenge, digest.as_bytes()));
///
/// let digest = MacAlgorithm::Sha256.digest(&Key::demo(), &challenge);
/// assert!(!ring.verify(&challenge, digest.as_bytes()));
/// # Ok::<(), saltecho::auth::KeyCountError>(())
/// ```
#[derive(Clone)]
pub struct Keyring {
    algorithm: MacAlgorithm,
    keys: Vec<Keyed>,
    ids: Vec<KeyId>,
    /// For [responses](Response), whose hash the peer chooses.
    secrets: Vec<Key>,
    names: Vec<KeyName>,
}

/// Error of [`Keyring::new`]: a number of keys outside 1 to [`MAX_KEYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a keyring holds 1 to {MAX_KEYS} keys, not {0}")]
pub struct KeyCountError(pub usize);

impl Keyring {
    /// Creates a ring of these keys.
    ///
    /// # Errors
    /// [`KeyCountError`] if there is no key, or more than [`MAX_KEYS`].
    pub fn new(algorithm: MacAlgorithm, keys: &[Key]) -> Result<Self, KeyCountError> {
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(KeyCountError(keys.len()));
        }
        Ok(Self {
            algorithm,
            keys: keys.iter().map(|key| Keyed::new(algorithm, key)).collect(),
            ids: keys.iter().map(Key::id).collect(),
            secrets: keys.to_vec(),
            names: keys.iter().map(KeyName::of).collect(),
        })
    }

    /// Creates a ring of one key.
    pub fn single(algorithm: MacAlgorithm, key: &Key) -> Self {
        Self {
            algorithm,
            keys: vec![Keyed::new(algorithm, key)],
            ids: vec![key.id()],
            secrets: vec![key.clone()],
            names: vec![KeyName::of(key)],
        }
    }

    /// Creates a ring of the tutorial's key, which is public: for loopback and for tests.
    pub fn demo() -> Self {
        Self::single(MacAlgorithm::Md5, &Key::demo())
    }

    /// Hash function of all keys of the ring.
    pub const fn algorithm(&self) -> MacAlgorithm {
        self.algorithm
    }

    /// Public identifiers of the keys, in order.
    pub fn ids(&self) -> &[KeyId] {
        &self.ids
    }

    /// Names of the keys for logs and metrics, in order.
    pub fn names(&self) -> &[KeyName] {
        &self.names
    }

    /// Returns true if `answer` is the digest of `challenge` under one of the keys; see
    /// [`find`](Self::find).
    #[must_use]
    pub fn verify(&self, challenge: &Challenge, answer: &[u8]) -> bool {
        self.position(challenge, answer).is_some()
    }

    /// Finds the key under which `answer` is the digest of `challenge`: its position in the ring, the
    /// first one of equal keys. `None` if there is no such key.
    ///
    /// Every key is checked, in constant time and without an early exit, and the position is selected
    /// without a branch, so the duration reveals neither the matching key nor the number of matching
    /// bytes. An answer of another length is wrong; its length is not secret.
    #[must_use]
    pub fn find(&self, challenge: &Challenge, answer: &[u8]) -> Option<usize> {
        self.position(challenge, answer).map(usize::from)
    }

    /// The same in the byte that replies carry.
    pub(crate) fn position(&self, challenge: &Challenge, answer: &[u8]) -> Option<u8> {
        first_match(self.keys.iter().map(|key| key.is_answered(challenge, answer)))
    }
}

/// The position of the first match, selected without a branch, after all have been compared.
fn first_match(matches: impl DoubleEndedIterator<Item = Choice> + ExactSizeIterator) -> Option<u8> {
    // Counted from one; the first is the last to be assigned.
    let mut found = 0;
    for (position, is_match) in matches.enumerate().rev() {
        #[allow(clippy::cast_possible_truncation)] // A ring has few keys.
        let number = position as u8 + 1;
        found.conditional_assign(&number, is_match);
    }
    found.checked_sub(1)
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("algorithm", &self.algorithm)
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

/// Hash state keyed with one key; wiped on drop by the feature `zeroize` of the hash crates. Without the
/// buffer of an HMAC in progress, which would be copied and wiped twice for each check.
#[derive(Clone)]
enum Keyed {
    Md5(HmacCore<Md5>),
    Sha256(HmacCore<Sha256>),
}

impl Keyed {
    fn new(algorithm: MacAlgorithm, key: &Key) -> Self {
        const ANY_LENGTH: &str = "HMAC takes a key of any length";
        match algorithm {
            MacAlgorithm::Md5 => {
                Self::Md5(HmacCore::new_from_slice(key.as_bytes()).expect(ANY_LENGTH))
            }
            MacAlgorithm::Sha256 => {
                Self::Sha256(HmacCore::new_from_slice(key.as_bytes()).expect(ANY_LENGTH))
            }
        }
    }

    fn tag(&self, message: &[u8]) -> Digest {
        fn digest(tag: &mut [u8]) -> Digest {
            let mut bytes = Wiped::new([0; Digest::MAX_LEN]);
            bytes[..tag.len()].copy_from_slice(tag);
            tag.zeroize();
            Digest { bytes, len: tag.len() }
        }
        match self {
            Self::Md5(mac) => digest(&mut tag(mac, message)),
            Self::Sha256(mac) => digest(&mut tag(mac, message)),
        }
    }

    /// Compares the tag of a challenge with an answer in constant time, but for the answer's length.
    fn is_answered(&self, challenge: &Challenge, answer: &[u8]) -> Choice {
        let message = challenge.as_bytes();
        match self {
            Self::Md5(mac) => ct_eq(&mut tag(mac, message), answer),
            Self::Sha256(mac) => ct_eq(&mut tag(mac, message), answer),
        }
    }
}

fn tag<D: EagerHash>(keyed: &HmacCore<D>, message: &[u8]) -> Output<HmacCore<D>> {
    let (mut mac, mut buffer) = (keyed.clone(), Buffer::<HmacCore<D>>::default());
    buffer.digest_blocks(message, |blocks| mac.update_blocks(blocks));
    let mut tag = Output::<HmacCore<D>>::default();
    mac.finalize_fixed_core(&mut buffer, &mut tag);
    tag
}

/// Compares a tag with an answer, and wipes it. In words: a byte at a time takes twenty instructions
/// for each.
#[inline]
fn ct_eq(tag: &mut [u8], answer: &[u8]) -> Choice {
    if answer.len() != tag.len() {
        tag.zeroize();
        return Choice::from(0);
    }
    debug_assert!(tag.len().is_multiple_of(8), "a tag is whole words");
    let (words, of_answer) = (tag.as_chunks().0.iter(), answer.as_chunks().0);
    let differences = words
        .zip(of_answer)
        .map(|(ours, theirs)| u64::from_ne_bytes(*ours) ^ u64::from_ne_bytes(*theirs));
    // The difference of all words at once, which takes one comparison.
    let difference = differences.fold(0, |all, one| all | one);
    tag.zeroize();
    difference.ct_eq(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge() -> Challenge {
        Challenge::new(std::array::from_fn(|i| u8::try_from(i).unwrap()))
    }

    /// Computed with Python: `hmac.new(b'linhaifeng bang bang bang', bytes(range(32)), NAME)`.
    #[test]
    fn digests_match_python() {
        for (algorithm, expected) in [
            (MacAlgorithm::Md5, "073377114443732921e7133c6b32ec30"),
            (
                MacAlgorithm::Sha256,
                "8c04eb8b274b2f350a7fbcb157bb580c78d6bb02259f0720d583f87152804b23",
            ),
        ] {
            let digest = algorithm.digest(&Key::demo(), &challenge());
            assert_eq!(data_encoding::HEXLOWER.encode(digest.as_bytes()), expected);
            assert_eq!(digest.as_bytes().len(), algorithm.digest_len());
        }
    }

    /// RFC 2202, section 2 (MD5), and RFC 4231, section 4 (SHA-256) without its case 5, whose tag
    /// is truncated.
    #[test]
    fn tags_match_the_rfcs() {
        use MacAlgorithm::{Md5, Sha256};
        let counting: Vec<u8> = (1..=25).collect();
        let large = b"This is a test using a larger than block-size key and a larger than \
            block-size data. The key needs to be hashed before being used by the HMAC algorithm.";
        let large_md5 =
            b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data";
        for (algorithm, key, message, tag) in [
            (Md5, &[0x0b; 16][..], &b"Hi There"[..], "9294727a3638bb1c13f48ef8158bfc9d"),
            (Md5, b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
            (Md5, &[0xaa; 16], &[0xdd; 50], "56be34521d144c88dbb8c733f0e8b3f6"),
            (Md5, &counting, &[0xcd; 50], "697eaf0aca3a3aea3a75164746ffaa79"),
            (Md5, &[0x0c; 16], b"Test With Truncation", "56461ef2342edc00f9bab995690efd4c"),
            (
                Md5,
                &[0xaa; 80],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd",
            ),
            (Md5, &[0xaa; 80], large_md5, "6f630fad67cda0ee1fb1f562db3aa53e"),
            (
                Sha256,
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                Sha256,
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                Sha256,
                &[0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                Sha256,
                &counting,
                &[0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
            (
                Sha256,
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                Sha256,
                &[0xaa; 131],
                large,
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ] {
            let keyed = Keyed::new(algorithm, &Key::new(key));
            let computed = data_encoding::HEXLOWER.encode(keyed.tag(message).as_bytes());
            assert_eq!(computed, tag, "{algorithm} of {message:?}");
        }
    }

    #[test]
    fn exactly_the_keys_of_the_ring_are_accepted() {
        let keys: Vec<Key> = (0..=4u8).map(|i| Key::new(vec![i; 16])).collect();
        for algorithm in [MacAlgorithm::Md5, MacAlgorithm::Sha256] {
            let ring = Keyring::new(algorithm, &keys[..4]).unwrap();
            for (i, key) in keys.iter().enumerate() {
                let digest = algorithm.digest(key, &challenge());
                assert_eq!(ring.verify(&challenge(), digest.as_bytes()), i < 4, "key {i}");
                let found = ring.find(&challenge(), digest.as_bytes());
                assert_eq!(found, (i < 4).then_some(i), "key {i}");
            }
        }
    }

    #[test]
    fn the_first_of_equal_keys_is_found() {
        let keys = [Key::new([1; 16]), Key::demo(), Key::demo()];
        let twice = Keyring::new(MacAlgorithm::Md5, &keys).unwrap();
        let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge());
        assert_eq!(twice.find(&challenge(), digest.as_bytes()), Some(1));
    }

    #[test]
    fn one_wrong_bit_or_another_length_is_rejected() {
        let ring = Keyring::demo();
        let good = MacAlgorithm::Md5.digest(&Key::demo(), &challenge()).as_bytes().to_vec();
        assert!(ring.verify(&challenge(), &good));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!ring.verify(&challenge(), &bad), "bit {bit}");
        }
        // A difference in one word does not undo the same in another.
        let both: Vec<u8> =
            good.iter().enumerate().map(|(i, byte)| byte ^ u8::from(i % 8 == 0)).collect();
        assert!(!ring.verify(&challenge(), &both));
        assert!(!ring.verify(&challenge(), &good[..15]));
        assert!(!ring.verify(&challenge(), &[&good[..], &[0]].concat()));
        assert!(!ring.verify(&challenge(), b""));
        assert!(!ring.verify(&Challenge::new([0; 32]), &good));
    }

    #[test]
    fn a_ring_holds_one_to_four_keys() {
        let keys = vec![Key::demo(); 5];
        assert_eq!(Keyring::new(MacAlgorithm::Md5, &[]).unwrap_err(), KeyCountError(0));
        assert_eq!(Keyring::new(MacAlgorithm::Md5, &keys).unwrap_err(), KeyCountError(5));
        assert!(Keyring::new(MacAlgorithm::Md5, &keys[..4]).is_ok());
    }

    #[test]
    fn single_equals_a_list_of_one_key() {
        for algorithm in [MacAlgorithm::Md5, MacAlgorithm::Sha256] {
            let single = Keyring::single(algorithm, &Key::demo());
            let listed = Keyring::new(algorithm, &[Key::demo()]).unwrap();
            assert_eq!(format!("{single:?}"), format!("{listed:?}"));
            let digest = algorithm.digest(&Key::demo(), &challenge());
            assert!(single.verify(&challenge(), digest.as_bytes()));
        }
    }

    /// Key identifiers in the logs of both sides, to be compared by eye. Here the first four bytes
    /// of `hmac.new(b'linhaifeng bang bang bang', b'saltecho key id', 'sha256')` in Python.
    #[test]
    fn a_ring_shows_its_hash_and_its_keys_in_order() {
        let keys = [Key::new(&b"another key of 24 bytes."[..]), Key::demo()];
        let ring = Keyring::new(MacAlgorithm::Sha256, &keys).unwrap();
        assert_eq!(ring.ids(), [keys[0].id(), keys[1].id()]);
        assert_eq!(ring.ids()[1].to_string(), "bab78a7f");
        assert_ne!(ring.ids()[0], ring.ids()[1]);
        let names = [MacAlgorithm::Md5, MacAlgorithm::Sha256].map(|mac| mac.to_string());
        assert_eq!(names, ["HMAC-MD5", "HMAC-SHA-256"]);
    }

    #[test]
    fn a_weak_key_does_not_show_its_identifier() {
        let ring = Keyring::new(MacAlgorithm::Md5, &[Key::demo(), Key::new("guess me")]).unwrap();
        let names: Vec<String> = ring.names().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["bab78a7f", "weak"]);
        assert_eq!(format!("{:?}", ring.names()), "[KeyName(bab78a7f), KeyName(weak)]");
        assert_eq!(Keyring::demo().names(), &ring.names()[..1]);
    }

    #[test]
    fn debug_shows_no_secret() {
        let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge());
        let shown = format!("{:?} {digest:?} {:?} {:?}", challenge(), Key::demo(), Keyring::demo());
        assert_eq!(
            shown,
            format!(
                "Challenge(..) Digest(..) Key({id}) \
                 Keyring {{ algorithm: Md5, ids: [KeyId({id})], .. }}",
                id = Key::demo().id()
            )
        );
    }
}
