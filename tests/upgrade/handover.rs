//! Upgrades that succeed: no client notices.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::common::client::{PATIENCE, authenticated, connect, exchange, pattern, rest};
use crate::common::program::Signal;
use crate::service::{Service, children, has_ended, wait_until};
use crate::stages::Stages;

#[test]
fn every_connection_moves_and_the_old_process_ends() {
    let mut service = Service::start(&[]);
    service.connect(300);
    let mut before = service.descriptors();
    for generation in 2..=4 {
        let old = service.pid;
        let serves = service.upgrade();
        assert_eq!(serves["generation"], generation, "{serves}");
        assert_eq!(serves["connections"], 300, "{serves}");
        assert_ne!(service.pid, old);
        service.check_clients();
        wait_until("the old process has ended", || has_ended(old));
        if generation == 2 {
            // Its standard input is the channel that it came by.
            wait_until("as many descriptors", || service.descriptors().len() == before.len());
            before = service.descriptors();
        }
        service.wait_for_descriptors(&before);
        assert!(children(service.pid).is_empty());
    }
    service.connect(5);
    let said = service.finish();
    assert!(!said.contains("panicked") && !said.contains("\"level\":\"error\""), "{said}");
    assert!(said.contains("accepted 305, authenticated 305"), "{said}");
    assert!(said.contains("closed: 305 "), "{said}");
}

/// What arrived takes about as much again as what becomes of it, for a moment.
#[test]
#[cfg(target_env = "gnu")]
fn the_new_process_keeps_no_memory_of_what_arrived() {
    const CLIENTS: usize = 3000;
    if std::env::var_os("SALTECHO_PROGRAM").is_some() {
        println!("skipped: another program may have another allocator, such as musl's");
        return;
    }
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    if limit < CLIENTS as u64 + 500 {
        println!("skipped: it takes room for {CLIENTS} connections, and {limit} files may be open");
        return;
    }
    let mut service = Service::start(&[]);
    service.upgrade();
    let base = resident_heap(service.pid);
    service.connect(CLIENTS);
    service.upgrade();
    let each = resident_heap(service.pid).saturating_sub(base) / CLIENTS;
    println!("{each} bytes of the heap for each connection that moved");
    assert!(each <= 64, "{each}");
    service.finish();
}

/// Bytes of the heap's first segment that are in memory.
fn resident_heap(pid: u32) -> usize {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let lines = smaps.lines().skip_while(|line| !line.ends_with("[heap]"));
    let rss = lines
        .map(|line| line.split_whitespace().collect())
        .find_map(|words: Vec<_>| (words[0] == "Rss:").then(|| words[1].parse::<usize>().unwrap()));
    rss.unwrap() * 1024
}

#[test]
fn the_first_process_exits_with_0() {
    let mut service = Service::start(&[]);
    service.connect(1);
    service.upgrade();
    let first = service.running.status();
    assert_eq!(first.code(), Some(0));
    service.check_clients();
    service.finish();
}

#[test]
fn a_signal_upgrades_as_well() {
    let mut service = Service::start(&[]);
    service.connect(3);
    for generation in 2..=3 {
        service.signal(Signal::USR2);
        assert_eq!(service.wait_for_successor()["generation"], generation);
        service.check_clients();
    }
    service.finish();
}

#[test]
fn a_handshake_an_answer_and_a_half_closed_stream_go_on_where_they_were() {
    let mut service = Service::start(&["--auth-timeout", "1m"]);
    let clients = Stages::connect(service.address);
    service.connect(1);
    for _ in 0..2 {
        service.upgrade();
    }
    clients.finish();
    service.finish();
}

/// While a stream of bytes flows in both directions, none is lost, repeated or out of order.
#[test]
fn bytes_in_flight_arrive_in_order() {
    let mut service = Service::start(&[]);
    let data = pattern(40 << 20);
    let stream = authenticated(service.address);
    let expected = data.to_ascii_uppercase();
    std::thread::scope(|scope| {
        let (mut sender, mut receiver) = (&stream, &stream);
        scope.spawn(move || sender.write_all(&data).unwrap());
        let answer = scope.spawn(move || {
            let mut answer = vec![0; expected.len()];
            receiver.read_exact(&mut answer).unwrap();
            answer == expected
        });
        while !answer.is_finished() {
            service.upgrade();
        }
        assert!(answer.join().unwrap(), "the bytes are the same, in their order");
    });
    service.finish();
}

#[test]
fn clients_that_come_during_an_upgrade_are_accepted_afterwards() {
    let mut service = Service::start(&[]);
    service.connect(1);
    let address = service.address;
    let done = std::sync::atomic::AtomicBool::new(false);
    let accepted = std::thread::scope(|scope| {
        let come = scope.spawn(|| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let stream = authenticated(address);
                assert_eq!(exchange(&stream, b"new"), b"NEW");
                count += 1;
            }
            count
        });
        for _ in 0..10 {
            service.upgrade();
            service.check_clients();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        come.join().unwrap()
    });
    assert!(accepted > 0);
    let said = service.finish();
    assert!(said.contains(&format!("accepted {}", accepted + 1)), "{accepted}: {said}");
}

#[test]
fn the_number_of_loops_may_change_and_every_listener_is_served() {
    let mut service = Service::start(&[]);
    service.set("workers", "4");
    service.upgrade();
    service.connect(40);
    for workers in [1, 4, 3, 1, 2] {
        service.set("workers", &workers.to_string());
        service.upgrade();
        service.check_clients();
        for _ in 0..100 {
            assert_eq!(exchange(&authenticated(service.address), b"hello"), b"HELLO");
        }
    }
    service.finish();
}

#[test]
fn a_connection_keeps_its_number_and_no_other_gets_it() {
    let mut service = Service::start(&[]);
    service.connect(3);
    for _ in 0..3 {
        service.upgrade();
        service.connect(2);
    }
    let list = service.ctl(&["list", "--json"]);
    list.expect(0, &[]);
    let rows: Vec<serde_json::Value> = String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut ids: Vec<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), service.clients.len(), "{rows:?}");
    // The second client of all.
    let peer = service.clients[1].local_addr().unwrap().to_string();
    let row = rows.iter().find(|row| row["peer"] == peer.as_str()).unwrap();
    service.ctl(&["kill", &row["id"].to_string()]).expect(0, &[]);
    let killed = service.clients.remove(1);
    killed.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!((&killed).read(&mut [0; 1]), Ok(0) | Err(_)));
    service.check_clients();
    service.finish();
}

#[test]
fn the_deadline_of_a_client_that_does_not_authenticate_keeps_running() {
    let mut service = Service::start(&["--auth-timeout", "3s"]);
    service.connect(1);
    let begin = std::time::Instant::now();
    let (silent, _) = connect(service.address);
    while begin.elapsed() < std::time::Duration::from_millis(2500) {
        service.upgrade();
    }
    assert_eq!(rest(&silent).unwrap_or_default(), b"");
    let lasted = begin.elapsed();
    assert!(lasted >= std::time::Duration::from_secs(3), "{lasted:?}");
    assert!(lasted < std::time::Duration::from_secs(5), "an upgrade gave it more time: {lasted:?}");
    service.finish();
}

#[test]
fn the_counters_never_fall_and_one_process_answers() {
    let mut service = Service::start(&[]);
    service.connect(5);
    let scrape = |service: &Service| {
        let finished = service.ctl(&["stats", "--raw"]);
        finished.expect(0, &[]);
        let text = String::from_utf8(finished.stdout).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse::<f64>().unwrap())
        });
        samples.collect::<std::collections::BTreeMap<_, _>>()
    };
    let mut last = scrape(&service);
    for generation in 2..=4 {
        service.upgrade();
        service.check_clients();
        let now = scrape(&service);
        for (name, value) in &last {
            let counts = name.split('{').next().unwrap();
            let is_process = name.starts_with("process_");
            let is_counter =
                ["_total", "_count", "_sum", "_bucket"].iter().any(|end| counts.ends_with(end));
            if is_counter && !is_process {
                let new = now.get(name).unwrap_or_else(|| panic!("{name} is gone"));
                assert!(new >= value, "{name} fell from {value} to {new}");
            }
        }
        assert_eq!(now["saltecho_upgrade_generation"], f64::from(generation));
        assert_eq!(now["saltecho_upgrade_in_progress"], 0.0);
        assert_eq!(now["saltecho_accepted_total"], 5.0);
        assert_eq!(now["saltecho_upgrade_connections_dropped_total"], 0.0);
        let started = "saltecho_service_start_time_seconds";
        assert_eq!(now[started], last[started]);
        last = now;
    }
    assert_eq!(last["saltecho_upgrades_total{result=\"committed\",reason=\"\"}"], 3.0);
    assert_eq!(last["saltecho_upgrade_freeze_seconds_count"], 3.0);
    service.finish();
}

/// The end of the stream leaves with the last descriptor of a socket: none may be left elsewhere.
#[test]
fn a_client_that_leaves_after_an_upgrade_sees_its_end_at_once() {
    let mut service = Service::start(&[]);
    service.connect(2);
    service.upgrade();
    let leaving: TcpStream = service.clients.pop().unwrap();
    leaving.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&leaving).unwrap(), b"");
    service.check_clients();
    service.finish();
}
