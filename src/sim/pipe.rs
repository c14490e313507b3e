use std::collections::VecDeque;

/// One direction of a simulated connection: a queue with a limit, urgent marks and an end.
#[derive(Debug)]
pub(super) struct Direction {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// Where an urgent byte was sent, as a distance from the front; it is not among the bytes.
    urgent_at: Option<usize>,
    ended: bool,
}

impl Direction {
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, urgent_at: None, ended: false }
    }

    /// Takes as many bytes as there is room for.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        if self.ended {
            return 0;
        }
        let n = bytes.len().min(self.capacity - self.bytes.len().min(self.capacity));
        self.bytes.extend(&bytes[..n]);
        n
    }

    /// Marks the place behind the last byte. A later mark replaces an earlier one, as in TCP.
    pub(super) fn push_urgent(&mut self) -> bool {
        let room = !self.ended && self.bytes.len() < self.capacity;
        if room {
            self.urgent_at = Some(self.bytes.len());
        }
        room
    }

    /// Takes up to `limit` bytes, across any mark.
    pub(super) fn pop(&mut self, limit: usize) -> Vec<u8> {
        let n = limit.min(self.bytes.len());
        self.bytes.drain(..n).collect()
    }

    /// Receives as recv(2) does: a read stops at the urgent mark, and the next goes past it.
    pub(super) fn read(&mut self, data: &mut [u8]) -> usize {
        let before_mark = match self.urgent_at {
            Some(at @ 1..) => at,
            Some(0) | None => self.bytes.len(),
        };
        let n = data.len().min(before_mark);
        for (slot, byte) in data.iter_mut().zip(self.bytes.drain(..n)) {
            *slot = byte;
        }
        self.urgent_at = match self.urgent_at {
            // A mark that was read up to stays until a read begins at it.
            Some(at @ 1..) => Some(at - n),
            Some(0) | None => None,
        };
        n
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Something to read, or the end.
    pub(super) fn is_readable(&self) -> bool {
        !self.bytes.is_empty() || self.ended
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn has_urgent(&self) -> bool {
        self.urgent_at.is_some()
    }

    /// The end is known, though bytes may come before it.
    pub(super) fn has_end(&self) -> bool {
        self.ended
    }

    /// The end has been reached.
    pub(super) fn ended(&self) -> bool {
        self.ended && self.bytes.is_empty()
    }

    /// A third of the buffer is free: when Linux announces room after there was none.
    pub(super) fn has_room_again(&self) -> bool {
        (self.capacity - self.bytes.len().min(self.capacity)) * 3 >= self.capacity
    }
}
