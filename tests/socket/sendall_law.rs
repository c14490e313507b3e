//! The law of sendall: it is `while data: data = data[send(data):]`, with three exceptions.

use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use saltecho::socket::{
    Error, ErrorKind, Family, Result, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, ServerOptions, Socket,
    SocketType, create_server, socketpair,
};

/// Two connected sockets with small buffers, so that sends are partial and wait.
fn narrow_pair() -> Result<(Socket, Socket)> {
    let listener = Socket::new(Family::Inet, SocketType::Stream)?;
    listener.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)?;
    listener.bind(("127.0.0.1", 0))?;
    listener.listen(Some(1))?;
    let sender = Socket::new(Family::Inet, SocketType::Stream)?;
    sender.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)?;
    sender.connect(listener.getsockname()?)?;
    Ok((sender, listener.accept()?.0))
}

fn send_loop(socket: &Socket, data: &[u8]) -> Result<()> {
    let mut rest = data;
    while !rest.is_empty() {
        rest = &rest[socket.send(rest)?..];
    }
    Ok(())
}

/// The data that the peer receives, in pieces of these sizes, while all chunks are sent in order.
fn delivered(
    chunks: &[Vec<u8>],
    pieces: &[usize],
    timeout: Option<f64>,
    send: fn(&Socket, &[u8]) -> Result<()>,
) -> Result<Vec<u8>> {
    let (sender, receiver) = narrow_pair()?;
    sender.settimeout(timeout)?;
    thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let mut data = Vec::new();
            for piece in pieces.iter().cycle() {
                let received = receiver.recv(piece.cast_signed())?;
                if received.is_empty() {
                    break;
                }
                data.extend(received);
            }
            Ok::<_, Error>(data)
        });
        chunks.iter().try_for_each(|chunk| send(&sender, chunk))?;
        sender.close();
        receiving.join().expect("receiving does not panic")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_loop_over_send_delivers_what_sendall_does(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 1..6),
        pieces in prop::collection::vec(1usize..30_000, 1..5),
        timeout in prop::sample::select(vec![None, Some(20.0)]),
    ) {
        let whole = chunks.concat();
        let by_loop = delivered(&chunks, &pieces, timeout, send_loop)?;
        let by_sendall = delivered(&chunks, &pieces, timeout, Socket::sendall)?;
        prop_assert!(by_loop == whole, "the loop delivers every byte, in order, once");
        prop_assert!(by_sendall == whole, "and so does sendall");
    }
}

#[test]
fn exception_1_sendall_of_nothing_still_makes_a_call() -> Result<()> {
    let socket = Socket::new(Family::Inet, SocketType::Stream)?;
    send_loop(&socket, b"")?;
    let unconnected = socket.sendall(b"").expect_err("there is no peer");
    assert_eq!(unconnected.kind(), ErrorKind::BrokenPipeError);
    socket.close();
    send_loop(&socket, b"")?;
    assert_eq!(socket.sendall(b"").expect_err("closed").errno(), Some(9));
    Ok(())
}

#[test]
fn exception_2_sendall_has_one_deadline_and_the_loop_one_for_each_send() -> Result<()> {
    const TIMEOUT: Duration = Duration::from_millis(800);
    let data = vec![7; 64_000_000];
    let send_to_slow_reader = |send: fn(&Socket, &[u8]) -> Result<()>| -> Result<_> {
        let (sender, receiver) = narrow_pair()?;
        sender.settimeout(Some(TIMEOUT.as_secs_f64()))?;
        receiver.settimeout(Some(0.02))?;
        thread::scope(|scope| {
            // It reads steadily, so that no single send waits long, and stops after three timeouts.
            scope.spawn(move || {
                let until = Instant::now() + 3 * TIMEOUT;
                while Instant::now() < until {
                    thread::sleep(Duration::from_millis(1));
                    let _ = receiver.recv(4096);
                }
            });
            let began = Instant::now();
            Ok((send(&sender, &data), began.elapsed()))
        })
    };
    let (sendall, took) = send_to_slow_reader(Socket::sendall)?;
    let error = sendall.expect_err("64 MB do not fit into that time");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::TimeoutError, None));
    assert!(took >= TIMEOUT, "not early: {took:?}");
    let (by_loop, loop_took) = send_to_slow_reader(send_loop)?;
    by_loop.expect_err("the reader goes away");
    assert!(loop_took >= 3 * TIMEOUT, "the loop went on as long as the peer read");
    assert!(took < loop_took, "{took:?} against {loop_took:?}");
    Ok(())
}

#[test]
fn exception_3_a_failed_sendall_has_sent_a_prefix_of_unknown_length() -> Result<()> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let data: Vec<u8> = (0..16_000_000u32).map(|i| (i % 251) as u8).collect();
    for timeout in [0.0, 0.05] {
        let sender = Socket::new(Family::Inet, SocketType::Stream)?;
        sender.connect(listener.getsockname()?)?;
        let (receiver, _) = listener.accept()?;
        sender.settimeout(Some(timeout))?;
        let error = sender.sendall(&data).expect_err("the peer does not read");
        assert_eq!(error.characters_written(), None, "the length is unknown");
        sender.settimeout(None)?;
        sender.close();
        let mut received = Vec::new();
        loop {
            match receiver.recv(1 << 20)? {
                piece if piece.is_empty() => break,
                piece => received.extend(piece),
            }
        }
        assert!(!received.is_empty() && received.len() < data.len());
        assert!(data.starts_with(&received), "a prefix");
    }
    Ok(())
}

#[test]
fn after_a_failed_sendall_later_data_follows_the_prefix() -> Result<()> {
    let (a, b) = socketpair()?;
    a.setblocking(false)?;
    a.sendall(&[1; 4_000_000]).expect_err("the peer does not read");
    b.setblocking(false)?;
    let mut prefix = 0;
    while let Ok(piece) = b.recv(1 << 20) {
        assert!(piece.iter().all(|&byte| byte == 1));
        prefix += piece.len();
    }
    assert!(prefix > 0);
    a.sendall(b"next")?;
    assert_eq!(b.recv(64)?, b"next");
    Ok(())
}
