//! The server's timing wheel against alternatives: std's `BinaryHeap` and `BTreeMap`, and the crate
//! `hierarchical_hash_wheel_timer`.
//!
//! Deadlines are random within a minute, in whole milliseconds, the resolution of all structures.
//! Each bench runs one operation once for each connection of a crowd:
//!
//! - `insert`: into an empty structure.
//! - `refresh`: move each armed deadline one minute later, as after a message. The server avoids this
//!   (see `lazy`); these are the costs if it did not. A heap and the crate's wheel cannot move an
//!   entry: they add another one, and the old one stays until its time.
//! - `lazy`: the same in the server's way. The connection stores the new deadline anyway, and the
//!   wheel only checks that its own entry is not later. The other structures could do this too.
//! - `expire`: advance the time until all have fired, by one millisecond where a structure needs it.
//! - `unlink`: remove each armed deadline before its time, in the order of insertion. A heap would
//!   have to search, so it is left out. The crate's cancellable wheel drops the entry but keeps its
//!   place until its time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use hierarchical_hash_wheel_timer::IdOnlyTimerEntry;
use hierarchical_hash_wheel_timer::wheels::quad_wheel::QuadWheelWithOverflow as PlainWheel;
use hierarchical_hash_wheel_timer::wheels::{Skip, cancellable};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use saltecho::python::Monotonic;
use saltecho::reactor::{Link, Links, Step, Wheel};

type CancellableWheel = cancellable::QuadWheelWithOverflow<IdOnlyTimerEntry<u32>>;

const MINUTE: u32 = 60_000;

/// A structure for deadlines in milliseconds, one per connection number.
trait Timers {
    const NAME: &'static str;

    fn for_crowd(size: usize) -> Self;

    fn insert(&mut self, id: u32, at: u32);

    /// Moves a deadline to a later time.
    fn refresh(&mut self, id: u32, old: u32, new: u32);

    /// Fires all deadlines due at `now`, a result of [`next`](Self::next); returns their number.
    fn expire(&mut self, now: u32) -> usize;

    /// Lower bound of the next deadline; `None` if there is none.
    fn next(&mut self) -> Option<u32>;
}

/// Structures that can remove a deadline before its time.
trait Unlink: Timers {
    fn unlink(&mut self, id: u32, at: u32);
}

struct Slots(Vec<Link>);

impl Links for Slots {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self.0[index as usize]
    }
}

/// The server's timing wheel.
struct ServerWheel {
    wheel: Wheel,
    slots: Slots,
}

fn at_ms(ms: u32) -> Monotonic {
    Monotonic::from_nanos(u64::from(ms) * 1_000_000)
}

impl Timers for ServerWheel {
    const NAME: &'static str = "saltecho";

    fn for_crowd(size: usize) -> Self {
        Self { wheel: Wheel::new(), slots: Slots(vec![Link::default(); size]) }
    }

    fn insert(&mut self, id: u32, at: u32) {
        self.wheel.arm_by(&mut self.slots, id, at_ms(at));
    }

    fn refresh(&mut self, id: u32, _old: u32, new: u32) {
        self.wheel.disarm(&mut self.slots, id);
        self.insert(id, new);
    }

    fn expire(&mut self, now: u32) -> usize {
        let mut fired = 0;
        loop {
            match self.wheel.step(&mut self.slots, at_ms(now)) {
                Step::Due(id) => fired += usize::from(black_box(id) < u32::MAX),
                Step::Moved => {}
                Step::Done => return fired,
            }
        }
    }

    fn next(&mut self) -> Option<u32> {
        let nanos = self.wheel.next_step()?.as_nanos();
        Some(u32::try_from(nanos.div_ceil(1_000_000)).expect("within two minutes"))
    }
}

impl Unlink for ServerWheel {
    fn unlink(&mut self, id: u32, _at: u32) {
        self.wheel.disarm(&mut self.slots, id);
    }
}

impl Timers for BinaryHeap<Reverse<(u32, u32)>> {
    const NAME: &'static str = "BinaryHeap";

    fn for_crowd(size: usize) -> Self {
        Self::with_capacity(size)
    }

    fn insert(&mut self, id: u32, at: u32) {
        self.push(Reverse((at, id)));
    }

    fn refresh(&mut self, id: u32, _old: u32, new: u32) {
        self.insert(id, new);
    }

    fn expire(&mut self, now: u32) -> usize {
        let mut fired = 0;
        while let Some(Reverse((at, _))) = self.peek()
            && *at <= now
        {
            black_box(self.pop());
            fired += 1;
        }
        fired
    }

    fn next(&mut self) -> Option<u32> {
        self.peek().map(|Reverse((at, _))| *at)
    }
}

impl Timers for BTreeMap<(u32, u32), ()> {
    const NAME: &'static str = "BTreeMap";

    fn for_crowd(_size: usize) -> Self {
        Self::new()
    }

    fn insert(&mut self, id: u32, at: u32) {
        BTreeMap::insert(self, (at, id), ());
    }

    fn refresh(&mut self, id: u32, old: u32, new: u32) {
        self.remove(&(old, id));
        Timers::insert(self, id, new);
    }

    fn expire(&mut self, now: u32) -> usize {
        let mut fired = 0;
        while let Some(entry) = self.first_entry()
            && entry.key().0 <= now
        {
            black_box(entry.remove_entry());
            fired += 1;
        }
        fired
    }

    fn next(&mut self) -> Option<u32> {
        self.first_key_value().map(|((at, _), ())| *at)
    }
}

impl Unlink for BTreeMap<(u32, u32), ()> {
    fn unlink(&mut self, id: u32, at: u32) {
        self.remove(&(at, id));
    }
}

/// The crate's wheels count ticks from the current time, and advance by one tick or by the number of
/// ticks that they allow to skip.
struct Crates<W> {
    wheel: W,
    now: u32,
}

impl<W> Crates<W> {
    fn after(&self, skip: &Skip) -> Option<u32> {
        match skip {
            Skip::Empty => None,
            Skip::None => Some(self.now + 1),
            Skip::Millis(ms) => Some(self.now + ms + 1),
        }
    }
}

impl Timers for Crates<PlainWheel<u32>> {
    const NAME: &'static str = "hierarchical_hash_wheel_timer";

    fn for_crowd(_size: usize) -> Self {
        Self { wheel: PlainWheel::default(), now: 0 }
    }

    fn insert(&mut self, id: u32, at: u32) {
        let delay = Duration::from_millis(u64::from(at - self.now));
        self.wheel.insert_with_delay(id, delay).expect("not yet due");
    }

    fn refresh(&mut self, id: u32, _old: u32, new: u32) {
        self.insert(id, new);
    }

    fn expire(&mut self, now: u32) -> usize {
        self.wheel.skip(now - 1 - self.now);
        self.now = now;
        self.wheel.tick().into_iter().map(black_box).count()
    }

    fn next(&mut self) -> Option<u32> {
        self.after(&self.wheel.can_skip())
    }
}

impl Timers for Crates<CancellableWheel> {
    const NAME: &'static str = "hierarchical_hash_wheel_timer, cancellable";

    fn for_crowd(_size: usize) -> Self {
        Self { wheel: CancellableWheel::new(), now: 0 }
    }

    fn insert(&mut self, id: u32, at: u32) {
        let delay = Duration::from_millis(u64::from(at - self.now));
        self.wheel.insert(IdOnlyTimerEntry { id, delay }).expect("not yet due");
    }

    fn refresh(&mut self, id: u32, old: u32, new: u32) {
        self.unlink(id, old);
        self.insert(id, new);
    }

    fn expire(&mut self, now: u32) -> usize {
        self.wheel.skip(now - 1 - self.now);
        self.now = now;
        self.wheel.tick().into_iter().map(black_box).count()
    }

    fn next(&mut self) -> Option<u32> {
        self.after(&self.wheel.can_skip())
    }
}

impl Unlink for Crates<CancellableWheel> {
    fn unlink(&mut self, id: u32, _at: u32) {
        self.wheel.cancel(&id).expect("armed");
    }
}

/// Connection numbers with their deadlines.
type Crowd = Vec<(u32, u32)>;

fn crowd(size: usize) -> Crowd {
    let mut random = StdRng::seed_from_u64(1);
    let size = u32::try_from(size).expect("at most a million");
    (0..size).map(|id| (id, random.random_range(1..=MINUTE))).collect()
}

fn armed<T: Timers>(crowd: &Crowd) -> T {
    let mut timers = T::for_crowd(crowd.len());
    crowd.iter().for_each(|(id, at)| timers.insert(*id, *at));
    timers
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Measures `operation` on the whole crowd, without `prepare` and without freeing the structure.
fn bench<T: Timers>(
    group: &mut Group<'_>,
    crowd: &Crowd,
    prepare: impl Fn() -> T,
    operation: impl Fn(&mut T),
) {
    group.throughput(Throughput::Elements(crowd.len() as u64));
    group.bench_function(BenchmarkId::new(T::NAME, crowd.len()), |bencher| {
        bencher.iter_custom(|times| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..times {
                let mut timers = prepare();
                let begin = Instant::now();
                operation(&mut timers);
                elapsed += begin.elapsed();
                drop(black_box(timers));
            }
            elapsed
        });
    });
}

fn insert<T: Timers>(group: &mut Group<'_>, crowd: &Crowd) {
    bench(
        group,
        crowd,
        || T::for_crowd(crowd.len()),
        |timers| {
            crowd.iter().for_each(|(id, at)| timers.insert(*id, *at));
        },
    );
}

fn refresh<T: Timers>(group: &mut Group<'_>, crowd: &Crowd) {
    bench(
        group,
        crowd,
        || armed::<T>(crowd),
        |timers| {
            crowd.iter().for_each(|(id, at)| timers.refresh(*id, *at, at + MINUTE));
        },
    );
}

fn lazy(group: &mut Group<'_>, crowd: &Crowd) {
    bench(
        group,
        crowd,
        || armed::<ServerWheel>(crowd),
        |timers| {
            crowd.iter().for_each(|(id, at)| timers.insert(*id, at + MINUTE));
        },
    );
}

fn expire<T: Timers>(group: &mut Group<'_>, crowd: &Crowd) {
    bench(
        group,
        crowd,
        || armed::<T>(crowd),
        |timers| {
            let mut fired = 0;
            while let Some(now) = timers.next() {
                fired += timers.expire(now);
            }
            assert_eq!(fired, crowd.len());
        },
    );
}

fn unlink<T: Unlink>(group: &mut Group<'_>, crowd: &Crowd) {
    bench(
        group,
        crowd,
        || armed::<T>(crowd),
        |timers| {
            crowd.iter().for_each(|(id, at)| timers.unlink(*id, *at));
        },
    );
}

type Heap = BinaryHeap<Reverse<(u32, u32)>>;
type Tree = BTreeMap<(u32, u32), ()>;
type Plain = Crates<PlainWheel<u32>>;
type Cancellable = Crates<CancellableWheel>;

/// Benches every operation on every structure that supports it.
pub(crate) fn deadlines(criterion: &mut Criterion) {
    let crowds: Vec<Crowd> =
        super::sizes(&[1000, 100_000, 1_000_000]).into_iter().map(crowd).collect();
    let mut group = |name: &str, benches: &[fn(&mut Group<'_>, &Crowd)]| {
        let mut group = criterion.benchmark_group(format!("loop/deadlines/{name}"));
        // The largest crowds take 0.1 s per iteration, and longer to prepare.
        group.sample_size(10);
        for crowd in &crowds {
            benches.iter().for_each(|bench| bench(&mut group, crowd));
        }
        group.finish();
    };
    let (heap, tree) = (insert::<Heap>, insert::<Tree>);
    group("insert", &[insert::<ServerWheel>, heap, tree, insert::<Plain>, insert::<Cancellable>]);
    let (heap, tree) = (refresh::<Heap>, refresh::<Tree>);
    group(
        "refresh",
        &[refresh::<ServerWheel>, heap, tree, refresh::<Plain>, refresh::<Cancellable>],
    );
    group("lazy", &[lazy]);
    let (heap, tree) = (expire::<Heap>, expire::<Tree>);
    group("expire", &[expire::<ServerWheel>, heap, tree, expire::<Plain>, expire::<Cancellable>]);
    group("unlink", &[unlink::<ServerWheel>, unlink::<Tree>, unlink::<Cancellable>]);
}
