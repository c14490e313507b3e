use std::io::ErrorKind;
use std::time::Duration;

use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};
use saltecho::proto::proxy::{HeaderError, HeaderReader, Status};
use saltecho::proto::{CloseReason, Config, Connection, State, Upper, Wants};
use saltecho::python::Monotonic;

const CHALLENGE: [u8; 32] = [0xc4; 32];
/// The headers of honest scripts: a client's in both versions, and two without a client.
const HEADERS: [&[u8]; 4] = [
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"PROXY UNKNOWN\r\n",
];
const HEADER: u64 = 400;
const AUTH: u64 = 500;
const RECV: u64 = 700;
const SEND: u64 = 600;
const LINGER: u64 = 300;
const LINGER_BYTES: usize = 64;

/// Reads the input as a script of events and compares the connection after each with a model
/// written the way the protocol is described: one stage after another. The script is run twice, the
/// second time behind a balancer.
pub fn connection_script(script: &[u8]) {
    run(script, None);
    let header = usize::from(script.first().copied().unwrap_or_default()) % HEADERS.len();
    run(script, Some(HEADERS[header]));
}

fn run(script: &[u8], header: Option<&[u8]>) {
    let mut config = Config::new(Keyring::demo());
    let millis = |millis| Some(Duration::from_millis(millis));
    (config.auth_timeout, config.idle_timeout) = (millis(AUTH), millis(RECV));
    config.header_timeout = millis(HEADER);
    (config.send_timeout, config.linger_timeout) = (millis(SEND), millis(LINGER));
    config.linger_bytes = 64;
    let challenge = Challenge::new(CHALLENGE);
    let digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge).as_bytes().to_vec();
    let begin = if header.is_some() { Connection::behind_proxy } else { Connection::new };
    let mut connection = begin(&config, challenge, Upper, Monotonic::ZERO);
    let mut model = Model::new(header.is_some());
    let header = header.unwrap_or_default();
    let mut script = script.iter().copied();
    let mut now = 0;
    while let (Some(act), Some(argument)) = (script.next(), script.next()) {
        let (at, argument) = (Monotonic::from_nanos(now * 1_000_000), usize::from(argument));
        match (act % 8, connection.wants(&config)) {
            // A recv, of the digest if the script is honest and it is incomplete; room for a part.
            (0..=2, Wants::Recv { limit }) => {
                let mut data: Vec<u8> = model.secret_left(header, &digest).to_vec();
                data.extend(script.by_ref().take(argument % 32));
                if act & 8 != 0 {
                    let by = 1.min(data.len());
                    data.rotate_left(by);
                }
                data.truncate((1 + argument).min(limit));
                if data.is_empty() {
                    continue;
                }
                let room = usize::from(act >> 4) * 4;
                let mut buffer = data.clone();
                let reply = connection.handle_recv(&config, &mut buffer, at);
                let sent = room.min(reply.bytes().len());
                let out = reply.bytes()[..sent].to_vec();
                reply.sent(sent);
                assert_eq!(model.recv(&data, room, &digest, now), out);
            }
            (0..=2, Wants::Send) => {
                let n = (argument % 40).min(connection.chunk().len());
                connection.handle_sent(&config, n, at);
                model.sent(n, now);
            }
            (0..=2, Wants::Shutdown) => {
                connection.handle_shutdown(&config, at);
                model.shut_down(now);
            }
            (3, _) => now += argument as u64 * 4,
            (4, _) => {
                connection.handle_timeout(at);
                model.time_out(now);
            }
            (5, _) if argument % 4 == 0 => {
                connection.handle_eof();
                model.end(model.left(CloseReason::HeaderMalformed), CloseReason::PeerFinished);
            }
            (6, _) if argument % 4 == 0 => {
                connection.handle_error(ErrorKind::ConnectionReset);
                model.end(model.left(CloseReason::Reset), CloseReason::Reset);
            }
            (7, _) if argument % 4 == 0 => {
                connection.close(CloseReason::Drained);
                model.drain();
            }
            (7, _) if argument % 4 == 1 => {
                connection.abort(CloseReason::Stopped);
                model.end(CloseReason::Stopped, CloseReason::Stopped);
            }
            _ => {}
        }
        model.compare(&connection, &config);
    }
}

/// The stage of a connection and its data. Times are in milliseconds.
#[derive(Debug)]
enum Stage {
    Header { got: Vec<u8> },
    Challenge { left: usize, early: Vec<u8> },
    Digest { got: Vec<u8> },
    Recv,
    Send { rest: Vec<u8>, drained: bool },
    Finish(CloseReason),
    Linger { reason: CloseReason, bytes_left: usize },
    Over { reason: CloseReason, undelivered: usize },
}

#[derive(Debug)]
struct Model {
    stage: Stage,
    deadline: u64,
    authenticated: bool,
    /// The header names no client.
    is_balancers: bool,
}

impl Model {
    fn new(proxied: bool) -> Self {
        let (stage, deadline) = match proxied {
            true => (Stage::Header { got: Vec::new() }, HEADER),
            false => (Stage::Challenge { left: 32, early: Vec::new() }, AUTH),
        };
        Self { stage, deadline, authenticated: false, is_balancers: false }
    }

    /// The rest of what an honest peer has to send before its input.
    fn secret_left<'a>(&self, header: &'a [u8], digest: &'a [u8]) -> &'a [u8] {
        match &self.stage {
            Stage::Header { got } => header.get(got.len()..).unwrap_or_default(),
            Stage::Digest { got } => &digest[got.len()..],
            _ => &[],
        }
    }

    /// The reason if an unauthenticated peer leaves: this one in the middle of a header, and later
    /// one that says whether it ended its stream.
    fn left(&self, within_header: CloseReason) -> CloseReason {
        match &self.stage {
            Stage::Header { got } if got.is_empty() => CloseReason::HealthCheck,
            Stage::Header { .. } => within_header,
            _ if self.is_balancers => CloseReason::HealthCheck,
            _ if within_header == CloseReason::Reset => CloseReason::Reset,
            _ => CloseReason::AuthAbandoned,
        }
    }

    /// The header is read from all that came so far at once.
    fn recv_header(&mut self, data: &[u8], now: u64) {
        let Stage::Header { got } = &mut self.stage else { return };
        got.extend_from_slice(data);
        match HeaderReader::new().handle_recv(got) {
            Ok(Status::Incomplete) => {}
            Ok(Status::Complete { header, taken }) => {
                self.is_balancers = header.endpoints.is_none();
                self.deadline = now + AUTH;
                self.stage = Stage::Challenge { left: 32, early: got[taken..].to_vec() };
            }
            Err(error) => {
                let reason = match error {
                    HeaderError::Missing => CloseReason::HeaderMissing,
                    HeaderError::Malformed | HeaderError::TooLong => CloseReason::HeaderMalformed,
                };
                self.stage = Stage::Over { reason, undelivered: 0 };
            }
        }
    }

    /// The bytes sent at once.
    fn recv(&mut self, data: &[u8], room: usize, digest: &[u8], now: u64) -> Vec<u8> {
        let mut input = data;
        if let Stage::Header { .. } = self.stage {
            self.recv_header(data, now);
            return Vec::new();
        }
        if let Stage::Digest { got } = &mut self.stage {
            let taken = input.len().min(16 - got.len());
            got.extend_from_slice(&input[..taken]);
            input = &input[taken..];
            if got.len() == 16 {
                if got == digest {
                    self.authenticated = true;
                    (self.stage, self.deadline) = (Stage::Recv, now + RECV);
                } else {
                    self.stage = Stage::Over { reason: CloseReason::Rejected, undelivered: 0 };
                }
            }
        }
        if input.is_empty() {
            return Vec::new();
        }
        match &mut self.stage {
            Stage::Recv => {
                let mut answer = input.to_ascii_uppercase();
                let rest = answer.split_off(room.min(answer.len()));
                if rest.is_empty() {
                    self.deadline = now + RECV;
                } else {
                    self.deadline = now + SEND;
                    self.stage = Stage::Send { rest, drained: false };
                }
                answer
            }
            Stage::Linger { reason, bytes_left } => {
                *bytes_left = bytes_left.saturating_sub(input.len());
                if *bytes_left == 0 {
                    self.stage = Stage::Over { reason: *reason, undelivered: 0 };
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn sent(&mut self, n: usize, now: u64) {
        match &mut self.stage {
            Stage::Challenge { left, early } => {
                *left -= n;
                if *left == 0 && early.len() < 16 {
                    self.stage = Stage::Digest { got: std::mem::take(early) };
                } else if *left == 0 {
                    self.stage = Stage::Over { reason: CloseReason::Rejected, undelivered: 0 };
                }
            }
            Stage::Send { rest, drained } => {
                rest.drain(..n);
                match (rest.is_empty(), *drained) {
                    (false, _) => {}
                    (true, true) => self.stage = Stage::Finish(CloseReason::Drained),
                    (true, false) => (self.stage, self.deadline) = (Stage::Recv, now + RECV),
                }
            }
            stage => panic!("{stage:?} sends nothing"),
        }
    }

    fn shut_down(&mut self, now: u64) {
        let Stage::Finish(reason) = self.stage else { panic!("only its end is left to tell") };
        self.stage = Stage::Linger { reason, bytes_left: LINGER_BYTES };
        self.deadline = now + LINGER;
    }

    fn time_out(&mut self, now: u64) {
        if now < self.deadline {
            return;
        }
        match &self.stage {
            Stage::Header { .. } => {
                self.stage = Stage::Over { reason: CloseReason::HeaderTimeout, undelivered: 0 };
            }
            Stage::Challenge { .. } | Stage::Digest { .. } => {
                self.stage = Stage::Over { reason: CloseReason::AuthTimeout, undelivered: 0 };
            }
            Stage::Recv => self.stage = Stage::Finish(CloseReason::IdleTimeout),
            Stage::Send { rest, .. } => {
                let undelivered = rest.len();
                self.stage = Stage::Over { reason: CloseReason::SendTimeout, undelivered };
            }
            Stage::Linger { reason, .. } => {
                self.stage = Stage::Over { reason: *reason, undelivered: 0 };
            }
            Stage::Finish(_) | Stage::Over { .. } => {}
        }
    }

    /// The peer or the server ends the connection, for one reason before authentication and one
    /// after.
    fn end(&mut self, before: CloseReason, after: CloseReason) {
        let (reason, undelivered) = match &self.stage {
            Stage::Header { .. } | Stage::Challenge { .. } | Stage::Digest { .. } => (before, 0),
            Stage::Recv => (after, 0),
            Stage::Send { rest, .. } => (after, rest.len()),
            Stage::Finish(reason) | Stage::Linger { reason, .. } => (*reason, 0),
            Stage::Over { reason, undelivered } => (*reason, *undelivered),
        };
        self.stage = Stage::Over { reason, undelivered };
    }

    fn drain(&mut self) {
        match &mut self.stage {
            Stage::Header { .. } | Stage::Challenge { .. } | Stage::Digest { .. } => {
                self.stage = Stage::Over { reason: CloseReason::Drained, undelivered: 0 };
            }
            Stage::Recv => self.stage = Stage::Finish(CloseReason::Drained),
            Stage::Send { drained, .. } => *drained = true,
            Stage::Finish(_) | Stage::Linger { .. } | Stage::Over { .. } => {}
        }
    }

    fn compare(&self, connection: &Connection<Upper>, config: &Config) {
        let recv = Wants::Recv { limit: config.recv_size };
        let (state, wants, chunk, timed): (_, _, &[u8], _) = match &self.stage {
            Stage::Header { .. } => (State::AwaitHeader, recv, &[], true),
            Stage::Challenge { left, .. } => {
                (State::AwaitDigest, Wants::Send, &CHALLENGE[32 - left..], true)
            }
            Stage::Digest { .. } => (State::AwaitDigest, recv, &[], true),
            Stage::Recv => (State::Echoing, recv, &[], true),
            Stage::Send { rest, .. } => (State::Echoing, Wants::Send, rest, true),
            Stage::Finish(_) => (State::Finishing, Wants::Shutdown, &[], false),
            Stage::Linger { .. } => (State::Lingering, recv, &[], true),
            Stage::Over { reason, .. } => (State::Closed(*reason), Wants::Nothing, &[], false),
        };
        let deadline = timed.then(|| Monotonic::from_nanos(self.deadline * 1_000_000));
        let undelivered =
            if let Stage::Over { undelivered, .. } = self.stage { undelivered } else { 0 };
        assert_eq!(connection.state(), state, "{self:?}");
        assert_eq!(connection.wants(config), wants, "{self:?}");
        assert_eq!(connection.chunk(), chunk, "{self:?}");
        assert_eq!(connection.poll_timeout(), deadline, "{self:?}");
        assert_eq!(connection.undelivered(), undelivered, "{self:?}");
        assert_eq!(connection.has_authenticated(), self.authenticated, "{self:?}");
    }
}
