//! The handler of a simulated server: the usual answers, and what it is told.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use saltecho::proto::{Answer, CloseReason, Handler, Peer};
use saltecho::python::upper;

/// What all connections' handlers were told.
#[derive(Default)]
pub struct Heard {
    pub opened: Vec<Peer>,
    pub closed: Vec<(Peer, CloseReason)>,
}

/// Answers in upper case. A fragile one panics now and then, without the hook that prints it.
#[derive(Clone)]
pub struct Teller {
    pub heard: Arc<Mutex<Heard>>,
    pub fragile: bool,
    peer: Option<Peer>,
}

impl Teller {
    pub fn new() -> Self {
        Self { heard: Arc::default(), fragile: false, peer: None }
    }
}

impl Handler for Teller {
    fn opened(&mut self, peer: &Peer) {
        assert!(self.peer.is_none(), "a connection is opened twice");
        self.peer = Some(*peer);
        let mut heard = self.heard.lock().unwrap();
        heard.opened.push(*peer);
        let unlucky = heard.opened.len() % 7 == 3;
        drop(heard);
        if self.fragile && unlucky {
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

    fn closed(&mut self, reason: CloseReason) {
        let peer = self.peer.take().expect("it is closed once, after it was opened");
        self.heard.lock().unwrap().closed.push((peer, reason));
    }
}
