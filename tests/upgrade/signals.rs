//! Signals at any moment of an upgrade, to either process, and calls that they interrupt.
//!
//! SALTECHO_UPGRADES is the number of upgrades of the random trial, 8 by default.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use saltecho::random::SplitMix;

use crate::common::needs::STRACE;
use crate::common::program::Signal;
use crate::service::{Service, children, signal_to};

/// The processes of a service: the one that serves, and those that it has started.
fn all(pid: u32) -> Vec<u32> {
    [pid].into_iter().chain(children(pid)).collect()
}

/// Does `work` while `disturb` is called again and again with the process that serves, and a number.
fn while_disturbed<T>(
    service: &mut Service,
    disturb: impl Fn(u32, u64) + Sync,
    work: impl FnOnce(&mut Service, &AtomicU32) -> T,
) -> T {
    let (done, serving) = (AtomicBool::new(false), AtomicU32::new(service.pid));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                disturb(serving.load(Ordering::Relaxed), number);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        // Whatever becomes of it, the other thread is to end.
        let work = std::panic::AssertUnwindSafe(|| work(service, &serving));
        let result = std::panic::catch_unwind(work);
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A handler that runs (SIGUSR1, SIGHUP), and a stop after which calls go on or fail with EINTR: to both
/// processes, every millisecond.
#[test]
fn a_signal_every_millisecond_disturbs_no_upgrade() {
    let mut service = Service::start(&[]);
    service.connect(50);
    let disturb = |serving, _| {
        for pid in all(serving) {
            for signal in [Signal::USR1, Signal::HUP, Signal::STOP, Signal::CONT] {
                signal_to(pid, signal);
            }
        }
    };
    while_disturbed(&mut service, disturb, |service, serving| {
        for _ in 0..3 {
            service.upgrade();
            serving.store(service.pid, Ordering::Relaxed);
            service.check_clients();
        }
    });
    service.finish();
}

/// Every other call for the channel fails with EINTR at once, in both processes.
#[test]
fn calls_that_are_interrupted_are_made_again() {
    if STRACE.is_missing() {
        return;
    }
    // It follows the processes that are started.
    let words = "strace -D -f -o /dev/null -e trace=sendmsg,recvmsg,poll,ppoll \
                 -e inject=sendmsg,recvmsg,poll,ppoll:error=EINTR:when=1+2";
    let words = words.split_whitespace().map(str::to_owned).collect();
    let mut service = Service::start_under(|_| words, &[]);
    service.connect(300);
    for _ in 0..2 {
        service.upgrade();
        service.check_clients();
    }
    service.finish();
}

/// A disturbance of an upgrade.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    /// Signals to both processes: a wish for another upgrade among them.
    Group,
    /// The new process is killed at this call of its first thread, before it takes over.
    Killed(usize),
    /// The new process stops for so many milliseconds, again and again.
    Stopped(u64),
}

/// Calls of the new process' first thread before it says that it takes over.
fn calls_before_taking_over(service: &mut Service) -> usize {
    let file = service.files.path().join("calls");
    service.wrap_program(&format!("strace -D -o {}", file.display()));
    service.upgrade();
    let trace = fs::read_to_string(&file).unwrap();
    // HELLO, PREPARED, ACK, TAKEN.
    let messages = trace.lines().enumerate().filter(|(_, line)| line.starts_with("sendmsg("));
    messages.map(|(place, _)| place).nth(3).expect("it took over")
}

#[test]
fn no_signal_at_any_moment_costs_a_connection() {
    if STRACE.is_missing() {
        return;
    }
    let number = |name, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let seed = number("SALTECHO_UPGRADES_SEED", u64::from(std::process::id()));
    let upgrades = number("SALTECHO_UPGRADES", 8);
    println!("SALTECHO_UPGRADES_SEED={seed}");
    let mut random = SplitMix::new(seed);
    let mut service = Service::start(&[]);
    service.connect(30);
    let calls = calls_before_taking_over(&mut service);
    let (mut taken_over, mut given_up) = (0, 0);
    for number in 0..upgrades {
        let disturbance = match random.below(3) {
            0 => Disturbance::Group,
            1 => Disturbance::Killed(1 + random.below(calls)),
            _ => Disturbance::Stopped(1 + random.below(30) as u64),
        };
        println!("upgrade {number} of {upgrades}: {disturbance:?}");
        match disturbance {
            Disturbance::Killed(call) => service.wrap_program(&format!(
                "strace -D -o /dev/null -e trace=all -e inject=all:signal=SIGKILL:when={call}"
            )),
            _ => service.restore_program(),
        }
        let seed = random.next_u64();
        let finished = while_disturbed(
            &mut service,
            |serving, number| disturb(disturbance, serving, SplitMix::new(seed ^ number)),
            |service, _| service.ctl(&["upgrade"]),
        );
        match finished.code() {
            0 => taken_over += 1,
            // One that a signal has asked for may be in progress.
            _ => {
                finished.expect(1, &[]);
                given_up += 1;
            }
        }
        service.settle();
        service.check_clients();
    }
    println!("{taken_over} took over, {given_up} did not");
    assert!(taken_over > 0 || upgrades < 8);
    service.settle();
    service.connect(2);
    let said = service.finish();
    assert!(!said.contains("panicked") && !said.contains("\"level\":\"error\""), "{said}");
}

fn disturb(disturbance: Disturbance, serving: u32, mut random: SplitMix) {
    match disturbance {
        Disturbance::Group => {
            let signals = [Signal::USR1, Signal::HUP, Signal::USR2, Signal::CHILD, Signal::CONT];
            for pid in all(serving) {
                signal_to(pid, signals[random.below(signals.len())]);
            }
        }
        Disturbance::Killed(_) => {}
        Disturbance::Stopped(millis) => {
            for pid in all(serving).into_iter().skip(1) {
                signal_to(pid, Signal::STOP);
                std::thread::sleep(Duration::from_millis(millis));
                signal_to(pid, Signal::CONT);
            }
        }
    }
}
