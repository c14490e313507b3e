use std::fmt;

/// Something that an exercise is about, which has to occur for a pass to mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Case {
    /// An answer of the right bytes.
    Answer,
    /// A call that said "would block".
    WouldBlock,
    /// A client that was accepted while others waited behind it.
    Queue,
    /// A `recv` that filled its buffer with more left behind.
    Remainder,
    /// A `recv` that stopped at an urgent mark.
    UrgentMark,
    /// A `send` that took a part.
    ShortSend,
    /// A `send` that found no room.
    NoRoom,
    /// The end of a client's stream.
    End,
    /// The end of a stream in one event with bytes before it.
    EndBehindData,
    /// The end of a stream while the answer was not sent.
    HalfClose,
    /// A connection that failed.
    Reset,
    /// A `recv` that returned a part of a message.
    Piece,
    /// A client that read nothing while its answer waited.
    Deaf,
    /// A connection whose time was up.
    TimeOut,
    /// A client whose deadline moved, because bytes came.
    MovedDeadline,
    /// A time in which the process was stopped.
    Jump,
    /// A client that sent more than its share of a turn.
    Flood,
    /// An event for a connection that is gone.
    StaleEvent,
    /// An event for an old owner of a token, while a new one had it.
    ReusedToken,
    /// A client that still sent when its answers were over.
    UnreadQuota,
    /// An `accept` that found no descriptor.
    NoDescriptor,
    /// A call that a signal interrupted.
    Interrupted,
}

impl Case {
    const COUNT: usize = Self::Interrupted as usize + 1;

    const ALL: [(Self, &'static str); Self::COUNT] = [
        (Self::Answer, "answers"),
        (Self::WouldBlock, "calls that would block"),
        (Self::Queue, "clients in a queue"),
        (Self::Remainder, "reads with a remainder"),
        (Self::UrgentMark, "reads up to an urgent mark"),
        (Self::ShortSend, "short sends"),
        (Self::NoRoom, "sends without room"),
        (Self::End, "ends"),
        (Self::EndBehindData, "ends behind data"),
        (Self::HalfClose, "ends before the answer was sent"),
        (Self::Reset, "failed connections"),
        (Self::Piece, "pieces of a message"),
        (Self::Deaf, "waits for a deaf reader"),
        (Self::TimeOut, "time-outs"),
        (Self::MovedDeadline, "moved deadlines"),
        (Self::Jump, "stopped processes"),
        (Self::Flood, "turns with a flood"),
        (Self::StaleEvent, "stale events"),
        (Self::ReusedToken, "events for a token's old owner"),
        (Self::UnreadQuota, "clients that send on"),
        (Self::NoDescriptor, "accepts without a descriptor"),
        (Self::Interrupted, "interrupted calls"),
    ];

    /// The case in words, in the plural.
    pub const fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// How often each [`Case`] occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met([u64; Case::COUNT]);

impl Met {
    pub(super) const fn count(&mut self, case: Case) {
        self.0[case as usize] += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// How often a case occurred.
    pub const fn of(&self, case: Case) -> u64 {
        self.0[case as usize]
    }
}

/// "37 short sends, 12 ends", the cases that occurred.
impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = Case::ALL.iter().filter(|(case, _)| self.of(*case) > 0);
        for (number, (case, words)) in met.enumerate() {
            write!(f, "{}{} {words}", if number > 0 { ", " } else { "" }, self.of(*case))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_stand_in_their_order() {
        for (index, (case, _)) in Case::ALL.iter().enumerate() {
            assert_eq!(*case as usize, index);
        }
        let mut met = Met::default();
        met.count(Case::ShortSend);
        met.count(Case::End);
        met.add(&met.clone());
        assert_eq!(met.to_string(), "2 short sends, 2 ends");
    }
}
