//! What the event loop costs: the real [`Server`](saltecho::server::Server) over a kernel that
//! costs next to nothing (`benches/support/kernel.rs`), so no system call and no socket is in
//! these figures, and what is left is the loop, the connections' state machines and their memory.
//!
//! - `turn`: one turn in which some connections of a crowd have said 64 bytes. It must grow with
//!   how many are ready, not with how many there are. "Side by side" they are the first that came,
//!   so their slots are neighbours; "scattered" they were drawn from the whole crowd, so that each
//!   slot is in a cache line, and most are on a page, of its own. What scattering costs is the
//!   memory's price and not the loop's, and a crowd cannot be had without it.
//! - `cycle`: sixty-four clients come, authenticate, are answered once and leave, in an empty
//!   house and in a full one; and the same without authentication.
//! - `deadlines`: see `deadlines.rs`.
//!
//! Not in these figures: system calls (`loopback`), which are far more than all of this.

mod deadlines;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::seq::IndexedRandom as _;
use rand::{SeedableRng as _, rngs::StdRng};
use saltecho::reactor::Token;
use support::kernel::{Finds, LeanServer, admit, leave, let_talk, server, turn};

/// The sizes to be measured; in smoke mode, which is not optimised either, a small crowd does.
fn sizes(sizes: &[usize]) -> Vec<usize> {
    let most = if std::env::args().any(|arg| arg == "--test") { 10_000 } else { usize::MAX };
    sizes.iter().copied().filter(|size| *size <= most).collect()
}

/// A server and its authenticated crowd.
struct House {
    server: LeanServer,
    crowd: Vec<Token>,
}

impl House {
    /// `size` are there, and there is room for a few more.
    fn with(size: usize) -> Self {
        let (mut server, mut crowd) = (server(size + 1024), Vec::new());
        admit(&mut server, size, &mut crowd);
        assert_eq!(server.stats().authenticated, size as u64);
        Self { server, crowd }
    }
}

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop/turn");
    for size in sizes(&[1000, 10_000, 100_000, 1_000_000]) {
        // Built by the first of its benches that is not filtered out.
        let mut house = None;
        for ready in [1, 100, 1000] {
            group.throughput(Throughput::Elements(ready as u64));
            for place in ["side by side", "scattered"] {
                group.bench_function(
                    BenchmarkId::new(format!("{ready} ready, {place}"), size),
                    |bencher| {
                        let House { server, crowd } =
                            house.get_or_insert_with(|| House::with(size));
                        let busy: Vec<Token> = if place == "scattered" {
                            crowd.sample(&mut StdRng::seed_from_u64(1), ready).copied().collect()
                        } else {
                            crowd[..ready].to_vec()
                        };
                        let_talk(server, &busy, 64);
                        bencher.iter(|| turn(server));
                    },
                );
            }
        }
    }
    group.finish();
}

/// As many as the loop accepts in one turn.
const BATCH: usize = 64;

fn cycles(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop/cycle");
    group.throughput(Throughput::Elements(BATCH as u64));
    for size in sizes(&[0, 1000, 100_000, 1_000_000]) {
        let mut house = None;
        group.bench_function(BenchmarkId::new("authenticate and echo, 64 of", size), |bencher| {
            let House { server, .. } = house.get_or_insert_with(|| House::with(size));
            let mut guests = Vec::with_capacity(BATCH);
            bencher.iter(|| {
                guests.clear();
                admit(server, BATCH, &mut guests);
                let_talk(server, &guests, 64);
                turn(server);
                leave(server, &guests);
            });
            assert_eq!(server.stats().connections, size, "all guests have left");
        });
        group.bench_function(BenchmarkId::new("accept and close, 64 of", size), |bencher| {
            let House { server, .. } = house.get_or_insert_with(|| House::with(size));
            bencher.iter(|| {
                server.kernel_mut().clients = BATCH;
                turn(server);
                let kernel = server.kernel_mut();
                std::mem::swap(&mut kernel.ready, &mut kernel.registered);
                kernel.finds = Finds::End;
                turn(server);
                server.kernel_mut().ready.clear();
            });
            assert_eq!(server.stats().connections, size, "all guests have left");
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = turns, cycles, deadlines::deadlines
}
criterion_main!(benches);
