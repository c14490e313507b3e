//! The simulated kernel compared with Linux. The same random scripts run over real loopback sockets
//! and over the simulated kernel. The clients must observe the same bytes, ends and resets at each
//! rest, and the server must have closed for the same reasons.
//!
//! `SALTECHO_TRUTH_SCRIPTS=10000 cargo test --release --test sim truth -- --nocapture` runs more;
//! `SALTECHO_TRUTH_SEED=7` replays one script. No script fills a buffer, because the size of the
//! kernel's buffers is not fixed. The test's thread turns the real loop until the clients have seen
//! what they should, however long the machine takes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::{CloseReason, Config, Upper};
use saltecho::python::Monotonic;
use saltecho::random::SplitMix;
use saltecho::reactor::{Close, Kernel, ListenOptions, Liveness, MioKernel, Ready, Token, Wake};
use saltecho::server::{Limits, Server};
use saltecho::sim::{Faults, Seen, SimClient, SimKernel};
use socket2::SockRef;

const FIXED_SCRIPTS: u64 = 1000;
const FRESH_SCRIPTS: u64 = 1000;
/// The time limit for the real kernel to do what the simulated one does at once.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
enum Act {
    Connect,
    Digest { client: usize, right: bool },
    Send { client: usize, bytes: Vec<u8> },
    Urgent { client: usize },
    Finish { client: usize },
    Reset { client: usize },
    Stall { client: usize, stalls: bool },
    Drain,
    Rest,
}

#[test]
fn the_simulated_kernel_is_observed_like_the_real_one() {
    if let Ok(seed) = std::env::var("SALTECHO_TRUTH_SEED") {
        return compare(seed.parse().expect("SALTECHO_TRUTH_SEED is a number"));
    }
    let fresh = std::env::var("SALTECHO_TRUTH_SCRIPTS")
        .map_or(FRESH_SCRIPTS, |count| count.parse().expect("SALTECHO_TRUTH_SCRIPTS is a number"));
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let first = u64::try_from(first).unwrap();
    println!("{FIXED_SCRIPTS} fixed scripts, and {fresh} fresh ones from {first}");
    let begin = Instant::now();
    for seed in (0..FIXED_SCRIPTS).chain((0..fresh).map(|i| first.wrapping_add(i))) {
        compare(seed);
    }
    println!("{} scripts in {:.1} s", FIXED_SCRIPTS + fresh, begin.elapsed().as_secs_f64());
}

/// Draws a script of up to three clients. A rest follows each act or every few acts.
fn draw(seed: u64) -> Vec<Act> {
    let mut random = SplitMix::new(seed);
    let (mut script, mut clients) = (vec![Act::Connect], 1);
    let hasty = random.below(3);
    for _ in 0..6 + random.below(20) {
        let client = random.below(clients);
        script.push(match random.below(24) {
            0..=2 if clients < 3 => {
                clients += 1;
                Act::Connect
            }
            3..=8 => Act::Digest { client, right: random.below(4) > 0 },
            0..=2 | 9..=14 => {
                let most = if random.below(4) == 0 { 700 } else { 8 };
                let len = 1 + random.below(most);
                let bytes = (0..len).map(|_| random.next_u64().to_le_bytes()[0]).collect();
                Act::Send { client, bytes }
            }
            15 | 16 => Act::Urgent { client },
            17 => Act::Finish { client },
            18 => Act::Reset { client },
            19 | 20 => Act::Stall { client, stalls: true },
            _ => Act::Stall { client, stalls: false },
        });
        if random.below(3) >= hasty {
            script.push(Act::Rest);
        }
    }
    script.push(Act::Rest);
    if random.below(3) == 0 {
        let client = random.below(clients);
        script.extend([Act::Drain, Act::Rest, Act::Send { client, bytes: vec![b'x'; 9] }]);
        script.extend([Act::Rest, Act::Finish { client }, Act::Rest]);
    }
    script.extend((0..clients).map(|client| Act::Stall { client, stalls: false }));
    script.push(Act::Rest);
    script.extend((0..clients).map(|client| Act::Reset { client }));
    script
}

fn compare(seed: u64) {
    let script = draw(seed);
    let (mut simulated, mut real) = (Simulated::new(seed), Real::new());
    let (mut expected, mut observed) = (Vec::new(), Vec::new());
    for (step, act) in script.iter().enumerate() {
        if perform(&mut simulated, &mut expected, act) {
            perform(&mut real, &mut observed, act);
        }
        if let Act::Rest = act {
            simulated.rest(&mut expected);
            real.rest_until(&mut observed, |observed| observed == expected);
            assert!(
                observed == expected,
                "seed {seed}, step {step}: the real clients saw\n{observed:#?}\nand the simulated \
                 ones\n{expected:#?}\nin {script:?}"
            );
        }
    }
    simulated.rest(&mut expected);
    real.rest_until_empty(&mut observed);
    let simulated: Vec<_> = simulated.server.stats().closes().collect();
    let real: Vec<(CloseReason, u64)> = real.server.stats().closes().collect();
    assert_eq!(
        real, simulated,
        "seed {seed}: the real reasons, and the simulated ones: {script:?}"
    );
}

/// Does one act; false if this side could not; then the other side must not either.
fn perform<S: Side>(side: &mut S, views: &mut Vec<View>, act: &Act) -> bool {
    match act {
        Act::Connect => {
            side.connect();
            views.push(View::default());
        }
        Act::Digest { client, right } => {
            let bytes = views[*client].digest(*right);
            side.send(*client, &bytes);
        }
        Act::Send { client, bytes } => side.send(*client, bytes),
        Act::Urgent { client } => return side.send_urgent(*client),
        Act::Finish { client } => side.finish(*client),
        Act::Reset { client } => {
            views[*client].gone = true;
            side.reset(*client);
        }
        Act::Stall { client, stalls } => views[*client].stalls = *stalls,
        Act::Drain => side.drain(),
        Act::Rest => {}
    }
    true
}

/// The observations of one client.
#[derive(Default)]
struct View {
    bytes: Vec<u8>,
    end: Option<Seen>,
    stalls: bool,
    gone: bool,
    has_given_digest: bool,
}

impl PartialEq for View {
    /// Challenges differ, so only their length is compared.
    fn eq(&self, other: &Self) -> bool {
        let echo = |view: &Self| view.bytes.get(Challenge::LEN..).map(<[u8]>::to_vec);
        self.bytes.len() == other.bytes.len() && echo(self) == echo(other) && self.end == other.end
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let echo = self.bytes.get(Challenge::LEN..);
        write!(f, "{} bytes, behind the challenge {echo:?}, then {:?}", self.bytes.len(), self.end)
    }
}

impl View {
    /// The digest, or sixteen arbitrary bytes if the challenge is not known or was answered: an
    /// echo of a digest would differ between the two sides, as the challenges do.
    fn digest(&mut self, right: bool) -> Vec<u8> {
        let challenge = self.bytes.get(..Challenge::LEN).filter(|_| !self.has_given_digest);
        let Some(challenge) = challenge else { return vec![0; 16] };
        self.has_given_digest = true;
        let challenge = Challenge::new(challenge.try_into().unwrap());
        let mut digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge).as_bytes().to_vec();
        digest[15] ^= u8::from(!right);
        digest
    }

    /// Reads all that is there, with a function that returns like `SimKernel::client_recv`.
    fn read(&mut self, mut recv: impl FnMut() -> Result<Vec<u8>, Seen>) {
        while !self.stalls && !self.gone && self.end.is_none() {
            match recv() {
                Ok(bytes) => self.bytes.extend(bytes),
                Err(Seen::Nothing) => return,
                Err(end) => self.end = Some(end),
            }
        }
    }
}

/// One of the two kernels; clients have numbers.
trait Side {
    fn connect(&mut self);
    fn send(&mut self, client: usize, bytes: &[u8]);
    fn send_urgent(&mut self, client: usize) -> bool;
    fn finish(&mut self, client: usize);
    fn reset(&mut self, client: usize);
    fn drain(&mut self);
}

/// Limits that make time irrelevant.
fn config() -> Config {
    let mut config = Config::new(Keyring::demo());
    config.recv_size = 100;
    (config.auth_timeout, config.send_timeout, config.linger_timeout) = (None, None, None);
    config.keepalive = None;
    config
}

fn limits() -> Limits {
    let mut limits = Limits::for_connections(8);
    limits.drain_timeout = None;
    limits
}

struct Simulated {
    server: Server<SimKernel, Upper>,
    clients: Vec<SimClient>,
}

impl Simulated {
    fn new(seed: u64) -> Self {
        let kernel = SimKernel::new(seed, Faults::none());
        let server = Server::with_kernel(kernel, vec![()], config(), limits(), Upper).unwrap();
        Self { server, clients: Vec::new() }
    }

    fn rest(&mut self, views: &mut [View]) {
        for _ in 0..2 {
            while self.server.turn().unwrap() && !self.server.kernel_mut().slept() {}
            for (view, end) in views.iter_mut().zip(&self.clients) {
                view.read(|| self.server.kernel_mut().client_recv(*end, usize::MAX));
            }
        }
    }
}

impl Side for Simulated {
    fn connect(&mut self) {
        self.clients.push(self.server.kernel_mut().connect(1 << 20, 1 << 20, 1 << 20));
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        self.server.kernel_mut().client_send(self.clients[client], bytes);
    }

    fn send_urgent(&mut self, client: usize) -> bool {
        self.server.kernel_mut().client_send_urgent(self.clients[client])
    }

    fn finish(&mut self, client: usize) {
        self.server.kernel_mut().client_finish(self.clients[client]);
    }

    fn reset(&mut self, client: usize) {
        self.server.kernel_mut().client_reset(self.clients[client]);
    }

    fn drain(&mut self) {
        self.server.handle().drain();
    }
}

struct Real {
    server: Server<Prompt, Upper>,
    address: SocketAddr,
    clients: Vec<Option<TcpStream>>,
}

impl Real {
    fn new() -> Self {
        let options = ListenOptions::new(16, false);
        let listener = MioKernel::listen("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = listener.local_addr().unwrap();
        let kernel = Prompt { kernel: MioKernel::new(16).unwrap(), idle: false };
        let server = Server::with_kernel(kernel, vec![listener], config(), limits(), Upper);
        Self { server: server.unwrap(), address, clients: Vec::new() }
    }

    /// Turns the loop and lets the clients read until they have seen enough, then once more.
    fn rest_until(&mut self, views: &mut [View], enough: impl Fn(&[View]) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let was_enough = enough(views);
            while self.server.turn().unwrap() && !self.server.kernel_mut().idle {}
            for (view, stream) in views.iter_mut().zip(&mut self.clients) {
                let mut buffer = [0; 4096];
                view.read(|| match stream.as_mut().expect("it is not gone").read(&mut buffer) {
                    Ok(0) => Err(Seen::End),
                    Ok(n) => Ok(buffer[..n].to_vec()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Seen::Nothing),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                        Err(Seen::Reset)
                    }
                });
            }
            if (was_enough && enough(views)) || Instant::now() > give_up {
                return;
            }
        }
    }

    fn rest_until_empty(&mut self, views: &mut [View]) {
        let give_up = Instant::now() + PATIENCE;
        self.clients.clear();
        views.iter_mut().for_each(|view| view.gone = true);
        while self.server.stats().connections > 0 || !self.server.kernel_mut().idle {
            self.server.turn().unwrap();
            assert!(Instant::now() < give_up, "a connection stays: {:?}", self.server.stats());
        }
    }
}

impl Side for Real {
    fn connect(&mut self) {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        self.clients.push(Some(stream));
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        if let Some(stream) = &mut self.clients[client] {
            // It fails if the client has ended its stream or the server has reset it; otherwise it
            // accepts everything, because no script comes close to filling a buffer.
            assert_eq!(stream.write(bytes).unwrap_or(bytes.len()), bytes.len());
        }
    }

    fn send_urgent(&mut self, client: usize) -> bool {
        if let Some(stream) = &self.clients[client] {
            let _ = SockRef::from(stream).send_out_of_band(b"!");
        }
        true
    }

    fn finish(&mut self, client: usize) {
        if let Some(stream) = &self.clients[client] {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }

    fn reset(&mut self, client: usize) {
        if let Some(stream) = self.clients[client].take() {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }

    fn drain(&mut self) {
        self.server.handle().drain();
    }
}

/// The real kernel, except that a poll does not sleep but reports whether it would have.
struct Prompt {
    kernel: MioKernel,
    idle: bool,
}

impl Kernel for Prompt {
    type Listener = <MioKernel as Kernel>::Listener;
    type Stream = <MioKernel as Kernel>::Stream;
    type AdminListener = <MioKernel as Kernel>::AdminListener;

    fn now(&mut self) -> Monotonic {
        self.kernel.now()
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Token, Ready),
    ) -> io::Result<()> {
        let mut events = 0;
        self.kernel.poll(Some(Duration::ZERO), |token, ready| {
            events += 1;
            on_event(token, ready);
        })?;
        self.idle = events == 0 && timeout != Some(Duration::ZERO);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.kernel.waker()
    }

    fn register_listener(&mut self, listener: &mut Self::Listener, token: Token) -> io::Result<()> {
        self.kernel.register_listener(listener, token)
    }

    fn register(&mut self, stream: &mut Self::Stream, token: Token) -> io::Result<()> {
        self.kernel.register(stream, token)
    }

    fn accept(
        &mut self,
        listener: &mut Self::Listener,
    ) -> io::Result<(Self::Stream, Option<SocketAddr>)> {
        self.kernel.accept(listener)
    }

    fn register_admin_listener(
        &mut self,
        listener: &mut Self::AdminListener,
        token: Token,
    ) -> io::Result<()> {
        self.kernel.register_admin_listener(listener, token)
    }

    fn accept_admin(&mut self, listener: &mut Self::AdminListener) -> io::Result<Self::Stream> {
        self.kernel.accept_admin(listener)
    }

    fn shed(&mut self, listener: &mut Self::Listener) -> io::Result<()> {
        self.kernel.shed(listener)
    }

    fn recv(&mut self, stream: &mut Self::Stream, data: &mut [u8]) -> io::Result<usize> {
        self.kernel.recv(stream, data)
    }

    fn send(&mut self, stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize> {
        self.kernel.send(stream, data)
    }

    fn shutdown(&mut self, stream: &mut Self::Stream) -> io::Result<()> {
        self.kernel.shutdown(stream)
    }

    fn close(&mut self, stream: Self::Stream, how: Close) {
        self.kernel.close(stream, how);
    }

    fn liveness(&mut self, stream: &mut Self::Stream) -> io::Result<Liveness> {
        self.kernel.liveness(stream)
    }

    fn probe(&mut self, stream: &mut Self::Stream) {
        self.kernel.probe(stream);
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        self.kernel.random_below(limit)
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.kernel.fill_random(bytes)
    }
}
