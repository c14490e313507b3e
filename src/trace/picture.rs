use super::Stream;
use crate::reactor::Ready;

/// The kernel's side of a simulated run after one step: what the loop can only find out by calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Clients in the accept queue, the first first.
    pub queue: Vec<Stream>,
    /// True if an event for the listener is to be fetched.
    pub listener_edge: bool,
    /// Every connection that there has been, in the order of its streams.
    pub sockets: Vec<SocketPicture>,
}

/// One connection as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPicture {
    /// The stream in the trace.
    pub stream: Stream,
    /// The place of the server's end.
    pub end: Place,
    /// Bytes that have arrived from the client and are unread.
    pub unread: usize,
    /// Maximum number of these.
    pub window: usize,
    /// Bytes that the client has sent and that have not arrived.
    pub under_way: usize,
    /// True if the end of the client's stream has arrived; unread bytes may stand before it.
    pub ended: bool,
    /// True if an urgent mark has arrived and was not passed.
    pub urgent: bool,
    /// True if an event is to be fetched.
    pub edge: bool,
    /// True if an event will come once there is room again.
    pub room_owed: bool,
    /// The bits that an event would carry.
    pub readiness: Ready,
    /// Bytes that the kernel has taken from the server and the client has not read.
    pub unsent: usize,
    /// Maximum number of these.
    pub capacity: usize,
    /// True if the connection has failed for the server.
    pub failed: bool,
    /// True if a reset has reached the client.
    pub client_reset: bool,
}

/// The place of a server's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the accept queue.
    Queued,
    /// With the loop.
    Open,
    /// Closed.
    Closed,
}
