//! Plays the steps of a scenario or of a random program on `saltecho::socket`.
//!
//! The vocabulary is that of `tests/data/scenarios.json`: each step names an operation and its
//! socket or file. The tests compare the outcomes.

pub(crate) mod signals;
pub(crate) mod steps;
pub(crate) mod value;

use std::collections::HashMap;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use saltecho::socket::{Error, File, Result, Socket};
use serde_json::Value as Json;

use self::signals::Pester;
use self::value::Value;

/// The sockets, files, ports and stored results of one scenario.
pub(crate) struct World {
    sockets: Mutex<HashMap<String, Arc<Socket>>>,
    files: Mutex<HashMap<String, File>>,
    ports: Mutex<HashMap<String, u16>>,
    vars: Mutex<HashMap<String, Value>>,
    pester: Mutex<Option<Pester>>,
}

/// The outcome of a step and its duration.
pub(crate) struct Played {
    pub(crate) outcome: Result<Value>,
    pub(crate) elapsed: Duration,
}

/// Keeps other tests from playing: steps may set the default timeout, which is the process's.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static PLAYING: Mutex<()> = Mutex::new(());
    lock(&PLAYING)
}

/// Plays all steps in order; those marked "background" on one helper thread.
pub(crate) fn play(steps: &[Json]) -> (World, Vec<Played>) {
    let world = World::new();
    let payloads = Payloads::build(steps);
    let results: Vec<Mutex<Option<Played>>> = steps.iter().map(|_| Mutex::new(None)).collect();
    let play_one = |index: usize| {
        let played = world.timed(&steps[index], &payloads);
        *lock(&results[index]) = Some(played);
    };
    std::thread::scope(|scope| {
        let (queue, orders) = mpsc::channel::<Order>();
        scope.spawn(move || {
            for order in orders {
                match order {
                    Order::Play(index) => play_one(index),
                    Order::Report(done) => done.send(()).expect("the main line waits for this"),
                }
            }
        });
        for (index, step) in steps.iter().enumerate() {
            if step["do"] == "join" {
                wait_until_idle(&queue);
                let played = Played { outcome: Ok(Value::Null), elapsed: Duration::ZERO };
                *lock(&results[index]) = Some(played);
            } else if step["in"] == "background" {
                queue.send(Order::Play(index)).expect("the helper runs until the queue is gone");
            } else {
                play_one(index);
            }
        }
        wait_until_idle(&queue);
    });
    drop(lock(&world.pester).take());
    saltecho::socket::setdefaulttimeout(None).expect("no timeout is a good timeout");
    let played = results
        .into_iter()
        .map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner))
        .map(|played| played.expect("every step was played"))
        .collect();
    (world, played)
}

enum Order {
    Play(usize),
    Report(Sender<()>),
}

fn wait_until_idle(queue: &Sender<Order>) {
    let (done, idle) = mpsc::channel();
    queue.send(Order::Report(done)).expect("the helper runs until the queue is gone");
    idle.recv().expect("the helper answers");
}

/// Long payloads, built before any clock runs.
pub(crate) struct Payloads(HashMap<(u64, u64), Vec<u8>>);

impl Payloads {
    fn build(steps: &[Json]) -> Self {
        let mut payloads = HashMap::new();
        for data in steps.iter().map(|step| &step["data"]) {
            if let (Some(seed), Some(len)) = (data["pattern"].as_u64(), data["len"].as_u64()) {
                payloads.entry((seed, len)).or_insert_with(|| value::pattern(seed, len));
            }
        }
        Self(payloads)
    }
}

impl World {
    fn new() -> Self {
        Self {
            sockets: Mutex::default(),
            files: Mutex::default(),
            ports: Mutex::default(),
            vars: Mutex::default(),
            pester: Mutex::default(),
        }
    }

    fn timed(&self, step: &Json, payloads: &Payloads) -> Played {
        let began = Instant::now();
        let outcome = self.run(step, payloads);
        let elapsed = began.elapsed();
        if let (Ok(value), Some(name)) = (&outcome, step["store"].as_str()) {
            lock(&self.vars).insert(name.to_owned(), value.clone());
        }
        Played { outcome, elapsed }
    }

    /// The first port of the socket with this name.
    pub(crate) fn port_of(&self, name: &str) -> Option<u16> {
        lock(&self.ports).get(name).copied()
    }

    /// A stored result.
    pub(crate) fn var(&self, name: &str) -> Option<Value> {
        lock(&self.vars).get(name).cloned()
    }

    fn socket(&self, name: &str) -> Arc<Socket> {
        let sockets = lock(&self.sockets);
        Arc::clone(sockets.get(name).unwrap_or_else(|| panic!("no socket named {name}")))
    }

    fn add_socket(&self, name: &str, socket: Socket) {
        let earlier = lock(&self.sockets).insert(name.to_owned(), Arc::new(socket));
        assert!(earlier.is_none(), "the name {name} is made twice");
    }

    fn with_file<T>(&self, name: &str, act: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        act(lock(&self.files).get_mut(name).unwrap_or_else(|| panic!("no file named {name}")))
    }

    /// Stores the first local port of a socket.
    fn note_port(&self, name: &str) {
        let port = self.socket(name).getsockname().ok().and_then(|address| address.port());
        if let Some(port) = port.filter(|&port| port != 0) {
            lock(&self.ports).entry(name.to_owned()).or_insert(port);
        }
    }
}

/// The JSON form of an error in the scenario file.
pub(crate) fn describe_error(error: &Error) -> Json {
    let mut described = serde_json::json!({
        "kind": error.kind().name(),
        "errno": error.errno(),
    });
    if error.errno().is_none() {
        described["msg"] = error.to_string().into();
    }
    if let Some(written) = error.characters_written() {
        described["written"] = written.into();
    }
    described
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
