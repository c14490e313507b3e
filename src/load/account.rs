use super::{Dial, ErrorKind, Interval, Load, Mode, Part, Standing};
use crate::python::Monotonic;

/// What is told of a load.
impl<K: Dial> Load<K> {
    /// Reports the interval that ends here and begins the next.
    pub(super) fn report(
        &mut self,
        part: Part,
        ends: Option<Monotonic>,
        on_interval: &mut impl FnMut(Interval),
    ) {
        let now = self.polled;
        let record = std::mem::take(&mut self.record);
        self.total.merge(&record);
        on_interval(Interval {
            start: self.interval_began.since(self.began),
            length: now.since(self.interval_began),
            part,
            record,
            standing: self.count_standing(),
            left: ends.map(|end| end.since(now)),
        });
        self.interval_began = now;
    }

    pub(super) fn count_standing(&self) -> Standing {
        let mut standing = Standing::default();
        for id in self.slots.ids() {
            let session = &self.slots.get(id).expect("it was just listed").connection;
            let place = match () {
                () if session.is_connecting() => &mut standing.connecting,
                () if !session.has_authenticated() => &mut standing.authenticating,
                () if session.is_busy() => &mut standing.busy,
                () => &mut standing.quiet,
            };
            *place += 1;
        }
        let dialled = usize::try_from(self.dialled).unwrap_or(usize::MAX);
        standing.ended = dialled - self.slots.len();
        standing.waiting = match self.pacing.mode {
            Mode::Connect => usize::try_from(self.cycles_due).unwrap_or(usize::MAX),
            Mode::Echo | Mode::Idle => self.terms.plan.connections - dialled,
        };
        standing
    }

    /// The end: whatever is still owed was too late, and has waited until now.
    pub(super) fn finish(&mut self, now: Monotonic) {
        debug_assert_eq!(self.part, Part::Drain);
        for began in self.clocks_of_the_owed() {
            let main = self.pacing.mode.main_series().expect("something is owed");
            self.record.note(main, now.since(began));
            self.record.counts.errors.add(ErrorKind::Late, 1);
            self.owed -= 1;
        }
        debug_assert_eq!(self.owed, 0);
    }

    /// When the clock of each message began that is owed.
    fn clocks_of_the_owed(&self) -> Vec<Monotonic> {
        let mut clocks = Vec::new();
        for id in self.slots.ids() {
            let session = &self.slots.get(id).expect("it was just listed").connection;
            match self.pacing.mode {
                Mode::Echo => clocks.extend(session.owed().filter_map(|(message, sent)| {
                    self.pacing.due_at(session.number, message).or(sent)
                })),
                Mode::Connect if !session.has_authenticated() => {
                    clocks.push(self.pacing.due_at(session.number, 0).unwrap_or(session.dialled));
                }
                Mode::Connect | Mode::Idle => {}
            }
        }
        let not_begun = self.dialled..self.dialled + self.cycles_due;
        clocks.extend(not_begun.filter_map(|cycle| self.pacing.due_at(cycle, 0)));
        clocks
    }
}
