//! Any call on sockets in any state: fresh, bound, listening, connecting, refused, closed.

use serde_json::{Value as Json, json};

use super::Dice;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fresh,
    Listener,
    Datagram,
}

pub(super) fn program(dice: &mut Dice) -> Vec<Json> {
    let kind = *dice.pick(&[Kind::Fresh, Kind::Listener, Kind::Datagram]);
    // A listener for clients, and a port that is held but refuses.
    let mut steps = vec![
        json!({"do": "socket", "as": "l", "kind": "tcp"}),
        json!({"do": "bind", "on": "l", "addr": ["127.0.0.1", 0]}),
        json!({"do": "listen", "on": "l", "backlog": 5}),
        json!({"do": "socket", "as": "r", "kind": "tcp"}),
        json!({"do": "bind", "on": "r", "addr": ["127.0.0.1", 0]}),
    ];
    if dice.chance(15) {
        let secs = dice.pick(&[json!(0), json!(0.004), json!(-1), json!("nan")]).clone();
        steps.push(json!({"do": "setdefaulttimeout", "secs": secs}));
        steps.push(json!({"do": "getdefaulttimeout"}));
    }
    let protocol = if kind == Kind::Datagram { "udp" } else { "tcp" };
    steps.push(json!({"do": "socket", "as": "s", "kind": protocol}));
    if kind == Kind::Listener {
        steps.push(json!({"do": "bind", "on": "s", "addr": ["127.0.0.1", 0]}));
        steps.push(json!({"do": "listen", "on": "s", "backlog": 2}));
    }
    steps.push(dice.brief_mode("s"));
    let mut calls = Calls { steps, kind, accepted: 0, attempted: false };
    for _ in 0..4 + dice.below(12) {
        calls.step(dice);
    }
    calls.steps
}

struct Calls {
    steps: Vec<Json>,
    kind: Kind,
    accepted: usize,
    attempted: bool,
}

impl Calls {
    fn step(&mut self, dice: &mut Dice) {
        let step = match dice.below(24) {
            0 => json!({"do": "bind", "on": "s", "addr": Self::place(dice)}),
            1 if self.kind != Kind::Fresh || dice.chance(20) => {
                self.kind = if self.kind == Kind::Fresh { Kind::Listener } else { self.kind };
                json!({"do": "listen", "on": "s", "backlog": 3})
            }
            2 | 3 => {
                self.accepted += 1;
                json!({"do": "accept", "on": "s", "as": format!("n{}", self.accepted)})
            }
            4..=6 if self.kind != Kind::Listener && !self.attempted => return self.connect(dice),
            7 => json!({"do": "recv", "on": "s", "n": dice.below(5)}),
            8 => json!({"do": "recvfrom", "on": "s", "n": dice.below(5)}),
            9 => json!({"do": "recv", "on": "s", "n": -1}),
            10 if !self.attempted => {
                json!({"do": "send", "on": "s", "data": {"hex": *dice.pick(&["", "00"])}})
            }
            11 if !self.attempted => {
                json!({"do": "sendall", "on": "s", "data": {"hex": *dice.pick(&["", "00"])}})
            }
            12 => json!({"do": "getpeername", "on": "s"}),
            13 => json!({"do": "getsockname", "on": "s"}),
            14 | 15 => Self::get_option(dice),
            16 | 17 => Self::set_option(dice),
            18 => Self::timeout(dice),
            19 => json!({"do": *dice.pick(&["gettimeout", "getblocking"]), "on": "s"}),
            20 if !self.attempted => {
                json!({"do": "shutdown", "on": "s", "how": *dice.pick(&["rd", "wr", "rdwr"])})
            }
            21 if dice.chance(30) => json!({"do": "close", "on": "s"}),
            _ => dice.brief_mode("s"),
        };
        self.steps.push(step);
        // A stored timeout may be long or none: no call may wait on it.
        if self.steps.last().is_some_and(|step| step["do"] == "settimeout") {
            self.steps.push(json!({"do": "gettimeout", "on": "s"}));
            self.steps.push(dice.brief_mode("s"));
        }
    }

    /// One attempt to connect, in any mode, and the results of further attempts after it.
    fn connect(&mut self, dice: &mut Dice) {
        if self.kind == Kind::Datagram {
            let addr = Self::place(dice);
            self.steps.push(json!({"do": "connect", "on": "s", "addr": addr}));
            return;
        }
        self.attempted = true;
        match dice.below(3) {
            0 => self.steps.push(json!({"do": "setblocking", "on": "s", "flag": true})),
            1 => self.steps.push(json!({"do": "settimeout", "on": "s", "secs": 5})),
            _ => self.steps.push(json!({"do": "setblocking", "on": "s", "flag": false})),
        }
        let (to, state) = *dice.pick(&[("l", 1), ("r", 7)]);
        let addr = json!(["127.0.0.1", format!("port:{to}")]);
        for _ in 0..1 + dice.below(3) {
            let what = *dice.pick(&["connect", "connect_ex"]);
            self.steps.push(json!({"do": what, "on": "s", "addr": addr}));
            self.steps.push(json!({"do": "settle", "on": "s", "state": state}));
        }
        // From here on no call waits, whether it is established or not.
        self.steps.push(dice.brief_mode("s"));
    }

    fn place(dice: &mut Dice) -> Json {
        match dice.below(6) {
            0 => json!(["127.0.0.1", -1]),
            1 => json!(["127.0.0.1", 65536]),
            2 => json!(["", 0]),
            3 => json!(["127.0.0.1", "port:l"]),
            _ => json!(["127.0.0.1", 0]),
        }
    }

    fn get_option(dice: &mut Dice) -> Json {
        let (level, option) = *dice.pick(&OPTIONS);
        let mut step = json!({"do": "getsockopt", "on": "s", "level": level, "opt": option});
        if dice.chance(50) {
            step["buflen"] = json!(*dice.pick(&[-1, 0, 1, 3, 4, 8, 16, 1024, 1025]));
        }
        step
    }

    fn set_option(dice: &mut Dice) -> Json {
        let (level, option) = *dice.pick(&OPTIONS);
        let value = match dice.below(4) {
            0 => json!({"none": *dice.pick(&[0, 4])}),
            1 => json!({"hex": *dice.pick(&["", "01", "01000000", "0100000000000000"])}),
            _ => json!({"int": *dice.pick(&[0, 1, 7, 4096, -1])}),
        };
        json!({"do": "setsockopt", "on": "s", "level": level, "opt": option, "value": value})
    }

    fn timeout(dice: &mut Dice) -> Json {
        let secs = match dice.below(8) {
            0 => json!(null),
            1 => json!(-1),
            2 => json!(*dice.pick(&["nan", "inf", "-inf"])),
            3 => json!(1e10),
            4 => json!(-1e-10),
            _ => {
                // A few significant digits of any size, where rounding shows.
                let digits = dice.below(1_000_000) as f64;
                json!(digits * 10f64.powi(i32::try_from(dice.below(16)).expect("small") - 14))
            }
        };
        json!({"do": "settimeout", "on": "s", "secs": secs})
    }
}

/// REUSEADDR, TYPE, ERROR, BROADCAST, SNDBUF, RCVBUF, KEEPALIVE, LINGER, ACCEPTCONN, PROTOCOL,
/// DOMAIN; NODELAY; TTL; and one that does not exist.
const OPTIONS: [(i32, i32); 14] = [
    (1, 2),
    (1, 3),
    (1, 4),
    (1, 6),
    (1, 7),
    (1, 8),
    (1, 9),
    (1, 13),
    (1, 30),
    (1, 38),
    (1, 39),
    (6, 1),
    (0, 2),
    (1, 9999),
];
