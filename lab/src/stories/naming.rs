use std::io::{self, ErrorKind::WouldBlock};

use saltecho::lab::Code;
use saltecho::reactor::{Ready, Token};
use saltecho::sim::Faults;
use saltecho::trace::{Event, Stream};

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("lab/src/stories/naming.rs", include_str!("naming.rs"));

/// Length of a digest.
const DIGEST: usize = 16;

fn pieces_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            match server.recv_up_to(token, DIGEST) {
                // The digest, the whole digest.
                Ok(DIGEST) => drop(server.send(token, 2)?),
                Err(error) if error.kind() == WouldBlock => {}
                // Something else: a wrong digest.
                _ => server.close(token),
            }
        }
    }
    Ok(())
}

fn pieces_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            server.accept_all()?;
        } else if ready.has(Ready::READABLE) {
            let so_far = server.conns[&token].pieces;
            match server.recv_up_to(token, DIGEST - so_far) {
                Err(error) if error.kind() == WouldBlock => {}
                Err(_) | Ok(0) => server.close(token),
                // A piece is collected until the digest is whole.
                Ok(n) => {
                    server.conns.get_mut(&token).expect("it is there").pieces += n;
                    if so_far + n == DIGEST {
                        server.send(token, 2)?;
                    }
                }
            }
        }
    }
    Ok(())
}

pub fn pieces() -> Tale {
    Tale {
        name: "pieces",
        title: "TCP keeps my messages apart",
        text: [
            "c1 sends the 16 bytes of its digest, and the network delivers 9 of them first.",
            "recv(16) returns 9 and does not wait for the others: TCP carries bytes, and messages are the reader's business.",
            "A loop that compares what it has got refuses a client whose digest is right.",
        ],
        seen: &["stackoverflow.com/q/16990746"],
        stage: Stage::new(&[
            Act::Connect,
            Act::Rest(10),
            Act::Send(1, 9),
            Act::Rest(200),
            Act::Send(1, 7),
            Act::Rest(1000),
        ]),
        file: FILE,
        mistake: Side {
            turn: pieces_mistake,
            function: "fn pieces_mistake",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(9), .. }),
            stop_text: "9 of 16 bytes, and the loop compares them",
        },
        cure: Side {
            turn: pieces_cure,
            function: "fn pieces_cure",
            stop: |step, _| matches!(step.event, Event::Recv { result: Ok(7), .. }),
            stop_text: "The other seven: the digest is whole",
        },
        question: "c1 has sent its digest of 16 bytes; 9 have arrived. What does recv(16) return?",
        answers: &[
            ("9", "It returns what is there, if anything is."),
            (
                "WouldBlock: 16 bytes are not there yet",
                "recv knows no messages. Something is there, so it returns that.",
            ),
            (
                "16: it waits for the rest",
                "A non-blocking socket never waits, and a blocking one returns 9 as well.",
            ),
        ],
        rule: "Collect bytes until the unit is complete; one recv may bring half of it or several.",
        source: ("src/proto/handshake.rs", "/// Returns true if the digest has all its bytes."),
        exercise: "pieces",
        code: Some(Code::PartOfMessage),
        programs: &["08_authenticated_echo", "09_udp", "10_makefile"],
    }
}

fn stale_token_mistake(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            // A connection's token is the number of its slot.
            let slot = Token::from_raw(server.free_slot());
            server.accept_as(slot).ok();
        } else if ready.has(Ready::READABLE) {
            while let Ok(n) = server.recv(token) {
                if n == 0 {
                    break;
                }
                server.send(token, n)?;
            }
            if ready.has(Ready::CLOSED) {
                server.close(token);
            }
        }
    }
    Ok(())
}

fn stale_token_cure(server: &mut Loop) -> io::Result<()> {
    for (token, ready) in server.poll(None)? {
        if token == server.door {
            // Slot and generation: a token that no connection had before.
            server.accept().ok();
        } else if ready.has(Ready::READABLE) && server.conns.contains_key(&token) {
            while let Ok(n) = server.recv(token) {
                if n == 0 {
                    break;
                }
                server.send(token, n)?;
            }
            if ready.has(Ready::CLOSED) {
                server.close(token);
            }
        }
    }
    Ok(())
}

pub fn stale_token() -> Tale {
    let mut stage = Stage::new(&[
        Act::Connect,
        Act::Turn,
        Act::Turn,
        Act::Send(1, 5),
        Act::Finish(1),
        Act::Turn,
        Act::Connect,
        Act::Turn,
        Act::Send(2, 7),
        Act::Turn,
    ]);
    stage.faults = Faults { stale_event: Faults::ALWAYS, ..Faults::none() };
    Tale {
        name: "stale-token",
        title: "An event belongs to the connection that has its number now",
        text: [
            "c1 leaves, c2 comes and gets c1's slot, and with it the number that events carry.",
            "An event of c1's is still under way: it says readable and closed, and was true when it was made.",
            "A loop that looks up the number closes c2, which has done nothing.",
        ],
        seen: &["tokio-rs/mio#172", "wasmerio/wasmer#6608", "creytiv/re#266", "xrootd/xrootd#1928"],
        stage,
        file: FILE,
        mistake: Side {
            turn: stale_token_mistake,
            function: "fn stale_token_mistake",
            stop: |step, _| matches!(step.event, Event::Close(Stream(2), _)),
            stop_text: "c2 is closed for c1's event",
        },
        cure: Side {
            turn: stale_token_cure,
            function: "fn stale_token_cure",
            stop: |step, _| {
                matches!(step.event, Event::Recv { stream: Stream(2), result: Ok(7), .. })
            },
            stop_text: "c2 is well: c1's event found no connection",
        },
        question: "The next event of this batch was c1's and said closed. Its number is c2's now. Which client does the loop close?",
        answers: &[
            ("c2", "The number is all that the event carries, and it leads to c2."),
            ("c1, once more", "c1 is closed and gone. The number does not remember it."),
            (
                "None: the close took c1's events along",
                "It took them out of epoll. It cannot take back what was reported already.",
            ),
        ],
        rule: "Put a generation into the token, so that a name dies with its connection.",
        source: ("src/reactor/slots.rs", "const fn pack(index: u32, generation: u32)"),
        exercise: "stale-events",
        code: Some(Code::ClosedWithoutCause),
        programs: &["05_readiness"],
    }
}
