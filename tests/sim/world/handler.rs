//! The handler of a simulated server: upper-case answers, and a record of its calls.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use saltecho::proto::{Answer, CloseReason, Handler, Peer};
use saltecho::python::upper;

/// The calls of all connections' handlers.
#[derive(Default)]
pub struct Calls {
    pub opened: Vec<Peer>,
    pub closed: Vec<(Peer, CloseReason)>,
    /// No address is saved with a handler.
    pub discreet: bool,
}

/// Answers in upper case. A fragile one panics sometimes, without the hook that prints panics.
#[derive(Clone)]
pub struct UpperHandler {
    pub calls: Arc<Mutex<Calls>>,
    pub fragile: bool,
    peer: Option<Peer>,
}

impl UpperHandler {
    pub fn new() -> Self {
        Self { calls: Arc::default(), fragile: false, peer: None }
    }
}

impl Handler for UpperHandler {
    fn opened(&mut self, peer: &Peer) {
        assert!(self.peer.is_none(), "a connection is opened twice");
        self.peer = Some(*peer);
        self.calls.lock().unwrap().opened.push(*peer);
        if self.fragile && peer.id().number() % 7 == 3 {
            resume_unwind(Box::new(()));
        }
    }

    fn handle(&mut self, data: &mut [u8]) -> Answer {
        assert!(self.peer.is_some(), "bytes before the beginning");
        if self.fragile && data[0] % 16 == 7 {
            resume_unwind(Box::new(()));
        }
        upper(data);
        Answer::InPlace
    }

    fn save(&self, state: &mut Vec<u8>) -> bool {
        let is_told = !self.calls.lock().unwrap().discreet;
        let address = self.peer.and_then(|peer| peer.address()).filter(|_| is_told);
        state.extend(address.map(|address| address.to_string()).unwrap_or_default().bytes());
        true
    }

    /// The handler of the same connection: what was recorded of its peer goes for the new name.
    fn restore(&mut self, peer: &Peer, state: &[u8]) -> bool {
        let Ok(text) = str::from_utf8(state) else { return false };
        let address = (!text.is_empty()).then(|| text.parse());
        let Ok(address) = address.transpose() else { return false };
        let peer = peer.with_address(address);
        let mut calls = self.calls.lock().unwrap();
        let known = calls.opened.iter_mut().find(|known| known.id() == peer.id());
        if let Some(known) = known {
            *known = peer;
        }
        drop(calls);
        self.peer = Some(peer);
        true
    }

    fn closed(&mut self, reason: CloseReason) {
        let peer = self.peer.take().expect("it is closed once, after it was opened");
        self.calls.lock().unwrap().closed.push((peer, reason));
    }
}
