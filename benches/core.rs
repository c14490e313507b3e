//! What the protocol costs without any system call: MACs, verification, a handshake and an echo
//! through the state machine, upper-casing.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{Config, Connection, State, Upper};
use saltecho::python::{Monotonic, upper};

const MACS: [MacAlgorithm; 2] = [MacAlgorithm::Md5, MacAlgorithm::Sha256];
const NOW: Monotonic = Monotonic::ZERO;

fn challenge() -> Challenge {
    Challenge::new([0x5a; Challenge::LEN])
}

/// The client's side rebuilds the keyed state for each digest; the server clones it.
fn authentication(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("authentication");
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

fn authenticated(config: &Config) -> Connection {
    let mut connection = Connection::new(config, challenge(), Upper, NOW);
    connection.handle_sent(config, Challenge::LEN, NOW);
    let mut digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge()).as_bytes().to_vec();
    connection.handle_recv(config, &mut digest, NOW).sent(0);
    assert_eq!(connection.state(), State::Echoing);
    connection
}

fn connection(criterion: &mut Criterion) {
    let config = Config::new(Keyring::demo());
    criterion.bench_function("connection/handshake", |bencher| {
        let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge()).as_bytes().to_vec();
        bencher.iter(|| {
            let mut connection = Connection::new(&config, challenge(), Upper, NOW);
            connection.handle_sent(&config, Challenge::LEN, NOW);
            let mut digest = digest.clone();
            connection.handle_recv(&config, &mut digest, NOW).sent(0);
            connection.state()
        });
    });
    let mut group = criterion.benchmark_group("connection/echo");
    for len in [64usize, 1 << 10, 64 << 10] {
        group.throughput(Throughput::Bytes(len as u64));
        let (mut connection, mut data) = (authenticated(&config), vec![b'x'; len]);
        group.bench_function(BenchmarkId::new("taken whole", len), |bencher| {
            bencher.iter(|| connection.handle_recv(&config, black_box(&mut data), NOW).sent(len));
        });
        group.bench_function(BenchmarkId::new("half into the backlog", len), |bencher| {
            bencher.iter(|| {
                connection.handle_recv(&config, black_box(&mut data), NOW).sent(len / 2);
                connection.handle_sent(&config, len / 2, NOW);
            });
        });
    }
    group.finish();
}

/// The slice form against the loop that a first draft would have.
fn upper_casing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("upper");
    for len in [64usize, 1 << 10, 64 << 10] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut data = vec![b'x'; len];
        group.bench_function(BenchmarkId::new("slice", len), |bencher| {
            bencher.iter(|| upper(black_box(&mut data)));
        });
        group.bench_function(BenchmarkId::new("collected byte by byte", len), |bencher| {
            bencher.iter(|| {
                let iter = black_box(&data).iter().map(u8::to_ascii_uppercase);
                iter.collect::<Vec<u8>>()
            });
        });
        let mut copy = vec![0; len];
        group.bench_function(BenchmarkId::new("memcpy, for comparison", len), |bencher| {
            bencher.iter(|| copy.copy_from_slice(black_box(&data)));
        });
    }
    group.finish();
}

criterion_group!(benches, authentication, connection, upper_casing);
criterion_main!(benches);
