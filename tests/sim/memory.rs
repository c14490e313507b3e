//! Memory of idle connections, counted by allocation. What a process keeps resident depends on the
//! allocator too: `scripts/compare` measures that.

use crate::support::kernel::{admit, send_each_turn, server, turn};

/// Connections that were there before: the buffers of a turn are for them too.
const BEFORE: usize = 900;
const MORE: usize = 18_000;

/// The build fails if a slot takes more than 48 bytes (64 in a debug build); its block is reserved for
/// more than half a million with the first connection. So this is all that can come on top of it.
const BESIDE_THE_SLOT: usize = 2;

#[test]
fn an_idle_connection_takes_no_memory_beside_its_slot() {
    let (mut server, mut crowd) = (server(BEFORE + MORE), Vec::with_capacity(BEFORE + MORE));
    admit(&mut server, BEFORE, &mut crowd);
    let measured = allocation_counter::measure(|| {
        admit(&mut server, MORE, &mut crowd);
        // One after the other, so that each had its place in every list of a turn.
        for token in &crowd {
            send_each_turn(&mut server, &[*token], 64);
            turn(&mut server);
        }
    });
    assert_eq!(server.stats().connections, BEFORE + MORE);
    let bytes = measured.bytes_current;
    assert!(bytes <= (BESIDE_THE_SLOT * MORE) as i64, "{bytes} bytes for {MORE} connections");
}
