//! The pipe: sends stdin and writes the answers to stdout, both at once and byte for byte.
//!
//! Two threads share one connection. The main thread receives, and it alone decides the outcome.
//! The other one sends; the program exits without waiting for it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use saltecho::client::Client;
use saltecho::proto::Protocol;

use super::escape::Escaper;
use super::framing::{Unframer, header};
use super::peer::{Peer, bytes};
use crate::cli::blocking::{Blocking, poll_until};
use crate::cli::failure::{Exit, Failure};

/// Bytes per read and write. With larger ones the system call costs nothing compared to copying.
const BLOCK: usize = 256 << 10;

/// The progress of both threads. The sender wakes the receiver when it has to wait for something
/// else.
struct Progress {
    counters: Mutex<Counters>,
    /// An eventfd.
    wake: OwnedFd,
}

struct Counters {
    /// Bytes read from stdin, sent or not.
    offered: u64,
    received: u64,
    /// The end of stdin. Set before our stream is shut down: if the server's end is seen earlier,
    /// the server ended first.
    input: Option<io::Result<()>>,
    /// Start of the current wait for the server.
    since: Instant,
}

/// Reasons for the receiver to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Nothing: no answer is pending.
    Nothing,
    /// An answer, or the end of the stream after an answer that is longer than the input.
    Answer,
    /// The end of the stream alone. All bytes came back, so nothing is lost if it never comes: the
    /// tutorial's own server keeps a finished client's socket open until its next `accept`
    /// returns.
    End,
}

impl Counters {
    fn wait(&self) -> Wait {
        match &self.input {
            _ if self.offered > self.received => Wait::Answer,
            Some(_) if self.offered == self.received => Wait::End,
            Some(_) => Wait::Answer,
            None => Wait::Nothing,
        }
    }
}

impl Progress {
    fn new() -> io::Result<Self> {
        let counters = Counters { offered: 0, received: 0, input: None, since: Instant::now() };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { counters: Mutex::new(counters), wake })
    }

    /// Ignores poisoning: nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the counters for the sender. If the receiver has to wait for something else now, that
    /// wait starts now.
    fn change(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.lock();
        let before = counters.wait();
        change(&mut counters);
        if counters.wait() != before {
            counters.since = Instant::now();
            // The eventfd cannot overflow: each wake-up resets it to zero.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Waits until the stream is readable or has failed.
    ///
    /// # Errors
    /// The wait that timed out.
    fn wait(&self, stream: &TcpStream, peer: &Peer<'_>, grace: Duration) -> Result<(), Wait> {
        loop {
            let (wait, since) = {
                let counters = self.lock();
                (counters.wait(), counters.since)
            };
            let limit = match wait {
                Wait::Nothing => None,
                Wait::Answer => peer.limit.0,
                Wait::End => Some(grace),
            };
            let mut fds = [
                PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
            ];
            // poll(2) cannot fail for two descriptors of our own; if it did, the next read would.
            let _ = poll_until(&mut fds, limit.and_then(|limit| since.checked_add(limit)));
            match [fds[0].revents().is_empty(), fds[1].revents().is_empty()] {
                [false, _] => return Ok(()),
                [true, false] => drop(rustix::io::read(&self.wake, &mut [0; 8])),
                [true, true] => return Err(wait),
            }
        }
    }
}

pub(super) fn run(client: &Client, peer: &Peer<'_>) -> Result<(), Failure> {
    let stream = client.stream().context("cannot use the connection")?;
    let grace = peer.grace(client);
    let progress = Arc::new(Progress::new().context("cannot make an eventfd")?);
    let input = Blocking::duplicate(io::stdin()).context("cannot use stdin")?;
    let mut output = Output::stdout().context("cannot use stdout")?;
    let (receiving, ended) = channel();
    let protocol = peer.protocol;
    let sender = {
        let stream = stream.try_clone().context("cannot use the connection")?;
        let progress = Arc::clone(&progress);
        move || send(stream, protocol, input, &progress, &ended, grace)
    };
    std::thread::Builder::new().name("send".to_owned()).spawn(sender).context("no thread")?;
    let end = receive(stream, &mut output, &progress, peer, grace)?;
    let result = match end {
        End::Reader => Ok(()),
        End::Server => check(&progress.lock(), client, peer),
    };
    // Dropped only now: the sender of an empty input waits for it before it shuts down.
    drop::<Sender<()>>(receiving);
    result
}

/// Sends stdin until it ends, then shuts our side down. The receiver reports errors of the socket: it
/// sees the same connection end, and knows what came before.
fn send(
    stream: TcpStream,
    protocol: Protocol,
    mut input: Blocking<File>,
    progress: &Progress,
    receiver: &Receiver<()>,
    grace: Duration,
) {
    let mut stream = Blocking(stream);
    // What is read at once is one message. Its header is as long as that of a full block.
    let room = header(protocol, BLOCK).len();
    let mut block = vec![0; room + BLOCK];
    let end = loop {
        let n = match input.read(&mut block[room..]) {
            Ok(0) => break Ok(()),
            Ok(n) => n,
            Err(error) => break Err(error),
        };
        progress.change(|counters| counters.offered += n as u64);
        // No time limit: the server may wait for us to read, and we for the reader of our stdout.
        block[..room].copy_from_slice(&header(protocol, n));
        if stream.write_all(&block[..room + n]).is_err() {
            return;
        }
    };
    // After an empty input the server closes whether we are authenticated or not. Only if it closes
    // first were we rejected. This returns at once when the receiver has ended.
    if progress.lock().offered == 0 {
        let _ = receiver.recv_timeout(grace);
    }
    progress.change(|counters| counters.input = Some(end));
    let _ = stream.0.shutdown(Shutdown::Write);
}

/// A reason to stop receiving that is not an error by itself.
enum End {
    /// The reader of our stdout has left, and wants no more.
    Reader,
    /// The server's stream has ended, or only its end is missing.
    Server,
}

/// Writes the answers to stdout until the stream ends.
fn receive(
    stream: TcpStream,
    output: &mut Output,
    progress: &Progress,
    peer: &Peer<'_>,
    grace: Duration,
) -> Result<End, Failure> {
    let mut stream = Blocking(stream);
    let mut unframer = Unframer::new(peer.protocol);
    let mut block = vec![0; BLOCK];
    loop {
        match progress.wait(&stream.0, peer, grace) {
            Ok(()) => {}
            Err(Wait::End) => break,
            Err(Wait::Nothing | Wait::Answer) => {
                return Err(peer.timed_out(progress.lock().received > 0));
            }
        }
        let written = match stream.read(&mut block) {
            Ok(0) => break,
            Ok(n) => {
                let (n, _) = unframer.strip(&mut block[..n]);
                progress.lock().received += n as u64;
                output.write(&block[..n])
            }
            Err(error) if is_end(&error) => break,
            Err(error) => return Err(peer.failed(&error)),
        };
        if is_readerless(written)? {
            return Ok(End::Reader);
        }
        // Time spent waiting for our own reader does not count.
        progress.lock().since = Instant::now();
    }
    Ok(if is_readerless(output.finish())? { End::Reader } else { End::Server })
}

/// Returns whether this is an end of the stream; the counters tell whether it came too early.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn is_readerless(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        written => written.map(|()| false).context("cannot write to stdout"),
    }
}

/// Checks that the server's stream ended after the last answer.
fn check(counters: &Counters, client: &Client, peer: &Peer<'_>) -> Result<(), Failure> {
    let Counters { offered, received, ref input, .. } = *counters;
    let address = peer.address;
    let text = match input {
        Some(Err(error)) => format!("cannot read stdin: {error}"),
        Some(Ok(())) if received >= offered => return Ok(()),
        None if received == 0 && offered == 0 => return Err(peer.closed_first(client)),
        Some(Ok(())) | None if received == 0 && !client.is_accepted() => {
            return Err(peer.rejected());
        }
        Some(Ok(())) => {
            let offered = bytes(offered);
            format!("{address} closed the connection after {received} of {offered}")
        }
        None => {
            let received = bytes(received);
            format!("{address} closed the connection after {received}, before stdin ended")
        }
    };
    Err(Failure::with_message(Exit::Runtime, text))
}

/// Stdout without the line buffer of the standard library, which would search for line feeds.
struct Output {
    file: Blocking<File>,
    /// Escapes control characters if stdout is a terminal.
    escaper: Option<Escaper>,
}

impl Output {
    fn stdout() -> io::Result<Self> {
        let stdout = io::stdout();
        let escaper = stdout.is_terminal().then(Escaper::for_text);
        Ok(Self { file: Blocking::duplicate(stdout)?, escaper })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.escaper {
            None => self.file.write_all(bytes),
            Some(escaper) => self.file.write_all(escaper.push(bytes).as_bytes()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.escaper.take() {
            None => Ok(()),
            Some(escaper) => self.file.write_all(escaper.finish().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use saltecho::auth::{Key, MacAlgorithm};

    use super::*;
    use crate::cli::values::Limit;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Waits as the receiver does for a server that never sends anything.
    fn wait(progress: &Progress, limit: Duration) -> Wait {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(silent.local_addr().unwrap()).unwrap();
        let address = "127.0.0.1:9999".parse().unwrap();
        let (key, mac, limit) = (Key::demo(), MacAlgorithm::Md5, Limit(Some(limit)));
        let protocol = Protocol::Tutorial;
        let peer = Peer { address: &address, protocol, key: &key, mac, limit };
        progress.wait(&stream, &peer, Duration::from_millis(1)).unwrap_err()
    }

    #[test]
    fn the_time_limit_starts_when_an_answer_is_due() {
        let progress = Progress::new().unwrap();
        progress.lock().since -= HOUR;
        progress.change(|counters| counters.offered = 5);
        let began = progress.lock().since;
        assert!(began.elapsed() < HOUR, "the silence before must not count");
        // More input does not extend the wait.
        progress.change(|counters| counters.offered = 10);
        assert_eq!(progress.lock().since, began);
        progress.lock().since -= HOUR;
        assert_eq!(wait(&progress, HOUR), Wait::Answer);
    }

    #[test]
    fn after_the_last_answer_the_end_is_awaited_briefly() {
        for received in [0, 5] {
            let progress = Progress::new().unwrap();
            progress
                .change(|counters| (counters.offered, counters.received) = (received, received));
            assert_eq!(progress.lock().wait(), Wait::Nothing);
            progress.change(|counters| counters.input = Some(Ok(())));
            assert_eq!(wait(&progress, Duration::from_millis(50)), Wait::End);
        }
    }
}
