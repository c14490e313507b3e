//! Cost of the protocol without system calls: MACs, verification, a handshake and an echo through the
//! state machine, upper-casing, the backlog.
//!
//! The figures contain no socket, loop or clock; `loop` and `loopback` show the rest of an echo's
//! cost. All data is in the CPU caches, except in the 16 MiB cases of `upper`, which are meant to be
//! limited by memory bandwidth.

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::python::upper;
use support::{CHALLENGE, NOW, authenticated, challenge, config, digest};

const MACS: [MacAlgorithm; 2] = [MacAlgorithm::Md5, MacAlgorithm::Sha256];
const LENGTHS: [usize; 3] = [64, 1 << 10, 64 << 10];

/// A MAC state is prepared from the key, then applied to the challenge. The client does both for each
/// digest. The server prepares each key once and clones the state for each verification, which also
/// includes the comparison in constant time.
fn authentication(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/authentication");
    // Without reading random bytes, which is a system call; with wiping them at the end.
    group.bench_function("challenge", |bencher| {
        bencher.iter(|| drop(black_box(Challenge::new(black_box(CHALLENGE)))));
    });
    let keys: Vec<Key> = (0..4u8).map(|i| Key::new(vec![i; 32])).collect();
    for mac in MACS {
        group.bench_function(BenchmarkId::new("digest, state rebuilt", mac), |bencher| {
            bencher.iter(|| mac.digest(black_box(&keys[0]), black_box(&challenge())));
        });
        let answer = mac.digest(&keys[0], &challenge());
        for count in [1, 4] {
            let ring = Keyring::new(mac, &keys[..count]).expect("one to four keys");
            let name = format!("verify, state cloned, {count} keys");
            group.bench_function(BenchmarkId::new(name, mac), |bencher| {
                bencher.iter(|| ring.verify(black_box(&challenge()), answer.as_bytes()));
            });
        }
    }
    group.finish();
}

fn connection(criterion: &mut Criterion) {
    let (config, digest) = (config(), digest());
    criterion.bench_function("core/handshake", |bencher| {
        bencher.iter(|| authenticated(&config, black_box(digest)).state());
    });
    let mut group = criterion.benchmark_group("core/echo");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut connection, mut data) = (authenticated(&config, digest), vec![b'x'; len]);
        group.bench_function(BenchmarkId::new("taken whole", len), |bencher| {
            bencher.iter(|| connection.handle_recv(&config, black_box(&mut data), NOW).sent(len));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("core/backlog");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut connection, mut data) = (authenticated(&config, digest), vec![b'x'; len]);
        for (name, pieces) in [("in two halves", 2), ("in sixteen pieces", 16)] {
            let piece = len / pieces;
            group.bench_function(BenchmarkId::new(name, len), |bencher| {
                bencher.iter(|| {
                    connection.handle_recv(&config, black_box(&mut data), NOW).sent(piece);
                    for _ in 1..pieces {
                        connection.handle_sent(&config, piece, NOW);
                    }
                });
                assert!(connection.chunk().is_empty(), "everything was sent");
            });
        }
    }
    group.finish();
}

/// The slice form, which the compiler vectorizes, against a simple loop and against a copy of the same
/// length.
fn upper_casing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/upper");
    for len in LENGTHS.into_iter().chain([16 << 20]) {
        group.throughput(Throughput::Bytes(len as u64));
        let mut data = vec![b'x'; len];
        group.bench_function(BenchmarkId::new("slice", len), |bencher| {
            bencher.iter(|| upper(black_box(&mut data)));
        });
        group.bench_function(BenchmarkId::new("byte by byte", len), |bencher| {
            bencher.iter(|| {
                let mut answer = Vec::new();
                for byte in black_box(&data) {
                    answer.push(byte.to_ascii_uppercase());
                }
                answer
            });
        });
        let mut copy = vec![0; len];
        group.bench_function(BenchmarkId::new("memcpy, for comparison", len), |bencher| {
            bencher.iter(|| copy.copy_from_slice(black_box(&data)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // Short, because `cargo bench` runs many measurements.
    config = Criterion::default()
        .sample_size(50)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = authentication, connection, upper_casing
}
criterion_main!(benches);
