//! The authenticated echo, as one blocking loop: one client after the other.

use rand::TryRng;
use rand::rngs::SysRng;
use saltecho::auth::{Challenge, Key, MacAlgorithm};
use saltecho::python::upper;
use saltecho::socket::{Family, SO_REUSEADDR, SOL_SOCKET, Socket, SocketType};
use subtle::ConstantTimeEq;

const SECRET: &[u8] = b"linhaifeng bang bang bang";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn authenticate(conn: &Socket) -> Result<bool> {
    let mut challenge = [0; 32];
    SysRng.try_fill_bytes(&mut challenge)?;
    conn.sendall(&challenge)?;
    let challenge = Challenge::new(challenge);
    let digest = MacAlgorithm::Md5.digest(&Key::new(SECRET), &challenge);
    let answer = conn.recv(16)?;
    Ok(answer.ct_eq(digest.as_bytes()).into())
}

fn handle(conn: &Socket) -> Result<()> {
    if !authenticate(conn)? {
        println!("refused");
        return Ok(());
    }
    println!("accepted");
    loop {
        let mut data = conn.recv(1024)?;
        if data.is_empty() {
            break Ok(());
        }
        upper(&mut data);
        conn.sendall(&data)?;
    }
}

fn serve(address: (&str, u16)) -> Result<()> {
    let listener = Socket::new(Family::Inet, SocketType::Stream)?;
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)?;
    listener.bind(address)?;
    listener.listen(Some(5))?;
    let name = listener.getsockname()?;
    println!("listening on {name}");
    loop {
        let (conn, _) = listener.accept()?;
        handle(&conn)?;
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).ok_or("the port is missing")?;
    serve(("127.0.0.1", port.parse()?))
}
