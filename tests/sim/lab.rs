//! The server's own loop, judged by the lab as any other: by what its kernel sees.

use std::io::ErrorKind;

use saltecho::auth::Keyring;
use saltecho::lab::{Exercise, LabKernel, grade};
use saltecho::proto::{Config, Identity, Protocol};
use saltecho::reactor::Kernel;
use saltecho::server::{Limits, Server};

/// Serves an exercise: an echo without authentication, by the exercise's rules.
fn serve(kernel: &mut LabKernel) -> std::io::Result<()> {
    let rules = *kernel.rules();
    let mut config = Config::new(Keyring::demo());
    config.protocol = Protocol::Plain;
    config.recv_size = rules.recv_max;
    (config.idle_timeout, config.send_timeout, config.keepalive) = (rules.idle, None, None);
    let mut limits = Limits::for_connections(64);
    if rules.share.is_some() {
        // A call counts as 4 KiB at least.
        limits.bytes_per_turn = 16 << 10;
    }
    Server::with_kernel(kernel, vec![()], config, limits, Identity)?.run()?;
    Ok(())
}

/// The exercises about messages and a quota are of services that the server is not.
#[test]
fn the_servers_loop_passes_the_exercises() {
    for name in [
        "first-echo",
        "door",
        "drain",
        "short-sends",
        "ends",
        "back-pressure",
        "deadlines",
        "fairness",
        "stale-events",
        "bad-night",
    ] {
        let verdict = grade(Exercise::find(name).unwrap(), 0..300, serve);
        assert!(verdict.is_pass(), "{verdict}");
    }
}

#[test]
fn a_kernel_without_signals_says_so() {
    let verdict = grade(Exercise::find("first-echo").unwrap(), 0..1, |mut kernel| {
        let refused = kernel.catch_signals(&[libc::SIGTERM]).unwrap_err();
        assert_eq!((refused.kind(), kernel.next_signal()), (ErrorKind::Unsupported, None));
        let refused = Kernel::catch_signals(&mut kernel, &[libc::SIGTERM]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "one that is lent");
        serve(kernel)
    });
    assert!(verdict.is_pass(), "{verdict}");
}
