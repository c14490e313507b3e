use std::io;

use super::{Kernel, Ready};

/// `recv` with its bookkeeping. `None`: nothing there, wait for an event.
pub(crate) fn recv<K: Kernel>(
    kernel: &mut K,
    stream: &mut K::Stream,
    ready: &mut Ready,
    buffer: &mut [u8],
) -> io::Result<Option<usize>> {
    match retry_interrupted(|| kernel.recv(stream, buffer)) {
        Ok(n) => {
            if n < buffer.len() {
                ready.short_read();
            }
            Ok(Some(n))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            ready.read_would_block();
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `send` with its bookkeeping. Zero: no room, wait for an event.
pub(crate) fn send<K: Kernel>(
    kernel: &mut K,
    stream: &mut K::Stream,
    ready: &mut Ready,
    bytes: &[u8],
) -> io::Result<usize> {
    match retry_interrupted(|| kernel.send(stream, bytes)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            ready.write_would_block();
            Ok(0)
        }
        result => result,
    }
}

/// PEP 475: an interrupted call is made again. The socket does not block, so this cannot last.
fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
