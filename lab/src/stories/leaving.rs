use std::io;

use saltecho::lab::Code;
use saltecho::reactor::Ready;
use saltecho::trace::{Event, Stream, World};

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/leaving.rs", include_str!("leaving.rs"));

fn drain_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        while let Ok(n) = server.recv(token) {
            let sent = server.send(token, n)?;
            server.keep(token, sent..n);
        }
    }
    if server.draining {
        // The program ends.
        for token in server.tokens() {
            server.close(token);
        }
    }
    Ok(())
}

fn drain_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        while let Ok(n) = server.recv(token) {
            let sent = server.send(token, n)?;
            server.keep(token, sent..n);
        }
    }
    if server.draining {
        // A client that has its answer is closed now, and the others once they have theirs.
        for token in server.tokens() {
            if server.kept(token) == 0 {
                server.close(token);
            }
        }
    }
    Ok(())
}

pub fn drain() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Connect,
        Act::Rest(10),
        Act::Stall(1),
        Act::Send(1, 1000),
        Act::Send(2, 5),
        Act::Rest(10),
        Act::Drain,
        Act::Turn,
        Act::Resume(1),
        Act::Rest(1000),
    ]);
    stage.to_client = 300;
    Tale {
        name: "drain",
        title: "A program that is asked to end, ends",
        text: [
            "The program is asked to end while 700 bytes of c1's answer are still to be sent.",
            "Ending at once is easy, and takes answers away from clients that did nothing wrong.",
            "A drain takes no new work, finishes what was begun, and then ends: in that order, and within a time limit.",
        ],
        seen: &[],
        stage,
        file: FILE,
        mistake: Side {
            turn: drain_mistake,
            function: "fn drain_mistake",
            stop: |step, _| matches!(step.event, Event::Close(Stream(1), _)),
            stop_text: "700 bytes of an answer are thrown away",
        },
        cure: Side {
            turn: drain_cure,
            function: "fn drain_cure",
            stop: |step, _| matches!(step.event, Event::Send { len: 700, .. }),
            stop_text: "c1's answer goes on while the program ends",
        },
        question: "The program is asked to end. 700 bytes of c1's answer wait for room. What is lost?",
        answers: &[
            (
                "The 700 bytes",
                "They are in the loop's memory only. close delivers what the kernel has taken, and no more.",
            ),
            (
                "Nothing: close delivers them",
                "close knows nothing of bytes that were never given to send.",
            ),
        ],
        rule: "Draining is a stage of the loop: finish the answers, close each client that has its own, end last.",
        source: ("src/server/mod.rs", "self.finish_draining();"),
        exercise: "goodbye",
        code: None,
        programs: &["08_authenticated_echo"],
    }
}

fn handover_mistake(server: &mut Loop) -> io::Result<()> {
    if std::mem::take(&mut server.moved) {
        // A new program: it listens. The connections were registered when they came.
        server.listen()?;
    }
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                server.send(token, n)?;
            }
        }
    }
    Ok(())
}

fn handover_cure(server: &mut Loop) -> io::Result<()> {
    if std::mem::take(&mut server.moved) {
        // A new program has an epoll of its own, which knows of no socket.
        server.listen()?;
        for token in server.tokens() {
            server.register(token)?;
        }
    }
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                server.send(token, n)?;
            }
        }
    }
    Ok(())
}

pub fn handover() -> Tale {
    Tale {
        name: "handover",
        title: "A descriptor takes its events along",
        text: [
            "A new program takes over: c1's descriptor moves to it, with all that the kernel holds for it.",
            "Registrations stay behind, in the epoll of the old program; the new program's has none.",
            "c1 asks again; its bytes wait in the socket, and a loop that only polls never hears of them.",
        ],
        seen: &["google/gvisor#13920 (after a restore)", "openpmix/prrte#2540 (after a fork)"],
        stage: Stage::new(&[
            Act::Connect,
            Act::Rest(10),
            Act::Send(1, 5),
            Act::Rest(10),
            Act::Handover,
            Act::Send(1, 7),
            Act::Rest(60_000),
        ]),
        file: FILE,
        mistake: Side {
            turn: handover_mistake,
            function: "fn handover_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.sockets.first().is_some_and(|socket| socket.unread > 0)
            },
            stop_text: "The new program sleeps, and c1's bytes are there",
        },
        cure: Side {
            turn: handover_cure,
            function: "fn handover_cure",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(7), .. }),
            stop_text: "Registering has announced what was there already",
        },
        question: "c1's descriptor is in the new program, with 7 bytes to read. What does this poll return?",
        answers: &[
            (
                "Nothing: its epoll does not know c1",
                "The descriptor was copied, its registration was not. Each epoll has a list of its own.",
            ),
            (
                "c1 is readable, since the bytes came just now",
                "The old program's epoll would have said so. It went with its program.",
            ),
            (
                "c1 is readable, as soon as c1 sends more",
                "More bytes are one more change in a socket that this epoll does not watch.",
            ),
        ],
        rule: "After a move register every descriptor again; that announces what came meanwhile, too.",
        source: (
            "src/server/handover/thaw.rs",
            "kernel.register(&mut stream, Token::connection(id))?;",
        ),
        exercise: "first-echo",
        code: Some(Code::Forgotten),
        programs: &["13_handover"],
    }
}
