//! The admin endpoint and its clients: probes, lists, kills, and all that is none of these.

use std::collections::BTreeSet;
use std::time::Duration;

use saltecho::proto::http::{Method, SLICE};
use saltecho::random::SplitMix;
use saltecho::sim::{Seen, SimAdminListener, SimClient, SimKernel};

use super::World;
use super::client::Fate;
use super::http_world::{Answer, read_answers};

/// The most that one exchange sends in a turn: a share of two slices, of which the last call may take
/// more than is left.
const MOST_PER_TURN: u64 = 2 * SLICE as u64;

/// The most calls that one exchange makes in a turn. Each takes at least a kibibyte of its share, which
/// it may have twice: at its deadline, or when it is to make room for another.
const MOST_CALLS: u64 = 2 * (2 * SLICE as u64 / 1024);

const REQUESTS: &[(Method, &str)] = &[
    (Method::Get, "/livez"),
    (Method::Get, "/readyz"),
    (Method::Head, "/livez"),
    (Method::Get, "/version"),
    (Method::Get, "/connections"),
    (Method::Get, "/connections?sort=age&limit=3"),
    (Method::Get, "/connections?state=echoing&sort=-sent"),
    (Method::Head, "/connections?sort=idle"),
    (Method::Get, "/connections?limit=none"),
    (Method::Get, "/nowhere"),
    (Method::Post, "/livez"),
    (Method::Post, "/reload"),
    #[cfg(feature = "metrics")]
    (Method::Get, "/metrics"),
];

/// A client of the endpoint.
pub struct AdminClient {
    pub end: SimClient,
    /// What it has yet to send.
    script: Vec<u8>,
    /// The methods of its requests, if all of them are whole and valid.
    methods: Option<Vec<Method>>,
    got: Vec<u8>,
    sent_before: u64,
    calls_before: u64,
    seen: Option<Seen>,
    pub fate: Fate,
}

impl AdminClient {
    /// A client that sends whole requests, or something else. So many of a thousand are valid.
    pub fn draw(
        end: SimClient,
        random: &mut SplitMix,
        kills: &mut BTreeSet<u32>,
        valid: u32,
    ) -> Self {
        let (mut script, mut methods) = (Vec::new(), Vec::new());
        for _ in 0..1 + random.below(3) {
            let (method, path) = match random.below(REQUESTS.len() + 2) {
                index if index < REQUESTS.len() => {
                    (REQUESTS[index].0, REQUESTS[index].1.to_owned())
                }
                _ => {
                    let number = u32::try_from(1 + random.below(15)).unwrap();
                    kills.insert(number);
                    (Method::Post, format!("/connections/{number}/kill"))
                }
            };
            let version = random.below(10).min(1);
            let request = format!(
                "{} {path} HTTP/1.{version}\r\nHost: [::1]:9998\r\nConnection: keep-alive\r\n\r\n",
                format!("{method:?}").to_ascii_uppercase()
            );
            script.extend_from_slice(request.as_bytes());
            methods.push(method);
        }
        let is_whole = random.chance(valid);
        if !is_whole {
            match random.below(3) {
                0 => script.truncate(random.below(script.len())),
                1 => {
                    let index = random.below(script.len());
                    let byte = random.next_u64().to_le_bytes()[0];
                    // A digit could name another connection than the one in `kills`.
                    script[index] = if byte.is_ascii_digit() { b'x' } else { byte };
                }
                _ => script = vec![b'a'; random.below(9000)],
            }
        }
        Self::new(end, script, is_whole.then_some(methods))
    }

    /// A client that asks this.
    pub fn asking(end: SimClient, method: Method, path: &str) -> Self {
        let name = format!("{method:?}").to_ascii_uppercase();
        let script = format!("{name} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        Self::new(end, script.into_bytes(), Some(vec![method]))
    }

    fn new(end: SimClient, script: Vec<u8>, methods: Option<Vec<Method>>) -> Self {
        let (got, seen, fate) = (Vec::new(), None, Fate::Present);
        Self { end, script, methods, got, sent_before: 0, calls_before: 0, seen, fate }
    }

    pub fn send(&mut self, kernel: &mut SimKernel, limit: usize) -> bool {
        if self.fate != Fate::Present {
            return false;
        }
        let piece = &self.script[..limit.min(self.script.len())];
        let n = kernel.client_send(self.end, piece);
        self.script.drain(..n);
        n > 0
    }

    pub fn read(&mut self, kernel: &mut SimKernel, limit: usize) -> bool {
        match kernel.client_recv(self.end, limit) {
            Ok(bytes) => {
                self.got.extend_from_slice(&bytes);
                true
            }
            Err(Seen::Nothing) => false,
            Err(seen) => {
                self.seen = Some(seen);
                false
            }
        }
    }

    /// Checks that it cost the loop no more than its share of a turn. The number of calls, if there
    /// were any.
    pub fn after_turn(&mut self, kernel: &SimKernel) -> Option<u64> {
        let ledger = kernel.ledger(self.end);
        let (sent, calls) = (ledger.sent, ledger.calls - self.calls_before);
        let moved = sent - self.sent_before;
        assert!(moved <= MOST_PER_TURN, "{:?} was sent {moved} bytes in a turn", self.end);
        assert!(calls <= MOST_CALLS, "{:?} took {calls} calls of a turn", self.end);
        (self.sent_before, self.calls_before) = (sent, ledger.calls);
        (calls > 0).then_some(calls)
    }

    /// The answer to its only request, once it is there as a whole.
    pub fn answer(&self) -> Option<Answer> {
        let methods = self.methods.as_ref().expect("it asks something");
        let end = self.got.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let (head, content) = (str::from_utf8(&self.got[..end]).unwrap(), &self.got[end + 4..]);
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let is_whole = match length {
            _ if methods[..] == [Method::Head] => true,
            Some(length) => content.len() >= length.parse().unwrap(),
            None => content.ends_with(b"0\r\n\r\n"),
        };
        is_whole.then(|| read_answers(&self.got, methods).remove(0))
    }

    /// Checks at rest that a client that is still served has its answers, and that they are right.
    pub fn assert_satisfied(&self, kernel: &SimKernel) {
        let (Some(methods), Fate::Present, None) = (&self.methods, self.fate, self.seen) else {
            return;
        };
        if !kernel.is_served(self.end) {
            return;
        }
        assert!(self.script.is_empty(), "{:?} cannot send, and nothing moves any more", self.end);
        let answers = read_answers(&self.got, methods);
        assert_eq!(answers.len(), methods.len(), "{:?} lacks answers", self.end);
        for answer in answers {
            check(&answer);
        }
    }
}

impl World {
    /// Gives the server an admin endpoint.
    pub fn open_admin(&mut self) {
        let handle = self.server.handle();
        self.server.set_admin(SimAdminListener, handle).expect("a simulated one registers");
    }

    /// A client asks the admin endpoint something.
    pub fn ask_admin(&mut self, method: Method, path: &str) -> usize {
        let end = self.server.kernel_mut().connect_admin(1 << 16, 1 << 16, 1 << 16);
        let mut admin = AdminClient::asking(end, method, path);
        admin.send(self.server.kernel_mut(), usize::MAX);
        self.admins.push(admin);
        self.admins.len() - 1
    }

    /// One random act of one random client of the admin endpoint.
    pub(super) fn act_as_admin(&mut self) {
        if self.admins.is_empty() || self.admins.len() < self.most_admins && self.random.chance(300)
        {
            let mut capacity = || 1 + self.random.below(3000);
            let (to_server, to_client, window) = (capacity(), capacity(), capacity());
            let end = self.server.kernel_mut().connect_admin(to_server, to_client, window);
            let admin = AdminClient::draw(
                end,
                &mut self.random,
                &mut self.judge.kills,
                self.valid_requests,
            );
            return self.admins.push(admin);
        }
        let index = self.random.below(self.admins.len());
        let (admin, kernel) = (&mut self.admins[index], self.server.kernel_mut());
        match self.random.below(20) {
            0 if admin.fate == Fate::Present => {
                kernel.client_finish(admin.end);
                admin.fate = Fate::Finished;
            }
            1 if admin.fate != Fate::Gone => {
                kernel.client_reset(admin.end);
                admin.fate = Fate::Gone;
            }
            2..=9 => drop(admin.send(kernel, 1 + self.random.below(300))),
            _ => drop(admin.read(kernel, 1 + self.random.below(300))),
        }
    }

    /// A probe is answered whatever others ask of the endpoint: a request that is never completed
    /// holds a place for seven seconds, and there may be fourteen of them in eight places.
    pub(super) fn check_live(&mut self) {
        // A pause of accepting is over by then.
        self.server.kernel_mut().pass(Duration::from_millis(200));
        self.turn();
        self.run_until_asleep();
        let kernel = self.server.kernel_mut();
        let (queued, open) = (kernel.queued_admin_clients(), kernel.open_admin_streams());
        assert!(queued == 0 || open == 8, "{queued} wait for the endpoint, which serves {open}");
        kernel.set_patience(Duration::from_millis(500));
        let answer = self.admin_answer("/livez");
        assert_eq!((answer.status, answer.text()), (200, "ok\n"));
        let list = self.admin_answer("/connections");
        let rows = list.text().lines().count();
        assert_eq!(rows, self.server.stats().connections, "rows of the list");
    }

    /// The answer to a new client of the endpoint.
    fn admin_answer(&mut self, path: &str) -> Answer {
        let index = self.ask_admin(Method::Get, path);
        let begin = self.server.kernel_mut().last_reading();
        loop {
            self.turn();
            for admin in &mut self.admins {
                while admin.read(self.server.kernel_mut(), usize::MAX) {}
            }
            if let Some(answer) = self.admins[index].answer() {
                return answer;
            }
            let waited = self.server.kernel_mut().last_reading().since(begin);
            assert!(waited < Duration::from_secs(20), "{path} was not answered for {waited:?}");
        }
    }
}

/// Checks what an answer says.
fn check(answer: &Answer) {
    assert!([200, 400, 403, 404, 405, 422, 503].contains(&answer.status), "{answer:?}");
    if answer.header("content-type") == Some("application/x-ndjson") {
        let rows: Vec<&str> = answer.text().lines().collect();
        let ids: BTreeSet<&str> = rows.iter().map(|row| row.split(',').next().unwrap()).collect();
        assert_eq!(ids.len(), rows.len(), "a connection is listed twice: {rows:?}");
        assert!(rows.iter().all(|row| row.starts_with("{\"id\":") && row.ends_with('}')));
    }
}
