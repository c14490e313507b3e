//! Mistakes as stories: one script, a loop with the mistake, and the same loop without it.

use saltecho::lab::{Act, Code, Exercise, Run, Script, run};
use saltecho::sim::Faults;

use crate::mistakes::Mistake;
use crate::model;

/// A story: what is believed, what happens, and the rule. The run with the mistake stops at the step from
/// which on nothing can save it.
pub struct Story {
    /// Its name in links.
    pub name: &'static str,
    /// The wrong belief.
    pub belief: &'static str,
    /// The rule that cures it.
    pub rule: &'static str,
    /// The file in which the server keeps the rule.
    pub source: &'static str,
    /// The exercise whose rules hold, and that trains the cure.
    pub exercise: &'static str,
    /// The mistake that the belief leads to.
    pub mistake: Mistake,
    /// The code of the fault.
    pub code: Code,
    acts: &'static [Act],
    /// Bytes in each direction, and in the window.
    buffers: [usize; 3],
    faults: Faults,
}

/// A story's two runs.
pub struct Told {
    /// With the mistake. Its fault names the step to stop at.
    pub wrong: Run,
    /// Without it.
    pub cured: Run,
}

impl Story {
    /// The script of both runs.
    pub fn script(&self) -> Script {
        let [to_server, to_client, window] = self.buffers;
        let faults = self.faults.clone();
        Script { to_server, to_client, window, faults, ..Script::new(self.acts.to_vec()) }
    }

    /// Runs both loops.
    ///
    /// # Panics
    /// If the exercise does not exist.
    pub fn tell(&self) -> Told {
        let rules = Exercise::find(self.exercise).expect("the exercise exists").rules;
        let tell = |mistake| {
            run(&self.script(), rules, |kernel| model::serve(kernel, &mut (), &rules, mistake))
                .expect("no wire is involved")
        };
        Told { wrong: tell(Some(self.mistake)), cured: tell(None) }
    }
}

const ROOM: [usize; 3] = [1 << 13, 1 << 13, 1 << 13];

const NO_FAULTS: Faults = Faults::none();

use Act::{Connect, Finish, Resume, Send, Stall, Turn, Urgent, Wait};

/// The stories, in the order in which one leads to the next.
pub const STORIES: [Story; 17] = [
    Story {
        name: "one-read",
        belief: "One event, one read.",
        rule: "Read until WouldBlock, or queue up again: the rest gets no event.",
        source: "src/server/pump.rs",
        exercise: "drain",
        mistake: Mistake::ReadOnce,
        code: Code::UnreadInput,
        acts: &[Connect, Wait(0), Send(0, 1000)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "end-behind-data",
        belief: "A short read has emptied the queue.",
        rule: "Not if an end is announced: read on until recv returns 0.",
        source: "src/reactor/ready.rs",
        exercise: "ends",
        mistake: Mistake::StopAtShortRead,
        code: Code::UnreadEnd,
        acts: &[Connect, Wait(0), Send(0, 5), Finish(0)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "urgent-byte",
        belief: "A short read has emptied the queue, at least without an end.",
        rule: "A read stops at the urgent mark, and more stands behind it.",
        source: "src/reactor/ready.rs",
        exercise: "drain",
        mistake: Mistake::StopAtShortRead,
        code: Code::UnreadInput,
        acts: &[Connect, Wait(0), Send(0, 100), Wait(0), Send(0, 50), Urgent(0), Send(0, 60)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "tail-of-accept",
        belief: "One event, one client.",
        rule: "Accept until WouldBlock, or remember that clients wait.",
        source: "src/server/accept.rs",
        exercise: "door",
        mistake: Mistake::AcceptOnce,
        code: Code::Door,
        acts: &[Connect, Connect, Connect],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "full-window",
        belief: "send takes everything.",
        rule: "Keep what it did not take, and send that first.",
        source: "src/proto/backlog.rs",
        exercise: "short-sends",
        mistake: Mistake::DropTheRest,
        code: Code::LostRest,
        acts: &[Connect, Wait(0), Stall(0), Send(0, 200), Wait(0), Resume(0)],
        buffers: [1 << 12, 130, 1 << 12],
        faults: NO_FAULTS,
    },
    Story {
        name: "writable-first",
        belief: "A writable event starts a write.",
        rule: "Send at once; wait only after send found no room.",
        source: "src/server/pump.rs",
        exercise: "short-sends",
        mistake: Mistake::WaitForWritable,
        code: Code::AnswerInHand,
        acts: &[Connect, Send(0, 4), Wait(0), Send(0, 4)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "zero-is-nothing",
        belief: "recv = 0 means that nothing has come yet.",
        rule: "Zero is the end; WouldBlock is \"not yet\".",
        source: "src/proto/connection.rs",
        exercise: "ends",
        mistake: Mistake::IgnoreTheEnd,
        code: Code::KeptEnded,
        acts: &[Connect, Wait(0), Send(0, 4), Wait(0), Finish(0)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "half-close",
        belief: "The client's end ends the connection.",
        rule: "It ends reading only: send the whole answer, then close.",
        source: "src/proto/connection.rs",
        exercise: "ends",
        mistake: Mistake::CloseAtTheEnd,
        code: Code::ClosedUnanswered,
        acts: &[Connect, Wait(0), Stall(0), Send(0, 700), Finish(0)],
        buffers: [1 << 12, 300, 1 << 12],
        faults: NO_FAULTS,
    },
    Story {
        name: "hang-up-bit",
        belief: "The hang-up bit means: close now.",
        rule: "Read to the end; use the bit for nothing else.",
        source: "src/reactor/ready.rs",
        exercise: "ends",
        mistake: Mistake::CloseAtHangUp,
        code: Code::ClosedUnread,
        acts: &[Connect, Wait(0), Send(0, 512), Finish(0)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "reset-overtakes",
        belief: "close delivers what was sent.",
        rule: "Shutdown, read the rest away, then close.",
        source: "src/proto/connection.rs",
        exercise: "goodbye",
        mistake: Mistake::CloseWithoutShutdown,
        code: Code::ResetOvertakes,
        acts: &[Connect, Wait(0), Stall(0), Send(0, 600), Wait(0)],
        buffers: [1 << 12, 1 << 12, 100],
        faults: NO_FAULTS,
    },
    Story {
        name: "slow-digest",
        belief: "TCP keeps my messages apart.",
        rule: "Collect until the message is complete.",
        source: "src/proto/handshake.rs",
        exercise: "pieces",
        mistake: Mistake::AnswerPieces,
        code: Code::PartOfMessage,
        acts: &[Connect, Wait(0), Send(0, 9), Wait(200), Send(0, 7)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
    Story {
        name: "deaf-reader",
        belief: "A slow reader costs nothing.",
        rule: "Stop reading while the answer waits.",
        source: "src/proto/reply.rs",
        exercise: "back-pressure",
        mistake: Mistake::ReadAlways,
        code: Code::OverLimit,
        acts: &[Connect, Wait(0), Stall(0), Send(0, 1500), Wait(0), Resume(0)],
        buffers: [1 << 12, 100, 100],
        faults: NO_FAULTS,
    },
    Story {
        name: "greedy-peer",
        belief: "\"Until WouldBlock\" has no exception.",
        rule: "A share for each turn, and the rest in the next.",
        source: "src/server/pump.rs",
        exercise: "fairness",
        mistake: Mistake::NoShare,
        code: Code::HeldTheLoop,
        acts: &[Connect, Connect, Wait(0), Send(0, 5000), Send(1, 4)],
        buffers: [2048, 1 << 13, 1 << 13],
        faults: NO_FAULTS,
    },
    Story {
        name: "forgotten-share",
        belief: "After the share an event will bring the rest.",
        rule: "No edge comes for what was there before: queue up, and poll with timeout 0.",
        source: "src/reactor/mod.rs",
        exercise: "fairness",
        mistake: Mistake::ForgetTheRest,
        code: Code::UnreadInput,
        acts: &[Connect, Wait(0), Send(0, 1500)],
        buffers: [2048, 1 << 13, 1 << 13],
        faults: NO_FAULTS,
    },
    Story {
        name: "no-descriptors",
        belief: "Out of descriptors: log it and go on.",
        rule: "Rest and try again, or turn the client away: it gets no second edge.",
        source: "src/server/accept.rs",
        exercise: "bad-night",
        mistake: Mistake::GiveUpAccepting,
        code: Code::Famine,
        acts: &[Connect, Wait(0), Connect, Wait(0), Finish(0), Wait(200)],
        buffers: ROOM,
        faults: Faults { descriptors: 1, ..NO_FAULTS },
    },
    Story {
        name: "stale-token",
        belief: "An event belongs to the connection that has its token now.",
        rule: "A token is used once; an old event then names nothing.",
        source: "src/reactor/slots.rs",
        exercise: "stale-events",
        mistake: Mistake::ReuseTokens,
        code: Code::ClosedWithoutCause,
        acts: &[Connect, Wait(0), Finish(0), Connect, Turn, Turn, Turn],
        buffers: ROOM,
        faults: Faults { stale_event: 700, ..NO_FAULTS },
    },
    Story {
        name: "moving-deadline",
        belief: "A deadline is set once.",
        rule: "Each byte moves it, counted from the clock behind the poll.",
        source: "src/server/mod.rs",
        exercise: "deadlines",
        mistake: Mistake::FixedDeadline,
        code: Code::TooEarly,
        acts: &[Connect, Wait(4000), Send(0, 4), Wait(2000)],
        buffers: ROOM,
        faults: NO_FAULTS,
    },
];
