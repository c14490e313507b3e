//! What surrounds the processes: paths, directories, users, limits, supervisors, the service manager.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use crate::common::client::{PATIENCE, authenticated, exchange};
use crate::common::program::{Files, Running, Signal, clean, run, saltecho};
use crate::service::{Service, children, install, wait_until};

/// Replaces the program by another file, which the next process must run.
#[track_caller]
fn runs_the_new_file(mut service: Service) {
    service.connect(2);
    for _ in 0..2 {
        service.restore_program();
        service.upgrade();
        service.check_clients();
        let running = fs::read_link(format!("/proc/{}/exe", service.pid)).unwrap();
        assert!(!running.to_str().unwrap().ends_with("(deleted)"), "{running:?}");
    }
    service.finish();
}

#[test]
fn a_relative_path_leads_to_the_new_file() {
    runs_the_new_file(Service::start_at(|files| ("./saltecho".into(), files.to_owned()), &[]));
}

#[test]
fn a_name_that_is_found_through_path_leads_to_the_new_file() {
    let service = Service::start_with(&[], |command| {
        let program = std::path::PathBuf::from(command.get_program());
        let directory = program.parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap();
        let paths = [directory].into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths).unwrap()).arg0("saltecho");
    });
    runs_the_new_file(service);
}

#[test]
fn a_symbolic_link_is_followed_anew() {
    let mut service = Service::start_at(
        |files| {
            let link = files.join("current");
            std::os::unix::fs::symlink(files.join("saltecho"), &link).unwrap();
            (link, files.to_owned())
        },
        &[],
    );
    service.connect(2);
    let next = service.files.path().join("release-2");
    install(&service.program(), &next);
    let link = service.files.path().join("next");
    std::os::unix::fs::symlink(&next, &link).unwrap();
    fs::rename(&link, service.files.path().join("current")).unwrap();
    service.upgrade();
    service.check_clients();
    assert_eq!(fs::read_link(format!("/proc/{}/exe", service.pid)).unwrap(), next);
    service.finish();
}

#[test]
fn the_directory_of_the_start_may_be_gone() {
    let directory = Files::new();
    let path = directory.path().to_owned();
    let mut service = Service::start_at(move |files| (files.join("saltecho"), path), &[]);
    service.connect(2);
    drop(directory);
    for _ in 0..2 {
        service.upgrade();
        service.check_clients();
    }
    service.finish();
}

#[test]
fn another_user_than_root_can_upgrade() {
    if !rustix::process::geteuid().is_root() {
        // Then every other test shows it.
        return;
    }
    let mut service = Service::start_with(&[], |command| {
        let directory = std::path::Path::new(command.get_program()).parent().unwrap().to_owned();
        for path in [directory.clone(), directory.join("settings.toml")] {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
        command.uid(65534).gid(65534);
    });
    service.connect(500);
    for _ in 0..3 {
        service.upgrade();
        service.check_clients();
    }
    service.finish();
}

#[test]
fn a_new_process_that_may_have_too_few_descriptors_declines() {
    let mut service = Service::start(&[]);
    service.connect(300);
    service.wrap_program("ulimit -n 200; exec");
    service.ctl(&["upgrade"]).expect(1, &["300 connections take 332 descriptors", "may have 200"]);
    assert_eq!(service.step("given up")["reason"], "declined");
    service.check_clients();
    service.finish();
}

#[test]
fn old_needs_few_descriptors_more() {
    let mut service = Service::start_limited(400);
    service.connect(300);
    let before = service.descriptors().len();
    assert!(before > 300);
    service.upgrade();
    service.check_clients();
    service.finish();
}

#[test]
fn a_bad_configuration_is_quoted_and_changes_nothing() {
    let mut service = Service::start(&[]);
    service.connect(3);
    for (key, value, words) in [
        ("idle-timeot", "\"1m\"", "did you mean `idle-timeout`"),
        ("workers", "\"many\"", "`workers`: expected a number"),
        ("key-file", "\"/no/such/key\"", "/no/such/key"),
        ("protocol", "\"multiprocessing\"", "takes a restart"),
        ("listen", "[\"127.0.0.1:1\"]", ""),
    ] {
        service.set(key, value);
        if words.is_empty() {
            // The flag decides.
            service.upgrade();
            continue;
        }
        for words in [&["upgrade", "--check"][..], &["upgrade"]] {
            service.ctl(words).expect(1, &["given up: "]);
        }
        service.ctl(&["upgrade"]).expect(1, &[words, "goes on"]);
        service.check_clients();
    }
    service.finish();
}

#[test]
fn a_check_hands_nothing_over() {
    let mut service = Service::start(&[]);
    service.connect(5);
    let before = service.descriptors();
    let pid = service.pid;
    let checked = service.ctl(&["upgrade", "--check"]);
    checked.expect(0, &[]);
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(said.starts_with(&format!("checked: process {pid} -> ")), "{said}");
    assert!(said.contains("5 connections"), "{said}");
    wait_until("one process is left", || children(pid).is_empty());
    service.wait_for_descriptors(&before);
    service.check_clients();
    let said = service.finish();
    assert!(!said.contains("\"step\":\"frozen\""), "{said}");
}

#[test]
fn a_variable_that_only_upgrades_set_is_refused() {
    let mut command = saltecho(&["serve", "-l", "127.0.0.1:0"]);
    command.env("SALTECHO_HANDOVER", "1");
    let finished = Running::start(&mut command, Vec::new()).wait();
    finished.expect(2, &["SALTECHO_HANDOVER is set, which only an upgrade does: remove it"]);
}

#[test]
fn a_child_of_a_supervisor_that_cannot_follow_is_refused() {
    let files = Files::new();
    let supervisor = files.write("tini", b"#!/bin/sh\n\"$@\"\nexit $?\n", 0o755);
    let admin = format!("unix:{}", files.path().join("admin").display());
    let program = saltecho(&[]).get_program().to_owned();
    let mut command = Command::new(supervisor);
    clean(&mut command).arg(program).args(["serve", "-l", "127.0.0.1:0", "--admin", &admin]);
    let mut running = Running::start(&mut command, Vec::new());
    running.wait_for("listening on ");
    run(&["ctl", "--admin", &admin, "upgrade"], b"").expect(1, &["refused (supervisor): tini"]);
    run(&["ctl", "--admin", &admin, "drain"], b"").expect(0, &[]);
    running.wait().expect(0, &["refused: tini started this process"]);
}

#[test]
fn process_1_is_refused() {
    let possible = Command::new("unshare").args(["-p", "-f", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        // Only root may have a namespace here.
        return;
    }
    let files = Files::new();
    let admin = format!("unix:{}", files.path().join("admin").display());
    let program = saltecho(&[]).get_program().to_owned();
    let mut command = Command::new("unshare");
    clean(&mut command).args(["-p", "-f", "--kill-child"]).arg(program);
    command.args(["serve", "-l", "127.0.0.1:0", "--admin", &admin]);
    let mut running = Running::start(&mut command, Vec::new());
    let line = running.wait_for("listening on ");
    let address = line.split("listening on ").nth(1).unwrap().split([',', ':']).collect::<Vec<_>>();
    let client = authenticated(format!("{}:{}", address[0], address[1]).parse().unwrap());
    let refused = run(&["ctl", "--admin", &admin, "upgrade"], b"");
    refused.expect(1, &["refused (pid_1): this is process 1", "start a second container"]);
    assert_eq!(exchange(&client, b"hello"), b"HELLO");
    drop(client);
    run(&["ctl", "--admin", &admin, "drain"], b"").expect(0, &[]);
    running.wait().expect(0, &["refused: this is process 1"]);
}

#[test]
fn the_port_file_and_the_admin_endpoint_are_there_all_the_time() {
    let mut service = Service::start_with(&[], |command| {
        let directory = std::path::Path::new(command.get_program()).parent().unwrap();
        let ports = directory.join("ports");
        command.arg("--port-file").arg(ports);
    });
    service.connect(1);
    let (ports, port) = (service.files.path().join("ports"), service.address.port());
    let done = std::sync::atomic::AtomicBool::new(false);
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(fs::read_to_string(&ports).unwrap(), format!("{port}\n"));
                count += 1;
            }
            count
        });
        for _ in 0..5 {
            service.upgrade();
            service.ctl(&["list"]).expect(0, &[]);
            service.check_clients();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(read > 5);
    let admin = service.files.path().join("admin");
    assert!(admin.exists());
    service.signal(Signal::TERM);
    wait_until("the endpoint is gone with the last process", || !admin.exists());
    service.finish();
}

/// The threads of a process, each with the processors that it may use.
fn threads(pid: u32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut threads: Vec<(String, String)> = tasks
        .filter_map(|task| {
            let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let line = |name: &str| {
                let mut lines = status.lines();
                Some(lines.find_map(|line| line.strip_prefix(name))?.trim().to_owned())
            };
            Some((line("Name:")?, line("Cpus_allowed_list:")?))
        })
        .collect();
    threads.sort();
    threads
}

/// The same of a process with so many workers, once each has its name, which a thread gives to itself.
fn named_threads(pid: u32, workers: usize) -> Vec<(String, String)> {
    let named = || threads(pid).iter().filter(|(name, _)| name.starts_with("worker ")).count();
    // The first worker is the main thread.
    wait_until("the workers have their names", || named() == workers - 1);
    threads(pid)
}

/// The first processor that this process may use.
fn first_processor() -> usize {
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).find(|number| all.is_set(*number)).unwrap()
}

#[test]
fn the_threads_and_their_processors_are_those_of_the_first_start() {
    let first = first_processor().to_string();
    let words = ["taskset", "-c", &first].map(str::to_owned).to_vec();
    let mut service = Service::start_under(|_| words, &["--workers", "3"]);
    let before = named_threads(service.pid, 3);
    assert!(before.len() >= 3 && before.iter().all(|(_, list)| *list == first), "{before:?}");
    for _ in 0..5 {
        service.upgrade();
        let pid = service.pid;
        wait_until(&format!("the threads are {before:?}"), || threads(pid) == before);
    }
    service.finish();
}

/// Threads that were pinned after the start, as an administrator may do, start the new process.
#[test]
fn a_pinned_thread_does_not_pin_the_new_process() {
    let mut service = Service::start(&["--workers", "2"]);
    let before = named_threads(service.pid, 2);
    let mut one = rustix::thread::CpuSet::new();
    one.set(first_processor());
    for _ in 0..2 {
        for task in fs::read_dir(format!("/proc/{}/task", service.pid)).unwrap() {
            let id: i32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
            rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(id), &one).unwrap();
        }
        service.upgrade();
        let pid = service.pid;
        wait_until(&format!("the threads are {before:?}"), || threads(pid) == before);
    }
    service.finish();
}

/// A service manager that listens for reports.
struct Manager {
    socket: UnixDatagram,
    files: Files,
}

impl Manager {
    fn new() -> Self {
        let files = Files::new();
        let socket = UnixDatagram::bind(files.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, files }
    }

    /// The reports up to one that has this line.
    #[track_caller]
    fn until(&self, line: &str) -> Vec<String> {
        let (mut reports, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            assert!(Instant::now() < deadline, "no {line} in {reports:?}");
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).expect("a report");
            let report = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let is_last = report.lines().any(|found| found.starts_with(line));
            reports.push(report);
            if is_last {
                return reports;
            }
        }
    }
}

#[test]
fn the_new_process_is_reported_to_the_service_manager_and_a_stop_never_is() {
    let manager = Manager::new();
    let mut service = Service::start_with(&[], |command| {
        command.env("NOTIFY_SOCKET", manager.files.path().join("notify"));
        command.env("WATCHDOG_USEC", "2000000").env("WATCHDOG_PID", "1");
    });
    manager.until("READY=1");
    service.connect(3);
    // One that fails tells nothing of another process.
    service.replace_program(b"#!/bin/sh\nexit 1\n", 0o755);
    service.ctl(&["upgrade"]).expect(1, &["given up"]);
    service.restore_program();
    for generation in 2..=3 {
        service.upgrade();
        let named = format!("MAINPID={}", service.pid);
        let before = manager.until(&named);
        assert!(!before.concat().contains("STOPPING"), "{before:?}");
        let ready = manager.until("READY=1");
        assert!(ready.last().unwrap().contains(&named), "{ready:?}");
        assert!(!ready.concat().contains("STOPPING"), "{ready:?}");
        // The watchdog goes on, though its variable named another process.
        let status = manager.until("WATCHDOG=1");
        let shown = format!("STATUS=generation {generation}, version ");
        assert!(status.concat().contains(&shown), "{status:?}");
        assert!(!status.concat().contains("STOPPING"), "{status:?}");
        service.check_clients();
    }
    service.clients.clear();
    service.signal(Signal::TERM);
    manager.until("STOPPING=1");
    service.finish();
}
