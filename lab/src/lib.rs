//! Exercises for event loops. `README.md` beside this crate's manifest says how to begin.

mod mistakes;
pub mod model;
pub mod stories;

use std::io;

use saltecho::lab::{Code, LabKernel, Rules};

pub use mistakes::{Mistake, WRONG};

/// An event loop that serves every client until it is stopped.
pub type Serve = fn(&mut LabKernel, &mut (), &Rules) -> io::Result<()>;

/// The loops and texts of an exercise.
pub struct Task {
    /// The page of text.
    pub text: &'static str,
    /// The loop to be completed.
    pub skeleton: Serve,
    /// The code with which the untouched skeleton fails.
    pub code: Code,
    /// A loop that passes.
    pub solution: Serve,
}

macro_rules! tasks {
    ($($module:ident $directory:literal $code:ident,)*) => {
        $(
            #[path = $directory]
            mod $module {
                pub(crate) mod skeleton;
                pub(crate) mod solution;
            }
        )*
        /// The tasks, in the order of the exercises.
        pub const TASKS: &[Task] = &[$(Task {
            text: include_str!(concat!($directory, "/README.md")),
            skeleton: $module::skeleton::serve,
            code: Code::$code,
            solution: $module::solution::serve,
        },)*];
    };
}

tasks! {
    first_echo "../exercises/01_first_echo" Ended,
    door "../exercises/02_door" Door,
    drain "../exercises/03_drain" UnreadInput,
    short_sends "../exercises/04_short_sends" LostRest,
    ends "../exercises/05_ends" ClosedUnanswered,
    pieces "../exercises/06_pieces" PartOfMessage,
    back_pressure "../exercises/07_back_pressure" OverLimit,
    deadlines "../exercises/08_deadlines" PastDeadline,
    fairness "../exercises/09_fairness" HeldTheLoop,
    stale_events "../exercises/10_stale_events" ClosedWithoutCause,
    goodbye "../exercises/11_goodbye" ResetOvertakes,
    bad_night "../exercises/12_bad_night" Famine,
}
