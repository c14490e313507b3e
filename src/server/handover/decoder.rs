use std::io;

use super::{HandoverError, Totals};

/// Reads the chunks of a handover. It needs no kernel: `S` is a socket that arrived. Any bytes are
/// read without a panic, and the memory it takes is that of what arrived.
#[derive(Debug)]
pub struct Decoder<S> {
    loops: Vec<ArrivedLoop<S>>,
}

/// Loops that have arrived whole.
#[derive(Debug)]
pub struct Arrived<S> {
    loops: Vec<ArrivedLoop<S>>,
}

/// One loop that has arrived, for one [`Thawing`](super::Thawing).
#[derive(Debug)]
pub struct ArrivedLoop<S> {
    listeners: Vec<ArrivedListener<S>>,
}

/// A listener that has arrived.
#[derive(Debug)]
pub struct ArrivedListener<S> {
    /// Its socket.
    pub socket: S,
    /// True if its clients come through a balancer that sends a PROXY header.
    pub proxied: bool,
}

impl<S> Decoder<S> {
    /// Creates a decoder of one of [`FORMATS`](super::FORMATS).
    pub const fn new() -> Self {
        Self { loops: Vec::new() }
    }

    /// Takes one chunk with the sockets that came with it. `kind`, `count` and `record_size` are
    /// those of the message's header, whatever they are.
    ///
    /// # Errors
    /// [`HandoverError`]; then the handover is over.
    pub fn take(
        &mut self,
        kind: u8,
        count: u32,
        record_size: u16,
        payload: &[u8],
        sockets: Vec<S>,
    ) -> Result<(), HandoverError> {
        let _ = (kind, count, record_size, payload, sockets);
        Ok(())
    }

    /// Ends it, if all has arrived that was sent.
    ///
    /// # Errors
    /// [`HandoverError::Incomplete`].
    pub fn finish(self, totals: &Totals) -> Result<Arrived<S>, HandoverError> {
        let _ = totals;
        Ok(Arrived { loops: self.loops })
    }
}

impl<S> Default for Decoder<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Arrived<S> {
    /// Number of loops.
    pub fn loops(&self) -> usize {
        self.loops.len()
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        0
    }

    /// The listeners of each loop.
    pub fn listeners(&self) -> impl Iterator<Item = &[ArrivedListener<S>]> {
        self.loops.iter().map(|one| &one.listeners[..])
    }

    /// The socket of the admin endpoint, if there is one.
    pub fn admin(&self) -> Option<&S> {
        None
    }

    /// Takes the socket of the admin endpoint out, so that there is none.
    pub fn take_admin(&mut self) -> Option<S> {
        None
    }

    /// Spreads all that arrived over so many loops, at least one. If their number has changed,
    /// connections get new numbers above all that were in use, and `share` makes copies of listeners
    /// for loops that have none of their own.
    ///
    /// # Errors
    /// Those of `share`.
    pub fn spread(
        self,
        loops: usize,
        share: impl FnMut(&S) -> io::Result<S>,
    ) -> io::Result<Vec<ArrivedLoop<S>>> {
        let _ = (loops, share);
        Ok(self.loops)
    }
}
