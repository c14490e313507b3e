//! Memory of a million connections: the real loop over a kernel that costs next to nothing, so that
//! only the server's own memory is counted.
//!
//! ```text
//! cargo run --release --example million
//! cargo run --release --example million -- 100000
//! ```
//!
//! First the allowed number of unauthenticated connections get a challenge and do not answer it. Then
//! all connections authenticate and a random thousand of them exchange messages. The exit code is 1
//! if a million connections need more than 80 MB, or a quarter of a million unauthenticated ones
//! more than 192 bytes each. Sockets are not included: the kernel needs some kilobytes for each.
//! `cargo bench --bench loop -- turn` measures the cost of a turn.

#[path = "../benches/support/mod.rs"]
mod support;

use std::process::ExitCode;

use rand::seq::IndexedRandom as _;
use rand::{SeedableRng as _, rngs::StdRng};
use saltecho::reactor::Token;
use support::kernel::{accept, admit, send_each_turn, server, turn};

/// Limit per authenticated connection in bytes: 80 MB for a million.
const LIMIT: usize = 80;
/// Limit per unauthenticated connection in bytes.
const UNAUTHENTICATED_LIMIT: usize = 192;

fn main() -> ExitCode {
    let size = std::env::args().nth(1).map_or(1_000_000, |arg| arg.parse().expect("a number"));
    // Code and fixed buffers do not grow with the crowd, so the limits hold for large crowds only.
    let is_checked = size >= 1_000_000;
    let exceeded = [unauthenticated(size) > UNAUTHENTICATED_LIMIT, crowd(size) > LIMIT];
    ExitCode::from(u8::from(is_checked && exceeded.contains(&true)))
}

/// Resident bytes per unauthenticated connection, at the limit of a server for `size` connections.
fn unauthenticated(size: usize) -> usize {
    let before = resident();
    let mut server = server(size);
    let count = size / 4;
    accept(&mut server, count);
    assert_eq!(server.stats().unauthenticated, count, "none was evicted");
    let resident = resident().saturating_sub(before);
    println!("{count} unauthenticated connections, deadlines armed:");
    report("resident memory", resident, count);
    resident.div_ceil(count)
}

/// Resident bytes per authenticated connection, for `size` of them.
fn crowd(size: usize) -> usize {
    let mut crowd: Vec<Token> = Vec::with_capacity(size);
    // Touch every page of the list of tokens first, since it is not the server's memory.
    crowd.resize(size, Token::WAKE);
    crowd.clear();
    let before = resident();
    let mut kept = None;
    let heap = allocation_counter::measure(|| {
        let mut server = server(size);
        admit(&mut server, size, &mut crowd);
        kept = Some(server);
    });
    let mut server = kept.expect("it was just made");
    let busy: Vec<Token> = crowd.sample(&mut StdRng::seed_from_u64(1), 1000).copied().collect();
    send_each_turn(&mut server, &busy, 64);
    for _ in 0..100 {
        turn(&mut server);
    }
    let stats = server.stats();
    let expected = (size as u64, busy.len() as u64 * 100 * 64);
    let echoed = stats.bytes_sent - 32 * stats.accepted;
    assert_eq!((stats.authenticated, echoed), expected, "all are served");
    let resident = resident().saturating_sub(before);
    println!("{size} authenticated connections, deadlines armed, {} of them busy:", busy.len());
    report("resident memory", resident, size);
    report("requested from the allocator", usize::try_from(heap.bytes_current).unwrap_or(0), size);
    report("peak of the allocator", usize::try_from(heap.bytes_max).unwrap_or(usize::MAX), size);
    resident.div_ceil(size)
}

fn report(what: &str, bytes: usize, size: usize) {
    println!("  {what:<28} {bytes:>12} bytes, {} per connection", bytes / size);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.expect("VmRSS is in kB, see proc(5)") * 1024
}
