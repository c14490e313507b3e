//! What stands in a recording for a PROXY header: the same kind of header, with numbered addresses.

use std::net::IpAddr;

use super::encode::Encoder;
use super::mask::Mask;
use crate::proto::proxy::{Header, HeaderReader, Status};

/// The header of one connection.
#[derive(Debug, Default)]
pub(super) struct HeaderGuise {
    reader: HeaderReader,
    /// Earlier pieces. Nothing stands for them until the header is complete.
    seen: Vec<u8>,
    over: bool,
    /// It named a client.
    pub(super) named: bool,
}

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

impl HeaderGuise {
    /// Writes what stands for the first of these bytes. Returns their number, true if they complete the
    /// header, and what stands for the earlier pieces if that is known now.
    pub(super) fn write(
        &mut self,
        mask: &mut Mask,
        bytes: &[u8],
        to: &mut Encoder,
    ) -> (usize, bool, Option<Vec<u8>>) {
        if self.over {
            to.literal(&vec![b'?'; bytes.len()]);
            return (bytes.len(), false, None);
        }
        let before = self.seen.len();
        let status = self.reader.handle_recv(bytes);
        let taken = match &status {
            Ok(Status::Complete { taken, .. }) => *taken,
            Ok(Status::Incomplete) | Err(_) => bytes.len(),
        };
        self.seen.extend_from_slice(&bytes[..taken]);
        let stand_in = match &status {
            Ok(Status::Complete { header, .. }) => {
                self.named = header.endpoints.is_some();
                rewritten(mask, &self.seen, header)
            }
            Ok(Status::Incomplete) => {
                to.awaited(taken);
                return (taken, false, None);
            }
            Err(_) => broken(&self.seen),
        };
        self.over = true;
        self.seen.clear();
        to.literal(&stand_in[before..]);
        let earlier = (before > 0).then(|| stand_in[..before].to_vec());
        (taken, status.is_ok(), earlier)
    }

    /// What stands for the pieces of a header that will never be complete.
    pub(super) fn unfinished(&mut self) -> Option<Vec<u8>> {
        let seen = std::mem::take(&mut self.seen);
        (!seen.is_empty()).then(|| anonymous(&seen))
    }
}

/// A header of the same length and version without addresses.
pub(super) fn anonymous(bytes: &[u8]) -> Vec<u8> {
    /// A header of version 1 without addresses, as far as it goes.
    const UNKNOWN: &[u8] = b"PROXY UNKNOWN ";
    let binary = bytes[0] == V2[0];
    let stand_in = bytes.iter().enumerate().map(|(at, byte)| match binary {
        true if at < V2.len() + 4 => *byte,
        true => 0,
        false if matches!(byte, b'\r' | b'\n') => *byte,
        false => *UNKNOWN.get(at).unwrap_or(&b'x'),
    });
    stand_in.collect()
}

/// Bytes that are as little a header as these, at the same byte.
fn broken(bytes: &[u8]) -> Vec<u8> {
    let binary = bytes[0] == V2[0];
    let signature = if binary { V2 } else { V1 };
    let mut is_like = true;
    let stand_in = bytes.iter().enumerate().map(|(at, byte)| {
        is_like &= signature.get(at).is_none_or(|expected| expected == byte);
        match (is_like, at < signature.len(), binary) {
            (true, true, _) => *byte,
            // The fields of version 2 are kept, of which one is wrong.
            (true, false, true) if at < V2.len() + 4 => *byte,
            (true, false, true) => 0xff,
            // A line cannot have these, and it ends where it did.
            (true, false, false) if matches!(byte, b'\r' | b'\n' | b' ') => *byte,
            _ => b'?',
        }
    });
    stand_in.collect()
}

/// A whole header with numbered addresses.
fn rewritten(mask: &mut Mask, whole: &[u8], header: &Header) -> Vec<u8> {
    let source = header.endpoints.map(|endpoints| mask.client(endpoints.source).ip());
    let text = if whole.starts_with(V2) {
        binary(whole, source)
    } else {
        source.and_then(|source| line(whole.len(), source))
    };
    text.unwrap_or_else(|| anonymous(whole))
}

fn binary(whole: &[u8], source: Option<IpAddr>) -> Option<Vec<u8>> {
    let mut out = whole.to_vec();
    let fixed = V2.len() + 4;
    let address_len = match (out[13], source?) {
        (0x11, IpAddr::V4(ip)) => {
            out[fixed..fixed + 4].copy_from_slice(&ip.octets());
            out[fixed + 4..fixed + 12].fill(0);
            12
        }
        (0x21, IpAddr::V6(ip)) => {
            out[fixed..fixed + 16].copy_from_slice(&ip.octets());
            out[fixed + 16..fixed + 36].fill(0);
            36
        }
        _ => return None,
    };
    // Types and lengths of the fields behind it are kept, values are not.
    let mut at = fixed + address_len;
    while let Some([_, high, low]) = out.get(at..at + 3) {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let value = out.get_mut(at + 3..at + 3 + len)?;
        value.fill(0);
        at += 3 + len;
    }
    Some(out)
}

/// A line of version 1 of this length.
fn line(len: usize, source: IpAddr) -> Option<Vec<u8>> {
    let (family, shortest, longest) = match source {
        IpAddr::V4(_) => ("TCP4", 7, 15),
        IpAddr::V6(_) => ("TCP6", 2, 39),
    };
    // The lower half of an IPv6 address is no part of its source.
    let sources = match source {
        IpAddr::V4(ip) => vec![ip.to_string()],
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            vec![ip.to_string(), format!("{a:04x}:{b:04x}:{c:04x}:0000:1111:1111:1111:1111")]
        }
    };
    for source in sources {
        let begin = format!("PROXY {family} {source} ");
        // The rest: the other address, two ports, two blanks and the end of the line.
        let Some(left) = len.checked_sub(begin.len() + 4) else { continue };
        for destination in shortest..=longest.min(left) {
            let ports = left - destination;
            if !(2..=10).contains(&ports) {
                continue;
            }
            let other = match family {
                "TCP4" => filler_v4(destination),
                _ => filler_v6(destination),
            };
            if let Some(other) = other.filter(|other| other.parse::<IpAddr>().is_ok()) {
                let one = ports / 2;
                let (one, two) = (&"11111"[..one], &"11111"[..ports - one]);
                return Some(format!("{begin}{other} {one} {two}\r\n").into_bytes());
            }
        }
    }
    None
}

fn filler_v4(len: usize) -> Option<String> {
    let mut digits = len.checked_sub(7)?;
    let octets = [0; 4].map(|_| {
        let more = digits.min(2);
        digits -= more;
        &"111"[..=more]
    });
    (digits == 0).then(|| octets.join("."))
}

fn filler_v6(len: usize) -> Option<String> {
    const WHOLE: &str = "1111:1111:1111:1111:1111:1111:1111:1111";
    if len > WHOLE.len() - 3 {
        return Some(WHOLE[WHOLE.len() - len..].to_owned());
    }
    let mut text = "::".to_owned();
    let mut in_group = 0;
    while text.len() < len {
        match in_group {
            4 => (in_group, text) = (0, text + ":"),
            _ => (in_group, text) = (in_group + 1, text + "1"),
        }
    }
    (!text.ends_with(':') || len == 2).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader makes of a header, and of what stands for it.
    fn both(real: &[u8]) -> (Header, Header) {
        let read = |bytes: &[u8]| match HeaderReader::new().handle_recv(bytes) {
            Ok(Status::Complete { header, taken }) if taken == bytes.len() => header,
            other => panic!("{other:?}: {:?}", String::from_utf8_lossy(bytes)),
        };
        let mut to = Encoder::default();
        let mut mask = Mask::new(false);
        let written = HeaderGuise::default().write(&mut mask, real, &mut to);
        assert_eq!(written, (real.len(), true, None));
        let masked = &to.out[to.out.len() - real.len()..];
        (read(real), read(masked))
    }

    #[test]
    fn lines_of_any_length_keep_their_length() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
            "PROXY TCP6 2001:db8:1111:2222:3333:4444:5555:6666 2001:db8::1 56324 443\r\n",
            "PROXY TCP6 2001:db8::1 ::1 1 443\r\n",
            "PROXY TCP6 2001:0db8:1111:2222:3333:4444:5555:6666 \
             2001:0db8:1111:2222:3333:4444:5555:6666 65535 65535\r\n",
        ] {
            let (real, masked) = both(line.as_bytes());
            let source = masked.endpoints.expect("it names a client").source;
            assert_ne!(source, real.endpoints.unwrap().source);
            let begin = if source.is_ipv4() { "1" } else { "[2001:1:" };
            assert!(source.to_string().starts_with(begin), "{source}");
        }
        let (real, masked) = both(b"PROXY UNKNOWN 192.0.2.1 whatever\r\n");
        assert_eq!((real.endpoints, masked.endpoints), (None, None));
    }

    #[test]
    fn binary_headers_keep_their_fields_and_no_value() {
        let mut real = [V2, &[0x21, 0x11, 0, 12 + 3 + 2 + 3 + 5]].concat();
        real.extend([192, 0, 2, 1, 198, 51, 100, 1, 1, 2, 3, 4]);
        real.extend(b"\x01\0\x02h2\x05\0\x05uniqu");
        let (_, masked) = both(&real);
        assert_eq!(masked.endpoints.unwrap().source.to_string(), "1.0.0.101:0");
        assert_eq!(masked.unique_id.as_deref(), Some(&[0; 5][..]));
        let source = Some(IpAddr::from([1, 0, 0, 101]));
        let fields = binary(&real, source).expect("it has an address").split_off(V2.len() + 4 + 12);
        assert_eq!(fields, b"\x01\0\x02\0\0\x05\0\x05\0\0\0\0\0");
    }

    #[test]
    fn what_is_no_header_stays_none_in_the_same_piece() {
        for real in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 999.0.2.1 198.51.100.1 56324 443\r\n",
            b"PRAXY ",
            b"\r\n\r\n\0\r\nQUIT\nx\x11\0\x0c000000000000",
        ] {
            let mut to = Encoder::default();
            HeaderGuise::default().write(&mut Mask::new(false), real, &mut to);
            let masked = to.out[to.out.len() - real.len()..].to_vec();
            let error = HeaderReader::new().handle_recv(real).unwrap_err();
            let text = String::from_utf8_lossy(&masked).into_owned();
            assert_eq!(HeaderReader::new().handle_recv(&masked), Err(error), "{text}");
        }
    }

    #[test]
    fn of_a_binary_header_without_addresses_its_first_fields_are_kept() {
        let fields = [V2, &[0x21, 0x11, 0, 12]].concat();
        let real = [&fields[..], &[192, 0, 2, 1, 198, 51, 100, 1, 1, 2, 3, 4]].concat();
        assert_eq!(anonymous(&real), [&fields[..], &[0; 12]].concat());
    }

    #[test]
    fn of_what_is_no_header_only_the_part_that_is_like_one_is_kept() {
        let fields = [V2, &[0x31, 0x11, 0, 12]].concat();
        for (real, kept) in [
            (&b"GET /\r\n"[..], &b"???????"[..]),
            (b"PRAXY 1\r\n", b"PR???????"),
            (b"PROXY TCP4 999.0.2.1 1\r\n", b"PROXY ???? ????????? ?\r\n"),
            (b"\r\n\r\n\0\r\nQUIX\x21", b"\r\n\r\n\0\r\nQUI??"),
            (&[&fields[..], &[192, 0, 2]].concat(), &[&fields[..], &[0xff; 3]].concat()),
        ] {
            assert_eq!(broken(real), kept, "{}", String::from_utf8_lossy(real));
        }
    }

    #[test]
    fn an_ipv6_address_without_a_meaning_has_nearly_any_length() {
        for len in 2..=39 {
            match (len, filler_v6(len)) {
                // These would end with a colon.
                (7 | 12 | 17 | 22 | 27 | 32, text) => assert_eq!(text, None),
                (_, text) => {
                    let text = text.expect("there is one");
                    assert_eq!(text.len(), len);
                    assert!(text.parse::<std::net::Ipv6Addr>().is_ok(), "{text}");
                }
            }
        }
    }
}
