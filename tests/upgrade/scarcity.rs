//! Upgrades without enough of something: descriptors in either process, sockets in flight, memory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::needs::{PYTHON, STRACE};
use crate::common::program::{Running, saltecho};
use crate::service::{Service, children, wait_until};

/// Sets the limit of descriptors of a process; it must not have ended.
fn limit_descriptors(pid: u32, limit: u64) {
    let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

/// Descriptors that do not fit are dropped on the way, and only a flag of recvmsg(2) tells.
#[test]
fn sockets_that_are_dropped_on_the_way_are_missed_and_old_goes_on() {
    if STRACE.is_missing() {
        return;
    }
    // Old waits before its first record, so that the limit falls between the check and the records.
    let delay = "inject=sendmsg:delay_enter=400000:when=1";
    let words = ["strace", "-D", "-o", "/dev/null", "-e", "trace=sendmsg", "-e", delay];
    for attempt in 0.. {
        let mut service = Service::start_under(|_| words.map(str::to_owned).to_vec(), &[]);
        service.connect(30);
        let before = service.descriptors();
        let ctl = ctl(&service, &["upgrade"]);
        let new = service.step("prepared")["other_pid"].as_u64().unwrap();
        limit_descriptors(u32::try_from(new).unwrap(), 20);
        let finished = ctl.wait();
        if finished.code() == 0 && attempt < 10 {
            // On a busy machine it fell too late.
            service.wait_for_successor();
            service.finish();
            continue;
        }
        let words = "sockets arrived: the new process may not have so many descriptors \
                     (LimitNOFILE=), or a security module refused one";
        finished.expect(1, &["given up: ", words]);
        assert_eq!(service.step("given up")["reason"], "truncated");
        service.check_clients();
        service.wait_for_descriptors(&before);
        service.connect(2);
        return drop(service.finish());
    }
}

/// Begins to control the service.
fn ctl(service: &Service, words: &[&str]) -> Running {
    let admin = service.admin();
    let words = [&["ctl", "--admin", &admin], words].concat();
    Running::start(&mut saltecho(&words), Vec::new())
}

/// A service of a user without rights, and another process of that user that can hold sockets in flight.
/// `None` if this user has no other.
fn crowded(user: u32) -> Option<Service> {
    if PYTHON.is_missing() {
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: sockets in flight need another user, and so need root");
        return None;
    }
    // All processes of the user together may have as many in flight as the sender may have open.
    let mut service = Service::start_of(user, 100);
    service.connect(20);
    Some(service)
}

/// Another process of the user, which has passed sockets that are not received.
struct Holder(Child);

impl Holder {
    fn start(user: u32) -> Self {
        let script = "\
import array, os, socket, sys
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
null = os.open('/dev/null', os.O_RDONLY)
for _ in range(4):
    one.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [null] * 250))])
print('held', flush=True)
sys.stdin.read()
";
        let mut command = Command::new("python3");
        command.args(["-c", script]).uid(user).gid(user).current_dir("/");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it was found");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }

    /// It ends, and with it the sockets in flight.
    fn release(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn sockets_that_another_process_holds_in_flight_end_the_attempt_at_its_deadline() {
    const USER: u32 = 48_879;
    let Some(mut service) = crowded(USER) else { return };
    let before = service.descriptors();
    let holder = Holder::start(USER);
    let words = "processes of this user have too many sockets in flight";
    service.ctl(&["upgrade"]).expect(1, &["given up: ", words, "LimitNOFILE="]);
    assert_eq!(service.step("given up")["reason"], "late");
    service.check_clients();
    service.wait_for_descriptors(&before);
    let pid = service.pid;
    wait_until("one process is left", || children(pid).is_empty());
    holder.release();
    service.upgrade();
    service.check_clients();
    service.finish();
}

#[test]
fn sockets_that_another_process_held_in_flight_only_delay_the_handover() {
    const USER: u32 = 48_880;
    let Some(mut service) = crowded(USER) else { return };
    for attempt in 0.. {
        let holder = Holder::start(USER);
        let ctl = ctl(&service, &["upgrade"]);
        service.step("frozen");
        holder.release();
        let finished = ctl.wait();
        service.check_clients();
        if attempt < 10 && finished.stderr.contains("(late: ") {
            // This machine took longer than the freeze may.
            continue;
        }
        finished.expect(0, &[]);
        service.wait_for_successor();
        return drop(service.finish());
    }
}

/// A group of processes whose memory is limited; it ends with its processes.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// `None` if there can be no such group here.
    fn new(name: &str, process: u32, bytes: u64) -> Option<Self> {
        let second = Path::new("/sys/fs/cgroup");
        let (root, limits) = match second.join("cgroup.subtree_control").exists() {
            true => (second.to_owned(), ["memory.max", "memory.swap.max"]),
            false => {
                (second.join("memory"), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"])
            }
        };
        let group = Self(root.join(format!("saltecho-test-{}-{name}", std::process::id())));
        let [limit, swap] = limits.map(|limit| group.0.join(limit));
        let made = fs::create_dir(&group.0)
            .and_then(|()| fs::write(limit, bytes.to_string()))
            .and_then(|()| fs::write(group.0.join("cgroup.procs"), process.to_string()));
        // Without swap there is none to limit.
        let _ =
            fs::write(swap, if limits[0] == "memory.max" { "0".into() } else { bytes.to_string() });
        match made {
            Ok(()) => Some(group),
            Err(error) => {
                eprintln!("NOT TESTED: {name}: there is no control group for memory here: {error}");
                None
            }
        }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

/// The kernel kills the process that has most, which is the new one.
#[test]
fn a_new_process_that_the_kernel_kills_for_memory_changes_nothing() {
    if PYTHON.is_missing() {
        return;
    }
    let mut service = Service::start(&[]);
    service.connect(20);
    let group = MemoryGroup::new("killed", service.pid, 64 << 20);
    if group.is_none() {
        return;
    }
    for (steps, reasons) in
        [("hello allocate", &["died"][..]), ("hello prepared end allocate", &["died", "late"])]
    {
        let before = service.descriptors();
        service.pretend(steps);
        service.ctl(&["upgrade"]).expect(1, &["given up: ", "it was ended by signal 9"]);
        let given_up = service.step("given up");
        assert!(reasons.contains(&given_up["reason"].as_str().unwrap()), "{given_up}");
        service.check_clients();
        service.wait_for_descriptors(&before);
        service.connect(2);
    }
    service.restore_program();
    service.upgrade();
    service.check_clients();
    service.finish();
    drop(group);
}

/// Has a process fail to start threads from this call of its first thread on.
fn without_threads(call: usize) -> String {
    format!(
        "strace -D -o /dev/null -e trace=clone,clone3 -e inject=clone,clone3:error=EAGAIN:when={call}+"
    )
}

/// The threads of the loops are there before the connections are.
#[test]
fn a_new_process_that_gets_no_thread_for_a_loop_declines() {
    if STRACE.is_missing() {
        return;
    }
    let mut service = Service::start(&["--workers", "2"]);
    service.connect(20);
    // The first two read the command line and write the log.
    service.wrap_program(&without_threads(3));
    let words = "cannot start a thread for each worker";
    service.ctl(&["upgrade"]).expect(1, &["given up: ", words]);
    assert_eq!(service.step("given up")["reason"], "declined");
    service.check_clients();
    service.restore_program();
    service.upgrade();
    service.check_clients();
    service.finish();
}

/// The loops of a process that goes on do so on the threads that they had.
#[test]
fn old_goes_on_without_another_thread() {
    if STRACE.is_missing() || PYTHON.is_missing() {
        return;
    }
    // The others are for the second loop and for the upgrade.
    let words = without_threads(5);
    let words = words.split(' ').map(str::to_owned).collect();
    let mut service = Service::start_under(|_| words, &["--workers", "2"]);
    service.connect(20);
    service.pretend("hello prepared end ack 1");
    service.ctl(&["upgrade"]).expect(1, &["given up: "]);
    service.check_clients();
    service.connect(20);
    let words = ["refused (memory): cannot start a thread: "];
    service.ctl(&["upgrade"]).expect(1, &words);
    service.check_clients();
    service.finish();
}

/// With too little address space the program fails at one step or another. With enough it takes over.
#[test]
fn a_new_process_that_gets_no_memory_changes_nothing() {
    let mut service = Service::start(&["--workers", "2"]);
    service.connect(20);
    let (mut failed, mut taken_over) = (0, 0);
    for mebibytes in [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 4096] {
        let pid = service.pid;
        let kibibytes = mebibytes << 10;
        service.wrap_program(&format!("ulimit -S -v {kibibytes}; exec"));
        let finished = service.ctl(&["upgrade"]);
        match finished.code() {
            0 => {
                taken_over += 1;
                service.wait_for_successor();
            }
            _ => {
                failed += 1;
                finished.expect(1, &["given up: "]);
                service.step("given up");
                wait_until("one process is left", || children(pid).is_empty());
            }
        }
        service.check_clients();
        service.connect(2);
    }
    assert!(failed > 0 && taken_over > 0, "{failed} failed, {taken_over} took over");
    let said = service.finish();
    assert!(!said.contains("the event loop failed"), "{said}");
}
