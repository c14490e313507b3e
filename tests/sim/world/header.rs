//! What a simulated balancer sends before its client speaks: a PROXY header, something else, or
//! nothing.

use std::net::{IpAddr, SocketAddr};

use saltecho::proto::CloseReason;
use saltecho::random::SplitMix;
use saltecho::sim::{Ledger, SimClient, SimKernel};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The port of a client that a header names.
const PORT: u16 = 1024;

/// The first bytes of a connection, encoded independently of the library.
pub struct Header {
    kind: Kind,
    /// Its length in bytes; the rest of what is sent is the client's, which is too early.
    len: u64,
    pub unsent: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It names a client or none.
    Right(Option<SocketAddr>),
    /// It is none, or not whole, for this reason.
    Wrong(CloseReason),
    Silent,
}

impl Header {
    /// One that probably names a client at this address.
    pub fn draw(random: &mut SplitMix, client: Option<IpAddr>) -> Self {
        let local = SIGNATURE.to_vec();
        let malformed = CloseReason::HeaderMalformed;
        let (kind, bytes) = match (random.below(20), client) {
            (0, _) => (Kind::Silent, Vec::new()),
            (1, _) => (Kind::Wrong(CloseReason::HeaderMissing), b"GET / HTTP/1.1\r\n".to_vec()),
            (2, _) => (Kind::Wrong(CloseReason::HeaderMissing), b"\r\n\r\n\0\r\nQUIT ".to_vec()),
            (3, _) => (Kind::Wrong(malformed), [&local[..], b"\x31\x11\0\0"].concat()),
            (4, _) => (Kind::Wrong(malformed), [&local[..], b"\x20\0\xff\xff"].concat()),
            (5, _) => (Kind::Wrong(malformed), b"PROXY TCP4 a b 1 2\r\n".to_vec()),
            (6, _) => (Kind::Right(None), [&local[..], b"\x20\0\0\0"].concat()),
            (7, _) | (_, None) => (Kind::Right(None), b"PROXY UNKNOWN\r\n".to_vec()),
            (_, Some(ip)) => {
                let v1 = random.chance(500);
                (Kind::Right(Some(SocketAddr::new(ip, PORT))), if v1 { line(ip) } else { v2(ip) })
            }
        };
        let len = if kind == Kind::Silent { u64::MAX } else { bytes.len() as u64 };
        Self { kind, len, unsent: bytes }
    }

    /// One that names a client at this address, as a line of text.
    pub fn naming(ip: IpAddr) -> Self {
        let unsent = line(ip);
        let kind = Kind::Right(Some(SocketAddr::new(ip, PORT)));
        Self { kind, len: unsent.len() as u64, unsent }
    }

    /// What a client sends that comes without a balancer.
    pub fn missing() -> Self {
        let unsent = b"GET / HTTP/1.1\r\n".to_vec();
        let kind = Kind::Wrong(CloseReason::HeaderMissing);
        Self { kind, len: unsent.len() as u64, unsent }
    }

    /// Sends all but this many of its bytes.
    pub fn send_all_but(&mut self, left: usize, end: SimClient, kernel: &mut SimKernel) {
        let len = self.unsent.len() - left;
        assert_eq!(kernel.client_send(end, &self.unsent[..len]), len, "there is room");
        self.unsent.drain(..len);
    }

    /// Adds bytes of a client that does not wait for its challenge; false if there is no client.
    pub fn add_early(&mut self, random: &mut SplitMix) -> bool {
        let is_right = matches!(self.kind, Kind::Right(_));
        if is_right {
            let len = self.unsent.len() + 1 + random.below(40);
            self.unsent.resize(len, 0xee);
        }
        is_right
    }

    /// Returns true once the server has received a whole header.
    pub fn is_complete(&self, ledger: &Ledger) -> bool {
        matches!(self.kind, Kind::Right(_)) && ledger.received >= self.len
    }

    /// Returns true once the server must have seen that it is wrong.
    pub fn is_refuted(&self, ledger: &Ledger) -> bool {
        matches!(self.kind, Kind::Wrong(_)) && ledger.received >= self.len
    }

    /// Bytes that the server has received behind it.
    pub fn received_behind(&self, ledger: &Ledger) -> u64 {
        ledger.received.saturating_sub(self.len)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// The client that it names.
    pub fn client(&self) -> Option<SocketAddr> {
        match self.kind {
            Kind::Right(client) => client,
            Kind::Wrong(_) | Kind::Silent => None,
        }
    }

    pub fn is_silent(&self) -> bool {
        self.kind == Kind::Silent
    }

    pub fn is_wrong_for(&self, reason: CloseReason) -> bool {
        self.kind == Kind::Wrong(reason)
    }
}

fn line(ip: IpAddr) -> Vec<u8> {
    let (family, own) =
        if ip.is_ipv4() { ("TCP4", "198.51.100.1") } else { ("TCP6", "2001:db8::1") };
    format!("PROXY {family} {ip} {own} {PORT} 9999\r\n").into_bytes()
}

/// Version 2 with a unique id.
fn v2(ip: IpAddr) -> Vec<u8> {
    let ports = [PORT.to_be_bytes(), 9999_u16.to_be_bytes()].concat();
    let (family, addresses) = match ip {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [198, 51, 100, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [9; 16]].concat()),
    };
    let rest = [&addresses[..], &ports, b"\x05\0\x04name"].concat();
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x21, family], &len, &rest].concat()
}
