//! Deadlines: a hierarchical timing wheel (Varghese and Lauck, 1987) whose lists run through the
//! timed things themselves.
//!
//! Every operation is O(1), a deadline costs twelve bytes in its owner's slot, and a connection
//! that ends is unlinked at once instead of staying until its old deadline. An echo does not
//! touch the wheel at all: a deadline that has moved to later is found to have done so when the
//! old one fires, and armed again.

use crate::proto::wire::{Reader, put_number};
use crate::python::Monotonic;

/// One tick is 2^20 ns, about a millisecond: the resolution of epoll_wait, and a shift instead of
/// a division.
const TICK_BITS: u32 = 20;
/// Buckets of a level: one bit each in a word.
const BUCKETS: u32 = 64;
const DIGIT_BITS: u32 = 6;
/// 64^6 ticks are two years; deadlines are cut off at [`HORIZON`] long before.
const LEVELS: u32 = 6;
/// Twenty-six days in ticks. A deadline beyond it fires then, is found early, and armed again.
const HORIZON: u64 = 1 << 31;

/// Marks the end of a list.
const END: u32 = u32::MAX;
/// In `prev`: the rest is the number of the bucket whose list starts here.
const HEAD: u32 = 1 << 31;

/// A place in the wheel, kept in the slot of the deadline's owner.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The neighbor before, or `HEAD` and a bucket, or `END`: in no list.
    prev: u32,
    next: u32,
    /// The low half of the tick; the wheel's own position supplies the rest.
    tick: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { prev: END, next: END, tick: 0 }
    }
}

impl Link {
    /// Returns true if a deadline is armed.
    pub fn is_armed(&self) -> bool {
        self.prev != END
    }
}

/// The owner of the links, by index.
pub trait Links {
    /// The link with this index, which must exist.
    fn link(&mut self, index: u32) -> &mut Link;
}

/// The result of one step of the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The deadline of this index has come; it is no longer armed.
    Due(u32),
    /// A deadline was moved nearer to its place.
    Moved,
    /// Nothing is due.
    Done,
}

/// The deadlines of one loop. It knows indices and ticks, not what they belong to.
#[derive(Debug)]
pub struct Wheel {
    /// No armed deadline lies before this tick.
    position: u64,
    occupied: [u64; LEVELS as usize],
    heads: [u32; (LEVELS * BUCKETS) as usize],
}

impl Wheel {
    /// A wheel without deadlines.
    pub fn new() -> Self {
        Self {
            position: 0,
            occupied: [0; LEVELS as usize],
            heads: [END; (LEVELS * BUCKETS) as usize],
        }
    }

    /// The same for a clock that has come this far already.
    pub fn starting_at(now: Monotonic) -> Self {
        Self { position: now.as_nanos() >> TICK_BITS, ..Self::new() }
    }

    /// The number of armed deadlines, counted one by one.
    #[cfg(any(test, feature = "testing"))]
    pub fn armed(&self, link: impl Fn(u32) -> Link) -> usize {
        let after = |index: &u32| Some(link(*index).next).filter(|next| *next != END);
        let heads = self.heads.iter().copied().filter(|head| *head != END);
        heads.map(|head| std::iter::successors(Some(head), after).count()).sum()
    }

    /// Arms `index`, which is not armed.
    #[inline]
    pub(crate) fn arm(&mut self, links: &mut impl Links, index: u32, deadline: Monotonic) {
        debug_assert!(!links.link(index).is_armed(), "armed twice");
        self.insert(links, index, self.tick_of(deadline));
    }

    /// Makes sure that `index` fires at `deadline` or before. The caller arms one that fires before
    /// again, which is cheaper than moving it at each activity.
    #[inline(always)] // It has one caller, in which the rest of it stays in registers.
    pub fn arm_by(&mut self, links: &mut impl Links, index: u32, deadline: Monotonic) {
        let tick = self.tick_of(deadline);
        let link = *links.link(index);
        if link.is_armed() {
            if self.full_tick(link.tick) <= tick {
                return;
            }
            self.disarm(links, index);
        }
        self.insert(links, index, tick);
    }

    /// Returns true if a link is armed so that it fires at `deadline` or before.
    #[inline]
    pub fn is_armed_by(&self, link: &Link, deadline: Monotonic) -> bool {
        // The alarm's tick is not after the one that begins at or after the deadline.
        let latest = deadline.as_nanos().saturating_add((1 << TICK_BITS) - 1);
        link.is_armed() && self.full_tick(link.tick) << TICK_BITS <= latest
    }

    /// The tick that begins at or after a deadline, if the wheel reaches that far.
    #[inline]
    fn tick_of(&self, deadline: Monotonic) -> u64 {
        ceil_tick(deadline).clamp(self.position, self.position + HORIZON)
    }

    /// Forgets the deadline of `index`, if it has one.
    pub fn disarm(&mut self, links: &mut impl Links, index: u32) {
        let link = *links.link(index);
        if link.is_armed() {
            self.unlink(links, link);
            *links.link(index) = Link::default();
        }
    }

    /// Takes a link out of its list, or one that its owner took along.
    pub(crate) fn unlink(&mut self, links: &mut impl Links, link: Link) {
        if link.next != END {
            links.link(link.next).prev = link.prev;
        }
        if link.prev & HEAD == 0 {
            links.link(link.prev).next = link.next;
        } else {
            let bucket = link.prev & !HEAD;
            self.heads[bucket as usize] = link.next;
            if link.next == END {
                self.occupied[(bucket / BUCKETS) as usize] &= !(1 << (bucket % BUCKETS));
            }
        }
    }

    /// When a link's deadline fires, if it is armed.
    pub fn alarm(&self, link: &Link) -> Option<Monotonic> {
        link.is_armed().then(|| Monotonic::from_nanos(self.full_tick(link.tick) << TICK_BITS))
    }

    /// A time before which [`step`](Self::step) has nothing to do, if there is any deadline.
    pub fn next_step(&self) -> Option<Monotonic> {
        self.first_bucket().map(|(tick, _)| Monotonic::from_nanos(tick << TICK_BITS))
    }

    /// Writes all deadlines for a snapshot, in the order of their lists.
    pub(crate) fn park(&self, link: impl Fn(u32) -> Link, out: &mut Vec<u8>) {
        put_number(out, self.position);
        for (bucket, head) in (1..).zip(self.heads) {
            let next = |index: u32| (index != END).then_some(index);
            let list = std::iter::successors(next(head), |index| next(link(*index).next));
            let list: Vec<u32> = list.collect();
            if list.is_empty() {
                continue;
            }
            put_number(out, bucket);
            put_number(out, list.len() as u64);
            for index in list {
                put_number(out, index.into());
                put_number(out, self.full_tick(link(index).tick) - self.position);
            }
        }
        put_number(out, 0);
    }

    /// Reads what [`park`](Self::park) wrote, for links of which none is armed. `None` if that is
    /// impossible.
    pub(crate) fn unpark<L: Links>(
        reader: &mut Reader<'_>,
        links: &mut L,
        exists: impl Fn(&L, u32) -> bool,
    ) -> Option<Self> {
        let position = reader.number().filter(|position| *position <= u64::MAX >> TICK_BITS)?;
        let mut wheel = Self { position, ..Self::new() };
        while let bucket @ 1.. = reader.small::<u32>()? {
            let bucket = (bucket - 1 < LEVELS * BUCKETS).then_some(bucket - 1)?;
            let mut list = Vec::new();
            for _ in 0..reader.number()? {
                let index = reader.small().filter(|index| exists(links, *index))?;
                let ahead = reader.number().filter(|ahead| *ahead <= HORIZON)?;
                list.push((index, position + ahead));
            }
            for (index, tick) in list.into_iter().rev() {
                let is_new = !links.link(index).is_armed();
                is_new.then(|| wheel.put(links, bucket, index, tick))?;
            }
        }
        Some(wheel)
    }

    /// Handles one deadline that has come, or moves one nearer to its place. Never early: a
    /// deadline is due in the tick that begins at or after it.
    ///
    /// A crowd that is due at once is thereby handled in slices of the caller's size.
    pub fn step(&mut self, links: &mut impl Links, now: Monotonic) -> Step {
        let now = now.as_nanos() >> TICK_BITS;
        let Some((tick, bucket)) = self.first_bucket().filter(|(tick, _)| *tick <= now) else {
            self.position = self.position.max(now);
            return Step::Done;
        };
        self.position = tick;
        let index = self.heads[bucket as usize];
        let due = self.full_tick(links.link(index).tick);
        self.disarm(links, index);
        if due <= tick {
            return Step::Due(index);
        }
        self.insert(links, index, due);
        Step::Moved
    }

    fn insert(&mut self, links: &mut impl Links, index: u32, tick: u64) {
        self.put(links, bucket_of(self.position, tick), index, tick);
    }

    #[allow(clippy::cast_possible_truncation)] // The low half is what a link keeps.
    fn put(&mut self, links: &mut impl Links, bucket: u32, index: u32, tick: u64) {
        let next = std::mem::replace(&mut self.heads[bucket as usize], index);
        if next != END {
            links.link(next).prev = index;
        }
        *links.link(index) = Link { prev: HEAD | bucket, next, tick: tick as u32 };
        self.occupied[(bucket / BUCKETS) as usize] |= 1 << (bucket % BUCKETS);
    }

    /// A tick is never before the position, nor 2^32 after it, so its low half is enough.
    #[allow(clippy::cast_possible_truncation)]
    fn full_tick(&self, low: u32) -> u64 {
        self.position + u64::from(low.wrapping_sub(self.position as u32))
    }

    /// The occupied bucket that comes first, and the tick at which its turn is.
    ///
    /// Among equals the highest level comes first: what lies there may belong before what lies
    /// below.
    fn first_bucket(&self) -> Option<(u64, u32)> {
        let mut first: Option<(u64, u32)> = None;
        for level in (0..LEVELS).rev() {
            let occupied = self.occupied[level as usize];
            if occupied == 0 {
                continue;
            }
            let shift = level * DIGIT_BITS;
            let here = digit(self.position, level);
            let ahead = occupied.rotate_right(here).trailing_zeros();
            // Never before the position: what lies here on a higher level was moved down when the
            // position came to where its bucket begins.
            let tick = ((self.position >> shift) + u64::from(ahead)) << shift;
            if first.is_none_or(|(earliest, _)| tick < earliest) {
                first = Some((tick, level * BUCKETS + (here + ahead) % BUCKETS));
            }
        }
        first
    }
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

/// The tick that begins at or after `deadline`.
fn ceil_tick(deadline: Monotonic) -> u64 {
    deadline.as_nanos().div_ceil(1 << TICK_BITS)
}

#[allow(clippy::cast_possible_truncation)] // A digit has six bits.
fn digit(tick: u64, level: u32) -> u32 {
    (tick >> (level * DIGIT_BITS)) as u32 % BUCKETS
}

/// A tick lies on the level of the highest base-64 digit in which it differs from the position.
fn bucket_of(position: u64, tick: u64) -> u32 {
    let highest_bit = (position ^ tick).checked_ilog2().unwrap_or(0);
    let level = (highest_bit / DIGIT_BITS).min(LEVELS - 1);
    level * BUCKETS + digit(tick, level)
}

/// A deadline costs its owner no more than this.
const _: () = assert!(size_of::<Link>() <= 12);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 1 << TICK_BITS;

    impl Links for Vec<Link> {
        fn link(&mut self, index: u32) -> &mut Link {
            &mut self[index as usize]
        }
    }

    fn at_tick(tick: u64) -> Monotonic {
        Monotonic::from_nanos(tick << TICK_BITS)
    }

    /// Every index that is due at `now`, in the order in which the wheel gives them.
    fn due(wheel: &mut Wheel, links: &mut Vec<Link>, now: Monotonic) -> Vec<u32> {
        std::iter::from_fn(|| Some(wheel.step(links, now)))
            .take_while(|step| *step != Step::Done)
            .filter_map(|step| if let Step::Due(index) = step { Some(index) } else { None })
            .collect()
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        let mut links = vec![Link::default()];
        for nanos in [1, TICK - 1, TICK, TICK + 1, 63 * TICK, 64 * TICK, 64 * TICK + 1, 1 << 60] {
            let mut wheel = Wheel::new();
            let deadline = Monotonic::from_nanos(nanos);
            // Beyond the horizon a deadline fires early and is armed again.
            let mut now = Monotonic::ZERO;
            loop {
                wheel.arm_by(&mut links, 0, deadline);
                loop {
                    let next = wheel.next_step().expect("one is armed");
                    assert!(next >= now, "time runs backwards");
                    now = next;
                    if wheel.step(&mut links, now) == Step::Due(0) {
                        break;
                    }
                }
                if now >= deadline {
                    break;
                }
            }
            assert!(now.since(deadline).as_nanos() < u128::from(TICK), "{nanos} ns");
            assert_eq!(wheel.armed(|index| links[index as usize]), 0);
        }
    }

    #[test]
    fn a_later_deadline_costs_nothing_and_an_earlier_one_moves() {
        let (mut wheel, mut links) = (Wheel::new(), vec![Link::default()]);
        wheel.arm_by(&mut links, 0, at_tick(100));
        let before = format!("{wheel:?}{links:?}");
        wheel.arm_by(&mut links, 0, at_tick(5000));
        assert_eq!(format!("{wheel:?}{links:?}"), before);
        wheel.arm_by(&mut links, 0, at_tick(7));
        assert_eq!(due(&mut wheel, &mut links, at_tick(6)), [0_u32; 0]);
        assert_eq!(due(&mut wheel, &mut links, at_tick(7)), [0]);
    }

    #[test]
    fn an_alarm_is_told_as_long_as_it_is_armed() {
        let (mut wheel, mut links) = (Wheel::new(), vec![Link::default()]);
        assert_eq!(wheel.alarm(&links[0]), None);
        wheel.arm_by(&mut links, 0, at_tick(100));
        assert_eq!(wheel.alarm(&links[0]), Some(at_tick(100)));
        wheel.disarm(&mut links, 0);
        assert_eq!(wheel.alarm(&links[0]), None);
    }

    #[test]
    fn an_alarm_serves_every_deadline_from_its_tick_on() {
        let (mut wheel, mut links) = (Wheel::new(), vec![Link::default()]);
        assert!(!wheel.is_armed_by(&links[0], at_tick(100)));
        wheel.arm_by(&mut links, 0, at_tick(100));
        for (nanos, is_armed) in [(0, false), (1, true), (TICK, true), (TICK + 1, true)] {
            let deadline = Monotonic::from_nanos(99 * TICK + nanos);
            assert_eq!(wheel.is_armed_by(&links[0], deadline), is_armed, "{nanos} ns after a tick");
        }
    }

    #[test]
    fn a_wheel_that_cannot_be_is_refused() {
        let last = u64::from(LEVELS * BUCKETS);
        let read = |position: u64, bucket: u64, links: &[(u64, u64)]| {
            let mut bytes = Vec::new();
            put_number(&mut bytes, position);
            put_number(&mut bytes, bucket);
            put_number(&mut bytes, links.len() as u64);
            for (index, ahead) in links {
                put_number(&mut bytes, *index);
                put_number(&mut bytes, *ahead);
            }
            put_number(&mut bytes, 0);
            let mut slots = vec![Link::default(); 2];
            let exists = |links: &Vec<Link>, index| (index as usize) < links.len();
            Wheel::unpark(&mut Reader::new(&bytes), &mut slots, exists).is_some()
        };
        let latest = u64::MAX >> TICK_BITS;
        assert!(read(latest - HORIZON, 1, &[(0, 0), (1, HORIZON)]));
        assert!(read(0, last, &[(1, HORIZON)]));
        assert!(read(latest, 1, &[(0, 0)]));
        assert!(!read(latest + 1, 1, &[(0, 0)]), "a position after the last");
        assert!(!read(0, last + 1, &[(0, 0)]), "a bucket after the last");
        assert!(!read(0, 1, &[(2, 0)]), "a link that is not there");
        assert!(!read(0, 1, &[(0, HORIZON + 1)]), "a deadline behind the horizon");
        assert!(!read(0, 1, &[(0, 0), (0, 1)]), "a link in two places");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, u64),
        Disarm(u32),
        Advance(u64),
    }

    /// Distances that reach every level, and land on and around their edges.
    fn distance() -> impl Strategy<Value = u64> {
        (0..=31u32, -2..=2i64).prop_map(|(bit, off)| (1u64 << bit).saturating_add_signed(off))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..16u32, distance()).prop_map(|(index, ahead)| Op::Arm(index, ahead)),
            1 => (0..16u32).prop_map(Op::Disarm),
            3 => distance().prop_map(Op::Advance),
        ]
    }

    proptest! {
        /// The wheel against a map from index to tick, from positions next to each wrap.
        #[test]
        fn agrees_with_a_sorted_map(
            start in prop_oneof![Just(0), Just((1u64 << 32) - 3), Just((1 << 36) - 3), Just(1 << 43)],
            ops in proptest::collection::vec(op(), 1..80),
        ) {
            let (mut wheel, mut links) = (Wheel::new(), vec![Link::default(); 16]);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = start;
            prop_assert_eq!(wheel.step(&mut links, at_tick(now)), Step::Done);
            for op in ops {
                match op {
                    Op::Arm(index, ahead) => {
                        wheel.arm_by(&mut links, index, at_tick(now + ahead));
                        let tick = now + ahead.min(HORIZON);
                        let earliest = model.entry(index).or_insert(tick);
                        *earliest = tick.min(*earliest);
                    }
                    Op::Disarm(index) => {
                        wheel.disarm(&mut links, index);
                        model.remove(&index);
                    }
                    Op::Advance(by) => {
                        now += by;
                        let mut fired = due(&mut wheel, &mut links, at_tick(now));
                        fired.sort_unstable();
                        let expected: Vec<u32> =
                            model.iter().filter(|(_, tick)| **tick <= now).map(|(i, _)| *i).collect();
                        model.retain(|_, tick| *tick > now);
                        prop_assert_eq!(fired, expected);
                    }
                }
                prop_assert_eq!(wheel.armed(|index| links[index as usize]), model.len());
                // A copy has the same lists in the same order.
                let (mut parked, mut copied) = (Vec::new(), vec![Link::default(); 16]);
                wheel.park(|index| links[index as usize], &mut parked);
                let mut reader = Reader::new(&parked);
                let copy = Wheel::unpark(&mut reader, &mut copied, |_, index| index < 16);
                let copy = copy.filter(|_| reader.rest().is_empty());
                prop_assert_eq!(
                    format!("{:?} {copied:?}", copy.expect("it is possible")),
                    format!("{wheel:?} {links:?}")
                );
                match (wheel.next_step(), model.values().min()) {
                    (None, None) => {}
                    (Some(next), Some(&tick)) => prop_assert!(next <= at_tick(tick.max(now))),
                    (next, model) => prop_assert!(false, "{next:?} against {model:?}"),
                }
            }
        }
    }
}
