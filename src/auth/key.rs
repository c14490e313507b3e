use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A shared secret. Wiped when dropped; `Debug` shows its [`KeyId`] and never its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// The shortest key, in bytes, that is accepted without being told to: a shorter one can be
    /// guessed off line from one challenge and its digest.
    pub const MIN_LEN: usize = 16;

    /// A key of these bytes. Any length is possible; see [`Key::is_weak`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The tutorial's key, `linhaifeng bang bang bang`. Everybody knows it.
    pub fn demo() -> Self {
        Self::new(&b"linhaifeng bang bang bang"[..])
    }

    /// The secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the key is shorter than [`Key::MIN_LEN`].
    pub fn is_weak(&self) -> bool {
        self.0.len() < Self::MIN_LEN
    }

    /// A name by which both sides can tell that they hold the same key.
    pub fn id(&self) -> KeyId {
        // A label that is no 32 bytes long can never be a challenge, so no peer can be made to
        // compute this value, and this value answers no challenge.
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        let tag = mac.chain_update(b"saltecho key id").finalize().into_bytes();
        KeyId([tag[0], tag[1], tag[2], tag[3]])
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

/// The first 32 bits of an HMAC-SHA-256 under the key, in hexadecimal: safe to show for a random
/// key. It is not a secret, nor a proof of anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 4]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyId({self})")
    }
}
