//! Facts about Python's socket calls that no recorded scenario covers, mostly because they need two
//! threads, another address family or an option that changes how the kernel waits.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use saltecho::python::Timeout;
use saltecho::socket::{
    Address, ErrorKind, Family, FileOptions, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_WAITALL,
    Result, SO_LINGER, SO_RCVTIMEO, SO_SNDBUF, SOL_SOCKET, ServerOptions, Shutdown, Socket,
    SocketType, create_connection, create_server, socketpair,
};

use super::proc_self::{is_nonblocking, this_thread, wait_until_asleep};

const SHORT: Duration = Duration::from_millis(60);

/// Two connected TCP sockets, optionally with a send buffer size for the first.
fn tcp_pair(sndbuf: Option<i32>) -> Result<(Socket, Socket)> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let a = Socket::new(Family::Inet, SocketType::Stream)?;
    if let Some(size) = sndbuf {
        a.setsockopt(SOL_SOCKET, SO_SNDBUF, size)?;
    }
    a.connect(listener.getsockname()?)?;
    let (b, _) = listener.accept()?;
    Ok((a, b))
}

fn udp() -> Result<Socket> {
    let socket = Socket::new(Family::Inet, SocketType::Datagram)?;
    socket.bind(("127.0.0.1", 0))?;
    Ok(socket)
}

/// A struct timeval as the kernel wants it.
fn timeval(millis: i64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(millis / 1000).to_ne_bytes());
    bytes[8..].copy_from_slice(&(millis % 1000 * 1000).to_ne_bytes());
    bytes
}

fn kind_and_errno<T: std::fmt::Debug>(result: Result<T>) -> (ErrorKind, Option<i32>) {
    let error = result.expect_err("this call fails");
    (error.kind(), error.errno())
}

#[test]
fn the_descriptor_is_non_blocking_in_every_mode() -> Result<()> {
    let (a, b) = tcp_pair(None)?;
    let (c, _d) = socketpair()?;
    for socket in [&a, &b, &c] {
        for seconds in [None, Some(0.0), Some(3.0)] {
            socket.settimeout(seconds)?;
            assert!(is_nonblocking(socket.fileno()), "{seconds:?}");
        }
    }
    Ok(())
}

#[test]
fn so_rcvtimeo_ends_a_blocking_recv_with_eagain() -> Result<()> {
    let (a, _b) = tcp_pair(None)?;
    a.setsockopt(SOL_SOCKET, SO_RCVTIMEO, &timeval(60))?;
    let began = Instant::now();
    assert_eq!(kind_and_errno(a.recv(4)), (ErrorKind::BlockingIOError, Some(11)));
    assert!(began.elapsed() >= SHORT);
    Ok(())
}

#[test]
fn so_rcvtimeo_has_no_effect_in_timeout_mode() -> Result<()> {
    let (a, _b) = tcp_pair(None)?;
    a.setsockopt(SOL_SOCKET, SO_RCVTIMEO, &timeval(1))?;
    a.settimeout(Some(0.06))?;
    let began = Instant::now();
    assert_eq!(kind_and_errno(a.recv(4)), (ErrorKind::TimeoutError, None));
    assert!(began.elapsed() >= SHORT);
    Ok(())
}

#[test]
fn dontwait_has_no_effect_in_timeout_mode() -> Result<()> {
    let (a, _b) = tcp_pair(None)?;
    a.settimeout(Some(0.06))?;
    let began = Instant::now();
    assert_eq!(kind_and_errno(a.recv_with_flags(4, MSG_DONTWAIT)), (ErrorKind::TimeoutError, None));
    assert!(began.elapsed() >= SHORT);
    Ok(())
}

#[test]
fn waitall_is_short_in_timeout_mode() -> Result<()> {
    let (a, b) = socketpair()?;
    a.sendall(b"abc")?;
    b.settimeout(Some(5.0))?;
    assert_eq!(b.recv_with_flags(6, MSG_WAITALL)?, b"abc");
    Ok(())
}

#[test]
fn waitall_in_blocking_mode_ends_with_the_stream() -> Result<()> {
    let (a, b) = socketpair()?;
    a.sendall(b"abc")?;
    a.close();
    let mut buffer = [0; 6];
    assert_eq!(b.recv_into_with_flags(&mut buffer, MSG_WAITALL)?, 3);
    assert_eq!(&buffer[..3], b"abc");
    Ok(())
}

#[test]
fn waitall_with_recvfrom_of_nothing_waits() -> Result<()> {
    let (a, b) = socketpair()?;
    b.setsockopt(SOL_SOCKET, SO_RCVTIMEO, &timeval(60))?;
    assert_eq!(kind_and_errno(b.recvfrom_with_flags(0, MSG_WAITALL)).1, Some(11));
    a.sendall(b"x")?;
    assert_eq!(b.recvfrom_with_flags(0, MSG_WAITALL)?.0, b"");
    Ok(())
}

#[test]
fn trunc_exposes_no_uninitialized_memory() -> Result<()> {
    let (a, b) = tcp_pair(None)?;
    a.sendall(b"secret")?;
    // A stream throws the bytes away and counts them.
    assert_eq!(b.recv_with_flags(6, MSG_TRUNC | MSG_WAITALL)?, [0; 6]);
    let (u, v) = (udp()?, udp()?);
    u.sendto(b"0123456789", v.getsockname()?)?;
    assert_eq!(v.recv_with_flags(4, MSG_TRUNC)?, b"0123");
    Ok(())
}

#[test]
fn a_blocking_connect_waits_for_the_pending_attempt() -> Result<()> {
    let listener = Socket::new(Family::Inet, SocketType::Stream)?;
    listener.bind(("127.0.0.1", 0))?;
    listener.listen(Some(0))?;
    let address = listener.getsockname()?;
    let queued = create_connection(&address, None, None)?;
    let late = Socket::new(Family::Inet, SocketType::Stream)?;
    late.setblocking(false)?;
    assert_eq!(late.connect_ex(&address)?, 115);
    assert_eq!(late.connect_ex(&address)?, 114);
    late.setblocking(true)?;
    thread::scope(|scope| {
        scope.spawn(|| listener.accept().expect("the queued client"));
        late.connect(&address)
    })?;
    assert_eq!(late.getpeername()?, address);
    assert_eq!(late.connect_ex(&address)?, 106);
    drop(queued);
    Ok(())
}

#[test]
fn a_refused_socket_connects_elsewhere_only_after_a_blocking_attempt() -> Result<()> {
    let refusing = Socket::new(Family::Inet, SocketType::Stream)?;
    refusing.bind(("127.0.0.1", 0))?;
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let (refused, listening) = (refusing.getsockname()?, listener.getsockname()?);
    for (seconds, next) in [(None, 0), (Some(5.0), 103)] {
        let socket = Socket::new(Family::Inet, SocketType::Stream)?;
        socket.settimeout(seconds)?;
        assert_eq!(socket.connect_ex(&refused)?, 111);
        // In timeout mode SO_ERROR was read, but the kernel has yet to reset the attempt.
        assert_eq!(socket.connect_ex(&listening)?, next, "{seconds:?}");
    }
    Ok(())
}

#[test]
fn connect_ex_rejects_bad_arguments_too() -> Result<()> {
    let socket = Socket::new(Family::Inet, SocketType::Stream)?;
    let error = socket.connect_ex(("127.0.0.1", 70_000)).expect_err("no such port");
    assert_eq!(error.kind(), ErrorKind::OverflowError);
    assert_eq!(error.to_string(), "connect_ex(): port must be 0-65535.");
    let error = socket.connect_ex(("::1", 80)).expect_err("not an IPv4 host");
    assert_eq!((error.kind().name(), error.errno()), ("gaierror", Some(-9)));
    Ok(())
}

#[test]
fn a_datagram_socket_changes_its_peer_and_still_sends_elsewhere() -> Result<()> {
    let (a, b, c) = (udp()?, udp()?, udp()?);
    for peer in [&b, &c] {
        a.connect(peer.getsockname()?)?;
        assert_eq!(a.getpeername()?, peer.getsockname()?);
        a.send(b"to the peer")?;
        assert_eq!(peer.recv(64)?, b"to the peer");
    }
    a.sendto(b"elsewhere", b.getsockname()?)?;
    assert_eq!(b.recvfrom(64)?, (b"elsewhere".to_vec(), Some(a.getsockname()?)));
    Ok(())
}

#[test]
fn shutting_down_a_listener_ends_accept() -> Result<()> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let address = listener.getsockname()?;
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| listener.accept().map(drop));
        // The outcome is the same whether or not the thread waits already.
        listener.shutdown(Shutdown::Both).expect("a listener can be shut down");
        waiting.join().expect("accept does not panic")
    });
    assert_eq!(kind_and_errno(waiting), (ErrorKind::OSError, Some(22)));
    assert_eq!(kind_and_errno(create_connection(&address, None, None)).1, Some(111));
    Ok(())
}

#[test]
fn one_thread_sends_while_another_receives() -> Result<()> {
    let (a, b) = tcp_pair(Some(32_768))?;
    let data: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    thread::scope(|scope| {
        for socket in [&a, &b] {
            scope.spawn(|| socket.sendall(&data).expect("the other end reads"));
            scope.spawn(|| {
                let mut seen = Vec::new();
                while seen.len() < data.len() {
                    seen.extend(socket.recv(65_536).expect("the other end sends"));
                }
                assert!(seen == data, "what arrived is what was sent");
            });
        }
    });
    Ok(())
}

#[test]
fn a_call_in_progress_outlives_close() -> Result<()> {
    let (a, b) = socketpair()?;
    a.sendall(b"still ")?;
    let received = thread::scope(|scope| {
        let receiving = scope.spawn(|| b.recv_with_flags(15, MSG_WAITALL));
        // Once the first bytes have been sent the other thread is inside its call.
        while b.recv_with_flags(1, MSG_PEEK | MSG_DONTWAIT).is_ok() {
            thread::yield_now();
        }
        b.close();
        assert_eq!(b.fileno(), -1);
        a.sendall(b"delivered").expect("the descriptor lives as long as the call");
        receiving.join().expect("recv does not panic")
    });
    assert_eq!(received?, b"still delivered");
    assert_eq!(a.recv(64)?, b"", "and is gone once the call has ended");
    Ok(())
}

#[test]
fn a_reset_during_a_blocking_send_is_left_for_the_next_call() -> Result<()> {
    let (a, b) = tcp_pair(Some(32_768))?;
    let data = vec![0; 16_000_000];
    let sender = this_thread();
    let sent = thread::scope(|scope| {
        scope.spawn(|| {
            // Some of it has arrived, so the send has started; it cannot end without a reader. The
            // reset must find it asleep.
            b.recv_with_flags(1, MSG_PEEK).expect("something arrives");
            wait_until_asleep(&sender);
            b.setsockopt(SOL_SOCKET, SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]).expect("an option");
            b.close();
        });
        a.send(&data)
    })?;
    assert!(0 < sent && sent < data.len(), "{sent} were taken");
    assert_eq!(kind_and_errno(a.send(b"x")), (ErrorKind::ConnectionResetError, Some(104)));
    assert_eq!(kind_and_errno(a.send(b"x")), (ErrorKind::BrokenPipeError, Some(32)));
    Ok(())
}

#[test]
fn dropping_a_file_flushes_it_and_releases_its_reference() -> Result<()> {
    for mode in ["wb", "w"] {
        let (a, b) = socketpair()?;
        let file = a.makefile(mode, FileOptions::default())?;
        if mode == "wb" {
            file.write(b"tail")?
        } else {
            file.write("tail")?
        };
        a.close();
        assert!(a.fileno() >= 0, "the file keeps it open");
        drop(file);
        assert_eq!(a.fileno(), -1);
        assert_eq!((b.recv(64)?, b.recv(64)?), (b"tail".to_vec(), Vec::new()));
    }
    Ok(())
}

#[test]
fn a_dropped_socket_closes_with_its_last_file() -> Result<()> {
    let (a, b) = socketpair()?;
    let file = a.makefile("rb", FileOptions::default())?;
    drop(a);
    b.sendall(b"line\n")?;
    assert_eq!(file.readline(None)?.into_bytes(), b"line\n");
    drop(file);
    assert_eq!(b.recv(1)?, b"");
    Ok(())
}

#[test]
fn a_file_whose_flush_fails_is_still_closed() -> Result<()> {
    let (a, b) = socketpair()?;
    let file = a.makefile("wb", FileOptions::default())?;
    file.write(b"nobody reads this")?;
    b.close();
    assert_eq!(kind_and_errno(file.close()), (ErrorKind::BrokenPipeError, Some(32)));
    assert!(file.closed());
    a.close();
    assert_eq!(a.fileno(), -1, "its reference is gone");
    Ok(())
}

#[test]
fn a_full_writer_reports_how_much_it_accepted() -> Result<()> {
    let (a, b) = socketpair()?;
    a.setblocking(false)?;
    let filled = std::iter::from_fn(|| a.send(&[0; 4096]).ok()).sum::<usize>();
    let options = FileOptions { buffering: Some(10), ..FileOptions::default() };
    let file = a.makefile("wb", options)?;
    assert_eq!(file.write(b"1234")?, Some(4));
    let error = file.write(b"56789abcdef").expect_err("six of these fit");
    assert_eq!((error.errno(), error.characters_written()), (Some(11), Some(6)));
    assert_eq!(file.flush().expect_err("still full").characters_written(), Some(0));
    let mut drained = 0;
    while drained < filled {
        drained += b.recv(65_536)?.len();
    }
    file.flush()?;
    assert_eq!(b.recv(64)?, b"123456789a");
    Ok(())
}

#[test]
fn detach_leaves_the_descriptor_as_python_does() -> Result<()> {
    for (seconds, nonblocking) in [(None, false), (Some(0.0), true), (Some(2.0), true)] {
        let (a, b) = socketpair()?;
        a.settimeout(seconds)?;
        let number = a.fileno();
        let fd = a.detach()?.expect("it was open");
        assert_eq!((fd.as_raw_fd(), a.fileno()), (number, -1));
        assert_eq!(is_nonblocking(number), nonblocking, "{seconds:?}");
        assert!(a.detach()?.is_none(), "it is gone");
        let again = Socket::from_fd(fd)?;
        assert_eq!(is_nonblocking(number), nonblocking, "as it was given");
        assert_eq!((again.family(), again.kind()), (Family::Unix, SocketType::Stream));
        again.sendall(b"on")?;
        assert_eq!(b.recv(2)?, b"on");
    }
    Ok(())
}

#[test]
fn ipv6_has_the_same_calls() -> Result<()> {
    let options = ServerOptions { family: Family::Inet6, ..ServerOptions::default() };
    let server = create_server(("::1", 0), options)?;
    let address = server.getsockname()?;
    assert!(matches!(address, Address::V6(_)));
    let client = create_connection(&address, Some(Timeout::after(Duration::from_secs(5))), None)?;
    assert_eq!(client.gettimeout(), Some(5.0));
    let (served, peer) = server.accept()?;
    assert_eq!(peer, client.getsockname()?);
    client.sendall(b"six")?;
    assert_eq!(served.recv(16)?, b"six");
    Ok(())
}

#[test]
fn a_dualstack_server_takes_ipv4_clients() -> Result<()> {
    let options =
        ServerOptions { family: Family::Inet6, dualstack_ipv6: true, ..ServerOptions::default() };
    let server = create_server(("", 0), options)?;
    let port = server.getsockname()?.port().expect("an IP address");
    let client = create_connection(("127.0.0.1", port), None, None)?;
    let (_served, peer) = server.accept()?;
    assert_eq!(peer.port(), client.getsockname()?.port());
    let wrong = ServerOptions { dualstack_ipv6: true, ..ServerOptions::default() };
    let error = create_server(("", 0), wrong).expect_err("IPv4 has one stack");
    assert_eq!(error.to_string(), "dualstack_ipv6 requires AF_INET6 family");
    Ok(())
}

#[test]
fn create_connection_tries_the_next_address() -> Result<()> {
    // No server listens on the IPv6 side of localhost, if it has one.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let source = ("127.0.0.1", 0).into();
    let client = create_connection(("localhost", port), None, Some(&source))?;
    assert_eq!(client.getpeername()?.port(), Some(port));
    drop((client, listener));
    let refused = kind_and_errno(create_connection(("localhost", port), None, None));
    assert_eq!(refused, (ErrorKind::ConnectionRefusedError, Some(111)));
    Ok(())
}

#[test]
fn unix_sockets_have_the_same_calls() -> Result<()> {
    let name = Address::Unix(format!("\0saltecho-test-{}", std::process::id()).into_bytes());
    let listener = Socket::new(Family::Unix, SocketType::Stream)?;
    listener.bind(&name)?;
    listener.listen(None)?;
    let client = Socket::new(Family::Unix, SocketType::Stream)?;
    client.connect(&name)?;
    let (served, peer) = listener.accept()?;
    assert_eq!((peer, client.getpeername()?), (Address::Unix(Vec::new()), name));
    client.sendall(b"local")?;
    assert_eq!(served.recv(16)?, b"local");
    let error = client.bind(("127.0.0.1", 1)).expect_err("not a path");
    assert_eq!(error.kind(), ErrorKind::TypeError);
    Ok(())
}

#[test]
fn sockets_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Socket>();
    sent::<saltecho::socket::File>();
}
