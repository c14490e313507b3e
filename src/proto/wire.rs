//! Numbers and addresses in records that leave the process. Those of a handover are little endian, without
//! padding; those of a recording have seven bits in each byte, the lowest first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::python::Monotonic;

/// Reads a record from its front. Every method returns `None` where the bytes do not suffice, or mean
/// nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes that are not read yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// What [`put_number`] wrote.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// The same, if it fits.
    pub(crate) fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// What [`put_bytes`] wrote.
    pub(crate) fn long_counted(&mut self) -> Option<&'a [u8]> {
        let len = self.small()?;
        self.bytes(len)
    }

    /// A truth value in one byte.
    pub(crate) fn bit(&mut self) -> Option<bool> {
        self.u8().filter(|byte| *byte <= 1).map(|byte| byte == 1)
    }

    /// A length in two bytes, at most `most`, and that many bytes.
    pub(crate) fn counted(&mut self, most: usize) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        self.bytes(len).filter(|_| len <= most)
    }

    /// An address, or none.
    #[allow(clippy::option_option)] // The outer one is that of every method here.
    pub(crate) fn address(&mut self) -> Option<Option<SocketAddr>> {
        let address = match self.u8()? {
            0 => return Some(None),
            4 => {
                let ip = IpAddr::V4(Ipv4Addr::from(self.array::<4>()?));
                SocketAddr::new(ip, self.u16()?)
            }
            6 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                SocketAddr::V6(SocketAddrV6::new(ip, self.u16()?, self.u32()?, self.u32()?))
            }
            _ => return None,
        };
        Some(Some(address))
    }
}

/// Appends a number, seven bits a byte, the lowest first; all but the last have the high bit.
#[inline]
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[allow(clippy::cast_possible_truncation)] // Seven bits of it.
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)] // Less than 128.
    out.push(number as u8);
}

/// Appends a time, or never.
pub(crate) fn put_time(out: &mut Vec<u8>, time: Option<Monotonic>) {
    put_number(out, time.map_or(0, |time| time.as_nanos().saturating_add(1)));
}

/// What [`put_time`] wrote.
#[allow(clippy::option_option)] // The outer one is that of every method here.
pub(crate) fn read_time(reader: &mut Reader<'_>) -> Option<Option<Monotonic>> {
    Some(reader.number()?.checked_sub(1).map(Monotonic::from_nanos))
}

/// Appends bytes behind their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends bytes behind their length in two bytes, which they must fit.
pub(crate) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("nothing in a record is that long");
    out.extend(len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends an address, or none.
pub(crate) fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address {
        None => out.push(0),
        Some(SocketAddr::V4(address)) => {
            out.push(4);
            out.extend(address.ip().octets());
            out.extend(address.port().to_le_bytes());
        }
        Some(SocketAddr::V6(address)) => {
            out.push(6);
            out.extend(address.ip().octets());
            out.extend(address.port().to_le_bytes());
            out.extend(address.flowinfo().to_le_bytes());
            out.extend(address.scope_id().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_beyond_the_end() {
        let mut out = vec![7];
        let addresses =
            [None, Some("192.0.2.1:80"), Some("[fe80::1%5]:9999")].map(|address: Option<&str>| {
                address.map(|address| address.parse::<SocketAddr>().unwrap())
            });
        for address in addresses {
            put_address(&mut out, address);
        }
        for number in [0, 127, 128, u64::MAX] {
            put_number(&mut out, number);
        }
        put_counted(&mut out, b"bytes");
        let mut reader = Reader::new(&out);
        assert_eq!(reader.u8(), Some(7));
        for address in addresses {
            assert_eq!(reader.address(), Some(address));
        }
        for number in [0, 127, 128, u64::MAX] {
            assert_eq!(reader.number(), Some(number));
        }
        assert_eq!(reader.counted(4), None, "longer than it may be");
        let mut reader = Reader::new(&out[out.len() - 7..]);
        assert_eq!(reader.counted(5), Some(&b"bytes"[..]));
        assert_eq!((reader.rest(), reader.u8(), reader.u64()), (&b""[..], None, None));
        assert_eq!(Reader::new(&[5]).address(), None, "no such family");
        assert_eq!(Reader::new(&[2]).bit(), None, "no truth value");
        let too_large = [&[0xff; 9][..], &[2]].concat();
        assert_eq!(Reader::new(&too_large).number(), None, "more than 64 bits");
        assert_eq!(Reader::new(&[0x80, 2]).small::<u8>(), None, "more than eight bits");
    }
}
