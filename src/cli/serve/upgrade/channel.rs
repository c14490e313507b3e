//! The channel between the two processes of an upgrade: a pair of connected sockets without a name
//! (SOCK_SEQPACKET), which carries whole messages, and sockets beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use saltecho::server::handover::MAX_SOCKETS;

use super::message::{Header, Kind, MAX_MESSAGE, MAX_PAYLOAD, Text, Unreadable};

/// Room for the sockets of a message.
const ROOM: usize = rustix::cmsg_space!(ScmRights(MAX_SOCKETS));

/// One end of the channel.
pub(super) struct Channel {
    socket: OwnedFd,
    sent: u32,
    received: u32,
    buffer: Vec<u8>,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) sockets: Vec<OwnedFd>,
}

/// A message to be sent.
pub(super) struct Outgoing<'a> {
    pub(super) kind: Kind,
    pub(super) count: u32,
    pub(super) record_size: u16,
    pub(super) payload: &'a [u8],
    pub(super) sockets: &'a [BorrowedFd<'a>],
}

/// The reason why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The other end is closed, and nothing that it sent is left.
    #[error("the other process has closed the channel")]
    Closed,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Descriptors were dropped on the way, about which only a flag tells (unix(7)).
    #[error(
        "{arrived} of {announced} sockets arrived: the new process may not have so many \
         descriptors (LimitNOFILE=), or a security module refused one"
    )]
    Truncated { arrived: usize, announced: usize },
    /// The kernel counts the sockets that all processes of a user have in flight, and was at the limit
    /// of this process until the deadline (ETOOMANYREFS, unix(7)).
    #[error(
        "processes of this user have too many sockets in flight: one of them passes sockets to a \
         process that does not read; end it, or raise the limit of descriptors (LimitNOFILE=)"
    )]
    InFlight,
    #[error("a message of the upgrade does not fit")]
    TooLong,
    #[error("the channel failed: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for Broken {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            _ => Self::Io(error.into()),
        }
    }
}

/// The result of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// Not yet: something came from the other side first, or the time is up.
    No,
}

/// Time between two attempts while too many sockets are in flight, about which no event tells.
const IN_FLIGHT: Duration = Duration::from_millis(1);

impl Channel {
    /// A pair of ends, both closed on execve(2).
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(ours), theirs))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, sent: 0, received: 0, buffer: Vec::new() }
    }

    /// Sends a message without sockets if there is room at once.
    pub(super) fn send_text(&mut self, kind: Kind, text: &Text) -> Result<(), Broken> {
        match self.send(&Outgoing::text(kind, &text.to_payload()), Instant::now())? {
            Sent::Yes => Ok(()),
            Sent::No => Err(Broken::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Sends a message as a whole, as soon as there is room for it and before the deadline. Stops
    /// waiting when there is something to receive.
    pub(super) fn send(
        &mut self,
        message: &Outgoing<'_>,
        deadline: Instant,
    ) -> Result<Sent, Broken> {
        if message.sockets.len() > MAX_SOCKETS || message.payload.len() > MAX_PAYLOAD {
            return Err(Broken::TooLong);
        }
        let header = Header {
            kind: message.kind,
            sequence: self.sent,
            count: message.count,
            record_size: message.record_size,
            sockets: u16::try_from(message.sockets.len()).map_err(|_| Broken::TooLong)?,
        };
        let header = header.encode(message.payload);
        let parts = [IoSlice::new(&header), IoSlice::new(message.payload)];
        loop {
            let mut in_flight = false;
            let mut space = [MaybeUninit::uninit(); ROOM];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !message.sockets.is_empty() {
                let fits = beside.push(SendAncillaryMessage::ScmRights(message.sockets));
                debug_assert!(fits, "there is room for as many");
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let wait = match sendmsg(&self.socket, &parts, &mut beside, flags) {
                Ok(_) => {
                    self.sent = self.sent.wrapping_add(1);
                    return Ok(Sent::Yes);
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => self.wait(PollFlags::IN | PollFlags::OUT, &[], deadline)?,
                // The reader is behind, or other processes of this user pass sockets too.
                Err(Errno::TOOMANYREFS) => {
                    let again = (Instant::now() + IN_FLIGHT).min(deadline);
                    in_flight = true;
                    self.wait(PollFlags::IN, &[], again)?
                }
                Err(error) => return Err(error.into()),
            };
            let is_late = Instant::now() >= deadline;
            match wait.contains(PollFlags::IN) {
                false if is_late && in_flight => return Err(Broken::InFlight),
                false if !is_late => {}
                _ => return Ok(Sent::No),
            }
        }
    }

    /// Receives a message, if one comes before the deadline, or before one of `others` becomes
    /// readable.
    pub(super) fn receive(
        &mut self,
        others: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<Option<Message>, Broken> {
        loop {
            match self.receive_now() {
                Err(Broken::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(Some),
            }
            let far = Instant::now() + Duration::from_secs(3600);
            let wait = self.wait(PollFlags::IN, others, deadline.unwrap_or(far))?;
            if wait.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Receives a message that is there.
    fn receive_now(&mut self) -> Result<Message, Broken> {
        self.buffer.resize(MAX_MESSAGE, 0);
        let mut space = [MaybeUninit::uninit(); ROOM];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            let parts = &mut [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(&self.socket, parts, &mut beside, flags) {
                // A process that ends with messages unread is reported once, before the messages that it
                // has sent: those decide.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                result => break result?,
            }
        };
        let rights = beside.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let sockets: Vec<OwnedFd> = rights.flatten().collect();
        if received.bytes == 0 {
            return Err(Broken::Closed);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(Broken::TooLong);
        }
        let (header, payload) = Header::decode(&self.buffer[..received.bytes])?;
        header.follows(self.received)?;
        let announced = usize::from(header.sockets);
        if received.flags.contains(ReturnFlags::CTRUNC) || sockets.len() != announced {
            return Err(Broken::Truncated { arrived: sockets.len(), announced });
        }
        self.received = self.received.wrapping_add(1);
        Ok(Message { header, payload: payload.to_owned(), sockets })
    }

    /// Waits for the channel or one of `others`. What is ready of the channel; nothing at the
    /// deadline or if it is another. The end of the channel counts as something to receive.
    fn wait(
        &self,
        wanted: PollFlags,
        others: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<PollFlags, Broken> {
        let mut polled = vec![PollFd::new(&self.socket, wanted)];
        polled.extend(others.iter().map(|other| PollFd::from_borrowed_fd(*other, PollFlags::IN)));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut polled, Some(&left)) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let ready = polled[0].revents();
            let ended = ready.intersects(PollFlags::HUP | PollFlags::ERR);
            return Ok(if ended { ready | PollFlags::IN } else { ready });
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<'a> Outgoing<'a> {
    /// A message without records.
    pub(super) const fn text(kind: Kind, payload: &'a [u8]) -> Self {
        Self { kind, count: 0, record_size: 0, payload, sockets: &[] }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ours, Channel::new(theirs))
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn send(channel: &mut Channel, sockets: &[BorrowedFd<'_>], deadline: Instant) -> Sent {
        let mut message = Outgoing::text(Kind::Records(4), b"records");
        message.sockets = sockets;
        channel.send(&message, deadline).unwrap()
    }

    #[test]
    fn as_many_sockets_arrive_as_were_sent() {
        let (mut one, mut other) = pair();
        let null = std::fs::File::open("/proc/self/status").unwrap();
        for count in [0, 1, 239, MAX_SOCKETS] {
            assert_eq!(send(&mut one, &vec![null.as_fd(); count], far()), Sent::Yes);
            let message = other.receive(&[], Some(far())).unwrap().unwrap();
            assert_eq!((message.sockets.len(), &message.payload[..]), (count, &b"records"[..]));
            for socket in &message.sockets {
                let flags = rustix::io::fcntl_getfd(socket).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
        }
        let message = Outgoing {
            sockets: &vec![null.as_fd(); MAX_SOCKETS + 1],
            ..Outgoing::text(Kind::Records(4), b"")
        };
        assert!(matches!(one.send(&message, far()), Err(Broken::TooLong)));
    }

    #[test]
    fn the_last_words_of_a_process_that_read_nothing_arrive() {
        let (mut one, mut other) = pair();
        one.send_text(Kind::Commit, &Text::default()).unwrap();
        other.send_text(Kind::Taken, &Text::default()).unwrap();
        drop(other);
        let message = one.receive(&[], Some(far())).unwrap().unwrap();
        assert_eq!(message.header.kind, Kind::Taken);
        assert!(matches!(one.receive(&[], Some(far())), Err(Broken::Closed)));
        assert!(matches!(one.send_text(Kind::Commit, &Text::default()), Err(Broken::Closed)));
    }

    #[test]
    fn a_full_channel_waits_for_its_deadline_or_for_something_to_receive() {
        let (mut one, mut other) = pair();
        let now = Instant::now();
        while send(&mut one, &[], now) == Sent::Yes {}
        assert_eq!(send(&mut one, &[], Instant::now() + Duration::from_millis(20)), Sent::No);
        other.send_text(Kind::Error, &Text::default()).unwrap();
        assert_eq!(send(&mut one, &[], far()), Sent::No);
        assert_eq!(one.receive(&[], None).unwrap().unwrap().header.kind, Kind::Error);
        // What was not sent has no number, so none is missing when there is room.
        while let Some(message) = other.receive(&[], Some(now)).unwrap() {
            assert_eq!(message.payload, b"records");
        }
        assert_eq!(send(&mut one, &[], far()), Sent::Yes);
        assert!(other.receive(&[], Some(far())).unwrap().is_some());
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        let (one, mut other) = pair();
        for bytes in [&b"x"[..], &[0; 40], &[0xff; MAX_MESSAGE + 1]] {
            rustix::net::send(&one, bytes, SendFlags::empty()).unwrap();
            assert!(other.receive(&[], Some(far())).is_err());
        }
    }
}
