use std::io;
use std::time::Duration;

use saltecho::lab::Code;
use saltecho::reactor::Ready;
use saltecho::trace::Event;

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/timing.rs", include_str!("timing.rs"));

/// Time that a client has for its first question.
const PATIENCE: Duration = Duration::from_secs(2);

fn old_clock_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(server.wait())? {
        if token == server.door {
            let client = server.accept()?;
            server.set_deadline(client, server.now.saturating_add(PATIENCE));
        } else if ready.has(Ready::READABLE) {
            let n = server.recv(token)?;
            server.send(token, n)?;
        }
    }
    // The time, for everything from here on.
    server.now = server.clock();
    for client in server.due() {
        server.close(client);
    }
    Ok(())
}

fn old_clock_cure(server: &mut Loop) -> io::Result<()> {
    let events = server.poll(server.wait())?;
    // The time, right after the poll, which may have slept.
    server.now = server.clock();
    for (token, ready) in events {
        if token == server.door {
            let client = server.accept()?;
            server.set_deadline(client, server.now.saturating_add(PATIENCE));
        } else if ready.has(Ready::READABLE) {
            let n = server.recv(token)?;
            server.send(token, n)?;
        }
    }
    for client in server.due() {
        server.close(client);
    }
    Ok(())
}

pub fn old_clock() -> Tale {
    Tale {
        name: "old-clock",
        title: "The time I read is the time it is",
        text: [
            "Nothing has happened for five seconds when c1 connects, and c1 gets two seconds for its first question.",
            "They are counted from the last reading of the clock, and that is five seconds old.",
            "So the time of c1 is over before it begins.",
        ],
        seen: &[
            "libuv/libuv#1068",
            "libuv/libuv#4773",
            "joyent/libuv#678",
            "nodejs/node-v0.x-archive#6147",
        ],
        stage: Stage::new(&[
            Act::Turn,
            Act::Pass(5000),
            Act::Connect,
            Act::Turn,
            Act::Send(1, 5),
            Act::Turn,
            Act::Rest(1000),
        ]),
        file: FILE,
        mistake: Side {
            turn: old_clock_mistake,
            function: "fn old_clock_mistake",
            stop: |step, _| matches!(step.event, Event::Close(..)),
            stop_text: "Closed at once, for a deadline that was over when it was set",
        },
        cure: Side {
            turn: old_clock_cure,
            function: "fn old_clock_cure",
            stop: |step, _| matches!(step.event, Event::Send { .. }),
            stop_text: "c1 has its two seconds, and needs less",
        },
        question: "c1 has just connected and has two seconds. What does the loop do with it?",
        answers: &[
            (
                "It closes c1",
                "Two seconds after a reading from before the sleep is three seconds ago.",
            ),
            (
                "It waits for two seconds",
                "It would, if it had looked at the clock after it woke up.",
            ),
        ],
        rule: "Read the clock once, after the poll; a deadline may be late, and never early.",
        source: ("src/reactor/mod.rs", "/// Polls once and reads the clock."),
        exercise: "deadlines",
        code: Some(Code::TooEarly),
        programs: &["04_settimeout"],
    }
}

const IDLE: Duration = Duration::from_secs(10);

fn moving_deadline_mistake(server: &mut Loop) -> io::Result<()> {
    let events = server.poll(server.wait())?;
    server.now = server.clock();
    for (token, ready) in events {
        if token == server.door {
            let client = server.accept()?;
            // Ten seconds of silence end a connection.
            server.set_deadline(client, server.now.saturating_add(IDLE));
        } else if ready.has(Ready::READABLE) {
            let n = server.recv(token)?;
            server.send(token, n)?;
        }
    }
    for client in server.due() {
        server.close(client);
    }
    Ok(())
}

fn moving_deadline_cure(server: &mut Loop) -> io::Result<()> {
    let events = server.poll(server.wait())?;
    server.now = server.clock();
    for (token, ready) in events {
        if token == server.door {
            let client = server.accept()?;
            server.set_deadline(client, server.now.saturating_add(IDLE));
        } else if ready.has(Ready::READABLE) {
            let n = server.recv(token)?;
            server.send(token, n)?;
            // Not silent: the ten seconds begin again.
            server.set_deadline(token, server.now.saturating_add(IDLE));
        }
    }
    for client in server.due() {
        server.close(client);
    }
    Ok(())
}

pub fn moving_deadline() -> Tale {
    Tale {
        name: "moving-deadline",
        title: "A time-out is a timer that one starts",
        text: [
            "A client that is silent for ten seconds is closed, and c1 speaks every six.",
            "The timer that was started when c1 came knows nothing of what c1 said since.",
            "An idle time-out is a deadline that every message moves, not a timer that runs.",
        ],
        seen: &[],
        stage: Stage::new(&[
            Act::Connect,
            Act::Turn,
            Act::Rest(6000),
            Act::Send(1, 5),
            Act::Turn,
            Act::Rest(6000),
            Act::Send(1, 5),
            Act::Turn,
            Act::Rest(1000),
        ]),
        file: FILE,
        mistake: Side {
            turn: moving_deadline_mistake,
            function: "fn moving_deadline_mistake",
            stop: |step, _| matches!(step.event, Event::Close(..)),
            stop_text: "Closed for silence, four seconds after it spoke",
        },
        cure: Side {
            turn: moving_deadline_cure,
            function: "fn moving_deadline_cure",
            stop: |step, _| matches!(step.event, Event::Send { .. }),
            stop_text: "Each message moves the deadline",
        },
        question: "It is ten seconds since c1 came and four since it last spoke. What happens?",
        answers: &[
            (
                "The timer ends the connection",
                "It was started once, and nothing that c1 said has moved it.",
            ),
            ("Nothing: c1 was not silent for ten seconds", "The loop never told the timer."),
        ],
        rule: "Keep the deadline with the connection, and let every message move it.",
        source: ("src/reactor/mod.rs", "/// An alarm that is set is never moved to later"),
        exercise: "deadlines",
        code: Some(Code::TooEarly),
        programs: &["04_settimeout"],
    }
}
