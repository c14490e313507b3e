//! The clients of the simulation, and the network between them and the server.

use std::net::SocketAddr;

use super::SimKernel;
use super::pipe::Direction;
use super::socket::{Answer, Socket};
use crate::trace::{Fault, Stream, World};

/// A client's end of a simulated connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimClient(pub(super) usize);

impl SimClient {
    /// Its stream in a trace, which counts from 1.
    pub const fn stream(self) -> Stream {
        Stream(self.0 as u64 + 1)
    }

    /// The client of a stream of a trace.
    #[allow(clippy::cast_possible_truncation)] // It counts clients, which are in memory.
    pub const fn of(stream: Stream) -> Self {
        Self(stream.0 as usize - 1)
    }
}

/// The state of the stream at a client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing at present.
    Nothing,
    /// The end of the stream.
    End,
    /// A reset. What had not arrived is gone.
    Reset,
}

impl SimKernel {
    /// A client connects, whose address `accept` does not tell. Each direction holds this many
    /// bytes, of which at most `window` have arrived and are unread.
    pub fn connect(&mut self, to_server: usize, to_client: usize, window: usize) -> SimClient {
        self.connect_from(None, to_server, to_client, window)
    }

    /// The same with what `accept` tells of the client's address.
    pub fn connect_from(
        &mut self,
        peer: Option<SocketAddr>,
        to_server: usize,
        to_client: usize,
        window: usize,
    ) -> SimClient {
        let index = self.sockets.len();
        let (to_server, to_client) =
            (Direction::new(to_server, window), Direction::new(to_client, window));
        self.sockets.push(Socket::new(peer, to_server, to_client));
        self.queue.push_back(index);
        self.listener_edge = true;
        self.act(|| World::Connects(SimClient(index).stream(), peer));
        SimClient(index)
    }

    /// A client connects to the admin endpoint; its numbers are those of
    /// [`connect`](Self::connect).
    pub fn connect_admin(
        &mut self,
        to_server: usize,
        to_client: usize,
        window: usize,
    ) -> SimClient {
        let client = self.connect(to_server, to_client, window);
        self.sockets[client.0].is_admin = true;
        self.queue.pop_back();
        self.admin.clients.push_back(client.0);
        self.admin.edge = true;
        client
    }

    /// The address of a client as `accept` returns it.
    pub fn peer(&self, client: SimClient) -> Option<SocketAddr> {
        self.sockets[client.0].peer
    }

    /// A client sends; how many bytes there was room for.
    pub fn client_send(&mut self, client: SimClient, bytes: &[u8]) -> usize {
        if !bytes.is_empty() && self.sockets[client.0].is_sent_in_vain() {
            return bytes.len();
        }
        let n = self.sockets[client.0].to_server.push(bytes);
        if n > 0 {
            let (stream, offered) = (client.stream(), bytes.len());
            self.send_off(client.0);
            self.act(|| World::Sends { stream, taken: n, offered });
        }
        n
    }

    /// A client sends one urgent byte; false if there is no room for it, or an earlier one has
    /// not been passed.
    pub fn client_send_urgent(&mut self, client: SimClient) -> bool {
        if self.sockets[client.0].is_sent_in_vain() {
            return true;
        }
        let sent = self.sockets[client.0].to_server.push_urgent();
        if sent {
            self.raise(client.0);
            self.act(|| World::SendsUrgent(client.stream()));
        }
        sent
    }

    /// A client reads up to `limit` bytes.
    ///
    /// # Errors
    /// [`Seen`] if there are none.
    pub fn client_recv(&mut self, client: SimClient, limit: usize) -> Result<Vec<u8>, Seen> {
        let socket = &mut self.sockets[client.0];
        let mut bytes = vec![0; limit.min(socket.to_client.unread())];
        let n = socket.to_client.read(&mut bytes);
        if n == 0 {
            return Err(match &mut socket.client_reset {
                _ if socket.to_client.is_at_end() => Seen::End,
                Some(unreported @ true) => {
                    *unreported = false;
                    Seen::Reset
                }
                Some(false) => Seen::End,
                None => Seen::Nothing,
            });
        }
        socket.deliver(self.clock);
        if socket.no_space && socket.to_client.has_room_again() {
            socket.no_space = false;
            self.raise(client.0);
        }
        self.act(|| World::Reads(client.stream(), n));
        Ok(bytes)
    }

    /// A client ends its stream.
    pub fn client_finish(&mut self, client: SimClient) {
        self.sockets[client.0].to_server.end();
        self.send_off(client.0);
        self.act(|| World::Finishes(client.stream()));
    }

    /// A client resets the connection.
    pub fn client_reset(&mut self, client: SimClient) {
        self.sockets[client.0].fail(libc::ECONNRESET);
        self.raise(client.0);
        self.act(|| World::Resets(client.stream()));
    }

    /// A client vanishes: neither an end nor a reset comes, what is sent to it is not acknowledged,
    /// and a probe is answered only if its machine has started again meanwhile, by a reset.
    pub fn client_vanish(&mut self, client: SimClient, starts_again: bool) {
        self.sockets[client.0].vanished =
            Some(if starts_again { Answer::Reset } else { Answer::None });
        self.act(|| World::Vanishes(client.stream(), starts_again));
    }

    /// The network disconnects a client. Both ends learn of it, the server by this error.
    pub fn disconnect(&mut self, client: SimClient, errno: i32) {
        let socket = &mut self.sockets[client.0];
        socket.ledger.disconnected = true;
        socket.reset_client();
        socket.fail(errno);
        self.raise(client.0);
        self.act(|| World::Disconnects(client.stream(), Fault(errno)));
    }

    /// Delivers what a client sent to the server: at once, or later at random.
    pub(super) fn send_off(&mut self, index: usize) {
        if self.random.chance(self.faults.late_arrival) {
            let socket = &mut self.sockets[index];
            if !socket.under_way && socket.to_server.is_under_way() {
                socket.under_way = true;
                self.under_way.push_back(index);
            }
        } else if self.sockets[index].to_server.arrive(usize::MAX) {
            self.sockets[index].heard(self.clock);
            self.raise(index);
        }
    }

    /// Delivers what is in flight on one connection, or a part of it.
    pub(super) fn move_something(&mut self) {
        let Some(index) = self.under_way.pop_front() else { return };
        let socket = &mut self.sockets[index];
        socket.under_way = false;
        let limit = match self.random.chance(self.faults.late_arrival) {
            true => 1 + self.random.below(20),
            false => usize::MAX,
        };
        if socket.to_server.arrive(limit) {
            socket.heard(self.clock);
            let left = socket.to_server.unread();
            self.act(|| World::Arrives(SimClient(index).stream(), left));
            self.raise(index);
        }
        let socket = &mut self.sockets[index];
        if socket.to_server.is_under_way() {
            socket.under_way = true;
            self.under_way.push_back(index);
        }
    }
}
