use std::time::Duration;

use super::request::{Head, MAX_REQUEST, Request};
use super::{Body, Content, Method, Progress, Response, Status};
use crate::python::{Call, Monotonic, Timeout};

/// Time limit for a request, from its first byte to its last, or for the first one from the accept:
/// 5 s. No byte extends it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the next request of a connection: 75 s, nginx's default, and more than the
/// minute that a Prometheus server waits between two scrapes by default.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Time limit for one slice of an answer: 5 s.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for discarding the rest of a refused request before the close: 2 s.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of bytes to discard: 1 MiB.
pub const LINGER_BYTES: usize = 1 << 20;

/// Size of a slice of a streamed answer, in bytes: 16 KiB, some tens of
/// microseconds of formatting.
pub const SLICE: usize = 16 << 10;

/// One connection to the admin endpoint, from the accept to the close. Not a socket: the owner
/// asks what the exchange [`wants`](Self::wants), does that, and reports the outcome.
///
/// ```text
///                   ┌───────────────────────────────────────────────┐
///                   ▼         whole request           respond       │ sent, another may follow
///   accept ──▶ Reading ─────────────────────▶ Asked ────────▶ Answering ◀─┐
///                   │                                           │  │  └───┘ fill, sent
///                   │ bad request, too long, too late           │  │
///                   └──▶ (4xx or 505) ──▶ Answering ────────────┘  │ sent, and it is the last
///                                                                  ▼
///        Closed ◀── end of stream, enough read, too late ── Lingering ◀── Finishing
/// ```
///
/// Pipelined requests wait in the buffer: one is answered at a time, and nothing is read while an
/// answer is unfinished. Inputs for an exchange that is closed change nothing.
#[derive(Debug)]
pub struct Exchange {
    stage: Stage,
    /// Bytes that arrived and are not answered yet; no allocation while the connection is idle.
    input: Vec<u8>,
    /// Bytes to send, and how many of them were.
    output: Vec<u8>,
    sent: usize,
    /// The call in progress, which has the only deadline.
    call: Call,
    /// No further request is served.
    is_last: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    /// The time of the request runs since its first byte, or since the accept; before that the
    /// connection is idle.
    Reading {
        has_begun: bool,
    },
    Asked(Head),
    Answering {
        rest: Rest,
        then_close: bool,
    },
    Finishing,
    Lingering {
        bytes_left: usize,
    },
    Closed {
        cut_short: bool,
    },
}

/// The part of an answer that is not produced yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    Slices { chunked: bool },
}

/// The one thing that an exchange wants next; derived from its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// `recv(limit)`.
    Recv {
        /// The most bytes to receive, at least 1.
        limit: usize,
    },
    /// [`Exchange::respond`] to [`Exchange::request`].
    Answer,
    /// [`Exchange::fill`] with the next slice of the content.
    Slice,
    /// `send` of [`Exchange::chunk`].
    Send,
    /// `shutdown(SHUT_WR)`.
    Shutdown,
    /// Nothing: the socket can be closed.
    Nothing,
}

impl Exchange {
    /// A connection that was accepted at `now`.
    pub fn new(now: Monotonic) -> Self {
        Self {
            stage: Stage::Reading { has_begun: true },
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            call: begin(REQUEST_TIMEOUT, now),
            is_last: false,
        }
    }

    /// The next thing to do.
    pub fn wants(&self) -> Wants {
        match &self.stage {
            Stage::Reading { .. } => Wants::Recv { limit: MAX_REQUEST - self.input.len() },
            Stage::Asked(_) => Wants::Answer,
            Stage::Answering { .. } if self.sent < self.output.len() => Wants::Send,
            Stage::Answering { .. } => Wants::Slice,
            Stage::Finishing => Wants::Shutdown,
            Stage::Lingering { .. } => Wants::Recv { limit: MAX_REQUEST },
            Stage::Closed { .. } => Wants::Nothing,
        }
    }

    /// The request that is to be answered, if one is.
    pub fn request(&self) -> Option<Request<'_>> {
        match &self.stage {
            Stage::Asked(head) => Some(head.request(&self.input)),
            Stage::Reading { .. }
            | Stage::Answering { .. }
            | Stage::Finishing
            | Stage::Lingering { .. }
            | Stage::Closed { .. } => None,
        }
    }

    /// The bytes that the `send` in progress has yet to send.
    pub fn chunk(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Returns whether the answer in progress has slices to come. An answer to HEAD has none.
    pub const fn has_more(&self) -> bool {
        matches!(self.stage, Stage::Answering { rest: Rest::Slices { .. }, .. })
    }

    /// Returns true if the connection waits for the first byte of a request: the one to close
    /// if its place is needed.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Reading { .. }) && self.input.is_empty()
    }

    /// Returns true if the exchange has ended.
    pub const fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed { .. })
    }

    /// Returns true if the last answer was cut short. Then reset the socket: in HTTP/1.0 an
    /// orderly end would pass off a part as the whole.
    pub const fn is_cut_short(&self) -> bool {
        matches!(self.stage, Stage::Closed { cut_short: true })
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, if ever.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match self.wants() {
            Wants::Recv { .. } | Wants::Send => self.call.deadline(),
            Wants::Answer | Wants::Slice | Wants::Shutdown | Wants::Nothing => None,
        }
    }

    /// Takes what one `recv` returned: at least one byte, at most the limit.
    ///
    /// # Panics
    /// If the exchange did not want to receive, or not so much: that is a bug of the caller.
    pub fn handle_recv(&mut self, data: &[u8], now: Monotonic) {
        match &mut self.stage {
            Stage::Reading { has_begun } => {
                assert!(data.len() <= MAX_REQUEST - self.input.len(), "more than the limit");
                if !std::mem::replace(has_begun, true) {
                    self.call = begin(REQUEST_TIMEOUT, now);
                }
                self.input.extend_from_slice(data);
                self.read(now);
            }
            Stage::Lingering { bytes_left } => {
                *bytes_left = bytes_left.saturating_sub(data.len());
                if *bytes_left == 0 {
                    self.end();
                }
            }
            Stage::Closed { .. } => {}
            Stage::Asked(_) | Stage::Answering { .. } | Stage::Finishing => {
                panic!("received while {:?} was wanted", self.wants())
            }
        }
    }

    /// Answers the request. An answer to HEAD has the length of its content and no content.
    ///
    /// # Panics
    /// If there is no request to answer.
    pub fn respond(&mut self, response: Response, now: Monotonic) {
        let Stage::Asked(head) = &self.stage else { panic!("there is no request to answer") };
        let head = head.clone();
        self.input.drain(..head.len);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        let delimits_itself = match response.content {
            Content::Whole(_) => true,
            Content::Streamed => head.knows_chunks,
        };
        let keeps_alive = head.keeps_alive && delimits_itself && !self.is_last;
        self.answer(response, head.method, head.knows_chunks, keeps_alive, now);
    }

    /// Takes the next slice of a streamed answer from `body`.
    ///
    /// # Panics
    /// If none is wanted.
    pub fn fill(&mut self, body: &mut dyn Body, now: Monotonic) {
        assert_eq!(self.wants(), Wants::Slice, "no slice is wanted");
        let Stage::Answering { rest, then_close } = &mut self.stage else { return };
        let Rest::Slices { chunked } = *rest else { return };
        let progress = match chunked {
            true => fill_chunk(&mut self.output, body),
            false => body.fill(&mut self.output, SLICE),
        };
        let then_close = *then_close;
        if progress == Progress::Done {
            *rest = Rest::Nothing;
            if chunked {
                self.output.extend_from_slice(b"0\r\n\r\n");
            } else if self.output.is_empty() {
                return self.answered(then_close, now);
            }
        }
        self.call = begin(SEND_TIMEOUT, now);
    }

    /// The kernel took the first `n` bytes of the chunk.
    pub fn handle_sent(&mut self, n: usize, now: Monotonic) {
        let Stage::Answering { rest, then_close } = &self.stage else { return };
        let (rest, then_close) = (*rest, *then_close);
        self.sent = (self.sent + n).min(self.output.len());
        if self.sent < self.output.len() {
            return;
        }
        self.output.clear();
        self.sent = 0;
        if rest == Rest::Nothing {
            self.answered(then_close, now);
        }
    }

    /// Reports that `shutdown(SHUT_WR)` was called. Its result does not matter: it fails if the peer is
    /// gone, and then the next `recv` fails too.
    pub fn handle_shutdown(&mut self, now: Monotonic) {
        if matches!(self.stage, Stage::Finishing) {
            self.call = begin(LINGER_TIMEOUT, now);
            self.stage = Stage::Lingering { bytes_left: LINGER_BYTES };
        }
    }

    /// The peer has ended its stream. One that has asked before that still gets its answers.
    pub fn handle_eof(&mut self) {
        match self.stage {
            Stage::Reading { .. } | Stage::Lingering { .. } => self.end(),
            Stage::Asked(_) | Stage::Answering { .. } | Stage::Finishing | Stage::Closed { .. } => {
            }
        }
    }

    /// A timer fired. Nothing happens unless the call in progress is late.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        if self.poll_timeout().is_none() || !self.call.is_late(now) {
            return;
        }
        match self.stage {
            Stage::Reading { .. } if !self.input.is_empty() => {
                self.refuse(Status::RequestTimeout, now);
            }
            Stage::Reading { .. } | Stage::Answering { .. } | Stage::Lingering { .. } => self.end(),
            Stage::Asked(_) | Stage::Finishing | Stage::Closed { .. } => {}
        }
    }

    /// Ends the connection in an orderly way: a request that has begun is still answered.
    pub fn close(&mut self) {
        self.is_last = true;
        if self.is_idle() {
            self.stage = Stage::Finishing;
        }
    }

    /// Ends the connection at once: a call failed for good, or its place is needed.
    pub fn abort(&mut self) {
        self.end();
    }

    /// Looks whether the buffer holds a request.
    fn read(&mut self, now: Monotonic) {
        match Head::parse(&self.input) {
            Ok(None) => {}
            Ok(Some(head)) => self.stage = Stage::Asked(head),
            Err(status) => self.refuse(status, now),
        }
    }

    /// Answers a request that cannot be understood, and then closes.
    fn refuse(&mut self, status: Status, now: Monotonic) {
        self.input = Vec::new();
        let response = match status {
            Status::MethodNotAllowed => Response::method_not_allowed("GET, HEAD, POST"),
            status => Response::refusal(status),
        };
        self.answer(response, Method::Get, true, false, now);
    }

    fn answer(
        &mut self,
        response: Response,
        method: Method,
        chunked: bool,
        keeps_alive: bool,
        now: Monotonic,
    ) {
        response.write_head(&mut self.output, chunked, keeps_alive);
        let rest = match (method.has_content(), response.content) {
            (false, _) => Rest::Nothing,
            (true, Content::Streamed) => Rest::Slices { chunked },
            (true, Content::Whole(content)) => {
                self.output.extend_from_slice(&content);
                Rest::Nothing
            }
        };
        self.stage = Stage::Answering { rest, then_close: !keeps_alive };
        self.call = begin(SEND_TIMEOUT, now);
    }

    /// The whole answer has been handed to the kernel.
    fn answered(&mut self, then_close: bool, now: Monotonic) {
        self.output = Vec::new();
        if then_close || self.is_last {
            self.input = Vec::new();
            self.stage = Stage::Finishing;
            return;
        }
        let has_begun = !self.input.is_empty();
        self.stage = Stage::Reading { has_begun };
        self.call = begin(if has_begun { REQUEST_TIMEOUT } else { IDLE_TIMEOUT }, now);
        if has_begun {
            self.read(now);
        }
    }

    /// The only way into `Closed`, and there is none out.
    fn end(&mut self) {
        let cut_short = match self.stage {
            Stage::Answering { .. } => true,
            Stage::Reading { .. }
            | Stage::Asked(_)
            | Stage::Finishing
            | Stage::Lingering { .. } => false,
            Stage::Closed { .. } => return,
        };
        (self.input, self.output, self.sent) = (Vec::new(), Vec::new(), 0);
        self.stage = Stage::Closed { cut_short };
    }
}

fn begin(limit: Duration, now: Monotonic) -> Call {
    Call::begin(Timeout::After(limit), now)
}

/// Appends a slice as a chunk; an empty one would be the end, and is left out.
fn fill_chunk(out: &mut Vec<u8>, body: &mut dyn Body) -> Progress {
    // The size is known afterwards. Its digits may have zeros in front (RFC 9112, section 7.1).
    const SIZE: usize = 8;
    let begin = out.len();
    out.extend_from_slice(b"00000000\r\n");
    let content = out.len();
    let progress = body.fill(out, SLICE);
    let size = out.len() - content;
    if size == 0 {
        out.truncate(begin);
    } else {
        out[begin..begin + SIZE].copy_from_slice(format!("{size:08x}").as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    progress
}
