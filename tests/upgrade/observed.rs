//! `saltecho load` watches upgrades from outside.

use serde_json::Value;

use crate::common::program::{Running, Signal, run, saltecho};
use crate::service::Service;

#[test]
fn a_load_sees_no_error_and_its_report_has_the_moment_of_each_upgrade() {
    let mut service = Service::start(&[]);
    let place = service.address.to_string();
    let admin = service.admin();
    let page = service.files.path().join("page.html");
    let args = ["load", &place, "-c", "50", "-r", "500", "-d", "1m", "--admin", &admin, "--json"];
    let mut command = saltecho(&args);
    let load = Running::start(command.arg("--html").arg(&page), Vec::new());
    crate::service::wait_until("the load has begun", || {
        let stats = service.ctl(&["stats", "--raw"]);
        String::from_utf8_lossy(&stats.stdout).contains("{state=\"echoing\"} 50")
    });
    for _ in 0..3 {
        service.upgrade();
    }
    // Charts over time have room for a mark once there is some time after it: two seconds at this rate.
    let received = || {
        let stats = service.ctl(&["stats", "--raw"]);
        let text = String::from_utf8_lossy(&stats.stdout).into_owned();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("saltecho_received_bytes_total "));
        line.expect("it is a metric").parse::<f64>().expect("it is a number")
    };
    let enough = received() + 1000.0 * 64.0;
    crate::service::wait_until("the load has gone on", || received() >= enough);
    load.signal(Signal::INT);
    let finished = load.wait();
    // On a busy machine its own delay makes the figures unreliable.
    assert!([0, 6].contains(&finished.code()), "{}", finished.stderr);
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(report["counts"]["errors"]["total"], 0, "{report}");
    let upgrades = report["upgrades"].as_array().unwrap();
    let generation = |upgrade: &Value| upgrade["generation"].as_u64().unwrap();
    assert!(upgrades.iter().map(generation).is_sorted(), "{upgrades:?}");
    // Of two between two of its looks, it sees the later one, and it has a last look at the end.
    assert_eq!(upgrades.last().map(generation), Some(4), "{upgrades:?}");
    let times: Vec<u64> =
        upgrades.iter().map(|upgrade| upgrade["at_ns"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 0, "{times:?}");
    assert!(upgrades.iter().all(|upgrade| upgrade["freeze_ns"].as_u64().unwrap() > 0));
    // Three charts have the time as their axis, and each of them has the moments.
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<line class=\"mark\"").count(), 3 * upgrades.len(), "{upgrades:?}");
    assert_eq!(page.matches("<span>upgrade of the server</span>").count(), 3);
    assert!(page.contains(">generation ") && page.contains("<title>generation 4 at "), "{page}");
    service.finish();
}

#[test]
fn an_endpoint_that_is_not_there_is_an_error_before_the_load() {
    let service = Service::start(&[]);
    let place = service.address.to_string();
    let args = ["load", &place, "--admin", "unix:/no/such/endpoint"];
    run(&args, b"").expect(4, &["cannot connect to the admin endpoint unix:/no/such/endpoint"]);
    service.finish();
}
