//! The stories: each a script, a loop that falls for a wrong belief, and a loop that does not.
//!
//! docs/loop.html shows them, `cargo run -p lab -- page` writes it, and a verdict names the story about
//! its fault.

mod accepting;
mod building;
mod desk;
mod ending;
mod fairness;
mod leaving;
mod naming;
mod reading;
mod script;
mod timing;
mod writing;

use saltecho::lab::Code;
use saltecho::trace::page::Page;
use saltecho::trace::{Picture, Step};

use script::{Stage, Turn};

/// A story before it is played.
struct Tale {
    name: &'static str,
    /// The belief.
    title: &'static str,
    text: [&'static str; 3],
    /// Where it was met.
    seen: &'static [&'static str],
    stage: Stage,
    /// The file with both loops, and its text.
    file: (&'static str, &'static str),
    mistake: Side,
    cure: Side,
    question: &'static str,
    /// The right answer is the first. The page has them in an order of its own.
    answers: &'static [(&'static str, &'static str)],
    rule: &'static str,
    /// The file in which the server keeps the rule, and a text that stands in one line of it.
    source: (&'static str, &'static str),
    /// The exercise that trains the rule.
    exercise: &'static str,
    /// The fault that its judge finds in a loop with the mistake, if it looks for that.
    code: Option<Code>,
    /// The programs in `examples/` about the same.
    programs: &'static [&'static str],
}

/// One loop of a story.
struct Side {
    turn: Turn,
    /// The beginning of the line at which its code begins.
    function: &'static str,
    /// The step at which the story stops, or the one that shows the cure.
    stop: fn(&Step, &Picture) -> bool,
    stop_text: &'static str,
}

/// Plays all stories.
///
/// # Errors
/// The name of a story that does not go as it is told, and the difference.
pub fn page() -> Result<Page, String> {
    let mut page = Page {
        title: "Fifteen minutes with an event loop".to_owned(),
        introduction: building::INTRODUCTION.to_owned(),
        version: "Made by `cargo run -p lab -- page` from lab/src/stories".to_owned(),
        ..Page::default()
    };
    for tale in tales() {
        building::tell(&tale, &mut page).map_err(|error| format!("{}: {error}", tale.name))?;
    }
    Ok(page)
}

/// The story about a fault in an exercise, or the first that the exercise is about.
pub fn about(exercise: &str, code: Code) -> Option<&'static str> {
    let tales: Vec<Tale> = tales().into_iter().filter(|tale| tale.exercise == exercise).collect();
    let exact = tales.iter().find(|tale| tale.code == Some(code));
    exact.or(tales.first()).map(|tale| tale.name)
}

/// Each story's name with its exercise and the fault that the judge finds.
pub fn faults() -> Vec<(&'static str, &'static str, Option<Code>)> {
    tales().iter().map(|tale| (tale.name, tale.exercise, tale.code)).collect()
}

/// The stories in the order in which one leads to another: the cure of "one event, one read" is the
/// mistake of the next, and so on.
fn tales() -> Vec<Tale> {
    vec![
        reading::one_read(),
        fairness::greedy(),
        fairness::forgotten_share(),
        reading::would_block(),
        reading::zero(),
        reading::end_behind_data(),
        reading::urgent_byte(),
        writing::partial_write(),
        writing::writable_event(),
        writing::slow_reader(),
        ending::half_close(),
        ending::close_unread(),
        ending::hang_up(),
        accepting::one_accept(),
        accepting::no_descriptor(),
        accepting::flood(),
        naming::pieces(),
        naming::stale_token(),
        timing::old_clock(),
        timing::moving_deadline(),
        leaving::drain(),
        leaving::handover(),
    ]
}
