//! Proves that it has the key, then sends line after line and prints the answers.

use std::io::Write;

use saltecho::auth::{Challenge, Key, MacAlgorithm};
use saltecho::socket::{Family, Socket, SocketType};

const SECRET: &[u8] = b"linhaifeng bang bang bang";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn authenticate(sock: &Socket) -> Result<()> {
    let challenge = sock.recv(32)?.try_into();
    let challenge = Challenge::new(challenge.map_err(|_| "short challenge")?);
    let digest = MacAlgorithm::Md5.digest(&Key::new(SECRET), &challenge);
    sock.sendall(digest.as_bytes())?;
    Ok(())
}

fn talk(address: (&str, u16)) -> Result<()> {
    let sock = Socket::new(Family::Inet, SocketType::Stream)?;
    sock.connect(address)?;
    authenticate(&sock)?;
    loop {
        let line = input(">>>")?;
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if line == "quit" {
            break Ok(());
        }
        sock.sendall(line.as_bytes())?;
        let answer = sock.recv(1024)?;
        println!("{}", String::from_utf8(answer)?);
    }
}

/// Python's `input(prompt)`.
fn input(prompt: &str) -> Result<String> {
    print!("{prompt}");
    std::io::stdout().flush()?;
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line)? {
        0 => Err("EOF when reading a line".into()),
        _ => Ok(line),
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).ok_or("the port is missing")?;
    talk(("127.0.0.1", port.parse()?))
}
