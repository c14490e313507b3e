//! A snapshot that a replayed loop takes, compared with the recorded one.

use std::io::Read;

use super::ReplayKernel;
use crate::auth::KeyId;
use crate::proto::Disguise;
use crate::reactor::{Parts, SnapshotTaker, WritePresence};
use crate::trace::decode::Data;
use crate::trace::snapshot::OfReplay;
use crate::trace::{Event, Stream};

/// Compares a snapshot of the loop with the recorded one.
pub(super) struct Comparison<'a, R> {
    kernel: &'a mut ReplayKernel<R>,
    turns: u64,
}

impl<'a, R> Comparison<'a, R> {
    pub(super) const fn new(kernel: &'a mut ReplayKernel<R>) -> Self {
        Self { kernel, turns: 0 }
    }
}

impl<R: Read> SnapshotTaker<Stream> for Comparison<'_, R> {
    fn begin(&mut self, turns: u64, _settings: &str, _keys: &[KeyId]) {
        self.turns = turns;
    }

    fn server(&mut self, connections: usize, write: &mut dyn FnMut(&mut dyn Disguise, &mut Parts)) {
        if !self.kernel.compares {
            return;
        }
        let mut parts = Parts::default();
        write(&mut OfReplay, &mut parts);
        let (turns, at) = (self.turns, self.kernel.now);
        let event = Event::Snapshot { turns, at, connections: connections as u64 };
        self.kernel.compare_part(&event, &parts);
    }

    fn connection(&mut self, stream: &Stream, write: &mut WritePresence<'_>) -> Result<(), String> {
        if !self.kernel.compares {
            return Ok(());
        }
        let mut parts = Parts::default();
        let presence = write(&mut OfReplay, &mut parts)?;
        self.kernel.compare_part(&Event::Present(*stream, presence), &parts);
        Ok(())
    }
}

impl<R: Read> ReplayKernel<R> {
    /// Compares a part of a snapshot with the recorded one.
    fn compare_part(&mut self, event: &Event, parts: &Parts) {
        let recorded = self.next().clone();
        let is_same = match (&recorded, event) {
            // Readings that time turns are left out where there is an admin endpoint.
            (
                Event::Snapshot { turns: one, connections: their, .. },
                Event::Snapshot { turns: other, connections: own, .. },
            ) => (one, their) == (other, own),
            (recorded, event) => recorded == event,
        };
        let ahead = self.reader.peek().ok().flatten();
        let state = ahead.map(|ahead| match &ahead.data {
            Data::Parts(recorded) => recorded.state == parts.state,
            _ => false,
        });
        if !is_same || state != Some(true) {
            let called = format!("{}, in another state", event.call());
            let stream = match event {
                Event::Present(stream, _) => Some(*stream),
                _ => None,
            };
            self.differ(called, stream);
        }
        self.take();
    }
}
