//! A driver of an HTTP exchange, and a strict reader of its answers.
#![allow(dead_code)] // The fuzz harness uses a part of it.
#![allow(unreachable_pub)] // Public towards the test that includes it.

use saltecho::proto::http::{
    Body, Exchange, Method, Progress, Request, Response, SLICE, Status, Wants,
};
use saltecho::python::Monotonic;

/// Numbered rows; each turn visits at most a hundred.
pub struct Rows {
    next: usize,
    end: usize,
    /// Only every `step`th row is part of the content.
    step: usize,
}

impl Rows {
    pub fn text(&self) -> String {
        (0..self.end).step_by(self.step).map(|row| format!("row {row}\n")).collect()
    }
}

impl Body for Rows {
    fn fill(&mut self, out: &mut Vec<u8>, max: usize) -> Progress {
        let (begin, mut looked_at) = (out.len(), 0);
        while self.next < self.end {
            if out.len() - begin >= max || looked_at == 100 {
                return Progress::More;
            }
            if self.next.is_multiple_of(self.step) {
                out.extend_from_slice(format!("row {}\n", self.next).as_bytes());
            }
            self.next += 1;
            looked_at += 1;
        }
        Progress::Done
    }
}

/// The rows that a query selects.
pub fn rows(query: Option<&str>) -> Rows {
    let mut numbers = query.unwrap_or("3").split('/').map_while(|text| text.parse().ok());
    let end = numbers.next().unwrap_or(3).min(2_000_000);
    Rows { next: 0, end, step: numbers.next().unwrap_or(1).max(1) }
}

pub fn route(request: &Request<'_>) -> Response {
    match (request.method, request.path) {
        (Method::Post, "/do") => Response::text(Status::Accepted, ""),
        (Method::Post, _) => Response::method_not_allowed("GET, HEAD"),
        (_, "/text") => Response::text(Status::Ok, format!("{:?}\n", request.query)),
        (_, "/accept") => Response::text(Status::Ok, format!("{:?}\n", request.accept)),
        (_, "/host") => Response::text(Status::Ok, format!("{:?}\n", request.host)),
        (_, "/rows") => Response::streamed("text/plain"),
        (_, "/readyz") => Response::text(Status::ServiceUnavailable, "draining\n"),
        _ => Response::text(Status::NotFound, "no such page\n"),
    }
}

/// An exchange with its driver and its peer, which sends `input` and then ends its stream.
pub struct World {
    pub exchange: Exchange,
    pub now: Monotonic,
    pub sent: Vec<u8>,
    /// The methods of the requests that were answered.
    pub methods: Vec<Method>,
    /// Maximum number of bytes offered to the kernel at once.
    pub longest_chunk: usize,
    rows: Rows,
}

impl World {
    pub fn new() -> Self {
        Self {
            exchange: Exchange::new(Monotonic::ZERO),
            now: Monotonic::ZERO,
            sent: Vec::new(),
            methods: Vec::new(),
            longest_chunk: 0,
            rows: rows(None),
        }
    }

    /// Runs until the exchange has ended. The input comes in pieces of these lengths, and the kernel
    /// takes `room` bytes at once; 0 means all.
    pub fn run(&mut self, mut input: &[u8], mut piece: impl FnMut() -> usize, room: usize) {
        while !self.exchange.is_closed() {
            match self.exchange.wants() {
                Wants::Recv { .. } if input.is_empty() => self.exchange.handle_eof(),
                Wants::Recv { limit } => {
                    assert!(limit > 0);
                    let most = input.len().min(limit);
                    let len = match piece() {
                        0 => most,
                        len => len.min(most),
                    };
                    self.exchange.handle_recv(&input[..len], self.now);
                    input = &input[len..];
                }
                _ => self.act(room),
            }
        }
    }

    /// Makes the call that is wanted, unless it is a `recv`.
    pub fn act(&mut self, room: usize) {
        match self.exchange.wants() {
            Wants::Recv { .. } | Wants::Nothing => {}
            Wants::Answer => {
                let request = self.exchange.request().expect("there is one");
                self.methods.push(request.method);
                self.rows = rows(request.query);
                let response = route(&request);
                self.exchange.respond(response, self.now);
            }
            Wants::Slice => {
                self.exchange.fill(&mut self.rows, self.now);
                assert!(self.exchange.chunk().len() <= SLICE + 100, "a slice is a slice");
            }
            Wants::Send => {
                let chunk = self.exchange.chunk();
                assert!(!chunk.is_empty());
                self.longest_chunk = self.longest_chunk.max(chunk.len());
                let n = if room == 0 { chunk.len() } else { room.min(chunk.len()) };
                self.sent.extend_from_slice(&chunk[..n]);
                self.exchange.handle_sent(n, self.now);
            }
            Wants::Shutdown => self.exchange.handle_shutdown(self.now),
        }
    }

    /// The answers, parsed as a client would.
    pub fn answers(&self) -> Vec<Answer> {
        read_answers(&self.sent, &self.methods)
    }
}

/// The result of sending this input in one piece.
pub fn served(input: &[u8]) -> World {
    let mut world = World::new();
    world.run(input, || 0, 0);
    world
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub content: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().find(is_it).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.content).unwrap()
    }
}

/// Parses answers strictly by RFC 9112; an answer beyond the last method belongs to a bad request.
pub fn read_answers(mut bytes: &[u8], methods: &[Method]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    while !bytes.is_empty() {
        let end = find(bytes, b"\r\n\r\n").expect("a head ends with an empty line");
        let head = str::from_utf8(&bytes[..end]).unwrap();
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").expect("a status line");
        let status: u16 = status.split(' ').next().unwrap().parse().unwrap();
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_owned(), value.to_owned())
        };
        let headers = lines.map(pair).collect();
        let mut answer = Answer { status, headers, content: Vec::new() };
        let is_head = methods.get(answers.len()) == Some(&Method::Head);
        let length = answer.header("content-length").map(|text| text.parse::<usize>().unwrap());
        match (length, answer.header("transfer-encoding")) {
            _ if is_head => {}
            (Some(length), None) => {
                answer.content = bytes[..length].to_vec();
                bytes = &bytes[length..];
            }
            (None, Some("chunked")) => answer.content = unchunk(&mut bytes),
            (None, None) => {
                assert_eq!(answer.header("connection"), Some("close"));
                answer.content = std::mem::take(&mut bytes).to_vec();
            }
            other => panic!("{other:?} does not say where the content ends"),
        }
        answers.push(answer);
    }
    answers
}

fn unchunk(bytes: &mut &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = find(bytes, b"\r\n").expect("a chunk has a size");
        let size = usize::from_str_radix(str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let chunk = &bytes[end + 2..][..size + 2];
        assert!(chunk.ends_with(b"\r\n"));
        content.extend_from_slice(&chunk[..size]);
        *bytes = &bytes[end + 2 + size + 2..];
        if size == 0 {
            return content;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
