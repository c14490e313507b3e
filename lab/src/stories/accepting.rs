use std::io::{self, ErrorKind::WouldBlock};
use std::time::Duration;

use saltecho::lab::Code;
use saltecho::reactor::Ready;
use saltecho::sim::Faults;
use saltecho::trace::{Event, Stream, World};

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/accepting.rs", include_str!("accepting.rs"));
const ACCEPT: &str = "src/server/accept.rs";

fn one_accept_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            // One event, one client.
            server.accept()?;
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                server.send(token, n)?;
            }
        }
    }
    Ok(())
}

fn one_accept_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            loop {
                match server.accept() {
                    Ok(_) => {}
                    Err(error) if error.kind() == WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                server.send(token, n)?;
            }
        }
    }
    Ok(())
}

pub fn one_accept() -> Tale {
    let mut acts = vec![Act::Connect; 6];
    acts.extend([Act::Send(2, 5), Act::Rest(5000), Act::Connect, Act::Rest(5000)]);
    Tale {
        name: "one-accept",
        title: "One accept per event",
        text: [
            "Six clients connect before the loop looks.",
            "The listener is reported once: clients wait, and it does not say how many.",
            "A loop that accepts once for each event has a queue that never gets shorter again, and every newcomer waits behind it.",
        ],
        seen: &[
            "tokio-rs/mio#845",
            "pgexporter/pgexporter#586",
            "massalabs/massa#4333",
            "vibe-d/eventcore#20",
        ],
        stage: Stage::new(&acts),
        file: FILE,
        mistake: Side {
            turn: one_accept_mistake,
            function: "fn one_accept_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..))) && picture.queue.len() == 5
            },
            stop_text: "The loop sleeps, five clients in the accept queue",
        },
        cure: Side {
            turn: one_accept_cure,
            function: "fn one_accept_cure",
            stop: |step, picture| {
                matches!(step.event, Event::Accept(_, Err(_))) && picture.queue.is_empty()
            },
            stop_text: "Would block: the queue is empty",
        },
        question: "Five clients are in the accept queue. What does this poll return?",
        answers: &[
            (
                "Nothing, until another client connects",
                "And then the loop accepts one, and six wait instead of five.",
            ),
            (
                "The listener, five more times",
                "One edge covers all clients that came before it was fetched.",
            ),
            ("The listener, as the queue is not empty", "That is level-triggered epoll."),
        ],
        rule: "Accept until it would block, or remember that clients may wait.",
        source: (ACCEPT, "AcceptError::Drained => *waiting = false,"),
        exercise: "door",
        code: Some(Code::Door),
        programs: &["02_thread_per_client"],
    }
}

fn no_descriptor_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            // Out of descriptors, perhaps: that happens, and one goes on.
            while server.accept().is_ok() {}
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                if n == 0 {
                    server.close(token);
                    break;
                }
                server.send(token, n)?;
            }
        }
    }
    Ok(())
}

fn no_descriptor_cure(server: &mut Loop) -> io::Result<()> {
    let wait = server.retry.map(|_| Duration::from_millis(100));
    let mut door = server.retry.is_some();
    for (token, ready) in server.poll(wait)? {
        if token == server.door {
            door = true;
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                if n == 0 {
                    server.close(token);
                    break;
                }
                server.send(token, n)?;
            }
        }
    }
    while door {
        match server.accept() {
            Ok(_) => server.retry = None,
            Err(error) if error.kind() == WouldBlock => {
                server.retry = None;
                door = false;
            }
            // No event will come for the client that waits, so a timer tries again.
            Err(_) => {
                server.retry = Some(server.now);
                door = false;
            }
        }
    }
    Ok(())
}

pub fn no_descriptor() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Connect,
        Act::Connect,
        Act::Rest(10),
        Act::Finish(1),
        Act::Turn,
        Act::Rest(200),
        Act::Send(3, 5),
        Act::Rest(200),
    ]);
    stage.faults = Faults { descriptors: 2, ..Faults::none() };
    Tale {
        name: "no-descriptor",
        title: "Out of descriptors: log it and go on",
        text: [
            "The process has descriptors for two clients, and three connect.",
            "accept fails with EMFILE and c3 stays in the queue; the event that told of c3 is spent.",
            "When c1 leaves there is room, but nothing tells the loop to try again.",
        ],
        seen: &[
            "projecteru/redis-cerberus#29",
            "joyent/libuv#690",
            "oven-sh/bun#32705",
            "nodejs/node#45242",
        ],
        stage,
        file: FILE,
        mistake: Side {
            turn: no_descriptor_mistake,
            function: "fn no_descriptor_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.queue == [Stream(3)]
                    && picture
                        .sockets
                        .first()
                        .is_some_and(|socket| socket.end == saltecho::trace::Place::Closed)
            },
            stop_text: "A descriptor is free, c3 waits, and the loop sleeps",
        },
        cure: Side {
            turn: no_descriptor_cure,
            function: "fn no_descriptor_cure",
            stop: |step, _| matches!(step.event, Event::Accept(_, Ok((Stream(3), _)))),
            stop_text: "The timer tries again, and c3 is in",
        },
        question: "c1 has left, so there is a descriptor for c3. Is c3 accepted?",
        answers: &[
            (
                "No: nothing wakes the loop for it",
                "The edge came when c3 connected. It is not repeated because accept failed.",
            ),
            (
                "Yes: a free descriptor is an event",
                "epoll watches sockets. It knows nothing of the descriptors of a process.",
            ),
            ("Yes: the listener is still readable", "It is, but the edge for it is spent."),
        ],
        rule: "After EMFILE rest and try again by a timer; with a spare descriptor turn clients away meanwhile.",
        source: (ACCEPT, "/// Pauses for want of room. If the last pause for that did not help"),
        exercise: "bad-night",
        code: Some(Code::Famine),
        programs: &["02_thread_per_client"],
    }
}

const PLACES: usize = 3;

fn flood_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.waiting = true;
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                server.send(token, n)?;
            }
        }
    }
    while server.waiting {
        if server.conns.len() == PLACES {
            // Full: the others have to wait until a place is free.
            break;
        }
        server.waiting = server.accept().is_ok();
    }
    Ok(())
}

fn flood_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.waiting = true;
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                server.send(token, n)?;
            }
        }
    }
    while server.waiting {
        server.waiting = server.accept().is_ok();
        if server.conns.len() > PLACES {
            // One too many: the one that has been silent for longest makes room.
            let oldest = server.tokens()[0];
            server.close(oldest);
        }
    }
    Ok(())
}

pub fn flood() -> Tale {
    Tale {
        name: "flood",
        title: "When all places are taken, newcomers wait",
        text: [
            "There are three places, and three clients take them and say nothing.",
            "c4 comes with an honest question, and there is no place for it.",
            "If the silent can keep the door shut for as long as they like, three of them are an attack; so the oldest silent one makes room.",
        ],
        seen: &[],
        stage: Stage::new(&[
            Act::Connect,
            Act::Connect,
            Act::Connect,
            Act::Rest(3000),
            Act::Connect,
            Act::Send(4, 5),
            Act::Rest(60_000),
        ]),
        file: FILE,
        mistake: Side {
            turn: flood_mistake,
            function: "fn flood_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.queue == [Stream(4)]
            },
            stop_text: "c4 waits behind three who say nothing",
        },
        cure: Side {
            turn: flood_cure,
            function: "fn flood_cure",
            stop: |step, _| matches!(step.event, Event::Close(Stream(1), _)),
            stop_text: "The oldest silent client has made room",
        },
        question: "Three silent clients have all places. When is c4 served?",
        answers: &[
            ("When one of them leaves, if it ever does", "It costs them nothing to stay."),
            (
                "When it sends its question",
                "It has sent it. The bytes are in the kernel, and the loop does not read them.",
            ),
        ],
        rule: "A client that has not authenticated has its place only until another needs it.",
        source: (ACCEPT, "/// Makes room for one more unauthenticated connection."),
        exercise: "bad-night",
        code: None,
        programs: &["02_thread_per_client"],
    }
}
