//! HTTP for administrators: every segmentation, status, deadline and ending, without a socket; and
//! Python's client, with one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::common::needs::PYTHON;
use crate::http_world::{World, rows, served};
use saltecho::proto::http::{
    IDLE_TIMEOUT, LINGER_BYTES, LINGER_TIMEOUT, MAX_HEADERS, MAX_REQUEST, REQUEST_TIMEOUT,
    SEND_TIMEOUT, SLICE, Wants,
};
use saltecho::python::Monotonic;

const GET: &str = "GET /text HTTP/1.1\r\nHost: a\r\n\r\n";

fn after(time: Duration) -> Monotonic {
    Monotonic::ZERO.saturating_add(time)
}

#[track_caller]
fn statuses(input: &str) -> Vec<u16> {
    served(input.as_bytes()).answers().iter().map(|answer| answer.status).collect()
}

#[test]
fn answers_do_not_depend_on_the_segmentation() {
    let scripts = [
        GET.repeat(3),
        format!("HEAD /text?x=1 HTTP/1.1\r\nHost: a\r\n\r\n{GET}"),
        format!("POST /do HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{GET}"),
        format!("GET /rows?150 HTTP/1.1\r\nHost: a\r\n\r\n{GET}"),
        "GET /rows HTTP/1.0\r\n\r\n".to_owned(),
        format!("\r\n{GET}GET /rows HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n{GET}"),
        format!("{GET}GET /\u{1} HTTP/1.1\r\n\r\n{GET}"),
        format!("{GET}GET / HTTP/2.0\r\n\r\n"),
        format!("{GET}DELETE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        "\u{16}\u{3}\u{1}\u{2}\0".to_owned(),
    ];
    for script in &scripts {
        let script = script.as_bytes();
        let whole = served(script);
        assert!(!whole.answers().is_empty());
        for (piece, room) in [(1, 0), (1, 1), (2, 7), (3, 1), (7, 3), (64, 64)] {
            let mut world = World::new();
            world.run(script, || piece, room);
            assert_eq!(world.sent, whole.sent, "in pieces of {piece}");
        }
        for first in 1..script.len() {
            let mut pieces = [first].into_iter();
            let mut world = World::new();
            world.run(script, || pieces.next().unwrap_or(0), 0);
            assert_eq!(world.sent, whole.sent, "cut at {first}");
        }
    }
}

#[test]
fn each_method_has_its_answer() {
    let world = served(
        b"GET /text?a=1 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /text?a=1 HTTP/1.1\r\nhost: a\r\n\r\n\
          POST /do HTTP/1.1\r\nHost: a\r\n\r\nPOST /text HTTP/1.1\r\nHost: a\r\n\r\n\
          GET /readyz HTTP/1.1\r\nHost: a\r\n\r\nGET /none HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let [get, head, post, not_allowed, not_ready, none] = &world.answers()[..] else {
        panic!("six requests: {:?}", world.answers());
    };
    assert_eq!((get.status, get.text()), (200, "Some(\"a=1\")\n"));
    assert_eq!((head.status, head.text()), (200, ""));
    assert_eq!(head.headers, get.headers, "a head is what it would be with its content");
    assert_eq!((post.status, post.header("content-length")), (202, Some("0")));
    assert_eq!((not_allowed.status, not_allowed.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!((not_ready.status, not_ready.text()), (503, "draining\n"));
    assert_eq!((none.status, none.header("connection")), (404, Some("keep-alive")));
}

#[test]
fn a_status_line_has_the_number_and_the_words_of_rfc_9110() {
    for (request, line) in [
        ("GET /text", "HTTP/1.1 200 OK\r\n"),
        ("POST /do", "HTTP/1.1 202 Accepted\r\n"),
        ("GET /none", "HTTP/1.1 404 Not Found\r\n"),
        ("DELETE /text", "HTTP/1.1 405 Method Not Allowed\r\n"),
        ("GET /readyz", "HTTP/1.1 503 Service Unavailable\r\n"),
    ] {
        let world = served(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert!(world.sent.starts_with(line.as_bytes()), "{request}: {:?}", world.answers());
    }
}

#[test]
fn bad_requests_are_refused_and_the_connection_ends() {
    let long = "x".repeat(MAX_REQUEST);
    let headers =
        |number| format!("GET /text HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(number));
    for (status, request) in [
        (400, "GET\r\n\r\n".to_owned()),
        (400, "GET text HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET /text HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /text HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET /text HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned()),
        (
            400,
            "GET /text HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n"
                .to_owned(),
        ),
        (400, "GET /text HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".to_owned()),
        (400, "GET /text HTTP/1.1\r\nHost : a\r\n\r\n".to_owned()),
        (403, "POST /do HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n".to_owned()),
        (405, "PUT /text HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (413, "POST /do HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_owned()),
        (
            413,
            "GET /text HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (414, format!("GET /{long}")),
        (431, format!("GET / HTTP/1.1\r\nHost: {long}")),
        (431, headers(MAX_HEADERS)),
        (505, "GET /text HTTP/1.2\r\nHost: a\r\n\r\n".to_owned()),
        (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
    ] {
        let input = format!("{GET}{request}{GET}");
        let world = served(input.as_bytes());
        let answers = world.answers();
        let found: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(found, [200, status], "{request:?}");
        assert_eq!(answers[1].header("connection"), Some("close"));
        assert_eq!(answers[1].header("allow").is_some(), status == 405);
        assert!(answers[1].text().starts_with(&status.to_string()));
        assert!(!world.exchange.is_cut_short());
    }
    assert_eq!(statuses(&headers(MAX_HEADERS - 1)), [200]);
}

#[test]
fn a_request_may_fill_its_limit_and_not_exceed_it() {
    let rest = "GET /text HTTP/1.1\r\nHost: a\r\na: \r\n\r\n".len();
    for (len, status) in [(MAX_REQUEST - 1, 200), (MAX_REQUEST, 200), (MAX_REQUEST + 1, 431)] {
        let filler = "x".repeat(len - rest);
        let request = format!("GET /text HTTP/1.1\r\nHost: a\r\na: {filler}\r\n\r\n");
        assert_eq!(request.len(), len);
        assert_eq!(statuses(&request), [status], "{len} bytes");
        // Earlier requests of the same connection do not count towards the limit.
        assert_eq!(statuses(&format!("{GET}{request}")), [200, status], "{len} bytes");
    }
}

#[test]
fn a_connection_stays_open_as_long_as_both_sides_want() {
    for (request, lasts) in [
        ("GET /text HTTP/1.1\r\nHost: a\r\n", true),
        ("GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", false),
        ("GET /text HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive, CLOSE\r\n", false),
        ("GET /text HTTP/1.0\r\n", false),
        ("GET /text HTTP/1.0\r\nConnection: keep-alive\r\n", true),
        ("GET /rows HTTP/1.1\r\nHost: a\r\n", true),
        // Only the end of the stream marks the end of this content.
        ("GET /rows HTTP/1.0\r\nConnection: keep-alive\r\n", false),
    ] {
        let answers = served(format!("{request}\r\n{GET}").as_bytes()).answers();
        assert_eq!(answers.len(), if lasts { 2 } else { 1 }, "{request:?}");
        let said = if lasts { "keep-alive" } else { "close" };
        assert_eq!(answers[0].header("connection"), Some(said), "{request:?}");
    }
}

#[test]
fn a_host_in_the_target_wins_over_the_header() {
    for (line, host) in [
        ("/host HTTP/1.1\r\nHost: a:1\r\n", "Some(\"a:1\")\n"),
        ("http://b/host HTTP/1.1\r\nHost: a\r\n", "Some(\"b\")\n"),
        ("/host HTTP/1.0\r\n", "None\n"),
    ] {
        let answers = served(format!("GET {line}\r\n").as_bytes()).answers();
        assert_eq!(answers[0].text(), host);
    }
    for (target, status) in
        [("http://b", 404), ("HTTP://b/text?q", 200), ("http://b?q=/text", 400), ("ftp://b/", 400)]
    {
        assert_eq!(statuses(&format!("GET {target} HTTP/1.1\r\nHost: b\r\n\r\n")), [status]);
    }
}

#[test]
fn the_first_accept_header_that_is_text_counts() {
    for (headers, accept) in [
        (&b""[..], "None\n"),
        (b"Accept: a/b;q=1, */*\r\nACCEPT: c\r\n", "Some(\"a/b;q=1, */*\")\n"),
        (b"Accept: \xff\r\nAccept: c\r\n", "Some(\"c\")\n"),
    ] {
        let request = [b"GET /accept HTTP/1.0\r\n", headers, b"\r\n"].concat();
        assert_eq!(served(&request).answers()[0].text(), accept);
    }
}

#[test]
fn a_million_rows_are_never_in_memory_at_once() {
    let world = served(b"GET /rows?1000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(world.sent.len() > 10_000_000);
    assert!(world.longest_chunk < SLICE + 500, "{}", world.longest_chunk);
    assert_eq!(world.answers()[0].text(), rows(Some("1000000")).text());
    // Nine of ten slices are empty, and none of them ends the content.
    for version in ["1.0", "1.1"] {
        let request = format!("GET /rows?100000/1000 HTTP/{version}\r\nHost: a\r\n\r\n");
        let answers = served(request.as_bytes()).answers();
        assert_eq!(answers[0].text(), rows(Some("100000/1000")).text());
    }
    let empty = served(b"GET /rows?0 HTTP/1.0\r\n\r\n");
    assert_eq!((empty.answers()[0].text(), empty.exchange.is_cut_short()), ("", false));
}

#[test]
fn each_step_has_its_deadline() {
    // Without a request: closed silently.
    let mut world = World::new();
    assert_eq!(world.exchange.poll_timeout(), Some(after(REQUEST_TIMEOUT)));
    world.exchange.handle_timeout(after(REQUEST_TIMEOUT));
    assert!(world.exchange.is_closed() && !world.exchange.is_cut_short());

    // An incomplete request, whose bytes do not extend its deadline.
    let mut world = World::new();
    world.now = after(Duration::from_secs(3));
    world.exchange.handle_recv(b"GET /", world.now);
    assert_eq!(world.exchange.poll_timeout(), Some(after(REQUEST_TIMEOUT)));
    world.exchange.handle_timeout(after(REQUEST_TIMEOUT - Duration::from_nanos(1)));
    assert_eq!(world.exchange.wants(), Wants::Recv { limit: MAX_REQUEST - 5 });
    world.now = after(REQUEST_TIMEOUT);
    world.exchange.handle_timeout(world.now);
    world.run(b"", || 0, 0);
    assert_eq!(world.answers()[0].status, 408);

    // Between two requests, and during the second.
    let mut world = World::new();
    world.exchange.handle_recv(GET.as_bytes(), world.now);
    assert_eq!(world.exchange.poll_timeout(), None, "it is the owner's turn");
    world.act(0);
    assert_eq!(world.exchange.poll_timeout(), Some(after(SEND_TIMEOUT)));
    world.act(1);
    assert_eq!(world.exchange.poll_timeout(), Some(after(SEND_TIMEOUT)), "a byte extends nothing");
    world.act(0);
    assert!(world.exchange.is_idle());
    assert_eq!(world.exchange.poll_timeout(), Some(after(IDLE_TIMEOUT)));
    world.now = after(Duration::from_secs(10));
    world.exchange.handle_recv(b"G", world.now);
    assert_eq!(world.exchange.poll_timeout(), Some(world.now.saturating_add(REQUEST_TIMEOUT)));
    assert!(!world.exchange.is_idle());

    // A peer that does not read.
    let mut world = World::new();
    world.exchange.handle_recv(b"GET /rows HTTP/1.0\r\n\r\n", world.now);
    world.act(0);
    world.act(0);
    world.act(0);
    assert_eq!(world.exchange.wants(), Wants::Send, "the rows");
    world.exchange.handle_timeout(after(SEND_TIMEOUT));
    assert!(world.exchange.is_cut_short(), "an orderly end would pass for the whole");
}

#[test]
fn the_rest_of_a_refused_request_is_discarded_within_limits() {
    let refused = || {
        let mut world = World::new();
        world.exchange.handle_recv(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n", world.now);
        world.act(0);
        assert_eq!(world.exchange.wants(), Wants::Shutdown);
        assert_eq!(world.exchange.poll_timeout(), None);
        world.act(0);
        assert_eq!(world.exchange.wants(), Wants::Recv { limit: MAX_REQUEST });
        world.exchange
    };
    let mut exchange = refused();
    exchange.handle_timeout(after(LINGER_TIMEOUT));
    assert!(exchange.is_closed());
    let mut exchange = refused();
    for _ in 0..LINGER_BYTES / MAX_REQUEST {
        assert!(!exchange.is_closed());
        exchange.handle_recv(&[0; MAX_REQUEST], Monotonic::ZERO);
    }
    assert!(exchange.is_closed() && !exchange.is_cut_short());
}

#[test]
fn closing_answers_a_request_that_has_begun() {
    let mut idle = World::new();
    idle.exchange.close();
    assert_eq!(idle.exchange.wants(), Wants::Shutdown);

    let mut world = World::new();
    world.exchange.handle_recv(b"GET /text ", world.now);
    world.exchange.close();
    world.run(b"HTTP/1.1\r\nHost: a\r\n\r\nGET /text HTTP/1.1\r\n", || 0, 0);
    let answers = world.answers();
    assert_eq!((answers.len(), answers[0].header("connection")), (1, Some("close")));

    let mut world = World::new();
    world.exchange.handle_recv(GET.as_bytes(), world.now);
    world.exchange.abort();
    assert!(world.exchange.is_closed() && world.exchange.request().is_none());
    world.exchange.handle_recv(GET.as_bytes(), world.now);
    world.exchange.close();
    world.exchange.handle_eof();
    assert_eq!((world.exchange.wants(), world.exchange.poll_timeout()), (Wants::Nothing, None));
}

/// Serves one connection with blocking calls.
fn serve_one(mut stream: &TcpStream) -> io::Result<()> {
    let mut world = World::new();
    while !world.exchange.is_closed() {
        match world.exchange.wants() {
            Wants::Recv { limit } => {
                let mut buffer = vec![0; limit];
                match stream.read(&mut buffer)? {
                    0 => world.exchange.handle_eof(),
                    n => world.exchange.handle_recv(&buffer[..n], Monotonic::ZERO),
                }
            }
            Wants::Shutdown => {
                stream.shutdown(Shutdown::Write)?;
                world.act(0);
            }
            _ => {
                world.act(0);
                stream.write_all(&world.sent)?;
                world.sent.clear();
            }
        }
    }
    Ok(())
}

const PYTHON_CLIENT: &str = "
import http.client, sys
c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))
def ask(method, target, **headers):
    c.request(method, target, headers=headers)
    r = c.getresponse()
    return r.status, r.read()
rows = b''.join(b'row %d\\n' % i for i in range(100000))
assert ask('GET', '/text?x') == (200, b'Some(\"x\")\\n')
sock = c.sock
assert ask('GET', '/rows?100000') == (200, rows)
assert ask('HEAD', '/rows?100000') == (200, b'')
assert ask('POST', '/do')[0] == 202
assert c.sock is sock, 'it was kept alive'
assert ask('POST', '/do', Origin='http://evil.example')[0] == 403
assert c.sock is None
";

#[test]
fn pythons_client_understands_every_kind_of_answer() {
    let Some(mut python) = PYTHON.find() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = python.args(["-c", PYTHON_CLIENT, &port.to_string()]).spawn().unwrap();
    serve_one(&listener.accept().unwrap().0).unwrap();
    assert!(client.wait_with_output().unwrap().status.success());
}
