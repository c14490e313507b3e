use std::io::{self, ErrorKind::WouldBlock};
use std::time::Duration;

use saltecho::reactor::Ready;
use saltecho::trace::Event;

use super::desk::Loop;
use super::script::{Act, Stage};
use super::{Side, Tale};

const FILE: (&str, &str) = ("examples/loop_page/stories/fairness.rs", include_str!("fairness.rs"));

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
        seen: &[
            "dabeaz/curio#106 (49 s for one client)",
            "twitter/twemproxy#416",
            "microsoft/CCF#1462",
            "envoyproxy/envoy#27773",
        ],
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
        practice: Some("09_fairness"),
    }
}
