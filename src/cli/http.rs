//! A client of the admin endpoint: one request over HTTP/1.1 on a connection of its own.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use saltecho::python::Timeout;
use saltecho::socket::{Address, Error, ErrorKind, Family, Socket, SocketType, create_connection};

use super::address::AdminTarget;
use super::failure::{Exit, Failure};
use super::values::Limit;

/// The most bytes of an answer's head, and of a line within its content.
const MAX_LINE: u64 = 16 << 10;

/// An answer, whose content is read as it arrives.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content: Content,
}

/// The content of an answer.
pub(super) struct Content {
    stream: BufReader<Stream>,
    framing: Framing,
}

/// The mark of the end of the content.
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes of the present chunk are left; more chunks follow until an empty one.
    Chunks(u64),
    Ended,
}

/// A socket as a reader.
struct Stream(Socket);

/// Sends a request and reads the head of its answer. Each wait takes at most `timeout`.
pub(super) fn ask(
    target: &AdminTarget,
    method: &str,
    path: &str,
    timeout: Option<Duration>,
) -> Result<Answer, Failure> {
    let socket = connect(target, timeout).map_err(|error| unreachable(target, &error))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // An answer may be there even if the request could not be sent as a whole.
    let _ = socket.sendall(head.as_bytes());
    let mut stream = BufReader::new(Stream(socket));
    read_head(&mut stream)
        .map(|(status, framing)| Answer { status, content: Content { stream, framing } })
        .map_err(|error| no_answer(target, timeout, &error))
}

fn connect(target: &AdminTarget, timeout: Option<Duration>) -> Result<Socket, Error> {
    match target {
        AdminTarget::Tcp(address) => {
            let timeout = timeout.map_or(Timeout::Blocking, Timeout::after);
            create_connection((address.host.as_str(), address.port), Some(timeout), None)
        }
        AdminTarget::Unix(path) => {
            let socket = Socket::new(Family::Unix, SocketType::Stream)?;
            socket.settimeout(timeout.map(|timeout| timeout.as_secs_f64()))?;
            socket.connect(Address::Unix(path.as_os_str().as_bytes().to_vec()))?;
            Ok(socket)
        }
    }
}

fn unreachable(target: &AdminTarget, error: &Error) -> Failure {
    let remedy = match error.kind() {
        ErrorKind::PermissionError => {
            "a socket is open to the user that runs its server: ask as that user, or as root"
        }
        _ => "`saltecho serve --admin` opens one, and --admin or SALTECHO_ADMIN names it",
    };
    let text =
        format!("cannot connect to the admin endpoint {target}: {}; {remedy}", error.message());
    Failure::with_message(Exit::Unreachable, text)
}

/// The failure to get the head of an answer.
fn no_answer(target: &AdminTarget, timeout: Option<Duration>, error: &anyhow::Error) -> Failure {
    let kind = error.downcast_ref().map(io::Error::kind);
    let text = match kind {
        Some(io::ErrorKind::TimedOut) => {
            format!("no answer from {target} within {}", Limit(timeout))
        }
        Some(_) => format!("no answer from {target}: {error:#}"),
        None => format!("{target} is not an admin endpoint of saltecho: {error:#}"),
    };
    Failure::with_message(Exit::Unreachable, text)
}

/// Reads the head of an answer.
///
/// # Errors
/// An [`io::Error`] of the socket; every other tells that the peer does not speak as an endpoint does.
fn read_head(stream: &mut BufReader<Stream>) -> Result<(u16, Framing)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let left = MAX_LINE.saturating_sub(head.len() as u64);
        let n = stream.by_ref().take(left).read_until(b'\n', &mut head)?;
        ensure!(n > 0, "it does not answer in HTTP");
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(|error| anyhow!("it does not answer in HTTP: {error}"))?;
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| str::from_utf8(header.value).ok())
    };
    let framing = match (header("content-length"), header("transfer-encoding")) {
        (Some(length), None) => Framing::Length(length.parse()?),
        (None, Some("chunked")) => Framing::Chunks(0),
        _ => return Err(anyhow!("its answer has no length")),
    };
    Ok((response.code.unwrap_or(0), framing))
}

impl Content {
    /// All of it as text.
    pub(super) fn text(self) -> Result<String> {
        let mut text = String::new();
        BufReader::new(self).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Begins the next chunk; false at the end.
    fn next_chunk(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        self.stream.by_ref().take(MAX_LINE).read_line(&mut line)?;
        if line == "\r\n" {
            // The end of the chunk before.
            line.clear();
            self.stream.by_ref().take(MAX_LINE).read_line(&mut line)?;
        }
        match u64::from_str_radix(line.trim_end(), 16) {
            Ok(0) => Ok(false),
            Ok(left) => {
                self.framing = Framing::Chunks(left);
                Ok(true)
            }
            Err(_) => Err(cut_short()),
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunks(0) = self.framing
            && !self.next_chunk()?
        {
            self.framing = Framing::Ended;
        }
        let (Framing::Length(left) | Framing::Chunks(left)) = &mut self.framing else {
            return Ok(0);
        };
        if *left == 0 {
            return Ok(0);
        }
        let n = self.stream.by_ref().take(*left).read(buffer)?;
        if n == 0 && !buffer.is_empty() {
            return Err(cut_short());
        }
        *left -= n as u64;
        Ok(n)
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short")
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.recv_into(buffer)?)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn an_endpoint_that_cannot_be_reached_has_a_remedy() {
        let target = AdminTarget::Unix("/run/saltecho/admin.sock".into());
        for (errno, words) in [
            (Errno::NOENT, "No such file or directory; `saltecho serve --admin` opens one"),
            (Errno::CONNREFUSED, "Connection refused; `saltecho serve --admin` opens one"),
            (Errno::ACCESS, "Permission denied; a socket is open to the user that runs its server"),
        ] {
            let failure = unreachable(&target, &Error::from(errno));
            let text = failure.text();
            assert!(text.contains("unix:/run/saltecho/admin.sock: "), "{text}");
            assert!(text.contains(words), "{text}");
            assert_eq!(failure.exit_code(), 4);
        }
    }
}
