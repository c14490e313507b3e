//! Cost of the protocol without system calls: MACs, verification, a handshake and an echo through the
//! state machine, upper-casing, the backlog; the handshake and the frames of `multiprocessing`, and a
//! balancer's header.
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
use saltecho::proto::proxy::{HeaderReader, Status};
use saltecho::proto::{Framed, Handler as _, MutualHandshake, Role, Upper, frame_header};
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

/// The other protocol: both sides of its handshake, and a `recv` of 32 KiB full of frames, each answered
/// where it lies.
fn multiprocessing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/multiprocessing");
    let ring = Keyring::demo();
    group.bench_function("handshake of both sides", |bencher| {
        bencher.iter(|| {
            let [mut listener, mut client] = [Role::Listener, Role::Client]
                .map(|role| MutualHandshake::new(role, &ring, black_box([7; 40])));
            while listener.outcome().is_none() || client.outcome().is_none() {
                pass(&mut listener, &mut client, &ring);
                pass(&mut client, &mut listener, &ring);
            }
            assert_eq!((listener.outcome(), client.outcome()), (Some(Ok(())), Some(Ok(()))));
        });
    });
    for len in [64, 16 << 10] {
        let frame = [frame_header(len as u64).as_ref(), &vec![b'x'; len]].concat();
        let mut data = frame.repeat((32 << 10) / frame.len());
        group.throughput(Throughput::Bytes(data.len() as u64));
        let mut handler = Framed::new(Upper, None);
        group.bench_function(BenchmarkId::new("frames in 32 KiB", len), |bencher| {
            bencher.iter(|| handler.handle(black_box(&mut data)));
        });
    }
    group.finish();
}

/// Gives one side what the other has to send.
fn pass(from: &mut MutualHandshake, to: &mut MutualHandshake, ring: &Keyring) {
    let bytes = from.unsent().to_vec();
    from.handle_sent(bytes.len());
    let taken = to.handle_recv(ring, &bytes);
    assert_eq!(taken, bytes.len(), "nothing follows the handshake");
}

/// A header in one piece, as a balancer sends it.
fn proxy_header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/proxy header");
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 9999\r\n".to_vec();
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend([203, 0, 113, 7, 192, 0, 2, 1, 0x9c, 0x40, 0x27, 0x0f]);
    for (version, header) in [("1", line), ("2", binary)] {
        group.bench_function(BenchmarkId::new("version", version), |bencher| {
            bencher.iter(|| {
                let status = HeaderReader::new().handle_recv(black_box(&header));
                assert!(matches!(status, Ok(Status::Complete { .. })));
            });
        });
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
    targets = authentication, connection, multiprocessing, proxy_header, upper_casing
}
criterion_main!(benches);
