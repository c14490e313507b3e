//! `makefile`: messages on a stream, a line each.
//!
//! **To learn:** a stream has no edges, so a protocol must mark its own. A file collects the pieces:
//! `readline` returns one line, whether it came in three pieces or three lines came in one. A
//! writer collects too, and sends when it is flushed.
//!
//! **What goes wrong:** a file reads ahead, so a `recv` on the socket misses what the file has
//! already taken. A line that is never flushed is never sent, and both sides wait. And a timeout in
//! the middle of a line spoils the file: the half line is lost with it, so Python refuses further
//! reads rather than misread. `readline` without a limit lets the peer fill the memory.
//!
//! **Step by step:** docs/loop.html#pieces, in a browser. **To practice:**
//! `lab/exercises/06_pieces/`.
//!
//! **Read next:** `11_custom_handler.rs`, a line protocol on the event loop.

use std::thread;

use saltecho::socket::{
    File, FileOptions, Result, ServerOptions, Socket, create_connection, create_server, socketpair,
};

/// The longest accepted line, its line feed included.
const MAX_LINE: usize = 1024;

/// Answers each line of numbers with their sum.
fn serve(conn: &Socket) -> Result<()> {
    let mut lines = conn.makefile("r", FileOptions::default())?;
    let answers = conn.makefile("w", FileOptions::default())?;
    while let Some(line) = read_line(&mut lines)? {
        let sum: i64 = line.split_whitespace().filter_map(|word| word.parse::<i64>().ok()).sum();
        answers.write(&*format!("{sum}\n"))?;
        answers.flush()?;
    }
    Ok(())
}

/// The next line without its line feed; `None` at the end of the stream, or if it is too long.
fn read_line(file: &mut File) -> Result<Option<String>> {
    let line = file.readline(Some(MAX_LINE))?.into_text().unwrap_or_default();
    Ok(line.strip_suffix('\n').map(str::to_owned))
}

fn main() -> Result<()> {
    let listener = create_server(("127.0.0.1", 0), ServerOptions::default())?;
    let client = create_connection(&listener.getsockname()?, None, None)?;
    let (conn, _) = listener.accept()?;
    let server = thread::spawn(move || serve(&conn));
    let mut answers = client.makefile("r", FileOptions::default())?;

    client.sendall(b"1 2 3\n10 20\r\n4")?;
    println!(
        "two lines in one piece: {:?}, {:?}",
        read_line(&mut answers)?,
        read_line(&mut answers)?
    );
    client.sendall(b" 5\n")?;
    println!("one line in two pieces: {:?}", read_line(&mut answers)?);

    // The file counts as a user of the socket: close() takes effect when it is closed too.
    client.close();
    println!("closed, with a file open: {:?}", {
        client.sendall(b"6 7\n")?;
        read_line(&mut answers)?
    });
    answers.close()?;
    server.join().expect("serve does not panic")?;
    println!("the file is closed too: the server has seen the end");
    spoiled()
}

fn spoiled() -> Result<()> {
    let (reader, writer) = socketpair()?;
    reader.settimeout(Some(0.1))?;
    let mut file = reader.makefile("r", FileOptions::default())?;
    writer.sendall(b"first\nsecond\nhal")?;
    println!("the first line: {:?}", read_line(&mut file)?);
    println!("the socket has nothing, since the file read ahead: {}", failure(reader.recv(64)));
    println!("the second line: {:?}", read_line(&mut file)?);
    println!("a half line: {}", failure(read_line(&mut file)));
    writer.sendall(b"f\n")?;
    println!("the other half arrives: {}", failure(read_line(&mut file)));
    let mut fresh = reader.makefile("r", FileOptions::default())?;
    println!("a new file reads on, in the middle: {:?}", read_line(&mut fresh)?);
    Ok(())
}

fn failure<T>(outcome: Result<T>) -> String {
    outcome.map_or_else(|error| format!("{}, {error}", error.kind().name()), |_| "fine".to_owned())
}
