use std::collections::VecDeque;

/// One direction of a simulated connection: a sender's buffer, a receiver's window, urgent marks
/// and an end. Not a network: it keeps order and loses nothing.
#[derive(Debug)]
pub(super) struct Direction {
    /// The unread bytes that have arrived, then those in flight.
    bytes: VecDeque<u8>,
    arrived: usize,
    /// Maximum number of unread bytes that have arrived.
    window: usize,
    /// Maximum number of unread bytes, in flight or not.
    capacity: usize,
    /// Where an urgent byte was sent, as a distance from the front; it is not among the bytes.
    urgent_at: Option<usize>,
    tail: Tail,
}

/// The state behind the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// More may be sent.
    Open,
    /// The end, which has not arrived.
    EndUnderWay,
    /// The end, which has.
    EndArrived,
    /// Nothing, ever: the sender is gone.
    Cut,
}

impl Direction {
    /// A direction whose two ends hold this much together, the receiver's at most `window` of it.
    pub(super) fn new(capacity: usize, window: usize) -> Self {
        let (bytes, window) = (VecDeque::new(), window.clamp(1, capacity));
        Self { bytes, arrived: 0, window, capacity, urgent_at: None, tail: Tail::Open }
    }

    /// Takes as many bytes as there is room for. None of them has arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        if self.is_ended() {
            return 0;
        }
        let n = bytes.len().min(self.room());
        self.bytes.extend(&bytes[..n]);
        n
    }

    /// Marks the place behind the last byte. One mark at a time: a second one would turn the first
    /// urgent byte into an ordinary one.
    pub(super) fn push_urgent(&mut self) -> bool {
        let room = !self.is_ended() && self.urgent_at.is_none() && self.room() > 0;
        if room {
            self.urgent_at = Some(self.bytes.len());
        }
        room
    }

    /// Up to `limit` bytes arrive, as far as the window is open, and the end behind the last.
    /// True if that changed anything.
    pub(super) fn arrive(&mut self, limit: usize) -> bool {
        let more = limit.min(self.may_have_arrived() - self.arrived);
        self.arrived += more;
        let end = self.end_is_next();
        if end {
            self.tail = Tail::EndArrived;
        }
        more > 0 || end
    }

    /// Returns true if [`arrive`](Self::arrive) would change anything.
    pub(super) fn is_under_way(&self) -> bool {
        self.arrived < self.may_have_arrived() || self.end_is_next()
    }

    /// Bytes wait for the window to open: the sender asks from time to time whether it has.
    pub(super) fn has_no_window(&self) -> bool {
        self.bytes.len() > self.arrived && self.arrived >= self.window
    }

    /// Receives as recv(2) does: a read stops at the urgent mark, and the next goes past it.
    pub(super) fn read(&mut self, data: &mut [u8]) -> usize {
        let before_mark = match self.urgent_at {
            Some(at @ 1..) => at,
            Some(0) | None => self.arrived,
        };
        let n = data.len().min(before_mark).min(self.arrived);
        let (front, back) = self.bytes.as_slices();
        let in_front = n.min(front.len());
        data[..in_front].copy_from_slice(&front[..in_front]);
        data[in_front..n].copy_from_slice(&back[..n - in_front]);
        self.bytes.drain(..n);
        self.arrived -= n;
        self.urgent_at = match self.urgent_at {
            // A mark that was read up to stays until a read begins at it.
            Some(at @ 1..) => Some(at - n),
            Some(0) | None => None,
        };
        n
    }

    pub(super) fn end(&mut self) {
        if self.tail == Tail::Open {
            self.tail = Tail::EndUnderWay;
        }
    }

    /// The sender is gone: what has not arrived never will, and there is no end.
    pub(super) fn cut_off(&mut self) {
        self.bytes.truncate(self.arrived);
        self.urgent_at = self.urgent_at.filter(|at| *at <= self.arrived);
        if self.tail != Tail::EndArrived {
            self.tail = Tail::Cut;
        }
    }

    /// The sender may send no more.
    pub(super) fn is_ended(&self) -> bool {
        self.tail != Tail::Open
    }

    /// Something to read, or the end.
    pub(super) fn is_readable(&self) -> bool {
        self.arrived > 0 || self.tail == Tail::EndArrived
    }

    /// Returns true if a byte is unreceived, an urgent one included.
    pub(super) fn has_unread(&self) -> bool {
        !self.bytes.is_empty() || self.urgent_at.is_some()
    }

    /// Number of bytes that have arrived and are unread.
    pub(super) fn unread(&self) -> usize {
        self.arrived
    }

    pub(super) fn has_urgent(&self) -> bool {
        self.urgent_at.is_some_and(|at| at <= self.arrived)
    }

    /// The end is known, though bytes may come before it.
    pub(super) fn has_end(&self) -> bool {
        self.tail == Tail::EndArrived
    }

    /// The end has been reached.
    pub(super) fn is_at_end(&self) -> bool {
        self.tail == Tail::EndArrived && self.bytes.is_empty()
    }

    /// A third of the buffer is free: when Linux announces room after there was none.
    pub(super) fn has_room_again(&self) -> bool {
        self.room() * 3 >= self.capacity
    }

    /// The sender's next bytes would be taken, at least one of them.
    pub(super) fn has_room(&self) -> bool {
        !self.is_ended() && self.room() > 0
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    fn end_is_next(&self) -> bool {
        self.tail == Tail::EndUnderWay && self.arrived == self.bytes.len()
    }

    fn may_have_arrived(&self) -> usize {
        self.bytes.len().min(self.window)
    }
}
