//! A handover of a crowd of idle connections: the old side from its freeze to the last chunk, and the new
//! side from the first chunk to where it could commit. Without the sockets: passing them and registering
//! them come on top.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use saltecho::proto::Upper;
use saltecho::server::Limits;
use saltecho::server::handover::{Decoder, Frozen, Thawing, Totals};

use crate::support::config;
use crate::support::kernel::{LeanKernel, LeanMoved};
use crate::{Crowded, sizes};

type Messages = Vec<(u8, u32, u16, Vec<u8>, usize)>;

fn messages(frozen: &Frozen<LeanKernel, Upper>) -> (Messages, Totals) {
    let mut chunks = frozen.chunks();
    let messages = chunks.by_ref().map(|chunk| {
        let sockets = chunk.sockets.len();
        (chunk.kind.code(), chunk.count, chunk.record_size, chunk.payload, sockets)
    });
    (messages.collect(), chunks.totals())
}

fn thaw(messages: &Messages, totals: &Totals, size: usize) -> Thawing<LeanKernel, Upper> {
    let mut decoder = Decoder::new();
    for (kind, count, record_size, payload, sockets) in messages {
        let sockets = vec![LeanMoved; *sockets];
        decoder.take(*kind, *count, *record_size, payload, sockets).expect("it is whole");
    }
    let arrived = decoder.finish(totals).expect("it is complete");
    let limits = Limits::for_connections(size);
    let mut thawing = Thawing::new(LeanKernel::new(), config(), limits, Upper).expect("no socket");
    // The clock of the sender may not be ahead.
    thawing.server().kernel_mut().clock = saltecho::python::Monotonic::from_nanos(u64::MAX >> 8);
    for one in arrived.spread(1, |socket| Ok(*socket)).expect("as many loops") {
        thawing.restore(one).expect("it suits");
    }
    thawing
}

pub(crate) fn handovers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop/handover");
    for size in sizes(&[1000, 19_000, 1_000_000]) {
        group.throughput(Throughput::Elements(size as u64)).sample_size(10);
        let mut server = Some(Crowded::new(size).server);
        group.bench_function(BenchmarkId::new("freeze and send", size), |bencher| {
            bencher.iter(|| {
                let taken = server.take().expect("it was put back");
                let frozen = taken.freeze().map_err(|_| "it drains").expect("it runs");
                let totals = frozen.totals();
                server = Some(frozen.resume());
                totals
            });
        });
        let taken = server.take().expect("it was put back");
        let frozen = taken.freeze().map_err(|_| "it drains").expect("it runs");
        let (messages, totals) = messages(&frozen);
        group.bench_function(BenchmarkId::new("receive and thaw", size), |bencher| {
            let arrive = |()| thaw(&messages, &totals, size);
            bencher.iter_batched(|| (), arrive, BatchSize::PerIteration);
        });
    }
    group.finish();
}
