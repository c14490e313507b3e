use super::Code;
use crate::reactor::Note;
use crate::trace::{Event, Subject};

const FILE: &str = "src/server/mod.rs";
const SOURCE: &str = include_str!("../../server/mod.rs");

/// The text at which the server's turn begins.
const TURN: &str = "    pub fn turn(&mut self)";

/// The parts of the server's turn that make calls, by the texts of their lines, in their order.
const PARTS: [(Part, &str); 7] = [
    (Part::Poll, "self.reactor.poll("),
    (Part::Signals, "self.handle_signals();"),
    (Part::Commands, "self.handle_commands();"),
    (Part::Queue, "self.pump_queue("),
    (Part::Deadlines, "self.handle_deadlines();"),
    (Part::Accept, "self.accept()?;"),
    (Part::Timing, "self.end_timing("),
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    #[default]
    Poll,
    Signals,
    Commands,
    Queue,
    Deadlines,
    Accept,
    Timing,
}

/// Follows the server through its turn: which line makes the calls.
#[derive(Debug, Default)]
pub(super) struct Place {
    part: Part,
}

impl Place {
    /// The line of the next event.
    pub(super) fn follow(&mut self, event: &Event) -> Option<u32> {
        self.part = match event {
            Event::World(_) => return None,
            Event::Poll(_) | Event::Ready(..) | Event::Clock(_) | Event::PollFailed(_) => {
                Part::Poll
            }
            Event::Signal(_) => Part::Signals,
            Event::Note(note) if note.is_input() => self.part.max(Part::Commands),
            Event::Note(Note::Due(_)) | Event::Liveness(..) | Event::Probe(_) => Part::Deadlines,
            Event::Accept(Subject::Listener(_), _)
            | Event::Shed(..)
            | Event::Note(
                Note::Refused(..)
                | Note::Opened(..)
                | Note::SetupFailed(..)
                | Note::AcceptPaused(_),
            ) => Part::Accept,
            Event::Timing(_) if self.part > Part::Deadlines => Part::Timing,
            // What comes first after the poll is the run queue; later, the part that went before.
            _ => self.part.max(Part::Queue),
        };
        line(self.part)
    }
}

fn line(part: Part) -> Option<u32> {
    let (_, text) = PARTS.iter().find(|(each, _)| *each == part)?;
    let code = code();
    let index = code.text.lines().position(|line| line.contains(text))?;
    u32::try_from(index).ok().map(|index| code.first + index)
}

/// The server's turn.
pub(super) fn code() -> Code {
    let before = SOURCE.lines().take_while(|line| !line.starts_with(TURN)).count();
    let mut text = String::new();
    for line in SOURCE.lines().skip(before) {
        text.push_str(line.strip_prefix("    ").unwrap_or(line));
        text.push('\n');
        if line == "    }" {
            break;
        }
    }
    let first = u32::try_from(before + 1).unwrap_or(0);
    Code { file: FILE.to_owned(), first, text, changed: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_turn_has_one_line() {
        let code = code();
        assert!(
            code.text.starts_with("pub fn turn(&mut self)") && code.text.ends_with("}\n"),
            "{code:?}"
        );
        for (part, text) in PARTS {
            let lines = code.text.lines().filter(|line| line.contains(text)).count();
            assert_eq!(lines, 1, "{part:?}");
            assert!(line(part).is_some());
        }
    }
}
