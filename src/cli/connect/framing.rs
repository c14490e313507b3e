//! The frames of a protocol that has them.

use saltecho::proto::{FrameReader, Piece, Protocol, frame_header};

/// Removes the headers from what is received. Without frames there are none.
#[derive(Debug)]
pub(super) struct Unframer(Option<FrameReader>);

impl Unframer {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self((protocol == Protocol::Multiprocessing).then(FrameReader::new))
    }

    /// Moves the payload in `data` to its front. Returns its length, and whether a frame ended;
    /// `None` without frames.
    pub(super) fn strip(&mut self, data: &mut [u8]) -> (usize, Option<bool>) {
        let Some(reader) = &mut self.0 else { return (data.len(), None) };
        let (mut at, mut payload, mut has_ended) = (0, 0, false);
        while at < data.len() {
            match reader.read(&data[at..]) {
                Piece::Header { len, payload } => {
                    at += len;
                    has_ended |= payload == Some(0);
                }
                Piece::Payload { len, is_last } => {
                    data.copy_within(at..at + len, payload);
                    (at, payload, has_ended) = (at + len, payload + len, has_ended | is_last);
                }
            }
        }
        (payload, Some(has_ended))
    }
}

/// The header of a message of this length; empty without frames.
pub(super) fn header(protocol: Protocol, len: usize) -> Vec<u8> {
    match protocol {
        Protocol::Multiprocessing => frame_header(len as u64).as_ref().to_vec(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_move_to_the_front() {
        let framed = b"\0\0\0\x05hello\0\0\0\0\0\0\0\x03abc";
        for first in 0..=framed.len() {
            let mut unframer = Unframer::new(Protocol::Multiprocessing);
            let mut came = Vec::new();
            let (mut one, mut two) = (framed[..first].to_vec(), framed[first..].to_vec());
            for part in [&mut one, &mut two] {
                let (len, _) = unframer.strip(part);
                came.extend_from_slice(&part[..len]);
            }
            assert_eq!(came, b"helloabc", "cut at {first}");
        }
        let mut bytes = b"\0\0\0\0x".to_vec();
        assert_eq!(
            Unframer::new(Protocol::Multiprocessing).strip(&mut bytes[..4]),
            (0, Some(true))
        );
        assert_eq!(Unframer::new(Protocol::Plain).strip(&mut bytes), (5, None));
    }
}
