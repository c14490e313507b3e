use std::time::Duration;

use super::socket::End;
use super::{SimClient, SimKernel};
use crate::reactor::Ready;

/// The answers that a server's calls would get for one connection at this moment, and the events that
/// are on their way: what the kernel knows and the loop can only find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Bytes that have arrived and are unread.
    pub unread: usize,
    /// True if the end of the client's stream has arrived; unread bytes may stand before it.
    pub end: bool,
    /// An error of the connection that no call has reported.
    pub failure: Option<i32>,
    /// True if a `send` would take something.
    pub room: bool,
    /// True if an event is to be fetched, or will come once there is room again.
    pub event_owed: bool,
    /// True if the client has sent something that has not been received, arrived or not.
    pub input_under_way: bool,
    /// The bits that an event would carry.
    pub readiness: Ready,
}

impl SimKernel {
    /// The virtual time since the beginning.
    pub const fn clock(&self) -> Duration {
        self.clock
    }

    /// Returns true if a client's stream is open at the server's end and every descriptor is in use.
    pub const fn is_out_of_descriptors(&self) -> bool {
        self.open + self.open_admin.saturating_sub(1) >= self.descriptors
    }

    /// Returns true if the edge of the listener has not been fetched.
    pub const fn is_listener_edge_pending(&self) -> bool {
        self.listener_edge
    }

    /// Returns what the kernel knows of a client's connection.
    pub fn outlook(&self, client: SimClient) -> Outlook {
        let socket = &self.sockets[client.0];
        let failure = socket.failure.filter(|failure| !failure.reported);
        let open = socket.server_end == End::Open && socket.failure.is_none();
        Outlook {
            unread: socket.to_server.unread(),
            end: socket.to_server.has_end(),
            failure: failure.map(|failure| failure.errno),
            room: open && socket.to_client.has_room(),
            event_owed: socket.edge || socket.no_space,
            input_under_way: socket.to_server.has_unread(),
            readiness: socket.readiness(),
        }
    }
}

impl SimClient {
    /// The client's number: how many connected before it.
    pub const fn number(self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use crate::reactor::{Kernel, Token};
    use crate::sim::{Faults, SimKernel};

    #[test]
    fn an_outlook_says_what_the_next_calls_will_find() {
        let mut kernel = SimKernel::new(1, Faults::none());
        let client = kernel.connect(100, 4, 100);
        assert!(kernel.is_listener_edge_pending());
        let (mut stream, _) = kernel.accept(&mut ()).unwrap();
        kernel.register(&mut stream, Token::from_raw(7)).unwrap();
        assert_eq!((stream.client(), client.number()), (client, 0));
        kernel.client_send(client, b"hello");
        let outlook = kernel.outlook(client);
        assert_eq!((outlook.unread, outlook.end, outlook.room), (5, false, true));
        assert_eq!(kernel.send(&mut stream, b"HELLO").unwrap(), 4);
        assert!(!kernel.outlook(client).room);
        kernel.client_finish(client);
        assert_eq!(kernel.recv(&mut stream, &mut [0; 9]).unwrap(), 5);
        let outlook = kernel.outlook(client);
        assert!(outlook.end && outlook.event_owed && !outlook.input_under_way);
        kernel.client_reset(client);
        assert_eq!(kernel.outlook(client).failure, Some(libc::ECONNRESET));
    }
}
