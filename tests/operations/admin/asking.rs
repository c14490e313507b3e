//! A reader of the admin endpoint on raw sockets, independent of the program's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use crate::common::client::PATIENCE;
use crate::http_world::{Answer, read_answers};
use saltecho::proto::http::Method;

/// Connects over TCP.
pub(super) fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the endpoint listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The one answer to a request, after which the endpoint closes.
#[track_caller]
pub(super) fn ask(stream: impl Read + Write, line: &str) -> Answer {
    ask_with(stream, line, "")
}

/// The same with more headers, of which each ends with a line break.
#[track_caller]
pub(super) fn ask_with(mut stream: impl Read + Write, line: &str, headers: &str) -> Answer {
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let method = match line.split(' ').next() {
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        _ => Method::Get,
    };
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    read_answers(&bytes, &[method]).pop().expect("an answer")
}

/// Asks and keeps the connection; the answer has a length.
#[track_caller]
pub(super) fn ask_and_stay(mut stream: impl Read + Write, line: &str) -> String {
    write!(stream, "{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).expect("an answer");
        assert!(n > 0, "the endpoint closed after {:?}", bytes.escape_ascii().to_string());
        bytes.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, content)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.expect("it has a length").parse().unwrap();
        if content.len() == length {
            return text;
        }
    }
}

/// Connects to a Unix socket.
pub(super) fn unix(path: &std::path::Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the endpoint listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
