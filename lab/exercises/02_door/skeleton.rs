//! Exercise 2, door: several clients connect at once.
//!
//! It accepts a client whenever the listener has an event.

use std::collections::HashMap;
use std::io::{self, ErrorKind};

use saltecho::lab::Rules;
use saltecho::reactor::{Close, Kernel, Token};

/// Serves every client.
///
/// # Errors
/// Those of `poll` and of registering the listener.
pub fn serve<K: Kernel>(
    kernel: &mut K,
    listener: &mut K::Listener,
    rules: &Rules,
) -> io::Result<()> {
    let door = Token::listener(0);
    kernel.register_listener(listener, door)?;
    let (mut streams, mut accepted) = (HashMap::new(), 0);
    let (mut events, mut buffer) = (Vec::new(), vec![0; rules.recv_max]);
    loop {
        kernel.poll(None, |token, _| events.push(token))?;
        for token in events.drain(..) {
            if token == door {
                if let Ok((mut stream, _)) = kernel.accept(listener) {
                    let token = Token::from_raw(accepted);
                    accepted += 1;
                    kernel.register(&mut stream, token)?;
                    streams.insert(token, stream);
                }
            } else if let Some(stream) = streams.get_mut(&token) {
                match kernel.recv(stream, &mut buffer) {
                    Ok(n) if n > 0 => {
                        kernel.send(stream, &buffer[..n])?;
                    }
                    // Nothing yet: an event is a hint.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => {
                        let stream = streams.remove(&token).expect("it was there");
                        kernel.close(stream, Close::Orderly);
                    }
                }
            }
        }
    }
}
