//! Signals in every command.

use std::fs;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

/// The signals that a server gives a meaning.
pub(super) const OF_A_SERVER: [i32; 5] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];

/// Makes a write beyond the limit on file sizes (`ulimit -f`) fail with EFBIG. Without a handler the
/// kernel kills the program with SIGXFSZ.
pub(super) fn outlive_file_size_limit() {
    // Without the handler the limit kills the program, as it does others.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
}

/// Returns those of `signals` that were not ignored when the program started.
///
/// Ignored signals are inherited: `nohup` starts a program with SIGHUP ignored, and a shell without
/// job control starts one in the background with SIGINT ignored. Without /proc this cannot be
/// known, and none counts as ignored.
pub(super) fn not_ignored(signals: &[i32]) -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored_mask(&status).unwrap_or(0);
    signals.iter().copied().filter(|signal| ignored >> (signal - 1) & 1 == 0).collect()
}

/// Reads the field `SigIgn` of proc(5): one bit per signal, the lowest for signal 1.
fn ignored_mask(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_proc() {
        let status = "Name:\tsaltecho\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_mask(status), Some(1 << (SIGHUP - 1) | 1 << (libc::SIGPIPE - 1)));
        assert_eq!(ignored_mask(""), None);
        assert_eq!(ignored_mask("SigIgn:\tnone"), None);
    }
}
