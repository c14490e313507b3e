use std::io::{self, ErrorKind::WouldBlock};
use std::time::Duration;

use saltecho::lab::Code;
use saltecho::reactor::Ready;
use saltecho::trace::{Event, World};

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/fairness.rs", include_str!("fairness.rs"));

fn greedy_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            // Until WouldBlock, as one has learned.
            loop {
                match server.recv(token) {
                    Ok(n) => server.send(token, n)?,
                    Err(error) if error.kind() == WouldBlock => break,
                    Err(error) => return Err(error),
                };
            }
        }
    }
    Ok(())
}

fn greedy_cure(server: &mut Loop) -> io::Result<()> {
    let wait = if server.queue.is_empty() { None } else { Some(Duration::ZERO) };
    for (token, ready) in server.poll(wait)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) && !server.queue.contains(&token) {
            server.requeue(token);
        }
    }
    for _ in 0..server.queue.len() {
        let Some(token) = server.next_queued() else { continue };
        let mut share = 3;
        loop {
            match server.recv(token) {
                Ok(n) => server.send(token, n)?,
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => return Err(error),
            };
            share -= 1;
            if share == 0 {
                // No event will come for the rest: it has to be remembered.
                server.requeue(token);
                break;
            }
        }
    }
    Ok(())
}

pub fn greedy() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Connect,
        Act::Rest(10),
        Act::Supply(1, 14 * 1024),
        Act::Send(1, 2048),
        Act::Send(2, 5),
        Act::Rest(1000),
    ]);
    (stage.buffer, stage.to_server, stage.window) = (1024, 2048, 2048);
    Tale {
        name: "greedy",
        title: "\"Read until WouldBlock\" has no exception",
        text: [
            "c1 sends as fast as the loop reads, and c2 sends five bytes.",
            "The loop reads c1 until it would block, and c1 sees to it that it never does.",
            "c2 waits for as long as c1 likes; so each connection gets a share, and the rest of its work is queued.",
        ],
        seen: &["dabeaz/curio#106", "libuv/libuv#2027", "twitter/twemproxy#416"],
        stage,
        file: FILE,
        mistake: Side {
            turn: greedy_mistake,
            function: "fn greedy_mistake",
            stop: |step, picture| {
                // The twelfth read of the same turn.
                matches!(step.event, Event::Recv { .. })
                    && picture
                        .sockets
                        .first()
                        .is_some_and(|socket| socket.stream.0 == 1 && socket.unsent >= 11 * 1024)
            },
            stop_text: "The twelfth recv of one turn, and c2 still waits",
        },
        cure: Side {
            turn: greedy_cure,
            function: "fn greedy_cure",
            stop: |step, _| matches!(step.event, Event::Recv { stream, .. } if stream.0 == 2),
            stop_text: "c2 has its turn after three reads of c1",
        },
        question: "c2's five bytes came before all this. When are they read?",
        answers: &[
            (
                "When c1 pauses, if it ever does",
                "Only WouldBlock ends this loop, and c1 decides when that comes.",
            ),
            (
                "After this recv",
                "The loop over c1 is inside the loop over events: c2 is the next event.",
            ),
            (
                "At the next poll, which comes regularly",
                "There is no next poll before the inner loop has ended.",
            ),
        ],
        rule: "Give each connection a share of the turn, and queue what is left, for no event will.",
        source: ("src/server/pump.rs", "share = share.saturating_sub(moved.max(CALL_COST));"),
        exercise: "fairness",
        code: Some(Code::HeldTheLoop),
        programs: &["05_readiness"],
    }
}

fn forgotten_share_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            // Three reads are enough for one turn. The rest has the next event.
            for _ in 0..3 {
                match server.recv(token) {
                    Ok(n) => server.send(token, n)?,
                    Err(error) if error.kind() == WouldBlock => break,
                    Err(error) => return Err(error),
                };
            }
        }
    }
    Ok(())
}

pub fn forgotten_share() -> Tale {
    let mut stage = Stage::new(&[Act::Connect, Act::Rest(10), Act::Send(1, 5000), Act::Rest(5000)]);
    stage.buffer = 1024;
    Tale {
        name: "forgotten-share",
        title: "After its share a connection waits for an event",
        text: [
            "Each connection may read three times in a turn, so that none holds the loop; c1 sends enough for five reads.",
            "The loop stops after the third, although nothing would block, and goes to sleep.",
            "The share was the loop's own idea: the kernel knows nothing of it and has no news for c1.",
        ],
        seen: &["sjanel/aeronet#485"],
        stage,
        file: FILE,
        mistake: Side {
            turn: forgotten_share_mistake,
            function: "fn forgotten_share_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.sockets.first().is_some_and(|socket| socket.unread > 0)
            },
            stop_text: "The loop sleeps on what it left itself",
        },
        cure: Side {
            turn: greedy_cure,
            function: "fn greedy_cure",
            stop: |step, picture| {
                matches!(step.event, Event::Poll(Some(Duration::ZERO)))
                    && picture.sockets.first().is_some_and(|socket| socket.unread > 0)
            },
            stop_text: "Work is left, so this poll does not sleep",
        },
        question: "The loop has left 1,928 bytes of c1 for the next turn. When does that begin?",
        answers: &[
            (
                "When c1 sends more, if it ever does",
                "Only that would be a change. c1 waits for its answer first.",
            ),
            (
                "At once: poll reports c1, since bytes are unread",
                "It reported them when they came. That they are still there is no change.",
            ),
        ],
        rule: "A loop that stops before \"would block\" owes itself a turn: queue the connection, and poll without sleep.",
        source: ("src/server/mod.rs", "return Some(Duration::ZERO);"),
        exercise: "fairness",
        code: Some(Code::UnreadInput),
        programs: &["05_readiness"],
    }
}
