use std::io::{self, ErrorKind::WouldBlock};

use saltecho::lab::Code;
use saltecho::reactor::Ready;
use saltecho::sim::Faults;
use saltecho::trace::{Event, Fault, World};

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/reading.rs", include_str!("reading.rs"));
const READY: &str = "src/reactor/ready.rs";

fn one_read_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            // One event, one read.
            let n = server.recv(token)?;
            server.send(token, n)?;
        }
    }
    Ok(())
}

fn one_read_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            // Only "would block" promises another event.
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

pub fn one_read() -> Tale {
    Tale {
        name: "one-read",
        title: "One event, one read",
        text: [
            "c1 sends 10,000 bytes, and the loop has a buffer for 4,096.",
            "epoll, edge-triggered, reports that bytes have come; it does not report that some are left.",
            "A loop that reads once for each event therefore leaves the rest where no event will point to it.",
        ],
        seen: &["tokio-rs/mio#1076", "tokio-rs/mio#1085", "tokio-rs/mio#1945"],
        stage: Stage::new(&[Act::Connect, Act::Rest(10), Act::Send(1, 10_000), Act::Rest(5000)]),
        file: FILE,
        mistake: Side {
            turn: one_read_mistake,
            function: "fn one_read_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.sockets.first().is_some_and(|socket| socket.unread > 0)
            },
            stop_text: "The loop sleeps on unread bytes",
        },
        cure: Side {
            turn: one_read_cure,
            function: "fn one_read_cure",
            stop: |step, _| {
                matches!(step.event, Event::Recv { result: Err(Fault::WOULD_BLOCK), .. })
            },
            stop_text: "Would block: from here on there will be an event",
        },
        question: "5,904 bytes of c1 are unread. What does this poll return?",
        answers: &[
            (
                "Nothing, ever: it sleeps",
                "An edge is a change. The queue was never empty again, so nothing changes.",
            ),
            (
                "An event: c1 is readable",
                "That would be level-triggered epoll. An edge came once, when the bytes did.",
            ),
            (
                "An event, as soon as there is a full buffer",
                "epoll does not know the size of your buffer.",
            ),
        ],
        rule: "Read until recv would block, or remember that you have not.",
        source: (READY, "/// Readiness is edge-triggered: an event comes once"),
        exercise: "drain",
        code: Some(Code::UnreadInput),
        programs: &["05_readiness"],
    }
}

fn would_block_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            match server.recv(token) {
                Ok(n) => drop(server.send(token, n)?),
                // It was said to be readable, and is not: something is broken.
                Err(_) => server.close(token),
            }
        }
    }
    Ok(())
}

fn would_block_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            match server.recv(token) {
                Ok(n) => drop(server.send(token, n)?),
                // A hint that was wrong costs one call.
                Err(error) if error.kind() == WouldBlock => {}
                Err(_) => server.close(token),
            }
        }
    }
    Ok(())
}

pub fn would_block() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Rest(10),
        Act::Send(1, 5),
        Act::Rest(10),
        Act::Send(1, 7),
        Act::Rest(1000),
    ]);
    stage.faults = Faults { repeated_event: Faults::ALWAYS, ..Faults::none() };
    Tale {
        name: "would-block",
        title: "An event is a promise, and WouldBlock a failure",
        text: [
            "c1 sends five bytes, and the kernel reports them twice, as it may.",
            "The first event is answered; behind the second there is nothing.",
            "A loop that takes WouldBlock for an error closes a connection that is in perfect health.",
        ],
        seen: &[
            "tokio-rs/mio#632",
            "berkowski/mio-serial#12",
            "K0M15/webserv#53",
            "katyo/gpiod-rs#8",
        ],
        stage,
        file: FILE,
        mistake: Side {
            turn: would_block_mistake,
            function: "fn would_block_mistake",
            stop: |step, _| {
                matches!(step.event, Event::Recv { result: Err(Fault::WOULD_BLOCK), .. })
            },
            stop_text: "Would block, right after an event said readable",
        },
        cure: Side {
            turn: would_block_cure,
            function: "fn would_block_cure",
            stop: |step, _| {
                matches!(step.event, Event::Recv { result: Err(Fault::WOULD_BLOCK), .. })
            },
            stop_text: "Would block: nothing to do now, and nothing is wrong",
        },
        question: "The event says that c1 is readable, but its five bytes were read a moment ago. What does recv say?",
        answers: &[
            (
                "It would block",
                "The event is news about the past. It is not taken back when the bytes are read.",
            ),
            ("Zero bytes", "Zero is the end of the stream, and c1 has not ended its stream."),
            (
                "It cannot be: the kernel would have removed the event",
                "The event was in the list already, as late and repeated ones are.",
            ),
        ],
        rule: "An event is a hint that a call is worth a try; WouldBlock is its normal end.",
        source: (READY, "/// The calls that a socket is believed ready for: hints that events set"),
        exercise: "first-echo",
        code: Some(Code::ClosedWithoutCause),
        programs: &["03_busy_waiting"],
    }
}

fn zero_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            match server.recv(token) {
                // No bytes yet.
                Ok(0) => {}
                Ok(n) => drop(server.send(token, n)?),
                Err(error) if error.kind() == WouldBlock => {}
                Err(_) => server.close(token),
            }
        }
    }
    Ok(())
}

fn zero_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            match server.recv(token) {
                // The end: there will never be more.
                Ok(0) => server.close(token),
                Ok(n) => drop(server.send(token, n)?),
                Err(error) if error.kind() == WouldBlock => {}
                Err(_) => server.close(token),
            }
        }
    }
    Ok(())
}

pub fn zero() -> Tale {
    Tale {
        name: "zero",
        title: "recv = 0 means that nothing has come yet",
        text: [
            "c1 has its answer and ends its stream.",
            "recv says so once, with zero bytes, and there will be no further event.",
            "A loop that goes on waiting keeps the connection, its memory and its descriptor for ever.",
        ],
        seen: &[
            "wg/wrk#179",
            "swhitty/FlyingFox#224",
            "MarcJHuber/event-driven-servers#204",
            "sahlberg/libnfs#121",
            "ElementsProject/lightning#7661",
        ],
        stage: Stage::new(&[
            Act::Connect,
            Act::Rest(10),
            Act::Send(1, 5),
            Act::Rest(10),
            Act::Finish(1),
            Act::Rest(60_000),
        ]),
        file: FILE,
        mistake: Side {
            turn: zero_mistake,
            function: "fn zero_mistake",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(0), .. }),
            stop_text: "The zero, with the place still taken",
        },
        cure: Side {
            turn: zero_cure,
            function: "fn zero_cure",
            stop: |step, _| matches!(step.event, Event::Close(..)),
            stop_text: "The place is free again",
        },
        question: "c1 is reported once more: readable and closed. What does recv return?",
        answers: &[
            ("0", "And it would return 0 each time: an end stays an end."),
            ("WouldBlock", "That is \"nothing yet\". An end is not \"nothing yet\"."),
            (
                "An error, since c1 is gone",
                "c1 has ended its stream in good order, which is no error.",
            ),
        ],
        rule: "Zero bytes are the end of the stream; \"nothing yet\" is WouldBlock.",
        source: ("src/server/pump.rs", "Ok(Some(0)) => {"),
        exercise: "ends",
        code: Some(Code::KeptEnded),
        programs: &["01_blocking_echo"],
    }
}

fn end_behind_data_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            loop {
                let n = server.recv(token)?;
                if n == 0 {
                    server.close(token);
                    break;
                }
                server.send(token, n)?;
                // A short read: the queue is empty, so the next call is spared.
                if n < server.buffer.len() {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn end_behind_data_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            loop {
                let n = server.recv(token)?;
                if n == 0 {
                    server.close(token);
                    break;
                }
                server.send(token, n)?;
                // A short read, unless the end or an urgent mark stands behind it.
                if n < server.buffer.len()
                    && !ready.has(Ready::CLOSED)
                    && !ready.has(Ready::PRIORITY)
                {
                    break;
                }
            }
        }
    }
    Ok(())
}

pub fn end_behind_data() -> Tale {
    Tale {
        name: "end-behind-data",
        title: "A short read means that all is read",
        text: [
            "Fewer bytes than the buffer holds: then the queue is empty, says epoll(7), and the next recv can be spared.",
            "But c1's end stands behind its five bytes, and one event announced both.",
            "A loop that stops at the short read never calls the recv that would have said zero.",
        ],
        seen: &["epoll(7), question 9", "netty/netty#7788"],
        stage: Stage::new(&[
            Act::Connect,
            Act::Rest(10),
            Act::Send(1, 5),
            Act::Finish(1),
            Act::Rest(60_000),
        ]),
        file: FILE,
        mistake: Side {
            turn: end_behind_data_mistake,
            function: "fn end_behind_data_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.sockets.first().is_some_and(|socket| socket.ended)
            },
            stop_text: "The loop sleeps before an unread end",
        },
        cure: Side {
            turn: end_behind_data_cure,
            function: "fn end_behind_data_cure",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(0), .. }),
            stop_text: "The call that was not spared finds the end",
        },
        question: "All five bytes are read and answered, and c1 has ended. Does poll report the end?",
        answers: &[
            (
                "No",
                "Bytes and end came before the first event was fetched, and that event was for both.",
            ),
            (
                "Yes, as an event of its own",
                "Only if it had come after the event for the bytes was fetched.",
            ),
        ],
        rule: "A short read ends reading only if no end and no urgent byte was announced.",
        source: (READY, "if self.0 & (Self::CLOSED.0 | Self::PRIORITY.0) == 0 {"),
        exercise: "ends",
        code: Some(Code::UnreadEnd),
        programs: &["05_readiness"],
    }
}

fn urgent_byte_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            loop {
                let n = server.recv(token)?;
                server.send(token, n)?;
                if n < server.buffer.len() && !ready.has(Ready::CLOSED) {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn urgent_byte_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            loop {
                match server.recv(token) {
                    Ok(n) if n < server.buffer.len() && !ready.has(Ready::PRIORITY) => {
                        server.send(token, n)?;
                        break;
                    }
                    Ok(n) => server.send(token, n)?,
                    Err(error) if error.kind() == WouldBlock => break,
                    Err(error) => return Err(error),
                };
            }
        }
    }
    Ok(())
}

pub fn urgent_byte() -> Tale {
    Tale {
        name: "urgent-byte",
        title: "A short read means that all is read, part two",
        text: [
            "c1 sends 100 bytes, one urgent byte, and 50 bytes more.",
            "recv stops at the urgent mark although more is behind it, so the read is short and the queue is not empty.",
            "Any peer can send an urgent byte: a loop that trusts short reads can be stranded from outside.",
        ],
        seen: &["tcp(7), on urgent data"],
        stage: Stage::new(&[
            Act::Connect,
            Act::Rest(10),
            Act::Send(1, 100),
            Act::Urgent(1),
            Act::Send(1, 50),
            Act::Rest(60_000),
        ]),
        file: FILE,
        mistake: Side {
            turn: urgent_byte_mistake,
            function: "fn urgent_byte_mistake",
            stop: |step, picture| {
                matches!(step.event, Event::World(World::Sleeps(..)))
                    && picture.sockets.first().is_some_and(|socket| socket.unread > 0)
            },
            stop_text: "50 bytes lie behind the mark",
        },
        cure: Side {
            turn: urgent_byte_cure,
            function: "fn urgent_byte_cure",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(50), .. }),
            stop_text: "The next recv goes past the mark",
        },
        question: "recv returned 100 bytes into a buffer for 4,096, and the loop polls. What comes?",
        answers: &[
            (
                "Nothing: the other 50 bytes are behind the mark",
                "The mark stopped recv, not a lack of bytes.",
            ),
            (
                "An event for the other 50 bytes",
                "They came before the event was fetched. It was their event, too.",
            ),
        ],
        rule: "While an urgent mark is ahead, a short read says nothing.",
        source: (READY, "/// Urgent data arrived. A `recv` stops short"),
        exercise: "drain",
        code: Some(Code::UnreadInput),
        programs: &["05_readiness"],
    }
}
