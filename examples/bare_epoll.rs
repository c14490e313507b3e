//! Cost of the kernel alone: the same protocol on bare edge-triggered epoll.
//!
//! This is the reference for measurements of the server (`scripts/compare`), not a server to run: it
//! has no deadlines, limits, admission, counters or orderly close, and a peer that stops reading
//! occupies memory for ever. It does have the optimizations that matter: one buffer for all
//! connections, no read that would only return "would block", `send` before waiting for room, one
//! registration per connection. If the full server costs no more, its protections are free.
//!
//!     cargo run --release --example bare_epoll -- 127.0.0.1:9999

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use rand::{TryRng, rngs::SysRng};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use saltecho::auth::{Challenge, Keyring};
use saltecho::python::upper;
use socket2::{Domain, Socket, Type};

const BUFFER: usize = 32 << 10;
const LISTENER: u64 = u64::MAX;

/// One connection; its index is its descriptor.
struct Peer {
    fd: OwnedFd,
    handshake: Option<Box<Handshake>>,
    /// Unsent bytes and the number already sent of them. While there are any, nothing is read.
    backlog: Option<Box<(Vec<u8>, usize)>>,
    /// True while there may be input that no further event will report.
    unread: bool,
}

struct Handshake {
    challenge: Challenge,
    digest: [u8; 16],
    received: usize,
}

struct Bare {
    epoll: OwnedFd,
    listener: OwnedFd,
    peers: Vec<Option<Peer>>,
    keyring: Keyring,
    random: Vec<[u8; Challenge::LEN]>,
    scratch: Box<[u8]>,
}

/// The connection has ended, for any reason.
struct Closed;

fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr =
        std::env::args().nth(1).ok_or("give an address, like 127.0.0.1:9999")?.parse()?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    println!("listening on {}", socket.local_addr()?.as_socket().ok_or("not an IP address")?);
    let mut bare = Bare {
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        listener: socket.into(),
        peers: Vec::new(),
        keyring: Keyring::demo(),
        random: Vec::new(),
        scratch: vec![0; BUFFER].into_boxed_slice(),
    };
    let flags = EventFlags::IN | EventFlags::ET;
    epoll::add(&bare.epoll, &bare.listener, EventData::new_u64(LISTENER), flags)?;
    let mut events: Vec<Event> = Vec::with_capacity(1024);
    loop {
        match epoll::wait(&bare.epoll, spare_capacity(&mut events), None) {
            Err(Errno::INTR) => {}
            result => drop(result?),
        }
        for event in events.drain(..) {
            match { event.data }.u64() {
                LISTENER => bare.accept()?,
                index => bare.serve(usize::try_from(index)?, event.flags),
            }
        }
    }
}

impl Bare {
    fn accept(&mut self) -> io::Result<()> {
        while let Ok(fd) = accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        {
            let challenge = Challenge::new(self.fresh_random()?);
            if send(&fd, challenge.as_bytes(), SendFlags::NOSIGNAL) != Ok(Challenge::LEN) {
                continue;
            }
            let index = usize::try_from(fd.as_raw_fd()).expect("descriptors are not negative");
            let flags = EventFlags::IN
                | EventFlags::OUT
                | EventFlags::PRI
                | EventFlags::RDHUP
                | EventFlags::ET;
            epoll::add(&self.epoll, &fd, EventData::new_u64(index as u64), flags)?;
            let handshake = Handshake { challenge, digest: [0; 16], received: 0 };
            if self.peers.len() <= index {
                self.peers.resize_with(index + 1, || None);
            }
            let handshake = Some(Box::new(handshake));
            self.peers[index] = Some(Peer { fd, handshake, backlog: None, unread: false });
        }
        Ok(())
    }

    fn serve(&mut self, index: usize, flags: EventFlags) {
        let Some(Some(peer)) = self.peers.get_mut(index) else { return };
        let is_closed = peer.serve(flags, &self.keyring, &mut self.scratch).is_err();
        if is_closed {
            self.peers[index] = None;
        }
    }

    fn fresh_random(&mut self) -> io::Result<[u8; Challenge::LEN]> {
        if self.random.is_empty() {
            let mut pool = [0; 128 * Challenge::LEN];
            SysRng.try_fill_bytes(&mut pool).map_err(io::Error::other)?;
            self.random.extend(pool.as_chunks().0);
        }
        Ok(self.random.pop().expect("the pool was filled"))
    }
}

impl Peer {
    fn serve(
        &mut self,
        flags: EventFlags,
        keyring: &Keyring,
        scratch: &mut [u8],
    ) -> Result<(), Closed> {
        const UNTIL_EMPTY: EventFlags =
            EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR).union(EventFlags::PRI);
        self.unread |= flags.intersects(EventFlags::IN | UNTIL_EMPTY);
        if flags.contains(EventFlags::OUT) {
            self.flush()?;
        }
        while self.unread && self.backlog.is_none() {
            let n = match recv(&self.fd, &mut *scratch, RecvFlags::empty()) {
                Ok((0, _)) => return Err(Closed),
                Ok((n, _)) => n,
                Err(Errno::AGAIN) => {
                    self.unread = false;
                    return Ok(());
                }
                Err(_) => return Err(Closed),
            };
            // A short read has emptied the queue, unless an end or an urgent mark stopped it.
            self.unread = n == scratch.len() || flags.intersects(UNTIL_EMPTY);
            let taken = self.authenticate(&scratch[..n], keyring)?;
            let answer = &mut scratch[taken..n];
            if !answer.is_empty() {
                upper(answer);
                self.send(answer)?;
            }
        }
        Ok(())
    }

    /// Takes the bytes that belong to the digest; returns their number.
    fn authenticate(&mut self, data: &[u8], keyring: &Keyring) -> Result<usize, Closed> {
        let Some(handshake) = &mut self.handshake else { return Ok(0) };
        let taken = data.len().min(handshake.digest.len() - handshake.received);
        let place = &mut handshake.digest[handshake.received..][..taken];
        place.copy_from_slice(&data[..taken]);
        handshake.received += taken;
        if handshake.received == handshake.digest.len() {
            if !keyring.verify(&handshake.challenge, &handshake.digest) {
                return Err(Closed);
            }
            self.handshake = None;
        }
        Ok(taken)
    }

    fn send(&mut self, data: &[u8]) -> Result<(), Closed> {
        let sent = match send(&self.fd, data, SendFlags::NOSIGNAL) {
            Ok(n) => n,
            Err(Errno::AGAIN) => 0,
            Err(_) => return Err(Closed),
        };
        if sent < data.len() {
            self.backlog = Some(Box::new((data[sent..].to_vec(), 0)));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Closed> {
        while let Some(backlog) = &mut self.backlog {
            let (bytes, sent) = &mut **backlog;
            match send(&self.fd, &bytes[*sent..], SendFlags::NOSIGNAL) {
                Ok(n) if *sent + n == bytes.len() => self.backlog = None,
                Ok(n) => *sent += n,
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Closed),
            }
        }
        Ok(())
    }
}
