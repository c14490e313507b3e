use std::io;

use saltecho::lab::Code;
use saltecho::reactor::Ready;
use saltecho::trace::Event;

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/ending.rs", include_str!("ending.rs"));
const CONNECTION: &str = "src/proto/connection.rs";

fn half_close_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        while let Ok(n) = server.recv(token) {
            if n == 0 {
                // The client has gone.
                server.close(token);
                break;
            }
            let sent = server.send(token, n)?;
            server.keep(token, sent..n);
        }
    }
    Ok(())
}

fn half_close_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
            continue;
        }
        if ready.has(Ready::WRITABLE) {
            server.send_kept(token)?;
        }
        while let Ok(n) = server.recv(token) {
            if n == 0 {
                // The client has no more questions. It may well wait for answers.
                if server.kept(token) == 0 {
                    server.close(token);
                }
                break;
            }
            let sent = server.send(token, n)?;
            server.keep(token, sent..n);
        }
    }
    Ok(())
}

pub fn half_close() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Rest(10),
        Act::Stall(1),
        Act::Send(1, 1000),
        Act::Finish(1),
        Act::Rest(10),
        Act::Resume(1),
        Act::Rest(1000),
    ]);
    stage.to_client = 300;
    Tale {
        name: "half-close",
        title: "The peer's end ends the connection",
        text: [
            "c1 sends 1,000 bytes and ends its stream, as `echo hello | nc` does: it will ask nothing more.",
            "Its answer has 1,000 bytes too, and there was room for 300.",
            "recv = 0 ends one direction; a loop that closes now throws 700 bytes of the other one away.",
        ],
        seen: &["MDA2AV/ioxide#164", "oven-sh/bun#35034", "enghitalo/vanilla#103"],
        stage,
        file: FILE,
        mistake: Side {
            turn: half_close_mistake,
            function: "fn half_close_mistake",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(0), .. }),
            stop_text: "recv = 0 with 700 bytes unsent",
        },
        cure: Side {
            turn: half_close_cure,
            function: "fn half_close_cure",
            stop: |step, _| matches!(step.event, Event::Send { len: 700, .. }),
            stop_text: "The answer goes on after the client's end",
        },
        question: "c1 has ended its stream. Is c1 still there?",
        answers: &[
            (
                "It may be, and may still be reading",
                "An end says \"I send no more\". It does not say \"I read no more\".",
            ),
            (
                "No: that is what the zero means",
                "Then no client could send a question, end its stream, and read the answer.",
            ),
        ],
        rule: "The peer's end ends reading only: finish the answer, then close.",
        source: ("src/proto/connection/ending.rs", "pub fn handle_eof(&mut self)"),
        exercise: "ends",
        code: Some(Code::ClosedUnanswered),
        programs: &["11_custom_handler"],
    }
}

fn close_unread_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            // One question of 16 bytes, one answer of 512, and that is all.
            server.recv_up_to(token, 16)?;
            server.send(token, 512)?;
            server.close(token);
        }
    }
    Ok(())
}

fn close_unread_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            let answered = server.conns[&token].at_end;
            if !answered {
                server.recv_up_to(token, 16)?;
                server.send(token, 512)?;
                // No more answers. What the client still sends is read away until it ends too.
                server.shutdown(token)?;
                server.conns.get_mut(&token).expect("it is there").at_end = true;
            }
            while let Ok(n) = server.recv(token) {
                if n == 0 {
                    server.close(token);
                    break;
                }
            }
        }
    }
    Ok(())
}

pub fn close_unread() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Rest(10),
        Act::Stall(1),
        Act::Send(1, 116),
        Act::Rest(10),
        Act::Resume(1),
        Act::Rest(10),
        Act::Finish(1),
        Act::Rest(1000),
    ]);
    (stage.to_client, stage.window) = (1024, 200);
    Tale {
        name: "close-unread",
        title: "close delivers what was sent",
        text: [
            "The server answers c1's question of 16 bytes with 512 bytes and closes.",
            "c1 had sent 100 bytes more, which are unread; closing then sends a reset instead of an end.",
            "The reset overtakes the answer: bytes that send had taken are destroyed on their way.",
        ],
        seen: &["RFC 2525, section 2.17", "news.ycombinator.com/item?id=48170799"],
        stage,
        file: FILE,
        mistake: Side {
            turn: close_unread_mistake,
            function: "fn close_unread_mistake",
            stop: |step, _| matches!(step.event, Event::Close(..)),
            stop_text: "A close with unread input destroys the answer",
        },
        cure: Side {
            turn: close_unread_cure,
            function: "fn close_unread_cure",
            stop: |step, _| matches!(step.event, Event::Shutdown(..)),
            stop_text: "An end behind the answer, and reading goes on",
        },
        question: "send has taken all 512 bytes, and close is next. How many does c1 get?",
        answers: &[
            (
                "200: those that are there already",
                "100 bytes are unread, so close resets, and a reset discards what is under way.",
            ),
            (
                "512: close delivers what was sent",
                "It would, if everything that had come was read.",
            ),
            ("None", "What has arrived on c1's side can still be read, on Linux."),
        ],
        rule: "shutdown, read until the peer ends too, then close.",
        source: (CONNECTION, "Stage::Finishing(_) => Wants::Shutdown,"),
        exercise: "goodbye",
        code: Some(Code::ResetOvertakes),
        programs: &["11_custom_handler"],
    }
}

fn hang_up_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::CLOSED) {
            // It has hung up.
            server.close(token);
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                server.send(token, n)?;
            }
        }
    }
    Ok(())
}

fn hang_up_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) || ready.has(Ready::CLOSED) {
            while let Ok(n) = server.recv(token) {
                // recv itself says when it is over.
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

pub fn hang_up() -> Tale {
    Tale {
        name: "hang-up",
        title: "A hang-up bit means: close now",
        text: [
            "c1 sends 512 bytes and ends its stream; one event says readable and closed.",
            "The bit is true, and it is about the end of the queue: the 512 bytes stand before it.",
            "A loop that closes at the bit loses the last thing that every well-behaved client says.",
        ],
        seen: &["netty/netty#4317", "netty/netty#3729", "netty/netty#6391", "tokio-rs/mio#1110"],
        stage: Stage::new(&[
            Act::Connect,
            Act::Rest(10),
            Act::Send(1, 512),
            Act::Finish(1),
            Act::Rest(1000),
        ]),
        file: FILE,
        mistake: Side {
            turn: hang_up_mistake,
            function: "fn hang_up_mistake",
            stop: |step, _| matches!(step.event, Event::Close(..)),
            stop_text: "Closed with 512 bytes unread",
        },
        cure: Side {
            turn: hang_up_cure,
            function: "fn hang_up_cure",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(512), .. }),
            stop_text: "The bytes before the end are read",
        },
        question: "The event says readable and closed. What is in the receive queue?",
        answers: &[
            ("512 bytes, and the end behind them", "Bits have no order. The queue has."),
            (
                "Nothing: it is closed",
                "Closed is the stream behind the last byte, not the queue before it.",
            ),
        ],
        rule: "Use the hang-up bit for one thing only: to go on reading until recv says how it ended.",
        source: (
            "src/reactor/ready.rs",
            "/// The peer's stream has ended or the connection failed.",
        ),
        exercise: "ends",
        code: Some(Code::ClosedUnread),
        programs: &["11_custom_handler"],
    }
}
