use saltecho::lab::Code;

/// A mistake of real programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The answer is kept and never sent.
    NoAnswer,
    /// "Would block" is taken for a failure.
    CloseAtWouldBlock,
    /// The whole buffer is sent, whatever was received.
    WholeBuffer,
    /// An accepted stream is not registered.
    NeverRegister,
    /// One client per event.
    AcceptOnce,
    /// One read per event.
    ReadOnce,
    /// A short read is taken for the end of the input, without a look at the other bits.
    StopAtShortRead,
    /// A buffer larger than the exercise has.
    LargeBuffer,
    /// `send` is believed to take everything.
    DropTheRest,
    /// After a short send everything is sent again.
    SendAgain,
    /// Nothing is sent before a writable event.
    WaitForWritable,
    /// The client's end ends the connection.
    CloseAtTheEnd,
    /// The client's end is taken for "nothing yet".
    IgnoreTheEnd,
    /// The hang-up bit ends the connection.
    CloseAtHangUp,
    /// Each read is taken for a message.
    AnswerPieces,
    /// Reading goes on while the answer waits.
    ReadAlways,
    /// Reading never goes on after the answer waited.
    StayDeaf,
    /// Sleep without a limit.
    NoDeadline,
    /// The deadline is set when the client comes, and never again.
    FixedDeadline,
    /// The clock is read before the poll.
    StaleClock,
    /// Reading goes on until "would block", however long that takes.
    NoShare,
    /// After its share a connection waits for an event.
    ForgetTheRest,
    /// A token is believed to belong to a connection.
    ExpectTheToken,
    /// A token is used again, and the hang-up bit of its old owner believed.
    ReuseTokens,
    /// A buffer stays behind under a token that is used again.
    KeepTheBuffer,
    /// The connection is closed when the quota is sent.
    CloseWithoutShutdown,
    /// It is closed right after its shutdown.
    CloseAfterShutdown,
    /// It is neither shut down nor closed.
    NoShutdown,
    /// What the client still sends is not read.
    NoDrain,
    /// After an error of `accept` the loop waits for the next event.
    GiveUpAccepting,
    /// After an error of `accept` the loop tries again at once.
    RetryAtOnce,
    /// An interrupted call ends the connection.
    InterruptedEnds,
    /// An error of one connection ends the loop.
    OneErrorEndsAll,
}

/// Each mistake with an exercise that it fails, and the code of the verdict.
pub const WRONG: [(&str, Mistake, Code); 34] = [
    ("first-echo", Mistake::NoAnswer, Code::AnswerInHand),
    ("first-echo", Mistake::CloseAtWouldBlock, Code::ClosedWithoutCause),
    ("first-echo", Mistake::WholeBuffer, Code::WrongBytes),
    ("first-echo", Mistake::NeverRegister, Code::Forgotten),
    ("door", Mistake::AcceptOnce, Code::Door),
    ("drain", Mistake::ReadOnce, Code::UnreadInput),
    ("drain", Mistake::StopAtShortRead, Code::UnreadInput),
    ("drain", Mistake::LargeBuffer, Code::LargeBuffer),
    ("short-sends", Mistake::DropTheRest, Code::LostRest),
    ("short-sends", Mistake::SendAgain, Code::Repeated),
    ("short-sends", Mistake::WaitForWritable, Code::AnswerInHand),
    ("ends", Mistake::CloseAtTheEnd, Code::ClosedUnanswered),
    ("ends", Mistake::IgnoreTheEnd, Code::KeptEnded),
    ("ends", Mistake::CloseAtHangUp, Code::ClosedUnread),
    ("ends", Mistake::StopAtShortRead, Code::UnreadEnd),
    ("pieces", Mistake::AnswerPieces, Code::PartOfMessage),
    ("back-pressure", Mistake::ReadAlways, Code::OverLimit),
    ("back-pressure", Mistake::StayDeaf, Code::UnreadInput),
    ("deadlines", Mistake::NoDeadline, Code::PastDeadline),
    ("deadlines", Mistake::FixedDeadline, Code::TooEarly),
    ("deadlines", Mistake::StaleClock, Code::TooEarly),
    ("fairness", Mistake::NoShare, Code::HeldTheLoop),
    ("fairness", Mistake::ForgetTheRest, Code::UnreadInput),
    ("stale-events", Mistake::ExpectTheToken, Code::Ended),
    ("stale-events", Mistake::ReuseTokens, Code::ClosedWithoutCause),
    ("stale-events", Mistake::KeepTheBuffer, Code::AnotherClient),
    ("goodbye", Mistake::CloseWithoutShutdown, Code::ResetOvertakes),
    ("goodbye", Mistake::CloseAfterShutdown, Code::ResetOvertakes),
    ("goodbye", Mistake::NoShutdown, Code::NoEnd),
    ("goodbye", Mistake::NoDrain, Code::UnreadInput),
    ("bad-night", Mistake::GiveUpAccepting, Code::Famine),
    ("bad-night", Mistake::RetryAtOnce, Code::Spins),
    ("bad-night", Mistake::InterruptedEnds, Code::ClosedWithoutCause),
    ("bad-night", Mistake::OneErrorEndsAll, Code::Ended),
];
