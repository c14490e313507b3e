//! Server and client against Python programs, byte for byte.

use crate::common::client::pattern;
use crate::common::program::{Files, Running, Serving, run, run_command, saltecho};
use crate::common::python::python;
use data_encoding::HEXLOWER;
use saltecho::auth::{Challenge, Key, MacAlgorithm};

const MACS: [&str; 2] = ["md5", "sha256"];

/// `bytes.upper()`, written without the library.
fn upper(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|&byte| if byte.is_ascii_lowercase() { byte - 32 } else { byte }).collect()
}

#[test]
fn a_python_client_is_served() {
    for mac in MACS {
        let Some(mut client) = python("client.py") else { return };
        let server = Serving::start(&["--mac", mac]);
        let lines = "hello\nGrüße, 世界\n{}[]`~@ az AZ 09\n".as_bytes();
        let answer = run_command(client.arg(server.address.port().to_string()).arg(mac), lines);
        answer.expect(0, &[]);
        assert_eq!(answer.stdout, upper(lines));
        server.finish().expect(0, &["accepted 1, authenticated 1", "1 peer finished"]);
    }
}

#[test]
fn a_python_client_with_another_mac_is_refused() {
    let Some(mut client) = python("client.py") else { return };
    let server = Serving::start(&[]);
    let port = server.address.port().to_string();
    let answer = run_command(client.arg(port).arg("sha256"), b"hello\n");
    assert!(answer.stdout.is_empty(), "{answer:?}");
    server.finish().expect(0, &["accepted 1, authenticated 0", "1 wrong digest"]);
}

#[test]
fn connect_talks_to_a_python_server() {
    for mac in MACS {
        let Some(mut command) = python("server.py") else { return };
        let mut server = Running::start(command.arg(mac).arg("3"), Vec::new());
        let place = server.wait_for("port ").replace("port ", "127.0.0.1:");

        let every_byte: Vec<u8> = (0..=255).collect();
        let megabyte = pattern(1 << 20);
        for input in [&every_byte[..], &megabyte] {
            let answer = run(&["connect", &place, "--mac", mac], input);
            answer.expect(0, &[]);
            assert!(answer.stdout == upper(input), "{} bytes came back", answer.stdout.len());
            assert_eq!(server.wait_for("authenticated"), "authenticated");
        }

        let files = Files::new();
        let other = files.key("other", "not the key that the server has\n");
        run(&["connect", &place, "--mac", mac, "-k", &other], b"hello")
            .expect(3, &["authentication failed"]);
        assert_eq!(server.wait_for("rejected"), "rejected");
        server.wait().expect(0, &[]);
    }
}

#[test]
fn macs_equal_those_of_python() {
    const CASES: usize = 4000;
    let Some(mut command) = python("macs.py") else { return };
    let output = command.arg(CASES.to_string()).arg("2104").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), CASES);
    for line in text.lines() {
        let part: Vec<Vec<u8>> =
            line.split(' ').map(|hex| HEXLOWER.decode(hex.as_bytes()).unwrap()).collect();
        let key = Key::new(part[0].clone());
        let challenge = Challenge::new(part[1].clone().try_into().unwrap());
        for (algorithm, mac) in [(MacAlgorithm::Md5, &part[2]), (MacAlgorithm::Sha256, &part[3])] {
            assert_eq!(algorithm.digest(&key, &challenge).as_bytes(), mac, "{line}");
        }
    }
}

/// The tutorial's server reads exactly 16 bytes of digest and at most 1024 of a line; with that
/// pacing ours must send a client the same bytes.
#[test]
fn the_pacing_of_the_tutorial_changes_no_byte() {
    let Some(mut client) = python("client.py") else { return };
    let server = Serving::start_command(saltecho(&["serve", "-l", "127.0.0.1:0"]).args([
        "--recv-size",
        "1k",
        "--reply",
        "same",
    ]));
    let line =
        [&pattern(900).iter().map(|byte| byte | 0x40).collect::<Vec<_>>()[..], b"\n"].concat();
    let answer = run_command(client.arg(server.address.port().to_string()).arg("md5"), &line);
    answer.expect(0, &[]);
    assert_eq!(answer.stdout, line);
    server.finish();
}
