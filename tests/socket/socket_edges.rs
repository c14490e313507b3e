//! Addresses, host names, error texts, and what other holders of a descriptor, other threads and
//! signals do to a call. The expected outcomes are those of CPython 3.11.

use std::cell::Cell;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use saltecho::python::Timeout;
use saltecho::socket::{
    Address, AddressArg, Data, Error, ErrorKind, Family, FileOptions, MSG_DONTWAIT, MSG_FASTOPEN,
    MSG_PEEK, Result, ServerOptions, Socket, SocketOptions, SocketType, create_connection,
    create_connection_all_errors, create_server, getdefaulttimeout, set_interrupt_hook, socketpair,
};

use super::proc_self::{is_nonblocking, this_thread, wait_until_asleep};
use super::signals::Pester;

/// An exception as Python shows it: class, errno, text.
fn said<T: std::fmt::Debug>(result: Result<T>) -> (&'static str, Option<i32>, String) {
    let error = result.expect_err("this call fails");
    (error.kind().name(), error.errno(), error.message().into_owned())
}

fn unix(kind: SocketType) -> Result<Socket> {
    Socket::new(Family::Unix, kind)
}

fn path(text: &[u8]) -> Address {
    Address::Unix(text.to_vec())
}

/// The time that a thread has spent on a processor.
fn cpu_time(thread: &Path) -> Duration {
    let stat = std::fs::read_to_string(thread.join("schedstat")).expect("it lives");
    let nanoseconds = stat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// A name in a fresh directory with exactly this many bytes.
fn name_of_length(dir: &Path, length: usize) -> Vec<u8> {
    let mut name = dir.to_str().expect("ASCII").as_bytes().to_vec();
    name.push(b'/');
    assert!(name.len() < length, "a short directory");
    name.resize(length, b'n');
    name
}

#[test]
fn a_peer_with_a_path_of_108_bytes_has_its_name() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let name = name_of_length(dir.path(), 108);
    let bind = |fd: &Socket, name: &[u8]| {
        let fd = fd.dup()?.detach()?.expect("it is open");
        let name = rustix::net::SocketAddrUnix::new(name).expect("the kernel takes 108 bytes");
        rustix::net::bind(&fd, &name).expect("a free name");
        Ok::<_, Error>(())
    };
    let server = unix(SocketType::Stream)?;
    server.bind(dir.path().join("s").as_path())?;
    server.listen(None)?;
    let client = unix(SocketType::Stream)?;
    bind(&client, &name)?;
    client.connect(server.getsockname()?)?;
    let (accepted, peer) = server.accept()?;
    assert_eq!(peer, path(&name));
    assert_eq!((accepted.getpeername()?, client.getsockname()?), (path(&name), path(&name)));
    drop(client);
    std::fs::remove_file(Path::new(std::str::from_utf8(&name).expect("ASCII"))).expect("a file");

    let (receiver, sender) = (unix(SocketType::Datagram)?, unix(SocketType::Datagram)?);
    receiver.bind(dir.path().join("r").as_path())?;
    bind(&sender, &name)?;
    for _ in 0..2 {
        sender.sendto(b"x", receiver.getsockname()?)?;
    }
    assert_eq!(receiver.recvfrom(1)?, (b"x".to_vec(), Some(path(&name))));
    assert_eq!(receiver.recvmsg(1, 0, 0)?.address, Some(path(&name)));
    Ok(())
}

#[test]
fn a_path_of_107_bytes_can_be_connected_to_by_what_getsockname_says() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let name = name_of_length(dir.path(), 107);
    let server = unix(SocketType::Stream)?;
    server.bind(path(&name))?;
    server.listen(None)?;
    assert_eq!(server.getsockname()?, path(&name));
    unix(SocketType::Stream)?.connect(server.getsockname()?)?;
    let abstract_name = [&[0][..], &[b'a'; 98], &std::process::id().to_be_bytes()].concat();
    let other = unix(SocketType::Stream)?;
    other.bind(path(&abstract_name))?;
    assert_eq!(other.getsockname()?, path(&abstract_name));
    Ok(())
}

#[test]
fn a_path_that_is_no_address_is_refused_before_the_descriptor() -> Result<()> {
    let closed = unix(SocketType::Datagram)?;
    closed.close();
    let too_long = ("OSError", None, "AF_UNIX path too long".to_owned());
    let embedded = ("ValueError", None, "embedded null byte".to_owned());
    let abstract_too_long = [&[0][..], &[b'x'; 108]].concat();
    for (name, expected) in [
        (path(&[b'x'; 108]), &too_long),
        (path(&[b'x'; 500]), &too_long),
        (path(&abstract_too_long), &too_long),
        (path(b"abc\0def"), &embedded),
    ] {
        assert_eq!(&said(closed.bind(&name)), expected);
        assert_eq!(&said(closed.connect(&name)), expected);
        assert_eq!(&said(closed.connect_ex(&name)), expected);
        assert_eq!(&said(closed.sendto(b"x", &name)), expected);
        assert_eq!(&said(closed.sendmsg_to(&[], &[], 0, &name)), expected);
    }
    Ok(())
}

#[test]
fn errors_of_paths_have_their_classes() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "").expect("a file");
    let socket = unix(SocketType::Stream)?;
    let below = said(socket.connect(plain.join("socket").as_path()));
    assert_eq!(below, ("NotADirectoryError", Some(20), "Not a directory".to_owned()));
    assert_eq!(said(socket.bind(plain.join("socket").as_path())), below);
    let none = said(socket.connect(dir.path().join("none").as_path()));
    assert_eq!(none, ("FileNotFoundError", Some(2), "No such file or directory".to_owned()));
    let refused = said(socket.connect(plain.as_path()));
    assert_eq!((refused.0, refused.1), ("ConnectionRefusedError", Some(111)));
    let taken = said(socket.bind(plain.as_path()));
    assert_eq!((taken.0, taken.1), ("OSError", Some(98)));
    Ok(())
}

#[test]
fn a_blocking_connect_waits_for_room_in_a_unix_listeners_queue() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let server = unix(SocketType::Stream)?;
    server.bind(dir.path().join("s").as_path())?;
    server.listen(Some(0))?;
    let name = server.getsockname()?;
    let first = unix(SocketType::Stream)?;
    first.connect(&name)?;
    let second = unix(SocketType::Stream)?;
    second.setblocking(false)?;
    assert_eq!(said(second.connect(&name)).1, Some(11), "EAGAIN, as the queue is full");
    second.setblocking(true)?;
    let connecting = this_thread();
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_until_asleep(&connecting);
            server.accept().expect("the first one waits");
        });
        second.connect(&name)
    })?;
    assert!(is_nonblocking(second.fileno()), "again");
    Ok(())
}

/// A Unix datagram socket whose queue is full, and one that wants to send to it.
fn full_datagram_queue(dir: &Path) -> Result<(Socket, Address, Socket)> {
    let (receiver, sender) = (unix(SocketType::Datagram)?, unix(SocketType::Datagram)?);
    receiver.bind(dir.join("receiver").as_path())?;
    let to = receiver.getsockname()?;
    sender.setblocking(false)?;
    while sender.sendto(b"x", &to).is_ok() {}
    Ok((receiver, to, sender))
}

#[test]
fn sendto_sleeps_while_a_unix_datagram_peer_is_full() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let (receiver, to, sender) = full_datagram_queue(dir.path())?;
    sender.settimeout(Some(0.4))?;
    let before = cpu_time(&this_thread());
    assert_eq!(said(sender.sendto(b"x", &to)), ("TimeoutError", None, "timed out".to_owned()));
    let used = cpu_time(&this_thread()) - before;
    assert!(used < Duration::from_millis(100), "{used:?} on a processor for 0.4 s of waiting");

    sender.setblocking(true)?;
    let sending = this_thread();
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_until_asleep(&sending);
            receiver.recv(1).expect("the queue is full");
        });
        assert_eq!(sender.sendto(b"x", &to), Ok(1));
    });
    Ok(())
}

#[test]
fn a_close_from_another_thread_ends_a_timed_call_once_it_wakes() -> Result<()> {
    for detached in [false, true] {
        let (a, b) = socketpair()?;
        b.settimeout(Some(60.0))?;
        thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let b = &b;
            let receiving = scope.spawn(move || {
                sender.send(this_thread()).expect("the test waits for it");
                b.recv(9)
            });
            wait_until_asleep(&receiver.recv().expect("it starts"));
            let number = b.fileno();
            if detached {
                let fd = b.detach()?.expect("it was open");
                // The call still uses the first number, which must not be free meanwhile.
                assert_ne!(fd.as_raw_fd(), number);
                assert!(rustix::io::fcntl_getfd(&fd).is_ok());
                let peek = Socket::from_fd(fd)?;
                a.sendall(b"data")?;
                let received = receiving.join().expect("recv does not panic");
                assert_eq!(said(received).1, Some(9), "detached");
                assert_eq!(peek.recv(9)?, b"data");
            } else {
                b.close();
                a.sendall(b"data")?;
                let received = receiving.join().expect("recv does not panic");
                assert_eq!(said(received).1, Some(9), "closed");
            }
            Ok::<_, Error>(())
        })?;
    }
    Ok(())
}

#[test]
fn a_descriptor_taken_over_keeps_its_flag_for_its_other_holders() -> Result<()> {
    assert_eq!(getdefaulttimeout(), None);
    let (a, b) = socketpair()?;
    let theirs: OwnedFd = b.detach()?.expect("it is open");
    let number = theirs.as_raw_fd();
    let ours = Socket::from_fd(theirs.try_clone().expect("a duplicate"))?;
    assert!(!is_nonblocking(number), "a blocking socket leaves it alone");
    assert_eq!(ours.recv_with_flags(1, MSG_DONTWAIT).map_err(|e| e.errno()), Err(Some(11)));
    for (seconds, nonblocking) in [(Some(1.0), true), (None, false), (Some(0.0), true)] {
        ours.settimeout(seconds)?;
        assert_eq!(is_nonblocking(number), nonblocking, "{seconds:?}, as in Python");
    }
    ours.settimeout(Some(0.01))?;
    assert_eq!(said(ours.recv(1)).0, "TimeoutError");
    ours.setblocking(true)?;
    a.sendall(b"x")?;
    assert_eq!(ours.recv(1)?, b"x");
    drop(ours);
    assert!(!is_nonblocking(number), "nor is it changed by the end of ours");
    Ok(())
}

#[test]
fn a_refused_descriptor_comes_back() {
    let file = tempfile::tempfile().expect("a file");
    let number = file.as_raw_fd();
    let (error, fd) = Socket::from_fd(file.into()).expect_err("no socket").into_parts();
    assert_eq!((error.errno(), fd.as_raw_fd()), (Some(88), number), "ENOTSOCK");
    assert!(std::fs::File::from(fd).metadata().is_ok(), "and is still open");
}

#[test]
fn fastopen_sends_in_blocking_mode() -> Result<()> {
    let server = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let socket = Socket::new(Family::Inet, SocketType::Stream)?;
    assert_eq!(socket.sendto_with_flags(b"hello", MSG_FASTOPEN, server.getsockname()?), Ok(5));
    let (accepted, _) = server.accept()?;
    assert_eq!(accepted.recv(9)?, b"hello");
    Ok(())
}

#[test]
fn hosts_and_services_fail_as_the_resolver_says() -> Result<()> {
    let socket = Socket::new(Family::Inet, SocketType::Stream)?;
    let family = "Address family for hostname not supported".to_owned();
    assert_eq!(said(socket.bind(("::1", 0))), ("gaierror", Some(-9), family));
    let (kind, errno, text) = said(socket.connect(("a\0b", 1)));
    let expected = ("TypeError", None, "host name must not contain null character");
    assert_eq!((kind, errno, text.as_str()), expected);
    assert_eq!(said(socket.connect(("bücher.invalid", 1))).0, "UnicodeError");

    let service = AddressArg::from(("127.0.0.1", "no-such-service"));
    let text = "Servname not supported for ai_socktype".to_owned();
    let unknown = said(create_connection(service.clone(), None, None));
    assert_eq!(unknown, ("gaierror", Some(-8), text));
    assert_eq!(said(socket.connect(service)).0, "TypeError", "for create_connection only");
    for port in [-1, 65_536] {
        let error = said(create_connection(("127.0.0.1", port), None, None));
        assert_eq!((error.0, error.1), ("OverflowError", None));
        let server = said(create_server(("127.0.0.1", port), ServerOptions::default()));
        let text = "bind(): port must be 0-65535.".to_owned();
        assert_eq!(server, ("OverflowError", None, text));
    }
    Ok(())
}

#[test]
fn a_connection_needs_no_host_and_takes_a_port_as_text() -> Result<()> {
    let server = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let port = server.getsockname()?.port().expect("a port").to_string();
    for host in [None, Some("127.0.0.1"), Some("localhost"), Some("::ffff:127.0.0.1")] {
        let address = AddressArg::Service(host.map(Into::into), port.as_str().into());
        let socket = create_connection(address, Some(Timeout::Blocking), None)?;
        assert_eq!(socket.proto(), 6, "as getaddrinfo says");
        drop(server.accept()?);
    }
    Ok(())
}

#[test]
fn every_error_of_create_connection_can_be_had() -> Result<()> {
    let closed = create_server(("127.0.0.1", 0), ServerOptions::default())?.getsockname()?;
    let error = create_connection_all_errors(&closed, None, None).expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::ExceptionGroup);
    assert_eq!(error.to_string(), "create_connection failed (1 sub-exception)");
    let kinds: Vec<_> = error.exceptions().iter().map(Error::kind).collect();
    assert_eq!(kinds, [ErrorKind::ConnectionRefusedError]);
    let source = AddressArg::from(("192.0.2.1", 0));
    let error = said(create_connection(&closed, None, Some(&source)));
    assert_eq!((error.0, error.1), ("OSError", Some(99)), "EADDRNOTAVAIL");
    Ok(())
}

#[test]
fn create_server_names_the_address_that_it_could_not_bind() -> Result<()> {
    let server = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let address = server.getsockname()?;
    let port = address.port().expect("a port");
    let text = format!(
        "Address already in use (while attempting to bind on address ('127.0.0.1', {port}))"
    );
    let options = ServerOptions::default();
    let expected = ("OSError", Some(98), text);
    assert_eq!(said(create_server(&address, options)), expected);
    assert_eq!(said(create_server(("127.0.0.1", port), options)), expected);
    let text = "Address family for hostname not supported \
                (while attempting to bind on address ('::1', 0))";
    assert_eq!(said(create_server(("::1", 0), options)), ("OSError", Some(-9), text.to_owned()));
    Ok(())
}

#[test]
fn numbers_out_of_range_are_overflow_errors() -> Result<()> {
    let socket = Socket::new(Family::Inet6, SocketType::Datagram)?;
    let text = |call| format!("{call}(): flowinfo must be 0-1048575.");
    let exact = Address::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0x10_0000, 0));
    assert_eq!(said(socket.bind(&exact)), ("OverflowError", None, text("bind")));
    let named = ("::1", 0, 0xffff_fff6, 0);
    assert_eq!(said(socket.connect(named)), ("OverflowError", None, text("connect")));
    socket.bind(("::1", 0, 0xf_ffff, 0))?;

    let too_large = ("OverflowError", None, "byte string is too large".to_owned());
    assert_eq!(said(socket.recv(isize::MAX)), too_large);
    assert_eq!(said(socket.recvfrom(isize::MAX - 32)), too_large);
    assert_eq!(said(socket.recvmsg(isize::MAX, 0, 0)), too_large);
    assert_eq!(said(socket.recv(isize::MAX - 33)).0, "MemoryError");
    Ok(())
}

#[test]
fn an_illegal_newline_is_named() -> Result<()> {
    let (a, _b) = socketpair()?;
    let options = FileOptions { newline: Some("x"), ..FileOptions::default() };
    let text = "illegal newline value: x".to_owned();
    assert_eq!(said(a.makefile("r", options)), ("ValueError", None, text));
    Ok(())
}

#[test]
fn one_thread_writes_to_a_file_that_another_reads() -> Result<()> {
    for buffering in [None, Some(0)] {
        let (a, b) = socketpair()?;
        let file = a.makefile("rwb", FileOptions { buffering, ..FileOptions::default() })?;
        thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let file = &file;
            let reading = scope.spawn(move || {
                sender.send(this_thread()).expect("the test waits for it");
                file.read(Some(4))
            });
            wait_until_asleep(&receiver.recv().expect("it starts"));
            file.write(b"ping")?;
            file.flush()?;
            assert_eq!(b.recv(9)?, b"ping", "written while the other thread waits");
            b.sendall(b"pong")?;
            let read = reading.join().expect("read does not panic")?;
            assert_eq!(read.map(Data::into_bytes), Some(b"pong".to_vec()));
            Ok::<_, Error>(())
        })?;
    }
    Ok(())
}

thread_local! {
    /// True if the hook ends this thread's calls. Tests that run at the same time have their own.
    static GIVES_UP: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn a_hook_ends_what_a_signal_interrupts() -> Result<()> {
    set_interrupt_hook(Some(|| GIVES_UP.get()));
    let (a, b) = socketpair()?;
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let every = Duration::from_millis(10);
    let interrupted = ("InterruptedError", Some(4), "Interrupted system call".to_owned());
    for seconds in [None, Some(60.0)] {
        for socket in [&a, &b, &listener] {
            socket.settimeout(seconds)?;
        }
        let pester = Pester::this_thread(every, Duration::from_secs(60));
        GIVES_UP.set(true);
        assert_eq!(said(b.recv(1)), interrupted, "{seconds:?}");
        assert_eq!(said(listener.accept()), interrupted, "{seconds:?}");
        let full = loop {
            match a.send(&[0; 65_536]) {
                Ok(_) => {}
                Err(error) => break error.errno(),
            }
        };
        assert_eq!(full, Some(4), "{seconds:?}");
        // Without an objection the call goes on, and ends when there is something to end it.
        GIVES_UP.set(false);
        b.settimeout(Some(0.05))?;
        while b.recv_with_flags(65_536, 0).is_ok() {}
        assert_eq!(said(b.recv(1)).0, "TimeoutError", "{seconds:?}");
        drop(pester);
    }
    set_interrupt_hook(None);
    Ok(())
}

#[test]
fn a_duplicate_is_a_socket_of_its_own() -> Result<()> {
    let (a, b) = socketpair()?;
    b.settimeout(Some(0.01))?;
    let twin = b.dup()?;
    assert_eq!((twin.gettimeout(), twin.get_inheritable()?), (Some(0.01), false));
    assert_ne!(twin.fileno(), b.fileno());
    b.close();
    a.sendall(b"still here")?;
    assert_eq!(twin.recv_with_flags(64, MSG_PEEK)?, b"still here");
    twin.set_inheritable(true)?;
    assert!(twin.get_inheritable()?);
    assert_eq!(said(b.dup()).1, Some(9), "closed");
    Ok(())
}

#[test]
fn a_socket_is_made_with_a_protocol_and_flags() -> Result<()> {
    let options = SocketOptions { proto: 6, nonblocking: true };
    let socket = Socket::new_with(Family::Inet, SocketType::Stream, options)?;
    assert_eq!((socket.proto(), socket.gettimeout()), (6, Some(0.0)));
    let text = "Protocol not supported".to_owned();
    let wrong = SocketOptions { proto: 17, nonblocking: false };
    let made = Socket::new_with(Family::Inet, SocketType::Stream, wrong);
    assert_eq!(said(made), ("OSError", Some(93), text));
    assert_eq!(Socket::new(Family::Inet, SocketType::Stream)?.proto(), 0, "as it was given");
    let fd = socket.detach()?.expect("it is open");
    assert_eq!(Socket::from_fd(fd)?.proto(), 6, "as the kernel says");
    Ok(())
}
