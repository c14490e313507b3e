//! Commands from other threads and from signals, carried out by the loop.

use bytes::Bytes;

use super::handle::Command;
use super::{ConnId, Server};
use crate::proto::{CloseReason, Handler};
use crate::reactor::Kernel;

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    pub(super) fn handle_commands(&mut self) {
        self.lag.time_this_turn();
        for command in self.inbox.take() {
            match command {
                Command::Drain => self.drain(),
                Command::Stop => self.end_all(CloseReason::Stopped),
                Command::ReplaceKeyring(keyring) => self.replace_keyring(*keyring),
                Command::Reconfigure(change) => self.reconfigure(*change),
                Command::KeepRecords(keep) => self.keep_records(keep),
                Command::Push(id, message) => self.push(id, message),
                Command::Reload => drop(self.reload()),
                Command::Visit(errand) => errand.run(self),
                Command::Park => self.parked = self.is_ready(),
                Command::Stats(collector) => collector.add(self.stats()),
            }
        }
    }

    fn push(&mut self, id: ConnId, message: Bytes) {
        self.reactor.requeue(id);
        let now = self.reactor.now();
        let taken = self.reactor.slots.get_mut(id).is_some_and(|slot| {
            let connection = &mut slot.connection;
            let before = connection.unsent();
            let taken = connection.push(&self.config, message, now);
            // One that this ended loses them later, with the rest of its memory.
            let after = connection.unsent() + connection.undelivered();
            self.stats.backlog_bytes += (after - before) as u64;
            taken
        });
        match taken {
            true => self.stats.pushed += 1,
            false => self.stats.pushes_dropped += 1,
        }
    }
}
