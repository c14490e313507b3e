//! Untrusted input of the admin endpoint, and in front of a connection.

use super::world::http_world::{World, served};
use saltecho::proto::proxy::{Header, HeaderError, HeaderReader, MAX_HEADER, Status};

/// Reads the input as two sizes and the bytes of a client: they arrive in pieces of the first size,
/// and the kernel takes answers in pieces of the second. Every answer has to be well-formed, and
/// the same as without pieces.
pub fn http_exchange(input: &[u8]) {
    let [piece, room, requests @ ..] = input else { return };
    // So many rows as long numbers ask for would only take time.
    if requests.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > 4) {
        return;
    }
    let whole = served(requests);
    let answers = whole.answers();
    assert!((whole.methods.len()..=whole.methods.len() + 1).contains(&answers.len()));
    for answer in answers.iter().skip(whole.methods.len()) {
        assert!((400..=505).contains(&answer.status), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert!(!whole.exchange.is_cut_short());
    let mut world = World::new();
    world.run(requests, || usize::from(*piece), usize::from(*room));
    assert_eq!((&world.sent, &world.methods), (&whole.sent, &whole.methods));
}

/// Reads the input as a size, and a PROXY header that comes in pieces of it.
pub fn proxy_header(input: &[u8]) {
    let [piece, bytes @ ..] = input else { return };
    let whole = read_header(bytes, bytes.len().max(1));
    assert_eq!(read_header(bytes, usize::from(*piece).max(1)), whole);
    let Ok(Some((header, len))) = whole else { return };
    assert!(len <= MAX_HEADER);
    assert_eq!(read_header(&bytes[..len], len), Ok(Some((header.clone(), len))));
    assert_eq!(read_header(&bytes[..len - 1], len), Ok(None), "its last byte says nothing");
    let Some(ends) = header.endpoints else { return };
    let family = if ends.source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (ends.source, ends.destination);
    let line =
        format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    let again = read_header(line.as_bytes(), line.len());
    let expected = Header { unique_id: None, ..header };
    assert_eq!(again, Ok(Some((expected, line.len()))), "{line:?}");
}

fn read_header(bytes: &[u8], piece: usize) -> Result<Option<(Header, usize)>, HeaderError> {
    let mut reader = HeaderReader::new();
    let mut begin = 0;
    for data in bytes.chunks(piece) {
        match reader.handle_recv(data)? {
            Status::Incomplete => begin += data.len(),
            Status::Complete { header, taken } => return Ok(Some((header, begin + taken))),
        }
    }
    Ok(None)
}
