//! `kill -9` of either process at each step: docs/OPERATIONS.md has the table.

use std::fs;
use std::path::Path;

use crate::common::client::{finish_sending, rest};
use crate::common::needs::STRACE;
use crate::common::program::Signal;
use crate::service::{Service, has_ended, signal_to, state, wait_until};

/// What strace does with the calls of sendmsg of a process' first thread: records them in this file,
/// and kills the process at the beginning of one of them.
fn tracer(file: &Path, fatal: Option<usize>) -> Vec<String> {
    let file = file.to_str().unwrap();
    // The tracer is no parent: the process stays the child of the one that started it.
    let mut words: Vec<String> =
        ["strace", "-D", "-o", file, "-e", "trace=sendmsg"].map(str::to_owned).into();
    if let Some(number) = fatal {
        words.extend(["-e".to_owned(), format!("inject=sendmsg:signal=SIGKILL:when={number}")]);
    }
    words
}

/// A server with clients, whose own messages are traced.
fn traced(fatal: Option<usize>) -> Service {
    let mut service = Service::start_under(|files| tracer(&files.join("trace"), fatal), &[]);
    service.connect(30);
    service
}

/// The old process sends its records, the program's state, the end and the permission.
#[test]
fn old_killed_before_the_permission_takes_its_connections_along_and_after_it_none() {
    if STRACE.is_missing() {
        return;
    }
    let mut service = traced(None);
    service.upgrade();
    service.check_clients();
    let trace = fs::read_to_string(service.files.path().join("trace")).unwrap();
    let messages = trace.lines().filter(|line| line.starts_with("sendmsg(")).count();
    service.finish();
    assert!(messages > 5, "{trace}");
    for fatal in 1..messages {
        let mut service = traced(Some(fatal));
        service.signal(Signal::USR2);
        let new = service.step("started")["other_pid"].as_u64().unwrap();
        service.running.status();
        wait_until("the new process ends too", || has_ended(u32::try_from(new).unwrap()));
        let said = service.finish();
        assert!(!said.contains("\"step\":\"serves\""), "message {fatal} of {messages}: {said}");
    }
    // The new process has acknowledged everything, and is left alone.
    let mut service = traced(Some(messages));
    service.signal(Signal::USR2);
    service.wait_for_successor();
    service.running.status();
    service.check_clients();
    service.connect(3);
    service.upgrade();
    service.check_clients();
    service.finish();
}

#[test]
fn new_killed_at_any_of_its_messages_leaves_everything_with_old() {
    if STRACE.is_missing() {
        return;
    }
    for (fatal, before) in [(1, "HELLO"), (2, "PREPARED"), (3, "ACK"), (4, "TAKEN")] {
        let mut service = Service::start(&[]);
        service.connect(30);
        let descriptors = service.descriptors();
        let file = service.files.path().join("trace");
        service.wrap_program(&tracer(&file, Some(fatal)).join(" "));
        service.ctl(&["upgrade"]).expect(1, &["given up: ", "it was ended by signal 9"]);
        assert_eq!(service.step("given up")["reason"], "died", "{before}");
        service.check_clients();
        service.wait_for_descriptors(&descriptors);
        service.connect(2);
        service.finish();
    }
}

/// Before it may, the new process only reads the state of the sockets.
#[test]
fn new_touches_no_socket_before_the_permission() {
    if STRACE.is_missing() {
        return;
    }
    let mut service = Service::start(&["--workers", "2"]);
    service.connect(20);
    let file = service.files.path().join("trace");
    let calls = "accept,accept4,recvfrom,sendto,shutdown,setsockopt,listen,bind,connect,fcntl,ioctl,\
                 sendmsg,recvmsg,read,write,writev,readv,close";
    service.wrap_program(&format!("strace -D -f -yy -o {} -e trace={calls}", file.display()));
    service.upgrade();
    service.check_clients();
    let trace = fs::read_to_string(&file).unwrap();
    let calls: Vec<&str> =
        trace.lines().map(|line| line.split_once(' ').unwrap().1.trim()).collect();
    let messages: Vec<usize> =
        (0..calls.len()).filter(|place| calls[*place].starts_with("sendmsg(")).collect();
    // HELLO, PREPARED, ACK, TAKEN.
    assert!(messages.len() >= 4, "{trace}");
    let before = &calls[..messages[3]];
    let touched: Vec<&&str> = before
        .iter()
        .filter(|call| call.contains("TCP:[") || call.contains("TCPv6:["))
        // Registering is no change of a socket, and neither is a copy of its descriptor.
        .filter(|call| !call.contains("F_DUPFD_CLOEXEC") && !call.starts_with("recvmsg("))
        .collect();
    assert!(touched.is_empty(), "{touched:?}");
    // The trace would have shown it.
    assert!(calls[messages[3]..].iter().any(|call| call.contains("TCP:[")), "{trace}");
    service.finish();
}

/// The end of a stream leaves with the last descriptor of its socket, and old may still have one.
#[test]
fn old_stopped_after_the_permission_keeps_no_client_waiting_for_its_end() {
    if STRACE.is_missing() {
        return;
    }
    let mut service = traced(None);
    service.upgrade();
    let trace = fs::read_to_string(service.files.path().join("trace")).unwrap();
    let messages = trace.lines().filter(|line| line.starts_with("sendmsg(")).count();
    service.finish();
    let stop = format!("inject=sendmsg:signal=SIGSTOP:when={messages}");
    let words = ["strace", "-D", "-o", "/dev/null", "-e", "trace=sendmsg", "-e", &stop];
    let words = words.map(str::to_owned).to_vec();
    let mut service = Service::start_under(|_| words, &[]);
    service.connect(30);
    let old = service.pid;
    service.signal(Signal::USR2);
    service.wait_for_successor();
    wait_until("old is stopped", || state(old) == Some('T') || state(old) == Some('t'));
    service.check_clients();
    let leaving = service.clients.pop().unwrap();
    finish_sending(&leaving);
    assert_eq!(rest(&leaving).unwrap(), b"");
    service.ctl(&["list"]).expect(0, &[]);
    signal_to(old, Signal::CONT);
    wait_until("old ends", || has_ended(old));
    service.check_clients();
    service.finish();
}
