//! The PROXY protocol header: the specification's examples, every segmentation, and bytes that are not
//! a header.

use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};
use saltecho::proto::proxy::{Endpoints, Header, HeaderError, HeaderReader, MAX_HEADER, Status};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Builds a header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &len, rest].concat()
}

fn endpoints(source: &str, destination: &str) -> Option<Endpoints> {
    Some(Endpoints { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

/// Feeds the bytes in pieces that end at the cuts. Returns the header and the number of bytes taken.
fn read(bytes: &[u8], cuts: &[usize]) -> Result<(Option<Header>, usize), HeaderError> {
    let mut reader = HeaderReader::new();
    let mut begin = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        match reader.handle_recv(&bytes[begin..end])? {
            Status::Incomplete => begin = end,
            Status::Complete { header, taken } => return Ok((Some(header), begin + taken)),
        }
    }
    Ok((None, begin))
}

/// Checks that the result is the same in every segmentation, with and without input behind the header.
#[track_caller]
fn check(bytes: &[u8]) -> Result<(Option<Header>, usize), HeaderError> {
    let whole = read(bytes, &[]);
    let singly: Vec<usize> = (1..bytes.len()).collect();
    assert_eq!(read(bytes, &singly), whole, "byte by byte");
    for cut in 1..bytes.len() {
        assert_eq!(read(bytes, &[cut]), whole, "cut at {cut}");
        if let Ok((Some(_), len)) = whole
            && cut < len
        {
            assert_eq!(read(&bytes[..cut], &[]), Ok((None, cut)), "only {cut} bytes");
        }
    }
    let mut followed = bytes.to_vec();
    followed.extend_from_slice(&[b'x'; 600]);
    if whole != Ok((None, bytes.len())) {
        assert_eq!(read(&followed, &[]), whole, "with input behind it");
    }
    whole
}

#[track_caller]
fn says(bytes: &[u8], expected: Option<Endpoints>) -> Header {
    let (header, len) = check(bytes).expect("it is a header");
    let header = header.expect("it is complete");
    assert_eq!((header.endpoints, len), (expected, bytes.len()));
    header
}

#[test]
fn the_examples_of_version_1_are_understood() {
    let longest4 = "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    let longest6 = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    let worst = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!((longest4.len(), longest6.len(), worst.len()), (56, 104, 107));
    let six = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    says(longest4.as_bytes(), endpoints("255.255.255.255:65535", "255.255.255.255:65535"));
    says(longest6.as_bytes(), endpoints(six, six));
    says(worst.as_bytes(), None);
    says(b"PROXY UNKNOWN\r\n", None);
    says(
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        endpoints("192.168.0.1:56324", "192.168.0.11:443"),
    );
    says(b"PROXY TCP6 2001:db8::1 ::1 1 0\r\n", endpoints("[2001:db8::1]:1", "[::1]:0"));
}

#[test]
fn version_2_is_understood_with_its_fields() {
    let four = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
    let from_four = endpoints("192.0.2.1:56324", "198.51.100.1:443");
    says(&v2(0x21, 0x11, &four), from_four);
    let mut six = [0; 36];
    (six[15], six[31], six[33], six[35]) = (1, 2, 3, 4);
    says(&v2(0x21, 0x21, &six), endpoints("[::1]:3", "[::2]:4"));

    let noop = [4, 0, 2, 0, 0];
    let ssl = [0x20, 0, 5, 0, 0, 0, 0, 0];
    let unknown = [0xe0, 0, 1, 0xff];
    let id = [&[5, 0, 4][..], b"\0id\n"].concat();
    let fields = [&noop[..], &ssl, &id, &unknown].concat();
    let header = says(&v2(0x21, 0x11, &[&four[..], &fields].concat()), from_four);
    assert_eq!(header.unique_id.as_deref(), Some(&b"\0id\n"[..]));
    let header = says(&v2(0x21, 0x11, &[&four[..], &noop].concat()), from_four);
    assert_eq!(header.unique_id, None);
}

#[test]
fn headers_of_another_encoder_are_understood() {
    for (source, destination) in
        [("192.0.2.1:1", "198.51.100.1:65535"), ("[2001:db8::1]:1", "[2001:db8::2]:2")]
    {
        let address = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
        let header = ProxyHeader::with_address(address.clone());
        let (mut one, mut two) = (Vec::new(), Vec::new());
        header.encode_v1(&mut one).unwrap();
        header.encode_v2(&mut two).unwrap();
        says(&one, endpoints(source, destination));
        says(&two, endpoints(source, destination));
        let id = [7; 128];
        let with_id = ProxyHeader::with_tlvs(Some(address), [Tlv::UniqueId(id[..].into())]);
        let mut bytes = Vec::new();
        with_id.encode_v2(&mut bytes).unwrap();
        let said = says(&bytes, endpoints(source, destination));
        assert_eq!(said.unique_id.as_deref(), Some(&id[..]));
    }
}

#[test]
fn a_header_without_addresses_leaves_the_socket_addresses() {
    says(&v2(0x20, 0x00, &[]), None);
    // The family and addresses of LOCAL are ignored, even if there is no such family.
    says(&v2(0x20, 0xff, &[1, 2, 3]), None);
    says(&v2(0x20, 0x11, &[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb]), None);
    says(&v2(0x21, 0x00, &[]), None);
    says(&v2(0x21, 0x00, &[0xe0, 0, 0]), None);
    // A Unix socket, and a datagram, which a TCP connection cannot be.
    says(&v2(0x21, 0x31, &[0; 216]), None);
    says(&v2(0x21, 0x12, &[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb]), None);
}

#[test]
fn nothing_is_guessed() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"proxy TCP4 ",
        b"PROXYxTCP4 192.0.2.1 198.51.100.1 1 2\r\n",
        b"PROXY\tTCP4 192.0.2.1 198.51.100.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT ",
        b"\0",
    ] {
        assert_eq!(check(bytes), Err(HeaderError::Missing), "{}", bytes.escape_ascii());
    }
    assert_eq!(read(b"", &[]), Ok((None, 0)));
}

#[test]
fn malformed_headers_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\rx",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n\r",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 02\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 00 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
        "PROXY UNKNOWN\rx",
    ] {
        assert_eq!(check(line.as_bytes()), Err(HeaderError::Malformed), "{line:?}");
    }
    let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
    assert_eq!(check(endless.as_bytes()), Err(HeaderError::Malformed), "a line has 107 bytes");
    let four = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
    let with = |fields: &[u8]| [&four[..], fields].concat();
    for (command, family, rest) in [
        (0x11, 0x11, four.to_vec()),
        (0x22, 0x11, four.to_vec()),
        (0x21, 0x11, four[..11].to_vec()),
        (0x21, 0x21, vec![0; 35]),
        (0x21, 0x31, vec![0; 215]),
        (0x21, 0x13, four.to_vec()),
        (0x21, 0x41, four.to_vec()),
        (0x21, 0x11, with(&[4])),
        (0x21, 0x11, with(&[4, 0, 2, 0])),
        (0x21, 0x11, with(&[&[5, 0, 129][..], &[0; 129]].concat())),
    ] {
        let header = v2(command, family, &rest);
        assert_eq!(check(&header), Err(HeaderError::Malformed), "{}", header.escape_ascii());
    }
}

#[test]
fn no_more_is_kept_than_the_limit() {
    let field = |len: u16| [&[0xe0][..], &len.to_be_bytes(), &vec![0; len.into()]].concat();
    let fits = u16::try_from(MAX_HEADER - 16 - 3).unwrap();
    says(&v2(0x21, 0x00, &field(fits)), None);
    says(&v2(0x20, 0x00, &field(fits)), None);
    for command in [0x20, 0x21] {
        let longer = v2(command, 0x00, &field(fits + 1));
        // The length is refused, before any of the rest arrives.
        assert_eq!(read(&longer[..16], &[]), Err(HeaderError::TooLong));
        assert_eq!(check(&longer), Err(HeaderError::TooLong));
    }
    assert_eq!(read(&v2(0x21, 0x11, &[0; 65_535]), &[]), Err(HeaderError::TooLong));
}
