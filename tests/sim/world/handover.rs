//! Handovers of the simulated server, which neither the clients nor the judge notice.

use std::collections::BTreeMap;
use std::time::Duration;

use saltecho::server::Server;
use saltecho::server::handover::Thawing;
use saltecho::sim::{Faults, SimClient, SimKernel};
use saltecho::trace::Recorder;

use super::handler::UpperHandler;
use super::moving::{self, HandedOver, Outcome, draw_time};
use super::{TestKernel, World};

impl World {
    /// A random handover, perhaps in the middle of a drain, which refuses it.
    pub(super) fn random_handover(&mut self) {
        let (outcome, time) = (Outcome::draw(&mut self.random), draw_time(&mut self.random));
        self.hand_over(outcome, time);
    }

    /// Hands the server over, or tries to, and lets it turn.
    pub fn hand_over(&mut self, outcome: Outcome, time: Duration) {
        let (calls, peers) = (self.calls(), self.handler.calls.lock().unwrap().opened.clone());
        let server = self.take_server();
        let mut random = self.random.clone();
        let handed_over =
            moving::hand_over(server, outcome, time, &mut random, |kernel| self.thawing(kernel));
        self.random = random;
        let goes_on = match handed_over {
            Ok(HandedOver { server, taken_over }) => {
                self.server = server;
                self.handed_over += u64::from(taken_over);
                self.not_handed_over += u64::from(!taken_over);
                if !taken_over {
                    // Handlers that were restored in vain gave their peers other names.
                    self.handler.calls.lock().unwrap().opened = peers;
                }
                !taken_over
            }
            Err(server) => {
                assert!(self.judge.draining.is_some(), "a running server was not frozen");
                return self.server = *server;
            }
        };
        self.server.assert_invariants();
        self.judge.handed_over(self.server.kernel_mut());
        self.turn();
        if goes_on {
            self.assert_all_tried(&calls);
        }
    }

    pub fn thawing(&self, kernel: TestKernel) -> Thawing<TestKernel, UpperHandler> {
        let (config, limits) = (self.config.clone(), self.limits);
        let mut thawing = Thawing::new(kernel, config, limits, self.handler.clone()).unwrap();
        let server = thawing.server();
        server.set_observer(self.judge.observer());
        server.keep_records(self.judge.records.kept);
        if self.judge.names_balancers() {
            server.trust_proxies(&["192.0.2.0/24".parse().unwrap()]);
        }
        thawing
    }

    /// Takes the server out; one without sockets is in its place.
    pub fn take_server(&mut self) -> Server<TestKernel, UpperHandler> {
        let placeholder = self.placeholder();
        std::mem::replace(&mut self.server, placeholder)
    }

    fn placeholder(&self) -> Server<TestKernel, UpperHandler> {
        let (config, limits) = (self.config.clone(), self.limits);
        let kernel = Recorder::off(SimKernel::new(0, Faults::none()));
        Server::with_kernel(kernel, Vec::new(), config, limits, self.handler.clone()).unwrap()
    }

    /// The calls for each open connection so far.
    fn calls(&mut self) -> BTreeMap<SimClient, u64> {
        let kernel = &*self.server.kernel_mut();
        let open = self.clients.iter().filter(|client| kernel.is_served(client.end));
        open.map(|client| (client.end, kernel.ledger(client.end).calls)).collect()
    }

    /// Checks that the first turn of a server that goes on tried every connection, whatever events it got.
    fn assert_all_tried(&mut self, before: &BTreeMap<SimClient, u64>) {
        let kernel = self.server.kernel_mut();
        for (client, before) in before {
            let ledger = kernel.ledger(*client);
            let tried = ledger.calls > *before || ledger.shut_down_at.is_some();
            assert!(tried || !kernel.is_served(*client), "{client:?} was not tried: {ledger:?}");
        }
    }
}
