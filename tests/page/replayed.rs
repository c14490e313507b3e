//! The state of a run after each of its steps, computed from the steps alone and in another way than the
//! page does: as sums over all that has happened so far.

use saltecho::reactor::Ready;
use saltecho::trace::page::{Fact, Run};
use saltecho::trace::{Event, Fault, Step, Stream, Subject, World};

/// What the page has to show of one client after a step.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    pub stream: Stream,
    /// Bytes that the client sent and read.
    pub put: usize,
    pub got: usize,
    /// Bytes that the loop received and sent.
    pub received: usize,
    pub sent: usize,
    /// Bytes that have been sent by the client and not received, while the connection is open.
    pub unread: Option<usize>,
    /// The bits that the loop believes set.
    pub told: String,
    /// Bytes that the loop holds for it.
    pub held: usize,
}

/// All clients after the step with this index.
pub fn clients(run: &Run, index: usize) -> Vec<Client> {
    let past = &run.steps[..=index];
    let connected = past.iter().filter_map(|step| match &step.event {
        Event::World(World::Connects(stream, _)) => Some(*stream),
        _ => None,
    });
    connected.map(|stream| client(run, past, stream)).collect()
}

fn client(run: &Run, past: &[Step], stream: Stream) -> Client {
    let sum = |amount: &dyn Fn(&Event) -> Option<(Stream, usize)>| -> usize {
        let amounts = past.iter().filter_map(|step| amount(&step.event));
        amounts.filter(|(of, _)| *of == stream).map(|(_, n)| n).sum()
    };
    let put = sum(&|event| match event {
        Event::World(World::Sends { stream, taken, .. }) => Some((*stream, *taken)),
        _ => None,
    });
    let got = sum(&|event| match event {
        Event::World(World::Reads(stream, n)) => Some((*stream, *n)),
        _ => None,
    });
    let received = sum(&|event| match event {
        Event::Recv { stream, result: Ok(n), .. } => Some((*stream, *n)),
        _ => None,
    });
    let sent = sum(&|event| match event {
        Event::Send { stream, result: Ok(n), .. } => Some((*stream, *n)),
        _ => None,
    });
    let is_closed =
        past.iter().any(|step| matches!(step.event, Event::Close(of, _) if of == stream));
    Client {
        stream,
        put,
        got,
        received,
        sent,
        unread: (!is_closed).then(|| put - received),
        told: told(past, stream),
        held: held(run, past.len() - 1, stream),
    }
}

/// A bit is set if the last event that set it came after the last answer that cleared it.
fn told(past: &[Step], stream: Stream) -> String {
    let mut id = None;
    let mut last = [
        (Ready::READABLE, 'R'),
        (Ready::WRITABLE, 'W'),
        (Ready::PRIORITY, 'P'),
        (Ready::CLOSED, 'C'),
    ]
    .map(|(bit, letter)| (bit, letter, false));
    let mut set = |which: Ready, value: bool| {
        last.iter_mut().filter(|(bit, ..)| which.has(*bit)).for_each(|(.., on)| *on = value);
    };
    let mut stays = false;
    for step in past {
        match &step.event {
            Event::Register(of, Subject::Connection(name), Ok(())) => {
                if *of == stream {
                    id = Some(*name);
                    set(Ready::WRITABLE, true);
                } else if id == Some(*name) {
                    id = None; // The name has another owner.
                }
            }
            Event::Ready(Subject::Connection(name), ready) if id == Some(*name) => {
                set(*ready, true);
                stays |= ready.has(Ready::CLOSED) || ready.has(Ready::PRIORITY);
            }
            Event::Recv { stream: of, room, result } if *of == stream => match result {
                Ok(n) if n < room && !stays => set(Ready::READABLE, false),
                Err(Fault::WOULD_BLOCK) => set(Ready::READABLE.union(Ready::PRIORITY), false),
                _ => {}
            },
            Event::Send { stream: of, result: Err(Fault::WOULD_BLOCK), .. } if *of == stream => {
                set(Ready::WRITABLE, false);
            }
            Event::Close(of, _) if *of == stream => {
                last.iter_mut().for_each(|(.., on)| *on = false);
                break;
            }
            _ => {}
        }
    }
    last.iter().map(|(_, letter, on)| if *on { *letter } else { '-' }).collect()
}

/// The last word on it: what the loop said, or what a send left over.
fn held(run: &Run, index: usize, stream: Stream) -> usize {
    for at in (0..=index).rev() {
        let said = run.views.iter().rev().find_map(|view| match view.fact {
            Fact::Held(n) if view.step == at && view.stream == stream => Some(n),
            _ => None,
        });
        let left = match run.steps[at].event {
            Event::Send { stream: of, len, result } if of == stream => {
                Some(len - result.unwrap_or(0))
            }
            _ => None,
        };
        if let Some(n) = said.or(left) {
            return n;
        }
    }
    0
}
