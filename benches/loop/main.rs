//! Cost of the event loop: the real [`Server`](saltecho::server::Server) over a kernel that costs next
//! to nothing (`benches/support/kernel.rs`). The figures contain no system call and no socket, only
//! the loop, the connections' state machines and their memory.
//!
//! - `turn`: one turn in which some connections of a crowd have sent 64 bytes. The time must grow
//!   with the number of ready connections, not with the size of the crowd. "Side by side" are the
//!   first connections, whose slots are neighbors; "scattered" are random ones, each slot in its own
//!   cache line and most on their own page. The difference is the cost of memory, not of the loop;
//!   every large crowd has it.
//! - `cycle`: 64 clients connect, authenticate, get one answer and disconnect, at an empty server and
//!   beside a crowd; and the same without authentication.
//! - `deadlines`: see `deadlines.rs`.
//! - `handover`: see `handover.rs`.
//! - `scrape`, `recording`: see `operators.rs`.
//! - `snapshot`: see `snapshot.rs`.
//!
//! System calls cost far more than all of this; `loopback` includes them.

mod deadlines;
mod handover;
mod operators;
mod snapshot;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::seq::IndexedRandom as _;
use rand::{SeedableRng as _, rngs::StdRng};
use saltecho::reactor::Token;
use support::kernel::{Input, LeanServer, admit, disconnect, send_each_turn, server, turn};

/// Crowd sizes to measure; up to 10,000 in test mode, which runs an unoptimized build.
fn sizes(sizes: &[usize]) -> Vec<usize> {
    let most = if std::env::args().any(|arg| arg == "--test") { 10_000 } else { usize::MAX };
    sizes.iter().copied().filter(|size| *size <= most).collect()
}

/// A server with an authenticated crowd.
struct Crowded {
    server: LeanServer,
    crowd: Vec<Token>,
}

impl Crowded {
    /// Connects a crowd of `size`, with room for a few more.
    fn new(size: usize) -> Self {
        let (mut server, mut crowd) = (server(size + 1024), Vec::new());
        admit(&mut server, size, &mut crowd);
        assert_eq!(server.stats().authenticated, size as u64);
        Self { server, crowd }
    }
}

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop/turn");
    for size in sizes(&[1000, 10_000, 100_000, 1_000_000]) {
        // Built by the first bench that is not filtered out.
        let mut crowded = None;
        for ready in [1, 100, 1000] {
            group.throughput(Throughput::Elements(ready as u64));
            for place in ["side by side", "scattered"] {
                group.bench_function(
                    BenchmarkId::new(format!("{ready} ready, {place}"), size),
                    |bencher| {
                        let Crowded { server, crowd } =
                            crowded.get_or_insert_with(|| Crowded::new(size));
                        let busy: Vec<Token> = if place == "scattered" {
                            crowd.sample(&mut StdRng::seed_from_u64(1), ready).copied().collect()
                        } else {
                            crowd[..ready].to_vec()
                        };
                        send_each_turn(server, &busy, 64);
                        bencher.iter(|| turn(server));
                    },
                );
            }
        }
    }
    group.finish();
}

/// Number of connections that the loop accepts in one turn.
const BATCH: usize = 64;

fn cycles(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop/cycle");
    group.throughput(Throughput::Elements(BATCH as u64));
    for size in sizes(&[0, 1000, 100_000, 1_000_000]) {
        let mut crowded = None;
        group.bench_function(BenchmarkId::new("authenticate and echo, 64 of", size), |bencher| {
            let Crowded { server, .. } = crowded.get_or_insert_with(|| Crowded::new(size));
            let mut batch = Vec::with_capacity(BATCH);
            bencher.iter(|| {
                batch.clear();
                admit(server, BATCH, &mut batch);
                send_each_turn(server, &batch, 64);
                turn(server);
                disconnect(server, &batch);
            });
            assert_eq!(server.stats().connections, size, "all of the batch have disconnected");
        });
        group.bench_function(BenchmarkId::new("accept and close, 64 of", size), |bencher| {
            let Crowded { server, .. } = crowded.get_or_insert_with(|| Crowded::new(size));
            bencher.iter(|| {
                server.kernel_mut().clients = BATCH;
                turn(server);
                let kernel = server.kernel_mut();
                std::mem::swap(&mut kernel.ready, &mut kernel.registered);
                kernel.input = Input::End;
                turn(server);
                server.kernel_mut().ready.clear();
            });
            assert_eq!(server.stats().connections, size, "all of the batch have disconnected");
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
    targets = turns, cycles, deadlines::deadlines, handover::handovers, operators::scrapes,
        operators::recordings, snapshot::snapshots
}
criterion_main!(benches);
