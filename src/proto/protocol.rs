/// The beginning of a connection: the handshake. What follows is the handler's business, which with
/// [`Protocol::Multiprocessing`] is [`Framed`](super::Framed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// The tutorial's: the client proves that it has the key. Then a stream of bytes.
    #[default]
    Tutorial,
    /// That of Python's `multiprocessing.connection`: each side proves that it has the key. Then
    /// frames in both directions.
    Multiprocessing,
    /// None: a stream of bytes from the start, as in RFC 862.
    Plain,
}

impl Protocol {
    /// Length of the longest [`random_len`](Self::random_len) in bytes.
    pub const MAX_RANDOM: usize = 40;

    /// Number of random bytes that each side's challenge needs.
    pub const fn random_len(self) -> usize {
        match self {
            Self::Tutorial => crate::auth::Challenge::LEN,
            Self::Multiprocessing => Self::MAX_RANDOM,
            Self::Plain => 0,
        }
    }

    /// The name on the command line and in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tutorial => "tutorial",
            Self::Multiprocessing => "multiprocessing",
            Self::Plain => "plain",
        }
    }

    /// The protocol with this [name](Self::as_str); `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Tutorial, Self::Multiprocessing, Self::Plain];
        all.into_iter().find(|protocol| protocol.as_str() == name)
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
