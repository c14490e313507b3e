//! `saltecho doctor`: its findings agree with the server, its exit codes and its schema.

use std::process::Command;

use crate::common::program::*;
use serde_json::Value;

const SCHEMA: &str = include_str!("../../schemas/doctor.schema.json");

/// The program with a hard limit on descriptors.
fn limited(descriptors: u32, args: &[&str]) -> Command {
    let program = saltecho(&[]).get_program().to_owned();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]);
    clean(command.arg(program).args(args));
    command
}

#[test]
fn the_server_allows_the_number_of_connections_that_doctor_prints() {
    for descriptors in [100, 300] {
        let finished = run_command(&mut limited(descriptors, &["doctor", "--json"]), b"");
        finished.expect(0, &[]);
        let findings: Value = serde_json::from_slice(&finished.stdout).expect("it is JSON");
        assert_eq!(
            (&findings["fits"], &findings["limited_by"]),
            (&Value::Null, &"descriptors".into())
        );
        let serving =
            Serving::start_command(&mut limited(descriptors, &["serve", "-l", "127.0.0.1:0"]));
        let promise = format!("at most {} connections", findings["connections"]);
        assert!(serving.start_line.contains(&promise), "no {promise:?} in {}", serving.start_line);
        serving.finish();
    }
}

#[test]
fn the_exit_code_tells_whether_the_connections_fit() {
    run_command(&mut limited(200, &["doctor", "--connections", "150"]), b"").expect(0, &[]);
    let finished = run_command(&mut limited(200, &["doctor", "--connections", "151"]), b"");
    finished.expect(5, &["151 connections do not fit: descriptors"]);
    let text = String::from_utf8(finished.stdout).unwrap();
    assert!(text.contains("LimitNOFILE=215"), "{text}");
    run(&["doctor", "--connections", "0"], b"").expect(2, &["--connections"]);
}

#[test]
fn findings_match_their_schema() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("it is JSON");
    assert!(jsonschema::meta::is_valid(&schema));
    let schema = jsonschema::validator_for(&schema).expect("the schema is sound");
    for args in [&["doctor", "--json"][..], &["doctor", "--json", "-c", "4000000000"]] {
        let finished = run(args, b"");
        assert_eq!(finished.code(), if args.len() == 2 { 0 } else { 5 });
        let findings: Value = serde_json::from_slice(&finished.stdout).expect("it is JSON");
        let faults: Vec<_> = schema.iter_errors(&findings).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{faults:?}\n{findings:#}");
    }
}
