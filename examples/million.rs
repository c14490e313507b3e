//! What a million connections take: the real loop over a kernel that costs next to nothing, so that
//! only the server's own memory is counted.
//!
//! ```text
//! cargo run --release --example million
//! cargo run --release --example million -- 100000
//! ```
//!
//! All authenticate, then a thousand of them talk, drawn from the whole crowd. Before that as many
//! as may are given a challenge and do not answer it. The exit code is 1 if a million take more
//! than 80 MB, or a quarter of a million strangers more than 192 bytes each. Sockets are not in the
//! figures: the kernel has some kilobytes for each. What a turn costs is measured by
//! `cargo bench --bench loop -- turn`.

#[path = "../benches/support/mod.rs"]
mod support;

use std::process::ExitCode;

use rand::seq::IndexedRandom as _;
use rand::{SeedableRng as _, rngs::StdRng};
use saltecho::server::Token;
use support::kernel::{admit, let_in, let_talk, server, turn};

/// Bytes for each of a crowd: 80 MB for a million.
const ALLOWED: usize = 80;
/// Bytes for each who has not authenticated.
const ALLOWED_STRANGER: usize = 192;

fn main() -> ExitCode {
    let size = std::env::args().nth(1).map_or(1_000_000, |arg| arg.parse().expect("a number"));
    // The server's code and its buffers do not grow with the crowd: a small one is not judged.
    let is_judged = size >= 1_000_000;
    let too_much = [strangers(size) > ALLOWED_STRANGER, crowd(size) > ALLOWED];
    ExitCode::from(u8::from(is_judged && too_much.contains(&true)))
}

/// Resident bytes for each of as many as a server for `size` connections lets wait.
fn strangers(size: usize) -> usize {
    let before = resident();
    let mut server = server(size);
    let count = size / 4;
    let_in(&mut server, count);
    assert_eq!(server.stats().unauthenticated, count, "nobody had to make room");
    let resident = resident().saturating_sub(before);
    println!("{count} connections that owe their digest, deadlines armed:");
    tell("resident memory", resident, count);
    resident.div_ceil(count)
}

/// Resident bytes for each of `size` connections that have authenticated.
fn crowd(size: usize) -> usize {
    let mut crowd: Vec<Token> = Vec::with_capacity(size);
    // Of the list of tokens, which is not the server's, every page is touched before.
    crowd.resize(size, Token::WAKE);
    crowd.clear();
    let before = resident();
    let mut house = None;
    let heap = allocation_counter::measure(|| {
        let mut server = server(size);
        admit(&mut server, size, &mut crowd);
        house = Some(server);
    });
    let mut server = house.expect("it was just made");
    let busy: Vec<Token> = crowd.sample(&mut StdRng::seed_from_u64(1), 1000).copied().collect();
    let_talk(&mut server, &busy, 64);
    for _ in 0..100 {
        turn(&mut server);
    }
    let stats = server.stats();
    let expected = (size as u64, busy.len() as u64 * 100 * 64);
    let echoed = stats.bytes_sent - 32 * stats.accepted;
    assert_eq!((stats.authenticated, echoed), expected, "all are served");
    let resident = resident().saturating_sub(before);
    println!("{size} authenticated connections, deadlines armed, {} of them busy:", busy.len());
    tell("resident memory", resident, size);
    tell("asked of the allocator", usize::try_from(heap.bytes_current).unwrap_or(0), size);
    tell("the most at any time", usize::try_from(heap.bytes_max).unwrap_or(usize::MAX), size);
    resident.div_ceil(size)
}

fn tell(what: &str, bytes: usize, size: usize) {
    println!("  {what:<24} {bytes:>12} bytes, {} for each", bytes / size);
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.expect("proc(5) has it in kB") * 1024
}
