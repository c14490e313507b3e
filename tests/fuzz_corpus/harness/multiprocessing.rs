use saltecho::auth::MacAlgorithm;

#[path = "../../wire/multiprocessing_world.rs"]
mod world;

/// Reads the input as choices and the bytes of a client behind an honest handshake, or one of which a
/// byte is changed. Whatever its segmentation, it has to get the same answer, and behind an honest
/// handshake the one that is written down in the world.
pub fn multiprocessing_stream(input: &[u8]) {
    let [flags, piece, room, max, at, change, frames @ ..] = input else { return };
    let algorithm = if flags & 1 == 0 { MacAlgorithm::Md5 } else { MacAlgorithm::Sha256 };
    let max_message = (flags & 2 != 0).then_some(u64::from(*max));
    let mut config = world::config(algorithm);
    let mut bytes = world::honest_handshake(algorithm).0;
    let change = if flags & 4 == 0 { 0 } else { *change };
    let place = usize::from(*at) % bytes.len();
    bytes[place] ^= change;
    bytes.extend_from_slice(frames);
    let whole = world::served(&config, max_message, &bytes, || usize::MAX, usize::MAX);
    if change == 0 {
        world::check(&whole, algorithm, frames, max_message);
    }
    config.recv_size = usize::from(*piece).max(1);
    let parts = world::served(&config, max_message, &bytes, || usize::MAX, usize::from(*room));
    assert_eq!(parts, whole, "in pieces of {piece}, sent in pieces of {room}");
}
