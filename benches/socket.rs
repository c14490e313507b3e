//! Cost of Python's semantics: round trips over loopback in the three modes, compared with the standard
//! library's blocking sockets in the same run.
//!
//! In every case the peer is a thread that echoes through a plain blocking `TcpStream`, so that only
//! this side differs. The ratio to `std` is the cost: one more poll(2) in timeout mode, one recv(2)
//! with EAGAIN and a poll(2) in blocking mode, and the failed attempts of a polling caller in
//! non-blocking mode.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use saltecho::socket::{ErrorKind, IPPROTO_TCP, Socket, TCP_NODELAY, create_connection};

/// Starts an echo server with a thread per connection; returns its address.
fn echo_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || echo(client));
        }
    });
    address
}

fn echo(mut client: TcpStream) {
    client.set_nodelay(true).expect("a TCP option");
    let mut buffer = vec![0; 1 << 18];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if client.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

fn connect(address: std::net::SocketAddr, seconds: Option<f64>) -> Socket {
    let socket = create_connection(address, None, None).expect("the echo server listens");
    socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, true).expect("a TCP option");
    socket.settimeout(seconds).expect("a good timeout");
    socket
}

/// Repeats a call on a non-blocking socket until it succeeds; yields the CPU in between.
fn retry<T>(mut call: impl FnMut() -> saltecho::socket::Result<T>) -> T {
    loop {
        match call() {
            Ok(value) => return value,
            Err(error) if error.kind() == ErrorKind::BlockingIOError => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends a message and receives until all of it is back.
fn round_trips(c: &mut Criterion) {
    let address = echo_server();
    for size in [16, 1024, 16 * 1024] {
        let mut group = c.benchmark_group(format!("socket/round-trip/{size}"));
        settings(&mut group, size);
        let (message, mut buffer) = (vec![b'a'; size], vec![0; size]);

        let mut stream = TcpStream::connect(address).expect("the echo server listens");
        stream.set_nodelay(true).expect("a TCP option");
        group.bench_function("std", |b| {
            b.iter(|| {
                stream.write_all(&message).expect("sent");
                stream.read_exact(&mut buffer).expect("returned");
            });
        });
        for (mode, seconds) in [("blocking", None), ("timeout", Some(10.0))] {
            let socket = connect(address, seconds);
            group.bench_function(mode, |b| {
                b.iter(|| {
                    socket.sendall(&message).expect("sent");
                    let mut done = 0;
                    while done < size {
                        done += socket.recv_into(&mut buffer[done..]).expect("returned");
                    }
                });
            });
        }
        let socket = connect(address, Some(0.0));
        group.bench_function("non-blocking", |b| {
            b.iter(|| {
                socket.sendall(&message).expect("it fits");
                let mut done = 0;
                while done < size {
                    done += retry(|| socket.recv_into(&mut buffer[done..]));
                }
            });
        });
        group.finish();
    }
}

/// The calls alone, with the answer already there: no waiting, no second thread.
fn calls(c: &mut Criterion) {
    const SIZE: usize = 64;
    let mut group = c.benchmark_group("socket/send-and-recv-at-hand");
    settings(&mut group, SIZE);
    let (message, mut buffer) = ([b'a'; SIZE], [0; SIZE]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");

    let mut one = TcpStream::connect(address).expect("the listener is bound");
    let (mut other, _) = listener.accept().expect("the connection just made");
    group.bench_function("std", |b| {
        b.iter(|| {
            one.write_all(&message).expect("sent");
            other.read_exact(&mut buffer).expect("received");
        });
    });
    for (mode, seconds) in
        [("blocking", None), ("timeout", Some(10.0)), ("non-blocking", Some(0.0))]
    {
        let one = connect(address, seconds);
        let (accepted, _) = listener.accept().expect("the connection just made");
        let other = Socket::from_fd(accepted.into()).expect("a TCP socket");
        other.settimeout(seconds).expect("a good timeout");
        group.bench_function(mode, |b| {
            b.iter(|| {
                one.sendall(&message).expect("sent");
                let received = match seconds {
                    Some(0.0) => retry(|| other.recv_into(&mut buffer)),
                    _ => other.recv_into(&mut buffer).expect("received"),
                };
                assert_eq!(received, SIZE);
            });
        });
        if mode == "blocking" {
            group.bench_function("blocking, recv into a new vector", |b| {
                b.iter(|| {
                    one.sendall(&message).expect("sent");
                    black_box(other.recv(4096).expect("received"))
                });
            });
        }
    }
    group.finish();
}

/// One `sendall` larger than the kernel's buffers, so that it waits while the peer echoes and a second
/// thread receives.
fn bulk(c: &mut Criterion) {
    const SIZE: usize = 4 << 20;
    let address = echo_server();
    let mut group = c.benchmark_group("socket/sendall-4MiB");
    settings(&mut group, SIZE);
    group.sample_size(10);
    let message = vec![b'a'; SIZE];

    let stream = TcpStream::connect(address).expect("the echo server listens");
    let mut buffer = vec![0; 1 << 18];
    group.bench_function("std", |b| {
        b.iter(|| {
            thread::scope(|scope| {
                scope.spawn(|| (&stream).write_all(&message).expect("sent"));
                let mut done = 0;
                while done < SIZE {
                    done += (&stream).read(&mut buffer).expect("returned");
                }
            });
        });
    });
    for (mode, seconds) in [("blocking", None), ("timeout", Some(10.0))] {
        let socket = connect(address, seconds);
        group.bench_function(mode, |b| {
            b.iter(|| {
                thread::scope(|scope| {
                    scope.spawn(|| socket.sendall(&message).expect("sent"));
                    let mut done = 0;
                    while done < SIZE {
                        done += socket.recv_into(&mut buffer).expect("returned");
                    }
                });
            });
        });
    }
    group.finish();
}

/// Short measurements: the whole file takes less than a minute.
fn settings(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    group
        .throughput(Throughput::Bytes(size as u64))
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
}

criterion_group! {
    name = benches;
    // Fewer resamples and no plots, or the analysis would take longer than the measurement.
    config = Criterion::default().without_plots().nresamples(10_000).sample_size(50);
    targets = calls, round_trips, bulk
}
criterion_main!(benches);
