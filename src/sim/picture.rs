use super::socket::{End, Socket};
use super::{SimClient, SimKernel};
use crate::trace::{Picture, Place, SocketPicture};

impl SimKernel {
    /// Keeps the kernel's side of every step of the trace from here on, for those who draw it. Call it
    /// right after [`start_trace`](Self::start_trace).
    pub fn start_pictures(&mut self) {
        self.pictures = Some(Vec::new());
    }

    /// The kernel's side after each step of the trace.
    pub fn pictures(&self) -> &[Picture] {
        self.pictures.as_deref().unwrap_or_default()
    }

    /// The kernel's side now.
    pub fn picture(&self) -> Picture {
        let sockets = self.sockets.iter().enumerate();
        Picture {
            queue: self.queue.iter().map(|index| SimClient(*index).stream()).collect(),
            listener_edge: self.listener_edge,
            sockets: sockets.map(|(index, socket)| draw(SimClient(index), socket)).collect(),
        }
    }
}

fn draw(client: SimClient, socket: &Socket) -> SocketPicture {
    SocketPicture {
        stream: client.stream(),
        end: match socket.server_end {
            End::Queued => Place::Queued,
            End::Open => Place::Open,
            End::Closed => Place::Closed,
        },
        unread: socket.to_server.unread(),
        window: socket.to_server.window(),
        under_way: socket.to_server.held() - socket.to_server.unread(),
        ended: socket.to_server.has_end(),
        urgent: socket.to_server.has_urgent(),
        edge: socket.edge && socket.token.is_some(),
        room_owed: socket.no_space,
        readiness: socket.readiness(),
        unsent: socket.to_client.held(),
        capacity: socket.to_client.capacity(),
        failed: socket.failure.is_some(),
        client_reset: socket.client_reset.is_some(),
    }
}
