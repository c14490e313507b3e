//! Three UDP sockets that exchange datagrams, connect and disappear.

use std::collections::VecDeque;

use serde_json::{Value as Json, json};

use super::Dice;

const NAMES: [&str; 3] = ["a", "b", "x"];

#[derive(Default)]
struct Peer {
    closed: bool,
    connected: Option<usize>,
    /// Lengths of the datagrams that have arrived.
    queue: VecDeque<usize>,
    /// An ICMP message reported that the peer is gone: the next call is refused.
    refused: bool,
}

pub(super) fn program(dice: &mut Dice) -> Vec<Json> {
    let mut peers: [Peer; 3] = Default::default();
    let mut steps = Vec::new();
    for name in NAMES {
        steps.push(json!({"do": "socket", "as": name, "kind": "udp"}));
        steps.push(json!({"do": "bind", "on": name, "addr": ["127.0.0.1", 0]}));
        steps.push(dice.brief_mode(name));
    }
    for _ in 0..5 + dice.below(14) {
        let (me, to) = (dice.below(3), dice.below(3));
        match dice.below(12) {
            0..=2 => send_to(&mut steps, &mut peers, me, to, dice),
            3 | 4 => send(&mut steps, &mut peers, me, dice),
            5..=7 => receive(&mut steps, &mut peers[me], NAMES[me], dice),
            8 if dice.chance(60) => connect(&mut steps, &mut peers, me, to),
            9 if dice.chance(20) => {
                steps.push(json!({"do": "close", "on": NAMES[me]}));
                peers[me].closed = true;
            }
            _ => {
                let what = *dice.pick(&["getpeername", "getsockname"]);
                steps.push(json!({"do": what, "on": NAMES[me]}));
            }
        }
    }
    steps
}

fn send_to(steps: &mut Vec<Json>, peers: &mut [Peer; 3], me: usize, to: usize, dice: &mut Dice) {
    let size = dice.size();
    let port = format!("port:{}", NAMES[to]);
    let mut step = json!({"do": "sendto", "on": NAMES[me], "data": dice.pattern(size),
        "addr": ["127.0.0.1", port]});
    if dice.chance(20) {
        step["flags"] = json!(["DONTWAIT"]);
    }
    steps.push(step);
    deliver(steps, peers, me, to, size);
}

fn send(steps: &mut Vec<Json>, peers: &mut [Peer; 3], me: usize, dice: &mut Dice) {
    let size = dice.size();
    let what = *dice.pick(&["send", "sendall"]);
    steps.push(json!({"do": what, "on": NAMES[me], "data": dice.pattern(size)}));
    if let Some(to) = peers[me].connected {
        deliver(steps, peers, me, to, size);
    }
}

fn deliver(steps: &mut Vec<Json>, peers: &mut [Peer; 3], me: usize, to: usize, size: usize) {
    if peers[me].closed {
        return;
    }
    if std::mem::take(&mut peers[me].refused) {
        return; // This send reported the refusal and sent nothing.
    }
    let heard = !peers[to].closed && peers[to].connected.is_none_or(|peer| peer == me);
    if heard {
        peers[to].queue.push_back(size);
        // The queue's first datagram is what peeking sees; loopback keeps the order.
        if let Some(&first) = peers[to].queue.front().filter(|_| !peers[to].refused) {
            steps.push(json!({"do": "settle", "on": NAMES[to], "peek": first}));
        }
    } else if peers[me].connected == Some(to) {
        peers[me].refused = true;
    }
}

fn receive(steps: &mut Vec<Json>, peer: &mut Peer, name: &str, dice: &mut Dice) {
    let size = if dice.chance(5) { -1 } else { i64::try_from(dice.size()).expect("small") };
    let what = *dice.pick(&["recv", "recvfrom", "recvfrom"]);
    let peek = dice.chance(20);
    let mut step = json!({"do": what, "on": name, "n": size});
    if peek {
        step["flags"] = json!(["PEEK"]);
    }
    steps.push(step);
    let calls_the_kernel = size > 0 || (size == 0 && what == "recvfrom");
    if peer.closed || !calls_the_kernel || std::mem::take(&mut peer.refused) || peek {
        return;
    }
    peer.queue.pop_front();
}

fn connect(steps: &mut Vec<Json>, peers: &mut [Peer; 3], me: usize, to: usize) {
    let addr = json!(["127.0.0.1", format!("port:{}", NAMES[to])]);
    steps.push(json!({"do": "connect", "on": NAMES[me], "addr": addr}));
    if !peers[me].closed {
        peers[me].connected = Some(to);
    }
}
