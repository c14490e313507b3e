//! The servers: saltecho, and three common ways to write the same service.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use mio::{Events, Interest, Poll, Token};
use rand::{TryRng as _, rngs::SysRng};
use saltecho::auth::{Challenge, Keyring};
use saltecho::python::upper;
use saltecho::server::{Limits, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Names of the servers.
pub(crate) const NAMES: [&str; 4] = ["saltecho", "thread each", "tokio", "typical mio"];

/// Size of the receive buffers, the same as saltecho's.
const BUFFER: usize = 32 << 10;
/// Backlog, the same as saltecho's; the kernel reduces it to its own limit (somaxconn).
const BACKLOG: i32 = 4096;

/// Prints the address and serves until standard input ends.
pub(crate) fn serve(name: &str) {
    // Raises the limit on descriptors.
    let limits = Limits::for_process();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket2::SockRef::from(&listener).listen(BACKLOG).expect("it is bound");
    println!("{}", listener.local_addr().expect("it is bound"));
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    match name {
        "saltecho" => saltecho(listener, limits),
        "thread each" => thread_each(&listener),
        "tokio" => tokio(listener),
        "typical mio" => typical::serve(listener).expect("mio does not fail"),
        _ => panic!("unknown server {name}"),
    }
}

fn saltecho(listener: TcpListener, limits: Limits) {
    let server = Server::builder().listener(listener).limits(limits).build();
    server.expect("it can be built").run().expect("the loop does not fail");
}

fn new_challenge() -> Challenge {
    let mut random = [0; Challenge::LEN];
    SysRng.try_fill_bytes(&mut random).expect("the system has random bytes");
    Challenge::new(random)
}

fn thread_each(listener: &TcpListener) {
    let keyring = Arc::new(Keyring::demo());
    for client in listener.incoming().map_while(Result::ok) {
        let keyring = Arc::clone(&keyring);
        let thread = thread::Builder::new().stack_size(128 << 10);
        // An error ends this client only.
        let serve = move || drop(converse(client, &keyring));
        thread.spawn(serve).expect("the system has room for a thread");
    }
}

fn converse(mut client: TcpStream, keyring: &Keyring) -> io::Result<()> {
    client.set_nodelay(true)?;
    let challenge = new_challenge();
    client.write_all(challenge.as_bytes())?;
    let mut digest = [0; 16];
    client.read_exact(&mut digest)?;
    if !keyring.verify(&challenge, &digest) {
        return Ok(());
    }
    let mut buffer = vec![0; BUFFER];
    while let count @ 1.. = client.read(&mut buffer)? {
        upper(&mut buffer[..count]);
        client.write_all(&buffer[..count])?;
    }
    Ok(())
}

/// A runtime with one thread, and a task per connection.
fn tokio(listener: TcpListener) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.expect("it can be built").block_on(async {
        let keyring = Arc::new(Keyring::demo());
        listener.set_nonblocking(true).expect("an option of sockets");
        let listener = tokio::net::TcpListener::from_std(listener).expect("it can be registered");
        while let Ok((client, _)) = listener.accept().await {
            let keyring = Arc::clone(&keyring);
            tokio::spawn(async move { drop(converse_async(client, &keyring).await) });
        }
    });
}

async fn converse_async(mut client: tokio::net::TcpStream, keyring: &Keyring) -> io::Result<()> {
    client.set_nodelay(true)?;
    let challenge = new_challenge();
    client.write_all(challenge.as_bytes()).await?;
    let mut digest = [0; 16];
    client.read_exact(&mut digest).await?;
    if !keyring.verify(&challenge, &digest) {
        return Ok(());
    }
    let mut buffer = vec![0; BUFFER];
    while let count @ 1.. = client.read(&mut buffer).await? {
        upper(&mut buffer[..count]);
        client.write_all(&buffer[..count]).await?;
    }
    Ok(())
}

/// A typical loop on mio: correct, but it reads until EAGAIN, waits for a writable event before each
/// write, and changes its registration every time.
mod typical {
    use super::*;

    const LISTENER: Token = Token(0);

    struct Client {
        stream: mio::net::TcpStream,
        challenge: Option<Challenge>,
        input: Vec<u8>,
        output: Vec<u8>,
        ended: bool,
    }

    pub(super) fn serve(listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (mut clients, mut next) = (HashMap::new(), 1);
        let (keyring, mut buffer) = (Keyring::demo(), vec![0; BUFFER]);
        loop {
            poll.poll(&mut events, None)?;
            for event in &events {
                if event.token() == LISTENER {
                    while let Ok((mut stream, _)) = listener.accept() {
                        stream.set_nodelay(true)?;
                        let challenge = new_challenge();
                        let output = challenge.as_bytes().to_vec();
                        let token = Token(next);
                        next += 1;
                        poll.registry().register(&mut stream, token, Interest::WRITABLE)?;
                        let (challenge, input) = (Some(challenge), Vec::new());
                        let client = Client { stream, challenge, input, output, ended: false };
                        clients.insert(token, client);
                    }
                } else if let Some(client) = clients.get_mut(&event.token()) {
                    let mut go_on = Ok(());
                    if event.is_readable() {
                        go_on = client.receive(&keyring, &mut buffer);
                    }
                    if go_on.is_ok() && event.is_writable() {
                        go_on = client.send();
                    }
                    if go_on.is_err() || (client.ended && client.output.is_empty()) {
                        let mut client = clients.remove(&event.token()).expect("it was there");
                        poll.registry().deregister(&mut client.stream)?;
                        continue;
                    }
                    let interest = match client.output.is_empty() {
                        true => Interest::READABLE,
                        false => Interest::WRITABLE,
                    };
                    poll.registry().reregister(&mut client.stream, event.token(), interest)?;
                }
            }
        }
    }

    impl Client {
        fn receive(&mut self, keyring: &Keyring, buffer: &mut [u8]) -> io::Result<()> {
            loop {
                match self.stream.read(buffer) {
                    Ok(0) => {
                        self.ended = true;
                        break;
                    }
                    Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if let Some(challenge) = &self.challenge {
                let Some(digest) = self.input.get(..16) else { return Ok(()) };
                if !keyring.verify(challenge, digest) {
                    return Err(ErrorKind::PermissionDenied.into());
                }
                self.input.drain(..16);
                self.challenge = None;
            }
            upper(&mut self.input);
            self.output.append(&mut self.input);
            Ok(())
        }

        fn send(&mut self) -> io::Result<()> {
            while !self.output.is_empty() {
                match self.stream.write(&self.output) {
                    Ok(count) => drop(self.output.drain(..count)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        }
    }
}
