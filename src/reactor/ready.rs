/// The calls that a socket is believed ready for: hints that events set and only results
/// of calls clear.
///
/// Readiness is edge-triggered: an event comes once, so the bit must stay until a call has said
/// "would block". A bit that is set wrongly costs one such call; one that is cleared wrongly
/// strands the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(u8);

impl Ready {
    /// Nothing is known.
    pub const NONE: Self = Self(0);
    /// `recv` (or `accept`) may find something.
    pub const READABLE: Self = Self(1);
    /// `send` may find room.
    pub const WRITABLE: Self = Self(2);
    /// The peer's stream has ended or the connection failed. That edge will not come again, so
    /// this bit is never cleared: reading goes on until `recv` itself says how it ended.
    pub const CLOSED: Self = Self(4);
    /// Urgent data arrived. A `recv` stops short at the urgent mark though more is behind it.
    pub const PRIORITY: Self = Self(8);

    /// Everything that a call can find out, for a socket about which nothing is known: the end of the
    /// stream, which no call clears, is announced when the socket is registered.
    pub const UNKNOWN: Self = Self(Self::READABLE.0 | Self::WRITABLE.0 | Self::PRIORITY.0);

    /// Returns true if all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds the bits of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `recv` or `accept` said "would block".
    pub const fn read_would_block(&mut self) {
        self.0 &= !(Self::READABLE.0 | Self::PRIORITY.0);
    }

    /// `send` said "would block".
    pub const fn write_would_block(&mut self) {
        self.0 &= !Self::WRITABLE.0;
    }

    /// `recv` returned fewer bytes than it was asked for.
    ///
    /// On epoll that means the queue is empty (epoll(7), question 9) and saves a call that would
    /// only say "would block", with two exceptions in which more is to come without another
    /// event: the end of the stream behind the data, and data behind an urgent mark.
    pub const fn short_read(&mut self) {
        if self.0 & (Self::CLOSED.0 | Self::PRIORITY.0) == 0 {
            self.0 &= !Self::READABLE.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ready;

    #[test]
    fn a_short_read_ends_reading_unless_more_is_due_without_an_event() {
        for (before, readable_after) in [
            (Ready::READABLE, false),
            (Ready::READABLE.union(Ready::WRITABLE), false),
            (Ready::READABLE.union(Ready::CLOSED), true),
            (Ready::READABLE.union(Ready::PRIORITY), true),
        ] {
            let mut ready = before;
            ready.short_read();
            assert_eq!(ready.has(Ready::READABLE), readable_after, "{before:?}");
        }
    }

    #[test]
    fn would_block_clears_its_own_direction_and_never_the_closed_bit() {
        let all = Ready(15);
        assert_eq!(all.union(Ready::READABLE), all);
        let mut ready = all;
        ready.read_would_block();
        assert_eq!(ready, Ready::WRITABLE.union(Ready::CLOSED));
        ready = all;
        ready.write_would_block();
        assert_eq!(ready, Ready::READABLE.union(Ready::CLOSED).union(Ready::PRIORITY));
    }
}
