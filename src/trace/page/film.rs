use serde_json::{Map, Value, json};

use super::model::{Model, changes, flat};
use super::turn::{self, Place};
use super::words::{grouped, visible};
use super::{Code, Mark, Run, STOP, View, caption};
use crate::reactor::{Close, Note};
use crate::trace::{Event, Fault, Narrator, Picture, Step, Subject};

/// A run as a page shows it, made step by step: what is not shown is followed and not kept.
#[derive(Debug)]
pub struct Film {
    model: Model,
    narrator: Narrator,
    /// The place in the server's turn, if it is the server's run.
    place: Option<Place>,
    /// The last shown state.
    pub(super) before: Map<String, Value>,
    pub(super) steps: Vec<Value>,
    /// The captions, calls and explanations.
    pub(super) texts: Vec<[String; 3]>,
    pub(super) marks: Vec<Mark>,
    /// The state at the stop.
    pub(super) stop: Option<Map<String, Value>>,
    pub(super) simulated: bool,
    parts: Parts,
}

/// That which belongs to a step and is not in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// The kernel's side after it.
    pub picture: Option<&'a Picture>,
    /// Facts of the loop after it.
    pub views: &'a [View],
    /// The line of the code.
    pub line: Option<u32>,
    /// The number of script events that have begun.
    pub act: usize,
}

impl Film {
    /// A film of a server's run. Its steps are explained with the rules of the server's code.
    pub fn of_server() -> Self {
        Self { place: Some(Place::default()), ..Self::of_loop() }
    }

    /// A film of any other loop's run.
    pub fn of_loop() -> Self {
        Self {
            model: Model::default(),
            narrator: Narrator::new(),
            place: None,
            before: Map::new(),
            steps: Vec::new(),
            texts: Vec::new(),
            marks: Vec::new(),
            stop: None,
            simulated: false,
            parts: Parts::default(),
        }
    }

    /// A film of a whole run.
    pub(super) fn of(run: &Run) -> Self {
        let mut film = Self::of_loop();
        let mut views = run.views.as_slice();
        for (index, step) in run.steps.iter().enumerate() {
            let mine = views.iter().take_while(|view| view.step <= index).count();
            let (now, later) = views.split_at(mine);
            views = later;
            let beside = Beside {
                picture: run.pictures.get(index),
                views: now,
                line: run.lines.get(index).copied().flatten(),
                act: run.acts.get(index).copied().unwrap_or(0),
            };
            film.step(step, beside, true);
            let marks = run.marks.iter().filter(|mark| mark.step == index);
            film.marks.extend(marks.cloned());
            if run.mark(STOP) == Some(index) {
                film.stop = Some(film.before.clone());
            }
        }
        film
    }

    #[cfg(test)]
    pub(super) fn parts_len(&self) -> usize {
        self.parts.counts.len()
    }

    /// Makes the last shown step a place to go to.
    pub fn mark(&mut self, name: &str, text: &str) {
        let step = self.steps.len().saturating_sub(1);
        self.marks.push(Mark { name: name.to_owned(), step, text: text.to_owned() });
    }

    /// The code that the lines of the steps belong to.
    pub(super) fn code(&self) -> Code {
        if self.place.is_some() { turn::code() } else { Code::default() }
    }

    /// Number of steps that are shown.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// True if no step is shown.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Goes on by one step.
    pub fn step(&mut self, step: &Step, beside: Beside<'_>, shown: bool) {
        let before = shown.then(|| self.model.state.clone());
        self.model.step(step, beside.picture, beside.views);
        self.parts.add(self.model.state.turn, shown);
        let line = match &mut self.place {
            Some(place) => place.follow(&step.event),
            None => beside.line,
        };
        let why = match self.place {
            Some(_) => self.narrator.tell(&step.event),
            None => String::new(),
        };
        let Some(before) = before else { return };
        self.simulated |= beside.picture.is_some();
        if self.place.is_some()
            && let Some((name, text)) = notable(&step.event, &self.model)
            && self.marks.iter().all(|mark| mark.name != name)
        {
            let step = self.steps.len();
            self.marks.push(Mark { name: name.to_owned(), step, text: text.to_owned() });
        }
        let after = flat(&self.model.state);
        let is_world = matches!(step.event, Event::World(_));
        self.steps.push(json!([
            self.model.state.turn,
            beside.act,
            line,
            u8::from(is_world),
            changes(&self.before, &after)
        ]));
        let caption = caption::caption(step, &before, &self.model);
        self.texts.push([visible(&caption), visible(&step.event.to_string()), visible(&why)]);
        self.before = after;
    }

    /// Steps in each part of the run, and which of them are shown; null if all are.
    pub(super) fn overview(&self) -> Value {
        let Parts { width, counts, all, from, to } = &self.parts;
        let turns = self.model.state.turn;
        if *all == self.steps.len() as u64 {
            return Value::Null;
        }
        json!({
            "parts": counts,
            "from": from.unwrap_or(0) / width,
            "to": to / width,
            "text": format!(
                "Turns {} to {} of {} are on this page; the others are left out.",
                grouped(from.unwrap_or(0)),
                grouped(*to),
                grouped(turns)
            ),
        })
    }
}

/// A step that is worth a place in the list of marks, the first of its kind: a name and the reason.
fn notable(event: &Event, after: &Model) -> Option<(&'static str, &'static str)> {
    Some(match event {
        Event::Ready(Subject::Connection(id), _) if after.owner(*id).is_none() => {
            ("stale-event", "The first event for a connection that is gone")
        }
        Event::Send { len, result: Ok(n), .. } if n < len => {
            ("short-send", "The first send that took a part")
        }
        Event::Send { result: Err(Fault::WOULD_BLOCK), .. } => {
            ("no-room", "The first send that found no room")
        }
        Event::Recv { result: Ok(0), .. } => ("end", "The first end of a client's stream"),
        Event::Recv { result: Err(fault), .. } | Event::Send { result: Err(fault), .. }
            if !matches!(*fault, Fault::WOULD_BLOCK | Fault::INTERRUPTED) =>
        {
            ("failure", "The first connection that failed")
        }
        Event::Accept(_, Err(fault)) if *fault != Fault::WOULD_BLOCK => {
            ("accept-error", "The first accept that failed")
        }
        Event::Close(_, Close::Reset) => ("reset", "The first close with a reset"),
        Event::Note(Note::AcceptPaused(_)) => ("pause", "The first pause of accepting"),
        Event::Note(Note::Due(_)) => ("deadline", "The first deadline that came"),
        Event::Note(Note::Command(_)) => ("command", "The first command from another thread"),
        _ => return None,
    })
}

/// Numbers of steps in equal parts of the turns. The parts grow with the run.
#[derive(Debug)]
struct Parts {
    /// Turns in each.
    width: u64,
    counts: Vec<u64>,
    all: u64,
    /// The first and the last turn that is shown.
    from: Option<u64>,
    to: u64,
}

impl Default for Parts {
    fn default() -> Self {
        Self { width: 1, counts: Vec::new(), all: 0, from: None, to: 0 }
    }
}

impl Parts {
    const MOST: usize = 200;

    fn add(&mut self, turn: u64, shown: bool) {
        self.all += 1;
        if shown {
            self.from.get_or_insert(turn);
            self.to = turn;
        }
        while turn / self.width >= Self::MOST as u64 {
            self.width *= 2;
            self.counts = self.counts.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
        let part = usize::try_from(turn / self.width).expect("there are a few hundred");
        self.counts.resize(self.counts.len().max(part + 1), 0);
        self.counts[part] += 1;
    }
}
