//! The scenarios: each sets something up and returns one operation on it, which must leave
//! everything as it was.

use std::hint::black_box;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::metrics::{Format, Snapshot};
use saltecho::python::{Monotonic, upper};
use saltecho::reactor::{Link, Links, Step, Token, Wheel};

use super::support::kernel::{admit, disconnect, send_each_turn, server, turn};
use super::support::{CHALLENGE, NOW, authenticated, challenge, config, digest};

/// Sets up and returns the operation.
pub(crate) type Scenario = fn() -> Box<dyn FnMut()>;

/// The operations of the benches `core` and `loop`.
pub(crate) const SCENARIOS: [(&str, Scenario); 20] = [
    ("core/challenge", || Box::new(|| drop(black_box(Challenge::new(black_box(CHALLENGE)))))),
    ("core/digest, HMAC-MD5", || digest_of(MacAlgorithm::Md5)),
    ("core/digest, HMAC-SHA-256", || digest_of(MacAlgorithm::Sha256)),
    ("core/verify, HMAC-MD5, 1 key", || verify(MacAlgorithm::Md5, 1)),
    ("core/verify, HMAC-MD5, 4 keys", || verify(MacAlgorithm::Md5, 4)),
    ("core/verify, HMAC-SHA-256, 1 key", || verify(MacAlgorithm::Sha256, 1)),
    ("core/handshake", || {
        let (config, digest) = (config(), digest());
        Box::new(move || drop(black_box(authenticated(&config, black_box(digest)))))
    }),
    ("core/echo, 64 B", || echo(64, 64)),
    ("core/backlog, 64 B in two halves", || echo(64, 32)),
    ("core/upper, 1 KiB", || {
        let mut data = vec![b'x'; 1024];
        Box::new(move || upper(black_box(&mut data)))
    }),
    ("loop/turn, 1 ready of 1", || crowd(1, 1)),
    ("loop/turn, 100 ready of 1000", || crowd(100, 1000)),
    // Of these turns one is timed.
    ("loop/turns, 100 of 100 us, 1 ready of 1", || {
        let (mut server, mut crowd) = (server(1), Vec::new());
        admit(&mut server, 1, &mut crowd);
        send_each_turn(&mut server, &crowd, 64);
        server.kernel_mut().poll_time = Duration::from_micros(100);
        Box::new(move || (0..100).for_each(|_| turn(&mut server)))
    }),
    ("loop/cycle, 64 connections", || {
        let (mut server, mut guests) = (server(1024), Vec::with_capacity(64));
        Box::new(move || {
            guests.clear();
            admit(&mut server, 64, &mut guests);
            send_each_turn(&mut server, &guests, 64);
            turn(&mut server);
            disconnect(&mut server, &guests);
        })
    }),
    ("loop/deadlines, 1000 inserted and expired", || {
        let (mut wheel, mut links) = (Wheel::new(), Slots(vec![Link::default(); 1000]));
        let mut now = 0;
        Box::new(move || {
            links.each(|links, index| wheel.arm_by(links, index, at(now + ahead(index))));
            now += 60_000;
            let fired = std::iter::repeat_with(|| wheel.step(&mut links, at(now)))
                .take_while(|step| *step != Step::Done)
                .filter(|step| matches!(step, Step::Due(_)))
                .count();
            assert_eq!(fired, 1000);
        })
    }),
    ("loop/deadlines, 1000 inserted and unlinked", || {
        let (mut wheel, mut links) = (Wheel::new(), Slots(vec![Link::default(); 1000]));
        Box::new(move || {
            links.each(|links, index| wheel.arm_by(links, index, at(ahead(index))));
            links.each(|links, index| wheel.disarm(links, index));
        })
    }),
    ("loop/deadlines, 1000 refreshed", || {
        let (mut wheel, mut links) = (Wheel::new(), Slots(vec![Link::default(); 1000]));
        links.each(|links, index| wheel.arm_by(links, index, at(ahead(index))));
        Box::new(move || {
            links.each(|links, index| wheel.arm_by(links, index, at(60_000 + ahead(index))));
        })
    }),
    ("loop/turn, nothing ready of 1000", || crowd(0, 1000)),
    ("metrics/scrape of 1 loop", || scrape(1)),
    ("metrics/scrape of 16 loops", || scrape(16)),
];

/// The same work among few connections and among twenty times as many.
pub(crate) const CROWDS: [(&str, Scenario); 2] =
    [("100 ready of 100", || crowd(100, 100)), ("100 ready of 2000", || crowd(100, 2000))];

fn digest_of(mac: MacAlgorithm) -> Box<dyn FnMut()> {
    let key = Key::demo();
    Box::new(move || drop(black_box(mac.digest(black_box(&key), &challenge()))))
}

/// The text of a scrape.
fn scrape(workers: usize) -> Box<dyn FnMut()> {
    let loops: Vec<Snapshot> = (0..workers).map(|_| server(1).snapshot()).collect();
    Box::new(move || {
        let sum: Snapshot = loops.iter().cloned().sum();
        black_box(Format::OpenMetrics.render(sum));
    })
}

fn verify(mac: MacAlgorithm, keys: u8) -> Box<dyn FnMut()> {
    let keys: Vec<Key> = (0..keys).map(|i| Key::new(vec![i; 32])).collect();
    let ring = Keyring::new(mac, &keys).expect("one to four keys");
    let answer = mac.digest(&keys[0], &challenge());
    Box::new(move || assert!(ring.verify(&challenge(), black_box(answer.as_bytes()))))
}

/// An echo of which the kernel accepts `first` bytes at once, then the rest.
fn echo(len: usize, first: usize) -> Box<dyn FnMut()> {
    let config = config();
    let (mut connection, mut data) = (authenticated(&config, digest()), vec![b'x'; len]);
    Box::new(move || {
        connection.handle_recv(&config, black_box(&mut data), NOW).sent(first);
        if first < len {
            connection.handle_sent(&config, len - first, NOW);
        }
    })
}

/// A turn in which some connections, spread over all of them, have sent 64 bytes.
fn crowd(ready: usize, size: usize) -> Box<dyn FnMut()> {
    let (mut server, mut crowd) = (server(size + 1), Vec::new());
    admit(&mut server, size, &mut crowd);
    let step = size.checked_div(ready).unwrap_or(1);
    let busy: Vec<Token> = crowd.into_iter().step_by(step).take(ready).collect();
    send_each_turn(&mut server, &busy, 64);
    Box::new(move || turn(&mut server))
}

struct Slots(Vec<Link>);

impl Slots {
    fn each(&mut self, mut what: impl FnMut(&mut Self, u32)) {
        for index in 0..u32::try_from(self.0.len()).expect("a thousand") {
            what(self, index);
        }
    }
}

impl Links for Slots {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self.0[index as usize]
    }
}

fn at(ms: u32) -> Monotonic {
    Monotonic::from_nanos(u64::from(ms) * 1_000_000)
}

/// Spread over a minute: 7919 is a prime.
fn ahead(index: u32) -> u32 {
    index * 7919 % 60_000
}
