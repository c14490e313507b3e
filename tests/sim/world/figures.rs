//! Judges the figures of a scrape by what the kernel and the observer saw.

use super::World;

impl World {
    pub(super) fn check_figures(&mut self) {
        let figures = self.server.snapshot();
        let kernel = self.server.kernel_mut();
        let (mut lingering, mut received, mut sent) = (0, 0, 0);
        for client in &self.clients {
            let ledger = kernel.ledger(client.end);
            lingering += u64::from(kernel.is_served(client.end) && ledger.shut_down_at.is_some());
            received += ledger.received;
            sent += ledger.sent;
        }
        let states = &figures.connections;
        let (authenticated, others) = self.judge.records.authenticated_and_others();
        assert_eq!(states.lingering, lingering, "those that linger");
        assert_eq!(states.echoing + lingering, authenticated, "authenticated connections");
        assert_eq!(states.await_header + states.await_digest, others, "the others");
        assert_eq!(figures.bytes_received - figures.bytes_discarded, received, "bytes received");
        assert_eq!(figures.bytes_sent, sent, "bytes sent");
        let [worker] = &figures.workers[..] else { panic!("one loop") };
        assert_eq!(worker.events, kernel.events(), "events");
        assert!(worker.turn.count() <= worker.turns, "more turns were timed than there were");
        let awake = kernel.last_reading().as_nanos();
        assert!(
            worker.asleep.as_nanos() <= awake.into(),
            "it slept for longer than there was time"
        );
    }
}
