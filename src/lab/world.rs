use std::time::Duration;

use super::log::{Log, count};
use super::rules::Rules;
use super::script::{Act, Script};
use crate::random::SplitMix;
use crate::sim::{Seen, SimClient, SimKernel};

/// The clients of a run. They do what the script says. When it is over they read what comes, finish, and
/// wait for the rest of their answers.
pub(super) struct World {
    acts: Vec<Act>,
    position: usize,
    buffers: [usize; 3],
    waiting: Option<Waiting>,
    phase: Phase,
    pub(super) clients: Vec<Client>,
}

/// A pause of the script.
struct Waiting {
    until: Duration,
    /// The loop has slept since the pause began.
    rested: bool,
}

/// The part of the run. After the script the run ends in orderly steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Script,
    /// No faults any more, and every client reads.
    Calm,
    /// Every client has finished.
    Finishing,
    /// Nothing is left to happen.
    Over,
}

/// A client with all that it wants to do.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) end: SimClient,
    /// Bytes sent so far, and how many it still wants to send.
    pub(super) sent: u64,
    to_send: usize,
    /// Bytes of its answer that it has read.
    pub(super) got: u64,
    pub(super) stalled: bool,
    wants_end: bool,
    pub(super) finished: bool,
    pub(super) reset: bool,
    /// The end of its answers, if it has come.
    pub(super) seen: Option<Seen>,
}

/// The byte that a client sends at this place of its stream. Places and clients are told apart by a few
/// bytes in a row.
#[allow(clippy::cast_possible_truncation)] // It is below 94.
pub(super) fn byte(client: usize, place: u64) -> u8 {
    let hash = SplitMix::new((client as u64) << 40 ^ place).next_u64();
    b'!' + (hash % 94) as u8
}

impl World {
    pub(super) fn new(script: &Script) -> Self {
        Self {
            acts: script.acts.clone(),
            position: 0,
            buffers: [script.to_server, script.to_client, script.window],
            waiting: None,
            phase: Phase::Script,
            clients: Vec::new(),
        }
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// Plays the script up to its next pause, and lets every client go on. Returns true if anything
    /// happened. The kernel may sleep until the pause is over.
    pub(super) fn act(&mut self, kernel: &mut SimKernel, log: &mut Log, rules: &Rules) -> bool {
        let mut happened = self.end_pause(kernel, rules);
        while self.waiting.is_none() && self.phase == Phase::Script {
            let Some(act) = self.acts.get(self.position).copied() else {
                self.pause(kernel, Duration::ZERO);
                break;
            };
            self.position += 1;
            happened = true;
            match act {
                Act::Turn => break,
                Act::Wait(ms) => self.pause(kernel, Duration::from_millis(ms.into())),
                act => self.perform(act, kernel, log),
            }
        }
        for index in 0..self.clients.len() {
            happened |= self.go_on(index, kernel, log, rules);
        }
        let until = self.waiting.as_ref().map_or(Duration::ZERO, |waiting| waiting.until);
        kernel.set_patience(until.saturating_sub(kernel.clock()));
        happened
    }

    fn pause(&mut self, kernel: &SimKernel, time: Duration) {
        self.waiting = Some(Waiting { until: kernel.clock() + time, rested: false });
    }

    /// The loop has slept.
    pub(super) fn rest(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.rested = true;
        }
    }

    /// Ends the pause if its time is over and the loop is at rest.
    fn end_pause(&mut self, kernel: &mut SimKernel, rules: &Rules) -> bool {
        let Some(waiting) = &self.waiting else { return false };
        if !waiting.rested || kernel.clock() < waiting.until {
            return false;
        }
        self.waiting = None;
        if self.position < self.acts.len() {
            return true;
        }
        self.phase = match self.phase {
            Phase::Script => Phase::Calm,
            Phase::Calm => Phase::Finishing,
            Phase::Finishing | Phase::Over => Phase::Over,
        };
        kernel.stop_faults();
        for client in &mut self.clients {
            client.stalled = false;
            // A client that is to time out stays silent.
            client.wants_end |= self.phase == Phase::Finishing && rules.idle.is_none();
        }
        let time = rules.idle.map_or(Duration::from_secs(1), |idle| idle * 3);
        self.pause(kernel, time);
        true
    }

    fn perform(&mut self, act: Act, kernel: &mut SimKernel, log: &mut Log) {
        match act {
            Act::Connect => {
                let [to_server, to_client, window] = self.buffers;
                let end = kernel.connect(to_server, to_client, window);
                self.clients.push(Client::new(end));
                log.act(|| format!("c{} connects", end.number() + 1));
                return;
            }
            Act::Jump(ms) => {
                kernel.pass(Duration::from_millis(ms.into()));
                log.act(|| format!("the process is stopped for {ms} ms"));
                return;
            }
            _ => {}
        }
        let client = act.client().and_then(|client| self.clients.get_mut(client));
        let Some(client) = client.filter(|client| !client.reset) else { return };
        match act {
            Act::Send(_, n) if !client.wants_end => {
                client.to_send += n;
                client.send(kernel, log);
            }
            Act::Urgent(_)
                if !client.wants_end
                    && client.to_send == 0
                    && kernel.client_send_urgent(client.end) =>
            {
                log.act(|| format!("{act}"));
            }
            Act::Stall(_) => client.stalled = true,
            Act::Resume(_) => client.stalled = false,
            Act::Finish(_) => client.wants_end = true,
            Act::Reset(_) => {
                client.reset = true;
                kernel.client_reset(client.end);
                log.act(|| format!("{act}"));
            }
            _ => {}
        }
    }

    /// A client sends on while the loop is at work, because there is room again.
    pub(super) fn refill(
        &mut self,
        index: usize,
        kernel: &mut SimKernel,
        log: &mut Log,
        rules: &Rules,
    ) {
        if self.clients[index].to_send > 0 {
            self.go_on(index, kernel, log, rules);
        }
    }

    /// A client sends what there is room for, reads what has come, and ends its stream if it wants to.
    fn go_on(
        &mut self,
        index: usize,
        kernel: &mut SimKernel,
        log: &mut Log,
        rules: &Rules,
    ) -> bool {
        let client = &mut self.clients[index];
        if client.reset {
            return false;
        }
        let mut happened = client.read(kernel, log);
        happened |= client.send(kernel, log);
        // A client that gets no more answers waits for the end of what it got.
        let is_served = rules.quota.is_some_and(|quota| client.sent >= quota);
        let may_finish = !is_served || client.seen.is_some();
        if client.wants_end && !client.finished && client.to_send == 0 && may_finish {
            client.finished = true;
            kernel.client_finish(client.end);
            log.act(|| format!("c{} ends its stream", index + 1));
            happened = true;
        }
        happened
    }
}

impl Client {
    const fn new(end: SimClient) -> Self {
        Self {
            end,
            sent: 0,
            to_send: 0,
            got: 0,
            stalled: false,
            wants_end: false,
            finished: false,
            reset: false,
            seen: None,
        }
    }

    fn send(&mut self, kernel: &mut SimKernel, log: &mut Log) -> bool {
        if self.to_send == 0 {
            return false;
        }
        // More than there is ever room for at once need not be made.
        let offered = self.to_send.min(4096) as u64;
        let number = self.end.number();
        let bytes: Vec<u8> =
            (self.sent..self.sent + offered).map(|place| byte(number, place)).collect();
        let n = kernel.client_send(self.end, &bytes);
        self.sent += n as u64;
        self.to_send -= n;
        if n > 0 {
            let left = self.to_send;
            log.act(|| match left {
                0 => format!("c{} sends {}", number + 1, count(n, "byte")),
                _ => format!("c{} sends {n} of {} bytes", number + 1, n + left),
            });
        }
        n > 0
    }

    fn read(&mut self, kernel: &mut SimKernel, log: &mut Log) -> bool {
        let mut happened = false;
        while !self.stalled && self.seen.is_none() {
            match kernel.client_recv(self.end, usize::MAX) {
                Ok(bytes) => {
                    self.got += bytes.len() as u64;
                    log.act(|| {
                        format!("c{} reads {}", self.end.number() + 1, count(bytes.len(), "byte"))
                    });
                }
                Err(Seen::Nothing) => break,
                Err(seen) => {
                    self.seen = Some(seen);
                    let end = if seen == Seen::End { "the end of the stream" } else { "a reset" };
                    log.act(|| format!("c{} reads {end}", self.end.number() + 1));
                }
            }
            happened = true;
        }
        happened
    }
}
