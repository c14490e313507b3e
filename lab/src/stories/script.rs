//! Scripts of what clients do, and the play of one by a loop.

use std::io;
use std::time::Duration;

use saltecho::reactor::Kernel;
use saltecho::sim::{Faults, SimKernel};
use saltecho::trace::Step;
use saltecho::trace::page::Run;

use super::desk::Loop;

/// One turn of a small loop.
pub type Turn = fn(&mut Loop) -> io::Result<()>;

/// An event of a script. Clients are numbered from 1, in the order in which they connect.
#[derive(Clone, Copy)]
pub enum Act {
    /// The next client connects.
    Connect,
    /// A client sends so many bytes.
    Send(usize, usize),
    /// A client sends so many bytes more whenever the loop has made room.
    Supply(usize, usize),
    /// A client sends one urgent byte.
    Urgent(usize),
    /// A client reads no more.
    Stall(usize),
    /// A client reads again.
    Resume(usize),
    /// A client ends its stream.
    Finish(usize),
    /// The program is asked to end.
    Drain,
    /// The connections move to another program.
    Handover,
    /// So many milliseconds pass.
    Pass(u64),
    /// One turn of the loop.
    Turn,
    /// Turns until the loop has slept for so many milliseconds.
    Rest(u64),
}

/// The stage of a script.
#[derive(Clone)]
pub struct Stage {
    pub acts: Vec<Act>,
    /// Bytes that the loop receives at once.
    pub buffer: usize,
    /// Bytes that each direction of a connection holds, at the receiver at most `window` of them.
    pub to_server: usize,
    pub to_client: usize,
    pub window: usize,
    pub faults: Faults,
}

impl Stage {
    pub fn new(acts: &[Act]) -> Self {
        let (buffer, room) = (4096, 16_384);
        Self {
            acts: acts.to_vec(),
            buffer,
            to_server: room,
            to_client: room,
            window: room,
            faults: Faults::none(),
        }
    }
}

/// A client's own doing.
struct Player {
    stalled: Vec<bool>,
}

/// Plays a script to the end.
pub fn play(stage: &Stage, turn: Turn) -> io::Result<Run> {
    let mut server = Loop::new(SimKernel::new(1, stage.faults.clone()), stage.buffer);
    let mut player = Player { stalled: Vec::new() };
    let mut acts = Vec::new();
    for (index, act) in stage.acts.iter().enumerate() {
        match *act {
            Act::Turn => {
                server.kernel.sim.set_patience(Duration::from_secs(1));
                turn(&mut server)?;
                player.read(&mut server);
            }
            Act::Rest(ms) => rest(&mut server, turn, &mut player, Duration::from_millis(ms))?,
            act => player.act(&mut server, stage, act),
        }
        acts.resize(server.kernel.sim.trace().len(), index + 1);
    }
    let mut kernel = server.kernel;
    let steps: Vec<Step> = kernel.sim.trace().to_vec();
    kernel.lines.resize(steps.len(), None);
    kernel.views.sort_by_key(|view| view.step);
    let pictures = kernel.sim.pictures().to_vec();
    Ok(Run { steps, pictures, views: kernel.views, lines: kernel.lines, acts, ..Run::default() })
}

/// Turns until nothing happens any more; then this time has passed.
fn rest(server: &mut Loop, turn: Turn, player: &mut Player, time: Duration) -> io::Result<()> {
    const ENOUGH: usize = 64;
    server.kernel.sim.set_patience(time);
    for _ in 0..ENOUGH {
        turn(server)?;
        let slept = server.kernel.sim.slept();
        if !player.read(server) && slept {
            return Ok(());
        }
    }
    Err(io::Error::other("the loop never sleeps"))
}

impl Player {
    fn act(&mut self, server: &mut Loop, stage: &Stage, act: Act) {
        let clients = server.kernel.clients.clone();
        let client = |number: usize| clients[number - 1];
        let sim = &mut server.kernel.sim;
        match act {
            Act::Connect => {
                let client = sim.connect(stage.to_server, stage.to_client, stage.window);
                server.kernel.clients.push(client);
                self.stalled.push(false);
            }
            Act::Send(number, n) => {
                sim.client_send(client(number), &vec![b'.'; n]);
            }
            Act::Supply(number, n) => {
                server.kernel.supply.insert(number, n);
            }
            Act::Urgent(number) => {
                sim.client_send_urgent(client(number));
            }
            Act::Stall(number) => self.stalled[number - 1] = true,
            Act::Resume(number) => {
                self.stalled[number - 1] = false;
                self.read(server);
            }
            Act::Finish(number) => sim.client_finish(client(number)),
            Act::Drain => {
                sim.remark(|| "The program is asked to end.".to_owned());
                sim.waker().wake();
                server.draining = true;
            }
            Act::Handover => server.hand_over(),
            Act::Pass(ms) => sim.pass(Duration::from_millis(ms)),
            Act::Turn | Act::Rest(_) => unreachable!("the loop's own"),
        }
    }

    /// Each client reads what has come, unless it stalls. Returns true if one did.
    fn read(&mut self, server: &mut Loop) -> bool {
        let clients = server.kernel.clients.iter().zip(&self.stalled);
        let mut happened = false;
        for (client, _) in clients.filter(|(_, stalled)| !**stalled) {
            while server.kernel.sim.client_recv(*client, usize::MAX).is_ok() {
                happened = true;
            }
        }
        happened
    }
}
