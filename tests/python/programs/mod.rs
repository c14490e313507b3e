//! Random socket programs with deterministic outcomes.
//!
//! A program runs on one thread, so what a call finds depends only on the steps before it. Unix
//! socket pairs deliver before `send` returns; over TCP and UDP a `settle` step waits until what
//! was sent, or the end or reset that a close causes, has arrived.

mod calls;
mod datagrams;
mod files;
mod streams;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};

/// The steps of the program with this seed.
pub(crate) fn generate(seed: u64) -> Vec<Json> {
    let mut dice = Dice(StdRng::seed_from_u64(seed));
    match dice.below(10) {
        0..=2 => files::binary(&mut dice),
        3..=4 => files::text(&mut dice),
        5..=6 => streams::program(&mut dice),
        7 => datagrams::program(&mut dice),
        _ => calls::program(&mut dice),
    }
}

/// The source of randomness of a program.
struct Dice(StdRng);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Mostly small sizes, now and then one around a power of two.
    fn size(&mut self) -> usize {
        match self.below(6) {
            0 => 0,
            1..=3 => 1 + self.below(20),
            4 => 1 << self.below(8),
            _ => (1 << (3 + self.below(6))) + self.below(3) - 1,
        }
    }

    fn pattern(&mut self, len: usize) -> Json {
        json!({ "pattern": self.below(251), "len": len })
    }

    /// A mode in which no call waits for long, so that a program cannot hang.
    fn brief_mode(&mut self, on: &str) -> Json {
        if self.chance(70) {
            json!({"do": "setblocking", "on": on, "flag": false})
        } else {
            json!({"do": "settimeout", "on": on, "secs": 0.004})
        }
    }
}
