//! Files that are sent, by sendfile(2) or by reading them.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::thread;

use saltecho::socket::{
    Data, Error, ErrorKind, Family, FileOptions, Result, Shutdown, Socket, SocketType, socketpair,
};

/// Longer than the socket's buffers together.
const LENGTH: usize = 1_500_000;

fn content() -> Vec<u8> {
    (0..=250).cycle().take(LENGTH).collect()
}

fn file_of(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(content).expect("room on the disk");
    file
}

/// Calls `send` with a socket with this timeout. Returns the bytes that arrived, and its result.
fn received(
    seconds: Option<f64>,
    send: impl FnOnce(&Socket) -> Result<u64> + Send,
) -> Result<(Vec<u8>, Result<u64>)> {
    let (a, b) = socketpair()?;
    a.settimeout(seconds)?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let outcome = send(&a);
            a.shutdown(Shutdown::Write).map(|()| outcome)
        });
        let mut data = Vec::new();
        loop {
            let piece = b.recv(65_536)?;
            if piece.is_empty() {
                break;
            }
            data.extend(piece);
        }
        Ok((data, sending.join().expect("no panic")?))
    })
}

#[test]
fn a_file_is_sent_from_an_offset_up_to_a_count() -> Result<()> {
    let content = content();
    for seconds in [None, Some(60.0)] {
        for (offset, count) in [
            (0, None),
            (700_000, None),
            (5, Some(1_000_000)),
            (1_000_000, Some(1_000_000)),
            (LENGTH, None),
        ] {
            let end = count.map_or(LENGTH, |count| LENGTH.min(offset + count));
            let wanted = &content[offset..end];
            let (from, limit) = (offset as u64, count.map(|count| count as u64));
            let mut file = file_of(&content);
            file.seek(SeekFrom::Start(3)).expect("a file can be sought in");
            let (data, sent) = received(seconds, |socket| socket.sendfile(&file, from, limit))?;
            assert_eq!(sent, Ok(wanted.len() as u64), "{seconds:?} {offset} {count:?}");
            assert!(data == wanted, "{seconds:?} {offset} {count:?}");
            // As in Python the position is behind what was sent, and stays if that is nothing.
            let position = if wanted.is_empty() { 3 } else { end as u64 };
            assert_eq!(file.stream_position().expect("a file has a position"), position);

            let mut memory = Cursor::new(&content);
            let (data, sent) =
                received(seconds, |socket| socket.sendfile_from(&mut memory, from, limit))?;
            assert_eq!(sent, Ok(wanted.len() as u64), "{seconds:?} {offset} {count:?}");
            assert!(data == wanted, "{seconds:?} {offset} {count:?}");
            assert_eq!(memory.position(), end.max(offset) as u64);
        }
    }
    Ok(())
}

#[test]
fn what_the_kernel_cannot_copy_from_is_read() -> Result<()> {
    let directory = File::open("/").expect("a directory can be opened");
    let (data, sent) = received(None, |socket| socket.sendfile(&directory, 0, None))?;
    // EINVAL is sendfile(2)'s own.
    assert_eq!(sent.map_err(|error| error.kind()), Err(ErrorKind::IsADirectoryError));
    assert_eq!(data, b"");
    let (reader, mut writer) = std::io::pipe().expect("a pipe can be had");
    writer.write_all(b"unsent").expect("room in a pipe");
    let pipe = File::from(std::os::fd::OwnedFd::from(reader));
    let (data, sent) = received(None, |socket| socket.sendfile(&pipe, 0, None))?;
    assert_eq!((data, sent), (Vec::new(), Ok(0)), "no size");
    Ok(())
}

#[test]
fn what_sendfile_does_not_do_is_refused_first() -> Result<()> {
    let file = file_of(b"content");
    let text = |result: Result<u64>| {
        let error: Error = result.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ValueError);
        error.to_string()
    };
    let datagrams = Socket::new(Family::Inet, SocketType::Datagram)?;
    let (a, _b) = socketpair()?;
    let wrong_type = "only SOCK_STREAM type sockets are supported";
    assert_eq!(text(datagrams.sendfile(&file, 0, None)), wrong_type);
    let zero = "count must be a positive integer (got 0)";
    assert_eq!(text(a.sendfile(&file, 0, Some(0))), zero);
    a.setblocking(false)?;
    assert_eq!(text(a.sendfile(&file, 0, None)), "non-blocking sockets are not supported");
    let memory = &mut Cursor::new(b"content");
    assert_eq!(text(a.sendfile_from(memory, 0, Some(0))), zero);
    Ok(())
}

#[test]
fn a_sendfile_that_times_out_has_sent_a_part() -> Result<()> {
    let content = content();
    let mut file = file_of(&content);
    let (a, b) = socketpair()?;
    a.settimeout(Some(0.05))?;
    let error = a.sendfile(&file, 0, None).expect_err("nothing reads");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::TimeoutError, None));
    let position = file.stream_position().expect("a file has a position");
    a.close();
    let arrived = b.makefile("rb", FileOptions::default())?.read(None)?.map(Data::into_bytes);
    let arrived = arrived.unwrap_or_default();
    assert_eq!(arrived.len() as u64, position);
    assert!(content.starts_with(&arrived) && !arrived.is_empty());

    let error = b.sendfile(&file, 0, None).expect_err("the peer is gone");
    assert_eq!(error.kind(), ErrorKind::BrokenPipeError);
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(position)).expect("a file can be sought in");
    file.read_to_end(&mut rest).expect("and read");
    assert_eq!(rest.len() + arrived.len(), LENGTH);
    Ok(())
}
