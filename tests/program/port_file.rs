//! `saltecho serve --port-file`: regular files are replaced atomically, other files are written to.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::client::{authenticated, exchange};
use crate::common::program::{Files, Serving, run, saltecho, wait_for_end};

fn serve(port_file: &Path) -> Serving {
    let mut command = saltecho(&["serve", "-l", "127.0.0.1:0", "--port-file"]);
    Serving::start_command(command.arg(port_file))
}

fn port_of(server: &Serving) -> String {
    format!("{}\n", server.address.port())
}

fn fifo(files: &Files) -> PathBuf {
    let path = files.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// The names in a directory, to check that no temporary file is left.
fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_regular_file_is_replaced_and_gets_ordinary_permissions() {
    let files = Files::new();
    let old = files.write("ports", b"1\n", 0o600);
    let mut reader = File::open(&old).unwrap();
    let path = files.path().join("ports");
    let server = serve(&path);
    assert_eq!(fs::read_to_string(&path).unwrap(), port_of(&server));
    let new = fs::metadata(&path).unwrap();
    assert_ne!(new.ino(), reader.metadata().unwrap().ino(), "it was written over");
    let any = File::create(files.path().join("any")).unwrap().metadata().unwrap();
    assert_eq!(new.permissions().mode(), any.permissions().mode());
    server.finish();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), names(files.path())), ("1\n", vec!["any".into(), "ports".into()]));
}

#[test]
fn links_are_followed_even_to_a_file_that_does_not_exist_yet() {
    let files = Files::new();
    fs::create_dir(files.path().join("run")).unwrap();
    files.write("run/existing", b"1\n", 0o600);
    for name in ["existing", "new"] {
        let (link, first) = (files.path().join(name), files.path().join(format!("{name}-first")));
        symlink(format!("run/{name}"), &link).unwrap();
        symlink(&link, &first).unwrap();
        let server = serve(&first);
        assert!(first.is_symlink() && link.is_symlink(), "a link was replaced");
        let target = files.path().join("run").join(name);
        assert_eq!(fs::read_to_string(target).unwrap(), port_of(&server));
        server.finish();
    }
    let circle = files.path().join("circle");
    symlink(&circle, &circle).unwrap();
    let circle = circle.to_str().unwrap();
    run(&["serve", "-l", "127.0.0.1:0", "--port-file", circle], b"")
        .expect(2, &[circle, "too many symbolic links"]);
}

#[test]
fn a_fifo_is_kept_and_its_reader_gets_the_port() {
    let files = Files::new();
    let path = fifo(&files);
    // The server starts without a reader, and serves.
    let server = serve(&path);
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    let mut text = String::new();
    File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, port_of(&server));
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo(), "it was replaced");
    server.finish();
}

#[test]
fn a_fifo_without_a_reader_does_not_block_the_server() {
    let files = Files::new();
    let path = fifo(&files);
    let server = serve(&path);
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    server.finish();
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo(), "it was replaced");
}

#[test]
fn a_descriptor_is_written_to() {
    let files = Files::new();
    let program = saltecho(&[]);
    let serve = "serve -l 127.0.0.1:0 --port-file /dev/fd/1";
    let mut shell = Command::new("sh");
    crate::common::program::clean(&mut shell);
    let text = format!("exec \"$0\" {serve} 2>&1 >out");
    let shell = shell.args(["-c", &text]).arg(program.get_program()).current_dir(files.path());
    // Its log goes to the pipe that was its stdout.
    let mut child = shell.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = log.find(|line| line.as_ref().unwrap().contains("listening")).unwrap().unwrap();
    let port = fs::read_to_string(files.path().join("out")).unwrap();
    assert!(line.contains(&format!("127.0.0.1:{}:", port.trim())), "{port:?} and {line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn devices_are_written_to_and_errors_name_the_path() {
    let files = Files::new();
    let null = serve(Path::new("/dev/null"));
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    null.finish();
    let directory = files.path().to_str().unwrap();
    let socket = files.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, code, why) in [
        (directory, 2, "it is a directory"),
        (socket.to_str().unwrap(), 2, "it is a socket"),
        ("/nonexistent/port", 1, "No such file"),
        ("/dev/full", 1, "No space left"),
    ] {
        let name = format!("cannot write the port file {path}");
        let refused = run(&["serve", "-l", "127.0.0.1:0", "--port-file", path], b"");
        refused.expect(code, &[&name, why]);
    }
    assert_eq!(names(files.path()), ["socket"]);
}

#[test]
fn the_servers_other_files_are_refused_as_port_files() {
    let files = Files::new();
    let key = files.key("key", "a key that is long enough\n");
    let link = files.path().join("link");
    symlink(&key, &link).unwrap();
    for path in [&key, link.to_str().unwrap()] {
        run(&["serve", "-l", "127.0.0.1:0", "-k", &key, "--port-file", path], b"")
            .expect(2, &["cannot write the port file", "it is the key file"]);
    }
    assert!(Path::new(&key).exists(), "the keys are gone");
    let log = files.path().join("log");
    let mut command = saltecho(&["serve", "-l", "127.0.0.1:0", "--port-file"]);
    let child = command.arg(&log).stderr(File::create(&log).unwrap()).spawn().unwrap();
    assert_eq!(wait_for_end(child), Some(2));
    assert!(fs::read_to_string(&log).unwrap().contains("the log is written to it"));
}

#[test]
fn a_dash_is_standard_output() {
    let files = Files::new();
    let mut command = saltecho(&["serve", "-l", "127.0.0.1:0", "--port-file", "-"]);
    let server = Serving::start_command(command.current_dir(files.path()));
    let port = port_of(&server);
    let finished = server.finish();
    assert_eq!(String::from_utf8(finished.stdout).unwrap(), port);
    assert_eq!(names(files.path()), [""; 0]);
}
