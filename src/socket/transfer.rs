//! Moving bytes: `recv`, `recvfrom`, `send`, `sendall` and `sendto` around the one engine.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{self, RecvFlags, SendFlags, SocketAddrAny};

use super::inner::Inner;
use super::wait::{Interest, Waiter};
use super::{Address, Error, ErrorKind, Result, SocketType};
use crate::python::Timeout;

impl Inner {
    /// Receives into `buffer`, whose length is the limit. An empty one makes no system call.
    pub(super) fn recv_into(&self, buffer: &mut [u8], flags: i32) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let (fd, timeout) = self.begin()?;
        let timeout = effective(timeout, flags);
        let mut waiter = Waiter::begin(fd.as_fd(), timeout);
        let wanted = buffer.len();
        let mut attempt = |done: usize| {
            let (count, _) = net::recv(&fd, &mut buffer[done..], recv_flags(flags))?;
            Ok(count)
        };
        if self.waits_for_all(timeout, flags) {
            return waiter.run_to_the_end(Interest::Readable, wanted, attempt);
        }
        waiter.run(Interest::Readable, || attempt(0))
    }

    /// Receives at most `limit` bytes into a new vector. A limit of 0 makes no system call.
    pub(super) fn recv(&self, limit: usize, flags: i32) -> Result<Vec<u8>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut data = Vec::new();
        self.receive(limit, flags, |fd, space, flags| {
            let ((filled, _), count) = net::recv(fd, space, flags)?;
            data.extend_from_slice(filled);
            Ok(count)
        })?;
        Ok(data)
    }

    /// As `recv`, with the sender. A limit of 0 does make the call, and takes a datagram.
    pub(super) fn recvfrom(&self, limit: usize, flags: i32) -> Result<(Vec<u8>, Option<Address>)> {
        let mut data = Vec::new();
        let mut sender = None;
        self.receive(limit, flags, |fd, space, flags| {
            let ((filled, _), count, from) = net::recvfrom(fd, space, flags)?;
            data.extend_from_slice(filled);
            sender = from;
            Ok(count)
        })?;
        let sender = sender.map(|address| Address::from_kernel(Some(address))).transpose()?;
        Ok((data, sender))
    }

    /// One receiving call with an uninitialized scratch buffer of `limit` bytes.
    fn receive(
        &self,
        limit: usize,
        flags: i32,
        mut call: impl FnMut(
            BorrowedFd<'_>,
            &mut [MaybeUninit<u8>],
            RecvFlags,
        ) -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        let (fd, timeout) = self.begin()?;
        let timeout = effective(timeout, flags);
        let mut scratch = Vec::new();
        scratch
            .try_reserve_exact(limit)
            .map_err(|_| Error::raised(ErrorKind::MemoryError, "the buffer cannot be allocated"))?;
        // The capacity may exceed the limit, which is a promise to the caller.
        let space: &mut [MaybeUninit<u8>] = &mut scratch.spare_capacity_mut()[..limit];
        if flags & libc::MSG_TRUNC != 0 {
            // On a stream the flag throws the bytes away but counts them: without this the caller
            // would be shown uninitialised memory (which CPython does).
            space.fill(MaybeUninit::new(0));
        }
        let mut waiter = Waiter::begin(fd.as_fd(), timeout);
        let mut attempt = |done: usize| call(fd.as_fd(), &mut space[done..], recv_flags(flags));
        if self.waits_for_all(timeout, flags) {
            return waiter.run_to_the_end(Interest::Readable, limit, attempt);
        }
        waiter.run(Interest::Readable, || attempt(0))
    }

    /// Sends once; in blocking mode a stream takes everything, like a blocking descriptor.
    pub(super) fn send(
        &self,
        data: &[u8],
        flags: i32,
        to: Option<&SocketAddrAny>,
    ) -> Result<usize> {
        let (fd, timeout) = self.begin()?;
        let timeout = effective(timeout, flags);
        let mut waiter = Waiter::begin(fd.as_fd(), timeout);
        let attempt = |data: &[u8]| match to {
            Some(address) => net::sendto(&fd, data, send_flags(flags), address),
            None => net::send(&fd, data, send_flags(flags)),
        };
        if timeout == Timeout::Blocking && self.kind == SocketType::Stream {
            let wanted = data.len();
            return waiter
                .run_to_the_end(Interest::Writable, wanted, |done| attempt(&data[done..]));
        }
        waiter.run(Interest::Writable, || attempt(data))
    }

    /// Sends until everything is queued, under one deadline, with at least one system call.
    pub(super) fn sendall(&self, data: &[u8], flags: i32) -> Result<()> {
        let (fd, timeout) = self.begin()?;
        let mut waiter = Waiter::begin(fd.as_fd(), effective(timeout, flags));
        let mut rest = data;
        loop {
            let sent =
                waiter.run(Interest::Writable, || net::send(&fd, rest, send_flags(flags)))?;
            rest = &rest[sent..];
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// MSG_WAITALL works in blocking mode only, and never for datagrams. Together with MSG_PEEK it
    /// is not imitated: what is there is peeked at, since data that stays cannot be waited past.
    fn waits_for_all(&self, timeout: Timeout, flags: i32) -> bool {
        timeout == Timeout::Blocking
            && self.kind == SocketType::Stream
            && flags & libc::MSG_WAITALL != 0
            && flags & libc::MSG_PEEK == 0
    }
}

/// The timeout of a call with these flags.
///
/// MSG_DONTWAIT makes a single call non-blocking in blocking mode; in timeout mode the poll comes
/// first and EAGAIN means "keep waiting", so there the flag has no effect. Reading
/// the error queue never blocks in the kernel, with or without the flag.
fn effective(timeout: Timeout, flags: i32) -> Timeout {
    match timeout {
        Timeout::Blocking if flags & (libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE) != 0 => {
            Timeout::NonBlocking
        }
        _ => timeout,
    }
}

/// Adds MSG_NOSIGNAL: Python ignores SIGPIPE for the whole process, which a library must not do.
fn send_flags(flags: i32) -> SendFlags {
    SendFlags::from_bits_retain(flags.cast_unsigned()) | SendFlags::NOSIGNAL
}

fn recv_flags(flags: i32) -> RecvFlags {
    RecvFlags::from_bits_retain(flags.cast_unsigned())
}
