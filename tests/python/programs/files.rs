//! Files of every kind on one end of a Unix socket pair, which the other end feeds and empties.

use serde_json::{Value as Json, json};

use super::Dice;

/// Raw and buffered files.
pub(super) fn binary(dice: &mut Dice) -> Vec<Json> {
    let mut program = Program::new(dice);
    for _ in 0..4 + dice.below(14) {
        match dice.below(12) {
            0 | 1 => program.feed(dice),
            2 => program.new_file(dice, true),
            3 => program.mode(dice),
            4 if dice.chance(25) => program.end(dice),
            _ => program.file_step(dice, true),
        }
    }
    program.finish()
}

/// Text files, with whole, split and broken characters and all line endings.
pub(super) fn text(dice: &mut Dice) -> Vec<Json> {
    let mut program = Program::new(dice);
    for _ in 0..4 + dice.below(14) {
        match dice.below(12) {
            0..=2 => program.feed_text(dice),
            3 => program.new_file(dice, false),
            4 if dice.chance(30) => program.mode(dice),
            5 if dice.chance(25) => program.end(dice),
            _ => program.file_step(dice, false),
        }
    }
    program.finish()
}

struct Program {
    steps: Vec<Json>,
    files: Vec<String>,
    /// The feeding end is closed, so that reading ends and even blocking calls return.
    ended: bool,
    /// A small send buffer, which a program may fill up.
    narrow: bool,
}

impl Program {
    fn new(dice: &mut Dice) -> Self {
        let mut steps = vec![json!({"do": "socketpair", "a": "c", "b": "p"})];
        let narrow = dice.chance(30);
        if narrow {
            steps.push(json!({"do": "setsockopt", "on": "c", "level": 1, "opt": 7,
                "value": {"int": 1}}));
        }
        steps.push(json!({"do": "setblocking", "on": "p", "flag": false}));
        steps.push(dice.brief_mode("c"));
        Self { steps, files: Vec::new(), ended: false, narrow }
    }

    fn feed(&mut self, dice: &mut Dice) {
        if self.ended {
            return;
        }
        let data = if dice.chance(50) {
            json!({"hex": hex_of(dice, &[b"a", b"bc", b"\n", b"\r\n", b"\r", b"xyz"])})
        } else {
            let size = dice.size();
            dice.pattern(size)
        };
        self.steps.push(json!({"do": "sendall", "on": "p", "data": data}));
    }

    fn feed_text(&mut self, dice: &mut Dice) {
        if self.ended {
            return;
        }
        let mut pieces: Vec<&[u8]> =
            vec![b"a", b"bc", b"\n", b"\n", b"\r\n", b"\r", "é".as_bytes(), "你好".as_bytes()];
        pieces.extend([&b"\xe4"[..], b"\xbd\xa0"]);
        if dice.chance(15) {
            pieces.extend([&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f", b"\x80"]);
            pieces.extend([&b"\xed\xa0"[..], b"\xed\xa0", b"\xed"]);
        }
        let hex = hex_of(dice, &pieces);
        self.steps.push(json!({"do": "sendall", "on": "p", "data": {"hex": hex}}));
    }

    fn new_file(&mut self, dice: &mut Dice, binary: bool) {
        let name = format!("f{}", self.files.len());
        let modes: &[&str] = match self.narrow {
            true => &["w", "w", "rw", "r"],
            false => &["r", "r", "w", "rw", "wr", "", "rr"],
        };
        let mode = *dice.pick(modes);
        let mut step = json!({"do": "makefile", "on": "c", "as": name});
        if binary {
            step["mode"] = json!(format!("{mode}b"));
            match dice.below(4) {
                _ if self.narrow && dice.chance(60) => {}
                0 => step["buffering"] = json!(0),
                1 => {}
                _ => step["buffering"] = json!(*dice.pick(&[1, 2, 3, 7, 8, 16, 100, -1])),
            }
        } else {
            step["mode"] = json!(mode);
            step["encoding"] = json!(*dice.pick(&["utf-8", "UTF8", "utf_8"]));
            if dice.chance(40) {
                step["newline"] = json!(*dice.pick(&["", "\n", "\r", "\r\n"]));
            }
            if dice.chance(40) {
                step["errors"] = json!(*dice.pick(&["strict", "replace", "ignore"]));
            }
            if dice.chance(40) {
                step["buffering"] = json!(*dice.pick(&[1, 3, 8, 100, -1]));
            }
        }
        if dice.chance(3) {
            step["mode"] = json!(*dice.pick(&["a", "r+", "rt", "x'y"]));
            step["as"] = json!(format!("bad{}", self.steps.len()));
            self.steps.push(step);
            return;
        }
        self.steps.push(step);
        self.files.push(name);
    }

    fn mode(&mut self, dice: &mut Dice) {
        // Writing to a closed peer fails at once, and reading from it ends.
        if self.ended && dice.chance(50) {
            self.steps.push(json!({"do": "setblocking", "on": "c", "flag": true}));
        } else {
            self.steps.push(dice.brief_mode("c"));
        }
    }

    fn end(&mut self, dice: &mut Dice) {
        match dice.below(3) {
            0 => self.steps.push(json!({"do": "close", "on": "c"})),
            _ if self.ended => {}
            _ => {
                self.steps.push(json!({"do": "close", "on": "p"}));
                self.ended = true;
            }
        }
    }

    fn file_step(&mut self, dice: &mut Dice, binary: bool) {
        if self.files.is_empty() {
            self.new_file(dice, binary);
            return;
        }
        let on = dice.pick(&self.files).clone();
        let step = match dice.below(if binary { 16 } else { 13 }) {
            0..=2 => sized(json!({"do": "f_read", "on": on}), dice, 90),
            3..=5 => sized(json!({"do": "f_readline", "on": on}), dice, 35),
            6 => json!({"do": "f_readlines", "on": on}),
            7..=9 => {
                let data = self.data_to_write(dice, binary);
                json!({"do": "f_write", "on": on, "data": data})
            }
            10 => json!({"do": "f_flush", "on": on}),
            11 if dice.chance(60) => {
                // A closed file is asked again: a pair still gives what it had read ahead.
                self.steps.push(json!({"do": "f_close", "on": on}));
                json!({"do": *dice.pick(&["f_readline", "f_read", "f_flush"]), "on": on, "n": 2})
            }
            11 | 12 => {
                let what = dice.pick(&["f_closed", "f_readable", "f_writable", "f_seekable"]);
                json!({"do": what, "on": on})
            }
            // A raw file has neither read1 nor peek: asked of buffered files alone.
            13 if self.is_buffered(&on) => sized(json!({"do": "f_read1", "on": on}), dice, 80),
            14 if self.is_buffered(&on) && !self.is_writer(&on) => {
                json!({"do": "f_peek", "on": on, "n": 1})
            }
            _ => json!({"do": "f_readinto", "on": on, "n": dice.size()}),
        };
        self.steps.push(step);
        if dice.chance(25) && !self.ended {
            let n = *dice.pick(&[1000, 3000, 70_000]);
            self.steps.push(json!({"do": "recv", "on": "p", "n": n}));
        }
    }

    fn data_to_write(&self, dice: &mut Dice, binary: bool) -> Json {
        if !binary {
            let pieces = ["a", "bc", "\n", "\r\n", "é", "你好", "long enough to matter "];
            let count = 1 + dice.below(4);
            let text: String = (0..count).map(|_| *dice.pick(&pieces)).collect();
            let text = if dice.chance(10) { text.repeat(3000) } else { text };
            return json!({ "text": text });
        }
        // Sizes of which a small send buffer takes a part, so that writers keep the rest.
        let size = match self.narrow && dice.chance(60) {
            true => *dice.pick(&[1500, 2500, 4000, 6000, 9000]),
            false => dice.size(),
        };
        dice.pattern(size)
    }

    fn is_buffered(&self, name: &str) -> bool {
        self.made(name)["buffering"] != 0
    }

    fn is_writer(&self, name: &str) -> bool {
        let mode = self.made(name)["mode"].as_str().unwrap_or_default();
        mode.contains('w') && !mode.contains('r')
    }

    fn made(&self, name: &str) -> &Json {
        self.steps.iter().find(|step| step["as"] == name).expect("the file was made")
    }

    fn finish(mut self) -> Vec<Json> {
        if !self.ended {
            self.steps.push(json!({"do": "recv", "on": "p", "n": 200_000}));
        }
        self.steps
    }
}

fn sized(mut step: Json, dice: &mut Dice, percent: u32) -> Json {
    if dice.chance(percent) {
        // Half of the time less than there is.
        step["n"] = json!(if dice.chance(50) { dice.below(7) } else { dice.size() });
    }
    step
}

fn hex_of(dice: &mut Dice, pieces: &[&[u8]]) -> String {
    let count = 1 + dice.below(6);
    let bytes: Vec<u8> = (0..count).flat_map(|_| dice.pick(pieces).to_vec()).collect();
    data_encoding::HEXLOWER.encode(&bytes)
}
