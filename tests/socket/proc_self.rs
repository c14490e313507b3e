//! Threads and descriptors of this process, read from /proc.

use std::path::{Path, PathBuf};

/// Returns true if the kernel has O_NONBLOCK set.
pub(crate) fn is_nonblocking(fd: i32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("it is open");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("it has flags");
    u32::from_str_radix(flags.trim(), 8).expect("an octal number") & 0o4000 != 0
}

/// The directory of the thread that asks.
pub(crate) fn this_thread() -> PathBuf {
    let link = std::fs::read_link("/proc/thread-self").expect("this thread has a directory");
    Path::new("/proc").join(link)
}

/// Returns once a thread waits in the kernel.
pub(crate) fn wait_until_asleep(thread: &Path) {
    loop {
        let stat = std::fs::read_to_string(thread.join("stat")).expect("it lives");
        // Behind the name, which is in parentheses and may hold any character.
        if stat.rsplit(')').next().is_some_and(|fields| fields.trim_start().starts_with('S')) {
            return;
        }
        std::thread::yield_now();
    }
}
