//! Messages with ancillary data: `recvmsg`, `sendmsg` and their like.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::inner::Inner;
use super::transfer::{Sender, effective, limit_of, sender_address, zeroed};
use super::{Address, AddressArg, Error, ErrorKind, Result, Socket};
use crate::rawopt::{self, Control, Name};

/// A piece of ancillary data as it was received: Python's `(cmsg_level, cmsg_type, cmsg_data)`.
#[derive(Debug)]
pub enum Ancillary {
    /// SCM_RIGHTS: descriptors, which are closed when this is dropped. They are inherited by child
    /// processes unless MSG_CMSG_CLOEXEC was among the flags, as in Python.
    Fds(Vec<OwnedFd>),
    /// Any other, for instance credentials (SCM_CREDENTIALS) or an IPv6 hop limit (IPV6_HOPLIMIT).
    Raw {
        /// The protocol level, for instance SOL_SOCKET.
        level: i32,
        /// The type within that level.
        kind: i32,
        /// The content, cut if MSG_CTRUNC is among the message's flags.
        data: Vec<u8>,
    },
}

/// A piece of ancillary data to be sent.
#[derive(Clone, Copy, Debug)]
pub enum AncillaryArg<'a> {
    /// SCM_RIGHTS: descriptors that the receiver gets duplicates of. Unix sockets only.
    Fds(&'a [BorrowedFd<'a>]),
    /// Any other. The numbers of descriptors in an SCM_RIGHTS message of this form are the caller's
    /// responsibility.
    Raw {
        /// The protocol level, for instance SOL_SOCKET.
        level: i32,
        /// The type within that level.
        kind: i32,
        /// The content.
        data: &'a [u8],
    },
}

/// The result of `recvmsg`: Python's `(data, ancdata, msg_flags, address)`.
#[derive(Debug)]
pub struct Message<T> {
    /// The bytes, or how many there are in the caller's buffers.
    pub data: T,
    /// The ancillary data, in the kernel's order.
    pub ancillary: Vec<Ancillary>,
    /// MSG_TRUNC if a datagram was cut, MSG_CTRUNC if ancillary data was, and others.
    pub flags: i32,
    /// The sender; `None` on a connected stream.
    pub address: Option<Address>,
}

/// `socket.CMSG_LEN(length)`: the length of a control message with `length` bytes of data, without
/// padding. As `ancbufsize` it has room for one such message.
pub const fn cmsg_len(length: usize) -> usize {
    rawopt::cmsg_len(length)
}

/// `socket.CMSG_SPACE(length)`: the room taken up by a control message with `length` bytes of data,
/// padding included. Sums of these are the `ancbufsize` for several messages.
pub const fn cmsg_space(length: usize) -> usize {
    rawopt::cmsg_space(length)
}

impl Socket {
    /// `recvmsg(bufsize, ancbufsize, flags)`: at most `bufsize` bytes, with ancillary data in at
    /// most `ancbufsize` bytes of control messages (see [`cmsg_space`]).
    ///
    /// It waits as [`recvfrom`](Self::recvfrom) does, also for a `bufsize` of 0. Ancillary data
    /// beyond its limit is lost, descriptors included, and MSG_CTRUNC tells so.
    ///
    /// # Errors
    /// ValueError for a negative size and for an `ancbufsize` over 2^31 - 1, before anything else;
    /// otherwise as [`recv`](Self::recv).
    pub fn recvmsg(
        &self,
        bufsize: isize,
        ancbufsize: isize,
        flags: i32,
    ) -> Result<Message<Vec<u8>>> {
        let limit = limit_of(bufsize, "negative buffer size in recvmsg()")?;
        let mut control = control_buffer(ancbufsize)?;
        let mut data = zeroed(limit)?;
        let message = self.inner.recvmsg(&mut [IoSliceMut::new(&mut data)], &mut control, flags)?;
        // MSG_TRUNC among the flags makes the kernel count bytes that it did not write.
        data.truncate(message.data);
        let Message { ancillary, flags, address, .. } = message;
        Ok(Message { data, ancillary, flags, address })
    }

    /// `recvmsg_into(buffers, ancbufsize, flags)`: as [`recvmsg`](Self::recvmsg) into the caller's
    /// memory, one buffer after the other.
    ///
    /// # Errors
    /// As [`recvmsg`](Self::recvmsg); EMSGSIZE for more than 1024 buffers.
    pub fn recvmsg_into(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        ancbufsize: isize,
        flags: i32,
    ) -> Result<Message<usize>> {
        let mut control = control_buffer(ancbufsize)?;
        self.inner.recvmsg(buffers, &mut control, flags)
    }

    /// `sendmsg(buffers, ancdata, flags)`: the buffers as if they were one, with ancillary data;
    /// returns how many bytes were taken, as [`send`](Self::send) does.
    ///
    /// A blocking call on a stream takes everything. Descriptors then go with the first bytes, and
    /// other ancillary data with each part. On a stream there must be a byte to carry them.
    ///
    /// # Errors
    /// As [`send`](Self::send); EMSGSIZE for more than 1024 buffers, EINVAL, EPERM and others for
    /// ancillary data that the kernel does not take.
    pub fn sendmsg(
        &self,
        buffers: &[IoSlice<'_>],
        ancdata: &[AncillaryArg<'_>],
        flags: i32,
    ) -> Result<usize> {
        self.inner.sendmsg(buffers, ancdata, flags, None)
    }

    /// `sendmsg(buffers, ancdata, flags, address)`.
    ///
    /// # Errors
    /// As [`sendmsg`](Self::sendmsg), and those of [`bind`](Self::bind) for the address.
    pub fn sendmsg_to<'a>(
        &self,
        buffers: &[IoSlice<'_>],
        ancdata: &[AncillaryArg<'_>],
        flags: i32,
        address: impl Into<AddressArg<'a>>,
    ) -> Result<usize> {
        let address = address.into().resolve(self.inner.family, "sendmsg")?.to_kernel()?;
        self.inner.sendmsg(buffers, ancdata, flags, Some(&address))
    }
}

/// `socket.send_fds(sock, buffers, fds)`: sends descriptors over a Unix socket, together with at
/// least one byte. The receiver gets duplicates; the caller's stay open.
///
/// ```
/// use std::io::IoSlice;
/// use std::os::fd::AsFd;
/// use saltecho::socket::{Socket, recv_fds, send_fds, socketpair};
///
/// let (a, b) = socketpair()?;
/// let (c, d) = socketpair()?;
/// send_fds(&a, &[IoSlice::new(b"take this")], &[d.dup()?.detach()?.unwrap().as_fd()])?;
/// let (message, mut fds) = recv_fds(&b, 64, 1, 0)?;
/// assert_eq!(message.data, b"take this");
/// let passed = Socket::from_fd(fds.remove(0))?;
/// c.sendall(b"hello")?;
/// assert_eq!(passed.recv(64)?, b"hello");
/// # Ok::<(), saltecho::socket::Error>(())
/// ```
///
/// # Errors
/// As [`Socket::sendmsg`]; EINVAL for more than 253 descriptors.
pub fn send_fds(socket: &Socket, buffers: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    socket.sendmsg(buffers, &[AncillaryArg::Fds(fds)], 0)
}

/// `socket.recv_fds(sock, bufsize, maxfds, flags)`: at most `bufsize` bytes and `maxfds`
/// descriptors. The message's own ancillary data has no descriptors left.
///
/// Further descriptors are closed, and MSG_CTRUNC among the message's flags tells so.
///
/// # Errors
/// As [`Socket::recvmsg`].
pub fn recv_fds(
    socket: &Socket,
    bufsize: isize,
    maxfds: usize,
    flags: i32,
) -> Result<(Message<Vec<u8>>, Vec<OwnedFd>)> {
    let room = maxfds.saturating_mul(size_of::<i32>()).saturating_add(cmsg_len(0));
    let room = isize::try_from(room).unwrap_or(isize::MAX);
    let mut message = socket.recvmsg(bufsize, room, flags)?;
    let mut fds = Vec::new();
    message.ancillary.retain_mut(|item| match item {
        Ancillary::Fds(received) => {
            fds.append(received);
            false
        }
        Ancillary::Raw { .. } => true,
    });
    Ok((message, fds))
}

impl Inner {
    /// Receives one message, or with MSG_WAITALL in blocking mode until the buffers are full.
    pub(super) fn recvmsg(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        control: &mut [u8],
        flags: i32,
    ) -> Result<Message<usize>> {
        let (fd, timeout) = self.begin()?;
        let wanted = Cell::new(buffers.iter().map(|buffer| buffer.len()).sum());
        let mut rest = buffers;
        let mut sender = None;
        let mut message = Message { data: 0, ancillary: Vec::new(), flags: 0, address: None };
        message.data = self.read_with(&fd, timeout, flags, &wanted, |_| {
            let flags = flags | libc::MSG_DONTWAIT;
            let received = rawopt::recvmsg(fd.as_fd(), rest, control, flags)?;
            let room = rest.iter().map(|buffer| buffer.len()).sum();
            IoSliceMut::advance_slices(&mut rest, received.count.min(room));
            message.flags |= received.flags;
            sender = Some(received.name);
            for control in received.control {
                match control {
                    Control::Fds(fds) => {
                        message.ancillary.push(Ancillary::Fds(fds));
                        // The kernel does not wait past descriptors, even with MSG_WAITALL.
                        wanted.set(0);
                    }
                    Control::Raw { level, kind, data } => {
                        message.ancillary.push(Ancillary::Raw { level, kind, data });
                    }
                }
            }
            Ok(received.count)
        })?;
        message.address = sender_address(sender)?;
        Ok(message)
    }

    fn sendmsg(
        &self,
        buffers: &[IoSlice<'_>],
        ancdata: &[AncillaryArg<'_>],
        flags: i32,
        to: Option<&Name>,
    ) -> Result<usize> {
        let (first, later) = lay_out(ancdata)?;
        let (fd, timeout) = self.begin()?;
        let sender = Sender::new(&fd, effective(timeout, flags, 0), flags, to);
        let wanted = buffers.iter().map(|buffer| buffer.len()).sum();
        self.write_with(&sender, wanted, |done| {
            let mut buffers = buffers.to_vec();
            let mut rest = buffers.as_mut_slice();
            IoSlice::advance_slices(&mut rest, done);
            sender.sendmsg(rest, if done == 0 { &first } else { &later })
        })
    }
}

/// The control messages that go with the first bytes, and those for the rest.
fn lay_out(ancdata: &[AncillaryArg<'_>]) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for item in ancdata {
        match *item {
            AncillaryArg::Fds(fds) => {
                let numbers: Vec<u8> =
                    fds.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()).collect();
                rawopt::push_control(&mut first, libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers);
            }
            AncillaryArg::Raw { level, kind, data } => {
                rawopt::push_control(&mut first, level, kind, data);
                if (level, kind) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                    rawopt::push_control(&mut later, level, kind, data);
                }
            }
        }
    }
    if i32::try_from(first.len()).is_err() {
        return Err(Error::raised(ErrorKind::OSError, "too much ancillary data"));
    }
    Ok((first, later))
}

fn control_buffer(ancbufsize: isize) -> Result<Vec<u8>> {
    match i32::try_from(ancbufsize) {
        Ok(size @ 0..) => zeroed(size.cast_unsigned() as usize),
        _ => Err(Error::value("invalid ancillary data buffer length")),
    }
}
