//! What a server tells of itself while it runs. Each decision about a client is one [`Note`], for the
//! kernel, which may keep an account of the run, and for the program.

use super::{Record, Server};
use crate::proto::{Handler, guarded};
use crate::reactor::{Kernel, Note};

/// Hears the notes about clients; see [`Server::set_observer`].
pub(super) type Observer = Box<dyn FnMut(&Note, Option<&Record>) + Send>;

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Calls `observer` with each [`Note`] about a client from now on, never for single messages. With it
    /// comes the record of the connection as it stands, if the server [keeps](Self::keep_records) them.
    ///
    /// It is called from the loop, so it must not block: all connections wait for it. If it panics,
    /// that is counted ([`Stats::observer_panics`](super::Stats)), and it is called again next time.
    pub fn set_observer(&mut self, observer: impl FnMut(&Note, Option<&Record>) + Send + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// Tells a decision. Without an observer, and over a kernel that keeps no account, the note is not
    /// even made.
    #[inline]
    pub(super) fn tell(&mut self, note: impl FnOnce() -> Note) {
        match self.observer {
            None => self.reactor.kernel.note(note),
            Some(_) => self.tell_observer(&note()),
        }
    }

    #[inline(never)]
    fn tell_observer(&mut self, note: &Note) {
        self.reactor.kernel.note(|| note.clone());
        let record = note.connection().and_then(|id| self.record_of(id));
        if let Some(observer) = &mut self.observer
            && guarded(|| observer(note, record.as_ref())).is_none()
        {
            self.stats.observer_panics += 1;
        }
    }
}
