use std::fmt;

use super::case::{Case, Met};
use super::code::Code;
use super::exercise::Exercise;
use super::log::Step;
use super::script::Script;
use crate::trace::{self, Picture};

/// The result of grading a loop. [`Display`](fmt::Display) tells it in full.
#[derive(Debug)]
pub enum Verdict {
    /// Every run went well.
    Pass {
        /// The exercise.
        exercise: &'static Exercise,
        /// Number of runs.
        runs: u64,
        /// What the runs met.
        met: Met,
    },
    /// One went wrong.
    Fail(Box<Failure>),
    /// Every run went well, and none of them met what the exercise is about.
    Unknown {
        /// The exercise.
        exercise: &'static Exercise,
        /// Number of runs.
        runs: u64,
        /// What did not occur.
        missing: Vec<Case>,
        /// What did.
        met: Met,
    },
    /// A run went wrong, and not when it was repeated: the loop's choices do not follow from its input
    /// alone.
    Unsteady {
        /// The exercise.
        exercise: &'static Exercise,
        /// The script of the run.
        origin: Origin,
        /// The fault.
        code: Code,
    },
    /// The program did not speak as the protocol asks.
    Error {
        /// The exercise.
        exercise: &'static Exercise,
        /// The script of the run.
        origin: Origin,
        /// The fault, and the remedy.
        text: String,
    },
}

/// The source of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Drawn from this seed.
    Seed(u64),
    /// The short script with this number.
    Script(u64),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => write!(f, "seed {seed}"),
            Self::Script(number) => write!(f, "short script {number}"),
        }
    }
}

/// A run that went wrong, in its simplest form.
#[derive(Debug)]
pub struct Failure {
    /// The exercise.
    pub exercise: &'static Exercise,
    /// The script that failed.
    pub origin: Origin,
    /// The fault.
    pub code: Code,
    /// What the kernel knew when the fault could no longer be made good.
    pub note: String,
    /// The step at which that was, as an index into `steps`.
    pub mark: usize,
    /// The steps of the simplest script that fails with the same code.
    pub steps: Vec<Step>,
    /// Number of acts in the seed's script.
    pub acts: usize,
    /// The simplest script.
    pub script: Script,
    /// The same run as events, for a page.
    pub film: Film,
}

/// The events of a run, with the kernel's side after each.
#[derive(Debug)]
pub struct Film {
    /// The events.
    pub steps: Vec<trace::Step>,
    /// The kernel's side after each.
    pub pictures: Vec<Picture>,
    /// The event of the mark.
    pub mark: usize,
}

impl Verdict {
    /// The code, if a run went wrong.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Fail(failure) => Some(failure.code),
            Self::Unsteady { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Returns true if every run went well and met what the exercise is about.
    pub const fn is_pass(&self) -> bool {
        matches!(self, Self::Pass { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass { exercise, runs, met } => {
                writeln!(f, "PASS {exercise}, {runs} runs")?;
                writeln!(f, "  met: {met}")
            }
            Self::Fail(failure) => failure.fmt(f),
            Self::Unknown { exercise, runs, missing, met } => {
                let missing: Vec<_> = missing.iter().map(|case| case.as_str()).collect();
                writeln!(f, "UNKNOWN {exercise}, {runs} runs")?;
                writeln!(f, "  no run failed, and none of them met: {}", missing.join(", "))?;
                writeln!(f, "  met: {met}")?;
                writeln!(f, "  help: more seeds; or the loop avoids what the exercise is about")
            }
            Self::Unsteady { exercise, origin, code } => {
                writeln!(f, "UNSTEADY {exercise}, {origin}")?;
                writeln!(f, "error[{code}]: {}, and not when the run was repeated", code.title())?;
                writeln!(f, "  expected: the same seed gives the same run")?;
                writeln!(
                    f,
                    "  help:     no clock but `now`, no random numbers, no set whose order changes"
                )
            }
            Self::Error { exercise, origin, text } => {
                writeln!(f, "ERROR {exercise}, {origin}")?;
                writeln!(f, "  {text}")
            }
        }
    }
}

/// Steps before the fault that are shown.
const SHOWN: usize = 14;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exercise, origin, code, note, mark, steps, acts, script, .. } = self;
        let size = match script.acts.len() {
            len if len < *acts => format!(" (shrunk from {acts} acts to {len})"),
            _ => String::new(),
        };
        writeln!(f, "FAIL {exercise}, {origin}{size}")?;
        writeln!(f, "error[{code}]: {}", code.title())?;
        let first = steps.len().saturating_sub(SHOWN).min(mark.saturating_sub(3));
        if first > 0 {
            writeln!(f, "  ...      {first} steps before")?;
        }
        for (number, step) in steps.iter().enumerate().skip(first) {
            let indent = if step.is_call { "" } else { "    " };
            let line = format!("  step {:<3} {indent}{}", number + 1, step.text);
            match number == *mark {
                true => writeln!(f, "{line:<52} <- {}{note}", code.at_mark())?,
                false => writeln!(f, "{line}")?,
            }
        }
        writeln!(f, "  bits:     R readable, W writable, H hang-up, U urgent")?;
        writeln!(f, "  script:   {script}")?;
        writeln!(f, "  expected: {}", code.expected())?;
        writeln!(f, "  help:     {}", code.help())
    }
}

#[cfg(feature = "page")]
impl Failure {
    /// The run as a page for a browser, to step through. It has a mark where nothing could save it any
    /// more.
    pub fn page(&self) -> crate::trace::page::Page {
        use crate::trace::page::{Mark, Page, Run, STOP};
        let Self { exercise, origin, code, note, film, .. } = self;
        let text = format!("{}: {note}", code.title());
        let mark = Mark { name: STOP.to_owned(), step: film.mark, text };
        Page {
            title: format!("{exercise}, {origin}"),
            introduction: format!(
                "error[{code}]: {}. Expected: {}. Help: {}.",
                code.title(),
                code.expected(),
                code.help()
            ),
            version: format!("saltecho {}", env!("CARGO_PKG_VERSION")),
            runs: vec![Run {
                name: "run".to_owned(),
                steps: film.steps.clone(),
                pictures: film.pictures.clone(),
                marks: vec![mark],
                end: format!("{code}: {}", code.title()),
                ..Run::default()
            }],
            stories: Vec::new(),
        }
    }
}

impl Code {
    /// The words before the note at the marked step.
    const fn at_mark(self) -> &'static str {
        match self {
            Self::UnreadInput
            | Self::Door
            | Self::Forgotten
            | Self::UnreadEnd
            | Self::LostRest
            | Self::AnswerInHand
            | Self::KeptEnded
            | Self::NoEnd
            | Self::Famine => "from here on nothing will wake it: ",
            _ => "",
        }
    }
}
