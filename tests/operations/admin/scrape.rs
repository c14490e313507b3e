//! `GET /metrics` of running servers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use saltecho::proto::{Answer, Handler};
use saltecho::server::{AdminAddress, Running, Server, ServerBuilder};
use serde_json::Value;

use super::asking::{ask, ask_with, tcp};
use crate::common::client::{authenticated, connect, exchange, finish_sending, rest};
use crate::common::server::{any_port, wait_for};

/// So many loops, and the address of their endpoint.
fn spawn<H: Handler + Clone + Send + 'static>(
    builder: ServerBuilder<H>,
    workers: usize,
) -> (Running, SocketAddr) {
    let admin = AdminAddress::Tcp(any_port());
    let server = builder.listen(any_port()).admin(admin).spawn_workers(workers).unwrap();
    let Some(&AdminAddress::Tcp(address)) = server.admin_address() else { panic!("it has one") };
    (server, address)
}

/// The samples of a scrape in the older format.
fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let answer = ask(tcp(address), "GET /metrics");
    assert_eq!(answer.status, 200);
    let lines = answer.text().lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

/// The sum of a metric over its labels.
fn sum(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of = |sample: &str| sample == name || sample.starts_with(&format!("{name}{{"));
    samples.iter().filter(|(sample, _)| of(sample)).map(|(_, value)| value).sum()
}

#[test]
fn a_scrape_has_what_several_loops_did_together() {
    let (server, address) = spawn(Server::builder(), 3);
    let service = server.addresses()[0];
    let talkers: Vec<TcpStream> = (0..20).map(|_| authenticated(service)).collect();
    for _ in 0..50 {
        talkers.iter().for_each(|talker| assert_eq!(exchange(talker, b"hello"), b"HELLO"));
    }
    let silent: Vec<_> = (0..5).map(|_| connect(service)).collect();
    talkers[..4].iter().for_each(|talker| {
        finish_sending(talker);
        rest(talker).unwrap();
    });
    wait_for(&server, "the ends", |stats| stats.closed_in_all() == 4);
    let samples = scrape(address);
    for (name, value) in [
        ("saltecho_ready", 1.0),
        ("saltecho_connections{state=\"await_digest\"}", 5.0),
        ("saltecho_connections{state=\"echoing\"}", 16.0),
        ("saltecho_connections{state=\"lingering\"}", 0.0),
        ("saltecho_accepted_total", 25.0),
        ("saltecho_closed_total{reason=\"peer_finished\"}", 4.0),
        ("saltecho_authentications_total{result=\"accepted\",key=\"bab78a7f\"}", 20.0),
        ("saltecho_received_bytes_total", 20.0 * (16.0 + 50.0 * 5.0)),
        ("saltecho_sent_bytes_total", 25.0 * 32.0 + 20.0 * 50.0 * 5.0),
        ("saltecho_backlog_bytes", 0.0),
        ("saltecho_deadlines", 21.0),
        ("saltecho_workers_missing", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {samples:#?}");
    }
    // Each loop has its own figures.
    let turns =
        (1..=3).map(|worker| samples[&format!("saltecho_turns_total{{worker=\"{worker}\"}}")]);
    assert!(turns.clone().all(|turns| turns > 0.0), "{:?}", Vec::from_iter(turns));
    // Each echo was an event, and its connection waited in the queue; the faster turns follow each other,
    // the fewer of these waits are timed.
    let events = sum(&samples, "saltecho_events_total");
    let waits = sum(&samples, "saltecho_queue_wait_seconds_count");
    assert!(events >= 1000.0 && (1.0..=events).contains(&waits), "{samples:#?}");
    let timed = sum(&samples, "saltecho_turn_duration_seconds_count");
    assert!(timed <= sum(&samples, "saltecho_turns_total"), "{samples:#?}");
    // The process: sockets of both sides, the listeners, three loops.
    let descriptors = samples["process_open_fds"];
    assert!(descriptors >= 16.0 + 5.0 + 4.0 + 9.0, "{descriptors}");
    assert!(samples["process_max_fds"] >= descriptors);
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    drop(silent);
    let later = scrape(address);
    assert!(later["process_cpu_seconds_total"] > samples["process_cpu_seconds_total"]);
    assert_eq!(later["process_start_time_seconds"], samples["process_start_time_seconds"]);
    server.stop().unwrap();
}

#[test]
fn a_scrape_has_the_format_that_was_asked_for() {
    let (server, address) = spawn(Server::builder(), 1);
    const PROMETHEUS: &str = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,\
                              text/plain;version=0.0.4;q=0.3,*/*;q=0.1\r\n";
    for (accept, is_openmetrics) in [
        (PROMETHEUS, true),
        ("Accept: application/openmetrics-text\r\n", true),
        ("Accept: application/openmetrics-text;q=0.1, text/plain\r\n", false),
        ("Accept: application/openmetrics-text;q=0\r\n", false),
        ("Accept: text/html,*/*\r\n", false),
        ("", false),
    ] {
        let answer = ask_with(tcp(address), "GET /metrics", accept);
        let kind = answer.header("Content-Type").expect("it has a type");
        let expected = if is_openmetrics {
            "application/openmetrics-text; version=1.0.0"
        } else {
            "text/plain; version=0.0.4"
        };
        assert!(kind.starts_with(expected), "{accept:?}: {kind}");
        assert_eq!(answer.text().ends_with("# EOF\n"), is_openmetrics, "{accept:?}");
    }
    assert_eq!(ask(tcp(address), "POST /metrics").status, 405);
    let head = ask(tcp(address), "HEAD /metrics");
    assert_eq!((head.status, head.text()), (200, ""));
    server.stop().unwrap();
}

/// Answers in upper case, and holds its loop up at a dash while the gate is locked.
#[derive(Clone)]
struct Gated(Arc<Mutex<()>>);

impl Handler for Gated {
    fn handle(&mut self, data: &mut [u8]) -> Answer {
        if data == b"-" {
            drop(self.0.lock());
        }
        data.make_ascii_uppercase();
        Answer::InPlace
    }
}

#[test]
fn a_loop_that_is_stuck_is_shown_as_it_was_last() {
    let gate = Arc::new(Mutex::new(()));
    let (server, address) = spawn(Server::builder().handler(Gated(Arc::clone(&gate))), 2);
    // The endpoint is the first loop's; which of them gets a client is the kernel's choice.
    let mut clients = Vec::new();
    let on_second = loop {
        clients.push(authenticated(server.addresses()[0]));
        assert_eq!(exchange(clients.last().unwrap(), b"x"), b"X");
        let list = ask(tcp(address), "GET /connections");
        let mut rows = list.text().lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
        if rows.any(|row| row["worker"] == 2) {
            break clients.len();
        }
    };
    let before = scrape(address);
    assert_eq!(before["saltecho_accepted_total"], on_second as f64);
    let held = gate.lock().unwrap();
    std::io::Write::write_all(&mut clients.last().unwrap(), b"-").unwrap();
    // Until it has taken the dash it answers.
    let stuck = loop {
        let samples = scrape(address);
        if samples["saltecho_workers_missing"] == 1.0 {
            break samples;
        }
    };
    for name in ["saltecho_accepted_total", "saltecho_connections{state=\"echoing\"}"] {
        assert_eq!(stuck[name], before[name], "{name}");
    }
    drop(held);
    assert_eq!(std::io::Read::read(&mut clients.last().unwrap(), &mut [0; 2]).unwrap(), 1);
    assert_eq!(scrape(address)["saltecho_workers_missing"], 0.0);
    server.stop().unwrap();
}
