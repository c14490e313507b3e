use std::fmt;
use std::time::Duration;

use super::case::Case;
use super::rules::Rules;
use super::script::{Act, Script};
use crate::random::SplitMix;
use crate::sim::Faults;

/// A task for an event loop: an echo under conditions of which each exercise adds one.
#[derive(Debug)]
pub struct Exercise {
    /// Its place in the order.
    pub number: usize,
    /// Its name in commands.
    pub name: &'static str,
    /// Its task in one line.
    pub title: &'static str,
    /// An estimate of the time that it takes, in minutes.
    pub minutes: u32,
    /// What the loop is asked to do.
    pub rules: Rules,
    /// What has to occur for a pass to count.
    pub cases: &'static [Case],
    plan: Plan,
}

/// What scripts are drawn from.
#[derive(Debug)]
struct Plan {
    /// Maximum number of clients and of acts.
    clients: usize,
    acts: usize,
    /// Kinds of acts by their weights.
    kinds: &'static [(usize, Kind)],
    /// Numbers of bytes that a client sends.
    sizes: &'static [usize],
    /// Milliseconds that pass.
    waits: &'static [u32],
    /// Bytes in each direction, and in the window.
    buffers: &'static [[usize; 3]],
    faults: fn(&mut SplitMix) -> Faults,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Connect,
    Send,
    Urgent,
    Stall,
    Resume,
    Finish,
    Reset,
    Jump,
    Turn,
    Wait,
}

impl Exercise {
    /// All exercises, in order.
    pub fn all() -> &'static [Self] {
        &EXERCISES
    }

    /// The exercise with this number or name; `3`, `drain` and `3-drain` are the same.
    ///
    /// # Errors
    /// A text that lists them all.
    pub fn find(text: &str) -> Result<&'static Self, String> {
        let found = EXERCISES.iter().find(|exercise| {
            text == exercise.name
                || text == exercise.to_string()
                || text.parse() == Ok(exercise.number)
        });
        found.ok_or_else(|| {
            let names: Vec<_> = EXERCISES.iter().map(ToString::to_string).collect();
            format!("no exercise is called {text}; there are {}", names.join(", "))
        })
    }

    /// The path of its texts and loops in the repository.
    pub fn directory(&self) -> String {
        format!("lab/exercises/{:02}_{}", self.number, self.name.replace('-', "_"))
    }

    /// The script of a seed.
    pub fn draw(&self, seed: u64) -> Script {
        let plan = &self.plan;
        let mut random = SplitMix::new(seed ^ (self.number as u64) << 56);
        let faults = (plan.faults)(&mut random);
        let [to_server, to_client, window] = plan.buffers[random.below(plan.buffers.len())];
        let mut acts = vec![Act::Connect];
        let mut clients = 1;
        for _ in 0..1 + random.below(plan.acts) {
            let act = self.draw_act(&mut random, clients);
            match act {
                Act::Connect if clients == plan.clients => continue,
                Act::Connect => clients += 1,
                _ => {}
            }
            acts.push(act);
        }
        let kernel_seed = random.next_u64();
        Script { to_server, to_client, window, faults, kernel_seed, ..Script::new(acts) }
    }

    /// Every script of so many acts of up to two clients, over a kernel without faults and with the
    /// smallest buffers. The first client connects before them.
    pub fn short_scripts(&self, length: u32) -> impl Iterator<Item = Script> {
        let acts = self.possible_acts();
        let [to_server, to_client, window] =
            self.plan.buffers.iter().copied().min().expect("an exercise has buffers");
        let most = acts.len() as u64;
        (0..most.pow(length)).map(move |number| {
            let mut rest = number;
            let mut script = vec![Act::Connect];
            for _ in 0..length {
                script.push(acts[usize::try_from(rest % most).unwrap_or_default()]);
                rest /= most;
            }
            Script { to_server, to_client, window, ..Script::new(script) }
        })
    }

    /// The acts of short scripts.
    fn possible_acts(&self) -> Vec<Act> {
        let plan = &self.plan;
        let clients = plan.clients.min(2);
        let small = plan.sizes.iter().copied().min().unwrap_or(1);
        let large = plan.sizes.iter().copied().max().unwrap_or(1);
        let mut acts = Vec::new();
        for (_, kind) in plan.kinds {
            for client in 0..clients {
                match kind {
                    Kind::Connect if client == 0 => acts.push(Act::Connect),
                    Kind::Jump if client == 0 => acts.push(Act::Jump(7000)),
                    Kind::Turn if client == 0 => acts.push(Act::Turn),
                    Kind::Wait if client == 0 => {
                        acts.extend(plan.waits.iter().copied().max().map(Act::Wait));
                    }
                    Kind::Send => acts.extend([Act::Send(client, small), Act::Send(client, large)]),
                    Kind::Urgent => acts.push(Act::Urgent(client)),
                    Kind::Stall => acts.push(Act::Stall(client)),
                    Kind::Resume => acts.push(Act::Resume(client)),
                    Kind::Finish => acts.push(Act::Finish(client)),
                    Kind::Reset => acts.push(Act::Reset(client)),
                    Kind::Connect | Kind::Jump | Kind::Turn | Kind::Wait => {}
                }
            }
        }
        acts.dedup();
        acts
    }

    fn draw_act(&self, random: &mut SplitMix, clients: usize) -> Act {
        let plan = &self.plan;
        let sum = plan.kinds.iter().map(|(weight, _)| weight).sum();
        let mut place = random.below(sum);
        let kind = plan.kinds.iter().find(|(weight, _)| {
            let here = place < *weight;
            place = place.saturating_sub(*weight);
            here
        });
        let (_, kind) = kind.expect("the place is below the sum");
        let client = random.below(clients);
        match kind {
            Kind::Connect => Act::Connect,
            Kind::Send => Act::Send(client, plan.sizes[random.below(plan.sizes.len())]),
            Kind::Urgent => Act::Urgent(client),
            Kind::Stall => Act::Stall(client),
            Kind::Resume => Act::Resume(client),
            Kind::Finish => Act::Finish(client),
            Kind::Reset => Act::Reset(client),
            Kind::Jump => Act::Jump([10, 1000, 7000][random.below(3)]),
            Kind::Turn => Act::Turn,
            Kind::Wait => Act::Wait(plan.waits[random.below(plan.waits.len())]),
        }
    }
}

/// "3-drain".
impl fmt::Display for Exercise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.name)
    }
}

const ROOM: [usize; 3] = [1 << 16, 1 << 16, 1 << 16];

const CALM: Plan = Plan {
    clients: 1,
    acts: 12,
    kinds: &[(4, Kind::Send), (3, Kind::Turn), (2, Kind::Wait)],
    sizes: &[4],
    waits: &[0],
    buffers: &[ROOM],
    faults: |_| Faults::none(),
};

fn hints(_: &mut SplitMix) -> Faults {
    Faults { spurious_event: 200, repeated_event: 200, ..Faults::none() }
}

fn pieces(random: &mut SplitMix) -> Faults {
    Faults { late_arrival: [0, 500, 900][random.below(3)], ..Faults::none() }
}

fn parts(random: &mut SplitMix) -> Faults {
    Faults { partial_write: [0, 0, 400][random.below(3)], ..Faults::none() }
}

fn stale_events(_: &mut SplitMix) -> Faults {
    Faults { stale_event: 500, repeated_event: 200, overtaking_event: 300, ..Faults::none() }
}

fn bad_night(random: &mut SplitMix) -> Faults {
    let faults = Faults::draw(random);
    // No exercise needs random numbers.
    Faults { descriptors: 1 + random.below(5), random_error: 0, lost_probe: 0, ..faults }
}

static EXERCISES: [Exercise; 12] = [
    Exercise {
        number: 1,
        name: "first-echo",
        title: "one client, four bytes at a time",
        minutes: 10,
        rules: Rules::ECHO,
        cases: &[Case::Answer, Case::WouldBlock, Case::End],
        plan: Plan { faults: hints, ..CALM },
    },
    Exercise {
        number: 2,
        name: "door",
        title: "several clients at the door",
        minutes: 10,
        rules: Rules::ECHO,
        cases: &[Case::Answer, Case::Queue],
        plan: Plan {
            clients: 5,
            kinds: &[(4, Kind::Connect), (3, Kind::Send), (2, Kind::Turn), (2, Kind::Wait)],
            ..CALM
        },
    },
    Exercise {
        number: 3,
        name: "drain",
        title: "messages longer than the buffer",
        minutes: 20,
        rules: Rules::ECHO,
        cases: &[Case::Answer, Case::Remainder, Case::UrgentMark],
        plan: Plan {
            clients: 2,
            kinds: &[
                (2, Kind::Connect),
                (5, Kind::Send),
                (3, Kind::Urgent),
                (3, Kind::Turn),
                (2, Kind::Wait),
            ],
            sizes: &[1, 100, 256, 257, 1000],
            ..CALM
        },
    },
    Exercise {
        number: 4,
        name: "short-sends",
        title: "clients that read slowly",
        minutes: 30,
        rules: Rules::ECHO,
        cases: &[Case::Answer, Case::ShortSend, Case::NoRoom],
        plan: Plan {
            clients: 2,
            kinds: &[
                (2, Kind::Connect),
                (5, Kind::Send),
                (2, Kind::Stall),
                (2, Kind::Resume),
                (3, Kind::Turn),
                (2, Kind::Wait),
            ],
            sizes: &[1, 100, 300, 600],
            buffers: &[[1 << 12, 1, 1], [1 << 12, 64, 64], [1 << 12, 300, 100]],
            faults: parts,
            ..CALM
        },
    },
    Exercise {
        number: 5,
        name: "ends",
        title: "clients that finish, hang up or fail",
        minutes: 40,
        rules: Rules::ECHO,
        cases: &[Case::Answer, Case::End, Case::EndBehindData, Case::Reset],
        plan: Plan {
            clients: 3,
            kinds: &[
                (3, Kind::Connect),
                (5, Kind::Send),
                (3, Kind::Finish),
                (1, Kind::Reset),
                (1, Kind::Stall),
                (1, Kind::Resume),
                (3, Kind::Turn),
                (2, Kind::Wait),
            ],
            sizes: &[1, 100, 300, 600],
            buffers: &[ROOM, [1 << 12, 64, 64], [1 << 12, 300, 100]],
            ..CALM
        },
    },
    Exercise {
        number: 6,
        name: "pieces",
        title: "messages of 16 bytes that arrive in pieces",
        minutes: 20,
        rules: Rules { message: Some(16), ..Rules::ECHO },
        cases: &[Case::Answer, Case::Piece],
        plan: Plan {
            clients: 3,
            kinds: &[(2, Kind::Connect), (5, Kind::Send), (3, Kind::Turn), (2, Kind::Wait)],
            sizes: &[3, 9, 16, 23, 300],
            buffers: &[ROOM, [1 << 12, 64, 64]],
            faults: pieces,
            ..CALM
        },
    },
    Exercise {
        number: 7,
        name: "back-pressure",
        title: "a client that sends and never reads",
        minutes: 30,
        rules: Rules { max_held: Some(512), ..Rules::ECHO },
        cases: &[Case::Answer, Case::NoRoom, Case::Deaf],
        plan: Plan {
            clients: 3,
            kinds: &[
                (3, Kind::Connect),
                (5, Kind::Send),
                (2, Kind::Stall),
                (2, Kind::Resume),
                (1, Kind::Finish),
                (3, Kind::Turn),
                (3, Kind::Wait),
            ],
            sizes: &[10, 300, 1000, 3000],
            buffers: &[[512, 64, 512], [2048, 300, 100]],
            ..CALM
        },
    },
    Exercise {
        number: 8,
        name: "deadlines",
        title: "clients that fall silent for five seconds",
        minutes: 40,
        rules: Rules { idle: Some(Duration::from_secs(5)), ..Rules::ECHO },
        cases: &[Case::Answer, Case::TimeOut, Case::MovedDeadline, Case::Jump],
        plan: Plan {
            clients: 4,
            kinds: &[
                (3, Kind::Connect),
                (5, Kind::Send),
                (1, Kind::Finish),
                (1, Kind::Jump),
                (1, Kind::Turn),
                (5, Kind::Wait),
            ],
            sizes: &[4, 100],
            waits: &[0, 1, 1000, 2500, 4000, 4999],
            ..CALM
        },
    },
    Exercise {
        number: 9,
        name: "fairness",
        title: "a flood next to quiet clients",
        minutes: 40,
        rules: Rules { share: Some(1024), ..Rules::ECHO },
        cases: &[Case::Answer, Case::Flood],
        plan: Plan {
            clients: 5,
            kinds: &[
                (4, Kind::Connect),
                (5, Kind::Send),
                (1, Kind::Finish),
                (3, Kind::Turn),
                (2, Kind::Wait),
            ],
            sizes: &[1, 10, 100, 256, 5000],
            buffers: &[[2048, 1 << 16, 1 << 16]],
            ..CALM
        },
    },
    Exercise {
        number: 10,
        name: "stale-events",
        title: "events for connections that are gone",
        minutes: 30,
        rules: Rules::ECHO,
        cases: &[Case::Answer, Case::StaleEvent, Case::Reset],
        plan: Plan {
            clients: 6,
            acts: 20,
            kinds: &[
                (4, Kind::Connect),
                (4, Kind::Send),
                (3, Kind::Finish),
                (1, Kind::Reset),
                (1, Kind::Stall),
                (4, Kind::Turn),
                (2, Kind::Wait),
            ],
            sizes: &[1, 100, 300],
            buffers: &[ROOM, [1 << 12, 64, 64]],
            faults: stale_events,
            ..CALM
        },
    },
    Exercise {
        number: 11,
        name: "goodbye",
        title: "an orderly end after 300 bytes",
        minutes: 40,
        rules: Rules { quota: Some(300), ..Rules::ECHO },
        cases: &[Case::Answer, Case::UnreadQuota, Case::End],
        plan: Plan {
            clients: 3,
            kinds: &[
                (2, Kind::Connect),
                (6, Kind::Send),
                (1, Kind::Stall),
                (1, Kind::Resume),
                (3, Kind::Turn),
                (2, Kind::Wait),
            ],
            sizes: &[10, 100, 300, 1000],
            buffers: &[[512, 512, 64], [2048, 100, 100]],
            ..CALM
        },
    },
    Exercise {
        number: 12,
        name: "bad-night",
        title: "everything at once, and no descriptors",
        minutes: 60,
        rules: Rules { max_held: Some(512), share: Some(1024), ..Rules::ECHO },
        cases: &[
            Case::Answer,
            Case::NoDescriptor,
            Case::Interrupted,
            Case::Reset,
            Case::StaleEvent,
        ],
        plan: Plan {
            clients: 8,
            acts: 30,
            kinds: &[
                (6, Kind::Connect),
                (6, Kind::Send),
                (1, Kind::Urgent),
                (1, Kind::Stall),
                (1, Kind::Resume),
                (3, Kind::Finish),
                (1, Kind::Reset),
                (1, Kind::Jump),
                (4, Kind::Turn),
                (4, Kind::Wait),
            ],
            sizes: &[1, 100, 300, 3000],
            waits: &[0, 10, 200],
            buffers: &[[2048, 1 << 12, 1 << 12], [2048, 64, 64], [300, 300, 100]],
            faults: bad_night,
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exercises_are_found_by_number_and_name() {
        for (index, exercise) in Exercise::all().iter().enumerate() {
            assert_eq!(exercise.number, index + 1);
            for text in [exercise.name.to_owned(), exercise.to_string(), (index + 1).to_string()] {
                assert_eq!(Exercise::find(&text).map(|found| found.number), Ok(index + 1));
            }
            assert_eq!(exercise.draw(7), exercise.draw(7));
            assert_ne!(exercise.draw(7), exercise.draw(8));
        }
        let error = Exercise::find("13").unwrap_err();
        assert!(error.contains("1-first-echo") && error.contains("12-bad-night"), "{error}");
    }
}
