//! A simulated client: what it sent, what it may expect, and what it received.

use saltecho::auth::{Challenge, Key, MacAlgorithm};
use saltecho::python::Monotonic;
use saltecho::random::SplitMix;
use saltecho::sim::{Ledger, Seen, SimClient, SimKernel};

use super::header::Header;
use super::steps::receive;

/// A client and its state.
pub struct Client {
    pub end: SimClient,
    pub challenge: Vec<u8>,
    pub honest: bool,
    /// What a balancer sends before.
    pub header: Option<Header>,
    /// The unsent rest of the digest, which goes before its input.
    pub digest: Vec<u8>,
    pub digest_is_right: bool,
    /// Input sent after the digest, as the server's kernel accepted it.
    pub sent: Vec<u8>,
    /// The received answers.
    pub got: Vec<u8>,
    /// The pushed messages that the server accepted, and when it accepted the last. They consist of
    /// lower-case letters, which no answer has: `b`, any number of `c`, `d`.
    pub pushed: Vec<u8>,
    pub pushed_at: Option<Monotonic>,
    /// The received messages.
    pub messages: Vec<u8>,
    pub input_left: usize,
    /// Bytes that one `recv` gets if as many were sent: limited by the buffers, and by an urgent mark.
    pub at_once: u64,
    pub fate: Fate,
    pub seen: Option<Seen>,
}

/// The state of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Present,
    Finished,
    Gone,
    /// Silently: only a probe detects it.
    Vanished,
}

impl Client {
    pub fn new(end: SimClient, honest: bool, input_left: usize) -> Self {
        Self {
            end,
            challenge: Vec::new(),
            honest,
            header: None,
            digest: Vec::new(),
            digest_is_right: false,
            sent: Vec::new(),
            got: Vec::new(),
            pushed: Vec::new(),
            pushed_at: None,
            messages: Vec::new(),
            input_left,
            at_once: u64::MAX,
            fate: Fate::Present,
            seen: None,
        }
    }

    /// Bytes that the server has received from it, without a balancer's header.
    pub fn received(&self, ledger: &Ledger) -> u64 {
        self.header.as_ref().map_or(ledger.received, |header| header.received_behind(ledger))
    }

    /// Returns true while a header has to come first and has not wholly been received.
    pub fn awaits_header(&self, ledger: &Ledger) -> bool {
        self.header.as_ref().is_some_and(|header| !header.is_complete(ledger))
    }

    /// Sends pending data: a header, the digest once the challenge is there, then input.
    pub fn send(&mut self, kernel: &mut SimKernel, random: &mut SplitMix, limit: usize) -> bool {
        if let Some(Header { unsent, .. }) = &mut self.header
            && !unsent.is_empty()
            && self.fate == Fate::Present
        {
            let n = kernel.client_send(self.end, &unsent[..limit.min(unsent.len())]);
            unsent.drain(..n);
            return n > 0;
        }
        if self.fate != Fate::Present || self.challenge.len() < Challenge::LEN {
            return false;
        }
        if !self.digest.is_empty() {
            let n = kernel.client_send(self.end, &self.digest[..limit.min(self.digest.len())]);
            self.digest.drain(..n);
            return n > 0;
        }
        let mut bytes = vec![0; limit.min(self.input_left)];
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&random.next_u64().to_le_bytes()[..word.len()]);
        }
        let n = kernel.client_send(self.end, &bytes);
        self.input_left -= n;
        self.sent.extend_from_slice(&bytes[..n]);
        n > 0
    }

    /// Sends as much as it may (`input_left`), starting with its digest. A dishonest client sends a
    /// wrong last byte.
    pub fn send_allowed(&mut self, kernel: &mut SimKernel, random: &mut SplitMix) -> bool {
        if self.input_left == 0 {
            return false;
        }
        if self.digest.is_empty() {
            return self.send(kernel, random, usize::MAX);
        }
        if !self.honest && self.digest_is_right {
            self.digest_is_right = false;
            *self.digest.last_mut().expect("it is not empty") ^= 1;
        }
        let before = self.digest.len();
        let sent = self.send(kernel, random, self.input_left);
        self.input_left -= before - self.digest.len();
        sent
    }

    /// Reads, and checks the data against what may arrive.
    pub fn read(&mut self, kernel: &mut SimKernel, limit: usize) -> bool {
        if self.fate == Fate::Vanished {
            return false;
        }
        let Some(bytes) = receive(kernel, self.end, limit, &mut self.seen) else { return false };
        let challenge = bytes.len().min(Challenge::LEN - self.challenge.len());
        self.challenge.extend_from_slice(&bytes[..challenge]);
        let before = self.got.len();
        for &byte in &bytes[challenge..] {
            if byte.is_ascii_lowercase() {
                self.messages.push(byte);
            } else {
                let whole = matches!(self.messages.last(), None | Some(b'd'));
                assert!(whole, "{:?}: an answer inside of a message", self.end);
                self.got.push(byte);
            }
        }
        assert!(self.pushed.starts_with(&self.messages), "{:?} got other messages", self.end);
        if challenge > 0 && self.challenge.len() == Challenge::LEN {
            let challenge = Challenge::new(self.challenge[..].try_into().unwrap());
            self.digest = MacAlgorithm::Md5.digest(&Key::demo(), &challenge).as_bytes().to_vec();
            self.digest_is_right = self.honest;
            self.digest[7] ^= u8::from(!self.honest);
        }
        let nothing = self.got.is_empty() && self.messages.is_empty();
        assert!(self.honest || nothing, "an answer to a wrong digest");
        let expected = self.sent.get(before..self.got.len()).map(<[u8]>::to_ascii_uppercase);
        let expected = expected.as_deref();
        assert_eq!(expected, Some(&self.got[before..]), "{:?} got what it did not send", self.end);
        true
    }

    /// Checks at rest that a client that is still served has received everything pending.
    pub fn assert_satisfied(&self, kernel: &SimKernel) {
        if matches!(self.fate, Fate::Gone | Fate::Vanished)
            || self.seen.is_some()
            || !kernel.is_served(self.end)
        {
            return;
        }
        assert_ne!(self.fate, Fate::Finished, "{:?} has finished and is connected", self.end);
        if self.header.as_ref().is_some_and(Header::is_silent) {
            return assert!(self.challenge.is_empty(), "{:?} sent no header", self.end);
        }
        assert_eq!(self.challenge.len(), Challenge::LEN, "{:?} waits for its challenge", self.end);
        assert!(self.honest || !self.digest.is_empty(), "{:?} was not rejected", self.end);
        self.assert_answered();
    }

    /// The same for a client that may still have a part of its header or digest to send.
    pub fn assert_at_rest(&self, kernel: &SimKernel) {
        let header_waits = self.header.as_ref().is_some_and(|header| !header.unsent.is_empty());
        if header_waits && self.fate == Fate::Present {
            return assert!(self.challenge.is_empty(), "{:?} has sent no header yet", self.end);
        }
        if self.digest.is_empty() || self.input_left > 0 || self.fate == Fate::Finished {
            self.assert_satisfied(kernel);
        }
    }

    fn assert_answered(&self) {
        assert_eq!(
            self.got.len(),
            self.sent.len(),
            "{:?} lacks bytes, and nothing moves any more",
            self.end
        );
        assert_eq!(self.messages, self.pushed, "{:?} lacks messages", self.end);
    }
}
