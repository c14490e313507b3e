//! Messages with ancillary data: what `recvmsg` and `sendmsg` give and take in the three modes.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use saltecho::socket::{
    Address, Ancillary, AncillaryArg, ErrorKind, Family, IPPROTO_IPV6, IPV6_HOPLIMIT,
    IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT,
    MSG_PEEK, MSG_TRUNC, MSG_WAITALL, Result, SCM_CREDENTIALS, SCM_RIGHTS, SO_PASSCRED, SOL_SOCKET,
    ServerOptions, Socket, SocketType, cmsg_len, cmsg_space, create_connection, create_server,
    recv_fds, send_fds, socketpair, socketpair_with,
};

/// A pipe's two ends.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("a pipe can be had");
    (reader.into(), writer.into())
}

fn udp(family: Family, host: &str) -> Result<Socket> {
    let socket = Socket::new(family, SocketType::Datagram)?;
    socket.bind((host, 0))?;
    Ok(socket)
}

/// Counts the other descriptors of this process that are the same open file or pipe.
fn holders_of(fd: &OwnedFd) -> usize {
    let link = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    let this = link(fd.as_raw_fd()).expect("it is open");
    let all = std::fs::read_dir("/proc/self/fd").expect("a directory");
    let links = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| *link == this).count() - 1
}

fn raw(ancillary: &[Ancillary]) -> Vec<(i32, i32, Vec<u8>)> {
    let of = |item: &Ancillary| match item {
        Ancillary::Raw { level, kind, data } => (*level, *kind, data.clone()),
        Ancillary::Fds(fds) => panic!("descriptors: {fds:?}"),
    };
    ancillary.iter().map(of).collect()
}

#[test]
fn a_message_has_data_flags_and_a_sender() -> Result<()> {
    let (a, b) = (udp(Family::Inet, "127.0.0.1")?, udp(Family::Inet, "127.0.0.1")?);
    let pieces = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"datagram")];
    for (bufsize, data, flags) in [(64, &b"one datagram"[..], 0), (5, b"one d", MSG_TRUNC)] {
        assert_eq!(a.sendmsg_to(&pieces, &[], 0, b.getsockname()?)?, 12);
        let message = b.recvmsg(bufsize, 0, 0)?;
        assert_eq!((&*message.data, message.flags), (data, flags));
        assert_eq!(message.address, Some(a.getsockname()?));
        assert!(message.ancillary.is_empty());
    }
    a.sendto(b"into", b.getsockname()?)?;
    let mut memory = [b'.'; 6];
    assert_eq!(b.recvfrom_into(&mut memory)?, (4, Some(a.getsockname()?)));
    assert_eq!(&memory, b"into..");
    Ok(())
}

#[test]
fn a_stream_has_no_sender_and_an_end() -> Result<()> {
    let server = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let a = create_connection(server.getsockname()?, None, None)?;
    let (b, _) = server.accept()?;
    a.sendmsg(&[IoSlice::new(b"abc"), IoSlice::new(b"def")], &[], 0)?;
    a.close();
    let (mut first, mut second) = ([0; 4], [0; 4]);
    let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    let message = b.recvmsg_into(&mut buffers, 0, MSG_WAITALL)?;
    assert_eq!((message.data, message.address), (6, None));
    assert_eq!((&first, &second), (b"abcd", b"ef\0\0"));
    let message = b.recvmsg(64, 64, 0)?;
    assert_eq!((&*message.data, message.flags, message.address), (&b""[..], 0, None));
    Ok(())
}

#[test]
fn messages_wait_as_the_mode_says() -> Result<()> {
    let (a, b) = socketpair()?;
    let kind = |error: saltecho::socket::Error| (error.kind(), error.errno());
    let big = vec![b'x'; 4_000_000];
    let half = IoSlice::new(&big[..2_000_000]);

    b.setblocking(false)?;
    a.setblocking(false)?;
    let nothing = b.recvmsg(1, 0, 0).map_err(kind).expect_err("nothing is there");
    assert_eq!(nothing, (ErrorKind::BlockingIOError, Some(11)));
    let mut queued = 0;
    let full = loop {
        match a.sendmsg(&[half, half], &[], 0) {
            Ok(taken) => queued += taken,
            Err(error) => break kind(error),
        }
    };
    assert!(0 < queued && queued < big.len(), "a part was taken: {queued}");
    assert_eq!(full, (ErrorKind::BlockingIOError, Some(11)));

    a.settimeout(Some(0.01))?;
    let full = a.sendmsg(&[half], &[], 0).map_err(kind);
    assert_eq!(full, Err((ErrorKind::TimeoutError, None)));
    while b.recvmsg(65_536, 0, 0).is_ok() {}
    b.settimeout(Some(0.01))?;
    let nothing = b.recvmsg(1, 0, MSG_DONTWAIT).map_err(kind).map(|_| ());
    assert_eq!(nothing, Err((ErrorKind::TimeoutError, None)), "the flag has no effect");

    b.setblocking(true)?;
    let nothing = b.recvmsg(1, 0, MSG_DONTWAIT).map_err(kind).map(|_| ());
    assert_eq!(nothing, Err((ErrorKind::BlockingIOError, Some(11))));
    a.setblocking(true)?;
    let received = thread::scope(|scope| {
        let receiving = scope.spawn(|| b.recvmsg(4_000_000, 0, MSG_WAITALL));
        assert_eq!(a.sendmsg(&[half, half], &[], 0), Ok(4_000_000), "a blocking stream takes all");
        receiving.join().expect("recvmsg does not panic")
    })?;
    assert!(received.data == big, "and MSG_WAITALL waits for all");
    Ok(())
}

#[test]
fn descriptors_are_passed_on_and_belong_to_the_receiver() -> Result<()> {
    let (a, b) = socketpair()?;
    let (reader, writer) = pipe();
    let fds = [reader.as_fd(), writer.as_fd()];
    for (flags, inheritable) in [(0, true), (MSG_CMSG_CLOEXEC, false)] {
        assert_eq!(send_fds(&a, &[IoSlice::new(b"two")], &fds)?, 3);
        let (message, received) = recv_fds(&b, 64, 2, flags)?;
        assert_eq!((&*message.data, message.flags & MSG_CTRUNC), (&b"two"[..], 0));
        assert!(message.ancillary.is_empty(), "they are in the second result");
        assert_eq!((received.len(), holders_of(&reader)), (2, 3));
        for fd in &received {
            let flags = rustix::io::fcntl_getfd(fd).expect("it is open");
            assert_eq!(!flags.contains(rustix::io::FdFlags::CLOEXEC), inheritable);
        }
        drop(received);
        assert_eq!(holders_of(&reader), 1, "the other end of the pipe alone");
    }
    // As an array of numbers, as Python has them.
    let data = [reader.as_raw_fd().to_ne_bytes(), writer.as_raw_fd().to_ne_bytes()].concat();
    let item = AncillaryArg::Raw { level: SOL_SOCKET, kind: SCM_RIGHTS, data: &data };
    a.sendmsg(&[IoSlice::new(b"x")], &[item], 0)?;
    let message = b.recvmsg(1, 1_000, 0)?;
    assert!(matches!(&message.ancillary[..], [Ancillary::Fds(fds)] if fds.len() == 2));
    Ok(())
}

#[test]
fn descriptors_beyond_the_limit_are_closed_and_told_of() -> Result<()> {
    let (a, b) = socketpair()?;
    let (reader, writer) = pipe();
    for (room, kept) in [(0, 0), (cmsg_len(0) + 3, 0), (cmsg_len(4), 1), (cmsg_space(4), 2)] {
        send_fds(&a, &[IoSlice::new(b"x")], &[reader.as_fd(), writer.as_fd()])?;
        let message = b.recvmsg(1, isize::try_from(room).expect("a small number"), 0)?;
        let received = message.ancillary.iter().map(|item| match item {
            Ancillary::Fds(fds) => fds.len(),
            Ancillary::Raw { .. } => panic!("{item:?}"),
        });
        assert_eq!(received.sum::<usize>(), kept, "in {room} bytes");
        let truncated = message.flags & MSG_CTRUNC != 0;
        assert_eq!((truncated, holders_of(&reader)), (kept < 2, 1 + kept), "in {room} bytes");
    }
    // What a plain recv is not interested in is closed as well.
    send_fds(&a, &[IoSlice::new(b"x")], &[reader.as_fd()])?;
    assert_eq!((b.recv(1)?, holders_of(&reader)), (b"x".to_vec(), 1));
    Ok(())
}

#[test]
fn descriptors_end_a_read_that_waits_for_more() -> Result<()> {
    let (a, b) = socketpair()?;
    let (reader, _writer) = pipe();
    send_fds(&a, &[IoSlice::new(b"ab")], &[reader.as_fd()])?;
    a.sendall(b"cd")?;
    let (message, fds) = recv_fds(&b, 4, 1, MSG_WAITALL)?;
    assert_eq!((&*message.data, fds.len()), (&b"ab"[..], 1));
    assert_eq!(b.recv(4)?, b"cd");
    Ok(())
}

#[test]
fn credentials_are_those_of_the_sender() -> Result<()> {
    let (a, b) = socketpair_with(Family::Unix, SocketType::Datagram, 0)?;
    b.setsockopt(SOL_SOCKET, SO_PASSCRED, true)?;
    a.send(b"it is me")?;
    let space = isize::try_from(cmsg_space(12)).expect("a small number");
    let message = b.recvmsg(64, space, MSG_PEEK)?;
    assert_eq!(message.data, b"it is me");
    let [(SOL_SOCKET, SCM_CREDENTIALS, data)] = &raw(&message.ancillary)[..] else {
        panic!("{message:?}")
    };
    assert_eq!(data[..4], std::process::id().to_ne_bytes());
    // Given by the sender itself, and the kernel agrees.
    let item = AncillaryArg::Raw { level: SOL_SOCKET, kind: SCM_CREDENTIALS, data };
    assert_eq!(a.sendmsg(&[IoSlice::new(b"still me")], &[item], 0)?, 8);
    b.recv(64)?;
    assert_eq!(raw(&b.recvmsg(64, space, 0)?.ancillary), raw(&message.ancillary));
    Ok(())
}

#[test]
fn an_ipv6_datagram_has_its_hop_limit_and_class() -> Result<()> {
    let (a, b) = (udp(Family::Inet6, "::1")?, udp(Family::Inet6, "::1")?);
    b.setsockopt(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, true)?;
    b.setsockopt(IPPROTO_IPV6, IPV6_RECVTCLASS, true)?;
    let (hops, class) = (7i32.to_ne_bytes(), 0x28i32.to_ne_bytes());
    let items = [(IPV6_HOPLIMIT, &hops), (IPV6_TCLASS, &class)]
        .map(|(kind, data)| AncillaryArg::Raw { level: IPPROTO_IPV6, kind, data });
    let expected =
        [(IPPROTO_IPV6, IPV6_HOPLIMIT, hops.to_vec()), (IPPROTO_IPV6, IPV6_TCLASS, class.to_vec())];
    let room = 2 * cmsg_space(4);
    for (room, kept, cut) in
        [(room, 2, false), (cmsg_space(4), 1, true), (cmsg_space(4) + cmsg_len(2), 2, true)]
    {
        a.sendmsg_to(&[IoSlice::new(b"x")], &items, 0, b.getsockname()?)?;
        let message = b.recvmsg(1, isize::try_from(room).expect("a small number"), 0)?;
        assert_eq!(message.flags & MSG_CTRUNC != 0, cut, "in {room} bytes");
        let mut expected = expected[..kept].to_vec();
        if kept == 2 && cut {
            expected[1].2.truncate(2);
        }
        assert_eq!(raw(&message.ancillary), expected, "in {room} bytes");
    }
    Ok(())
}

#[test]
fn sizes_of_a_message_are_checked_first() -> Result<()> {
    let (_, b) = socketpair()?;
    b.close();
    for (bufsize, ancbufsize, text) in [
        (-1, 0, "negative buffer size in recvmsg()"),
        (1, -1, "invalid ancillary data buffer length"),
        (1, 1 << 31, "invalid ancillary data buffer length"),
    ] {
        let error = b.recvmsg(bufsize, ancbufsize, 0).expect_err("out of range");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::ValueError, text));
    }
    let error = b.recvmsg(1, 0, 0).expect_err("it is closed");
    assert_eq!(error.errno(), Some(9));
    // What Python's CMSG_LEN and CMSG_SPACE give on a 64-bit machine.
    let sizes = [0, 1, 4, 8, 9].map(|length| (cmsg_len(length), cmsg_space(length)));
    assert_eq!(sizes, [(16, 16), (17, 24), (20, 24), (24, 24), (25, 32)]);
    Ok(())
}

#[test]
fn a_message_goes_to_the_address_given() -> Result<()> {
    let receiver = udp(Family::Inet, "127.0.0.1")?;
    let sender = Socket::new(Family::Inet, SocketType::Datagram)?;
    let error = sender.sendmsg(&[IoSlice::new(b"x")], &[], 0).expect_err("to no one");
    assert_eq!(error.errno(), Some(89), "EDESTADDRREQ");
    let error = sender.sendmsg_to(&[], &[], 0, ("127.0.0.1", 65_536)).expect_err("no such port");
    assert_eq!(error.to_string(), "sendmsg(): port must be 0-65535.");
    let Some(Address::V4(to)) = receiver.getsockname().ok() else { panic!("an IPv4 socket") };
    assert_eq!(sender.sendmsg_to(&[], &[], 0, ("127.0.0.1", to.port()))?, 0);
    assert_eq!(
        receiver.recvmsg(1, 0, 0)?.address,
        Some(Address::V4(std::net::SocketAddrV4::new(
            *to.ip(),
            sender.getsockname()?.port().expect("a port"),
        )))
    );
    Ok(())
}
