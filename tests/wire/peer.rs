//! A connection with its event loop and its kernel, played by the test.

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{CloseReason, Config, Connection, Handler, State, Upper, Wants};
use saltecho::python::Monotonic;

pub(crate) const CHALLENGE: [u8; 32] = [0x5a; 32];

pub(crate) fn config() -> Config {
    Config::new(Keyring::demo())
}

pub(crate) fn digest() -> Vec<u8> {
    MacAlgorithm::Md5.digest(&Key::demo(), &Challenge::new(CHALLENGE)).as_bytes().to_vec()
}

pub(crate) fn at(millis: u64) -> Monotonic {
    Monotonic::from_nanos(millis * 1_000_000)
}

/// A connection, all that it sent, and the calls that an event loop makes.
pub(crate) struct Peer<H: Handler = Upper> {
    pub(crate) config: Config,
    pub(crate) connection: Connection<H>,
    pub(crate) sent: Vec<u8>,
    pub(crate) now: Monotonic,
    /// The keys that replies named.
    pub(crate) keys: Vec<usize>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        Self::with(config(), Upper)
    }
}

impl<H: Handler> Peer<H> {
    pub(crate) fn with(config: Config, handler: H) -> Self {
        let challenge = Challenge::new(CHALLENGE);
        let connection = Connection::new(&config, challenge, handler, Monotonic::ZERO);
        let (sent, now, keys) = (Vec::new(), Monotonic::ZERO, Vec::new());
        let mut peer = Self { config, connection, sent, now, keys };
        assert_eq!(peer.connection.chunk(), CHALLENGE, "the challenge, and nothing else");
        peer.take_chunk(usize::MAX);
        peer.sent.clear();
        peer
    }

    pub(crate) fn authenticated(config: Config, handler: H) -> Self {
        let mut peer = Self::with(config, handler);
        peer.receive(&digest());
        assert_eq!(peer.connection.state(), State::Echoing);
        peer
    }

    /// A recv that returns `data`; the kernel accepts the whole answer.
    pub(crate) fn receive(&mut self, data: &[u8]) {
        self.receive_with_room(data, usize::MAX);
    }

    /// The same with room for `room` bytes of the answer.
    pub(crate) fn receive_with_room(&mut self, data: &[u8], room: usize) {
        assert!(matches!(self.connection.wants(&self.config), Wants::Recv { limit } if limit > 0));
        let mut data = data.to_vec();
        let reply = self.connection.handle_recv(&self.config, &mut data, self.now);
        self.keys.extend(reply.key());
        let n = room.min(reply.bytes().len());
        self.sent.extend_from_slice(&reply.bytes()[..n]);
        reply.sent(n);
    }

    /// A send that accepts at most `room` bytes.
    pub(crate) fn take_chunk(&mut self, room: usize) {
        assert_eq!(self.connection.wants(&self.config), Wants::Send);
        let n = room.min(self.connection.chunk().len());
        self.sent.extend_from_slice(&self.connection.chunk()[..n]);
        self.connection.handle_sent(&self.config, n, self.now);
    }

    pub(crate) fn shut_down(&mut self) {
        assert_eq!(self.connection.wants(&self.config), Wants::Shutdown);
        self.connection.handle_shutdown(&self.config, self.now);
    }

    pub(crate) fn time_out_at(&mut self, now: Monotonic) {
        self.now = now;
        self.connection.handle_timeout(now);
    }

    pub(crate) fn reason(&self) -> Option<CloseReason> {
        self.connection.close_reason()
    }
}
