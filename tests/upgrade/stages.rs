//! A client in the middle of each step of its life.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use saltecho::auth::Challenge;

use crate::common::client::{authenticated, connect, digest, exchange, fill, rest};

/// Clients that go on where they were.
pub(crate) struct Stages {
    /// The challenge was sent, and no digest.
    silent: (TcpStream, Challenge),
    /// A part of the digest was sent.
    half: (TcpStream, Challenge),
    /// So many bytes of an answer are not read, and there is input behind it.
    stuck: (TcpStream, usize),
    /// A wrong digest, but for its last byte.
    wrong: TcpStream,
}

impl Stages {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let silent = connect(address);
        let half = connect(address);
        (&half.0).write_all(&digest(&half.1)[..7]).unwrap();
        let stuck = authenticated(address);
        let sent = fill(&stuck);
        let (wrong, _) = connect(address);
        (&wrong).write_all(&[0; 15]).unwrap();
        Self { silent, half, stuck: (stuck, sent), wrong }
    }

    /// Each goes on, and gets what it would have got.
    #[track_caller]
    pub(crate) fn finish(self) {
        let (silent, challenge) = self.silent;
        (&silent).write_all(&digest(&challenge)).unwrap();
        assert_eq!(exchange(&silent, b"hello"), b"HELLO");
        let (half, challenge) = self.half;
        (&half).write_all(&digest(&challenge)[7..]).unwrap();
        assert_eq!(exchange(&half, b"hello"), b"HELLO");
        (&self.wrong).write_all(&[0]).unwrap();
        assert_eq!(rest(&self.wrong).unwrap_or_default(), b"", "no client gets in without proof");
        let (stuck, sent) = self.stuck;
        stuck.shutdown(Shutdown::Write).unwrap();
        let answer = rest(&stuck).unwrap();
        assert_eq!(answer.len(), sent);
        assert!(answer.iter().all(|byte| *byte == b'X'));
    }
}
