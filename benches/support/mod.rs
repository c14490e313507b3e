//! Fixtures shared by the benches and the instruction counts.
#![allow(dead_code, unreachable_pub)] // Each of them uses a part.

pub mod kernel;

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{Config, Connection, State, Upper};
use saltecho::python::Monotonic;

/// Any time, where it does not matter.
pub const NOW: Monotonic = Monotonic::ZERO;

/// Bytes of every challenge, so that one digest answers them all.
pub const CHALLENGE: [u8; Challenge::LEN] = [0x5a; Challenge::LEN];

/// The challenge with the bytes of [`CHALLENGE`].
pub fn challenge() -> Challenge {
    Challenge::new(CHALLENGE)
}

/// The digest that answers [`challenge`] under the demo key.
pub fn digest() -> [u8; 16] {
    let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge());
    digest.as_bytes().try_into().expect("HMAC-MD5 has 16 bytes")
}

/// The default configuration with an idle timeout too, so that benches run with every deadline.
pub fn config() -> Config {
    let mut config = Config::new(Keyring::demo());
    config.idle_timeout = Some(std::time::Duration::from_secs(3600));
    config
}

/// A connection after a whole handshake through the state machine.
pub fn authenticated(config: &Config, mut digest: [u8; 16]) -> Connection {
    let mut connection = Connection::new(config, challenge(), Upper, NOW);
    connection.handle_sent(config, Challenge::LEN, NOW);
    connection.handle_recv(config, &mut digest, NOW).sent(0);
    debug_assert_eq!(connection.state(), State::Echoing);
    connection
}
