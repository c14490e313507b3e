//! Writing whole lines, and counting those that cannot be written.

use std::io::{self, Write};
use std::sync::atomic::Ordering;

use super::buffer::Buffer;

/// Bytes of one write, whole lines if possible. A pipe takes this many at once or not at all
/// (PIPE_BUF), so another writer's text cannot come between.
const BLOCK: usize = 4096;

/// The writing end of a log.
pub(super) struct Writer<W> {
    out: W,
    /// The rest of a line that was written in part.
    unfinished: Vec<u8>,
    /// Lines that could not be written since the last report of losses.
    lost: u64,
}

impl<W: Write> Writer<W> {
    pub(super) const fn new(out: W) -> Self {
        Self { out, unfinished: Vec::new(), lost: 0 }
    }

    /// Writes what comes until the buffer is closed.
    pub(super) fn drain(&mut self, buffer: &Buffer) {
        while let Some((text, lost)) = buffer.take() {
            self.report_losses(buffer);
            let unwritten = self.write_lines(text.as_bytes(), buffer);
            buffer.count_suppressed(unwritten);
            self.lost += lost + unwritten;
            self.report_losses(buffer);
        }
    }

    fn report_losses(&mut self, buffer: &Buffer) {
        // The report itself can be lost too; it is not one of the lines that were to be written.
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 && self.write_lines(buffer.losses(lost).as_bytes(), buffer) > 0 {
            self.lost = lost;
        }
    }

    /// Writes whole lines. The first error loses all lines not yet begun: its cause (no space left,
    /// no reader) holds for the next line too. Returns their number.
    fn write_lines(&mut self, mut text: &[u8], buffer: &Buffer) -> u64 {
        let unfinished = std::mem::take(&mut self.unfinished);
        let written = self.write(&unfinished, buffer);
        self.unfinished = unfinished[written..].to_vec();
        while !text.is_empty() && self.unfinished.is_empty() {
            let block = &text[..block_len(text)];
            let written = self.write(block, buffer);
            text = &text[written..];
            if written < block.len() {
                if written > 0 && block[written - 1] != b'\n' {
                    let rest = line_len(text);
                    self.unfinished = text[..rest].to_vec();
                    text = &text[rest..];
                }
                break;
            }
        }
        text.iter().filter(|byte| **byte == b'\n').count() as u64
    }

    /// Writes as much as possible and returns how much that was. There is nowhere to report the
    /// error.
    fn write(&mut self, bytes: &[u8], buffer: &Buffer) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(n) => {
                    written += n;
                    buffer.written.fetch_add(n as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }
}

/// The length of the lines that fit into one block, or of the first line if that is longer.
fn block_len(text: &[u8]) -> usize {
    let fits = text[..text.len().min(BLOCK)].iter().rposition(|byte| *byte == b'\n');
    fits.map_or_else(|| line_len(text), |end| end + 1)
}

fn line_len(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1)
}

#[cfg(test)]
pub(super) use tests::Gate;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;
    use crate::cli::log::entry::Format;

    /// A stream that takes nothing until it is opened, or a disk with limited room.
    #[derive(Clone, Default)]
    pub(in crate::cli::log) struct Gate(Arc<(Mutex<Held>, Condvar)>);

    #[derive(Default)]
    struct Held {
        is_open: bool,
        room: usize,
        text: Vec<u8>,
    }

    impl Gate {
        /// A stream that takes this many bytes and then has no space left.
        pub(in crate::cli::log) fn with_room(room: usize) -> Self {
            let gate = Self::default();
            gate.set_room(room);
            gate
        }

        pub(in crate::cli::log) fn open(&self) {
            self.set_room(usize::MAX);
        }

        fn set_room(&self, room: usize) {
            let mut held = self.0.0.lock().unwrap();
            (held.is_open, held.room) = (true, room);
            self.0.1.notify_all();
        }

        pub(in crate::cli::log) fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().text.clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let held = self.0.0.lock().unwrap();
            let mut held = self.0.1.wait_while(held, |held| !held.is_open).unwrap();
            let taken = bytes.len().min(held.room);
            held.room -= taken;
            held.text.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_whole_lines_and_their_number_is_logged_when_there_is_room() {
        let buffer = Buffer::new(Format::Plain { colors: false });
        let gate = Gate::with_room(5 + 2);
        let mut writer = Writer::new(gate.clone());
        writer.lost += writer.write_lines(b"1234\n1234\n1234\n", &buffer);
        assert_eq!((gate.text().as_str(), writer.lost), ("1234\n12", 1));
        writer.lost += writer.write_lines(b"lost\n", &buffer);
        writer.report_losses(&buffer);
        assert_eq!((gate.text().as_str(), writer.lost), ("1234\n12", 2));
        gate.open();
        writer.report_losses(&buffer);
        assert_eq!(writer.write_lines(b"after\n", &buffer), 0);
        assert_eq!(gate.text(), "1234\n1234\nsaltecho: warning: 2 lines lost\nafter\n");
        assert_eq!(writer.lost, 0);
    }

    #[test]
    fn blocks_end_with_a_line_and_a_long_line_is_one_block() {
        let long = [vec![b'x'; 2 * BLOCK], b"\nshort\n".to_vec()].concat();
        assert_eq!(block_len(&long), 2 * BLOCK + 1);
        let many = b"0123456\n".repeat(BLOCK / 4);
        assert_eq!(block_len(&many), BLOCK);
        assert_eq!(block_len(b"one\ntwo\n"), 8);
    }
}
