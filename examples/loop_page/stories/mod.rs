//! The stories: each a script, a loop that falls for a wrong belief, and a loop that does not.

mod accepting;
mod building;
mod desk;
mod ending;
mod fairness;
mod naming;
mod reading;
mod script;
mod timing;
mod writing;

use saltecho::trace::page::Page;
use saltecho::trace::{Picture, Step};

pub use script::{Stage, Turn};

/// A story before it is played.
pub struct Tale {
    pub name: &'static str,
    /// The belief.
    pub title: &'static str,
    pub text: [&'static str; 3],
    /// Where it was met.
    pub seen: &'static [&'static str],
    pub stage: Stage,
    /// The file with both loops, and its text.
    pub file: (&'static str, &'static str),
    pub mistake: Side,
    pub cure: Side,
    pub question: &'static str,
    /// The right answer is the first. The page has them in an order of its own.
    pub answers: &'static [(&'static str, &'static str)],
    pub rule: &'static str,
    /// The file in which the server keeps the rule, and a text that stands in one line of it.
    pub source: (&'static str, &'static str),
    /// The exercise of the lab that trains the rule.
    pub practice: Option<&'static str>,
}

/// One loop of a story.
pub struct Side {
    pub turn: Turn,
    /// The beginning of the line at which its code begins.
    pub function: &'static str,
    /// The step at which the story stops, or the one that shows the cure.
    pub stop: fn(&Step, &Picture) -> bool,
    pub stop_text: &'static str,
}

/// Plays all stories.
pub fn page() -> Result<Page, String> {
    let mut page = Page {
        title: "Fifteen minutes with an event loop".to_owned(),
        introduction: building::INTRODUCTION.to_owned(),
        version: building::version(),
        ..Page::default()
    };
    // One who cures "one event, one read" meets "until WouldBlock has no exception" next.
    for tale in tales() {
        building::tell(&tale, &mut page).map_err(|error| format!("{}: {error}", tale.name))?;
    }
    Ok(page)
}

/// The stories in the order in which one leads to another.
pub fn tales() -> Vec<Tale> {
    vec![
        reading::one_read(),
        fairness::greedy(),
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
        timing::drain(),
    ]
}
