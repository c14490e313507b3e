use std::time::Duration;

use super::case::Case;
use super::code::Code;
use super::judge::{Conn, Fault, Judge, Strike};
use super::log::count;
use super::world::Client;
use crate::sim::{Outlook, SimKernel};

/// How late a loop may be with a deadline.
const SLACK: Duration = Duration::from_millis(100);

/// The judgment of a loop that sleeps: it must have left nothing undone that no event will bring back.
impl Judge {
    /// The loop slept, with this timeout, from this time on.
    pub(super) fn slept(
        &mut self,
        timeout: Option<Duration>,
        from: Duration,
        kernel: &SimKernel,
        clients: &[Client],
    ) -> Result<(), Fault> {
        self.gain();
        self.check_deadlines(timeout, from)?;
        let left = self.left_undone(timeout, kernel, clients);
        let Some((client, fault)) = left else {
            self.strike = None;
            return Ok(());
        };
        // A loop that looks by itself after a while is late at worst, unless it looks in vain.
        let Some(timeout) = timeout else { return Err(fault) };
        match &self.strike {
            Some(strike) if (strike.code, strike.client) == (fault.code, client) => {
                if strike.until <= from { Err(fault) } else { Ok(()) }
            }
            _ => {
                let until = from.saturating_add(timeout);
                self.strike = Some(Strike { code: fault.code, client, until });
                Ok(())
            }
        }
    }

    fn check_deadlines(&self, timeout: Option<Duration>, from: Duration) -> Result<(), Fault> {
        let Some(idle) = self.rules.idle else { return Ok(()) };
        // After a shutdown the loop may wait for the client's end for as long as it likes.
        let counts = self.open().filter(|(_, conn)| !conn.shut);
        let Some((client, conn)) = counts.min_by_key(|(_, conn)| conn.active_at) else {
            return Ok(());
        };
        let due = conn.active_at + idle;
        if timeout.is_some_and(|timeout| from + timeout <= due + SLACK) {
            return Ok(());
        }
        let left = due.saturating_sub(from).as_millis();
        let note = format!("the time of c{} is up in {left} ms", client + 1);
        Err(Fault::new(Code::PastDeadline, note))
    }

    /// Something that can be done, and that no event will bring back.
    fn left_undone(
        &mut self,
        timeout: Option<Duration>,
        kernel: &SimKernel,
        clients: &[Client],
    ) -> Option<(usize, Fault)> {
        let waiting = kernel.queued_clients();
        if waiting > 0 && !(timeout.is_some() && kernel.is_out_of_descriptors()) {
            let code = if self.is_short_of_descriptors() { Code::Famine } else { Code::Door };
            let who =
                if waiting == 1 { "1 client waits" } else { &format!("{waiting} clients wait") };
            let note = format!("{who} in the accept queue, no edge left");
            return Some((usize::MAX, Fault::new(code, note)));
        }
        let mut deaf = 0;
        let mut found = None;
        for (client, conn) in self.open() {
            let outlook = kernel.outlook(clients[client].end);
            deaf +=
                u64::from(!outlook.room && clients[client].stalled && outlook.failure.is_none());
            if let Some((code, note)) =
                self.conn_left_undone(client, conn, outlook, &clients[client])
            {
                found = Some((client, Fault::new(code, note)));
                break;
            }
        }
        if deaf > 0 {
            self.met.count(Case::Deaf);
        }
        found
    }

    fn conn_left_undone(
        &self,
        client: usize,
        conn: &Conn,
        outlook: Outlook,
        state: &Client,
    ) -> Option<(Code, String)> {
        let name = client + 1;
        if !conn.registered {
            let note = format!("no event of c{name} will ever come");
            return Some((Code::Forgotten, note));
        }
        if conn.failed || outlook.failure.is_some() {
            let note = format!("the connection of c{name} has failed, and no edge is left");
            return Some((Code::KeptEnded, note));
        }
        let unsent = self.rules.answer(conn.received) - conn.sent;
        let waits_for_room = unsent > 0 && !outlook.room && outlook.event_owed;
        if outlook.unread > 0 && !waits_for_room {
            let unread = count(outlook.unread, "byte");
            let note = format!("{unread} of c{name} unread, no edge left");
            return Some((Code::UnreadInput, note));
        }
        if unsent > 0 && !waits_for_room {
            let code = if conn.short { Code::LostRest } else { Code::AnswerInHand };
            let room =
                if outlook.room { "there is room, and no edge is left" } else { "no edge is owed" };
            let unsent = count(unsent, "byte");
            let note = format!("{unsent} of the answer to c{name} not sent; {room}");
            return Some((code, note));
        }
        if outlook.end && outlook.unread == 0 && !conn.at_end && !waits_for_room {
            let note = format!("the end of c{name}'s stream is unread, no edge left");
            return Some((Code::UnreadEnd, note));
        }
        let is_served = self.rules.quota.is_some_and(|quota| conn.sent >= quota);
        if is_served && !conn.shut && !conn.at_end && !state.stalled {
            let note = format!("c{name} has its answer and waits for the end");
            return Some((Code::NoEnd, note));
        }
        if conn.at_end && unsent == 0 {
            let note = format!("c{name} has finished and has its answer; no event will come");
            return Some((Code::KeptEnded, note));
        }
        None
    }
}
