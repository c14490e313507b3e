//! A custom service: authenticated, but not an echo.
//!
//! **To learn:** a [`Handler`] answers the bytes of one `recv` of an authenticated connection. Each
//! connection has its own clone, so it may keep state; shared state stands behind an `Arc`. The
//! handler knows no socket: timeouts, partial writes and back-pressure stay in the library, and it can
//! be tested with a slice of bytes.
//!
//! **What goes wrong:** taking the bytes of one `recv` for a message. A line may come in pieces,
//! or three at once, so an incomplete one must be kept, up to a limit, or one peer fills the memory
//! with a line that never ends. And a handler runs in the loop: while it waits, every connection
//! waits.
//!
//! **Step by step:** docs/loop.html#half-close, #close-unread and #hang-up, in a browser. **To
//! practice:** `lab/exercises/05_ends/`, `lab/exercises/11_goodbye/`.
//!
//! **Read next:** `src/proto/handler.rs`, and `src/proto/connection.rs`, which calls it.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use saltecho::auth::{Key, MacAlgorithm};
use saltecho::client::Client;
use saltecho::proto::{Answer, Handler};
use saltecho::server::Server;
use saltecho::socket::{FileOptions, Socket};

/// The longest incomplete line that is kept.
const MAX_LINE: usize = 64;

/// Adds numbers. Each line is a number or `quit`; the answer is the sum of this connection and the
/// sum of all.
#[derive(Clone, Default)]
struct Adder {
    /// The bytes of an incomplete line.
    partial: Vec<u8>,
    own_sum: i64,
    total: Arc<AtomicI64>,
}

impl Handler for Adder {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        self.partial.extend_from_slice(data);
        let mut answer = String::new();
        for line in std::mem::take(&mut self.partial).split_inclusive(|&byte| byte == b'\n') {
            match String::from_utf8_lossy(line).strip_suffix('\n').map(str::trim) {
                Some("quit") => return Answer::Close((answer + "bye\n").into()),
                Some(word) => answer += &self.add(word),
                None => self.partial = line.to_vec(),
            }
        }
        if self.partial.len() > MAX_LINE {
            return Answer::Close((answer + "line too long\n").into());
        }
        if answer.is_empty() { Answer::Nothing } else { Answer::Bytes(answer.into()) }
    }
}

impl Adder {
    fn add(&mut self, word: &str) -> String {
        let Ok(number) = word.parse::<i32>().map(i64::from) else {
            return "not a number\n".to_owned();
        };
        self.own_sum = self.own_sum.wrapping_add(number);
        let before = self.total.fetch_add(number, Ordering::Relaxed);
        format!("{} of {}\n", self.own_sum, before.wrapping_add(number))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().listen("127.0.0.1:0").handler(Adder::default()).spawn()?;
    let connect = || {
        let timeout = Some(Duration::from_secs(5));
        let address = server.addresses()[0];
        Client::connect(address, &Key::demo(), MacAlgorithm::Md5, timeout).map(Client::into_socket)
    };
    let (first, second) = (connect()?, connect()?);
    talk("three lines at once", &first, &[b"1\n2\n30\n"], 3)?;
    talk("one line in pieces", &first, &[b"4", b"0", b"0\n"], 1)?;
    talk("another connection", &second, &[b"5000\n"], 1)?;
    talk("not a number", &second, &[b"five\n"], 1)?;
    talk("quit", &first, &[b"quit\n"], 2)?;
    talk("a line without an end", &second, &[&[b'9'; MAX_LINE + 1]], 2)?;
    // Both have seen the end. While they stay open, the server would wait for them.
    drop((first, second));
    for (reason, count) in server.drain()?.closes() {
        println!("{count} ended: {reason}");
    }
    Ok(())
}

/// Sends these pieces and prints this many lines of the answer; an empty one is the end of the stream.
fn talk(what: &str, socket: &Socket, pieces: &[&[u8]], lines: usize) -> Result<(), Box<dyn Error>> {
    for piece in pieces {
        socket.sendall(piece)?;
    }
    let answers = socket.makefile("r", FileOptions::default())?;
    let mut seen = Vec::new();
    for _ in 0..lines {
        seen.push(answers.readline(Some(100))?.into_text().unwrap_or_default());
    }
    println!("{what}: {seen:?}");
    Ok(())
}
