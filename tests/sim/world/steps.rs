//! Steps that are the same in every world of random clients.

use saltecho::sim::{Seen, SimClient, SimKernel};

/// Reads at a client's end. `None` if nothing is there, or no more: then `seen` says how it ended.
pub fn receive(
    kernel: &mut SimKernel,
    end: SimClient,
    limit: usize,
    seen: &mut Option<Seen>,
) -> Option<Vec<u8>> {
    match kernel.client_recv(end, limit) {
        Ok(bytes) => {
            assert_eq!(*seen, None, "bytes after the end");
            Some(bytes)
        }
        Err(Seen::Nothing) => None,
        Err(how) => {
            *seen = Some(how);
            None
        }
    }
}

/// Calls `turn` until it returns true: the loop went to sleep.
pub fn until_asleep(mut turn: impl FnMut() -> bool) {
    let asleep = (0..20_000).any(|_| turn());
    assert!(asleep, "the loop spins: it neither sleeps nor has anything to do");
}
