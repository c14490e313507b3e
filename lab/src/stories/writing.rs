use std::io::{self, ErrorKind::WouldBlock};

use saltecho::lab::Code;
use saltecho::reactor::Ready;
use saltecho::trace::{Event, World};

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/writing.rs", include_str!("writing.rs"));

fn partial_write_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                // The answer is out.
                server.send(token, n)?;
            }
        }
    }
    Ok(())
}

fn partial_write_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                // What found no room is kept, and sent when there is room.
                let sent = server.send(token, n)?;
                server.keep(token, sent..n);
            }
        }
    }
    Ok(())
}

pub fn partial_write() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Rest(10),
        Act::Stall(1),
        Act::Send(1, 4096),
        Act::Rest(10),
        Act::Resume(1),
        Act::Rest(1000),
    ]);
    stage.to_client = 1300;
    Tale {
        name: "partial-write",
        title: "send takes everything",
        text: [
            "The answer to c1 has 4,096 bytes, and c1's side has room for 1,300.",
            "send takes what fits, says how much that was, and does not fail.",
            "A loop that does not look at the number loses the rest without any error.",
        ],
        seen: &[
            "microsoft/WSL#40032",
            "objeck/objeck-lang#670",
            "MisterTea/EternalTerminal#815",
            "gvanem/Watt-32#106",
        ],
        stage,
        file: FILE,
        mistake: Side {
            turn: partial_write_mistake,
            function: "fn partial_write_mistake",
            stop: |step, _| matches!(step.event, Event::Send { len: 4096, .. }),
            stop_text: "send took 1,300 of 4,096; the buffer is used again",
        },
        cure: Side {
            turn: partial_write_cure,
            function: "fn partial_write_cure",
            stop: |step, _| matches!(step.event, Event::Send { len: 2796, .. }),
            stop_text: "The rest goes out when there is room",
        },
        question: "The loop sends the 4,096 bytes of the answer. What does send return?",
        answers: &[
            (
                "1,300, which is no error",
                "The number is the whole message: 2,796 bytes are still yours.",
            ),
            (
                "4,096: the kernel buffers the rest",
                "It buffers what fits into the buffer. That is what the number says.",
            ),
            ("WouldBlock", "Only if nothing at all fits."),
        ],
        rule: "send says how much it took; keep the rest until an event says that there is room.",
        source: ("src/proto/reply.rs", "pub fn sent(mut self, n: usize)"),
        exercise: "short-sends",
        code: Some(Code::LostRest),
        programs: &["06_send_and_sendall"],
    }
}

fn writable_event_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                // It is sent once the socket is reported writable.
                server.keep(token, 0..n);
            }
        }
    }
    Ok(())
}

fn writable_event_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                // It is sent at once; an event is needed only for what finds no room.
                let sent = server.send(token, n)?;
                server.keep(token, sent..n);
            }
        }
    }
    Ok(())
}

pub fn writable_event() -> Tale {
    Tale {
        name: "writable-event",
        title: "A writable event starts a write",
        text: [
            "c1's five bytes are received, and their answer waits for a writable event.",
            "There was room all the time, and becoming writable is what an edge reports, not being it.",
            "So the answer goes out only when something else wakes the loop: here, c1's next question.",
        ],
        seen: &["tokio-rs/mio#1337", "engula/engula#653", "tokio-rs/tokio#238"],
        stage: Stage::new(&[
            Act::Connect,
            Act::Rest(10),
            Act::Send(1, 5),
            Act::Rest(5000),
            Act::Send(1, 3),
            Act::Rest(5000),
        ]),
        file: FILE,
        mistake: Side {
            turn: writable_event_mistake,
            function: "fn writable_event_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.sockets.first().is_some_and(|socket| !socket.edge)
                    && step.at.as_nanos() > 1_000_000_000
            },
            stop_text: "The loop sleeps with the answer in hand",
        },
        cure: Side {
            turn: writable_event_cure,
            function: "fn writable_event_cure",
            stop: |step, _| matches!(step.event, Event::Send { .. }),
            stop_text: "The answer goes out in the same turn",
        },
        question: "Five bytes of answer are in hand, and c1's side has room. Does poll say \"writable\"?",
        answers: &[
            (
                "No",
                "It was writable before and it is now. Nothing has changed, so there is no edge.",
            ),
            ("Yes, at once", "Level-triggered epoll would, over and over. An edge is a change."),
        ],
        rule: "Send at once; wait for an event only after a send has found no room.",
        source: (
            "src/server/pump.rs",
            "/// Receives once and offers the answer to the kernel from the very buffer",
        ),
        exercise: "short-sends",
        code: Some(Code::AnswerInHand),
        programs: &["07_back_pressure"],
    }
}

fn slow_reader_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        if ready.has(Ready::READABLE) {
            // Memory is cheap.
            while let Ok(n) = server.recv(token) {
                server.keep(token, 0..n);
                server.send_kept(token)?;
            }
        }
    }
    Ok(())
}

fn slow_reader_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        // While an answer waits, nothing is read. Its room is an event, and then reading goes on.
        while server.kept(token) == 0 {
            match server.recv(token) {
                Ok(n) => server.keep(token, 0..n),
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => return Err(error),
            }
            server.send_kept(token)?;
        }
    }
    Ok(())
}

pub fn slow_reader() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Rest(10),
        Act::Stall(1),
        Act::Supply(1, 10 * 1024),
        Act::Send(1, 2048),
        Act::Rest(1000),
        Act::Resume(1),
        Act::Rest(1000),
    ]);
    (stage.buffer, stage.to_server, stage.window, stage.to_client) = (1024, 2048, 2048, 1024);
    Tale {
        name: "slow-reader",
        title: "A slow reader costs nothing",
        text: [
            "c1 sends and sends, and reads nothing of its answers.",
            "The loop goes on reading, so what it cannot send piles up in its own memory, as high as c1 likes.",
            "A loop that stops reading lets the kernel's queues fill instead, and then c1 itself has to wait.",
        ],
        seen: &["redis/redis#91", "redis/redis#540", "redis/redis#2679", "redis/redis#6319"],
        stage,
        file: FILE,
        mistake: Side {
            turn: slow_reader_mistake,
            function: "fn slow_reader_mistake",
            stop: |step, _| matches!(step.event, Event::Send { len: 8192.., .. }),
            stop_text: "8 KiB of answers in memory, and more to come",
        },
        cure: Side {
            turn: slow_reader_cure,
            function: "fn slow_reader_cure",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.sockets.first().is_some_and(|socket| socket.unread > 0)
            },
            stop_text: "The loop sleeps on purpose: room will be an event",
        },
        question: "c1 reads nothing. What happens to its answers?",
        answers: &[
            (
                "They grow in the loop's memory",
                "recv never would block, since c1 keeps sending. There is no limit.",
            ),
            ("The kernel holds them", "It holds 1,024 bytes of them, as much as its buffer does."),
            (
                "send fails, and the loop learns of it",
                "send says \"would block\", which the loop takes for \"later\".",
            ),
        ],
        rule: "While an answer waits, do not read: that is how the peer learns to wait.",
        source: ("src/proto/connection.rs", "Stage::Echoing(Some(_)) => Wants::Send,"),
        exercise: "back-pressure",
        code: Some(Code::OverLimit),
        programs: &["07_back_pressure", "12_on_tokio"],
    }
}
