//! Moving bytes: `recv`, `send` and their like, and the engine that they share.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags};

use super::inner::Inner;
use super::wait::{Interest, Waiter};
use super::{Address, AddressArg, Error, ErrorKind, Family, Result, Socket, SocketType};
use crate::python::Timeout;
use crate::rawopt::{self, Name};

impl Socket {
    /// `recv(n)`: up to `n` bytes, as soon as there are any; empty at the end of a stream.
    ///
    /// `recv(0)` returns empty at once, without a system call, even on a closed socket.
    ///
    /// # Errors
    /// ValueError for a negative `n`, OverflowError for one within 33 bytes of 2^63 and MemoryError
    /// for one that cannot be had, before anything else; BlockingIOError or TimeoutError by
    /// mode; ConnectionResetError once; ENOTCONN at once on an unconnected stream.
    pub fn recv(&self, n: isize) -> Result<Vec<u8>> {
        self.recv_with_flags(n, 0)
    }

    /// `recv(n, flags)`, with flags like [`MSG_PEEK`](super::MSG_PEEK).
    ///
    /// MSG_DONTWAIT and MSG_WAITALL have an effect in blocking mode only, as in Python.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_with_flags(&self, n: isize, flags: i32) -> Result<Vec<u8>> {
        self.inner.recv(limit_of(n, "negative buffersize in recv")?, flags)
    }

    /// `recv_into(buffer)`: like [`recv`](Self::recv) into the caller's buffer; returns the count.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.inner.recv_into(buffer, 0)
    }

    /// `recv_into(buffer, 0, flags)`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_into_with_flags(&self, buffer: &mut [u8], flags: i32) -> Result<usize> {
        self.inner.recv_into(buffer, flags)
    }

    /// `recvfrom(n)`: the data and its sender, `None` on a stream.
    ///
    /// Unlike `recv`, a limit of 0 makes the system call: it waits like any other read and consumes a
    /// datagram. A datagram longer than `n` is truncated; the rest is lost.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), with its own text for a negative `n`.
    pub fn recvfrom(&self, n: isize) -> Result<(Vec<u8>, Option<Address>)> {
        self.recvfrom_with_flags(n, 0)
    }

    /// `recvfrom(n, flags)`.
    ///
    /// # Errors
    /// As [`recvfrom`](Self::recvfrom).
    pub fn recvfrom_with_flags(&self, n: isize, flags: i32) -> Result<(Vec<u8>, Option<Address>)> {
        self.inner.recvfrom(limit_of(n, "negative buffersize in recvfrom")?, flags)
    }

    /// `recvfrom_into(buffer)`: as [`recvfrom`](Self::recvfrom) into the caller's memory; returns
    /// the count and the sender.
    ///
    /// # Errors
    /// As [`recvfrom`](Self::recvfrom).
    pub fn recvfrom_into(&self, buffer: &mut [u8]) -> Result<(usize, Option<Address>)> {
        self.recvfrom_into_with_flags(buffer, 0)
    }

    /// `recvfrom_into(buffer, 0, flags)`.
    ///
    /// # Errors
    /// As [`recvfrom`](Self::recvfrom).
    pub fn recvfrom_into_with_flags(
        &self,
        buffer: &mut [u8],
        flags: i32,
    ) -> Result<(usize, Option<Address>)> {
        let message = self.inner.recvmsg(&mut [IoSliceMut::new(buffer)], &mut [], flags)?;
        Ok((message.data, message.address))
    }

    /// `send(data)`: the number of bytes taken.
    ///
    /// In blocking mode a stream takes everything; in the other modes as much as fits at once. An
    /// empty `send` on a full stream returns 0 in non-blocking mode but times out in timeout mode.
    ///
    /// # Errors
    /// BlockingIOError or TimeoutError depending on the mode; BrokenPipeError on an unconnected
    /// stream, after `shutdown`, or after a reported reset; EDESTADDRREQ for an unconnected datagram
    /// socket.
    pub fn send(&self, data: &[u8]) -> Result<usize> {
        self.inner.send(data, 0, None)
    }

    /// `send(data, flags)`. MSG_NOSIGNAL is always added: no SIGPIPE, as in Python.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with_flags(&self, data: &[u8], flags: i32) -> Result<usize> {
        self.inner.send(data, flags, None)
    }

    /// `sendall(data)`: sends until everything is queued in the kernel.
    ///
    /// Like the loop `while data: data = data[send(data):]`, with three differences: it makes at least
    /// one call, also for empty data; in timeout mode one deadline covers all of it; and a failure
    /// does not report the length of the part already sent.
    ///
    /// # Errors
    /// As [`send`](Self::send); BlockingIOError in non-blocking mode as soon as the kernel is full.
    pub fn sendall(&self, data: &[u8]) -> Result<()> {
        self.inner.sendall(data, 0)
    }

    /// `sendall(data, flags)`.
    ///
    /// # Errors
    /// As [`sendall`](Self::sendall).
    pub fn sendall_with_flags(&self, data: &[u8], flags: i32) -> Result<()> {
        self.inner.sendall(data, flags)
    }

    /// `sendto(data, address)`: one datagram. On a connected stream the address is ignored.
    ///
    /// # Errors
    /// As [`send`](Self::send), EMSGSIZE for a datagram over 65507 bytes, and those of
    /// [`bind`](Self::bind) for the address.
    pub fn sendto<'a>(&self, data: &[u8], address: impl Into<AddressArg<'a>>) -> Result<usize> {
        self.sendto_with_flags(data, 0, address)
    }

    /// `sendto(data, flags, address)`.
    ///
    /// # Errors
    /// As [`sendto`](Self::sendto).
    pub fn sendto_with_flags<'a>(
        &self,
        data: &[u8],
        flags: i32,
        address: impl Into<AddressArg<'a>>,
    ) -> Result<usize> {
        let address = address.into().resolve(self.inner.family, "sendto")?.to_kernel()?;
        self.inner.send(data, flags, Some(&address))
    }
}

impl Inner {
    /// Receives into `buffer`, whose length is the limit. An empty one makes no system call.
    pub(super) fn recv_into(&self, buffer: &mut [u8], flags: i32) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let (fd, timeout) = self.begin()?;
        let wanted = Cell::new(buffer.len());
        self.read_with(&fd, timeout, flags, &wanted, |done| {
            let (count, _) = net::recv(&fd, &mut buffer[done..], recv_flags(flags))?;
            Ok(count)
        })
    }

    /// Receives at most `limit` bytes into a new vector. A limit of 0 makes no system call.
    fn recv(&self, limit: usize, flags: i32) -> Result<Vec<u8>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut data = Vec::new();
        self.receive(limit, flags, |fd, space| {
            if flags & libc::MSG_TRUNC != 0 {
                // On a stream the flag throws the bytes away but counts them: without this the
                // caller would be shown uninitialised memory (which CPython does).
                space.fill(MaybeUninit::new(0));
            }
            let ((filled, _), count) = net::recv(fd, space, recv_flags(flags))?;
            data.extend_from_slice(filled);
            Ok(count)
        })?;
        Ok(data)
    }

    /// As `recv`, with the sender. A limit of 0 does make the call, and takes a datagram.
    fn recvfrom(&self, limit: usize, flags: i32) -> Result<(Vec<u8>, Option<Address>)> {
        let mut data = Vec::new();
        let mut sender = None;
        self.receive(limit, flags, |fd, space| {
            let (filled, count, from) = rawopt::recvfrom(fd, space, flags | libc::MSG_DONTWAIT)?;
            data.extend_from_slice(filled);
            sender = Some(from);
            Ok(count)
        })?;
        Ok((data, sender_address(sender)?))
    }

    /// One receiving call with a scratch buffer of `limit` bytes, uninitialized before the kernel
    /// writes to it.
    fn receive(
        &self,
        limit: usize,
        flags: i32,
        mut call: impl FnMut(BorrowedFd<'_>, &mut [MaybeUninit<u8>]) -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        let (fd, timeout) = self.begin()?;
        let mut scratch = Vec::new();
        scratch.try_reserve_exact(limit).map_err(|_| Error::no_memory())?;
        // The capacity may exceed the limit, which is a promise to the caller.
        let space: &mut [MaybeUninit<u8>] = &mut scratch.spare_capacity_mut()[..limit];
        let wanted = Cell::new(limit);
        self.read_with(&fd, timeout, flags, &wanted, |done| call(fd.as_fd(), &mut space[done..]))
    }

    /// Goes round `attempt`, which is given the count so far, as the mode and the flags say.
    pub(super) fn read_with(
        &self,
        fd: &OwnedFd,
        timeout: Timeout,
        flags: i32,
        wanted: &Cell<usize>,
        mut attempt: impl FnMut(usize) -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        // Neither the error queue nor urgent data ever blocks in the kernel.
        let never_waits = libc::MSG_ERRQUEUE | libc::MSG_OOB;
        let timeout = effective(timeout, flags, never_waits);
        let mut waiter = Waiter::begin(self, fd.as_fd(), timeout);
        // MSG_WAITALL works in blocking mode only, and never for datagrams. Together with MSG_PEEK
        // it is not imitated: data that stays cannot be waited past.
        let waits_for_all = timeout == Timeout::Blocking
            && self.kind == SocketType::Stream
            && flags & (libc::MSG_WAITALL | libc::MSG_PEEK) == libc::MSG_WAITALL;
        if waits_for_all {
            return waiter.run_to_the_end(Interest::Readable, wanted, attempt);
        }
        waiter.run(Interest::Readable, || attempt(0))
    }

    /// Sends once; in blocking mode a stream takes everything, like a blocking descriptor.
    pub(super) fn send(&self, data: &[u8], flags: i32, to: Option<&Name>) -> Result<usize> {
        let (fd, timeout) = self.begin()?;
        let timeout = effective(timeout, flags, 0);
        let sender = Sender::new(&fd, timeout, flags, to);
        self.write_with(&sender, data.len(), |done| sender.send(&data[done..]))
    }

    /// Goes round `attempt`, which is given the count so far and moves the sender's data.
    pub(super) fn write_with(
        &self,
        sender: &Sender<'_>,
        wanted: usize,
        mut attempt: impl FnMut(usize) -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        let mut waiter = Waiter::begin(self, sender.fd.as_fd(), sender.timeout);
        match (self.kind, self.family, sender.to) {
            (SocketType::Stream, ..) if sender.timeout == Timeout::Blocking => {
                waiter.run_to_the_end(Interest::Writable, &Cell::new(wanted), attempt)
            }
            (SocketType::Datagram, Family::Unix, Some(to)) => {
                // poll(2) calls this socket writable however full the queue of the addressee is,
                // but not a socket that is connected to it.
                let mut probe = None;
                waiter.run_with(
                    Interest::Writable,
                    || attempt(0),
                    |waiter| {
                        waiter.wait(Interest::Writable, Errno::AGAIN)?;
                        let probe = match &mut probe {
                            Some(probe) => probe,
                            none => none.insert(connected_probe(to)?),
                        };
                        waiter.wait_for(probe.as_fd(), Interest::Writable, Errno::AGAIN)
                    },
                )
            }
            _ => waiter.run(Interest::Writable, || attempt(0)),
        }
    }

    /// Sends until everything is queued, under one deadline, with at least one system call.
    fn sendall(&self, data: &[u8], flags: i32) -> Result<()> {
        let (fd, timeout) = self.begin()?;
        let sender = Sender::new(&fd, effective(timeout, flags, 0), flags, None);
        let mut waiter = Waiter::begin(self, fd.as_fd(), sender.timeout);
        let mut rest = data;
        loop {
            let sent = waiter.run(Interest::Writable, || sender.send(rest))?;
            rest = &rest[sent..];
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}

/// The state that the attempts of one sending call share.
pub(super) struct Sender<'a> {
    fd: &'a OwnedFd,
    timeout: Timeout,
    flags: Cell<i32>,
    to: Option<&'a Name>,
}

impl<'a> Sender<'a> {
    /// Adds MSG_NOSIGNAL: Python ignores SIGPIPE for the whole process, which a library must not do.
    pub(super) fn new(fd: &'a OwnedFd, timeout: Timeout, flags: i32, to: Option<&'a Name>) -> Self {
        let flags = Cell::new(flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
        Self { fd, timeout, flags, to }
    }

    fn send(&self, data: &[u8]) -> rustix::io::Result<usize> {
        self.attempt(|flags| match self.to {
            Some(name) => rawopt::sendto(self.fd.as_fd(), data, flags, name),
            None => net::send(self.fd, data, SendFlags::from_bits_retain(flags.cast_unsigned())),
        })
    }

    pub(super) fn sendmsg(
        &self,
        data: &[IoSlice<'_>],
        control: &[u8],
    ) -> rustix::io::Result<usize> {
        self.attempt(|flags| rawopt::sendmsg(self.fd.as_fd(), data, control, flags, self.to))
    }

    /// One system call. With MSG_FASTOPEN or TCP_FASTOPEN_CONNECT it may begin a connection, which
    /// a blocking call then waits for as it waits for room.
    fn attempt(
        &self,
        call: impl FnOnce(i32) -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<usize> {
        match call(self.flags.get()) {
            Err(Errno::INPROGRESS) if self.timeout == Timeout::Blocking => {
                self.flags.set(self.flags.get() & !libc::MSG_FASTOPEN);
                Err(Errno::AGAIN)
            }
            outcome => outcome,
        }
    }
}

/// A socket connected to a Unix datagram socket, which is writable once that one's queue has room.
fn connected_probe(to: &Name) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = net::socket_with(AddressFamily::UNIX, net::SocketType::DGRAM, flags, None)?;
    rawopt::connect(probe.as_fd(), to)?;
    Ok(probe)
}

/// The timeout of a call with these flags, of which those in `never_waits` exclude waiting.
///
/// MSG_DONTWAIT makes a single call non-blocking in blocking mode; in timeout mode the poll comes
/// first and EAGAIN means "keep waiting", so there the flag has no effect.
pub(super) fn effective(timeout: Timeout, flags: i32, never_waits: i32) -> Timeout {
    match timeout {
        Timeout::Blocking if flags & (libc::MSG_DONTWAIT | never_waits) != 0 => {
            Timeout::NonBlocking
        }
        _ => timeout,
    }
}

/// The sender that came with received data; none on a connected stream.
pub(super) fn sender_address(name: Option<Name>) -> Result<Option<Address>> {
    name.filter(|name| !name.as_bytes().is_empty()).as_ref().map(Address::from_kernel).transpose()
}

/// The limit that a caller gave as Python's `bufsize`.
pub(super) fn limit_of(n: isize, if_negative: &'static str) -> Result<usize> {
    /// Bytes that CPython adds to the length of a bytes object.
    const OBJECT: usize = 33;
    let limit = usize::try_from(n).map_err(|_| Error::value(if_negative))?;
    if limit > isize::MAX.cast_unsigned() - OBJECT {
        return Err(Error::raised(ErrorKind::OverflowError, "byte string is too large"));
    }
    Ok(limit)
}

/// A buffer of `size` zero bytes, or Python's MemoryError.
pub(super) fn zeroed(size: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(size).map_err(|_| Error::no_memory())?;
    buffer.resize(size, 0);
    Ok(buffer)
}

/// MSG_DONTWAIT is added because a descriptor that was taken over may block.
fn recv_flags(flags: i32) -> RecvFlags {
    RecvFlags::from_bits_retain((flags | libc::MSG_DONTWAIT).cast_unsigned())
}
