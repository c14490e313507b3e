//! Messages between the two processes of an upgrade, without a socket: docs/HANDOVER-FORMAT.md.
//!
//! A message has a header of 32 bytes, a payload, and sockets beside it. Whatever the bytes are,
//! reading them ends with a message or an [`Unreadable`].

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

/// Length of a header in bytes. A longer one is from a later version, which may add to it.
pub(super) const HEADER: usize = HEADER_SIZE as usize;
const HEADER_SIZE: u16 = 32;
/// The longest header that is accepted.
const MAX_HEADER: usize = 256;
/// The longest payload: a chunk of records, and a little more.
pub(super) const MAX_PAYLOAD: usize = 65 << 10;
/// The longest message.
pub(super) const MAX_MESSAGE: usize = MAX_HEADER + MAX_PAYLOAD;
/// The format of headers.
const FORMAT: u16 = 1;
const MAGIC: [u8; 4] = *b"sEho";
/// The bytes of the header that hold the checksum.
const CHECKSUM: std::ops::Range<usize> = 28..32;

/// The kind of a message. Numbers below 128 are kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A chunk of records of this kind.
    Records(u8),
    /// New tells what it understands.
    Hello,
    /// Old tells what it will send.
    Offer,
    /// New has checked everything that can be wrong before there are sockets.
    Prepared,
    /// The program's own state.
    Program,
    /// Old has sent everything.
    End,
    /// New has everything, and only needs permission.
    Ack,
    /// Old touches no socket any more.
    Commit,
    /// New has read the permission, and has not yet touched a socket.
    Taken,
    /// The sender gives up, and says why.
    Error,
}

impl Kind {
    /// Every kind that has no records.
    pub(super) const ALL: [Self; 9] = [
        Self::Hello,
        Self::Offer,
        Self::Prepared,
        Self::Program,
        Self::End,
        Self::Ack,
        Self::Commit,
        Self::Taken,
        Self::Error,
    ];

    const fn code(self) -> u8 {
        match self {
            Self::Records(code) => code,
            Self::Hello => 128,
            Self::Offer => 129,
            Self::Prepared => 130,
            Self::Program => 131,
            Self::End => 132,
            Self::Ack => 133,
            Self::Commit => 134,
            Self::Taken => 135,
            Self::Error => 136,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            0..128 => Some(Self::Records(code)),
            _ => Self::ALL.into_iter().find(|kind| kind.code() == code),
        }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The number of the message in its direction, from 0.
    pub(super) sequence: u32,
    /// Number of records.
    pub(super) count: u32,
    /// Length of each record.
    pub(super) record_size: u16,
    /// Number of sockets beside the message.
    pub(super) sockets: u16,
}

/// The reason why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("a message of {0} bytes is too short")]
    Short(usize),
    #[error("a message does not begin with the mark of an upgrade")]
    Magic,
    #[error("a message has format {0}, and this version knows {FORMAT}")]
    Format(u16),
    #[error("a message has an unknown kind, {0}")]
    Kind(u8),
    #[error("a message has unknown flags, {0:#x}")]
    Flags(u8),
    #[error("a message announces {announced} bytes and has {len}")]
    Length { announced: usize, len: usize },
    #[error("a message has a wrong checksum")]
    Checksum,
    #[error("message {expected} is missing; number {found} came")]
    Sequence { expected: u32, found: u32 },
}

impl Header {
    /// The bytes of the header of a message with this payload.
    pub(super) fn encode(&self, payload: &[u8]) -> [u8; HEADER] {
        let length = u32::try_from(payload.len()).expect("a payload is at most 65 KiB");
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[6..8].copy_from_slice(&HEADER_SIZE.to_le_bytes());
        bytes[8] = self.kind.code();
        // Flags: none so far.
        bytes[9] = 0;
        bytes[10..12].copy_from_slice(&self.record_size.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        bytes[20..24].copy_from_slice(&length.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.sockets.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), payload);
        bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a message, whose payload follows it.
    pub(super) fn decode(message: &[u8]) -> Result<(Self, &[u8]), Unreadable> {
        let Some(header) = message.first_chunk::<HEADER>() else {
            return Err(Unreadable::Short(message.len()));
        };
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let long = |at: usize| u32::from(short(at)) | u32::from(short(at + 2)) << 16;
        if header[0..4] != MAGIC {
            return Err(Unreadable::Magic);
        }
        if short(4) != FORMAT {
            return Err(Unreadable::Format(short(4)));
        }
        let start = usize::from(short(6));
        let announced = (long(20) as usize).saturating_add(start);
        if !(HEADER..=MAX_HEADER).contains(&start) || announced != message.len() {
            return Err(Unreadable::Length { announced, len: message.len() });
        }
        let mut unsigned = *header;
        unsigned[CHECKSUM].fill(0);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&unsigned), &message[HEADER..]);
        if checksum != long(CHECKSUM.start) {
            return Err(Unreadable::Checksum);
        }
        if header[9] != 0 {
            return Err(Unreadable::Flags(header[9]));
        }
        let kind = Kind::from_code(header[8]).ok_or(Unreadable::Kind(header[8]))?;
        let read = Self {
            kind,
            sequence: long(12),
            count: long(16),
            record_size: short(10),
            sockets: short(24),
        };
        Ok((read, &message[start..]))
    }

    /// Checks that this is the message that has to come next.
    pub(super) const fn follows(&self, expected: u32) -> Result<(), Unreadable> {
        match self.sequence == expected {
            true => Ok(()),
            false => Err(Unreadable::Sequence { expected, found: self.sequence }),
        }
    }
}

/// A payload of lines, each a key, an equals sign and a value. A key that is not known is for
/// another version, and one that is missing has no value: so both may add to what they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(BTreeMap<String, String>);

/// A line of a text that is missing or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of the upgrade has no sensible {0}")]
pub(super) struct NoSense(pub(super) &'static str);

impl Text {
    /// Adds a line. A line break in the value becomes a blank.
    #[must_use]
    pub(super) fn with(mut self, key: &'static str, value: impl Display) -> Self {
        self.0.insert(key.to_owned(), value.to_string().replace(['\n', '\r'], " "));
        self
    }

    /// Reads lines; what is no line of this form is left out.
    pub(super) fn parse(payload: &[u8]) -> Self {
        let text = String::from_utf8_lossy(payload);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// A value, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// A value that has to be there.
    pub(super) fn read<T: FromStr>(&self, key: &'static str) -> Result<T, NoSense> {
        self.get(key).and_then(|value| value.parse().ok()).ok_or(NoSense(key))
    }

    /// The text as a payload. It is cut before it grows beyond what a message may have.
    pub(super) fn to_payload(&self) -> Vec<u8> {
        let mut bytes = self.to_string().into_bytes();
        bytes.truncate(MAX_PAYLOAD);
        bytes
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| writeln!(f, "{key}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(header: &Header, payload: &[u8]) -> Vec<u8> {
        [&header.encode(payload)[..], payload].concat()
    }

    fn header(kind: Kind) -> Header {
        Header { kind, sequence: 7, count: 240, record_size: 48, sockets: 240 }
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        for kind in Kind::ALL.into_iter().chain([Kind::Records(4)]) {
            let bytes = message(&header(kind), b"payload");
            assert_eq!(Header::decode(&bytes), Ok((header(kind), &b"payload"[..])));
        }
    }

    #[test]
    fn each_changed_bit_is_noticed() {
        let bytes = message(&header(Kind::End), b"payload");
        for bit in 0..8 * bytes.len() {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&changed).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Header::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_longer_header_is_skipped_and_an_unknown_format_or_flag_is_refused() {
        let signed = |mut bytes: Vec<u8>| {
            bytes[CHECKSUM].fill(0);
            let checksum = crc32c::crc32c(&bytes);
            bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
            bytes
        };
        let bytes = message(&header(Kind::Ack), b"12345678rest");
        let changed = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            signed(bytes)
        };
        let mut longer = changed(6, 40);
        longer[20] = 4;
        let longer = signed(longer);
        assert_eq!(Header::decode(&longer), Ok((header(Kind::Ack), &b"rest"[..])));
        assert_eq!(Header::decode(&changed(4, 2)), Err(Unreadable::Format(2)));
        assert_eq!(Header::decode(&changed(9, 1)), Err(Unreadable::Flags(1)));
        assert_eq!(Header::decode(&changed(8, 200)), Err(Unreadable::Kind(200)));
    }

    #[test]
    fn a_gap_in_the_numbers_is_noticed() {
        assert_eq!(header(Kind::Ack).follows(7), Ok(()));
        let gap = Unreadable::Sequence { expected: 6, found: 7 };
        assert_eq!(header(Kind::Ack).follows(6), Err(gap));
    }

    #[test]
    fn a_text_has_the_lines_that_were_put_in_and_no_more() {
        let text = Text::default().with("version", "1.2").with("reason", "two\nlines=1\r");
        let read = Text::parse(&text.to_payload());
        assert_eq!(read, text);
        assert_eq!(read.get("reason"), Some("two lines=1 "));
        assert_eq!(read.read::<f32>("version"), Ok(1.2));
        assert_eq!(read.read::<u32>("version"), Err(NoSense("version")));
        assert_eq!(read.read::<u32>("pid"), Err(NoSense("pid")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>, begins: bool) {
            if begins {
                bytes.splice(0..0, header(Kind::Hello).encode(b""));
            }
            let _ = Header::decode(&bytes);
            let _ = Text::parse(&bytes);
        }
    }
}
