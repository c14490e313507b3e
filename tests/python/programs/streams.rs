//! Both ends of one TCP connection, until it has ended one way or another.

use serde_json::{Value as Json, json};

use super::Dice;

// States of a TCP connection, as TCP_INFO numbers them.
const ESTABLISHED: u8 = 1;
const FIN_WAIT: u8 = 5;
const CLOSED: u8 = 7;
const CLOSE_WAIT: u8 = 8;

#[derive(Clone, Copy)]
struct End {
    name: &'static str,
    open: bool,
    /// Bytes that have arrived and were not received.
    unread: usize,
    state: u8,
    blocking: bool,
}

pub(super) fn program(dice: &mut Dice) -> Vec<Json> {
    let end = |name| End { name, open: true, unread: 0, state: ESTABLISHED, blocking: true };
    let mut ends = [end("c"), end("p")];
    let mut steps = vec![json!({"do": "tcp_pair", "a": "c", "b": "p"})];
    for _ in 0..5 + dice.below(14) {
        let me = dice.below(2);
        match dice.below(20) {
            0..=5 => send(&mut steps, &mut ends, me, dice),
            6..=12 => receive(&mut steps, &mut ends, me, dice),
            13..=15 => mode(&mut steps, &mut ends, me, dice),
            16 => shut_down(&mut steps, &mut ends, me),
            17 if dice.chance(40) => close(&mut steps, &mut ends, me, dice),
            _ => ask(&mut steps, ends[me], dice),
        }
    }
    steps
}

fn send(steps: &mut Vec<Json>, ends: &mut [End; 2], me: usize, dice: &mut Dice) {
    let size = dice.size();
    let what = *dice.pick(&["send", "sendall", "send_loop"]);
    let mut step = json!({"do": what, "on": ends[me].name, "data": dice.pattern(size)});
    if what != "send_loop" && dice.chance(20) {
        step["flags"] = json!([*dice.pick(&["DONTWAIT", "NOSIGNAL"])]);
    }
    steps.push(step);
    let other = 1 - me;
    if size == 0 || !ends[me].open {
        return;
    }
    match ends[me].state {
        // A whole connection, or one whose other half has ended: the bytes arrive.
        ESTABLISHED | CLOSE_WAIT if ends[other].open => {
            ends[other].unread += size;
            steps.push(json!({"do": "settle", "on": ends[other].name,
                "peek": ends[other].unread}));
        }
        // The peer is gone: the answer is a reset.
        CLOSE_WAIT => {
            ends[me].state = CLOSED;
            steps.push(json!({"do": "settle", "on": ends[me].name, "state": CLOSED}));
        }
        _ => {}
    }
}

fn receive(steps: &mut Vec<Json>, ends: &mut [End; 2], me: usize, dice: &mut Dice) {
    let end = &mut ends[me];
    let size = if dice.chance(5) { -1 } else { i64::try_from(dice.size()).expect("small") };
    let mut flags: Vec<&str> = Vec::new();
    if dice.chance(15) {
        flags.push("PEEK");
    } else if dice.chance(10) {
        flags.push("WAITALL");
    }
    let size_wanted = usize::try_from(size).unwrap_or(0);
    // In blocking mode only calls that cannot wait: data is there, or no more will come.
    let something =
        if flags.contains(&"WAITALL") { end.unread >= size_wanted.max(1) } else { end.unread > 0 };
    if end.blocking && end.open && !something && matches!(end.state, ESTABLISHED | FIN_WAIT) {
        flags = vec!["DONTWAIT"];
    }
    let what = *dice.pick(&["recv", "recv", "recvfrom"]);
    let mut step = json!({"do": what, "on": end.name, "n": size});
    if !flags.is_empty() {
        step["flags"] = json!(flags);
    }
    steps.push(step);
    if end.open && !flags.contains(&"PEEK") {
        end.unread -= size_wanted.min(end.unread);
    }
}

fn mode(steps: &mut Vec<Json>, ends: &mut [End; 2], me: usize, dice: &mut Dice) {
    let end = &mut ends[me];
    end.blocking = dice.chance(25);
    steps.push(if end.blocking {
        json!({"do": "settimeout", "on": end.name, "secs": null})
    } else {
        dice.brief_mode(end.name)
    });
}

fn shut_down(steps: &mut Vec<Json>, ends: &mut [End; 2], me: usize) {
    steps.push(json!({"do": "shutdown", "on": ends[me].name, "how": "wr"}));
    if ends[me].open {
        send_end(steps, ends, me);
    }
}

fn close(steps: &mut Vec<Json>, ends: &mut [End; 2], me: usize, dice: &mut Dice) {
    let reset = dice.chance(40);
    steps.push(json!({"do": if reset { "rst_close" } else { "close" }, "on": ends[me].name}));
    if !ends[me].open {
        return;
    }
    ends[me].open = false;
    // Unread input turns a close into a reset, as does a linger time of zero.
    if (reset || ends[me].unread > 0) && ends[me].state != CLOSED {
        let other = &mut ends[1 - me];
        ends_in(steps, other, CLOSED);
        ends[me].state = CLOSED;
    } else {
        send_end(steps, ends, me);
    }
}

/// One end shuts down its sending side.
fn send_end(steps: &mut Vec<Json>, ends: &mut [End; 2], me: usize) {
    let (mine, others) = match (ends[me].state, ends[1 - me].state) {
        (ESTABLISHED, _) => (FIN_WAIT, CLOSE_WAIT),
        (CLOSE_WAIT, FIN_WAIT) => (CLOSED, CLOSED),
        _ => return,
    };
    ends[me].state = mine;
    ends_in(steps, &mut ends[1 - me], others);
}

fn ends_in(steps: &mut Vec<Json>, end: &mut End, state: u8) {
    if end.open && end.state != state {
        end.state = state;
        steps.push(json!({"do": "settle", "on": end.name, "state": state}));
    }
}

fn ask(steps: &mut Vec<Json>, end: End, dice: &mut Dice) {
    let what = *dice.pick(&["getpeername", "getsockname", "gettimeout", "getblocking"]);
    steps.push(json!({"do": what, "on": end.name}));
}
