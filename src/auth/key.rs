use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A shared secret. Wiped when dropped; `Debug` shows its [`KeyId`] and never its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Minimum length in bytes that key files accept by default: a shorter key can be guessed
    /// offline from one challenge and its digest.
    pub const MIN_LEN: usize = 16;

    /// Creates a key from these bytes, of any length; see [`Key::is_weak`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The tutorial's key, `linhaifeng bang bang bang`, which is public.
    pub fn demo() -> Self {
        Self::new(&b"linhaifeng bang bang bang"[..])
    }

    /// The secret bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns true if the key is shorter than [`Key::MIN_LEN`].
    pub fn is_weak(&self) -> bool {
        self.0.len() < Self::MIN_LEN
    }

    /// A public identifier, to check that both sides hold the same key.
    pub fn id(&self) -> KeyId {
        // The label is not 32 bytes long, so it cannot be a challenge: no peer can be made to
        // compute this value, and it answers no challenge.
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

/// Identifier of a key: the first 32 bits of an HMAC-SHA-256 under it, shown in hexadecimal. Safe to
/// show for a random key. It is not secret and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 4]);

#[cfg(feature = "server")]
impl KeyId {
    pub(crate) const fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    pub(crate) const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

#[cfg(feature = "server")]
impl KeyName {
    /// The identifier, unless the key is weak.
    pub(crate) const fn id(self) -> Option<KeyId> {
        self.0
    }

    pub(crate) const fn from_id(id: Option<KeyId>) -> Self {
        Self(id)
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Name of a key for logs and metrics: its [`KeyId`], or `weak` for a [weak](Key::is_weak) key, which
/// could be guessed from its identifier. Weak keys share that name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyName(Option<KeyId>);

impl KeyName {
    pub(super) fn of(key: &Key) -> Self {
        Self((!key.is_weak()).then(|| key.id()))
    }
}

impl std::fmt::Display for KeyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("weak"),
        }
    }
}

impl std::fmt::Debug for KeyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyName({self})")
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyId({self})")
    }
}
