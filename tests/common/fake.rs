//! Misbehaving servers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Starts a server that treats its one client like this; returns its address.
pub fn fake_server_from_the_start(behave: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || behave(listener.accept().unwrap().0));
    place
}

/// The same after a handshake that accepts any MD5 digest.
pub fn fake_server(behave: impl FnOnce(TcpStream) + Send + 'static) -> String {
    fake_server_from_the_start(|mut stream| {
        stream.write_all(&[7; 32]).unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        behave(stream);
    })
}

/// A relay to `server` for one client that delays everything in both directions, connecting
/// included.
pub fn slow_line(server: SocketAddr, delay: Duration) -> String {
    fake_server_from_the_start(move |client| {
        std::thread::sleep(2 * delay);
        let server = TcpStream::connect(server).unwrap();
        let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || carry(back.0, back.1, delay));
        carry(client, server, delay);
    })
}

/// Forwards data and the end of the stream, each after its delay.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, line) = channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (due, bytes) in line {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // It fails if the other end has stopped reading.
            let _ = match bytes.is_empty() {
                true => to.shutdown(Shutdown::Write),
                false => to.write_all(&bytes),
            };
        }
    });
    let mut block = [0; 4096];
    loop {
        let n = from.read(&mut block).unwrap_or(0);
        sender.send((Instant::now() + delay, block[..n].to_vec())).unwrap();
        if n == 0 {
            return;
        }
    }
}
