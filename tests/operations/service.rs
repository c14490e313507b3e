//! The service manager's side, played by this process: what the program reports to NOTIFY_SOCKET,
//! and the listeners that it is passed.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::common::client::{
    PATIENCE, authenticated, digest, exchange, fill, read_challenge, rest,
};
use crate::common::needs::SYSTEMD_SOCKET_ACTIVATE;
use crate::common::program::*;

/// A service manager that listens for reports.
struct Manager {
    socket: UnixDatagram,
    _files: Files,
    name: String,
}

impl Manager {
    fn new() -> Self {
        let files = Files::new();
        let name = files.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&name).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, _files: files, name }
    }

    /// One with an abstract name.
    fn hidden() -> Self {
        let name = format!("saltecho-test-{}-notify", std::process::id());
        let address = UnixAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, _files: Files::new(), name: format!("@{name}") }
    }

    fn start(&self, args: &[&str], variables: &[(&str, &str)]) -> Serving {
        let mut command = saltecho(&["serve", "-l", "127.0.0.1:0"]);
        command.args(args).env("NOTIFY_SOCKET", &self.name).envs(variables.iter().copied());
        Serving::start_command(&mut command)
    }

    fn report(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a report");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next report that has this line, or one that begins so.
    #[track_caller]
    fn wait_for(&self, begin: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let report = self.report();
            if report.lines().any(|line| line.starts_with(begin)) {
                return report;
            }
        }
        panic!("no report of {begin}");
    }

    /// The next report that is more than the status and a sign of life.
    fn state(&self) -> String {
        loop {
            let report = self.report();
            let routine = |line: &str| line.starts_with("STATUS=") || line == "WATCHDOG=1";
            if !report.lines().all(routine) {
                return report;
            }
        }
    }
}

fn monotonic_usec() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[test]
fn it_reports_that_it_is_ready_reloading_and_stopping() {
    for (manager, workers) in [(Manager::new(), "1"), (Manager::hidden(), "2")] {
        let files = Files::new();
        let key = files.key("key", "the key of yesterday\n");
        // The client never authenticates, and a busy machine may take long.
        let args = ["-k", &key, "--workers", workers, "--auth-timeout", "off"];
        let mut server = manager.start(&args, &[]);
        let ready = format!("READY=1\nMAINPID={}", server.running.pid());
        assert_eq!(manager.state(), ready);
        let peer = TcpStream::connect(server.address).unwrap();
        read_challenge(&peer).unwrap();
        manager.wait_for("STATUS=connections 1, unauthenticated 1, accepted 1");

        for (text, result, status) in [
            (
                "short",
                "keys not reloaded",
                "STATUS=connections 1, unauthenticated 1, accepted 1; keys not",
            ),
            (
                "the key of tomorrow\n",
                "keys reloaded",
                "STATUS=connections 1, unauthenticated 1, accepted 1",
            ),
        ] {
            files.key("key", text);
            let before = monotonic_usec();
            server.running.signal(Signal::HUP);
            let reloading = manager.state();
            let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
            let time: i64 = time.parse().unwrap();
            assert!((before..=monotonic_usec()).contains(&time), "{before} {time}");
            assert_eq!(manager.state(), ready);
            server.running.wait_for(result);
            manager.wait_for(status);
        }
        server.running.signal(Signal::TERM);
        assert_eq!(manager.state(), "STOPPING=1");
        server.running.wait().expect(0, &[]);
    }
}

#[test]
fn the_watchdog_is_fed_while_the_loops_turn() {
    for workers in ["1", "3"] {
        let manager = Manager::new();
        let server = manager.start(&["--workers", workers], &[("WATCHDOG_USEC", "200000")]);
        for _ in 0..5 {
            manager.wait_for("WATCHDOG=1");
        }
        // A process that is stopped feeds nothing.
        server.running.signal(Signal::STOP);
        let status = format!("/proc/{}/status", server.running.pid());
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&status).unwrap().contains("State:\tT") {
            assert!(Instant::now() < deadline, "it was not stopped");
        }
        let mut buffer = [0; 4096];
        manager.socket.set_nonblocking(true).unwrap();
        while manager.socket.recv(&mut buffer).is_ok() {}
        manager.socket.set_nonblocking(false).unwrap();
        manager.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(manager.socket.recv(&mut buffer).is_err(), "a stopped process reported");
        manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        server.running.signal(Signal::CONT);
        manager.wait_for("WATCHDOG=1");
        server.finish();
    }
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let other = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let server = manager.start(&[], &other);
    manager.wait_for("STATUS=connections 0");
    let peer = TcpStream::connect(server.address).unwrap();
    let status = manager.wait_for("STATUS=connections 1");
    assert!(!status.contains("WATCHDOG"), "{status}");
    drop(peer);
    server.finish();
}

#[test]
fn a_manager_that_takes_nothing_holds_up_nothing() {
    let manager = Manager::new();
    // The queue of a datagram socket is short (net.unix.max_dgram_qlen), and here it is full.
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let mut filled = 0;
    while filler.send_to(b"full", &manager.name).is_ok() {
        filled += 1;
    }
    let server = manager.start(&[], &[("WATCHDOG_USEC", "20000")]);
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    for _ in 0..filled {
        assert_eq!(manager.report(), "full");
    }
    // What it had no room for comes later.
    assert!(manager.state().starts_with("READY=1\n"));
    server.finish();
}

#[test]
fn a_manager_that_is_gone_is_reported_once() {
    let manager = Manager::new();
    fs::remove_file(&manager.name).unwrap();
    let mut server = manager.start(&[], &[("WATCHDOG_USEC", "1000")]);
    server.running.wait_for("cannot report to the service manager");
    assert_eq!(exchange(&authenticated(server.address), b"hello"), b"HELLO");
    let finished = server.finish();
    assert_eq!(finished.stderr.matches("NOTIFY_SOCKET").count(), 1, "{}", finished.stderr);
    for wrong in ["relative", "vsock:2:1234", "/a\u{301}".repeat(60).as_str()] {
        let mut command = saltecho(&["serve", "-l", "127.0.0.1:0"]);
        command.env("NOTIFY_SOCKET", wrong);
        run_command(&mut command, b"").expect(2, &["NOTIFY_SOCKET"]);
    }
}

#[test]
fn until_the_drain_delay_is_over_clients_are_served() {
    let manager = Manager::new();
    let args = ["--drain-delay", "10m", "--drain-timeout", "20m"];
    let mut server = manager.start(&args, &[]);
    assert!(server.start_line.ends_with("drain 20m after 10m"), "{}", server.start_line);
    assert!(manager.state().starts_with("READY=1\n"));
    server.running.signal(Signal::TERM);
    assert_eq!(manager.state(), "STOPPING=1");
    server.running.wait_for("draining in 10m: not ready, but still accepting");
    let late = authenticated(server.address);
    assert_eq!(exchange(&late, b"hello"), b"HELLO");
    manager.wait_for("STATUS=not ready, soon to drain: connections 1");
    // A second signal does not wait.
    server.running.signal(Signal::TERM);
    server.running.wait().expect(1, &["closed: 1 stopped"]);
}

#[test]
fn a_drain_begins_when_its_delay_is_over() {
    let mut server = Serving::start(&["--drain-delay", "200ms"]);
    let peer = authenticated(server.address);
    let begin = Instant::now();
    server.running.signal(Signal::TERM);
    server.running.wait_for("draining in 200ms");
    assert_eq!(rest(&peer).unwrap(), b"", "drained in order");
    assert!(begin.elapsed() >= Duration::from_millis(200));
    drop(peer);
    server.running.wait().expect(0, &["draining: no new connections", "closed: 1 drained"]);
}

#[test]
fn the_drain_timeout_includes_the_delay() {
    let server = Serving::start(&["--drain-delay", "200ms", "--drain-timeout", "400ms"]);
    let peer = authenticated(server.address);
    fill(&peer);
    server.running.signal(Signal::TERM);
    server.running.wait().expect(1, &["1 cut off by the drain timeout"]);
    for timeout in ["1s", "2s"] {
        let args =
            ["serve", "-l", "127.0.0.1:0", "--drain-delay", "2s", "--drain-timeout", timeout];
        run(&args, b"").expect(2, &["--drain-delay 2s must be shorter than --drain-timeout"]);
    }
}

/// Starts the program with a descriptor that is passed as a service manager does it: number 3, for
/// its own process.
fn pass(descriptor: OwnedFd, names: Option<&str>, args: &[&str]) -> Running {
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    clean(&mut shell).args(["-c", script]).arg(saltecho(&[]).get_program()).arg("serve").args(args);
    shell.env_remove("LISTEN_FDNAMES").envs(names.map(|names| ("LISTEN_FDNAMES", names)));
    shell.stdin(descriptor);
    Running::start_with_stdin(&mut shell)
}

/// Gives the right answer to the challenge.
fn authenticate(mut stream: TcpStream) -> TcpStream {
    let challenge = read_challenge(&stream).unwrap();
    stream.write_all(&digest(&challenge)).unwrap();
    stream
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

#[test]
fn a_client_that_queued_before_the_start_is_served() {
    let (listener, address) = listener();
    for (names, workers) in [(None, "1"), (Some("saltecho.socket"), "2")] {
        let queued = TcpStream::connect(address).unwrap();
        let copy = listener.try_clone().unwrap();
        let server = Serving::watch(pass(copy, names, &["--workers", workers]));
        assert_eq!(server.address, address, "it takes the place of the default");
        assert_eq!(exchange(&authenticate(queued), b"hello"), b"HELLO");
        // It is not for programs that this one might start.
        let socket = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let process = format!("/proc/{}", server.running.pid());
        let mut copies = 0;
        for entry in fs::read_dir(format!("{process}/fd")).unwrap().map(|entry| entry.unwrap()) {
            if fs::read_link(entry.path()).is_ok_and(|target| target == socket) {
                let number = entry.file_name().into_string().unwrap();
                let info = fs::read_to_string(format!("{process}/fdinfo/{number}")).unwrap();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
                assert!(flags & libc::O_CLOEXEC != 0, "descriptor {number}");
                copies += 1;
            }
        }
        assert_eq!(copies.to_string(), workers, "one for each loop");
        // The service manager keeps the queue, which the next start serves.
        server.finish();
    }
}

#[test]
fn a_listener_that_is_passed_comes_beside_what_was_asked_for() {
    let (listener, address) = listener();
    rustix::io::ioctl_fionbio(&listener, true).unwrap();
    let server = Serving::watch(pass(listener, Some("saltecho"), &["-l", "127.0.0.1:0"]));
    assert!(server.start_line.contains(&format!(", {address}: ")), "{}", server.start_line);
    for place in [server.address, address] {
        assert_eq!(exchange(&authenticated(place), b"hello"), b"HELLO");
    }
    server.finish();
}

/// The admin endpoint too can be passed, as a Unix socket or a listener of TCP.
#[test]
fn an_admin_endpoint_is_passed_by_its_name() {
    let files = Files::new();
    let path = files.path().join("admin.sock");
    let unix = format!("unix:{}", path.display());
    let (tcp, address) = listener();
    for (descriptor, admin, own) in [
        (UnixListener::bind(&path).unwrap().into(), &unix, vec!["-l", "127.0.0.1:0"]),
        (tcp, &address.to_string(), vec!["-l", "127.0.0.1:0", "--workers", "2"]),
    ] {
        let server = Serving::watch(pass(descriptor, Some("saltecho-admin.socket"), &own));
        assert!(server.start_line.contains(&format!("endpoint {admin}")), "{}", server.start_line);
        run(&["health", admin], b"").expect(0, &[]);
        run(&["ctl", "--admin", admin, "list"], b"").expect(0, &[]);
        server.finish();
    }
    assert!(path.exists(), "the file belongs to the service manager");
    let own = ["--admin", "127.0.0.1:0"];
    pass(listener().0, Some("saltecho-admin"), &own).wait().expect(2, &["remove the other one"]);
    let exposed: OwnedFd = TcpListener::bind("0.0.0.0:0").unwrap().into();
    pass(exposed, Some("saltecho-admin"), &[]).wait().expect(2, &["--admin-exposed"]);
}

#[test]
fn what_cannot_be_served_is_refused() {
    let connected: OwnedFd = {
        let (listener, address) = listener();
        let stream = TcpStream::connect(address).unwrap();
        drop(listener);
        stream.into()
    };
    let udp: OwnedFd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    for (descriptor, names, words) in [
        (connected, None, "does not listen"),
        (udp, None, "ListenStream="),
        (datagrams.into(), None, "ListenStream="),
        (pipe.into(), None, "not a socket"),
        (
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            Some("saltecho-admin"),
            "ListenStream=",
        ),
        (listener().0, Some("http"), "FileDescriptorName="),
        (listener().0, Some("saltecho:more"), "2 names for 1 descriptors"),
    ] {
        pass(descriptor, names, &[]).wait().expect(2, &[words]);
    }
    for (number, words) in [("many", "LISTEN_FDS is \"many\""), ("1", "descriptor 3 (unknown)")] {
        let script = "LISTEN_PID=$$ LISTEN_FDS=$1 exec \"$0\" serve";
        let mut shell = Command::new("sh");
        clean(&mut shell).args(["-c", script]).arg(saltecho(&[]).get_program()).arg(number);
        run_command(&mut shell, b"").expect(2, &[words]);
    }
}

/// Descriptors that were passed to the parent are not ours.
#[test]
fn listeners_of_another_process_are_left_alone() {
    let (_listener, address) = listener();
    let mut command = saltecho(&["serve", "-l", "127.0.0.1:0"]);
    command.env("LISTEN_PID", std::process::id().to_string()).env("LISTEN_FDS", "1");
    let server = Serving::start_command(&mut command);
    assert!(!server.start_line.contains(&address.to_string()), "{}", server.start_line);
    server.finish();
}

/// The real activator, which starts the program for the first client.
#[test]
fn systemds_activator_starts_it_for_its_first_client() {
    let Some(mut activate) = SYSTEMD_SOCKET_ACTIVATE.find() else { return };
    let places = [listener().1.to_string(), listener().1.to_string()];
    activate.args(["-l", &places[0], "-l", &places[1], "--fdname", "saltecho:saltecho"]);
    let program = saltecho(&[]);
    clean(&mut activate).arg(program.get_program()).args(["serve", "--workers", "2"]);
    let mut activator = Running::start(&mut activate, Vec::new());
    activator.wait_for(&format!("Listening on {} ", places[0]));
    activator.wait_for(&format!("Listening on {} ", places[1]));
    let queued = TcpStream::connect(&places[1]).unwrap();
    assert_eq!(exchange(&authenticate(queued), b"hello"), b"HELLO");
    let other = authenticated(places[0].parse().unwrap());
    assert_eq!(exchange(&other, b"hello"), b"HELLO");
    // It has become the program.
    activator.signal(Signal::TERM);
    activator.wait_for("draining");
    drop(other);
    activator.wait().expect(0, &[&format!("listening on {}: ", places.join(", "))]);
}
