//! The pipe: stdin goes out, answers come in, both at once and as they are.
//!
//! Two threads share one connection. This one receives and alone decides how it ends; the other one
//! sends, and is left behind in whatever it waits for when the program ends.

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

use super::escape::Escaper;
use super::peer::{Peer, bytes};
use crate::cli::blocking::{Blocking, poll_until};
use crate::cli::failure::{Failure, Kind};

/// What is moved in one go: beyond this a system call costs nothing against the copying.
const BLOCK: usize = 256 << 10;

/// How far both sides have come; the sending one wakes the receiving one with what changes its wait.
struct Progress {
    account: Mutex<Account>,
    /// An eventfd.
    wake: OwnedFd,
}

struct Account {
    /// Bytes taken from stdin, whether the kernel has taken them yet or not.
    offered: u64,
    received: u64,
    /// How stdin ended. Set before our stream is ended, so a server whose end is seen earlier ended
    /// first.
    input: Option<io::Result<()>>,
    /// When the present wait for the server began.
    since: Instant,
}

/// What the receiving side waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Nothing is due, and the silence no fault.
    Nothing,
    /// An answer, or the end of the stream behind one that is longer than the input.
    Answer,
    /// The end of the stream alone. As many bytes came back as were sent, so nothing is lost if it
    /// never comes: the tutorial's own server keeps a finished client's socket open until its next
    /// `accept` returns.
    End,
}

impl Account {
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
        let account = Account { offered: 0, received: 0, input: None, since: Instant::now() };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { account: Mutex::new(account), wake })
    }

    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the account for the sending side. A wait for something else begins now.
    fn change(&self, change: impl FnOnce(&mut Account)) {
        let mut account = self.lock();
        let before = account.wait();
        change(&mut account);
        if account.wait() != before {
            account.since = Instant::now();
            // The counter cannot overflow: it is read back to zero with each wake-up.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Waits until the stream has something to receive, or an error.
    ///
    /// # Errors
    /// The wait that took too long.
    fn wait(&self, stream: &TcpStream, peer: &Peer<'_>, grace: Duration) -> Result<(), Wait> {
        loop {
            let (wait, since) = {
                let account = self.lock();
                (account.wait(), account.since)
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
            // poll(2) cannot fail for two descriptors of our own; the stream's next call would.
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
    let sender = {
        let stream = stream.try_clone().context("cannot use the connection")?;
        let progress = Arc::clone(&progress);
        move || send(stream, input, &progress, &ended, grace)
    };
    std::thread::Builder::new().name("send".to_owned()).spawn(sender).context("no thread")?;
    let end = receive(stream, &mut output, &progress, peer, grace)?;
    let result = match end {
        End::Reader => Ok(()),
        End::Server => judge(&progress.lock(), client, peer),
    };
    // Only now: the end of an empty input waits for it, and would be judged as well.
    drop::<Sender<()>>(receiving);
    result
}

/// Sends stdin until it ends, then ends our stream. Errors of the socket are for the receiving
/// side to judge: it sees the same connection end, and knows what came before that.
fn send(
    stream: TcpStream,
    mut input: Blocking<File>,
    progress: &Progress,
    receiver: &Receiver<()>,
    grace: Duration,
) {
    let mut stream = Blocking(stream);
    let mut block = vec![0; BLOCK];
    let how = loop {
        let n = match input.read(&mut block) {
            Ok(0) => break Ok(()),
            Ok(n) => n,
            Err(error) => break Err(error),
        };
        progress.change(|account| account.offered += n as u64);
        // The server may wait for us to read, and we for the reader of our stdout: that takes as
        // long as it takes.
        if stream.write_all(&block[..n]).is_err() {
            return;
        }
    };
    // After an empty input the server closes whether it accepts us or not: only if it does so
    // first is it a refusal. This returns at once when the receiving side has ended.
    if progress.lock().offered == 0 {
        let _ = receiver.recv_timeout(grace);
    }
    progress.change(|account| account.input = Some(how));
    let _ = stream.0.shutdown(Shutdown::Write);
}

/// A reason to stop receiving that is no error by itself.
enum End {
    /// The reader of our stdout has left: it has read enough.
    Reader,
    /// The server's stream has ended, or nothing is due but its end.
    Server,
}

/// Writes what comes to stdout until the stream ends.
fn receive(
    stream: TcpStream,
    output: &mut Output,
    progress: &Progress,
    peer: &Peer<'_>,
    grace: Duration,
) -> Result<End, Failure> {
    let mut stream = Blocking(stream);
    let mut block = vec![0; BLOCK];
    loop {
        match progress.wait(&stream.0, peer, grace) {
            Ok(()) => {}
            Err(Wait::End) => break,
            Err(Wait::Nothing | Wait::Answer) => {
                return Err(peer.silent(progress.lock().received > 0));
            }
        }
        let written = match stream.read(&mut block) {
            Ok(0) => break,
            Ok(n) => {
                progress.lock().received += n as u64;
                output.write(&block[..n])
            }
            Err(error) if is_end(&error) => break,
            Err(error) => return Err(peer.failed(&error)),
        };
        if is_readerless(written)? {
            return Ok(End::Reader);
        }
        // The time that our own reader took is not the server's.
        progress.lock().since = Instant::now();
    }
    Ok(if is_readerless(output.finish())? { End::Reader } else { End::Server })
}

/// A reset ends a stream too; whether too early is for the counts to say.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn is_readerless(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        written => written.map(|()| false).context("cannot write to stdout"),
    }
}

/// Whether the end of the server's stream was the right one.
fn judge(account: &Account, client: &Client, peer: &Peer<'_>) -> Result<(), Failure> {
    let Account { offered, received, ref input, .. } = *account;
    let address = peer.address;
    let text = match input {
        Some(Err(error)) => format!("cannot read stdin: {error}"),
        Some(Ok(())) if received >= offered => return Ok(()),
        None if received == 0 && offered == 0 => return Err(peer.closed_first(client)),
        Some(Ok(())) | None if received == 0 => return Err(peer.refused()),
        Some(Ok(())) => {
            let offered = bytes(offered);
            format!("{address} closed the connection after {received} of {offered}")
        }
        None => {
            let received = bytes(received);
            format!("{address} closed the connection after {received}, before stdin ended")
        }
    };
    Err(Failure::because(Kind::Runtime, text))
}

/// Stdout without the standard library's line buffer, which would look for line feeds in it.
struct Output {
    file: Blocking<File>,
    /// On a terminal a stranger's control characters are not shown as they are.
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

    /// What the receiving side finds of a server that never sends anything.
    fn wait(progress: &Progress, limit: Duration) -> Wait {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(silent.local_addr().unwrap()).unwrap();
        let address = "127.0.0.1:9999".parse().unwrap();
        let (key, mac, limit) = (Key::demo(), MacAlgorithm::Md5, Limit(Some(limit)));
        let peer = Peer { address: &address, key: &key, mac, limit };
        progress.wait(&stream, &peer, Duration::from_millis(1)).unwrap_err()
    }

    #[test]
    fn the_limit_counts_from_when_an_answer_was_due() {
        let progress = Progress::new().unwrap();
        progress.lock().since -= HOUR;
        progress.change(|account| account.offered = 5);
        let began = progress.lock().since;
        assert!(began.elapsed() < HOUR, "the silence before counts");
        // More input does not prolong the wait for what is due already.
        progress.change(|account| account.offered = 10);
        assert_eq!(progress.lock().since, began);
        // The first expiry counts.
        progress.lock().since -= HOUR;
        assert_eq!(wait(&progress, HOUR), Wait::Answer);
    }

    #[test]
    fn when_all_has_come_the_end_is_waited_for_briefly() {
        for received in [0, 5] {
            let progress = Progress::new().unwrap();
            progress.change(|account| (account.offered, account.received) = (received, received));
            assert_eq!(progress.lock().wait(), Wait::Nothing);
            progress.change(|account| account.input = Some(Ok(())));
            assert_eq!(wait(&progress, Duration::from_millis(50)), Wait::End);
        }
    }
}
