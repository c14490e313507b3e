//! A snapshot of a crowd of idle connections for a recording: what it delays one turn by.

use std::io::{self, Write};

use criterion::{BenchmarkId, Criterion, Throughput};
use saltecho::proto::Upper;
use saltecho::server::{Limits, Server, recording_header};
use saltecho::trace::{RecordOptions, Recorder, Segments};

use crate::sizes;
use crate::support::config;
use crate::support::kernel::{Input, LeanKernel};

/// Files that go nowhere.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Segments for Nowhere {
    fn begin_next(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type RecordedServer = Server<Recorder<LeanKernel>, Upper>;

/// A recorded server with an authenticated crowd.
fn crowded(size: usize) -> RecordedServer {
    let (config, limits) = (config(), Limits::for_connections(size + 1024));
    let header = recording_header(&config, &limits, &[], &[], &[false]);
    let options = RecordOptions { header, keeps_payload: false, limit: Some(1 << 40) };
    let recorder = Recorder::to_segments(LeanKernel::new(), Nowhere, options, Box::new(|_| {}));
    let recorder = recorder.expect("a thread can start");
    let mut server = Server::with_kernel(recorder, vec![().into()], config, limits, Upper)
        .expect("this kernel never fails");
    let kernel = server.kernel_mut();
    (kernel.input, kernel.clients) = (Input::Digest, size);
    while server.stats().authenticated < size as u64 {
        turn(&mut server);
        let kernel = &mut **server.kernel_mut();
        std::mem::swap(&mut kernel.ready, &mut kernel.registered);
        kernel.registered.clear();
    }
    server.kernel_mut().ready.clear();
    server
}

fn turn(server: &mut RecordedServer) {
    server.turn().expect("this kernel never fails");
}

pub(crate) fn snapshots(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop/snapshot");
    for size in sizes(&[1000, 19_000, 1_000_000]) {
        group.throughput(Throughput::Elements(size as u64)).sample_size(10);
        let mut server = crowded(size);
        group.bench_function(BenchmarkId::new("turn", size), |bencher| {
            bencher.iter(|| turn(&mut server));
        });
        group.bench_function(BenchmarkId::new("turn with a snapshot", size), |bencher| {
            bencher.iter(|| {
                server.force_snapshot();
                turn(&mut server);
            });
        });
    }
    group.finish();
}
