//! Runs of a loop as one self-contained page for a browser, to step through.
//!
//! A [`Page`] is one HTML file. It asks no other computer for anything and works from a disk. It shows
//! both sides of a run after each step: what the loop believes, from the answers of its calls, and, in
//! a simulated run, what the kernel knows. Without scripts, on paper and for a screen reader it is the
//! same story as a list.

mod caption;
mod film;
mod html;
mod model;
#[cfg(test)]
mod tests;
mod turn;
mod words;

use super::{Picture, Step, Stream};
use crate::python::Monotonic;

pub use film::{Beside, Film};

/// A page: single runs, or stories of two runs each.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The title.
    pub title: String,
    /// A paragraph below it.
    pub introduction: String,
    /// The code that the page is about: a version with its commit, or a digest of the sources.
    pub version: String,
    /// The runs.
    pub runs: Vec<Run>,
    /// Stories about them. If there is none, the page shows the first run.
    pub stories: Vec<Story>,
}

/// A run with all that is to be shown of it.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The name in links: `one-read/mistake`.
    pub name: String,
    /// The steps from the beginning on.
    pub steps: Vec<Step>,
    /// The kernel's side after each step, for a simulated run.
    pub pictures: Vec<Picture>,
    /// Facts of the loop that its calls do not show, in the order of the steps.
    pub views: Vec<View>,
    /// The line of the code at which the loop is, for each step that is its own.
    pub lines: Vec<Option<u32>>,
    /// The number of script events that have begun at each step.
    pub acts: Vec<usize>,
    /// The code of the loop.
    pub code: Code,
    /// Places to go to.
    pub marks: Vec<Mark>,
    /// The result in a sentence.
    pub end: String,
}

/// A piece of a source file.
#[derive(Clone, Debug, Default)]
pub struct Code {
    /// The path from the root of the repository.
    pub file: String,
    /// The number of its first line.
    pub first: u32,
    /// The text.
    pub text: String,
    /// Lines that differ from those of the other run of the story.
    pub changed: Vec<u32>,
}

/// A named step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The name in links.
    pub name: String,
    /// The index of the step.
    pub step: usize,
    /// The reason to go there.
    pub text: String,
}

/// A fact of the loop after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The index of the step.
    pub step: usize,
    /// The connection.
    pub stream: Stream,
    /// The fact.
    pub fact: Fact,
}

/// Something that a loop keeps of a connection and that its calls do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The stage of the connection.
    Stage(&'static str),
    /// Bytes that it holds for the peer.
    Held(usize),
    /// The deadline.
    Deadline(Option<Monotonic>),
    /// The place in the run queue, from zero.
    Place(Option<usize>),
}

/// A wrong belief: one script, a loop that falls for it and one that does not.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// The name in links.
    pub name: String,
    /// The belief.
    pub title: String,
    /// The point in three sentences.
    pub text: String,
    /// Programs that met it, as owner/repository#number or in words.
    pub seen: Vec<String>,
    /// Index of the run with the mistake.
    pub mistake: usize,
    /// Index of the cured run.
    pub cure: usize,
    /// A question that the step of the stop answers.
    pub question: String,
    /// Answers to choose from.
    pub answers: Vec<Answer>,
    /// The rule in one sentence.
    pub rule: String,
    /// Where the rule stands: a path, and the text of a line.
    pub source: (String, String),
    /// The exercise that trains it, and the path to its text.
    pub exercise: (String, String),
    /// Programs about the same, and their paths.
    pub programs: Vec<(String, String)>,
}

/// An answer to a question, and what there is to say of it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The answer.
    pub text: String,
    /// The reply to a reader who chooses it.
    pub reply: String,
    /// True for the right one.
    pub right: bool,
}

/// The name of the mark at which a story stops.
pub const STOP: &str = "stop";

impl Page {
    /// The page as the text of an HTML file.
    pub fn to_html(&self) -> String {
        let films: Vec<Film> = self.runs.iter().map(Film::of).collect();
        html::page(self, &films)
    }

    /// A page of one run that was followed step by step, perhaps without all of its steps.
    pub fn of_film(mut self, film: &Film, end: String) -> String {
        let name = "run".to_owned();
        self.runs = vec![Run { name, code: film.code(), end, ..Run::default() }];
        html::page(&self, std::slice::from_ref(film))
    }
}

impl Run {
    /// The step of the mark with this name.
    pub fn mark(&self, name: &str) -> Option<usize> {
        self.marks.iter().find(|mark| mark.name == name).map(|mark| mark.step)
    }
}
