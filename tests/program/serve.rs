//! Addresses and descriptors of `saltecho serve`.

use std::net::TcpListener;
use std::process::Command;

use crate::common::client::{authenticated, exchange};
use crate::common::program::{Files, Serving, clean, run, saltecho};

/// A port that was just free at this address.
fn free_port(address: &str) -> u16 {
    TcpListener::bind(address).unwrap().local_addr().unwrap().port()
}

/// The program with this limit of descriptors. It inherits none: those of the test are closed on
/// exec.
fn with_descriptors(number: usize, args: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    clean(&mut shell).args(["-c", &format!("ulimit -n {number} && exec \"$0\" \"$@\"")]);
    shell.arg(saltecho(&[]).get_program()).args(["serve", "-l", "127.0.0.1:0"]).args(args);
    shell
}

#[test]
fn few_descriptors_serve_as_many_connections_as_fit() {
    for (descriptors, args, connections) in [
        (17, &[][..], 1),
        (24, &[], 8),
        (48, &[], 32),
        (63, &[], 47),
        (64, &["--workers", "2"], 44),
        (64, &["--max-connections", "48"], 48),
        (64, &["-l", "127.0.0.2:0", "-l", "127.0.0.3:0"], 46),
        (1024, &[], 960),
    ] {
        let server = Serving::start_command(&mut with_descriptors(descriptors, args));
        let plural = if connections == 1 { "" } else { "s" };
        let room = format!("at most {connections} connection{plural}, ");
        assert!(server.start_line.contains(&room), "{descriptors}: {}", server.start_line);
        let clients: Vec<_> = match args.contains(&"--workers") {
            true => vec![authenticated(server.address)],
            false => (0..connections).map(|_| authenticated(server.address)).collect(),
        };
        for client in &clients {
            assert_eq!(exchange(client, b"hello"), b"HELLO", "{descriptors} descriptors");
        }
        drop(clients);
        server.finish();
    }
}

#[test]
fn too_few_descriptors_are_refused_without_naming_a_flag_that_was_not_given() {
    for (descriptors, args, needed) in
        [(16, &[][..], "needs 17 descriptors"), (20, &["--workers", "2"], "needs 22 descriptors")]
    {
        let mut command = with_descriptors(descriptors, args);
        let refused = crate::common::program::run_command(&mut command, b"");
        refused.expect(2, &[needed, &format!("may have {descriptors}"), "ulimit -Hn"]);
        assert!(!refused.stderr.contains("--max-connections"), "{}", refused.stderr);
    }
    let mut command = with_descriptors(64, &["--max-connections", "49"]);
    crate::common::program::run_command(&mut command, b"")
        .expect(2, &["--max-connections: room for 49 takes 65 descriptors", "may have 64"]);
}

#[test]
fn the_port_is_optional_and_localhost_is_an_address() {
    let server = Serving::start_command(&mut saltecho(&["serve", "-l", "localhost:0"]));
    assert_eq!(server.address.ip().to_string(), "127.0.0.1");
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    server.finish();
    let mapped = Serving::start_command(&mut saltecho(&["serve", "-l", "[::ffff:127.0.0.1]:0"]));
    assert_eq!(exchange(&authenticated(mapped.address), b"hello"), b"HELLO");
    mapped.finish();
}

#[test]
fn colliding_listen_addresses_do_not_blame_another_program() {
    let files = Files::new();
    let key = files.key("key", "a key that is long enough\n");
    let port = free_port("127.0.0.1:0");
    let (one, any) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    let mapped = format!("[::ffff:127.0.0.1]:{port}");
    for twice in [&one, &mapped] {
        let refused = run(&["serve", "-l", &one, "-l", twice], b"");
        refused.expect(2, &[&format!("-l {one} is given twice")]);
    }
    for (first, second) in [(&any, &one), (&one, &any)] {
        let refused = run(&["serve", "-k", &key, "-l", first, "-l", second], b"");
        // The first is refused if another program has taken the port since.
        refused.expect(2, &[&format!("-l {first}"), &format!("-l {second}"), " overlap: "]);
        assert!(!refused.stderr.contains("ss -ltnp"), "{}", refused.stderr);
    }
    // The two free ports may differ.
    let mut server = saltecho(&["serve", "-l", "127.0.0.1:0", "-l", "127.0.0.1:0"]);
    Serving::start_command(&mut server).finish();
}
