//! The functions that the fuzz targets call, so that an ordinary test can call them too. Each
//! panics only if the library handles its input wrongly.
#![allow(dead_code)] // Each target uses one of them.
#![allow(unreachable_pub)] // Public towards the target that includes it.

mod admin;
mod command_line;
mod configuration;
mod connection_model;
mod handover;
mod multiprocessing;
mod wire_formats;
#[path = "../../sim/world/mod.rs"]
mod world;

use saltecho::auth::{Key, KeyFileError, parse_key_file};
use saltecho::load::report::{Comparison, LoadLog, MergeError, merge};
use saltecho::random::SplitMix;
use world::World;

pub use admin::admin_endpoint;
pub use command_line::command_line_values;
pub use configuration::configuration;
pub use connection_model::connection_script;
pub use handover::handover_chunks;
pub use multiprocessing::multiprocessing_stream;
pub use wire_formats::{http_exchange, proxy_header};

/// The function of a fuzz target.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 11] = [
    ("admin_endpoint", admin_endpoint),
    ("command_line_values", command_line_values),
    ("configuration", configuration),
    ("connection_script", connection_script),
    ("handover_chunks", handover_chunks),
    ("http_exchange", http_exchange),
    ("key_file", key_file),
    ("load_log", load_log),
    ("multiprocessing_stream", multiprocessing_stream),
    ("proxy_header", proxy_header),
    ("whole_loop", whole_loop),
];

/// Parses the input as a key file and checks the result against the format's promises.
pub fn key_file(text: &[u8]) {
    let (strict, lenient) = (parse_key_file(text, false), parse_key_file(text, true));
    let used = |line: &&[u8]| {
        let line = line.trim_ascii();
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line).trim_ascii();
        !line.is_empty() && !line.starts_with(b"#")
    };
    let lines = text.split(|byte| *byte == b'\n').filter(used).count();
    match &lenient {
        Ok(keys) => {
            assert_eq!(keys.len(), lines, "one key a line");
            assert!(keys.iter().all(|key| !key.as_bytes().is_empty()));
            // Parsed keys survive writing and parsing.
            let written: Vec<String> = keys.iter().map(in_hexadecimal).collect();
            let again = parse_key_file(written.join("\n").as_bytes(), true).expect("it is right");
            let bytes =
                |keys: &[Key]| keys.iter().map(|key| key.as_bytes().to_vec()).collect::<Vec<_>>();
            assert_eq!(bytes(&again), bytes(keys));
        }
        Err(KeyFileError::Empty) => assert_eq!(lines, 0),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match (&strict, &lenient) {
        (Ok(keys), Ok(_)) => assert!(keys.iter().all(|key| !key.is_weak())),
        (Err(KeyFileError::Weak { len, .. }), _) => assert!(*len < Key::MIN_LEN),
        (strict, lenient) => assert_eq!(strict.as_ref().err(), lenient.as_ref().err()),
    }
}

fn in_hexadecimal(key: &Key) -> String {
    let digits: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("hex:{digits}")
}

/// Parses the input as a load log and reports on it in every form. The same log twice is not two
/// runs, and no text in it controls a terminal.
pub fn load_log(bytes: &[u8]) {
    let Ok(log) = LoadLog::parse("fuzzed", bytes) else { return };
    let again = LoadLog::parse("again", bytes).expect("it was read before");
    let other = merge(vec![log, again]);
    assert!(matches!(other, Err(MergeError::Same(..))), "{other:?}");
    let log = LoadLog::parse("fuzzed", bytes).expect("it was read before");
    let report = merge(vec![log]).expect("one log is no contradiction");
    let comparison = Comparison { old: &report, new: &report };
    for text in [
        report.to_text(),
        report.to_html(),
        report.to_json_text(),
        comparison.to_text(),
        comparison.to_html(),
    ] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

/// A simulated world in which the input makes the choices: its first half those of the world and
/// the clients, the second half those of the kernel.
pub fn whole_loop(choices: &[u8]) {
    let (world, kernel) = choices.split_at(choices.len() / 2);
    World::of_choices(SplitMix::from_tape(world), SplitMix::from_tape(kernel)).run();
}
