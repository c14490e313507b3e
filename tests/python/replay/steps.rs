//! The operations of the vocabulary.

use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use saltecho::socket::{
    self, DecodeErrors, ErrorKind, Family, FileOptions, IPPROTO_TCP, MSG_DONTWAIT, MSG_PEEK,
    OptionArg, OptionValue, Result, SO_LINGER, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, Shutdown, Socket,
    SocketType,
};
use serde_json::Value as Json;
use subtle::ConstantTimeEq;

use super::value::{Value, bytes_of};
use super::{Payloads, Pester, World, lock};

/// Linux's number; its first byte is the connection's state.
const TCP_INFO: i32 = 11;

impl World {
    pub(super) fn run(&self, step: &Json, payloads: &Payloads) -> Result<Value> {
        let operation = step["do"].as_str().expect("every step says what to do");
        match operation {
            "socket" | "tcp_pair" | "socketpair" => self.make(operation, step),
            "sleep" | "fill" | "drain" | "recv_exactly" | "recv_to_eof" | "count_to_eof"
            | "read_slowly" | "rst_close" | "interrupts" | "settle" => {
                self.surroundings(operation, step)
            }
            "hmac_md5" | "compare_digest" | "upper" => Ok(self.plain(operation, step)),
            "setdefaulttimeout" => Ok(socket::setdefaulttimeout(secs(&step["secs"]))?.into()),
            "getdefaulttimeout" => Ok(socket::getdefaulttimeout().into()),
            _ if operation.starts_with("f_") => self.file_step(operation, step, payloads),
            "makefile" => self.makefile(step),
            "send" | "sendall" | "send_loop" | "sendto" | "recv" | "recvfrom" => {
                self.transfer(operation, step, payloads)
            }
            "getsockopt" | "setsockopt" => self.option(operation, step),
            _ => self.socket_step(operation, step),
        }
    }

    fn make(&self, operation: &str, step: &Json) -> Result<Value> {
        match operation {
            "socket" => {
                let kind = match text(step, "kind") {
                    "tcp" => SocketType::Stream,
                    "udp" => SocketType::Datagram,
                    other => panic!("no such kind of socket: {other}"),
                };
                self.add_socket(text(step, "as"), Socket::new(Family::Inet, kind)?);
            }
            "socketpair" => {
                let (a, b) = socket::socketpair()?;
                self.add_socket(text(step, "a"), a);
                self.add_socket(text(step, "b"), b);
            }
            _ => {
                let (a, b) = tcp_pair(step)?;
                for (name, socket) in [(text(step, "a"), a), (text(step, "b"), b)] {
                    self.add_socket(name, socket);
                    self.note_port(name);
                }
            }
        }
        Ok(Value::Null)
    }

    fn socket_step(&self, operation: &str, step: &Json) -> Result<Value> {
        let name = text(step, "on");
        let socket = self.socket(name);
        Ok(match operation {
            "bind" => {
                let (host, port) = self.address(&step["addr"]);
                let result = socket.bind((host, port));
                self.note_port(name);
                result?.into()
            }
            "listen" => {
                let backlog = step["backlog"].as_i64();
                let result = socket.listen(backlog.map(|n| i32::try_from(n).expect("small")));
                self.note_port(name);
                result?.into()
            }
            "accept" => {
                let (accepted, peer) = socket.accept()?;
                self.add_socket(text(step, "as"), accepted);
                self.note_port(text(step, "as"));
                Value::List(vec![Value::Socket(text(step, "as").to_owned()), peer.into()])
            }
            "connect" => {
                let (host, port) = self.address(&step["addr"]);
                let result = socket.connect((host, port));
                self.note_port(name);
                result?.into()
            }
            "connect_ex" => {
                let (host, port) = self.address(&step["addr"]);
                let result = socket.connect_ex((host, port));
                self.note_port(name);
                result?.into()
            }
            "getpeername" => socket.getpeername()?.into(),
            "getsockname" => {
                // A send binds an unbound socket to a port.
                self.note_port(name);
                socket.getsockname()?.into()
            }
            "setblocking" => socket.setblocking(step["flag"].as_bool().expect("a flag"))?.into(),
            "settimeout" => socket.settimeout(secs(&step["secs"]))?.into(),
            "gettimeout" => socket.gettimeout().into(),
            "getblocking" => socket.getblocking().into(),
            "fileno" => socket.fileno().into(),
            "shutdown" => {
                let how = match text(step, "how") {
                    "rd" => Shutdown::Read,
                    "wr" => Shutdown::Write,
                    "rdwr" => Shutdown::Both,
                    other => panic!("no such half: {other}"),
                };
                socket.shutdown(how)?.into()
            }
            "close" => {
                socket.close();
                Value::Null
            }
            other => panic!("no such operation: {other}"),
        })
    }

    fn transfer(&self, operation: &str, step: &Json, payloads: &Payloads) -> Result<Value> {
        let name = text(step, "on");
        let socket = self.socket(name);
        let flags = flags(step);
        let n = || isize::try_from(step["n"].as_i64().expect("a size")).expect("a small size");
        match operation {
            "recv" => return Ok(socket.recv_with_flags(n(), flags)?.into()),
            "recvfrom" => {
                let (data, from) = socket.recvfrom_with_flags(n(), flags)?;
                return Ok(Value::List(vec![data.into(), from.map_or(Value::Null, Into::into)]));
            }
            _ => {}
        }
        let built;
        let data = match (step["data"]["pattern"].as_u64(), step["data"]["len"].as_u64()) {
            (Some(seed), Some(len)) => &payloads.0[&(seed, len)],
            _ => {
                built = bytes_of(&step["data"], self);
                &built
            }
        };
        Ok(match operation {
            "send" => socket.send_with_flags(data, flags)?.into(),
            "sendall" => socket.sendall_with_flags(data, flags)?.into(),
            "send_loop" => {
                let (mut rest, mut calls) = (data.as_slice(), 0usize);
                while !rest.is_empty() {
                    rest = &rest[socket.send(rest)?..];
                    calls += 1;
                }
                calls.into()
            }
            _ => {
                let (host, port) = self.address(&step["addr"]);
                let result = match step.get("flags") {
                    Some(_) => socket.sendto_with_flags(data, flags, (host, port)),
                    None => socket.sendto(data, (host, port)),
                };
                self.note_port(name);
                result?.into()
            }
        })
    }

    fn option(&self, operation: &str, step: &Json) -> Result<Value> {
        let socket = self.socket(text(step, "on"));
        let (level, option) = (number(&step["level"]), number(&step["opt"]));
        if operation == "getsockopt" {
            return Ok(match step.get("buflen") {
                None => socket.getsockopt(level, option)?.into(),
                Some(buflen) => socket.getsockopt_len(level, option, number(buflen))?.into(),
            });
        }
        let value = &step["value"];
        let bytes;
        let argument = if let Some(n) = value.get("int") {
            OptionArg::Int(number(n))
        } else if let Some(length) = value.get("none") {
            OptionArg::Null(number(length).unsigned_abs())
        } else {
            bytes = bytes_of(value, self);
            OptionArg::Bytes(&bytes)
        };
        Ok(socket.setsockopt(level, option, argument)?.into())
    }

    fn makefile(&self, step: &Json) -> Result<Value> {
        let options = FileOptions {
            buffering: step["buffering"].as_i64(),
            encoding: step["encoding"].as_str(),
            errors: match step["errors"].as_str() {
                None | Some("strict") => DecodeErrors::Strict,
                Some("replace") => DecodeErrors::Replace,
                Some("ignore") => DecodeErrors::Ignore,
                Some(other) => panic!("no such error handler: {other}"),
            },
            newline: step["newline"].as_str(),
        };
        let name = text(step, "as");
        let file = self.socket(text(step, "on")).makefile(text(step, "mode"), options)?;
        let earlier = lock(&self.files).insert(name.to_owned(), file);
        assert!(earlier.is_none(), "the name {name} is made twice");
        Ok(Value::File(name.to_owned()))
    }

    fn file_step(&self, operation: &str, step: &Json, payloads: &Payloads) -> Result<Value> {
        let n = step["n"].as_u64().map(|n| usize::try_from(n).expect("a small size"));
        self.with_file(text(step, "on"), |file| {
            Ok(match operation {
                "f_read" => file.read(n)?.map_or(Value::Null, Into::into),
                "f_read1" => file.read1(n)?.into(),
                "f_readinto" => {
                    let mut buffer = vec![0; n.expect("readinto has a size")];
                    match file.readinto(&mut buffer)? {
                        None => Value::Null,
                        Some(count) => buffer[..count].to_vec().into(),
                    }
                }
                "f_peek" => file.peek()?.into(),
                "f_readline" => file.readline(n)?.into(),
                "f_readlines" => {
                    Value::List(file.readlines()?.into_iter().map(Into::into).collect())
                }
                "f_write" => {
                    let written = match step["data"]["text"].as_str() {
                        Some(text) => file.write(text)?,
                        None => match step["data"]["pattern"].as_u64() {
                            Some(seed) => {
                                let len = step["data"]["len"].as_u64().expect("a length");
                                file.write(payloads.0[&(seed, len)].as_slice())?
                            }
                            None => file.write(bytes_of(&step["data"], self).as_slice())?,
                        },
                    };
                    written.map_or(Value::Null, Into::into)
                }
                "f_flush" => file.flush()?.into(),
                "f_close" => file.close()?.into(),
                "f_closed" => file.closed().into(),
                "f_readable" => file.readable()?.into(),
                "f_writable" => file.writable()?.into(),
                "f_seekable" => file.seekable()?.into(),
                "f_fileno" => file.fileno()?.into(),
                "f_mode" => Value::Text(file.mode().expect("asked of raw and text files").into()),
                other => panic!("no such operation: {other}"),
            })
        })
    }

    fn surroundings(&self, operation: &str, step: &Json) -> Result<Value> {
        match operation {
            "sleep" => {
                std::thread::sleep(duration(&step["secs"]));
                return Ok(Value::Null);
            }
            "interrupts" => {
                let millis = |key: &str| Duration::from_millis(step[key].as_u64().expect("ms"));
                let pester = Pester::this_thread(millis("every_ms"), millis("for_ms"));
                *lock(&self.pester) = Some(pester);
                return Ok(Value::Null);
            }
            _ => {}
        }
        let socket = self.socket(text(step, "on"));
        let n = || usize::try_from(step["n"].as_u64().expect("a size")).expect("a small size");
        Ok(match operation {
            "rst_close" => {
                socket.setsockopt(SOL_SOCKET, SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0])?;
                socket.close();
                Value::Null
            }
            "fill" => until_six_refusals(&socket, || socket.send(&[0; 65536]))?.into(),
            "drain" => until_six_refusals(&socket, || Ok(socket.recv(65536)?.len()))?.into(),
            "recv_exactly" => {
                let (mut data, n) = (Vec::new(), n());
                while data.len() < n {
                    let got = socket.recv((n - data.len()).min(65536).cast_signed())?;
                    if got.is_empty() {
                        break;
                    }
                    data.extend(got);
                }
                data.into()
            }
            "recv_to_eof" => recv_to_eof(&socket)?.into(),
            "count_to_eof" => recv_to_eof(&socket)?.len().into(),
            "settle" => settle(&socket, step)?.into(),
            _ => {
                let chunk = isize::try_from(step["chunk"].as_u64().expect("a size"));
                let (end, mut total) = (Instant::now() + duration(&step["secs"]), 0);
                while Instant::now() < end {
                    std::thread::sleep(duration(&step["pause"]));
                    let got = socket.recv(chunk.expect("a small size"))?.len();
                    if got == 0 {
                        break;
                    }
                    total += got;
                }
                total.into()
            }
        })
    }

    fn plain(&self, operation: &str, step: &Json) -> Value {
        match operation {
            "hmac_md5" => {
                let mut mac = Hmac::<md5::Md5>::new_from_slice(&bytes_of(&step["key"], self))
                    .expect("a key of any length");
                mac.update(&bytes_of(&step["data"], self));
                mac.finalize().into_bytes().to_vec().into()
            }
            "compare_digest" => {
                let (a, b) = (bytes_of(&step["a"], self), bytes_of(&step["b"], self));
                bool::from(a.ct_eq(&b)).into()
            }
            _ => {
                let mut data = bytes_of(&step["data"], self);
                saltecho::python::upper(&mut data);
                data.into()
            }
        }
    }

    fn address<'a>(&self, spec: &'a Json) -> (&'a str, i32) {
        let host = spec[0].as_str().expect("a host");
        match spec[1].as_str().and_then(|port| port.strip_prefix("port:")) {
            Some(name) => (host, self.port_of(name).expect("a port that is known").into()),
            None => (host, number(&spec[1])),
        }
    }
}

/// Listen on 127.0.0.1 port 0, connect `a`, accept `b`, close the listener.
fn tcp_pair(step: &Json) -> Result<(Socket, Socket)> {
    let listener = Socket::new(Family::Inet, SocketType::Stream)?;
    let a = Socket::new(Family::Inet, SocketType::Stream)?;
    if let Some(size) = step.get("rcvbuf") {
        listener.setsockopt(SOL_SOCKET, SO_RCVBUF, number(size))?;
    }
    if let Some(size) = step.get("sndbuf") {
        a.setsockopt(SOL_SOCKET, SO_SNDBUF, number(size))?;
    }
    listener.settimeout(None)?;
    listener.bind(("127.0.0.1", 0))?;
    listener.listen(Some(1))?;
    let mode = a.gettimeout();
    a.settimeout(None)?;
    a.connect(listener.getsockname()?)?;
    a.settimeout(mode)?;
    let (b, _) = listener.accept()?;
    Ok((a, b))
}

/// Repeats a call on a non-blocking socket, 50 ms after each refusal, until six in a row or a
/// result of zero; the 300 ms outlast delayed acknowledgements and the first window probe.
fn until_six_refusals(socket: &Socket, mut call: impl FnMut() -> Result<usize>) -> Result<usize> {
    assert_eq!(socket.gettimeout(), Some(0.0), "fill and drain need a non-blocking socket");
    let (mut total, mut refusals) = (0, 0);
    while refusals < 6 {
        match call() {
            Ok(0) => break,
            Ok(count) => (total, refusals) = (total + count, 0),
            Err(error) if error.kind() == ErrorKind::BlockingIOError => {
                refusals += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

fn recv_to_eof(socket: &Socket) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let got = socket.recv(262_144)?;
        if got.is_empty() {
            return Ok(data);
        }
        data.extend(got);
    }
}

/// Waits until a peer's act has arrived: `peek` bytes to receive, or a TCP `state`.
///
/// Unlike a sleep this is neither longer than needed nor too short on a busy machine. It changes
/// nothing: peeking leaves the bytes, and TCP_INFO does not clear a pending error.
fn settle(socket: &Socket, step: &Json) -> Result<()> {
    let arrived = || -> Result<bool> {
        match step["peek"].as_u64() {
            Some(n) => {
                let n = isize::try_from(n).expect("a small size");
                let seen = socket.recv_with_flags(n, MSG_PEEK | MSG_DONTWAIT);
                Ok(seen.is_ok_and(|seen| seen.len().cast_signed() == n))
            }
            None => {
                let info = socket.getsockopt_len(IPPROTO_TCP, TCP_INFO, 1)?;
                Ok(matches!(info, OptionValue::Bytes(info) if step["state"] == info[0]))
            }
        }
    };
    let until = Instant::now() + Duration::from_secs(5);
    while !arrived()? && Instant::now() < until {
        std::thread::yield_now();
    }
    Ok(())
}

fn flags(step: &Json) -> i32 {
    let names = step["flags"].as_array().map(Vec::as_slice).unwrap_or_default();
    names.iter().fold(0, |flags, name| {
        flags
            | match name.as_str() {
                Some("PEEK") => 2,
                Some("TRUNC") => 0x20,
                Some("DONTWAIT") => 0x40,
                Some("WAITALL") => 0x100,
                Some("NOSIGNAL") => 0x4000,
                Some("MORE") => 0x8000,
                other => panic!("no such flag: {other:?}"),
            }
    })
}

/// A number, or the Linux number behind one of the scenarios' names.
fn number(spec: &Json) -> i32 {
    match spec.as_str() {
        None => i32::try_from(spec.as_i64().expect("a number")).expect("a small number"),
        Some("SOL_SOCKET" | "TCP_NODELAY") => 1,
        Some("IPPROTO_IP") => 0,
        Some("IPPROTO_TCP" | "SO_BROADCAST") => 6,
        Some("SO_REUSEADDR" | "IP_TTL") => 2,
        Some("SO_TYPE") => 3,
        Some("SO_ERROR") => 4,
        Some("SO_SNDBUF") => 7,
        Some("SO_RCVBUF") => 8,
        Some("SO_KEEPALIVE") => 9,
        Some("SO_LINGER") => 13,
        Some("SO_RCVTIMEO") => 20,
        Some("SO_ACCEPTCONN") => 30,
        Some("SO_PROTOCOL") => 38,
        Some("SO_DOMAIN") => 39,
        Some(other) => panic!("no such constant: {other}"),
    }
}

fn secs(spec: &Json) -> Option<f64> {
    match spec.as_str() {
        Some(word) => Some(word.parse().expect("nan, inf or -inf")),
        None => spec.as_f64(),
    }
}

fn duration(spec: &Json) -> Duration {
    Duration::from_secs_f64(spec.as_f64().expect("seconds"))
}

fn text<'a>(step: &'a Json, key: &str) -> &'a str {
    step[key].as_str().unwrap_or_else(|| panic!("the step {step} has no {key}"))
}
