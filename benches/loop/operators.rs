//! What operators may add to a loop: a scrape of its metrics, and a recording of its run.
//!
//! - `scrape`: the figures of one loop or of sixteen, added up and written as text. It does not depend on
//!   the connections; only sending the text comes on top.
//! - `recording`: the turn of `turn` with 100 of 1,000 ready, over the kernel itself, over a recorder that
//!   is off, and over one that records; its thread writes to nowhere.

use criterion::{BenchmarkId, Criterion, Throughput};
use saltecho::metrics::{Format, Snapshot};
use saltecho::proto::Upper;
use saltecho::reactor::Kernel;
use saltecho::server::{Limits, Server};
use saltecho::trace::{RecordOptions, Recorder};

use crate::support::config;
use crate::support::kernel::{LeanKernel, Scripted, admit, send_each_turn, server, turn};

pub(crate) fn scrapes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop/scrape");
    for loops in [1, 16] {
        let figures: Vec<Snapshot> = (0..loops).map(|_| server(1).snapshot()).collect();
        group.bench_function(BenchmarkId::new("of loops", loops), |bencher| {
            bencher.iter(|| Format::OpenMetrics.render(figures.iter().cloned().sum()));
        });
    }
    group.finish();
}

pub(crate) fn recordings(criterion: &mut Criterion) {
    bench(criterion, "none", LeanKernel::new());
    bench(criterion, "off", Recorder::off(LeanKernel::new()));
    let ended = Box::new(|why: &str| panic!("the recording ended: {why}"));
    let options = RecordOptions::default();
    let recorder = Recorder::to_file(LeanKernel::new(), std::io::sink(), options, ended);
    bench(criterion, "on", recorder.expect("a thread"));
}

fn bench<K: Kernel + Scripted>(criterion: &mut Criterion, name: &str, kernel: K)
where
    K::Listener: From<()>,
{
    let limits = Limits::for_connections(1001);
    let mut server = Server::with_kernel(kernel, vec![().into()], config(), limits, Upper)
        .expect("this kernel never fails");
    let mut crowd = Vec::new();
    admit(&mut server, 1000, &mut crowd);
    send_each_turn(&mut server, &crowd[..100], 64);
    let mut group = criterion.benchmark_group("loop/recording");
    group.throughput(Throughput::Elements(100));
    group.bench_function(BenchmarkId::new("100 ready of 1000", name), |bencher| {
        bencher.iter(|| turn(&mut server));
    });
    group.finish();
}
