//! UDP: `sendto` and `recvfrom`, one datagram each.
//!
//! **To learn:** a datagram arrives whole or not at all; two are never joined and none is split.
//! There is no connection, so each comes with its sender's address, and an answer goes there. An
//! empty datagram is a message too: `b""` is not the end of anything.
//!
//! **What goes wrong:** a buffer that is too small. What does not fit is thrown away, without an
//! error, and the next `recvfrom` returns the next datagram. And a sender does not learn whether
//! there is a receiver: only a *connected* UDP socket learns that the port is closed, once, at its
//! next call. Loss, duplicates and reordering do not happen on this machine; elsewhere they do, so a
//! `recv` without a timeout will some day wait for ever.
//!
//! **Step by step:** docs/loop.html#pieces, in a browser. **To practice:**
//! `lab/exercises/06_pieces/`.
//!
//! **Read next:** `10_makefile.rs`: messages on a stream, which has no edges of its own.

use saltecho::socket::{Address, Family, Result, Socket, SocketType};

fn main() -> Result<()> {
    let server = udp()?;
    server.bind(("127.0.0.1", 0))?;
    let address = server.getsockname()?;
    let client = udp()?;

    client.sendto(b"hello", &address)?;
    // The first sendto gave the client a port, which the server learns here.
    let (data, sender) = received(server.recvfrom(1024)?);
    server.sendto(&data.to_ascii_uppercase(), &sender)?;
    println!("an answer to the sender: {}", show(&client.recvfrom(1024)?.0));

    for datagram in [&b"one"[..], b"two", b"", b"four"] {
        client.sendto(datagram, &address)?;
    }
    for _ in 0..4 {
        println!("one datagram each: {:?}", show(&server.recvfrom(1024)?.0));
    }

    client.sendto(b"0123456789", &address)?;
    client.sendto(b"next", &address)?;
    println!("recvfrom(4) of ten bytes: {}", show(&server.recvfrom(4)?.0));
    println!("the other six are gone: {}", show(&server.recvfrom(1024)?.0));

    client.sendto(b"lost", &address)?;
    client.sendto(b"last", &address)?;
    server.recvfrom(0)?;
    println!("recvfrom(0) takes a datagram: {}", show(&server.recvfrom(1024)?.0));
    client.sendto(b"kept", &address)?;
    server.recv(0)?;
    println!("recv(0) does not: {}", show(&server.recvfrom(1024)?.0));

    let long = vec![b'x'; 65_508];
    println!("one byte too long: {}", failure(client.sendto(&long, &address)));

    server.close();
    client.sendto(b"hello?", &address)?;
    client.settimeout(Some(0.1))?;
    println!("no receiver, not connected: {}", failure(client.recvfrom(1024)));
    client.connect(&address)?;
    client.send(b"hello?")?;
    println!("no receiver, connected: {}", failure(client.recv(1024)));
    println!("and again: {}", failure(client.recv(1024)));
    Ok(())
}

/// No call waits longer than 5 s for a datagram that should be there.
fn udp() -> Result<Socket> {
    let socket = Socket::new(Family::Inet, SocketType::Datagram)?;
    socket.settimeout(Some(5.0))?;
    Ok(socket)
}

fn received((data, sender): (Vec<u8>, Option<Address>)) -> (Vec<u8>, Address) {
    (data, sender.expect("a datagram over IP has a sender"))
}

fn show(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

fn failure<T>(outcome: Result<T>) -> String {
    outcome.map_or_else(|error| format!("{}, {error}", error.kind().name()), |_| "fine".to_owned())
}
