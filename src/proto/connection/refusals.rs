//! What another loop cannot have written of a connection is refused, and all else is written again as it
//! was.

use super::super::handshake::Handshake;
use super::super::multiprocessing::MutualHandshake;
use super::super::proxy::{Header, HeaderReader, MAX_HEADER};
use super::super::wire::{Reader, put_counted};
use super::super::{CloseReason, Head, Parked, Undisguised};
use super::parked::{AWAIT_DIGEST, ECHOING, FINISHING, LINGERING, MUTUAL};

use crate::auth::{Key, Keyring, MacAlgorithm};

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const ADDRESS: [u8; 7] = [4, 127, 0, 0, 1, 0x50, 0];

fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_counted(&mut out, bytes);
    out
}

/// Whether all of these bytes are read; if so, they are written again.
fn is_read<T>(
    bytes: &[u8],
    read: impl Fn(&mut Reader<'_>) -> Option<T>,
    park: impl Fn(T, &mut Vec<u8>),
) -> bool {
    let mut reader = Reader::new(bytes);
    let Some(value) = read(&mut reader) else { return false };
    let mut again = Vec::new();
    park(value, &mut again);
    again.extend(reader.rest());
    assert_eq!(again, bytes);
    true
}

/// A mutual handshake: its step, the lengths of its challenge, of the frame so far and of what is
/// unsent, the identifier of its key, and the place in the frame.
type Mutual<'a> = (u8, usize, usize, usize, &'a [u8], [u8; 10]);

fn mutual_bytes((step, challenge, frame, unsent, key, place): Mutual<'_>) -> Vec<u8> {
    [
        &[step][..],
        &counted(&vec![1; challenge]),
        &counted(&vec![2; frame]),
        &counted(&vec![3; unsent]),
        &counted(key),
        &place,
    ]
    .concat()
}

fn is_mutual(what: Mutual<'_>) -> bool {
    is_read(&mutual_bytes(what), MutualHandshake::read, |(mut handshake, key), out| {
        if let Some(key) = key {
            handshake.find_key(&Keyring::demo(), key);
        }
        handshake.park(&mut Undisguised, out);
    })
}

/// Between two frames, and in a payload that lacks so many bytes.
const BETWEEN: [u8; 10] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const fn lacking(bytes: u8) -> [u8; 10] {
    [3, 0, bytes, 0, 0, 0, 0, 0, 0, 0]
}

#[test]
fn a_mutual_handshake_fits_its_step() {
    let (short, long) = (20, 48);
    let id = Key::demo().id().to_bytes();
    for good in [
        (3, short, 0, 0, &[][..], BETWEEN),
        (3, long, 0, 100, &[], BETWEEN),
        (3, long, 100, 0, &[], lacking(156)),
        (1, long, 0, 0, &id, BETWEEN),
        (2, long, 0, 0, &id, BETWEEN),
        // One that has failed has read what it should not have.
        (4, long, 9, 0, &[], BETWEEN),
        (5, long, 200, 0, &[], lacking(255)),
        (6, long, 9, 0, &id, BETWEEN),
    ] {
        assert!(is_mutual(good), "{good:?}");
    }
    for bad in [
        (0, long, 0, 0, &id[..], BETWEEN),
        (7, long, 0, 0, &id, BETWEEN),
        (3, 0, 0, 0, &[], BETWEEN),
        (3, 21, 0, 0, &[], BETWEEN),
        (3, long, 9, 0, &[], BETWEEN),
        (3, long, 100, 0, &[], lacking(157)),
        (1, long, 0, 0, &[], BETWEEN),
        (2, long, 0, 0, &[], BETWEEN),
        (2, long, 0, 0, &id[..3], BETWEEN),
        (3, long, 0, 0, &[], [9; 10]),
        (3, long, 0, 1000, &[], BETWEEN),
    ] {
        assert!(!is_mutual(bad), "{bad:?}");
    }
}

#[test]
fn without_its_key_a_mutual_handshake_has_failed() {
    let other = Key::new("sixteen bytes or more").id().to_bytes();
    for (step, after) in [(1, 5), (2, 5), (4, 4), (6, 6)] {
        let bytes = mutual_bytes((step, 20, 0, 0, &other, BETWEEN));
        let (mut handshake, key) =
            MutualHandshake::read(&mut Reader::new(&bytes)).expect("a handshake");
        handshake.find_key(&Keyring::demo(), key.expect("an identifier"));
        let mut out = Vec::new();
        handshake.park(&mut Undisguised, &mut out);
        assert_eq!(out[0], after, "step {step}");
    }
}

/// A handshake: what was sent of the challenge, the digest so far, and what is known of a header.
fn handshake_bytes(sent: u16, digest: usize, preface: &[u8]) -> Vec<u8> {
    [&[1; 32][..], &sent.to_le_bytes(), &counted(&vec![2; digest]), &ADDRESS, preface].concat()
}

fn awaited(header: &[u8]) -> Vec<u8> {
    [&[1, 9, 9, 9, 9, 9, 9, 9, 9][..], &counted(header)].concat()
}

fn is_handshake(sent: u16, digest: usize, preface: &[u8]) -> bool {
    let park = |handshake: Handshake, out: &mut Vec<u8>| handshake.park(&mut Undisguised, out);
    is_read(&handshake_bytes(sent, digest, preface), Handshake::read, park)
}

#[test]
fn a_handshake_has_sent_nothing_before_the_header() {
    let longest = MacAlgorithm::Sha256.digest_len();
    let (none, read) = (&[0][..], &[2, 1, 0, 0, 0, 0, 0][..]);
    assert!(is_handshake(0, 0, none) && is_handshake(32, longest, none));
    assert!(is_handshake(32, longest, read));
    assert!(is_handshake(0, 0, &awaited(b"")) && is_handshake(0, 0, &awaited(b"PROXY TCP")));
    assert!(!is_handshake(33, 0, none), "a longer challenge");
    assert!(!is_handshake(32, longest + 1, none), "a longer digest");
    assert!(!is_handshake(1, 0, &awaited(b"")), "a challenge before the header");
    assert!(!is_handshake(0, 1, &awaited(b"")), "a digest before the header");
    assert!(!is_handshake(0, 0, &awaited(b"GET /")), "no header");
    assert!(!is_handshake(0, 0, &awaited(LOCAL)), "a whole header");
    assert!(!is_handshake(0, 0, &[3]), "another state");
}

#[test]
fn the_bytes_of_a_header_take_the_place_of_as_many() {
    let replaced = |preface: &[u8], bytes: &[u8]| {
        let parked = handshake_bytes(0, 0, preface);
        let mut handshake = Handshake::read(&mut Reader::new(&parked)).expect("a handshake");
        let mut bytes = bytes.to_vec();
        handshake.replace_header(&mut bytes)?;
        let mut out = Vec::new();
        handshake.park(&mut Undisguised, &mut out);
        Some((out, bytes))
    };
    let v2 = &LOCAL[..5];
    for behind in [&b""[..], b"behind"] {
        let outcome = replaced(&awaited(b"PROXY"), &[v2, behind].concat());
        assert_eq!(outcome, Some((handshake_bytes(0, 0, &awaited(v2)), behind.to_vec())));
    }
    assert_eq!(replaced(&awaited(b"PROXY"), &v2[..4]), None, "too few");
    assert_eq!(replaced(&awaited(b"PROXY"), b"GET /"), None, "no header");
    assert_eq!(replaced(&[0], v2), None, "without a balancer");
    assert_eq!(replaced(&[2, 1, 0, 0, 0, 0, 0], v2), None, "behind the header");
}

#[test]
fn a_header_is_consistent() {
    let is_header = |bytes: &[u8]| {
        is_read(bytes, Header::read, |header, out| {
            Header::park(header.as_ref(), &mut Undisguised, out);
        })
    };
    let (both, none) = ([ADDRESS, ADDRESS].concat(), [0, 0]);
    let id = |has: u8, id: &[u8]| [&[has][..], &counted(id)].concat();
    assert!(is_header(&[0]));
    for addresses in [&both[..], &none] {
        assert!(is_header(&[&[1], addresses, &id(0, b"")].concat()));
        assert!(is_header(&[&[1], addresses, &id(1, b"")].concat()));
        assert!(is_header(&[&[1], addresses, &id(1, &[7; 128])].concat()));
        assert!(!is_header(&[&[1], addresses, &id(1, &[7; 129])].concat()), "a longer id");
        assert!(!is_header(&[&[1], addresses, &id(0, b"id")].concat()), "an id without one");
        assert!(
            !is_header(&[&[1], addresses, &id(2, b"")].concat()),
            "neither with nor without an id"
        );
        assert!(
            !is_header(&[&[2], addresses, &id(0, b"")].concat()),
            "neither with nor without a header"
        );
    }
    assert!(!is_header(&[&[1, 0], &ADDRESS[..], &id(0, b"")].concat()), "a destination only");
    assert!(!is_header(&[&[1], &ADDRESS[..], &[0], &id(0, b"")].concat()), "a source only");
}

#[test]
fn the_beginning_of_a_header_lacks_a_byte_at_least() {
    let rest = u16::try_from(MAX_HEADER - LOCAL.len()).expect("it is short").to_be_bytes();
    let longest = [&LOCAL[..14], &rest, &[0; MAX_HEADER][LOCAL.len()..]].concat();
    let is_beginning = |bytes: &[u8]| {
        is_read(&counted(bytes), HeaderReader::read, |reader, out| {
            reader.park(&mut Undisguised, out);
        })
    };
    assert!(is_beginning(&longest[..MAX_HEADER - 1]));
    assert!(!is_beginning(&longest));
}

#[test]
fn the_head_of_a_connection_fits_its_stage() {
    let reason = CloseReason::Drained.code();
    let handshake = handshake_bytes(32, 0, &[0]);
    let mutual = [&mutual_bytes((3, 20, 0, 0, &[], BETWEEN))[..], &ADDRESS, &[0]].concat();
    let longer = [&handshake[..], &[0]].concat();
    let fits = |stage, reason, bytes_left, unsent, handshake: Option<&[u8]>| {
        let head = Head { stage, reason, bytes_left, deadline: u64::MAX, unsent };
        Parked::read(&head, handshake).is_some()
    };
    assert!(fits(AWAIT_DIGEST, 0, 0, 0, Some(&handshake)));
    assert!(fits(MUTUAL, 0, 0, 0, Some(&mutual)));
    assert!(fits(ECHOING, 0, 0, 0, None) && fits(ECHOING, 0, 0, 5, None));
    assert!(fits(ECHOING, reason, 0, 5, None), "it closes after its answer");
    assert!(fits(FINISHING, reason, 0, 0, None));
    assert!(fits(LINGERING, reason, 9, 0, None));

    assert!(!fits(AWAIT_DIGEST, 0, 0, 0, None), "a handshake without its state");
    assert!(!fits(AWAIT_DIGEST, 0, 0, 0, Some(&longer)), "a state that is longer");
    assert!(!fits(AWAIT_DIGEST, reason, 0, 0, Some(&handshake)), "a handshake that closes");
    assert!(!fits(MUTUAL, 0, 0, 5, Some(&mutual)), "an answer before authentication");
    assert!(!fits(ECHOING, 0, 0, 0, Some(b"")), "a handshake after authentication");
    assert!(!fits(ECHOING, 0, 1, 0, None), "it discards nothing yet");
    assert!(!fits(ECHOING, reason, 0, 0, None), "without an answer it would have closed");
    assert!(!fits(FINISHING, 0, 0, 0, None) && !fits(LINGERING, 0, 9, 0, None), "no reason");
    assert!(!fits(FINISHING, reason, 1, 0, None) && !fits(FINISHING, reason, 0, 1, None));
    assert!(!fits(LINGERING, reason, 9, 1, None), "an answer after the half-close");
    assert!(!fits(0, 0, 0, 0, None) && !fits(LINGERING + 1, reason, 0, 0, None), "no stage");
    assert!(!fits(ECHOING, 255, 0, 5, None), "no such reason");
}
