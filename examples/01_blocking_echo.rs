//! The simplest server there is: accept a client, serve it to its end, accept the next.
//!
//! **To learn:** each call waits until it can do its work, so the program reads from top to bottom
//! as one client's conversation. It needs no state, no buffer and no event.
//!
//! **What goes wrong:** the only thread waits in `recv` for the first client. A silent client blocks
//! all others, which cannot even tell, because the kernel has completed their connections and takes
//! their bytes. And the error of one client ends the whole program.
//!
//! **Step by step:** docs/loop.html#zero, in a browser. **To practice:** `lab/exercises/05_ends/`.
//!
//! **Read next:** `02_thread_per_client.rs`.

use std::thread;

use saltecho::socket::{
    Result, SO_LINGER, SOL_SOCKET, ServerOptions, Socket, create_connection, create_server,
};

fn serve(listener: &Socket) -> Result<()> {
    loop {
        let (conn, _) = listener.accept()?;
        loop {
            let data = conn.recv(1024)?;
            if data.is_empty() {
                break;
            }
            conn.sendall(&data.to_ascii_uppercase())?;
        }
    }
}

fn main() -> Result<()> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let address = listener.getsockname()?;
    // The thread owns the listener, which is closed when the server ends.
    let server = thread::spawn(move || serve(&listener));

    let first = create_connection(&address, None, None)?;
    first.sendall(b"first")?;
    println!("the first client is answered: {}", text(&first)?);
    println!("now it is silent, and the server waits in recv");

    let second = create_connection(&address, None, None)?;
    second.sendall(b"second")?;
    println!("the kernel completes the second connection and takes its bytes");
    second.settimeout(Some(0.2))?;
    match second.recv(1024) {
        Ok(data) => println!("the second is answered: {data:?}"),
        Err(error) => println!("the second waits for its answer: {error}"),
    }

    first.close();
    second.settimeout(None)?;
    println!("once the first has left: {}", text(&second)?);

    // struct linger { 1, 0 }: close() then sends a reset instead of an end of the stream.
    second.setsockopt(SOL_SOCKET, SO_LINGER, &[1i32, 0].map(i32::to_ne_bytes).concat()[..])?;
    second.close();
    let ended = server.join().expect("serve does not panic");
    println!("the second resets its connection, which ends the server: {}", failure(ended));
    println!("a third client: {}", failure(create_connection(&address, None, None)));
    Ok(())
}

fn text(client: &Socket) -> Result<String> {
    Ok(String::from_utf8_lossy(&client.recv(1024)?).into_owned())
}

fn failure<T>(outcome: Result<T>) -> String {
    outcome.map_or_else(|error| format!("{}, {error}", error.kind().name()), |_| "fine".to_owned())
}
