//! The pipe: stdin goes out, answers come in, both at once and as they are.
//!
//! Two threads share one socket. This one receives and alone decides how it ends; the other one
//! sends, and is left behind in whatever it waits for when the program ends.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use saltecho::client::{ClientError, Step};
use saltecho::socket::{Error, ErrorKind, Shutdown, Socket};

use super::escape::Escaper;
use super::failure::{Failure, Kind};
use super::peer::{GRACE, Peer};

/// What is moved in one go: beyond this a system call costs nothing against the copying.
const BLOCK: usize = 256 << 10;

/// How far the sending side has come.
#[derive(Default)]
struct Progress {
    /// Bytes taken from stdin, whether the kernel has taken them yet or not.
    offered: AtomicU64,
    /// How stdin ended. Set before our stream is ended, so whoever sees the other end of the
    /// stream earlier knows that it was the server's idea.
    input: OnceLock<io::Result<()>>,
}

impl Progress {
    /// Whether the server owes something to a client that has received this much.
    fn is_owed(&self, received: u64) -> bool {
        self.input.get().is_some() || self.offered.load(Ordering::Acquire) > received
    }
}

pub(super) fn run(socket: Socket, peer: &Peer<'_>) -> Result<(), Failure> {
    let socket = Arc::new(socket);
    let progress = Arc::new(Progress::default());
    let input = duplicate(io::stdin().as_fd()).context("cannot use stdin")?;
    let mut output = Output::stdout().context("cannot use stdout")?;
    let (receiving, ended) = channel();
    let sender = {
        let (socket, progress) = (Arc::clone(&socket), Arc::clone(&progress));
        move || send(&socket, input, &progress, &ended)
    };
    std::thread::Builder::new().name("send".to_owned()).spawn(sender).context("no thread")?;
    let result = receive(&socket, &mut output, &progress, peer);
    drop(receiving);
    result
}

/// Sends stdin until it ends, then ends our stream. Errors of the socket are for the receiving
/// side to judge: it sees the same connection end, and knows what came before that.
fn send(socket: &Socket, mut input: File, progress: &Progress, receiver: &Receiver<()>) {
    let mut block = vec![0; BLOCK];
    loop {
        let n = match input.read(&mut block) {
            Ok(0) => break end_input(socket, progress, Ok(()), receiver),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break end_input(socket, progress, Err(error), receiver),
        };
        progress.offered.fetch_add(n as u64, Ordering::Release);
        let mut rest = &block[..n];
        while !rest.is_empty() {
            match socket.send(rest) {
                Ok(sent) => rest = &rest[sent..],
                // The server may wait for us to read, and we for whoever reads our stdout: that
                // takes as long as it takes.
                Err(error)
                    if error.kind() == ErrorKind::TimeoutError && error.errno().is_none() => {}
                Err(_) => return,
            }
        }
    }
}

fn end_input(socket: &Socket, progress: &Progress, how: io::Result<()>, receiver: &Receiver<()>) {
    // After an empty input the server closes whether it accepts us or not: only if it does so
    // first is it a refusal. This returns at once when the receiving side has ended.
    if progress.offered.load(Ordering::Acquire) == 0 {
        let _ = receiver.recv_timeout(GRACE);
    }
    progress.input.set(how).expect("stdin ends once");
    let _ = socket.shutdown(Shutdown::Write);
}

/// Writes what comes to stdout until the stream ends, and judges that end.
fn receive(
    socket: &Socket,
    output: &mut Output,
    progress: &Progress,
    peer: &Peer<'_>,
) -> Result<(), Failure> {
    let mut block = vec![0; BLOCK];
    let mut received = 0;
    loop {
        let owed = progress.is_owed(received);
        match socket.recv_into(&mut block) {
            Ok(0) => break,
            Ok(n) => {
                received += n as u64;
                match output.write(&block[..n]) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written.context("cannot write to stdout")?,
                }
            }
            // Silence is a fault only where something was due all the time.
            Err(error) if error.kind() == ErrorKind::TimeoutError => {
                if owed || error.errno().is_some() {
                    return Err(peer.explain(&ClientError::TimedOut(Step::Exchanging)));
                }
            }
            Err(error) if is_end(&error) => break,
            Err(error) => return Err(peer.explain(&ClientError::Socket(error))),
        }
    }
    match output.finish() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        finished => finished.context("cannot write to stdout")?,
    }
    judge(progress, received, peer)
}

/// A reset ends a stream too; whether too early is for the counts to say.
fn is_end(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionResetError | ErrorKind::BrokenPipeError)
}

/// Whether the end of the server's stream was the right one.
fn judge(progress: &Progress, received: u64, peer: &Peer<'_>) -> Result<(), Failure> {
    let (input, offered) = (progress.input.get(), progress.offered.load(Ordering::Acquire));
    let address = peer.address;
    match input {
        Some(Err(error)) => {
            Err(Failure::because(Kind::Runtime, format!("cannot read stdin: {error}")))
        }
        Some(Ok(())) if received >= offered => Ok(()),
        Some(Ok(())) | None if received == 0 => Err(peer.refused()),
        Some(Ok(())) => Err(Failure::because(
            Kind::Runtime,
            format!("{address} closed the connection after {received} of {offered} bytes"),
        )),
        None => Err(Failure::because(
            Kind::Runtime,
            format!("{address} closed the connection after {received} bytes, before stdin ended"),
        )),
    }
}

/// Stdout without the standard library's line buffer, which would look for line feeds in it.
struct Output {
    file: File,
    /// On a terminal a stranger's control characters are not shown as they are.
    escaper: Option<Escaper>,
}

impl Output {
    fn stdout() -> io::Result<Self> {
        let stdout = io::stdout();
        let escaper = stdout.is_terminal().then(Escaper::for_text);
        Ok(Self { file: duplicate(stdout.as_fd())?, escaper })
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

fn duplicate(fd: BorrowedFd<'_>) -> io::Result<File> {
    Ok(File::from(fd.try_clone_to_owned()?))
}
