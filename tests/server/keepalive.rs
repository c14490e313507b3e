//! Keepalive over the real kernel: silent peers are probed, answer, and stay connected.
//!
//! Vanished peers are simulated (`tests/sim/random_worlds.rs`) and tested over real partitions by
//! `cargo run --release --example torture -- partition`; 19,000 peers that are silent for ten
//! minutes by `torture -- idle`.

use std::mem::offset_of;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::client::*;
use crate::common::server::*;
use saltecho::reactor::{Close, Kernel, ListenOptions, Liveness, MioKernel};
use saltecho::socket::{OptionValue, Socket};
use socket2::SockRef;

/// The number of segments a client has received.
fn segments_in(stream: &TcpStream) -> u64 {
    let socket = Socket::from_fd(stream.try_clone().unwrap().into()).unwrap();
    let size = i32::try_from(size_of::<libc::tcp_info>()).unwrap();
    let info = socket.getsockopt_len(libc::IPPROTO_TCP, libc::TCP_INFO, size).unwrap();
    // `Socket` makes its descriptor non-blocking, which both descriptors share.
    stream.set_nonblocking(false).unwrap();
    let OptionValue::Bytes(info) = info else { panic!("a structure is bytes: {info:?}") };
    let member = offset_of!(libc::tcp_info, tcpi_segs_in);
    u32::from_ne_bytes(*info[member..].first_chunk().unwrap()).into()
}

#[test]
fn a_probe_is_one_packet_and_silent_peers_stay_connected() {
    const SIZE: u64 = 100;
    let server = spawn_with(|config, _| config.keepalive = Some(Duration::from_secs(1)));
    let crowd: Vec<TcpStream> = (0..SIZE).map(|_| authenticated(server.addresses()[0])).collect();
    for stream in &crowd {
        assert_eq!(exchange(stream, b"hello"), b"HELLO");
    }
    let segments = || crowd.iter().map(segments_in).sum::<u64>();
    let (probed, received) = (server.handle().stats().unwrap().probes, segments());
    wait_for(&server, "two probes for each", |stats| stats.probes >= 3 * SIZE);
    let begin = Instant::now();
    loop {
        // The kernel sends a probe at its next clock tick after the loop's request.
        let probes = server.handle().stats().unwrap().probes - probed;
        let came = segments() - received;
        if came >= probes {
            let probes_by_now = server.handle().stats().unwrap().probes - probed;
            assert!(came <= probes_by_now, "{came} segments for {probes_by_now} probes");
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{probes} probes, and {came} segments came");
    }
    for stream in &crowd {
        assert_eq!(exchange(stream, b"still here"), b"STILL HERE");
    }
    assert_eq!(server.stop().unwrap().connections, 0);
}

#[test]
fn the_kernel_never_probes_an_accepted_socket_on_its_own() {
    for keepalive in [true, false] {
        let mut kernel = MioKernel::new(16).unwrap();
        let options = ListenOptions::new(16, keepalive);
        let mut listener = MioKernel::listen(any_port(), options).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = kernel.accept(&mut listener).unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.keepalive().unwrap(), keepalive);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        if keepalive {
            let nine_hours = Duration::from_secs(32_767);
            let times = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
            assert_eq!((times.0.unwrap(), times.1.unwrap()), (nine_hours, nine_hours));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 127);
        }
    }
}

fn until(
    kernel: &mut MioKernel,
    stream: &mut <MioKernel as Kernel>::Stream,
    what: &str,
    reached: impl Fn(Liveness) -> bool,
) {
    let begin = Instant::now();
    while !reached(kernel.liveness(stream).unwrap()) {
        assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", kernel.liveness(stream));
        thread::yield_now();
    }
}

#[test]
fn the_kernel_reports_the_state_of_a_peer() {
    let mut kernel = MioKernel::new(16).unwrap();
    let options = ListenOptions::new(16, true);
    let mut listener = MioKernel::listen(any_port(), options).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut stream, _) = kernel.accept(&mut listener).unwrap();
    // The kernel does not probe a peer that was active within the last second.
    until(&mut kernel, &mut stream, "silent", |peer| peer.silent_for > Duration::from_millis(1500));
    until(&mut kernel, &mut stream, "owes nothing", |peer| {
        !peer.owes_acknowledgement && peer.unanswered == 0
    });
    kernel.probe(&mut stream);
    until(&mut kernel, &mut stream, "answered", |peer| {
        peer.silent_for < Duration::from_millis(1500)
    });
    // A peer that does not read leaves data unacknowledged that waits for its window.
    while kernel.send(&mut stream, &[b'x'; 64 << 10]).is_ok() {}
    let peer = kernel.liveness(&mut stream).unwrap();
    assert!(peer.owes_acknowledgement, "{peer:?}");
    kernel.close(stream, Close::Reset);
    drop(client);
}
