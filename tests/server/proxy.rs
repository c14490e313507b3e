//! Listeners behind a balancer: who may send a PROXY header, and whose address counts.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::client::*;
use crate::common::program::{Serving, run, saltecho};
use crate::common::server::*;
use saltecho::auth::Keyring;
use saltecho::proto::{Answer, CloseReason, Config, Handler, Peer};
use saltecho::server::{Limits, Note, Record, Running, Server, ServerBuilder};

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The header of a client with this last byte of 192.0.2.0/24.
fn header(client: u8) -> Vec<u8> {
    format!("PROXY TCP4 192.0.2.{client} 198.51.100.1 {} 9999\r\n", 1000 + u16::from(client))
        .into_bytes()
}

/// A connection of a balancer with this header; nothing is read.
fn through(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(header).unwrap();
    stream
}

/// The same, authenticated.
fn authenticated_through(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = through(address, header);
    let challenge = read_challenge(&stream).expect("the header is complete");
    stream.write_all(&digest(&challenge)).unwrap();
    stream
}

/// A balancer's listener of a server with room for 8 unauthenticated connections, and two of them
/// from one source once half are taken.
fn scarce(adjust: impl FnOnce(&mut Config, &mut Limits)) -> Running {
    let (mut config, mut limits) = (Config::new(Keyring::demo()), Limits::for_connections(1000));
    limits.unauthenticated = 8;
    limits.unauthenticated_per_source = Some(2);
    limits.trust_loopback = false;
    adjust(&mut config, &mut limits);
    builder().config(config).limits(limits).spawn().unwrap()
}

fn builder() -> ServerBuilder {
    Server::builder().listen_proxy(any_port())
}

/// Answers with the peer's address.
#[derive(Clone, Default)]
struct Mirror(Vec<u8>);

impl Handler for Mirror {
    fn opened(&mut self, peer: &Peer) {
        self.0 = peer.address().map_or_else(String::new, |address| address.to_string()).into();
    }

    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::Close(self.0.clone().into())
    }
}

#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    fn hear(&self, note: &Note, record: Option<&Record>) {
        let said = match note {
            Note::Opened(id, peer) => format!("{id} opened by {}", peer.unwrap().ip()),
            Note::Proxied(id, header) => {
                let endpoints = header.as_ref().expect("only recordings have none").endpoints;
                let client = endpoints.map(|endpoints| endpoints.source.to_string());
                format!("{id} proxied for {client:?}")
            }
            Note::Refused(peer, why) => format!("refused {}: {why:?}", peer.unwrap().ip()),
            Note::Authenticated(id, _) => format!("{id} authenticated"),
            Note::Closed(id, reason) => {
                let peer = record.and_then(|record| record.peer).expect("records are kept");
                format!("{id} from {} closed: {reason}", peer.ip())
            }
            _ => return,
        };
        self.0.lock().unwrap().push(said);
    }

    /// Calls that a server makes.
    fn of(&self) -> impl FnMut(&Note, Option<&Record>) + Send + 'static {
        let calls = self.clone();
        move |note, record| calls.hear(note, record)
    }
}

#[test]
fn a_handler_and_an_observer_get_the_clients_address() {
    let calls = Calls::default();
    let builder = builder().records(true).observer(calls.of());
    let server = builder.handler(Mirror::default()).spawn().unwrap();
    let mut client = authenticated_through(server.addresses()[0], &header(7));
    client.write_all(b"?").unwrap();
    assert_eq!(rest(&client).unwrap(), b"192.0.2.7:1007");
    drop(client);
    let stats = wait_for(&server, "the end", |stats| stats.closed_in_all() == 1);
    assert_eq!(stats.closed(CloseReason::HandlerClosed), 1);
    let expected = [
        "#1 opened by 127.0.0.1",
        "#1 proxied for Some(\"192.0.2.7:1007\")",
        "#1 authenticated",
        "#1 from 192.0.2.7 closed: closed by the handler",
    ];
    assert_eq!(*calls.0.lock().unwrap(), expected);
}

#[test]
fn a_listener_beside_it_takes_no_header() {
    let server = builder().listen(any_port()).spawn().unwrap();
    let [proxied, direct] = server.addresses()[..] else { panic!("two addresses") };
    assert_eq!(exchange(&authenticated(direct), b"direct"), b"DIRECT");
    assert_eq!(exchange(&authenticated_through(proxied, &header(7)), b"through"), b"THROUGH");
    // A header is a wrong digest where none is expected, and no digest is a header.
    let (mut stream, _) = connect(direct);
    stream.write_all(&header(7)).unwrap();
    rest(&stream).unwrap_or_default();
    assert_eq!(rest(&through(proxied, &[7; 16])).unwrap_or_default(), b"");
    let stats = server.stop().unwrap();
    let closed = |reason| stats.closed(reason);
    assert_eq!((closed(CloseReason::Rejected), closed(CloseReason::HeaderMissing)), (1, 1));
}

#[test]
fn a_crowd_behind_one_balancer_is_admitted_and_one_client_of_it_has_its_share() {
    let server = scarce(|_, _| {});
    let address = server.addresses()[0];
    // Each of these would be one of the balancer's share if its address counted.
    let waiting: Vec<TcpStream> = (0..4).map(|_| through(address, b"PROXY ")).collect();
    wait_for(&server, "the waiting", |stats| stats.unauthenticated == 4);
    let silent: Vec<TcpStream> = (0..2).map(|_| through(address, &header(2))).collect();
    silent.iter().for_each(|stream| drop(read_challenge(stream).expect("within its share")));
    assert_eq!(rest(&through(address, &header(2))).unwrap(), b"", "beyond its share");
    for client in 10..40 {
        let stream = authenticated_through(address, &header(client));
        assert_eq!(exchange(&stream, b"x"), b"X", "another client of the same balancer");
    }
    // A freed place of a source can be taken again.
    drop(silent);
    wait_for(&server, "the end of the silent", |stats| stats.unauthenticated == 4);
    drop(waiting);
    let stats = server.stop().unwrap();
    assert_eq!((stats.refused_over_share, stats.refused_suspects), (1, 0));
    assert_eq!(stats.closed(CloseReason::Refused), 1);
    assert_balanced(&stats);
}

#[test]
fn a_client_that_failed_is_suspect_and_its_balancer_is_not() {
    let server = scarce(|_, limits| limits.unauthenticated = 4);
    let address = server.addresses()[0];
    let wrong = through(address, &header(2));
    read_challenge(&wrong).unwrap();
    (&wrong).write_all(&[0; 16]).unwrap();
    assert_eq!(rest(&wrong).unwrap(), b"");
    for reason in [&b"GET / "[..], b"PROXY TCP4 nonsense\r\n"] {
        rest(&through(address, reason)).unwrap_or_default();
    }
    let waiting: Vec<TcpStream> = (0..2).map(|_| through(address, b"PROXY ")).collect();
    wait_for(&server, "the waiting", |stats| stats.unauthenticated == 2);
    assert_eq!(rest(&through(address, &header(2))).unwrap(), b"", "half of the places are taken");
    assert_eq!(exchange(&authenticated_through(address, &header(3)), b"x"), b"X");
    assert_eq!(exchange(&authenticated_through(address, LOCAL), b"y"), b"Y", "the balancer's own");
    drop(waiting);
    let stats = server.stop().unwrap();
    assert_eq!((stats.refused_over_share, stats.refused_suspects), (0, 1));
}

#[test]
fn a_health_check_is_no_failed_authentication() {
    let server = scarce(|_, _| {});
    let address = server.addresses()[0];
    drop(TcpStream::connect(address).unwrap());
    reset(TcpStream::connect(address).unwrap());
    for end in [drop, reset] {
        let stream = through(address, LOCAL);
        read_challenge(&stream).expect("the check expects it");
        end(stream);
    }
    let stats = wait_for(&server, "four checks", |stats| stats.closed_in_all() == 4);
    assert_eq!(stats.closed(CloseReason::HealthCheck), 4, "{stats:?}");
}

#[test]
fn the_oldest_makes_room_before_and_after_its_header() {
    let server = scarce(|_, limits| {
        limits.unauthenticated = 2;
        limits.eviction_age = Duration::ZERO;
    });
    let address = server.addresses()[0];
    let mut expected = 0;
    for (first, clients) in [(&b"PROXY"[..], 10..12), (&header(2), 20..22)] {
        let oldest = through(address, first);
        wait_for(&server, "the oldest", |stats| stats.bytes_received > expected);
        let younger: Vec<_> = clients.map(|client| through(address, &header(client))).collect();
        younger.iter().for_each(|stream| drop(read_challenge(stream).unwrap()));
        let seen = rest(&oldest).unwrap_or_default().len();
        assert!(seen == 0 || seen == 32, "evicted");
        drop(younger);
        let stats = wait_for(&server, "an end", |stats| stats.unauthenticated == 0);
        expected = stats.bytes_received;
    }
    assert_eq!(server.stop().unwrap().closed(CloseReason::Evicted), 2);
}

#[test]
fn only_named_balancers_may_send_a_header() {
    let calls = Calls::default();
    let builder = builder().trust_proxies(["127.0.0.2/32".parse().unwrap()]);
    let server = builder.records(true).observer(calls.of()).spawn().unwrap();
    let address = server.addresses()[0];
    assert_eq!(rest(&through(address, b"")).unwrap(), b"", "closed at once");
    let from = |from: Ipv4Addr| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        TcpStream::from(socket)
    };
    let mut named = from(Ipv4Addr::new(127, 0, 0, 2));
    named.write_all(&header(7)).unwrap();
    read_challenge(&named).expect("it is named");
    let stats = server.stop().unwrap();
    assert_eq!((stats.refused_untrusted_proxies, stats.accepted), (1, 1));
    assert_eq!(calls.0.lock().unwrap()[0], "refused 127.0.0.1: UntrustedProxy");
}

#[test]
fn a_header_that_does_not_come_ends_the_connection_in_time() {
    let server = scarce(|config, _| config.header_timeout = Some(Duration::from_millis(50)));
    let late = through(server.addresses()[0], &header(7)[..20]);
    assert_eq!(rest(&late).unwrap_or_default(), b"");
    assert_eq!(server.stop().unwrap().closed(CloseReason::HeaderTimeout), 1);
}

#[test]
fn a_drain_ends_connections_that_wait_for_a_header() {
    let server = scarce(|_, _| {});
    let waiting = through(server.addresses()[0], b"PROXY ");
    wait_for(&server, "the header's beginning", |stats| stats.bytes_received == 6);
    let stats = server.drain().unwrap();
    assert_eq!(stats.closed(CloseReason::Drained), 1);
    assert_eq!(rest(&waiting).unwrap_or_default(), b"");
}

#[test]
fn every_worker_requires_the_header() {
    let server = builder().spawn_workers(2).unwrap();
    for client in 1..20 {
        let stream = authenticated_through(server.addresses()[0], &header(client));
        assert_eq!(exchange(&stream, b"x"), b"X");
    }
    let given = std::net::TcpListener::bind(any_port()).unwrap();
    let adopted = Server::builder().proxy_listener(given).spawn().unwrap();
    let stream = authenticated_through(adopted.addresses()[0], &header(1));
    assert_eq!(exchange(&stream, b"x"), b"X");
}

#[test]
fn the_program_requires_headers_where_it_is_told_to_and_logs_the_clients_address() {
    let mut server = Serving::start(&["-v", "--proxy", "require", "--proxy-trust", "127.0.0.0/8"]);
    let place = format!("listening on {} (PROXY header): ", server.address);
    assert!(server.start_line.contains(&place), "{}", server.start_line);
    let settings = "; PROXY headers from 127.0.0.0/8 within 5s";
    assert!(server.start_line.ends_with(settings), "{}", server.start_line);
    let wrong = through(server.address, &header(7));
    server.running.wait_for("#1 new from 127.0.0.1:");
    server.running.wait_for("#1 comes from 192.0.2.7:1007 to 198.51.100.1:9999");
    read_challenge(&wrong).unwrap();
    (&wrong).write_all(&[0; 16]).unwrap();
    server.running.wait_for("#1 closed: authentication failed (wrong digest), from 192.0.2.7:1007");
    let _own = through(server.address, LOCAL);
    server.running.wait_for("#2 is the balancer's own connection");
    let _none = through(server.address, b"hello");
    server.running.wait_for("#3 closed: no PROXY header, from 127.0.0.1:");
    server.finish();

    let mut server = Serving::start(&["--proxy", "require", "--proxy-trust", "192.0.2.1"]);
    assert_eq!(rest(&through(server.address, b"")).unwrap(), b"");
    server.running.wait_for("refused a PROXY connection from 127.0.0.1:");
    assert!(server.counters().contains("; refused as untrusted proxy 1"));
}

#[test]
fn a_listener_for_balancers_stands_beside_the_others_or_alone() {
    let mut command = saltecho(&["serve"]);
    command.env("SALTECHO_LISTEN_PROXY", "127.0.0.1:0,127.0.0.2:0");
    let server = Serving::start_command(&mut command);
    let line = &server.start_line;
    assert_eq!(line.matches(" (PROXY header)").count(), 2, "{line}");
    assert!(!line.contains(":9999"), "the default of -l gives way: {line}");
    assert_eq!(exchange(&authenticated_through(server.address, &header(1)), b"x"), b"X");
    server.finish();

    let server = Serving::start(&["--listen-proxy", "127.0.0.2:0"]);
    let line = &server.start_line;
    assert_eq!(exchange(&authenticated(server.address), b"direct"), b"DIRECT");
    let (_, proxied) = line.split_once(", 127.0.0.2:").expect(line);
    let (port, _) = proxied.split_once(" (PROXY header)").expect(line);
    let address = format!("127.0.0.2:{port}").parse().unwrap();
    assert_eq!(exchange(&authenticated_through(address, &header(1)), b"x"), b"X");
    server.finish();
}

#[test]
fn the_program_names_settings_that_contradict_each_other() {
    let same = ["serve", "-l", "127.0.0.1:7", "--listen-proxy", "127.0.0.1:7"];
    run(&same, b"").expect(2, &["-l 127.0.0.1:7 and --listen-proxy 127.0.0.1:7 are the same"]);
    let twice = ["serve", "--listen-proxy", "127.0.0.1:7", "--listen-proxy", "127.0.0.1:7"];
    run(&twice, b"").expect(2, &["--listen-proxy 127.0.0.1:7 is given twice"]);
    run(&["serve", "--proxy", "on"], b"").expect(2, &["[possible values: off, require]"]);
    let cidr = ["serve", "--proxy-trust", "10.1.2.3/8"];
    run(&cidr, b"").expect(2, &["write 10.0.0.0/8, or the address alone"]);
    let mut server = saltecho(&["serve", "-l", "127.0.0.1:0", "--proxy-trust", "10.0.0.0/8"]);
    let mut server = crate::common::program::Running::start(&mut server, Vec::new());
    server.wait_for("warning: --proxy-trust has no effect: no listener requires a PROXY header");
}

#[test]
fn headers_from_anywhere_on_a_public_address_are_warned_of() {
    let files = crate::common::program::Files::new();
    let key = files.key("key", "a key that is long enough\n");
    for (trust, warned) in [(&[][..], true), (&["--proxy-trust", "192.0.2.1"], false)] {
        let flags = ["serve", "-l", "0.0.0.0:0", "-k", &key, "--proxy", "require"];
        let mut server = saltecho(&[&flags, trust].concat());
        let mut server = crate::common::program::Running::start(&mut server, Vec::new());
        server.wait_for("listening on ");
        server.signal(crate::common::program::Signal::TERM);
        let said = server.wait().stderr;
        assert_eq!(said.contains("name the balancers with --proxy-trust"), warned, "{said}");
    }
}
