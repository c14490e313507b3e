//! The prompt: sends a line and prints its answer.
//!
//! One thread polls the terminal, the server and the signals. So the end of the server is noticed
//! while a line is being typed, and input that is typed ahead waits for its turn.

mod keys;
mod line;
mod terminal;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags};
use saltecho::client::Client;
use signal_hook::consts::SIGINT;

use self::keys::{Key, Keys, Motion};
use self::line::{Line, PROMPT};
use self::terminal::{Request, Signals, Terminal};
use super::escape::Escaper;
use super::framing::{Unframer, header};
use super::peer::{Peer, bytes};
use crate::cli::blocking::{Blocking, poll_until};
use crate::cli::failure::{Exit, Failure};

/// Time after which the wait for an answer is announced.
const SOON: Duration = Duration::from_millis(500);

pub(super) fn run(client: &Client, peer: &Peer<'_>) -> Result<(), Failure> {
    client.wait_for_refusal(peer.grace(client)).map_err(|error| peer.explain(&error))?;
    print_notice(format_args!("connected to {}; `quit` or Ctrl-D exits", peer.address));
    let terminal = Terminal::open().context("cannot use the terminal")?;
    let mut session = Session {
        keys: Keys::new(terminal.is_cooked()),
        terminal,
        line: Line::default(),
        is_drawn: false,
        has_ended: false,
        client,
        stream: client.stream().context("cannot use the connection")?,
        exchange: None,
        has_answered: client.is_accepted(),
        unframer: Unframer::new(peer.protocol),
        output: Blocking::duplicate(io::stdout()).context("cannot use stdout")?,
        peer,
    };
    // A terminal that was not changed needs no restoring: signals keep their default action.
    let mut signals = match session.terminal.is_cooked() {
        true => None,
        false => Some(Signals::catch().context("cannot catch signals")?),
    };
    session.terminal.enter().context("cannot use the terminal")?;
    while session.turn(signals.as_mut())? {}
    Ok(())
}

struct Session<'a> {
    terminal: Terminal,
    keys: Keys,
    line: Line,
    /// True if the terminal shows the current state of the line.
    is_drawn: bool,
    /// True if the terminal's input has ended.
    has_ended: bool,
    client: &'a Client,
    stream: TcpStream,
    exchange: Option<Exchange>,
    /// True if the server has ever answered, which shows that we are authenticated, or has said so.
    has_answered: bool,
    unframer: Unframer,
    output: Blocking<File>,
    peer: &'a Peer<'a>,
}

/// A line that is being sent, and its answer.
struct Exchange {
    /// The message with its header, if it has one.
    line: Vec<u8>,
    /// The length of the message alone.
    len: usize,
    sent: usize,
    answer: Vec<u8>,
    began: Instant,
    /// Time at which the server last sent something.
    heard: Instant,
    is_announced: bool,
}

impl Session<'_> {
    /// Waits for the next events and handles them; returns false at the end.
    fn turn(&mut self, signals: Option<&mut Signals>) -> Result<bool, Failure> {
        while self.exchange.is_none() {
            let go_on = match self.keys.next() {
                Some(key) => self.press(key)?,
                None if self.has_ended && self.line.is_empty() => false,
                None if self.has_ended => self.press(Key::Enter)?,
                None => break,
            };
            if !go_on {
                return Ok(false);
            }
        }
        self.draw();
        let ready = self.wait(signals.as_deref()).context("poll failed")?;
        if let Some(signals) = signals.filter(|_| ready.signals) {
            for request in signals.requests() {
                self.handle_request(request)?;
            }
        }
        if ready.terminal {
            let mut typed = [0; 4096];
            if let Some(n) = self.terminal.read(&mut typed).context("cannot read the terminal")? {
                self.keys.push(&typed[..n]);
                self.has_ended |= n == 0;
            }
        }
        self.send()?;
        if ready.stream && !self.receive()? {
            return Ok(false);
        }
        self.check_time()?;
        Ok(true)
    }

    fn wait(&self, signals: Option<&Signals>) -> io::Result<Ready> {
        let unsent = self.exchange.as_ref().is_some_and(|exchange| !exchange.unsent().is_empty());
        let stream = if unsent { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = vec![PollFd::from_borrowed_fd(self.stream.as_fd(), stream)];
        let reads = !self.has_ended && self.keys.have_room();
        if reads {
            fds.push(PollFd::from_borrowed_fd(self.terminal.as_fd(), PollFlags::IN));
        }
        if let Some(signals) = signals {
            fds.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
        }
        poll_until(&mut fds, self.exchange.as_ref().and_then(|exchange| exchange.due(self.peer)))?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            stream: ready.next().unwrap_or(false),
            terminal: reads && ready.next().unwrap_or(false),
            signals: ready.next().unwrap_or(false),
        })
    }

    /// Handles a key while no answer is pending; returns false if it ends the session.
    fn press(&mut self, key: Key) -> Result<bool, Failure> {
        self.is_drawn &= self.terminal.is_cooked();
        match key {
            Key::Enter => return self.enter(),
            Key::End if self.line.is_empty() => {
                self.end_row();
                return Ok(false);
            }
            Key::End => self.line.apply(Key::Delete(Motion::Right)),
            Key::Interrupt => {
                self.end_row();
                self.line.clear();
                print_notice(format_args!("`quit` or Ctrl-D exits"));
            }
            Key::Suspend => self.handle_request(Request::Suspend)?,
            Key::ClearScreen => self.terminal.show("\x1b[H\x1b[2J"),
            key => self.line.apply(key),
        }
        Ok(true)
    }

    /// Sends the line; returns false if it ends the session.
    fn enter(&mut self) -> Result<bool, Failure> {
        self.end_row();
        let line = self.line.take();
        match line.trim_ascii() {
            b"" => return Ok(true),
            b"quit" => return Ok(false),
            _ => {}
        }
        let now = Instant::now();
        let len = line.len();
        let line = [header(self.peer.protocol, len), line].concat();
        self.exchange = Some(Exchange {
            line,
            len,
            sent: 0,
            answer: Vec::with_capacity(len),
            began: now,
            heard: now,
            is_announced: false,
        });
        self.send()?;
        Ok(true)
    }

    fn send(&mut self) -> Result<(), Failure> {
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        while !exchange.unsent().is_empty() {
            match (&self.stream).write(exchange.unsent()) {
                Ok(n) => exchange.sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // `receive` finds the end of the connection, after the data before it.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Receives from the server; returns false if stdout has no reader any more.
    fn receive(&mut self) -> Result<bool, Failure> {
        let mut block = [0; 16 << 10];
        let received = match (&self.stream).read(&mut block) {
            Ok(n) => &mut block[..n],
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return Ok(true),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => &mut [],
                _ => return Err(self.fail(self.peer.failed(&error))),
            },
        };
        if received.is_empty() {
            return Err(self.closed()?);
        }
        self.has_answered = true;
        let (len, has_ended) = self.unframer.strip(received);
        let received = &received[..len];
        let Some(exchange) = &mut self.exchange else {
            return if len == 0 { Ok(true) } else { self.print(received) };
        };
        exchange.answer.extend_from_slice(received);
        exchange.heard = Instant::now();
        if !has_ended.unwrap_or(exchange.answer.len() >= exchange.len) {
            return Ok(true);
        }
        let answer = std::mem::take(&mut exchange.answer);
        let shown = self.print(&answer)?;
        self.exchange = None;
        Ok(shown)
    }

    /// Announces a long wait, and ends one that exceeds the time limit.
    fn check_time(&mut self) -> Result<(), Failure> {
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        let now = Instant::now();
        if !exchange.is_announced && now >= exchange.began + SOON {
            exchange.is_announced = true;
            match self.terminal.is_cooked() {
                true => print_notice(format_args!("waiting for {}", self.peer.address)),
                false => {
                    let address = self.peer.address;
                    let text = format!("saltecho: waiting for {address}; Ctrl-C exits");
                    self.terminal.show(&text);
                }
            }
        }
        if exchange.is_announced && self.keys.have_interrupt() {
            self.handle_request(Request::End(SIGINT))?;
        }
        let Some(exchange) = &self.exchange else { return Ok(()) };
        let limit = self.peer.limit.0;
        if limit.and_then(|limit| exchange.heard.checked_add(limit)).is_none_or(|due| now < due) {
            return Ok(());
        }
        let failure = match self.partial()? {
            // Ends the session: a late rest would be taken for the answer to the next line.
            Some(so_far) => Failure::with_message(
                Exit::Unreachable,
                format!("{so_far} in time; --timeout allows more time"),
            ),
            None => self.peer.timed_out(self.has_answered),
        };
        Err(self.fail(failure))
    }

    /// Explains the end of the server's stream.
    fn closed(&mut self) -> Result<Failure, Failure> {
        let address = self.peer.address;
        let so_far = self.partial()?;
        let text = match (&self.exchange, so_far) {
            (_, Some(so_far)) => format!("{so_far} before it closed the connection"),
            (Some(_), None) if !self.has_answered => return Ok(self.fail(self.peer.rejected())),
            (None, None) if !self.has_answered => {
                return Ok(self.fail(self.peer.closed_first(self.client)));
            }
            (Some(_), None) => format!("{address} closed the connection without an answer"),
            (None, None) => format!("{address} closed the connection"),
        };
        Ok(self.fail(Failure::with_message(Exit::Runtime, text)))
    }

    /// Prints an incomplete answer, and describes it.
    fn partial(&mut self) -> Result<Option<String>, Failure> {
        let Some(exchange) = &mut self.exchange else { return Ok(None) };
        let answer = std::mem::take(&mut exchange.answer);
        if answer.is_empty() {
            return Ok(None);
        }
        let (received, due) = (answer.len(), bytes(exchange.len as u64));
        self.print(&answer)?;
        let address = self.peer.address;
        Ok(Some(format!("received only {received} of {due} of the answer from {address}")))
    }

    /// Makes room for an error message, and adds that the line being typed was not sent.
    fn fail(&mut self, failure: Failure) -> Failure {
        self.leave_row();
        self.terminal.forget();
        match (&self.exchange, self.line.is_empty() && self.keys.is_empty()) {
            (_, true) => failure,
            (None, false) => failure.context("the line above was not sent"),
            (Some(_), false) => failure.context("input typed ahead was not sent"),
        }
    }

    /// Prints an answer; returns false if stdout has no reader any more.
    fn print(&mut self, answer: &[u8]) -> Result<bool, Failure> {
        self.clear_row();
        let shown = if self.output.0.is_terminal() {
            let mut escaper = Escaper::for_line();
            let shown = escaper.push(answer);
            (shown + &escaper.finish() + "\n").into_bytes()
        } else {
            [answer, b"\n"].concat()
        };
        match self.output.write_all(&shown) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error).context("cannot write to stdout").map_err(Failure::from),
        }
    }

    fn handle_request(&mut self, request: Request) -> Result<(), Failure> {
        match request {
            Request::Redraw => {}
            Request::Suspend => {
                self.leave_row();
                self.terminal.leave();
                terminal::suspend();
            }
            Request::End(signal) => {
                self.leave_row();
                self.terminal.leave();
                terminal::end_by(signal);
            }
        }
        // The shell may have changed the terminal while the program was stopped.
        self.terminal.enter().context("cannot use the terminal")?;
        self.is_drawn = false;
        Ok(())
    }

    /// Shows the line being typed, unless an answer is pending.
    fn draw(&mut self) {
        if self.is_drawn || self.exchange.is_some() {
            return;
        }
        self.is_drawn = true;
        if self.terminal.is_cooked() {
            return self.terminal.show(PROMPT);
        }
        let (line, column) = self.line.window(self.terminal.columns());
        self.terminal.show(&format!("\r{line}\x1b[K\r\x1b[{column}C"));
    }

    /// Shows the whole line and goes to the next row.
    fn end_row(&mut self) {
        self.is_drawn = false;
        if !self.terminal.is_cooked() {
            let line = self.line.shown();
            self.terminal.show(&format!("\r{line}\x1b[K\n"));
        }
    }

    /// Moves to a row where something else can be printed.
    fn leave_row(&mut self) {
        match self.exchange {
            Some(_) => self.clear_row(),
            None => self.end_row(),
        }
    }

    /// Erases the prompt or an announcement to make room for an answer.
    fn clear_row(&mut self) {
        self.is_drawn = false;
        if !self.terminal.is_cooked() {
            self.terminal.show("\r\x1b[K");
        }
    }
}

impl Exchange {
    fn unsent(&self) -> &[u8] {
        &self.line[self.sent..]
    }

    /// Next time at which [`Session::check_time`] has something to do.
    fn due(&self, peer: &Peer<'_>) -> Option<Instant> {
        let limit = peer.limit.0.and_then(|limit| self.heard.checked_add(limit));
        let announce = (!self.is_announced).then(|| self.began + SOON);
        limit.into_iter().chain(announce).min()
    }
}

/// The result of poll(2).
struct Ready {
    stream: bool,
    terminal: bool,
    signals: bool,
}

/// Prints a message that is not an answer.
fn print_notice(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr(), "saltecho: {text}");
}
