//! Servers that misbehave on purpose.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// A server for one client that does this with it; its address.
pub fn fake_server_from_the_start(behave: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || behave(listener.accept().unwrap().0));
    place
}

/// The same, behind a handshake that accepts any MD5 digest.
pub fn fake_server(behave: impl FnOnce(TcpStream) + Send + 'static) -> String {
    fake_server_from_the_start(|mut stream| {
        stream.write_all(&[7; 32]).unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        behave(stream);
    })
}
