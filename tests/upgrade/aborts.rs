//! A new process that fails before it has taken over: the old one goes on with everything, says why,
//! and leaves nothing behind.

use std::time::{Duration, Instant};

use crate::common::needs::PYTHON;
use crate::service::{Service, children, wait_until};

/// A new process that does these steps must leave everything as it was. The log and the administrator
/// learn `reason`, and `words`.
#[track_caller]
fn goes_on(steps: &str, reason: &str, words: &str) {
    if PYTHON.is_missing() {
        return;
    }
    let mut service = Service::start(&[]);
    service.connect(20);
    let before = service.descriptors();
    service.pretend(steps);
    let begin = Instant::now();
    let refused = service.ctl(&["upgrade"]);
    refused.expect(1, &["given up: ", words, "generation 1 goes on"]);
    let given_up = service.step("given up");
    assert_eq!(given_up["reason"], reason, "{given_up}");
    assert!(given_up["message"].as_str().unwrap().contains(words), "{given_up}");
    assert!(given_up["message"].as_str().unwrap().contains("goes on"), "{given_up}");
    assert!(begin.elapsed() < Duration::from_secs(19), "it took {:?}", begin.elapsed());
    goes_on_unharmed(service, &before);
}

/// The server that gave an upgrade up is the one from before.
#[track_caller]
fn goes_on_unharmed(mut service: Service, before: &[String]) {
    service.check_clients();
    service.wait_for_descriptors(before);
    let pid = service.pid;
    wait_until("one process is left", || children(pid).is_empty());
    service.connect(3);
    let said = service.finish();
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_new_program_that_exits_with_0_is_a_failure() {
    goes_on("0", "died", "it ended with exit code 0");
}

#[test]
fn the_exit_code_of_a_new_program_that_fails_is_reported() {
    goes_on("3", "died", "it ended with exit code 3");
}

#[test]
fn the_signal_that_ended_a_new_program_is_reported() {
    goes_on("abort", "died", "it was ended by signal 6");
}

#[test]
fn a_new_program_that_closes_the_channel_is_ended() {
    goes_on("hello close", "died", "the new process ended");
}

#[test]
fn a_new_program_that_says_nothing_is_ended_after_its_time() {
    goes_on("hang", "late", "was not ready in time");
}

#[test]
fn a_new_program_that_stops_after_its_first_word_is_ended_after_its_time() {
    goes_on("hello stop", "late", "was not ready in time");
}

#[test]
fn a_new_program_that_declines_is_quoted() {
    goes_on("hello error", "declined", "I would rather not");
}

#[test]
fn a_new_program_of_another_format_is_refused_with_both_versions() {
    goes_on(
        "hello-of-another-format hang",
        "format",
        "version 9.9.9 reads formats 7 8, and version",
    );
}

#[test]
fn what_is_no_message_ends_the_attempt() {
    goes_on("garbage hang", "channel", "does not begin with the mark of an upgrade");
}

#[test]
fn a_new_program_that_floods_the_channel_is_ended() {
    goes_on("flood", "channel", "something unexpected");
}

#[test]
fn a_message_out_of_order_ends_the_attempt() {
    goes_on("prepared-early hang", "channel", "something unexpected");
}

#[test]
fn a_new_program_that_ends_when_it_is_prepared_changes_nothing() {
    goes_on("hello prepared 1", "died", "it ended with exit code 1");
}

#[test]
fn a_new_program_that_ends_in_the_middle_of_the_transfer_changes_nothing() {
    goes_on("hello prepared first-record 1", "died", "it ended with exit code 1");
}

#[test]
fn a_new_program_that_declines_in_the_middle_of_the_transfer_changes_nothing() {
    goes_on("hello prepared first-record error hang", "declined", "I would rather not");
}

#[test]
fn a_new_program_that_stops_in_the_middle_of_the_transfer_is_ended_after_its_time() {
    goes_on("hello prepared first-record stop", "late", "frozen for 1");
}

#[test]
fn a_new_program_that_does_not_acknowledge_is_ended_after_its_time() {
    goes_on("hello prepared end hang", "late", "frozen for 1");
}

#[test]
fn an_acknowledgement_before_the_end_is_refused() {
    goes_on("hello prepared first-record ack hang", "channel", "acknowledged something else");
}

#[test]
fn a_new_program_that_ends_after_its_acknowledgement_has_not_taken_over() {
    goes_on("hello prepared end ack 1", "died", "it ended with exit code 1");
}

#[test]
fn a_new_program_that_ends_after_the_permission_has_not_taken_over() {
    goes_on("hello prepared end ack commit 1", "died", "it ended with exit code 1");
}

#[test]
fn a_new_program_that_does_not_use_the_permission_is_ended_after_its_time() {
    goes_on("hello prepared end ack commit hang", "late", "was not ready in time");
}

#[test]
fn a_new_program_that_is_stopped_after_the_permission_is_ended_after_its_time() {
    goes_on("hello prepared end ack stop", "late", "was not ready in time");
}
